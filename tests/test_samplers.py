"""Solvers of the reverse process against distributions whose score and whose exact path are known."""
import math
from itertools import pairwise

import pytest
import torch

from gradtts_robust.model.diffusion import NoiseSchedule
from gradtts_robust.model.samplers import SAMPLERS

SCHEDULE = NoiseSchedule(0.05, 20.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Gaussian:
    """X_0 - mu ~ N(mean, std^2) in every bin: score and probability flow in closed form."""

    def __init__(self, std: float, shape=(2, 80, 12)):
        self.std = std
        self.mu, self.mean, noise = torch.randn(3, *shape, dtype=torch.float64, generator=seeded())
        self.mask = torch.ones(shape[0], 1, shape[2], dtype=torch.float64)
        self.start = self.mu + noise / 1.5

    def spread(self, t):
        rho, variance = SCHEDULE.rho(t)[:, None, None], SCHEDULE.variance(t)[:, None, None]
        return rho, rho.square() * self.std**2 + variance

    def score(self, noisy, mask, mu, t):
        rho, variance = self.spread(t)
        return -(noisy - mu - rho * self.mean) / variance * mask

    def exact(self):
        """Where the probability flow takes `start`: quantiles are kept."""
        rho, variance = self.spread(torch.ones(1, dtype=torch.float64))
        return self.mu + self.mean + self.std * (self.start - self.mu - rho * self.mean) / variance.sqrt()

    def solve(self, solver, steps, **options):
        return SAMPLERS[solver](self.score, self.start, self.mask, self.mu, schedule=SCHEDULE, steps=steps, **options)

    def error(self, solver, steps):
        return float((self.solve(solver, steps) - self.exact()).square().mean().sqrt())


@pytest.mark.parametrize("std", [0.05, 0.3, 1.5])
def test_first_order_of_the_originals_ode(std):
    target = Gaussian(std)
    errors = [target.error("ode", steps) for steps in (100, 200, 400)]
    for coarse, fine in pairwise(errors):
        assert 1.8 < coarse / fine < 3.2
    assert errors[-1] < 0.004


@pytest.mark.parametrize("std", [0.05, 0.3, 1.5])
def test_second_order_of_dpmpp_2m(std):
    target = Gaussian(std)
    errors = [target.error("dpmpp_2m", steps) for steps in (80, 160, 320)]
    for coarse, fine in pairwise(errors):
        assert 3.2 < coarse / fine < 5.5
    for steps in (10, 20, 40):
        assert target.error("dpmpp_2m", steps) < target.error("ode", steps) / 2


def test_dpmpp_2m_knows_a_point_in_one_step():
    target = Gaussian(0.0)
    torch.testing.assert_close(target.solve("dpmpp_2m", 1), target.mu + target.mean, atol=1e-9, rtol=0)


def test_sde_reaches_the_distribution():
    target = Gaussian(0.5, shape=(2, 80, 200))
    mel = target.solve("sde", 200, generator=seeded(1))
    errors = mel - target.mu - target.mean
    assert abs(float(errors.mean())) < 0.02
    assert float(errors.std()) == pytest.approx(0.5, rel=0.05)
    # the noise of the process is not that of the start
    assert abs(float(torch.corrcoef(torch.stack([errors.flatten(), (target.start - target.mu).flatten()]))[0, 1])) < 0.05


def test_sde_follows_its_generator():
    target = Gaussian(0.5)
    one, same, other = (target.solve("sde", 4, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_steps_of_the_originals_ode_by_hand():
    schedule, asked = NoiseSchedule(1.0, 3.0), []

    def score(noisy, mask, mu, t):
        asked.append(t.tolist())
        return torch.full_like(noisy, 0.5)

    ones = torch.ones(1, 80, 4)
    mel = SAMPLERS["ode"](score, 4 * ones, ones[:, :1], ones, schedule=schedule, steps=2)
    # rates beta / 2 at t = 0.75 and 0.25 are 1.25 and 0.75; x - (mu - x - s) rate / 2
    first = 4 - 0.5 * (1 - 4 - 0.5) * 1.25
    assert asked == [[0.75], [0.25]]
    torch.testing.assert_close(mel, (first - 0.5 * (1 - first - 0.5) * 0.75) * ones)


@pytest.mark.parametrize("solver", SAMPLERS)
def test_contract_of_every_solver(solver):
    target = Gaussian(0.3)
    target.mask[1, :, 7:] = 0
    calls = []

    def score(noisy, mask, mu, t):
        calls.append(t)
        assert noisy.dtype == torch.float32 and t.dtype == torch.float32 and t.shape == (2,)
        assert not noisy[1, :, 7:].any()
        return target.score(noisy, mask, mu, t).bfloat16().requires_grad_()

    mel = SAMPLERS[solver](score, target.start.float(), target.mask.float(), target.mu.float(), schedule=SCHEDULE, steps=7,
                           generator=seeded())
    assert len(calls) == 7
    times = [float(t[0]) for t in calls]
    assert all(0 < time <= 1 for time in times) and times == sorted(times, reverse=True)
    assert mel.shape == target.start.shape and mel.dtype == torch.float32 and not mel.requires_grad
    assert mel.isfinite().all() and not mel[1, :, 7:].any()
    with pytest.raises(ValueError, match="steps"):
        target.solve(solver, 0)


@pytest.mark.parametrize("solver", ["ode", "dpmpp_2m"])
def test_single_precision_is_enough(solver):
    target = Gaussian(0.3)
    wide = target.solve(solver, 20)
    single = SAMPLERS[solver](target.score, target.start.float(), target.mask.float(), target.mu.float(), schedule=SCHEDULE, steps=20)
    assert math.isclose(float((single.double() - wide).abs().max()), 0, abs_tol=2e-4)
