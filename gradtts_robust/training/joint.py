"""Several signals about each utterance, made into one weight: whose voice it is, what else is heard, and whether the text is right.

Each signal says in which direction dirt lies, so that no general outlier search is needed, which seven utterances in several dimensions
would not bear. What is usual is learnt from those utterances whose voice is the majority's.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .agreement import TUKEY
from .signals import TextFit

SOUND_SCALE = (0.05, 0.07)
"""Range of the standard deviation of `TextFit.sound` between one speaker's clean clips: 0.02 (embedded corpus) to 0.05 (2 s clips of
train-clean-100)."""
TEXT_RANGE = (0.3, 0.6)
"""Share of the usual `TextFit.text` below which a transcript is not believed at all, and above which wholly: on the same data clean
clips had 0.5 or more, 98 in 100, and wrong transcripts 0.45 or less."""
LEAST_SOUND, LEAST_TEXT = 0.3, 0.15
"""What is usual below which a base hears too little of the text to judge by."""
TRUSTED_VOICE = 0.5
MOST_DIRTY = 0.5
BROAD = 8.0
"""Width of a dirty utterance's signal, in standard deviations of clean ones."""
ITERATIONS = 100


@dataclass
class Judgement:
    """What was found about n utterances.

    Args:
        factors: signal -> weights in [0, 1], [n], by that signal alone: `voice`, `sound`, `text`.
        usual: signal -> what most clips have of `sound` and `text`.
        suspicion: signal -> distance from what is usual towards dirt, in standard deviations of clean clips, [n].
    """

    factors: dict[str, np.ndarray]
    usual: dict[str, float]
    suspicion: dict[str, np.ndarray]


def judge(voice: np.ndarray, fit: TextFit) -> Judgement:
    """Weighs each signal by itself.

    Args:
        voice: weights [n] in [0, 1] by agreement of the voices, at least one of them 1.
    """
    trusted = voice >= TRUSTED_VOICE
    sound, spread = _usual(fit.sound[trusted])
    spread = float(np.clip(spread, *SOUND_SCALE))
    text, _ = _usual(fit.text[trusted])
    low, high = TEXT_RANGE
    shares = np.ones(len(fit.text)) if text < LEAST_TEXT else fit.text / text
    below = np.zeros(len(fit.sound)) if sound < LEAST_SOUND else np.maximum(sound - fit.sound, 0) / spread
    factors = {"voice": voice, "sound": np.square(1 - np.square(np.clip(below / TUKEY, 0, 1))),
               "text": np.clip((shares - low) / (high - low), 0, 1)}
    away = TUKEY * np.sqrt(1 - np.sqrt(voice))
    suspicion = {"voice": away, "sound": below, "text": np.maximum(1 - shares, 0) * TUKEY / (1 - low)}
    return Judgement(factors, {"sound": sound, "text": text}, suspicion)


def _usual(values: np.ndarray) -> tuple[float, float]:
    """Median of the higher half of signals that dirt lowers, and their spread about it."""
    half = np.sort(values)[::-1][: len(values) // 2 + 1]
    middle = float(np.median(half))
    return middle, 1.4826 * float(np.median(np.abs(half - middle)))


def product(judged: Judgement) -> np.ndarray:
    """An utterance is trusted as far as all signals trust it, [n]; relative to the most trusted one."""
    weights = np.prod(list(judged.factors.values()), axis=0)
    return weights / max(weights.max(), 1e-12)


def mixture(judged: Judgement) -> np.ndarray:
    """Probability that an utterance is clean, [n], under a mixture of clean ones and one kind of dirt per signal, by EM.

    Clean: every signal half-normal about what is usual. Dirty by a signal: that one is half-normal of a width `BROAD` times as
    large, the others as if clean. The shares of the kinds are estimated; that of all dirt is at most `MOST_DIRTY`.
    """
    signals = np.stack(list(judged.suspicion.values()), axis=1)
    # what a signal is likelier by, as dirt than as clean
    odds = np.square(signals) / 2 * (1 - BROAD**-2) - np.log(BROAD)
    dirty = np.full(signals.shape[1], 0.1)
    for _ in range(ITERATIONS):
        terms = np.concatenate([np.full((len(odds), 1), np.log(1 - dirty.sum())), odds + np.log(dirty)], axis=1)
        terms = np.exp(terms - terms.max(axis=1, keepdims=True))
        posterior = terms / terms.sum(axis=1, keepdims=True)
        dirty = np.maximum(posterior[:, 1:].mean(axis=0), 1e-3)
        dirty *= min(1.0, MOST_DIRTY / dirty.sum())
    return posterior[:, 0] / max(posterior[:, 0].max(), 1e-12)


COMBINATIONS = {"joint": product, "em": mixture}
