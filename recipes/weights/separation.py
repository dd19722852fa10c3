"""How well the weights of docs/example-weights.md tell dirty clips from clean ones, without any training.

    python recipes/weights/separation.py --manifest M.csv --speakers A B --out runs/separation     # killed, it goes on where it was

Every speaker's first seven utterances (the last three are kept for reference, as in adaptation) are made dirty in every way and weighed.
The table has, as means over the speakers: the area under the curve of the weight (1: every clean clip above every dirty one); the dirty
clips' share of all weight, which without weights is the share of dirt, and 0 for an oracle; and the share of clean clips below 0.5.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from gradtts_robust.config import AdaptConfig, CorruptionConfig, EvaluationConfig, ObjectiveConfig
from gradtts_robust.data.manifest import read_manifest
from gradtts_robust.files import atomic_text
from gradtts_robust.training import joint
from gradtts_robust.training.adapt import prepare_adaptation
from gradtts_robust.training.signals import TextFit
from gradtts_robust.training.weights import DISTRUSTED

KINDS = {
    "clean": {},
    "foreign, many voices": {"kind": "foreign"},
    "foreign, one voice": {"kind": "foreign", "speakers": 1},
    "foreign, most alike": {"kind": "foreign", "pick": "nearest"},
    "overlay": {"kind": "overlay"},
    "noise": {"kind": "noise"},
    "text, own": {"kind": "text"},
    "text, others'": {"kind": "text", "texts": "others"},
    "mixed": {"kind": "mixed"},
}
KEY = ["speaker", "dirt", "fraction", "seed"]


def measure(base: str, manifest: str, speaker: str, dirt: str, fraction: float, seed: int, cache: Path, reference: int) -> list[dict]:
    """A row per kind of weights."""
    corruption = CorruptionConfig(**{"kind": "none", **KINDS[dirt]}, fraction=fraction, seed=seed)
    prepared = prepare_adaptation(AdaptConfig(
        base=base, manifest=manifest, speaker=speaker, out=str(cache / "unused"), utterances=7, corruption=corruption,
        objective=ObjectiveConfig(example_weights="joint"), evaluation=EvaluationConfig(reference_utterances=reference),
        cache=str(cache), device="cpu"))
    dirty, signals = np.array([record["corrupted"] for record in prepared.records]), prepared.weights.signals
    judged = joint.judge(signals["deviation"], TextFit(signals["correlation"], signals["advantage"], signals["quietness"]))
    found = {"agreement": signals["voice"], **{name: combine(judged) for name, combine in joint.COMBINATIONS.items()}}
    return [{**dict(zip(KEY, (speaker, dirt, fraction, seed), strict=True)), "weights": name, "area": area(weights, dirty),
             "mass": weights[dirty].sum() / weights.sum(), "false_alarms": (weights[~dirty] < DISTRUSTED).mean(),
             "clean_weight": weights[~dirty].mean()} for name, weights in found.items()]


def area(weights: np.ndarray, dirty: np.ndarray) -> float:
    """Probability that a clean clip weighs more than a dirty one, equal ones counted half; NaN without dirty ones."""
    low, high = weights[dirty][:, None], weights[~dirty][None]
    return float(((low < high) + 0.5 * (low == high)).mean()) if dirty.any() else float("nan")


def table(rows: pd.DataFrame) -> str:
    """Means over speakers and seeds, as Markdown: area / dirty mass / false alarms."""
    means = rows.groupby(["fraction", "dirt", "weights"], sort=False)[["area", "mass", "false_alarms"]].mean()
    names, lines = list(rows["weights"].unique()), []
    lines += [f"| fraction | dirt | {' | '.join(names)} |", f"| --- | --- |{' --- |' * len(names)}"]
    for fraction, dirt in dict.fromkeys(means.index.droplevel("weights")):
        cells = [means.loc[(fraction, dirt, name)] for name in names]
        shown = [(f"{c.area:.2f} / {c['mass']:.3f}" if dirt != "clean" else "– / –") + f" / {c.false_alarms:.2f}" for c in cells]
        lines.append(f"| {fraction:g} | {dirt} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", required=True, help="of the speakers and of those that their clips are polluted with")
    parser.add_argument("--speakers", nargs="+", help="whose clips are weighed; by default everybody's with enough")
    parser.add_argument("--base", default="", help="checkpoint; by default the shipped one")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.45, 0.3, 0.15])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--reference", type=int, default=3, help="of a speaker's utterances, so many of the last are not weighed")
    parser.add_argument("--out", type=Path, default=Path("runs/separation"))
    asked = parser.parse_args()
    utterances = [u.speaker for u in read_manifest(asked.manifest)]
    speakers = asked.speakers or sorted(name for name in set(utterances) if utterances.count(name) >= 7 + asked.reference)
    path = asked.out / "separation.csv"
    rows = pd.read_csv(path, dtype={"speaker": str}) if path.is_file() else pd.DataFrame(columns=[*KEY, "weights"])
    done = set(rows[KEY].itertuples(index=False, name=None))
    dirt = [("clean", 0.0), *((name, fraction) for fraction in asked.fractions for name in KINDS if name != "clean")]
    plan = [(speaker, name, fraction, seed) for name, fraction in dirt for seed in asked.seeds for speaker in speakers]
    missing = [key for key in plan if key not in done]
    for number, key in enumerate(missing, 1):
        new = pd.DataFrame(measure(asked.base, asked.manifest, *key, asked.out / "features", asked.reference))
        rows = pd.concat([rows, new], ignore_index=True) if len(rows) else new
        atomic_text(path, rows.to_csv(index=False))
        print(f"\r{number} of {len(missing)}", end="", file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
