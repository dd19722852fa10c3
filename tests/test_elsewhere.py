"""docs/elsewhere.md: its code runs as printed, in diffusers' own schedulers, and gives one loss for all forms of a prediction."""
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gradtts_robust.losses import Objective, discrete_snr, epsilon_residual, mean_weight

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'gradtts-robust[diffusers]'")

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "elsewhere.md"
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@pytest.fixture(scope="module")
def guide():
    """What the guide's code blocks define, each block run by itself: none may lean on another."""
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        own = {}
        exec(compile(block, GUIDE.name, "exec"), own)
        names |= own
    return SimpleNamespace(**names)


def scheduler_of(prediction):
    return diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction, clip_sample=False)


def estimate_of(noisy):
    """Some noise estimate, the same for every form of prediction."""
    return torch.sin(3 * noisy) + 0.2


def model_of(scheduler):
    """A network that makes that estimate in the scheduler's own form."""
    def model(noisy, timesteps):
        alpha = scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1).double()
        a, s = alpha.sqrt(), (1 - alpha).sqrt()
        estimate = estimate_of(noisy).double()
        clean = (noisy.double() - s * estimate) / a
        form = {"epsilon": estimate, "sample": clean, "v_prediction": a * estimate - s * clean}[scheduler.config.prediction_type]
        return SimpleNamespace(sample=form.to(noisy.dtype))
    return model


def test_same_loss_in_every_form(guide):
    clean = torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = {}
    for prediction in PREDICTIONS:
        scheduler = scheduler_of(prediction)
        losses[prediction] = guide.diffusion_loss(model_of(scheduler), scheduler, clean, torch.Generator().manual_seed(1)).item()
    assert losses["epsilon"] > 0.1
    assert losses["v_prediction"] == pytest.approx(losses["epsilon"], rel=1e-5)
    assert losses["sample"] == pytest.approx(losses["epsilon"], rel=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_residual_agrees_with_the_schedulers_own_conversion(prediction):
    scheduler = scheduler_of(prediction)
    generator = torch.Generator().manual_seed(2)
    clean, noise, output = torch.randn(3, 1, 1, 4, 4, generator=generator, dtype=torch.float64)
    for step in (1, 100, 500, 900):
        timesteps = torch.tensor([step])
        noisy = scheduler.add_noise(clean, noise, timesteps)
        target = {"epsilon": noise, "sample": clean}.get(prediction)
        target = scheduler.get_velocity(clean, noise, timesteps) if target is None else target
        alpha = scheduler.alphas_cumprod[step].double()
        implied = scheduler.step(output, step, noisy).pred_original_sample
        estimate = (noisy - alpha.sqrt() * implied) / (1 - alpha).sqrt()
        residual = epsilon_residual(output, target, kind=prediction, snr=discrete_snr(scheduler.alphas_cumprod.double(), timesteps))
        torch.testing.assert_close(residual, estimate - noise, rtol=1e-5, atol=1e-5)


def test_flow(guide):
    clean = torch.randn(512, 3, generator=torch.Generator().manual_seed(0))
    seen = {}

    def model(noisy, t):
        seen["t"] = t
        estimate = noisy.sin()
        return (estimate - noisy) / (1 - t[:, None])

    loss = guide.flow_loss(model, clean, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    t = torch.rand(512, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    assert torch.equal(seen["t"], t)
    residual = ((1 - t[:, None]) * clean + t[:, None] * noise).sin() - noise
    expected = guide.objective(residual, t=t, snr=((1 - t) / t) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_flow_agrees_with_diffusers_path(guide):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    clean, noise, output = torch.randn(3, 1, 2, 3, generator=torch.Generator().manual_seed(4))
    sigma = scheduler.sigmas[300]
    noisy = scheduler.scale_noise(clean, scheduler.timesteps[300:301], noise)
    # one Euler step down to sigma 0 gives the implied x_0, and from it the noise
    implied = noisy - sigma * output
    estimate = (noisy - (1 - sigma) * implied) / sigma
    residual = guide.epsilon_residual(output, noise - clean, kind="flow_prediction", snr=guide.flow_snr(sigma[None]))
    torch.testing.assert_close(residual, estimate - noise, rtol=1e-5, atol=1e-5)


def test_own_weighting(guide):
    prediction, target = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(5))
    t, snr = torch.linspace(0.1, 0.9, 5), torch.logspace(2, -2, 5)
    for kind in (*PREDICTIONS, "flow_prediction"):
        loss = guide.with_own_weighting(Objective(), prediction, target, kind=kind, t=t, snr=snr)
        torch.testing.assert_close(loss, torch.nn.functional.mse_loss(prediction, target), rtol=1e-5, atol=0)


def test_normalisation_that_the_guide_gives_for_ddpm():
    scheduler = diffusers.DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    snr = discrete_snr(scheduler.alphas_cumprod.double(), torch.arange(1000))
    own = Objective(weighting="p2", normalise_weighting=False)
    assert own.weight(snr).mean().item() == pytest.approx(mean_weight(own.weight, beta_min=0.1, beta_max=20), rel=0.01)
