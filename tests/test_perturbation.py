"""Perturbation of conditions in training: how large, how fresh, what it leaves alone."""
import math

import pytest
import torch
from training_data import SPEAKERS, tiny_features, tiny_model, tiny_optim, train_settings

from gradtts_robust.config import ConditioningConfig, ModelConfig
from gradtts_robust.data.dataset import collate
from gradtts_robust.losses import Objective
from gradtts_robust.model.conditioning import PERTURBATIONS, Perturbation, build_perturbation
from gradtts_robust.training.loop import train

ROWS = {name: row for row, name in enumerate(SPEAKERS)}
WIDTH = 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def terms(model, perturbation=None, *, seed=0):
    return model.training_terms(collate(tiny_features(), ROWS), objective=Objective(), segment_frames=16, generator=seeded(seed),
                                perturbation=perturbation)


def lively(**changes):
    """The tiny model without layers that start at zero and would hide its conditions."""
    model = tiny_model(**changes, encoder_dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=seeded(1))
    return model.eval()


@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0])
def test_uniform_and_gaussian_noise_is_of_the_papers_size(gamma):
    rows = torch.randn(4000, WIDTH, generator=seeded())
    bound = gamma / math.sqrt(WIDTH)
    uniform, gaussian = (Perturbation(kind, gamma).speaker(rows, rows, seeded(2)) - rows for kind in ("uniform", "gaussian"))
    for drawn, std in ((uniform, bound / math.sqrt(3)), (gaussian, bound)):
        assert drawn.std().item() == pytest.approx(std, rel=0.01) and abs(drawn.mean().item()) < 0.01 * std
        assert torch.corrcoef(drawn[:, :2].T)[0, 1].abs() < 0.06, "elements are drawn apart"
        assert drawn.norm(dim=1).mean().item() == pytest.approx(std * math.sqrt(WIDTH), rel=0.02), "sqrt(d) takes the width out"
    assert 0.99 * bound < uniform.abs().max() <= bound * 1.001 < gaussian.abs().max()
    assert torch.histc(uniform, 8, -bound, bound).div(uniform.numel()).sub(1 / 8).abs().max() < 0.003


def test_frames_of_mu_are_embeddings_of_80():
    mu = torch.zeros(3, 80, 500)
    moved = Perturbation("gaussian", 2.0, "mu").mu(mu, seeded())
    assert moved.std().item() == pytest.approx(2 / math.sqrt(80), rel=0.01)
    assert len(moved[0, 0].unique()) == 500, "every frame has its own draw"


def test_baselines():
    rows = torch.randn(3000, WIDTH, generator=seeded()) + 3
    dropped = Perturbation("dropout", 0.25).speaker(rows, rows, seeded(1))
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.005)
    torch.testing.assert_close(dropped[kept], rows[kept] / 0.75)
    table = torch.randn(5, WIDTH, generator=seeded(3))
    smooth = Perturbation("smoothing", 0.2).speaker(table[[1, 1]], table, seeded())
    labels = torch.full((5,), 0.2 / 5)
    labels[1] += 0.8
    torch.testing.assert_close(smooth, (labels @ table).expand(2, -1))
    noise = torch.randn(3, 80, 200, generator=seeded())
    mixed = Perturbation("input", 0.5).noise(noise, seeded(4))
    assert mixed.std().item() == pytest.approx(math.sqrt(1.25), rel=0.02) and not torch.equal(mixed, noise)
    assert (mixed - noise).std().item() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(("kind", "where"), [(kind, "speaker") for kind in PERTURBATIONS] + [("gaussian", "mu"), ("dropout", "both")])
def test_training_terms_see_it_and_eval_mode_does_not(kind, where):
    model, perturbation = lively(), Perturbation(kind, 0.5, where)
    plain, unchanged = terms(model), terms(model, perturbation)
    assert all(torch.equal(plain[name], unchanged[name]) for name in plain), "in eval mode nothing moves"
    model.decoder.train()
    moved, again, other = (terms(model, perturbation, seed=seed) for seed in (0, 0, 1))
    assert (moved["diffusion"] != plain["diffusion"]).all()
    assert torch.equal(moved["diffusion"], again["diffusion"]) and not torch.equal(moved["diffusion"], other["diffusion"])
    assert all(torch.equal(moved[name], plain[name]) for name in ("duration", "prior")), "the encoder is told the truth"
    none = terms(model, Perturbation(kind, 0.0, where))
    torch.testing.assert_close(none["diffusion"], plain["diffusion"], rtol=1e-5, atol=0)


def test_a_perturbed_mu_keeps_an_exact_target():
    """The score of the process around the perturbed mu is what is learnt, so that at t = 1 the network need not know the truth."""
    model = lively()
    model.decoder.train()
    seen = []
    handle = model.decoder.estimator.register_forward_pre_hook(lambda module, given: seen.append(given))
    for perturbation in (None, Perturbation("gaussian", 5.0, "mu")):
        terms(model, perturbation)
    handle.remove()
    (plain, mask, mu, t, _), (noisy, _, moved, _, _) = seen
    away = 1 - model.schedule.rho(t)[:, None, None]
    torch.testing.assert_close((noisy - plain), away * (moved - mu) * mask, atol=1e-4, rtol=0)
    assert ((moved - mu) * (1 - mask)).abs().max() == 0


def test_a_killed_run_ends_bit_equal_and_learns_something_else(tmp_path):
    class Killed(Exception):
        pass

    def run(out, *, perturbation, kill=None):
        def progress(step, total, metrics):
            if step == kill:
                raise Killed

        model = lively()
        try:
            train(model, tiny_features(), ROWS, objective=Objective(), optim=tiny_optim(), out=out, perturbation=perturbation,
                  progress=progress, **train_settings())
        except Killed:
            return None
        return torch.cat([value.flatten() for value in model.state_dict().values()])

    perturbation = Perturbation("uniform", 1.0, "both")
    whole = run(tmp_path / "whole", perturbation=perturbation)
    assert run(tmp_path / "killed", perturbation=perturbation, kill=5) is None
    assert torch.equal(run(tmp_path / "killed", perturbation=perturbation), whole)
    assert not torch.equal(run(tmp_path / "plain", perturbation=None), whole)


@pytest.mark.parametrize(("settings", "named"), [
    ({"perturbation": "laplace"}, "known: uniform, gaussian, dropout, input, smoothing"), ({"where": "text"}, "known: speaker, mu, both"),
    ({"gamma": -0.1}, "gamma is -0.1"), ({"gamma": math.nan}, "gamma is nan"), ({"perturbation": "dropout", "gamma": 1.0}, r"\[0, 1\)"),
    ({"perturbation": "smoothing", "where": "both"}, "set it to speaker"),
])
def test_bad_settings(settings, named):
    with pytest.raises(ValueError, match=named) as caught:
        build_perturbation(ConditioningConfig(**{"perturbation": "uniform", **settings}), ModelConfig(n_speakers=2))
    assert "\n" not in str(caught.value)


def test_a_single_speaker_has_no_row_to_move():
    with pytest.raises(ValueError, match="no speaker table; set it to mu"):
        build_perturbation(ConditioningConfig("gaussian"), ModelConfig())
    assert build_perturbation(ConditioningConfig("gaussian", where="mu"), ModelConfig()).where == "mu"
    assert build_perturbation(ConditioningConfig(), ModelConfig()) is None
