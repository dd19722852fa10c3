"""Speaker verification: an encoder's threshold from natural speech, and which share of samples passes it."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..speech.speaker import centroid, similarity
from .metrics import leave_one_out


@dataclass(frozen=True)
class Calibration:
    """What an encoder makes of natural speech.

    Args:
        within: mean similarity of a clip to the centroid of its speaker's other clips; NaN where unknown.
        between: of a clip to another speaker's centroid.
        error: equal error rate, in [0, 1].
        threshold: the similarity where as many clips of the speaker are refused as of others accepted.
        clips, speakers: that it was measured on.
    """

    within: float
    between: float
    error: float
    threshold: float
    clips: int
    speakers: int


def calibrate(voices: Mapping[str, np.ndarray]) -> Calibration:
    """Calibrates on natural clips: embeddings [N, D] of each speaker, N >= 2."""
    own = np.concatenate([leave_one_out(rows) for rows in voices.values()]) if voices else np.zeros(0)
    centres = {name: centroid(rows) for name, rows in voices.items()}
    others = [similarity(rows, centres[other]) for name, rows in voices.items() for other in centres if other != name]
    away = np.concatenate(others) if others else np.zeros(0)
    error, threshold = equal_error(own, away)
    return Calibration(_mean(own), _mean(away), error, threshold, sum(map(len, voices.values())), len(voices))


def equal_error(own: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Equal error rate and its threshold, the middle of the range where the two rates are nearest to each other; NaN without scores."""
    own, others = np.sort(np.asarray(own, dtype=float)), np.sort(np.asarray(others, dtype=float))
    if not len(own) or not len(others):
        return math.nan, math.nan
    scores = np.unique(np.concatenate([own, others]))
    edges = np.concatenate([[scores[0] - 1e-6], (scores[:-1] + scores[1:]) / 2, [scores[-1] + 1e-6]])
    refused = np.searchsorted(own, edges) / len(own)
    accepted = 1 - np.searchsorted(others, edges) / len(others)
    gap = np.abs(refused - accepted)
    best = np.flatnonzero(gap <= gap.min() + 1e-12)
    return float(((refused + accepted) / 2)[best].mean()), float(edges[best].mean())


def accepted_share(similarities: Sequence[float], threshold: float) -> float:
    """Share of similarities at or above the threshold; NaN ones are left out."""
    values = np.asarray(similarities, dtype=float)
    values = values[np.isfinite(values)]
    return float((values >= threshold).mean()) if len(values) and math.isfinite(threshold) else math.nan


def area_below(similarities: Sequence[float], thresholds: Sequence[float]) -> float:
    """Area under the share of similarities below a threshold, over the thresholds' range, divided by that range: in [0, 1], 0 the best."""
    values = np.asarray(similarities, dtype=float)
    values, low, high = values[np.isfinite(values)], min(thresholds), max(thresholds)
    if not len(values) or not high > low:
        return math.nan
    # the integral of the empirical distribution is the mean of what each value leaves of the range
    return float((np.clip(high - values, 0, high - low) / (high - low)).mean())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
