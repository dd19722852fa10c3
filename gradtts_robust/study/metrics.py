"""What a study measures: similarity, counts below thresholds, damage by dirt, and how sure one can be of them."""
from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

LEAST_DAMAGE = 0.01


@dataclass(frozen=True)
class Interval:
    """A mean and its interval; all NaN where there were no values."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """A ratio, or NaN and why there is none."""

    value: float
    reason: str = ""


def file_similarity(files: Sequence[str | os.PathLike], reference: Sequence[str | os.PathLike], *, encoder: str = "resemblyzer",
                    source: str | None = None, device: str = "auto") -> list[tuple[str, float]]:
    """Cosine similarity of each sound file to the centroid of the reference's embeddings.

    Args:
        files: sound files, or folders of them.
        reference: sound files, or folders of them.
        encoder, source: see `speech.speaker.speaker_encoder`.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        (file, similarity in [-1, 1]) in the order of `files`.

    Raises:
        FileNotFoundError, ValueError: a file is missing or unusable, or the encoder is.
    """
    from ..speech.audio import find_clips
    from ..speech.speaker import centroid, similarity, speaker_encoder
    from ..training.setup import resolve_device

    clips, references = find_clips(files), find_clips(reference)
    judge = speaker_encoder(encoder, source or None, resolve_device(device))
    target = centroid(embed_files(judge, references))
    return [(str(clip), float(value)) for clip, value in zip(clips, similarity(embed_files(judge, clips), target), strict=True)]


def embed_files(encoder, paths: Sequence[str | os.PathLike]) -> np.ndarray:
    """Embeddings of sound files, [N, D] unit rows, read at the encoder's own sample rate."""
    from ..speech.audio import load_audio
    from ..speech.speaker import ENCODER_RATE

    waves = [load_audio(path, sample_rate=ENCODER_RATE) for path in paths]
    return encoder.embed(waves, sample_rate=ENCODER_RATE, names=[str(path) for path in paths])


def leave_one_out(embeddings: np.ndarray, judged: np.ndarray | None = None) -> np.ndarray:
    """Similarity of each row [N, D] to the centroid of the other rows: what the speaker himself reaches.

    Args:
        judged: [N, D], judged in the rows' places, such as their resyntheses; by default the rows themselves.

    Returns:
        [N]; empty for fewer than two rows, as one utterance has no others.
    """
    from ..speech.speaker import centroid, similarity

    judged = embeddings if judged is None else judged
    if len(embeddings) < 2:
        return np.zeros(0)
    return np.array([similarity(judged[i: i + 1], centroid(np.delete(embeddings, i, axis=0)))[0] for i in range(len(embeddings))])


def threshold_counts(similarities: Sequence[float], thresholds: Sequence[float]) -> pd.Series:
    """How many similarities lie below each threshold; NaN ones are not counted. The index is the thresholds."""
    import pandas as pd  # not at the top: `gradtts-robust similarity` waits for half a second of it

    values = np.asarray(similarities, dtype=float)
    return pd.Series([int((values < threshold).sum()) for threshold in thresholds], index=list(thresholds), name="below", dtype=int)


def bootstrap_interval(values: Sequence[float], groups: Sequence | None = None, *, level: float = 0.95, samples: int = 2000,
                       seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean of grouped values: groups are drawn first, then values within each.

    Values of one speaker are alike, so an interval over values alone would be too narrow for a claim about speakers. With a
    single group the interval speaks about that group alone.

    Args:
        values: [N]; NaN ones are left out.
        groups: [N] labels, such as speakers; None for one group.
        level: in (0, 1).
        samples: draws, >= 1.
        seed: of the draws.

    Raises:
        ValueError: a level or sample count out of its range, or not as many groups as values.
    """
    values = np.asarray(values, dtype=float)
    labels = np.zeros(len(values)) if groups is None else np.asarray(groups)
    if not 0 < level < 1 or samples < 1:
        raise ValueError(f"level {level:g} must be in (0, 1) and samples {samples} at least 1")
    if len(labels) != len(values):
        raise ValueError(f"{len(values)} values but {len(labels)} groups; give one group per value")
    known = np.isfinite(values)
    values, labels = values[known], labels[known]
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    parts = [values[labels == label] for label in dict.fromkeys(labels.tolist())]
    # sums and sizes of every group's resamples, then groups drawn among them
    sums = np.stack([part[rng.integers(len(part), size=(samples, len(parts), len(part)))].sum(axis=2) for part in parts])
    sizes = np.array([len(part) for part in parts])
    drawn = rng.integers(len(parts), size=(samples, len(parts)))
    rows, slots = np.arange(samples)[:, None], np.arange(len(parts))[None]
    means = sums[drawn, rows, slots].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def resilience(dirty: Sequence[float], clean: Sequence[float]) -> float:
    """S(trained on dirty data, clean reference) - S(trained on clean data, clean reference), of means: 0 for no damage, below for damage.

    Args:
        dirty, clean: similarities of each model's samples; NaN ones are left out.
    """
    return _mean(dirty) - _mean(clean)


def damage_ratio(robust: Sequence[float], dirty: Sequence[float], clean: Sequence[float], *, least: float = LEAST_DAMAGE) -> Ratio:
    """(clean - robust) / (clean - dirty): the share of the damage done by dirt that a robust objective leaves; 0 none, 1 all of it.

    Args:
        robust, dirty, clean: similarities of samples of three models: trained robustly and plainly on dirty data, plainly on clean.
        least: damage below which a ratio would be noise divided by noise.

    Returns:
        NaN with a reason where the damage is below `least`, or where its 95 % bootstrap interval reaches down to 0.
    """
    damage = _mean(clean) - _mean(dirty)
    if not math.isfinite(damage) or not math.isfinite(_mean(robust)):
        return Ratio(math.nan, "similarities are missing")
    if damage < least:
        return Ratio(math.nan, f"the dirt costs plain training {damage:.3f}, too little to divide by")
    low = _difference_low(clean, dirty)
    if low <= 0:
        return Ratio(math.nan, f"the damage of {damage:.3f} is not clear: its 95 % interval begins at {low:.3f}")
    return Ratio((_mean(clean) - _mean(robust)) / damage)


def _difference_low(high: Sequence[float], low: Sequence[float], *, samples: int = 2000) -> float:
    """Lower end of the 95 % interval of a difference of means; paired where both say the same sentences."""
    high, low = (np.asarray(values, dtype=float) for values in (high, low))
    if high.shape == low.shape:
        return bootstrap_interval(high - low, samples=samples).low
    rng = np.random.default_rng(0)
    high, low = high[np.isfinite(high)], low[np.isfinite(low)]
    means = [rng.choice(values, size=(samples, len(values))).mean(axis=1) for values in (high, low)]
    return float(np.quantile(means[0] - means[1], 0.025))


def _mean(values: Sequence[float]) -> float:
    values = np.asarray(values, dtype=float).ravel()
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan
