"""Solvers of the reverse process, one function each, all with the same arguments.

Each starts at time 1 with a mel and follows the score back to time 0. In a new solver's place: a function below and its name in `SAMPLERS`.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradtts_robust.model.diffusion import NoiseSchedule

ScoreFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(noisy [B, 80, F], mask [B, 1, F], mu [B, 80, F], t [B]) -> score [B, 80, F]."""


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")


@torch.no_grad()
def ode(score: ScoreFunction, start: Tensor, mask: Tensor, mu: Tensor, *, schedule: NoiseSchedule, steps: int,
        generator: torch.Generator | None = None) -> Tensor:
    """Euler steps of dx = (mu - x - s) beta dt / 2 with the rate taken at the middle of each step, as the original does
    (arXiv 2105.06337, equation 9).

    Args:
        start: X_1 [B, 80, F], usually mu + noise / temperature.
        mask: [B, 1, F], 1 on real frames.
        mu: [B, 80, F].
        steps: evaluations of the network, >= 1.
        generator: not used, the process is deterministic.

    Returns:
        X_0 [B, 80, F], zero where masked.
    """
    _check_steps(steps)
    h = 1.0 / steps
    noisy = start * mask
    for i in range(steps):
        t = torch.full((len(start),), 1.0 - (i + 0.5) * h, dtype=start.dtype, device=start.device)
        rate = schedule.beta(t)[:, None, None] * h
        noisy = (noisy - 0.5 * (mu - noisy - score(noisy, mask, mu, t).to(noisy.dtype)) * rate) * mask
    return noisy


@torch.no_grad()
def sde(score: ScoreFunction, start: Tensor, mask: Tensor, mu: Tensor, *, schedule: NoiseSchedule, steps: int,
        generator: torch.Generator | None = None) -> Tensor:
    """Euler-Maruyama steps of dx = ((mu - x) / 2 - s) beta dt + sqrt(beta) dw, midpoint rates (arXiv 2105.06337, equation 4 reversed).

    Args and returns as `ode`; `generator` gives the noise, drawn on its own device so that a seed means the same everywhere.
    """
    _check_steps(steps)
    h = 1.0 / steps
    noisy = start * mask
    source = generator.device if generator is not None else torch.device("cpu")
    for i in range(steps):
        t = torch.full((len(start),), 1.0 - (i + 0.5) * h, dtype=start.dtype, device=start.device)
        rate = schedule.beta(t)[:, None, None] * h
        drift = (0.5 * (mu - noisy) - score(noisy, mask, mu, t).to(noisy.dtype)) * rate
        noise = torch.randn(start.shape, generator=generator, dtype=start.dtype, device=source).to(start.device)
        noisy = (noisy - drift + noise * rate.sqrt()) * mask
    return noisy


@torch.no_grad()
def dpmpp_2m(score: ScoreFunction, start: Tensor, mask: Tensor, mu: Tensor, *, schedule: NoiseSchedule, steps: int,
             generator: torch.Generator | None = None) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): second order in the half log-SNR, one evaluation of the network a step.

    X_t - mu is a variance-preserving diffusion of X_0 - mu, which is what the solver is made for; its prediction of X_0 - mu is
    (x - mu + lambda s) / rho. Times are t = (1 - i / steps)^2: the network is first asked at t = 1, and small t, where fine detail
    is settled, gets the shorter steps. The last step, to t = 0, is of first order, as the paper advises.

    Args and returns as `ode`.
    """
    _check_steps(steps)
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)[:-1].square()
    rho, variance = schedule.rho(times).tolist(), schedule.variance(times).tolist()
    half_log_snr = (0.5 * schedule.snr(times).log()).tolist()
    noisy = start * mask
    clean = previous = torch.zeros_like(noisy)
    for i, time in enumerate(times.tolist()):
        if i > 0:
            step = half_log_snr[i] - half_log_snr[i - 1]
            slope = 0.0 if i == 1 else 0.5 * step / (half_log_snr[i - 1] - half_log_snr[i - 2])
            ahead = clean + slope * (clean - previous)
            noisy = (mu + math.sqrt(variance[i] / variance[i - 1]) * (noisy - mu) - rho[i] * math.expm1(-step) * ahead) * mask
        t = torch.full((len(start),), time, dtype=start.dtype, device=start.device)
        previous, clean = clean, (noisy - mu + variance[i] * score(noisy, mask, mu, t).to(noisy.dtype)) / rho[i]
    return (mu + clean) * mask


SAMPLERS = {"ode": ode, "sde": sde, "dpmpp_2m": dpmpp_2m}
