"""Calibrated delta: where the penalty turns from squares to robust is set by what the model before training errs by.

A fixed delta has to be tuned again for every model; here delta(t) is kappa x a quantile of |residual| at t.
"""
from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import ObjectiveConfig
from ..data.dataset import Features, collate
from ..files import atomic_text
from ..model.gradtts import GradTTS
from . import setup

NAME = "calibrated"
DELTA = "delta.json"
TIMES = (0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99)
SEGMENT_FRAMES = 64
BATCH = 16
MOST = 256  # utterances, spread over all
LEAST_DELTA = 1e-6
DeltaTable = tuple[tuple[float, float], ...]


def calibrate(config: ObjectiveConfig, model: GradTTS, features: Sequence[Features], speaker_ids: dict[str, int], *,
              path: str | os.PathLike, seed: int, device: str) -> DeltaTable | None:
    """The table of `objective.delta_schedule calibrated`: read from `path` where an earlier call wrote it, else measured and written.

    Returns:
        Pairs (t, delta), or None for another schedule.

    Raises:
        ValueError: settings out of their range, or a file that is not such a table.
    """
    if config.delta_schedule != NAME:
        return None
    check_settings(kappa=config.kappa, quantile=config.quantile)
    path = Path(path)
    if path.exists():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            return tuple(zip(map(float, saved["t"]), map(float, saved["delta"]), strict=True))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: not a table of delta over t; remove it to measure again, before the run's first step") from None
    found = residual_quantiles(model, features, speaker_ids, quantile=config.quantile, seed=seed, device=device)
    residual = [float(f"{value:.6g}") for value in found.tolist()]
    delta = [float(f"{max(config.kappa * value, LEAST_DELTA):.6g}") for value in residual]
    atomic_text(path, json.dumps({"kappa": config.kappa, "quantile": config.quantile, "utterances": min(len(features), MOST),
                                  "t": list(TIMES), "residual": residual, "delta": delta}, indent=2) + "\n")
    return tuple(zip(TIMES, delta, strict=True))


@torch.no_grad()
def residual_quantiles(model: GradTTS, features: Sequence[Features], speaker_ids: dict[str, int], *, quantile: float, seed: int,
                       device: str = "cpu") -> Tensor:
    """The quantile of |residual| over an utterance's mel bins, and of these the median over the utterances, at each of `TIMES`.

    The median keeps the figure that of the majority where less than half of the utterances are dirty. Every utterance is seen
    through one random segment, with the same noise at all times; the model is in `eval()` meanwhile.

    Returns:
        float64 [len(TIMES)].
    """
    modes = [(module, module.training) for module in model.modules()]
    device = setup.resolve_device(device)
    model.to(device).eval()
    step = max(1.0, len(features) / MOST)
    chosen = [features[int(i * step)] for i in range(min(len(features), MOST))]
    measured = []
    try:
        for start in range(0, len(chosen), BATCH):
            batch = collate(chosen[start:start + BATCH], speaker_ids).to(device)
            measured.append(torch.stack([_quantiles(model, batch, time, quantile=quantile, seed=seed + start) for time in TIMES], dim=1))
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat(measured).quantile(0.5, dim=0)


def _quantiles(model: GradTTS, batch, time: float, *, quantile: float, seed: int) -> Tensor:
    found: list[Tensor] = []

    def probe(residual: Tensor, *, t: Tensor, snr: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
        frames = mask.flatten(1).sum(1).long().tolist()
        found.extend(row[:, :count].abs().double().flatten().quantile(quantile).cpu() for row, count in zip(residual, frames, strict=True))
        return torch.zeros_like(t)

    model.training_terms(batch, objective=probe, segment_frames=SEGMENT_FRAMES, generator=torch.Generator().manual_seed(seed),
                         t=torch.full((len(batch.keys),), time))
    return torch.stack(found)


def check_settings(*, kappa: float, quantile: float) -> None:
    """Refuses kappa that is not positive and a quantile outside (0, 1), by a ValueError."""
    if not 0 < kappa < math.inf:
        raise ValueError(f"objective.kappa is {kappa}; it must be positive and finite, 1 takes the measured quantile itself")
    if not 0 < quantile < 1:
        raise ValueError(f"objective.quantile is {quantile}; it must lie in (0, 1), such as 0.9")
