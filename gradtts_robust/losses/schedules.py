"""How the penalty's delta depends on the diffusion time: pure functions of (t, snr, delta_0).

t is in [0, 1] with 0 the clean end, snr = rho^2 / lambda > 0 at that t, delta_0 in (0, 1]; t and snr have the same shape and the
result has it too. All but `constant` and `exponential_backward` fall from 1 on clean data to delta_0 at full noise. A new schedule is
a function here and a line in `DELTA_SCHEDULES`. `calibrated` is not among these, since it needs a table; `Objective` takes one.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor


def constant(t: Tensor, snr: Tensor, delta_0: float) -> Tensor:
    """delta_0 at every t."""
    return torch.full_like(t, delta_0)


def exponential(t: Tensor, snr: Tensor, delta_0: float) -> Tensor:
    """delta_0^t, the choice of arXiv 2403.16728: nearly squares where fine detail is restored, robust where noise is high."""
    return delta_0 ** t


def exponential_backward(t: Tensor, snr: Tensor, delta_0: float) -> Tensor:
    """delta_0^(1 - t), that paper's counter-example: robust on clean data and squares at full noise."""
    return delta_0 ** (1 - t)


def snr(t: Tensor, snr: Tensor, delta_0: float) -> Tensor:
    """(1 - delta_0) / (1 + 1 / sqrt(snr))^2 + delta_0, the default of image trainers; infinite snr gives 1, zero gives delta_0."""
    return (1 - delta_0) / (1 + snr.rsqrt()).square() + delta_0


def linear(t: Tensor, snr: Tensor, delta_0: float) -> Tensor:
    """(1 - t) + delta_0 t."""
    return (1 - t) + delta_0 * t


def cosine(t: Tensor, snr: Tensor, delta_0: float) -> Tensor:
    """delta_0 + (1 - delta_0) cos^2(pi t / 2): flat at both ends."""
    return delta_0 + (1 - delta_0) * torch.cos(0.5 * math.pi * t).square()


def calibrated(t: Tensor, snr: Tensor, delta_0: float, *, table: Tensor) -> Tensor:
    """Piecewise linear between measured values, constant beyond the first and the last; `delta_0` is not used.

    Args:
        t: any shape.
        snr: not used.
        table: [N, 2], N >= 1, pairs (t, delta) with rising t.
    """
    times, deltas = table.to(t).T.contiguous()
    if len(times) == 1:
        return deltas.expand_as(t)
    right = torch.searchsorted(times, t.contiguous()).clamp(1, len(times) - 1)
    share = ((t - times[right - 1]) / (times[right] - times[right - 1])).clamp(0, 1)
    return torch.lerp(deltas[right - 1], deltas[right], share)


DELTA_SCHEDULES = {
    "constant": constant,
    "exponential": exponential,
    "exponential_backward": exponential_backward,
    "snr": snr,
    "linear": linear,
    "cosine": cosine,
}
