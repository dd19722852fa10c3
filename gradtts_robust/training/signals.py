"""What is known about each utterance before any is learnt from: how well the sound follows the text, whether other words would do, and
how quiet it is where nobody speaks.

The first two need the alignment that the base's encoder finds, and no training. A voice or a room that the base never heard must not
count as dirt, so the shapes of the spectra are compared, without their loudness, and without what a whole utterance differs by.
"""
from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..data.features import Features
from ..model.alignment import frame_symbols, log_prior, search_durations
from ..model.frames import at_frames
from ..model.gradtts import GradTTS

DECOYS = 8
"""Other transcripts tried, of each kind."""
PIECE = 8
"""Symbols in a piece of a shuffled transcript: about a word and a half."""
DURATION_SHARE = 0.2
"""Of the logarithm of the durations' misfit, beside that of the mel's: they scatter about five times as widely between clean clips."""
LEAST = 1e-3
CEPSTRA = 20
"""Cosine coefficients of a log spectrum that are its shape: from 13 to 80 of them tell wrong texts apart alike, without the loudness
much better than with it."""
QUIETEST = 0.2
"""Share of its frames that shows how quiet an utterance is."""
DECIBELS = 20 / np.log(10)


@dataclass
class TextFit:
    """How well utterances fit their transcripts, and how quiet they are, each float64 [n].

    Args:
        sound: correlation over frames between the mel's shape and what the encoder predicts from the text, each coefficient about its own
            mean, in [-1, 1]. Low where something else is heard as well (noise, a second voice), and where the text is wrong.
        text: by how much the transcript fits better than others do: mean difference of the log misfit. About 0 where it is wrong.
        quiet: dB by which the quietest fifth of the frames, as the mean over bins, lies below the mean power of all bins together. Low
            where something else is heard while nobody speaks.
    """

    sound: np.ndarray
    text: np.ndarray
    quiet: np.ndarray


@torch.no_grad()
def measure_text_fit(model: GradTTS, features: Sequence[Features], *, row: int | None,
                     progress: Callable[[int, int], None] | None = None) -> TextFit:
    """Aligns every utterance to its own transcript and to decoys, all by search, also where its durations are known.

    Decoys are the own symbols in another order, piece by piece, and the transcripts of others of the utterances, those first that
    have about as many symbols. What is drawn depends on the utterance's id alone.

    Args:
        model: the base, which knows the speaker by `row` of its table; None for a base without one.
        progress: called with (done, total).

    Raises:
        ValueError: an utterance with more symbols than frames.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    sound, text, quiet = [], [], []
    try:
        for feature in features:
            transcripts = [feature.ids, *_shuffled(feature), *_others(feature, features)]
            misfit, correlation = _align(model, feature, transcripts, row)
            sound.append(correlation)
            text.append(float((misfit[1:].mean() - misfit[0]) if len(misfit) > 1 else 0.0))
            quiet.append(_quiet(feature.mel.double()))
            if progress:
                progress(len(sound), len(features))
    finally:
        for module, mode in modes:
            module.training = mode
    return TextFit(np.array(sound), np.array(text), np.array(quiet))


def _align(model: GradTTS, feature: Features, transcripts: list[Tensor], row: int | None) -> tuple[np.ndarray, float]:
    """Log misfit of the mel's shape and the durations under each transcript, and the first one's correlation with that shape.

    Aligned twice: once to find what the utterance as a whole differs by from the prediction, under each transcript, and again without it.
    """
    device = next(model.parameters()).device
    count = len(transcripts)
    ids = pad_sequence(transcripts, batch_first=True).to(device)
    lengths = torch.tensor([len(t) for t in transcripts], device=device)
    encoded = model.encode(ids, lengths, torch.full((count,), row or 0, device=device))
    heard, said = _shape(feature.mel.float().to(device)), _shape(encoded.mu)
    frames = torch.full_like(lengths, heard.shape[1])
    for _ in range(2):
        # not by `model.align`: with silence allowed under every space a wrong transcript steps over what it cannot say
        found = search_durations(log_prior(said, heard.expand(count, -1, -1)), lengths, frames)
        spoken = at_frames(said, frame_symbols(found, heard.shape[1]))
        offset = (heard - spoken).mean(2, keepdim=True)
        said = said + offset
    of_mel = (heard - spoken - offset).square().mean((1, 2))
    used = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    apart = (encoded.log_durations[:, 0] - found.clamp_min(1).log()).square()
    of_durations = (apart * used).sum(1) / lengths
    misfit = of_mel.clamp_min(LEAST).log() + DURATION_SHARE * of_durations.clamp_min(LEAST).log()
    return misfit.double().cpu().numpy(), _correlation(heard, spoken[0])


def _shape(mel: Tensor) -> Tensor:
    """Cosine coefficients 1 to `CEPSTRA` of log spectra [..., 80, F], orthonormal, [..., CEPSTRA, F]; coefficient 0 is the loudness."""
    bins = mel.shape[-2]
    order = torch.arange(1, CEPSTRA + 1, device=mel.device, dtype=mel.dtype)[:, None]
    places = torch.arange(bins, device=mel.device, dtype=mel.dtype) + 0.5
    return (2 / bins) ** 0.5 * torch.cos(torch.pi / bins * order * places) @ mel


def _quiet(mel: Tensor) -> float:
    power = (2 * mel).exp().sum(0).mean()
    return DECIBELS * float(power.log() / 2 - mel.quantile(QUIETEST, dim=1).mean())


def _correlation(mel: Tensor, mu: Tensor) -> float:
    heard, said = (values - values.mean(1, keepdim=True) for values in (mel, mu))
    return float((heard * said).sum() / (heard.square().sum() * said.square().sum()).sqrt().clamp_min(LEAST))


def _shuffled(feature: Features) -> list[Tensor]:
    """The transcript with its inner pieces in other orders; its first and last symbol, mostly silence, stay."""
    pieces = list(feature.ids[1:-1].split(PIECE))
    if len(pieces) < 2:
        return []
    rng, made = np.random.default_rng(zlib.crc32(feature.id.encode())), []
    for _ in range(DECOYS):
        order = rng.permutation(len(pieces))
        if (order == np.arange(len(pieces))).all():
            order = order[::-1]
        made.append(torch.cat([feature.ids[:1], *[pieces[i] for i in order], feature.ids[-1:]]))
    return made


def _others(feature: Features, features: Sequence[Features]) -> list[Tensor]:
    """Other utterances' transcripts that are not the same and could be aligned, the nearest in length first."""
    different = [f.ids for f in features if len(f.ids) <= feature.mel.shape[1] and not torch.equal(f.ids, feature.ids)]
    return sorted(different, key=lambda ids: abs(len(ids) - len(feature.ids)))[:DECOYS]
