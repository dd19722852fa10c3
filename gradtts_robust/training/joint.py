"""Several signals about each utterance, made into one weight: whose voice it is, what else is heard, and whether the text is right.

Each signal says in which direction dirt lies, so that no general outlier search is needed, which seven utterances in several dimensions
would not bear. Clean clips are rarely odd by more than one signal, dirty ones mostly are by several: so what they say is added up.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .agreement import biweight
from .signals import TextFit

SOUND_SCALE = (0.04, 0.06)
"""Range of the standard deviation of `TextFit.sound` between one speaker's clean clips: 0.02 where espeak-ng speaks, 0.05 where real
voices that the base never heard do."""
QUIET_SCALE = (2.6, 4.3)
"""Range of that of `TextFit.quiet`, in dB: 2 in one recording, 4 where some clips have pauses and some have none."""
QUIET = 56.0
"""What is quieter than this, in dB, counts as this: overlaid voices and noise above -10 dB leave less of 9 clips in 10."""
TEXT_SCALE = 0.25
"""Standard deviation of `TextFit.text` between clean clips, as a share of what is usual."""
DISBELIEVED, BELIEVED = (0.12, 0.3), (0.3, 0.6)
"""`TextFit.text` up to which a transcript is not believed at all, and above which wholly: as it is and as a share of what is usual, the
lower counts. Of 2 s clips 9 wrong transcripts in 10 had 0.14 or less, 9 right ones in 10 had 0.32 or more."""
LEAST_SOUND, LEAST_TEXT = 0.3, 0.1
"""What is usual below which a base hears too little of the text to judge by."""
TRUSTED = 0.5
MOST_DIRTY = 0.5
BROAD = 8.0
"""Width of a dirty utterance's signal, in standard deviations of clean ones."""
ITERATIONS = 100


@dataclass
class Judgement:
    """What was found about n utterances.

    Args:
        factors: signal -> weights in [0, 1], [n], by that signal alone: `voice`, `sound`, `quiet`, `text`.
        usual: signal -> what most clips have of `sound`, `quiet` and `text`.
        suspicion: signal -> distance from what is usual towards dirt, in standard deviations of clean clips, [n]; of those signals that
            the base can judge by.
        believed: how far the transcripts are believed, in [0, 1], [n].
    """

    factors: dict[str, np.ndarray]
    usual: dict[str, float]
    suspicion: dict[str, np.ndarray]
    believed: np.ndarray


def judge(voice: np.ndarray, fit: TextFit) -> Judgement:
    """Weighs each signal by itself.

    What is usual is learnt of the text from all clips, for a wrong text has nearly none of it, and no other dirt more than clean ones;
    of the sound and the quiet from those whose voice and text are trusted.

    Args:
        voice: suspicion [n] >= 0 by agreement of the voices, of one of them 0.
    """
    shown, text = {"voice": voice}, _usual(fit.text)[0]
    believed = np.ones(len(voice))
    if text >= LEAST_TEXT:
        low, high = (min(least, share * text) for least, share in (DISBELIEVED, BELIEVED))
        believed = np.clip((fit.text - low) / (high - low), 0, 1)
        shown["text"] = np.maximum(1 - fit.text / text, 0) / TEXT_SCALE
    trusted = biweight(voice) * believed >= TRUSTED
    if not trusted.any():
        trusted = biweight(voice) >= TRUSTED
    sound, spread = _usual(fit.sound[trusted])
    if sound >= LEAST_SOUND:
        shown["sound"] = np.maximum(sound - fit.sound, 0) / np.clip(spread, *SOUND_SCALE)
    capped = np.minimum(fit.quiet, QUIET)
    quiet, spread = _usual(capped[trusted])
    shown["quiet"] = np.maximum(quiet - capped, 0) / np.clip(spread, *QUIET_SCALE)
    factors = {name: biweight(shown.get(name, np.zeros(len(voice)))) for name in ("voice", "sound", "quiet", "text")}
    factors["text"] *= believed
    return Judgement(factors, {"sound": sound, "quiet": quiet, "text": text}, shown, believed)


def _usual(values: np.ndarray) -> tuple[float, float]:
    """Median of the higher half of signals that dirt lowers, and their spread about it."""
    half = np.sort(values)[::-1][: len(values) // 2 + 1]
    middle = float(np.median(half))
    return middle, 1.4826 * float(np.median(np.abs(half - middle)))


def together(judged: Judgement) -> np.ndarray:
    """Weight by the sum of what the signals suspect, [n]; relative to the most trusted one; none where the transcript is not believed.

    The sum of k signals is divided by the root of k, as were they independent and normal (Stouffer's method): all of them may be a little
    odd, or one of them very. As each is cut off at 0, of clean clips it has a mean of 0.4 sqrt(k) and a standard deviation of 0.58.
    """
    sums = np.sum(list(judged.suspicion.values()), axis=0) / len(judged.suspicion) ** 0.5
    weights = biweight(sums) * judged.believed
    return weights / max(weights.max(), 1e-12)


def mixture(judged: Judgement) -> np.ndarray:
    """Probability that an utterance is clean, [n], under a mixture of clean ones and one kind of dirt per signal, by EM.

    Clean: every signal half-normal from what is usual towards dirt (what lies on the other side counts as usual). Dirty by a signal: that
    one is half-normal of a width `BROAD` times as large, the others as if clean. The shares of the kinds are estimated; that of all dirt
    is at most `MOST_DIRTY`.
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


COMBINATIONS = {"joint": together, "em": mixture}
