"""Waves for a vocoder to learn from: whose are held out, and random pieces with their mels."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradtts_robust.data.manifest import Utterance
from gradtts_robust.speech.audio import HOP, load_audio, mel_spectrogram

# frames at either side whose windows would reach beyond the piece
MARGIN = 2
# decibels by which a piece is made louder or softer
GAIN = (-9.0, 4.0)


@dataclass
class Piece:
    """Random pieces of speech: `wave` [B, 256 F] and `mel` [B, 80, F], float32."""

    wave: Tensor
    mel: Tensor


@dataclass
class Split:
    """Utterances to learn from, and those of speakers never learnt from."""

    train: list[Utterance]
    held_out: list[Utterance]


def split(utterances: Sequence[Utterance], held_out: int) -> Split:
    """Holds out the real speakers with the `held_out` highest ids; a name that is no number is an embedded voice and is learnt from.

    Raises:
        ValueError: nothing is left to learn from.
    """
    real = sorted({one.speaker for one in utterances if one.speaker.isdecimal()}, key=int)
    chosen = set(real[max(0, len(real) - held_out):])
    parts = Split([one for one in utterances if one.speaker not in chosen], [one for one in utterances if one.speaker in chosen])
    if not parts.train:
        raise ValueError(f"all {len(real)} speakers are held out; lower --held-out from {held_out}")
    return parts


class Pieces:
    """Draws pieces: a real speaker's or an embedded voice's with equal chance, then by length.

    Args:
        utterances: to draw from; their waves are held as 16-bit numbers.
        frames: of a piece; shorter utterances are left out.

    Raises:
        ValueError: no utterance is long enough.
    """

    def __init__(self, utterances: Sequence[Utterance], *, frames: int):
        self.frames = frames
        self.length = HOP * (frames + 2 * MARGIN)
        groups: dict[bool, list[np.ndarray]] = {}
        for one in utterances:
            wave = load_audio(one.path)
            if len(wave) >= self.length:
                groups.setdefault(one.speaker.isdecimal(), []).append(np.round(wave.clip(-1, 1) * 32767).astype(np.int16))
        if not groups:
            raise ValueError(f"no utterance is as long as {self.length / 22050:.2f} s; lower --frames from {frames}")
        self.groups = list(groups.values())
        self.ends = [torch.tensor([len(wave) for wave in waves]).cumsum(0) for waves in self.groups]

    def draw(self, count: int, generator: torch.Generator) -> Piece:
        """Draws `count` pieces, each made louder or softer by `GAIN`."""
        waves = torch.stack([self._one(generator) for _ in range(count)])
        low, high = GAIN
        gain = 10 ** ((low + (high - low) * torch.rand(count, 1, generator=generator)) / 20)
        waves = waves * gain.minimum(0.99 / waves.abs().amax(dim=1, keepdim=True).clamp(min=1e-3))
        edge = MARGIN * HOP
        return Piece(waves[:, edge:-edge], mel_spectrogram(waves)[:, :, MARGIN:-MARGIN])

    def _one(self, generator: torch.Generator) -> Tensor:
        group = int(torch.randint(len(self.groups), (), generator=generator))
        at = torch.randint(int(self.ends[group][-1]), (), generator=generator)
        wave = self.groups[group][int(torch.searchsorted(self.ends[group], at, right=True))]
        start = int(torch.randint(len(wave) - self.length + 1, (), generator=generator))
        return torch.from_numpy(wave[start: start + self.length].astype(np.float32) / 32767)
