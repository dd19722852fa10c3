"""From features to batches. Needs torch and numpy alone, so that prepared features train on any machine."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .features import Features, Prepared, load_features, prepare_features, prepare_usable_features, save_features

__all__ = ["Batch", "Features", "Prepared", "batch_indices", "collate", "load_features", "prepare_features",
           "prepare_usable_features", "save_features", "speaker_table"]

FRAME_MULTIPLE = 8


@dataclass
class Batch:
    """Utterances side by side, padded with zeros.

    Args:
        ids: [B, T] int64, and ids_lengths [B] int64, how many of a row are real.
        mel: [B, 80, F] float32, natural log, F a multiple of 8, and mel_lengths [B] int64.
        speakers: [B] int64, rows of the speaker table.
        durations: [B, T] int64, frames of each id; a row of zeros where they are unknown.
        keys: the utterances' ids.
        unaligned: numbers of the rows without durations, which a loop on a GPU must not have to ask it for; None to look.

    Raises:
        ValueError: a row without durations that has more symbols than frames, so that no search will find any.
    """

    ids: Tensor
    ids_lengths: Tensor
    mel: Tensor
    mel_lengths: Tensor
    speakers: Tensor
    durations: Tensor
    keys: list[str]
    unaligned: list[int] | None = None

    def __post_init__(self):
        if self.unaligned is not None:
            return
        self.unaligned = (~self.durations.any(1)).nonzero().flatten().tolist()
        for row in self.unaligned:
            if self.ids_lengths[row] > self.mel_lengths[row]:
                raise ValueError(f"{self.keys[row]}: {int(self.ids_lengths[row])} symbols cannot be aligned to "
                                 f"{int(self.mel_lengths[row])} frames; drop the utterance or check its transcript")

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()})

    def rows(self, numbers: Sequence[int]) -> Batch:
        """These rows, padded as before."""
        index = torch.tensor(numbers).to(self.ids.device, non_blocking=True)
        return replace(self, **{name: tensor[index] for name, tensor in self._tensors().items()}, keys=[self.keys[row] for row in numbers],
                       unaligned=[place for place, row in enumerate(numbers) if row in self.unaligned])

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("keys", "unaligned")}


def speaker_table(features: Sequence[Features]) -> dict[str, int]:
    """Speaker names in sorted order -> rows 0, 1, ..."""
    return {name: row for row, name in enumerate(sorted({f.speaker for f in features}))}


def collate(features: Sequence[Features], speaker_ids: dict[str, int]) -> Batch:
    """Pads features into a batch, in their order.

    Raises:
        ValueError: no features, or a speaker that `speaker_ids` lacks.
    """
    if not features:
        raise ValueError("a batch of no utterances; give at least one")
    for f in features:
        if f.speaker not in speaker_ids:
            raise ValueError(f"{f.id}: unknown speaker {f.speaker!r}; known: {', '.join(sorted(speaker_ids)[:10]) or 'none'}")
    mel_lengths = torch.tensor([f.mel.shape[1] for f in features])
    frames = -(-int(mel_lengths.max()) // FRAME_MULTIPLE) * FRAME_MULTIPLE
    mel = torch.zeros(len(features), features[0].mel.shape[0], frames)
    for row, f in zip(mel, features):
        row[:, : f.mel.shape[1]] = f.mel
    known = [torch.zeros_like(f.ids) if f.durations is None else f.durations for f in features]
    return Batch(
        ids=pad_sequence([f.ids for f in features], batch_first=True),
        ids_lengths=torch.tensor([len(f.ids) for f in features]),
        mel=mel,
        mel_lengths=mel_lengths,
        speakers=torch.tensor([speaker_ids[f.speaker] for f in features]),
        durations=pad_sequence(known, batch_first=True),
        keys=[f.id for f in features],
    )


def batch_indices(n: int, batch_size: int, *, seed: int, step: int) -> list[int]:
    """Which of `n` utterances make the batch of a step: a pure function, so that a resumed run needs no sampler state.

    Every epoch is a permutation of its own, and a batch may reach over an epoch's end: over any n consecutive draws
    from an epoch's start each utterance is drawn once.

    Args:
        n: utterances, >= 1.
        batch_size: >= 1, may exceed n.
        seed: >= 0.
        step: >= 0, steps done so far.

    Raises:
        ValueError: a number below its least value.
    """
    for name, value, least in (("utterances", n, 1), ("batch_size", batch_size, 1), ("seed", seed, 0), ("step", step, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [int(_permutation(n, seed, position // n)[position % n]) for position in positions]


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)
