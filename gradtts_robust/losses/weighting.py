"""How much each noise level counts: pure functions of the signal-to-noise ratio, for the squared residual of an epsilon-predictor.

snr = rho^2 / lambda, any shape, > 0; the result has its shape and dtype. A new weighting is a function here and a line in `WEIGHTINGS`.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

T_MARGIN = 1e-5  # training draws t from U(0, 1) clipped to [T_MARGIN, 1 - T_MARGIN]
_QUADRATURE_POINTS = 1 << 15


def constant(snr: Tensor) -> Tensor:
    """1 everywhere, as Grad-TTS and DDPM's simple loss."""
    return torch.ones_like(snr)


def debias(snr: Tensor) -> Tensor:
    """1 / sqrt(snr), which undoes the bias of epsilon prediction towards low noise (arXiv 2310.08442)."""
    return snr.rsqrt()


def min_snr(snr: Tensor, *, gamma: float = 5.0) -> Tensor:
    """min(gamma / snr, 1), Min-SNR-gamma for epsilon prediction (arXiv 2303.09556).

    Args:
        snr: > 0.
        gamma: > 0; noise levels with a higher snr are weighed down.

    Raises:
        ValueError: gamma is not positive.
    """
    if not gamma > 0:
        raise ValueError(f"min_snr's gamma is {gamma}; it must be positive, the paper's is 5")
    return (gamma / snr).clamp(max=1)


def p2(snr: Tensor, *, k: float = 1.0, gamma: float = 1.0) -> Tensor:
    """1 / (k + snr)^gamma, perception-prioritised weighting (arXiv 2204.00227).

    Args:
        snr: > 0.
        k: >= 0, keeps the weight finite at full noise.
        gamma: >= 0, how strongly low noise is weighed down; 0 is `constant`.

    Raises:
        ValueError: a negative k or gamma.
    """
    if not (k >= 0 and gamma >= 0):
        raise ValueError(f"p2's k and gamma are {k} and {gamma}; neither may be negative, the paper's are 1 and 1")
    return (k + snr) ** -gamma


def inverse_snr(snr: Tensor) -> Tensor:
    """1 / snr: the squared error of the one-step estimate of X_0 up to a constant."""
    return snr.reciprocal()


WEIGHTINGS = {
    "constant": constant,
    "debias": debias,
    "min_snr": min_snr,
    "p2": p2,
    "inverse_snr": inverse_snr,
}


def grad_tts_snr(t: Tensor, *, beta_min: float = 0.05, beta_max: float = 20.0) -> Tensor:
    """Signal-to-noise ratio of Grad-TTS' forward process, rho^2 / lambda = 1 / (exp(B(t)) - 1) (arXiv 2105.06337).

    Args:
        t: in (0, 1], any shape; B(t) = beta_min t + (beta_max - beta_min) t^2 / 2.
        beta_min, beta_max: noise rates at t 0 and t 1.
    """
    return torch.expm1(beta_min * t + 0.5 * (beta_max - beta_min) * t.square()).reciprocal()


def mean_weight(weight: Callable[[Tensor], Tensor], *, beta_min: float = 0.05, beta_max: float = 20.0) -> float:
    """Mean of weight(snr(t)) over the t that training draws, U(0, 1) clipped to [T_MARGIN, 1 - T_MARGIN].

    Midpoint rule in float64: a clamp's kink and the root at t = 0 leave an error below 1e-7 of the result.

    Args:
        weight: snr [N] float64 -> weight [N].
        beta_min, beta_max: of the noise schedule, see `grad_tts_snr`.
    """
    t = (torch.arange(_QUADRATURE_POINTS, dtype=torch.float64, device="cpu") + 0.5) / _QUADRATURE_POINTS
    t = t.clamp(T_MARGIN, 1 - T_MARGIN)
    return weight(grad_tts_snr(t, beta_min=beta_min, beta_max=beta_max)).mean().item()
