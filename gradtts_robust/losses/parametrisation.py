"""The Objective's residual from what any diffusion trainer predicts.

Everything in this package is stated for the error of the noise estimate, r = eps_hat - eps. A trainer that predicts something else from
the same noisy input x = a x_0 + s eps makes an error that is proportional to it, with a factor that depends on snr = a^2 / s^2 alone:

    r = factor(snr) x (prediction - target)

| name, as diffusers' `prediction_type` | forward process | target | factor |
| --- | --- | --- | --- |
| `epsilon` | any | eps | 1 |
| `v_prediction` | a^2 + s^2 = 1 | a eps - s x_0 | a = 1 / sqrt(1 + 1 / snr) |
| `sample` | any | x_0 | -a / s = -sqrt(snr) |
| `flow_prediction` | a = 1 - t, s = t | eps - x_0 | 1 - t = 1 / (1 + 1 / sqrt(snr)) |
| `score` | a^2 + s^2 = 1 | -eps / s | -s = -1 / sqrt(1 + snr) |

A new one is a function here and a line in `EPSILON_FACTORS`.
"""
from __future__ import annotations

import torch
from torch import Tensor


def epsilon(snr: Tensor) -> Tensor:
    """1: the prediction is of the noise itself."""
    return torch.ones_like(snr)


def v_prediction(snr: Tensor) -> Tensor:
    """a = 1 / sqrt(1 + 1 / snr), since eps = s x + a v where a^2 + s^2 = 1 (arXiv 2202.00512)."""
    return (1 + snr.reciprocal()).rsqrt()


def sample(snr: Tensor) -> Tensor:
    """-sqrt(snr), since eps = (x - a x_0) / s."""
    return -snr.sqrt()


def flow_prediction(snr: Tensor) -> Tensor:
    """1 - t = 1 / (1 + 1 / sqrt(snr)), since eps = x + (1 - t) u for the velocity u = eps - x_0 (arXiv 2210.02747, 2209.03003)."""
    return (1 + snr.rsqrt()).reciprocal()


def score(snr: Tensor) -> Tensor:
    """-s = -1 / sqrt(1 + snr), since the score of the noise given x_0 is -eps / s (arXiv 2011.13456)."""
    return -(1 + snr).rsqrt()


EPSILON_FACTORS = {
    "epsilon": epsilon,
    "v_prediction": v_prediction,
    "sample": sample,
    "flow_prediction": flow_prediction,
    "score": score,
}


def epsilon_factor(kind: str, snr: Tensor) -> Tensor:
    """What turns the error of a prediction into the error of the noise estimate that it implies.

    Args:
        kind: a name of `EPSILON_FACTORS`.
        snr: >= 0, any shape, a^2 / s^2 of the noisy input.

    Returns:
        snr's shape and dtype; its sign cancels in every penalty. 0 where snr is 0 and the kind is not `epsilon` or `score`: there
        the prediction says nothing about the noise.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in EPSILON_FACTORS:
        raise ValueError(f"unknown prediction {kind!r}; known: {', '.join(EPSILON_FACTORS)}")
    return EPSILON_FACTORS[kind](snr)


def epsilon_residual(prediction: Tensor, target: Tensor, *, kind: str, snr: Tensor) -> Tensor:
    """The residual that `Objective` takes, from a trainer's prediction and its regression target.

    Args:
        prediction: [B, ...], the network's output.
        target: [B, ...], what it is regressed on, for the same noisy input.
        kind: a name of `EPSILON_FACTORS`.
        snr: [B] >= 0.

    Returns:
        [B, ...], in the wider dtype of the three, float32 at least.

    Raises:
        ValueError: an unknown kind, or shapes that do not fit.
    """
    if prediction.shape != target.shape or prediction.shape[:1] != snr.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)}, target {tuple(target.shape)} and snr {tuple(snr.shape)} do not fit; "
                         "needed: [B, ...], the same, and [B]")
    wide = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    factor = epsilon_factor(kind, snr.to(torch.promote_types(snr.dtype, torch.float32)))
    return factor.reshape(-1, *[1] * (prediction.ndim - 1)) * (prediction.to(wide) - target.to(wide))


def discrete_snr(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Signal-to-noise ratio a / (1 - a) at integer timesteps of a DDPM schedule with a = prod(1 - beta) (arXiv 2006.11239).

    Args:
        alphas_cumprod: [N] in [0, 1], such as a diffusers scheduler's.
        timesteps: [B] integers in [0, N).

    Returns:
        [B], alphas_cumprod's dtype, on the timesteps' device.
    """
    alphas = alphas_cumprod.to(timesteps.device)[timesteps]
    return alphas / (1 - alphas)


def flow_snr(t: Tensor) -> Tensor:
    """((1 - t) / t)^2, of the straight path x = (1 - t) x_0 + t eps; t in (0, 1] with 1 at full noise, any shape."""
    return ((1 - t) / t).square()
