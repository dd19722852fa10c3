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
    """

    ids: Tensor
    ids_lengths: Tensor
    mel: Tensor
    mel_lengths: Tensor
    speakers: Tensor
    durations: Tensor
    keys: list[str]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self) if f.name != "keys"}
        return replace(self, **moved)

    def rows(self, index: Tensor) -> Batch:
        """The rows of `index`, int64 [n] on the batch's device, padded as before."""
        chosen = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "keys"}
        return replace(self, **chosen, keys=[self.keys[row] for row in index.tolist()])


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
