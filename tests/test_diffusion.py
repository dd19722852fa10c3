"""The forward process: the schedule's identities, digits at small t, the statistics of X_t, the residual of a perfect network."""
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from gradtts_robust.model.diffusion import NoiseSchedule, forward_process, residual, sample_t

SCHEDULE = NoiseSchedule(0.05, 20.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.floats(1e-6, 1.0), st.floats(0.0, 2.0), st.floats(2.5, 40.0))
def test_schedule_against_the_formulas_in_double(t, beta_min, beta_max):
    schedule = NoiseSchedule(beta_min, beta_max)
    integral = beta_min * t + (beta_max - beta_min) * t * t / 2
    time = torch.tensor(t, dtype=torch.float64)
    for found, wanted in ((schedule.beta(time), beta_min + (beta_max - beta_min) * t), (schedule.integral(time), integral),
                          (schedule.rho(time), math.exp(-integral / 2)), (schedule.variance(time), -math.expm1(-integral)),
                          (schedule.snr(time), math.exp(-integral) / -math.expm1(-integral))):
        assert found.dtype == torch.float64
        assert float(found) == pytest.approx(wanted, rel=1e-12)


def test_float32_keeps_its_digits_at_small_t():
    t = torch.logspace(-6, 0, 200, dtype=torch.float64)
    for name in ("rho", "variance", "snr"):
        exact, single = getattr(SCHEDULE, name)(t), getattr(SCHEDULE, name)(t.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), exact, rtol=2e-6, atol=0)


def test_rate_is_the_slope_of_its_integral():
    t = torch.rand(50, dtype=torch.float64, generator=seeded()).requires_grad_()
    slope, = torch.autograd.grad(SCHEDULE.integral(t).sum(), t)
    torch.testing.assert_close(slope, SCHEDULE.beta(t))


def test_half_precision_is_widened():
    t = torch.tensor([0.01, 0.5]).bfloat16()
    mel = torch.randn(2, 80, 8, generator=seeded()).bfloat16()
    assert SCHEDULE.variance(t).dtype == torch.float32
    assert forward_process(mel, mel, t.float(), mel, SCHEDULE).dtype == torch.float32
    assert residual(mel, mel, t.float(), SCHEDULE).dtype == torch.float32


def test_maths_is_the_same_under_autocast():
    mel, mu, noise = torch.randn(3, 2, 80, 8, generator=seeded())
    t = torch.tensor([1e-4, 0.9])
    outside = forward_process(mel, mu, t, noise, SCHEDULE), residual(mel, noise, t, SCHEDULE)
    with torch.autocast("cpu", torch.bfloat16):
        inside = forward_process(mel, mu, t, noise, SCHEDULE), residual(mel, noise, t, SCHEDULE)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


@pytest.mark.parametrize("t", [0.02, 0.3, 0.9])
def test_moments_of_the_forward_process(t):
    clean, mu = torch.full((1, 80, 500), 2.0), torch.full((1, 80, 500), -1.0)
    noise = torch.randn(clean.shape, generator=seeded())
    noisy = forward_process(clean, mu, torch.tensor([t]), noise, SCHEDULE)
    integral = 0.05 * t + 19.95 * t * t / 2
    assert float(noisy.mean()) == pytest.approx(-1 + 3 * math.exp(-integral / 2), abs=0.02)
    assert float(noisy.var()) == pytest.approx(1 - math.exp(-integral), rel=0.03)


def test_ends_of_the_forward_process():
    clean, mu, noise = torch.randn(3, 2, 80, 8, generator=seeded())
    assert torch.equal(forward_process(clean, mu, torch.zeros(2), noise, SCHEDULE), clean)
    torch.testing.assert_close(forward_process(clean, mu, torch.ones(2), noise, SCHEDULE), mu + noise, atol=0.05, rtol=0)


@given(st.floats(1e-5, 1.0))
def test_residual_of_the_true_score_is_zero(t):
    noise = torch.randn(2, 80, 4, dtype=torch.float64, generator=seeded())
    time = torch.full((2,), t, dtype=torch.float64)
    true = -noise / SCHEDULE.variance(time).sqrt()[:, None, None]
    torch.testing.assert_close(residual(true, noise, time, SCHEDULE), torch.zeros_like(noise), atol=1e-12, rtol=0)
    torch.testing.assert_close(residual(torch.zeros_like(noise), noise, time, SCHEDULE), noise)


def test_every_example_has_its_own_time():
    clean, mu, noise = torch.randn(3, 4, 80, 8, generator=seeded())
    t = torch.tensor([0.1, 0.9, 0.5, 0.2])
    together = forward_process(clean, mu, t, noise, SCHEDULE), residual(clean, noise, t, SCHEDULE)
    for row in range(4):
        one = slice(row, row + 1)
        assert torch.equal(together[0][one], forward_process(clean[one], mu[one], t[one], noise[one], SCHEDULE))
        assert torch.equal(together[1][one], residual(clean[one], noise[one], t[one], SCHEDULE))


@pytest.mark.parametrize("name", ["multi", "single"])
def test_the_originals_noised_mel_and_loss(golden, name):
    io = load_file(golden / f"gradtts_{name}_io.safetensors")
    noisy = forward_process(io["y"], io["mu_y"], io["t"], io["z"], SCHEDULE) * io["y_mask"]
    torch.testing.assert_close(noisy, io["xt"], atol=1e-5, rtol=0)
    squares = residual(io["score"], io["z"], io["t"], SCHEDULE).square() * io["y_mask"]
    torch.testing.assert_close(squares.sum() / (80 * io["y_mask"].sum()), io["diff_loss"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stratified", [False, True])
def test_times_are_uniform_seeded_and_off_the_ends(stratified):
    t = torch.cat([sample_t(16, seeded(seed), stratified=stratified) for seed in range(500)])
    histogram = torch.histc(t, 10, 0, 1) / len(t)
    assert ((histogram - 0.1).abs() < 0.012).all()
    first = torch.stack([sample_t(16, seeded(seed), stratified=stratified)[0] for seed in range(500)])
    assert abs(float(first.mean()) - 0.5) < 0.05
    assert torch.equal(sample_t(16, seeded(3), stratified=stratified), sample_t(16, seeded(3), stratified=stratified))
    assert float(sample_t(100_000, seeded(), offset=0.25).min()) == 0.25
    assert float(sample_t(100_000, seeded(), offset=0.25).max()) == 0.75


def test_stratified_batches_cover_the_range():
    for seed in range(20):
        t = sample_t(8, seeded(seed), stratified=True)
        assert torch.equal((t * 8).long().sort().values, torch.arange(8))
    assert not torch.equal(t, t.sort().values)


@pytest.mark.parametrize("rates", [(-0.1, 20.0), (5.0, 1.0), (0.0, 0.0), (math.nan, 20.0)])
def test_rates_that_are_no_schedule(rates):
    with pytest.raises(ValueError, match="beta_min"):
        NoiseSchedule(*rates)
