"""What a study is boiled down to besides the damage: verification, thresholds and distributions, per condition and objective."""
from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from .distribution import NEIGHBOURS, coverage, frechet_distance, relative_mahalanobis, spectral_entropy
from .judging import POLLUTION, REFERENCE
from .metrics import threshold_counts
from .table import Loaded, Note
from .verification import Calibration, accepted_share, area_below, calibrate


def calibrations(runs: Sequence[Loaded], encoders: Sequence[str]) -> dict[str, Calibration]:
    """What each encoder makes of the natural clips that the runs are judged by."""
    found = {}
    for encoder in encoders:
        voices = {one.run["speaker"]: one.voice(REFERENCE, encoder) for one in runs}
        found[encoder] = calibrate({name: rows for name, rows in voices.items() if rows is not None and len(rows) > 1})
    return found


def thresholds_of(encoder: str, known: Calibration, wanted: Sequence[float]) -> list[float]:
    """Similarities below which samples are counted: `wanted` for Resemblyzer, whose scale they are in; for another encoder as many from
    what two speakers have in common to what one has with himself."""
    if encoder == "resemblyzer" or not (math.isfinite(known.between) and known.within > known.between):
        return list(wanted)
    return [round(float(value), 2) for value in np.linspace(known.between, known.within, len(wanted))]


def share_table(table: pd.DataFrame, known: dict[str, Calibration], wanted: Sequence[float]) -> pd.DataFrame:
    """One row per encoder, condition and objective at the selected checkpoints: samples, how many lie below each threshold and the area
    below all, and the shares accepted as the target and as a polluter at the encoder's equal-error threshold."""
    rows = []
    for (encoder, condition, objective), part in table[table["selected"]].groupby(["encoder", "condition", "objective"], sort=False):
        threshold, thresholds = known[encoder].threshold, thresholds_of(encoder, known[encoder], wanted)
        counts = threshold_counts(part["similarity"], thresholds)
        rows.append({
            "encoder": encoder, "condition": condition, "objective": objective, "samples": len(part),
            "as_target": accepted_share(part["similarity"], threshold),
            "as_polluter": accepted_share(part["pollution_similarity"], threshold),
            "area_below": area_below(part["similarity"], thresholds), **{f"below {value:g}": count for value, count in counts.items()}})
    return pd.DataFrame(rows)


def distribution_table(note: Note, runs: Sequence[Loaded], encoders: Sequence[str]) -> pd.DataFrame:
    """One row per encoder, condition and objective: Frechet distance, precision and recall of the samples against those of the baseline
    that learnt from clean data; relative Mahalanobis distance to the target among the natural clips; entropy of the samples.

    A run's twin in the clean, baseline part of the grid is what it is compared with, so that both sets are of the same speakers and seeds;
    a run whose twin is not finished is left out of that.
    """
    plain = {(one.run["speaker"], one.run["seed"]): one for one in runs
             if one.run["condition"] == note.clean and one.run["objective"] == note.baseline}
    groups = defaultdict(list)
    for one in runs:
        groups[one.run["condition"], one.run["objective"]].append(one)
    rows = []
    for encoder in encoders:
        natural = {one.run["speaker"]: one.voice(REFERENCE, encoder) for one in runs}
        real = np.concatenate(list(natural.values()))
        owners = np.concatenate([[name] * len(clips) for name, clips in natural.items()])
        for (condition, objective), group in groups.items():
            said = np.concatenate([one.said(encoder) for one in group])
            speakers = np.concatenate([[one.run["speaker"]] * len(one.said(encoder)) for one in group])
            pairs = [(plain[key].said(encoder), one.said(encoder)) for one in group
                     if (key := (one.run["speaker"], one.run["seed"])) in plain]
            rows.append({"encoder": encoder, "condition": condition, "objective": objective, "samples": len(said),
                         **_beside(pairs),
                         "mahalanobis": float(np.mean(relative_mahalanobis(said, speakers, real, owners))) if len(real) > 1 else math.nan,
                         "entropy": spectral_entropy(said)})
    return pd.DataFrame(rows)


def _beside(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Of pairs of embeddings (twin's [N, D], run's [N, D]): those of all runs beside those of all twins."""
    if sum(len(twin) for twin, _ in pairs) <= NEIGHBOURS:
        return {"frechet": math.nan, "precision": math.nan, "recall": math.nan}
    real, samples = map(np.concatenate, zip(*pairs))
    covered = coverage(real, samples)
    return {"frechet": frechet_distance(real, samples), "precision": covered.precision, "recall": covered.recall}


def pollution_anchor(runs: Sequence[Loaded], encoder: str) -> float:
    """Mean similarity of the targets' natural clips to the foreign clips of their runs; NaN without any."""
    from ..speech.speaker import centroid, similarity

    values = [similarity(one.voice(REFERENCE, encoder), centroid(away)).mean() for one in runs
              if (away := one.voice(POLLUTION, encoder)) is not None]
    return float(np.mean(values)) if values else math.nan
