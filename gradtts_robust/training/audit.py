"""Which utterances don't sound like the speaker whose name they carry, by the voice that most of that speaker's share."""
from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.manifest import Utterance
from .agreement import agreement
from .speakers import Progress, embed_utterances
from .weights import DISTRUSTED

LEAST = 3
"""With fewer utterances there is no majority to agree with."""


@dataclass(frozen=True)
class Voice:
    """One utterance's verdict.

    Args:
        utterance: judged.
        score: in [0, 1], how far its voice agrees with the majority's, see `agreement.agreement`; 1 where it cannot be judged.
        distance: cosine distance to the weighted mean of the speaker's other utterances; 0 where it cannot be judged.
        kept: its score reaches the threshold.
        judged: whether its speaker has `LEAST` utterances.
    """

    utterance: Utterance
    score: float
    distance: float
    kept: bool
    judged: bool


@dataclass(frozen=True)
class Audit:
    """Verdicts in the utterances' order."""

    voices: list[Voice]

    @property
    def kept(self) -> list[Utterance]:
        """What passed, in its order."""
        return [voice.utterance for voice in self.voices if voice.kept]

    @property
    def rejected(self) -> list[Voice]:
        """What did not, the worst first."""
        return sorted((voice for voice in self.voices if not voice.kept), key=lambda voice: (voice.score, -voice.distance))

    @property
    def unjudged(self) -> list[str]:
        """Speakers with too few utterances, sorted."""
        return sorted({voice.utterance.speaker for voice in self.voices if not voice.judged})


def audit_voices(utterances: Sequence[Utterance], cache: str | os.PathLike | None, *, threshold: float = DISTRUSTED,
                 progress: Progress | None = None) -> Audit:
    """Judges every speaker's utterances by Resemblyzer. Blind to all but the voice: wrong text, and noise as far as the encoder is.

    Args:
        cache: folder of cached embeddings; None for none.
        threshold: least score of what is kept, in [0, 1].
        progress: called with (done, total) utterances.

    Raises:
        FileNotFoundError, ValueError: missing or unreadable audio, or a threshold out of its range.
    """
    import soundfile

    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold:g}; it must be in [0, 1], such as {DISTRUSTED:g}")
    owned: dict[str, list[int]] = defaultdict(list)
    for index, utterance in enumerate(utterances):
        owned[utterance.speaker].append(index)
    found: dict[int, Voice] = {}
    for rows in owned.values():
        own = [utterances[row] for row in rows]
        if len(own) < LEAST:
            found |= {row: Voice(utterance, 1.0, 0.0, True, False) for row, utterance in zip(rows, own, strict=True)}
        else:
            embeddings = embed_utterances(own, cache)
            agreed = agreement(embeddings, [soundfile.info(u.path).duration for u in own])
            found |= {row: Voice(utterance, float(weight), float(distance), bool(weight >= threshold), True)
                      for row, utterance, weight, distance in zip(rows, own, agreed.weights, agreed.distance, strict=True)}
        if progress:
            progress(len(found), len(utterances))
    return Audit([found[row] for row in range(len(utterances))])
