"""Settings of dirt in adaptation data; `config` gives them on."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class CorruptionConfig:
    """What is done to the adaptation data.

    Args:
        kind: `foreign` (utterances of other speakers, labelled as the target's), `overlay` (another speaker talks in the background),
            `noise`, `text` (wrong transcripts), `mixed` (these four in turn) or `none`.
        fraction: share of the resulting utterances that is dirty, in [0, 1).
        pick: which other speakers: `random`, or `nearest` or `farthest` to the target by speaker embedding.
        mode: `replace` some of the target's utterances, or `append` foreign ones to all of them.
        speakers: how many other speakers to draw from; 0 for no limit.
        snr: of `overlay` and `noise`: lowest and highest ratio of the target's power to the rest's, in dB; drawn evenly in between.
        noise: `white`, `pink`, `hum` of the mains, `babble` of several other speakers, or `any` of these.
        texts: wrong transcripts are those of the target's `own` other utterances, or of `others`.
        seed: what is drawn depends on this alone.
    """

    kind: Literal["none", "foreign", "overlay", "noise", "text", "mixed"] = "none"
    fraction: float = 0.0
    pick: Literal["random", "nearest", "farthest"] = "random"
    mode: Literal["replace", "append"] = "replace"
    speakers: int = 0
    snr: tuple[float, float] = (0.0, 10.0)
    noise: Literal["any", "white", "pink", "hum", "babble"] = "any"
    texts: Literal["own", "others"] = "own"
    seed: int = 0
