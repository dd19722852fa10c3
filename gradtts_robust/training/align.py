"""Alignments kept: durations found once by a trained encoder, and long recordings cut at their pauses.

A base's training pays for the text encoder and the search over whole utterances at every step. Once the encoder aligns well, both
can be had once: what remains are short pieces whose durations are known, as those of the embedded corpus are from the start.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..data.dataset import Features, collate
from ..data.features import FRAMES_PER_SECOND
from ..model.gradtts import GradTTS

MINIMUM_SECONDS = 1.2


@torch.no_grad()
def align(model: GradTTS, features: Sequence[Features], speaker_ids: dict[str, int], *, batch_size: int = 16,
          progress: Callable[[int, int], None] | None = None) -> list[Features]:
    """Gives durations to the features that have none, by monotonic alignment search under the model's encoder.

    Args:
        model: in the state it is to align in; put into eval mode.
        speaker_ids: the model's row of each speaker.
        progress: called with (done, total).

    Returns:
        The features in their order, all with durations.
    """
    model.eval()
    device = next(model.parameters()).device
    found = list(features)
    unknown = sorted((i for i, f in enumerate(features) if f.durations is None), key=lambda i: features[i].mel.shape[1])
    for start in range(0, len(unknown), batch_size):
        rows = unknown[start:start + batch_size]
        batch = collate([features[i] for i in rows], speaker_ids).to(device)
        mu = model.encode(batch.ids, batch.ids_lengths, batch.speakers).mu
        durations = model.align(mu, batch.mel, batch.ids, batch.ids_lengths, batch.mel_lengths).cpu()
        for row, index in enumerate(rows):
            found[index] = replace(features[index], durations=durations[row, : len(features[index].ids)].clone())
        if progress:
            progress(min(start + batch_size, len(unknown)), len(unknown))
    return found


def split(feature: Features, *, space: int, max_seconds: float) -> list[Features]:
    """Cuts one aligned utterance at its longest pauses into pieces of at most about `max_seconds`.

    A cut halves a pause symbol: both pieces keep one at that end, as an utterance of its own has. Where no pause of two frames
    or more lies early enough, the piece is longer than asked.

    Args:
        feature: with durations.
        space: id of the symbol that stands between words.
        max_seconds: > `MINIMUM_SECONDS`.

    Returns:
        Pieces in order, with ids `ID#0`, `ID#1`, ...; the utterance itself where it is short enough.

    Raises:
        ValueError: durations are unknown.
    """
    if feature.durations is None:
        raise ValueError(f"{feature.id}: its durations are unknown; align it first")
    least, most = MINIMUM_SECONDS * FRAMES_PER_SECOND, max_seconds * FRAMES_PER_SECOND
    durations, ends = feature.durations.tolist(), feature.durations.cumsum(0).tolist()
    pauses = [i for i in range(1, len(durations) - 1) if int(feature.ids[i]) == space and durations[i] >= 2]
    pieces, first, start = [], 0, 0
    while ends[-1] - start > most:
        usable = [i for i in pauses if i > first and ends[i] - start >= least and ends[-1] - ends[i] >= least]
        early = [i for i in usable if ends[i] - start <= most]
        if not usable:
            break
        cut = max(early, key=durations.__getitem__) if early else usable[0]
        middle = ends[cut] - durations[cut] // 2
        pieces.append(_piece(feature, len(pieces), (first, cut + 1), (start, middle)))
        first, start = cut, middle
    if not pieces:
        return [feature]
    return [*pieces, _piece(feature, len(pieces), (first, len(durations)), (start, ends[-1]))]


def _piece(feature: Features, number: int, symbols: tuple[int, int], frames: tuple[int, int]) -> Features:
    """Symbols [a, b) over frames [c, d): the outer symbols' durations are what of them lies within."""
    ends = feature.durations.cumsum(0)[slice(*symbols)].clamp(max=frames[1])
    durations = torch.diff(ends, prepend=torch.tensor([frames[0]]))
    return Features(feature.ids[slice(*symbols)].clone(), feature.mel[:, slice(*frames)].clone(), durations,
                    f"{feature.id}#{number}", feature.speaker)
