"""Objective: penalty x delta schedule x weighting -> a loss per example."""
from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from .penalties import PENALTIES, SMALL_RESIDUAL
from .schedules import DELTA_SCHEDULES, calibrated
from .weighting import WEIGHTINGS, mean_weight

Penalty = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Masked:
    """A residual ready for a level: `residual` [B, D, K], 0 where masked out; `mask` bool, same shape; `count` [B], at least 1."""

    residual: Tensor
    mask: Tensor
    count: Tensor


def _bin(masked: _Masked, penalty: Penalty, delta: Tensor, small: Tensor) -> Tensor:
    return penalty(masked.residual, delta[:, None, None]).sum((1, 2)) / masked.count


def _frame(masked: _Masked, penalty: Penalty, delta: Tensor, small: Tensor) -> Tensor:
    dimension = masked.mask.sum(1).to(delta.dtype)
    size = torch.linalg.vector_norm(masked.residual, dim=1) / dimension.clamp(min=1).sqrt()
    return (dimension * penalty(size, delta[:, None])).sum(1) / masked.count


def _pooled(masked: _Masked, penalty: Penalty, delta: Tensor, small: Tensor) -> Tensor:
    frames = masked.mask.sum(2).to(delta.dtype)
    average = masked.residual.sum(2) / frames.clamp(min=1)
    rest = (masked.residual - average[:, :, None]).masked_fill(~masked.mask, 0)
    common = (frames * penalty(average, delta[:, None])).sum(1)
    return (common + small * rest.square().sum((1, 2))) / masked.count


def _example(masked: _Masked, penalty: Penalty, delta: Tensor, small: Tensor) -> Tensor:
    return penalty(torch.linalg.vector_norm(masked.residual, dim=(1, 2)) / masked.count.sqrt(), delta)


LEVELS = {"bin": _bin, "frame": _frame, "pooled": _pooled, "example": _example}


def _look_up(table: dict, name: str, what: str):
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return table[name]


def _with_options(function: Callable, options: dict | None, what: str) -> Callable:
    """Binds keyword options, refusing those that the function does not have."""
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in options or {}:
        if name not in known:
            raise ValueError(f"unknown option {name!r} for {what}; known: {', '.join(known) or 'none'}")
    return functools.partial(function, **options) if options else function


def _with_table(schedule: Callable, pairs: tuple | None) -> Callable:
    """Binds the measured table to `calibrated`; other schedules have none."""
    if schedule is not calibrated:
        if pairs is not None:
            raise ValueError("a delta_table is given, but delta_schedule is not 'calibrated'; set it, or leave the table away")
        return schedule
    table = torch.tensor(pairs if pairs else [], dtype=torch.float64)
    rising = table.ndim == 2 and table.shape[1] == 2 and (table[:, 0].diff() > 0).all()
    if not (rising and table.isfinite().all() and (table[:, 1] > 0).all()):
        raise ValueError("delta_schedule 'calibrated' needs a delta_table: pairs (t, delta) with rising t and positive delta")
    return functools.partial(schedule, table=table)


@dataclass(frozen=True)
class Objective:
    """The loss of a batch of residuals, per example: mean over unmasked bins of weight(snr) x penalty(residual, delta(t)).

    delta and weight are taken at every example's own t. The paper's robust setting (arXiv 2403.16728) is
    `Objective(penalty="pseudo_huber", delta_schedule="exponential", delta_0=0.1)`; plain Grad-TTS is `Objective()`.

    **Level.** Where the penalty acts, with D the number of bins in a frame (dim 1), F of frames, r the residual; with masked-out bins
    the means count what is left. Each is the penalty of a norm, with delta scaled by the root of its dimension n, divided such that a
    small residual costs the same at every level, for pseudo_huber what l2 costs. All penalties but l1 and smooth_l1 are of degree 2,
    so that penalty(|v|, delta sqrt(n)) / n = penalty(|v| / sqrt(n), delta); the right-hand form is what is computed for every penalty:

    - `bin`: mean over b, f of penalty(r_bf, delta), the paper's.
    - `frame`: mean over f of penalty(sqrt(mean over b of r_bf^2), delta).
    - `pooled`: mean over b of penalty(m_b, delta) + c x mean over b, f of (r_bf - m_b)^2, with m_b the mean of r_bf over frames and c the
      penalty's small-residual factor (1 where it has none): only what an utterance's frames have in common is treated robustly.
    - `example`: penalty(sqrt(mean over b, f of r_bf^2), delta).

    **Matched controls.** Squared error c(delta(t)) r^2, so that robustness and re-weighting of t can be told apart:

    - `matched="small"`: c is the factor that the penalty gives small residuals: 1 for l2, pseudo_huber and barron, 1/2 for
      pseudo_huber_old and huber, 1 / delta for smooth_l1; l1 has none. For pseudo_huber that is plain squared error and controls
      nothing: its re-weighting of t comes from residuals that are not small, near 1 and far above delta, where it is 2 delta |r|.
    - `matched="unit"` or True: c = penalty(1, delta), the factor at a unit residual, which carries that re-weighting; for pseudo_huber
      2 delta (sqrt(1 + delta^2) - delta), about 2 delta where delta is small and 0.83 where it is 1.

    The level makes no difference to a matched control.

    Args:
        penalty: a name of `PENALTIES`.
        penalty_options: its keyword options, such as barron's alpha.
        delta_schedule: a name of `DELTA_SCHEDULES`, or `calibrated`.
        delta_table: for `calibrated` alone: pairs (t, delta), t rising, delta > 0; delta_scale multiplies these too.
        delta_0: in (0, 1], the schedule's delta at full noise.
        delta_scale: > 0, multiplies the schedule.
        weighting: a name of `WEIGHTINGS`.
        weighting_options: its keyword options, such as min_snr's gamma.
        weighting_clamp: largest weight before normalisation, > 0, or None.
        normalise_weighting: divide by the mean weight over t ~ U(0, 1) under Grad-TTS' noise schedule. Turn it off for other schedules.
        level: `bin`, `frame`, `pooled` or `example`.
        matched: False, "small", "unit" or True for "unit".
        beta_min, beta_max: the noise schedule of that mean, 0 <= beta_min <= beta_max, see `mean_weight`.
        check: raise on a loss that is not finite. None: on CPU only, since the check makes a GPU wait; True: always; False: never.

    Raises:
        ValueError: an unknown name or option, delta_0 outside (0, 1], another setting outside its range.
    """

    penalty: str = "l2"
    _: KW_ONLY
    delta_schedule: str = "exponential"
    delta_0: float = 0.1
    delta_scale: float = 1.0
    delta_table: tuple[tuple[float, float], ...] | None = None
    weighting: str = "constant"
    weighting_options: dict | None = None
    normalise_weighting: bool = True
    weighting_clamp: float | None = None
    penalty_options: dict | None = None
    level: str = "bin"
    matched: bool | str = False
    beta_min: float = 0.05
    beta_max: float = 20.0
    check: bool | None = None
    weight_scale: float = field(init=False, default=1.0)

    def __post_init__(self):
        _look_up(LEVELS, self.level, "level")
        schedules = {**DELTA_SCHEDULES, "calibrated": calibrated}
        object.__setattr__(self, "_schedule", _with_table(_look_up(schedules, self.delta_schedule, "delta_schedule"), self.delta_table))
        penalty = _with_options(_look_up(PENALTIES, self.penalty, "penalty"), self.penalty_options, f"penalty {self.penalty!r}")
        weighting = _with_options(
            _look_up(WEIGHTINGS, self.weighting, "weighting"), self.weighting_options, f"weighting {self.weighting!r}")
        object.__setattr__(self, "_penalty", penalty)
        object.__setattr__(self, "_weighting", weighting)
        self._check_numbers()
        # options out of range raise here, not at the first batch
        penalty(torch.zeros(1), torch.ones(1))
        weighting(torch.ones(1))
        if self.normalise_weighting:
            mean = mean_weight(self.weight, beta_min=self.beta_min, beta_max=self.beta_max)
            object.__setattr__(self, "weight_scale", 1 / mean)

    def _check_numbers(self):
        if not 0 < self.delta_0 <= 1:
            raise ValueError(f"delta_0 is {self.delta_0}; it must be in (0, 1], the paper's is 0.1")
        if not 0 < self.delta_scale < math.inf:
            raise ValueError(f"delta_scale is {self.delta_scale}; it must be positive and finite, 1 leaves the schedule as it is")
        if self.weighting_clamp is not None and not self.weighting_clamp > 0:
            raise ValueError(f"weighting_clamp is {self.weighting_clamp}; it must be positive, or None for no clamp")
        if not (0 <= self.beta_min <= self.beta_max < math.inf and self.beta_max > 0):
            raise ValueError(f"beta_min and beta_max are {self.beta_min} and {self.beta_max}; "
                             "needed: 0 <= beta_min <= beta_max, beta_max > 0")
        if self.matched not in (False, True, "small", "unit"):
            raise ValueError(f"matched is {self.matched!r}; known: False, True, 'small', 'unit'")
        if self.matched == "small" and self.penalty not in SMALL_RESIDUAL:
            raise ValueError(f"matched='small' needs a penalty that is a multiple of r^2 near 0, which {self.penalty!r} is not; use 'unit'")

    def delta(self, t: Tensor, snr: Tensor) -> Tensor:
        """The penalty's delta at every t: [B], t's dtype. t in [0, 1], snr > 0, both [B]."""
        return self.delta_scale * self._schedule(t, snr, self.delta_0)

    def weight(self, snr: Tensor) -> Tensor:
        """The weight of every snr, clamped and normalised as set: snr's shape and dtype."""
        weight = self._weighting(snr)
        if self.weighting_clamp is not None:
            weight = weight.clamp(max=self.weighting_clamp)
        return weight * self.weight_scale

    def __call__(
        self, residual: Tensor, *, t: Tensor, snr: Tensor, mask: Tensor | None = None, weights: Tensor | None = None,
    ) -> Tensor:
        """Loss of every example.

        Args:
            residual: [B, ...], for mels [B, 80, F]: sqrt(lambda) score + noise. Half precision is computed in float32.
            t: [B] in [0, 1], the diffusion time of every example.
            snr: [B] > 0, rho^2 / lambda at that t.
            mask: broadcastable to the residual, non-zero where a bin counts; what lies elsewhere may be anything.
            weights: [B], multiplies every example's loss.

        Returns:
            [B], float32 or the residual's wider dtype. An example without an unmasked bin has loss 0.

        Raises:
            ValueError: shapes that do not fit; on CPU (see `check`) values that are not finite or t outside [0, 1].
        """
        masked = _masked(residual, mask)
        dtype = masked.residual.dtype
        t, snr = (_per_example(value, name, residual) for name, value in (("t", t), ("snr", snr)))
        delta = self.delta(t, snr).to(dtype).clamp(min=torch.finfo(dtype).tiny)
        loss = self.weight(snr).to(dtype) * self._cost(masked, delta)
        if weights is not None:
            loss = loss * _per_example(weights, "weights", residual).to(dtype)
        check = self.check if self.check is not None else loss.device.type == "cpu"
        if check and not torch.compiler.is_compiling():
            _require_sound(loss, masked=masked, t=t, snr=snr)
        return loss

    def _cost(self, masked: _Masked, delta: Tensor) -> Tensor:
        if self.matched:
            factor = SMALL_RESIDUAL[self.penalty](delta) if self.matched == "small" else self._penalty(torch.ones_like(delta), delta)
            return factor * _bin(masked, PENALTIES["l2"], delta, delta)
        small = SMALL_RESIDUAL.get(self.penalty, torch.ones_like)(delta)
        return LEVELS[self.level](masked, self._penalty, delta, small)


def _masked(residual: Tensor, mask: Tensor | None) -> _Masked:
    if residual.ndim == 0:
        raise ValueError("residual is a scalar; its first dimension must be the batch")
    shape = residual.shape
    wide = residual.to(torch.promote_types(residual.dtype, torch.float32))
    if mask is None:
        mask = torch.ones((), dtype=torch.bool, device=residual.device).expand(shape)
    else:
        try:
            mask = (mask != 0).expand(shape)
        except RuntimeError:
            raise ValueError(f"mask of shape {tuple(mask.shape)} does not broadcast to the residual's {tuple(shape)}") from None
        wide = wide.masked_fill(~mask, 0)
    batch, bins = shape[0], shape[1] if len(shape) > 1 else 1
    wide, mask = (value.reshape(batch, bins, math.prod(shape[2:])) for value in (wide, mask))
    return _Masked(wide, mask, mask.sum((1, 2)).clamp(min=1).to(wide.dtype))


def _per_example(value: Tensor, name: str, residual: Tensor) -> Tensor:
    if value.shape != residual.shape[:1]:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; needed: ({residual.shape[0]},), one value per example of the residual")
    if name == "t" and not value.is_floating_point():
        raise ValueError(f"t has dtype {value.dtype}; it must be floating point in [0, 1]: divide integer timesteps by their number")
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _require_sound(loss: Tensor, *, masked: _Masked, t: Tensor, snr: Tensor):
    if ((t < 0) | (t > 1)).any():
        raise ValueError(f"t is {t[(t < 0) | (t > 1)][0].item():g}; diffusion times must be in [0, 1]")
    bad = (~torch.isfinite(loss)).nonzero().flatten().tolist()
    if not bad:
        return
    row = bad[0]
    if not torch.isfinite(masked.residual[row]).all():
        raise ValueError(f"the residual of example {row} has a NaN or infinite value (t = {t[row].item():g}); "
                         "lower the learning rate or check the data")
    raise ValueError(
        f"the loss of example {row} is {loss[row].item()} with t = {t[row].item():g}, snr = {snr[row].item():g};"
        " snr must be positive, weights finite, and the residual's square representable")
