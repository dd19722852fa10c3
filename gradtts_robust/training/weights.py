"""Weights of the examples in adaptation: how far each utterance is trusted to be the target's.

The corruption lies at the level of the utterance, so it is estimated there, once, before training: a pure function of the data, so
that a resumed run has the same weights. A weight multiplies all three terms of its utterance. The diffusion term alone would leave the
encoder to the foreign utterances: on a base of this project, with three of seven utterances foreign, the encoder's gradient had a norm
of 0.04 by the diffusion term, 0.9 to 1.1 by the prior and 2.7 by the durations, and of the prior's the foreign utterances gave more
than the target's own. Sampling starts from mu, which the prior draws towards their mean spectrum.

The encoder that weighs an utterance (Resemblyzer) is an interested party where it also judges the result: samples may then come
close to what it likes and not to the target. Evaluate by another one too (`evaluation.encoder ecapa`).
"""
from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.features import Features
from ..data.manifest import Utterance
from ..files import atomic_text

KINDS = ("none", "agreement")
WEIGHTS = "weights.csv"
FRAME = 256 / 22050
"""Seconds in a mel frame; written out, since training on prepared features loads no audio library."""
DISTRUSTED = 0.5
"""A clip with a smaller weight is shown as distrusted."""
TUKEY = 4.685
"""Cut-off of the biweight in robust standard deviations: 95 % efficient where the distances are normal."""
SCALE = (0.02, 0.04)
"""Range of that standard deviation, in cosine distance: of 4 s clips of one speaker it is 0.03 (LibriSpeech train-clean-100)."""
CLIP_NOISE = 0.2
"""A clip of T seconds lies about CLIP_NOISE / T further from its speaker than a long one (train-clean-100, 1 to 6 s)."""
SHORTEST = 1.0
NO_VOICE = 0.12
"""Median distance of the nearest half, beyond what shortness explains, above which the clips share no voice: of one speaker it is about
0 to 0.05, where every clip has another one about 0.25."""
ITERATIONS = 50
STARTS = 256


@dataclass
class Agreement:
    """How well utterances agree with the voice that most of them share.

    Args:
        weights: [n] float64 in [0, 1], at least one is 1.
        distance: [n], cosine distance to the weighted mean direction of the other utterances.
        excess: [n], distance beyond what the majority's clips of that length have.
    """

    weights: np.ndarray
    distance: np.ndarray
    excess: np.ndarray


def agreement(embeddings: np.ndarray, seconds: np.ndarray | None = None) -> Agreement:
    """Redescending weights around the voice that most utterances share.

    A vote: from every utterance as a start, a Tukey biweight M-estimate of the direction on the unit sphere is iterated to its fixed
    point, and the one with the largest sum of weights wins, so that a tight cluster of a minority does not win over a wider one of
    the majority. The geometric median alone is not enough: with 45 % of one foreign voice it lies near the middle of both, as
    embeddings scatter in many dimensions. Distances leave the utterance itself out, or few utterances would vouch for themselves;
    they are judged by their excess over the majority's median, since in many dimensions nothing lies near the centre.

    Blind to everything but the voice (wrong text, and noise as far as the encoder is). Where no voice has a majority, half and half,
    either may win. Of the target's own clips some 3 to 10 % get less than 0.5, most where all are clean: the centre is judged by the
    nearest half, since a second look at all that seem trustworthy let look-alike voices in (45 % from the nearest voice, base voices
    of the embedded corpus: 79 % of the foreign clips below 0.5 and not 86 %).

    Args:
        embeddings: [n, D] speaker embeddings of n >= 1 utterances, any length above 0.
        seconds: [n] > 0, lengths of the clips, as short ones scatter more; None where they are alike.

    Raises:
        ValueError: shapes that do not fit, an embedding that is zero or not finite, a length that is not positive.
    """
    unit, allowance = _unit(embeddings), _allowance(seconds, len(embeddings))
    if len(unit) < 3:
        return Agreement(np.ones(len(unit)), np.zeros(len(unit)), np.zeros(len(unit)))
    gram = unit @ unit.T
    weights = _starts(gram)
    for _ in range(ITERATIONS):
        distance = _left_out_distance(gram, weights)
        new, excess = _reweigh(distance - allowance)
        settled = np.abs(new - weights).max() < 1e-9
        weights = new
        if settled:
            break
    total, spread = weights.sum(1), (weights * distance).sum(1) / weights.sum(1)
    best = min(range(len(weights)), key=lambda row: (-round(total[row], 6), spread[row]))
    return Agreement(weights[best], distance[best], excess[best])


def _unit(embeddings: np.ndarray) -> np.ndarray:
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"embeddings have shape {rows.shape}; needed: (utterances, dimensions)")
    length = np.linalg.norm(rows, axis=1)
    if not (np.isfinite(length) & (length > 0)).all():
        bad = int(np.flatnonzero(~(np.isfinite(length) & (length > 0)))[0])
        raise ValueError(f"the speaker embedding of utterance {bad} has length {length[bad]:g}; check its audio for silence")
    return rows / length[:, None]


def _allowance(seconds: np.ndarray | None, count: int) -> np.ndarray:
    """Distance that clips of these lengths have from their own speaker by their shortness alone, [n]."""
    if seconds is None:
        return np.zeros(count)
    lengths = np.asarray(seconds, dtype=np.float64)
    if lengths.shape != (count,) or not (lengths > 0).all():
        raise ValueError(f"seconds must be {count} lengths above 0, one per utterance")
    return CLIP_NOISE / np.maximum(lengths, SHORTEST)


def _starts(gram: np.ndarray) -> np.ndarray:
    """Weights [starts, n]: of each start the half of the utterances, and one more, that lie nearest to it."""
    half = len(gram) // 2 + 1
    chosen = np.argsort(-np.sort(gram, axis=1)[:, -half:].sum(1), kind="stable")[:STARTS]
    nearest = np.argsort(-gram[chosen], axis=1, kind="stable")[:, :half]
    weights = np.zeros((len(chosen), len(gram)))
    np.put_along_axis(weights, nearest, 1.0, axis=1)
    return weights


def _left_out_distance(gram: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cosine distance [starts, n] of each utterance to the weighted mean of the others."""
    toward = weights @ gram
    own = toward - weights
    squared = (toward * weights).sum(1, keepdims=True) - 2 * weights * toward + weights**2
    return 1 - own / np.sqrt(np.maximum(squared, 1e-12))


def _reweigh(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Biweight and excess, each [starts, n], of distances about the median of the nearest half."""
    half = np.sort(distance, axis=1)[:, : distance.shape[1] // 2 + 1]
    middle = np.median(half, axis=1, keepdims=True)
    scale = np.clip(1.4826 * np.median(np.abs(half - middle), axis=1, keepdims=True), *SCALE)
    excess = distance - middle
    return np.square(1 - np.square(np.clip(excess / (TUKEY * scale), 0, 1))), excess


@dataclass
class ExampleWeights:
    """The weights of a run's utterances, and why.

    Args:
        ids: of the utterances.
        values: [n] in [0, 1], how far each is trusted.
        signals: what they were made from, name -> [n].
    """

    ids: list[str]
    values: np.ndarray
    signals: dict[str, np.ndarray]

    def of(self, keys: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Weights of the utterances of a batch, float32 [B], scaled such that their mean over the run's utterances is 1.

        The expected step is then that of plain training on the trusted utterances alone, and a learning rate means the same.
        """
        relative = dict(zip(self.ids, self.values / max(self.values.mean(), 1e-12), strict=True))
        return torch.tensor([relative[key] for key in keys], dtype=torch.float32, device=device)


def weigh(kind: str, utterances: Sequence[Utterance], features: Sequence[Features], embeddings: np.ndarray) -> ExampleWeights | None:
    """The weights that `objective.example_weights` asks for, by the signals known before training; None for `none`.

    Args:
        kind: a name in `KINDS`.
        utterances, features, embeddings: what is trained on, in one order; Resemblyzer embeddings [n, D].

    Raises:
        ValueError: another name, or an embedding that cannot be used.
    """
    check_kind(kind)
    if kind == "none":
        return None
    seconds = np.array([f.mel.shape[1] * FRAME for f in features])
    found = agreement(embeddings, seconds)
    return ExampleWeights([u.id for u in utterances], found.weights, {
        "agreement": found.weights, "distance": found.distance, "excess": found.excess, "seconds": seconds})


def check_kind(kind: str) -> None:
    """ValueError for a name that `KINDS` lacks."""
    if kind not in KINDS:
        raise ValueError(f"objective.example_weights is {kind!r}; choose one of {', '.join(KINDS)}")


def write_weights(path: str | os.PathLike, weights: ExampleWeights, records: Sequence[Mapping]) -> None:
    """Writes one row per utterance: id, weight, signals, a reason where the weight is below `DISTRUSTED`, and the truth.

    Args:
        records: of `data.corruption`, in any order: whether the utterance was made dirty and who truly speaks. Written for analysis
            and never used; empty where nothing is known.
    """
    truth, text = {record["id"]: record for record in records}, io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "weight", *weights.signals, "reason", "corrupted", "true_speaker"])
    for row, (key, value) in enumerate(zip(weights.ids, weights.values, strict=True)):
        signals = {name: float(values[row]) for name, values in weights.signals.items()}
        known = truth.get(key, {})
        writer.writerow([key, f"{value:.6g}", *(f"{signal:.6g}" for signal in signals.values()),
                         _reason(signals) if value < DISTRUSTED else "",
                         int(known["corrupted"]) if known else "", known.get("true_speaker", "")])
    atomic_text(path, text.getvalue())


def read_weights(path: str | os.PathLike) -> list[dict]:
    """Rows of a run's `weights.csv`, numbers as floats; empty where there is no such file.

    Raises:
        ValueError: the file is not what `write_weights` wrote.
    """
    if not Path(path).is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    words = ("id", "reason", "corrupted", "true_speaker")
    try:
        return [{name: value if name in words else float(value) for name, value in row.items()} for row in rows]
    except (ValueError, TypeError):
        raise ValueError(f"{path}: not a table of weights; run the adaptation again") from None


def weights_line(rows: Sequence[Mapping]) -> str:
    """How many clips were distrusted, in one line; how many of them truly were dirty, where that is known; a warning where no voice
    is shared."""
    low = [row for row in rows if row["weight"] < DISTRUSTED]
    line = f"weights: {len(low)} of {len(rows)} clips got a weight below {DISTRUSTED:g}"
    dirty = [row for row in rows if row["corrupted"] == "1"]
    if dirty:
        line += f"; of the {len(dirty)} dirty ones {sum(row['corrupted'] == '1' for row in low)}"
    middles = [row["distance"] - row["excess"] - CLIP_NOISE / max(row["seconds"], SHORTEST) for row in rows]
    if len(rows) > 2 and np.median(middles) > NO_VOICE:
        line += "; but the clips seem to share no voice: listen to them before trusting this run"
    return line


def _reason(signals: Mapping[str, float]) -> str:
    usual = signals["distance"] - signals["excess"]
    return f"another voice: {signals['distance']:.2f} from the others' mean, where most clips of this length have {usual:.2f}"
