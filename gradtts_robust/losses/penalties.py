"""What a residual costs, elementwise.

Every penalty is a plain function of (residual, delta) that is 0 at 0, even, and has the residual's shape and dtype; a new one is a
function here and a line in `PENALTIES`, and in `SMALL_RESIDUAL` if it is a multiple of r^2 near 0. They compute in the dtype they
are given: `Objective` hands them float32 or better, whatever autocast is in force.
"""
from __future__ import annotations

import torch
from torch import Tensor

# this near to one of barron's limits, the limit is exact to double precision's purposes and the general form loses digits
_LIMIT = 1e-12


def l2(residual: Tensor, delta: Tensor) -> Tensor:
    """Squared error r^2, plain Grad-TTS (arXiv 2105.06337); `delta` is not used."""
    return residual.square()


def l1(residual: Tensor, delta: Tensor) -> Tensor:
    """Absolute error |r|; `delta` is not used."""
    return residual.abs()


def pseudo_huber(residual: Tensor, delta: Tensor) -> Tensor:
    """Pseudo-Huber penalty, in the form that equals the square of a small residual.

    2 delta (sqrt(r^2 + delta^2) - delta), arXiv 2403.16728; written without the subtraction, which cancels in float32, and in
    factors that neither overflow nor vanish where the result does not.

    Args:
        residual: r, any shape; the penalty has its unit squared.
        delta: > 0, in r's unit, broadcastable to it: below it the penalty is r^2, far above it 2 delta |r|.

    Returns:
        Elementwise penalty, r's shape and dtype.
    """
    share = delta / (torch.hypot(residual, delta) + delta)
    return 2 * residual * (residual * share)


def pseudo_huber_old(residual: Tensor, delta: Tensor) -> Tensor:
    """Half of `pseudo_huber`, the form first published: r^2 / 2 below delta, delta |r| far above it.

    Args:
        residual: r, any shape.
        delta: > 0, in r's unit, broadcastable to it.
    """
    return 0.5 * pseudo_huber(residual, delta)


def smooth_l1(residual: Tensor, delta: Tensor) -> Tensor:
    """Pseudo-Huber divided by delta, 2 (sqrt(r^2 + delta^2) - delta), as image trainers name it.

    Unlike `pseudo_huber` its gradient on large residuals does not depend on delta, so a delta schedule does not re-weigh noisy steps;
    it weighs small residuals by 1 / delta instead.

    Args:
        residual: r, any shape; the penalty has its unit.
        delta: > 0, in r's unit, broadcastable to it: below it the penalty is r^2 / delta, far above it 2 |r|.
    """
    return 2 * residual * (residual / (torch.hypot(residual, delta) + delta))


def huber(residual: Tensor, delta: Tensor) -> Tensor:
    """Huber's penalty, equal to `torch.nn.functional.huber_loss` but with a delta per example.

    Args:
        residual: r, any shape.
        delta: > 0, in r's unit, broadcastable to it: r^2 / 2 up to it, delta (|r| - delta / 2) beyond.
    """
    size = residual.abs()
    return torch.where(size <= delta, 0.5 * residual.square(), delta * (size - 0.5 * delta))


def barron(residual: Tensor, delta: Tensor, *, alpha: float = -2.0) -> Tensor:
    """The general robust loss (Barron, arXiv 1701.03077, eq. 8) times 2 delta^2, so that a small residual costs r^2.

    2 delta^2 |alpha - 2| / alpha ((z / |alpha - 2| + 1)^(alpha / 2) - 1) with z = (r / delta)^2, and its limits: r^2 at alpha 2,
    2 delta^2 log(1 + z / 2) at 0 (Cauchy), 2 delta^2 (1 - exp(-z / 2)) at -inf (Welsch). alpha 1 is `pseudo_huber`, -2 Geman-McClure.
    Below 1 the penalty redescends: its gradient fades for large residuals; below 0 the penalty itself is bounded.

    Args:
        residual: r, any shape; the penalty has its unit squared.
        delta: > 0, in r's unit, broadcastable to it: the width of the quadratic part.
        alpha: shape, at most 2, `-math.inf` included.

    Raises:
        ValueError: alpha above 2, where the loss is no longer robust, or NaN.
    """
    if not alpha <= 2:
        raise ValueError(f"barron's alpha is {alpha}; it must be at most 2, for instance 1 (pseudo-Huber), 0 (Cauchy) or -2 (redescending)")
    distance = 2 - alpha
    if distance < _LIMIT:
        return residual.square()
    half_square = 0.5 * (residual / delta).square()
    if abs(alpha) < _LIMIT:
        shape = torch.log1p(half_square)
    elif distance > 1 / _LIMIT:
        shape = -_expm1(-half_square)
    else:
        shape = _expm1(0.5 * alpha * torch.log1p(half_square * (2 / distance))) * (distance / alpha)
    return 2 * delta.square() * shape


def _expm1(exponent: Tensor) -> Tensor:
    # autograd takes expm1's slope as its value + 1, which cancels where the value is near -1: just where the gradient redescends
    return torch.where(exponent > -0.5, torch.expm1(exponent), torch.exp(exponent) - 1)


PENALTIES = {
    "l2": l2,
    "l1": l1,
    "pseudo_huber": pseudo_huber,
    "pseudo_huber_old": pseudo_huber_old,
    "smooth_l1": smooth_l1,
    "huber": huber,
    "barron": barron,
}

# name -> f(delta), the limit of penalty(r, delta) / r^2 as r -> 0; l1 has none, it is sharp at 0
SMALL_RESIDUAL = {
    "l2": torch.ones_like,
    "pseudo_huber": torch.ones_like,
    "pseudo_huber_old": lambda delta: torch.full_like(delta, 0.5),
    "smooth_l1": torch.reciprocal,
    "huber": lambda delta: torch.full_like(delta, 0.5),
    "barron": torch.ones_like,
}
