"""The results table: one row per spoken sentence, kept as CSV beside the samples."""
from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..files import atomic_text
from ..training.record import read_config
from .metrics import bootstrap_interval, threshold_counts

RESULTS = "results.csv"
EVALUATION = "evaluation.json"
SAMPLES = "samples"
COLUMNS = ("speaker", "condition", "corruption_kind", "corruption_fraction", "penalty", "delta_schedule", "delta_0", "weighting",
           "example_weights", "seed", "iteration", "sentence", "encoder", "similarity", "pollution_similarity", "sample", "seconds")


def read_results(folder: Path) -> pd.DataFrame:
    """Reads `folder/results.csv`.

    Raises:
        ValueError: it is not there, empty, or lacks a column.
    """
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise ValueError(f"{path}: no results there; give the folder of a run that has judged a checkpoint")
    try:
        table = pd.read_csv(path, dtype={"speaker": str, "condition": str, "sample": str}, keep_default_na=True)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a results table ({str(error).splitlines()[0]})") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing or table.empty:
        raise ValueError(f"{path}: {f'no column {missing[0]!r}' if missing else 'no rows'}; run the experiment again")
    return table


def write_results(folder: Path, table: pd.DataFrame) -> None:
    """Writes `folder/results.csv`, whole or not at all; similarities with six digits."""
    text = table.loc[:, list(COLUMNS)].to_csv(index=False, float_format=lambda value: f"{value:.6g}", lineterminator="\n")
    atomic_text(Path(folder) / RESULTS, text)


def merge_results(out: Path, runs: Mapping[str, Path]) -> pd.DataFrame:
    """Joins the tables of run folders below `out`, samples' paths made relative to `out`, and writes the whole there."""
    tables = []
    for path in runs.values():
        table = read_results(path)
        prefix = Path(path).relative_to(out).as_posix()
        tables.append(table.assign(sample=[f"{prefix}/{name}" for name in table["sample"]]))
    merged = pd.concat(tables, ignore_index=True)
    write_results(out, merged)
    return merged


def conditions(table: pd.DataFrame) -> list[str]:
    """Names of the conditions, in the table's order."""
    return list(pd.unique(table["condition"]))


def last_checkpoint(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last iteration that all conditions have."""
    reached = table.groupby("condition")["iteration"].agg(set)
    common = set.intersection(*reached)
    last = max(common) if common else None
    if last is None:
        return table[table["iteration"] == table.groupby("condition")["iteration"].transform("max")]
    return table[table["iteration"] == last]


def squares(table: pd.DataFrame) -> pd.Series:
    """Which rows come from plain squared error: no other penalty, no weights of the utterances."""
    return (table["penalty"] == "l2") & (table["example_weights"] == "none")


def baseline(table: pd.DataFrame) -> str | None:
    """The condition that the others are compared with: trained on clean data, by squared error if there is such; else None."""
    clean = table[table["corruption_fraction"] == 0]
    plain = clean[squares(clean)]
    return conditions(plain if len(plain) else clean)[0] if len(clean) else None


def summarise(table: pd.DataFrame, *, thresholds: Sequence[float] = ()) -> pd.DataFrame:
    """One row per condition and iteration: mean, its 95 % interval (low, high), least, pollution, count, and `below X` per threshold.

    The interval draws speakers, then sentences; for one speaker it speaks about other sentences of that speaker alone.
    """
    rows = []
    for (condition, iteration), part in table.groupby(["condition", "iteration"], sort=False):
        interval = bootstrap_interval(part["similarity"], part["speaker"])
        counts = threshold_counts(part["similarity"], thresholds)
        rows.append({
            "condition": condition, "iteration": int(iteration), "mean": interval.mean, "low": interval.low, "high": interval.high,
            "least": part["similarity"].min(), "pollution": part["pollution_similarity"].mean(), "count": len(part),
            **{f"below {threshold:g}": count for threshold, count in counts.items()}})
    return pd.DataFrame(rows)


def run_folders(folder: Path, table: pd.DataFrame) -> dict[str, Path]:
    """Condition -> the run folder of its first sample."""
    first = table.drop_duplicates("condition")
    return {condition: Path(folder) / Path(sample.split(f"{SAMPLES}/", 1)[0])
            for condition, sample in zip(first["condition"], first["sample"])}


def read_evaluation(folder: Path) -> dict:
    """`folder/evaluation.json`, or an empty dict where there is none.

    Raises:
        ValueError: it is not JSON.
    """
    path = Path(folder) / EVALUATION
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); remove it and run the experiment again") from None


def read_settings(folder: Path) -> dict:
    """`folder/config.yaml`, or an empty dict where there is none.

    Raises:
        ValueError: it is not YAML of settings.
    """
    return read_config(Path(folder), remedy="remove it and run the experiment again")


def ceilings(evaluations: Sequence[dict]) -> dict[str, float]:
    """Means over runs of what the target himself reaches: `natural`, and `resynthesis` through the vocoder; NaN where unknown."""
    result = {}
    for kind in ("natural", "resynthesis"):
        values = [value for one in evaluations for value in one.get("ceiling", {}).get(kind, [])]
        result[kind] = sum(values) / len(values) if values else math.nan
    return result
