"""Weights of the examples in adaptation: how far each utterance is trusted to be the target's, saying what its text says.

The corruption lies at the level of the utterance, so it is estimated there. By voice, sound and text (`agreement`, `joint`) once, before
training, a pure function of the data, so that a resumed run has the same weights; by gain while training goes on, kept in the checkpoints.
A weight multiplies all three terms of its utterance. The diffusion term alone would leave the
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
from . import joint
from .agreement import CLIP_NOISE, SHORTEST, agreement
from .signals import TextFit

KINDS = ("none", "agreement", "gain", "both", *joint.COMBINATIONS)
BY_VOICE = ("agreement", "both", *joint.COMBINATIONS)
BY_GAIN = ("gain", "both")
"""Kinds that begin with `weigh_voices`, and those that training goes on to estimate."""
WEIGHTS = "weights.csv"
TRUTH = ("corrupted", "true_speaker", "kind")
FRAME = 256 / 22050
"""Seconds in a mel frame; written out, since training on prepared features loads no audio library."""
DISTRUSTED = 0.5
"""A clip with a smaller weight is shown as distrusted."""
NO_VOICE = 0.12
"""Median distance of the nearest half, beyond what shortness explains, above which the clips share no voice: of one speaker it is about
0 to 0.05, where every clip has another one about 0.25."""


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

    def state(self) -> dict[str, Tensor]:
        """What changes where training estimates the weights, as tensors; `restored` takes it back."""
        return {name: torch.from_numpy(np.array(row)) for name, row in {"values": self.values, **self.signals}.items()}

    def restored(self, state: Mapping[str, Tensor]) -> ExampleWeights:
        """These utterances with the weights and signals of another time."""
        rows = {name: row.numpy() for name, row in state.items()}
        return ExampleWeights(self.ids, rows.pop("values"), rows)


def weigh_voices(utterances: Sequence[Utterance], features: Sequence[Features], embeddings: np.ndarray) -> ExampleWeights:
    """Weights by agreement of the voices alone.

    Args:
        utterances, features, embeddings: what is trained on, in one order; Resemblyzer embeddings [n, D].

    Raises:
        ValueError: an embedding that cannot be used.
    """
    seconds = np.array([f.mel.shape[1] * FRAME for f in features])
    found = agreement(embeddings, seconds)
    return ExampleWeights([u.id for u in utterances], found.weights, {
        "voice": found.weights, "distance": found.distance, "excess": found.excess, "seconds": seconds,
        "deviation": found.suspicion})


def weigh_jointly(voices: ExampleWeights, fit: TextFit, kind: str) -> ExampleWeights:
    """Weights by voice, sound and text together.

    Args:
        voices: of `weigh_voices`.
        fit: of the same utterances under the base.
        kind: `joint`, by the sum of what the signals suspect, or `em`, the probability of being clean under a mixture.
    """
    judged = joint.judge(voices.signals["deviation"], fit)
    values = joint.COMBINATIONS[kind](judged)
    usual = {f"usual_{name}": np.full(len(values), value) for name, value in judged.usual.items()}
    return ExampleWeights(voices.ids, values, {
        **voices.signals, **judged.factors, "correlation": fit.sound, "advantage": fit.text, "quietness": fit.quiet, **usual})


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
    writer.writerow(["id", "weight", *weights.signals, "reason", *TRUTH])
    for row, (key, value) in enumerate(zip(weights.ids, weights.values, strict=True)):
        signals = {name: float(values[row]) for name, values in weights.signals.items()}
        known = truth.get(key, {})
        writer.writerow([key, f"{value:.6g}", *(f"{signal:.6g}" for signal in signals.values()),
                         _reason(signals) if value < DISTRUSTED else "",
                         int(known["corrupted"]) if known else "", known.get("true_speaker", ""), known.get("kind", "")])
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
    words = ("id", "reason", *TRUTH)
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
    middles = [row["distance"] - row["excess"] - CLIP_NOISE / max(row["seconds"], SHORTEST) for row in rows if "distance" in row]
    if len(middles) > 2 and np.median(middles) > NO_VOICE:
        line += "; but the clips seem to share no voice: listen to them before trusting this run"
    return line


def _reason(signals: Mapping[str, float]) -> str:
    """In words, what the signal that trusts an utterance least says about it."""
    found = {name: signals[name] for name in REASONS if name in signals}
    return REASONS[min(found, key=found.__getitem__)](signals) if found else ""


def _voice_reason(signals: Mapping[str, float]) -> str:
    usual = signals["distance"] - signals["excess"]
    return f"another voice: {signals['distance']:.2f} from the others' mean, where most clips of this length have {usual:.2f}"


def _sound_reason(signals: Mapping[str, float]) -> str:
    return (f"something else is heard: the sound follows the text with a correlation of {signals['correlation']:.2f}, where most clips "
            f"have {signals['usual_sound']:.2f}")


def _text_reason(signals: Mapping[str, float]) -> str:
    return (f"another text: it fits better than others do by {signals['advantage']:.2f}, where that of most clips does by "
            f"{signals['usual_text']:.2f}")


def _quiet_reason(signals: Mapping[str, float]) -> str:
    return (f"something is heard while nobody speaks: the quietest lies {signals['quietness']:.0f} dB below the whole, where that of most "
            f"clips does by {signals['usual_quiet']:.0f} dB or more")


def _gain_reason(signals: Mapping[str, float]) -> str:
    return f"learnt unlike the others: a gain of {signals['log_gain']:.2f}, where most clips have {signals['usual_gain']:.2f}"


REASONS = {"voice": _voice_reason, "sound": _sound_reason, "quiet": _quiet_reason, "text": _text_reason, "gain": _gain_reason}
"""By the signal's name, whose column holds a weight."""
