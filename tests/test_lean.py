"""The lean score network: its contract, what it must not depend on, and that it learns."""
import pytest
import torch

from gradtts_robust.config import ModelConfig
from gradtts_robust.model.diffusion import NoiseSchedule
from gradtts_robust.model.lean import LeanUNet


def network(n_speakers: int = 4, seed: int = 0) -> LeanUNet:
    torch.manual_seed(seed)
    unet = LeanUNet(ModelConfig(n_speakers=n_speakers, speaker_dim=8, decoder="lean", decoder_dims=(16, 16, 32)))
    with torch.no_grad():  # the zero-initialised layers would hide what the others do
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return unet.eval()


def inputs(frames: int, batch: int = 2):
    generator = torch.Generator().manual_seed(1)
    noisy, mu = (torch.randn(batch, 80, frames, generator=generator) for _ in range(2))
    return noisy, torch.ones(batch, 1, frames), mu, torch.tensor([0.1, 0.9][:batch]), torch.randn(batch, 8, generator=generator)


def test_untrained_network_gives_the_score_of_a_unit_gaussian_around_mu():
    """With zero output layers s = -(x_t - mu): the exact score where X_0 - mu is standard normal, at every t."""
    unet = LeanUNet(ModelConfig(n_speakers=1, decoder="lean", decoder_dims=(16, 16, 32)))
    noisy, mask, mu, t, _ = inputs(16)
    torch.testing.assert_close(unet(noisy, mask, mu, t), -(noisy - mu))


def test_padding_changes_nothing_on_real_frames():
    unet = network()
    noisy, mask, mu, t, speaker = inputs(32)
    alone = unet(noisy, mask, mu, t, speaker)
    padded = [torch.nn.functional.pad(value, (0, 24), value=7.0) for value in (noisy, mu)]
    longer = unet(padded[0], torch.nn.functional.pad(mask, (0, 24)), padded[1], t, speaker)
    torch.testing.assert_close(longer[..., :32], alone, atol=1e-5, rtol=1e-5)
    assert longer[..., 32:].abs().max() == 0


def test_examples_of_a_batch_do_not_touch_each_other():
    unet = network()
    noisy, mask, mu, t, speaker = inputs(16)
    together = unet(noisy, mask, mu, t, speaker)
    alone = unet(noisy[1:], mask[1:], mu[1:], t[1:], speaker[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


def test_speaker_time_and_mu_all_matter():
    unet = network()
    noisy, mask, mu, t, speaker = inputs(16)
    base = unet(noisy, mask, mu, t, speaker)
    for changed in ((noisy, mask, mu, t, speaker + 1), (noisy, mask, mu, t * 0.5, speaker), (noisy, mask, mu + 1, t, speaker)):
        assert (unet(*changed) - base).abs().mean() > 1e-3


def test_residual_stays_small_under_bfloat16():
    """bf16 may cost the network's own output a few digits, not the part of the score that is known exactly."""
    unet = network()
    noisy, mask, mu, t, speaker = inputs(16)
    exact = unet(noisy, mask, mu, t, speaker)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = unet(noisy, mask, mu, t, speaker)
    assert rough.dtype == torch.float32
    scale = NoiseSchedule().variance(t).sqrt()[:, None, None]
    assert ((rough - exact) * scale).abs().max() < 0.05 * (exact * scale).abs().max()


@pytest.mark.parametrize("frames", [1, 12, 63])
def test_frames_must_be_a_multiple_of_eight(frames):
    with pytest.raises(ValueError, match=f"{frames} frames.*multiple of 8"):
        network()(*inputs(frames))


def test_learns_a_spectrum_that_the_speaker_sets():
    """Two speakers whose X_0 - mu is a constant of opposite sign, at t where the noise hides it: only the speaker's row tells."""
    torch.manual_seed(0)
    unet = LeanUNet(ModelConfig(n_speakers=2, speaker_dim=2, decoder="lean", decoder_dims=(16, 16, 32)))
    optimizer, schedule = torch.optim.Adam(unet.parameters(), lr=3e-3), NoiseSchedule()
    sign, t = torch.tensor([-1.0, 1.0]).repeat(4), torch.full((8,), 0.5)
    rho, sigma = schedule.rho(t)[:, None, None], schedule.variance(t).sqrt()[:, None, None]
    losses = []
    for _ in range(80):
        mu, noise = torch.randn(8, 80, 8), torch.randn(8, 80, 8)
        noisy = mu + rho * sign[:, None, None] + sigma * noise
        loss = (sigma * unet(noisy, torch.ones(8, 1, 8), mu, t, torch.stack([sign, -sign], dim=1)) + noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
