"""What a base says about each utterance before it learns from any: how well the sound follows the text, and whether other words would do.

Both need the alignment that the base's encoder finds, and no training.
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
from ..model.alignment import log_prior, search_durations
from ..model.gradtts import GradTTS

DECOYS = 8
"""Other transcripts tried, of each kind."""
PIECE = 8
"""Symbols in a piece of a shuffled transcript: about a word and a half."""
DURATION_SHARE = 0.2
"""Of the logarithm of the durations' misfit, beside that of the mel's: they scatter about five times as widely between clean clips."""
LEAST = 1e-3


@dataclass
class TextFit:
    """How well utterances fit their transcripts, both float64 [n].

    Args:
        sound: correlation over frames between the mel and what the encoder predicts from the text, each bin about its own mean, in
            [-1, 1]. Low where something else is heard as well (noise, a second voice), and where the text is wrong.
        text: by how much the transcript fits better than others do: mean difference of the log misfit. About 0 where it is wrong.
    """

    sound: np.ndarray
    text: np.ndarray


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
    sound, text = [], []
    try:
        for feature in features:
            transcripts = [feature.ids, *_shuffled(feature), *_others(feature, features)]
            misfit, correlation = _align(model, feature, transcripts, row)
            sound.append(correlation)
            text.append(float((misfit[1:].mean() - misfit[0]) if len(misfit) > 1 else 0.0))
            if progress:
                progress(len(sound), len(features))
    finally:
        for module, mode in modes:
            module.training = mode
    return TextFit(np.array(sound), np.array(text))


def _align(model: GradTTS, feature: Features, transcripts: list[Tensor], row: int | None) -> tuple[np.ndarray, float]:
    """Log misfit of the mel and the durations under each transcript, and the first one's correlation with the mel."""
    device = next(model.parameters()).device
    count, frames = len(transcripts), feature.mel.shape[1]
    ids = pad_sequence(transcripts, batch_first=True).to(device)
    lengths = torch.tensor([len(t) for t in transcripts], device=device)
    encoded = model.encode(ids, lengths, torch.full((count,), row or 0, device=device))
    mel = feature.mel.float().to(device)
    # not by `model.align`: with silence allowed under every space a wrong transcript steps over what it cannot say
    found = search_durations(log_prior(encoded.mu, mel.expand(count, -1, -1)), lengths, torch.full_like(lengths, frames))
    misfit, correlation = [], 0.0
    for number, length in enumerate(lengths.tolist()):
        durations = found[number, :length]
        mu = encoded.mu[number, :, :length].repeat_interleave(durations, dim=1)
        of_mel = (mel - mu).square().mean()
        of_durations = (encoded.log_durations[number, 0, :length] - durations.float().log()).square().mean()
        misfit.append(float(of_mel.clamp_min(LEAST).log() + DURATION_SHARE * of_durations.clamp_min(LEAST).log()))
        if number == 0:
            correlation = _correlation(mel, mu)
    return np.array(misfit), correlation


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
