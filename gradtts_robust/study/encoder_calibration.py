"""How well a speaker encoder tells speakers apart: equal error rate, threshold and similarities on speech whose speakers are known."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.manifest import Utterance
from ..speech.speaker import ENCODER_RATE, SpeakerEncoder
from ..speech.vocoder import Vocoder
from .metrics import Interval


@dataclass(frozen=True)
class EqualError:
    """Where as large a share of the pairs of one speaker is refused as of the pairs of two is accepted.

    Args:
        rate: that share, in [0, 1].
        threshold: similarity from which on a pair is accepted as one speaker's.
    """

    rate: float
    threshold: float


@dataclass(frozen=True)
class PairScores:
    """Similarities of pairs of clips, and who speaks in them, as indices into the sorted speakers.

    Args:
        same, speaker: [n] pairs of one speaker, and his index.
        different, two: [m] pairs of two speakers, and their indices [m, 2].
    """

    same: np.ndarray
    speaker: np.ndarray
    different: np.ndarray
    two: np.ndarray


@dataclass(frozen=True)
class EncoderCalibration:
    """What an encoder makes of speech whose speakers are known; intervals are over speakers, 95 %.

    Args:
        encoder: its name.
        seconds: length of the clips, of which there are `clips` by `speakers` speakers.
        error: equal error rate in [0, 1].
        threshold: similarity at equal error.
        within, between: similarity of clips of one speaker, and of two.
    """

    encoder: str
    seconds: float
    speakers: int
    clips: int
    error: Interval
    threshold: float
    within: Interval
    between: Interval


def equal_error(scores_same: Sequence[float], scores_different: Sequence[float]) -> EqualError:
    """Equal error rate of telling pairs of one speaker from pairs of two by a threshold on their scores.

    Both rates are steps over the threshold; where they cross without meeting, they are joined by straight lines.

    Args:
        scores_same, scores_different: at least one each, finite, the higher the more alike.

    Raises:
        ValueError: no scores of one kind, or ones that are not finite.
    """
    same, different = (np.sort(np.asarray(scores, dtype=np.float64).ravel()) for scores in (scores_same, scores_different))
    for name, scores in (("one speaker", same), ("two speakers", different)):
        if not len(scores) or not np.isfinite(scores).all():
            raise ValueError(f"{len(scores)} scores of pairs of {name}, {int((~np.isfinite(scores)).sum())} of them not finite: "
                             "an equal error rate needs finite scores, at least one of either kind")
    thresholds = np.unique(np.concatenate([same, different]))
    thresholds = np.append(thresholds, np.nextafter(thresholds[-1], math.inf))
    refused = np.searchsorted(same, thresholds, side="left") / len(same)
    accepted = 1 - np.searchsorted(different, thresholds, side="left") / len(different)
    # at the lowest threshold nothing is refused, at the highest everything
    after = int(np.argmax(refused >= accepted))
    before = after - 1
    gap, beyond = accepted[before] - refused[before], refused[after] - accepted[after]
    part = gap / (gap + beyond)
    rate, threshold = (values[before] + part * (values[after] - values[before]) for values in (refused, thresholds))
    return EqualError(float(rate), float(threshold))


def pair_scores(embeddings: np.ndarray, speakers: Sequence[str], *, utterances: Sequence[str] | None = None,
                others: np.ndarray | None = None) -> PairScores:
    """Similarities of all ordered pairs of different clips.

    Args:
        embeddings: [N, D] unit rows.
        speakers: [N] names.
        utterances: [N] names of the recordings that the clips were cut from: pairs out of one are left out, as they share more
            than the voice. None keeps them.
        others: [N, D], the second clip of a pair as it sounds otherwise, such as from a vocoder; by default as the first.
    """
    _, index = np.unique(np.asarray(speakers), return_inverse=True)
    scores = embeddings @ (embeddings if others is None else others).T
    recordings = np.arange(len(index)) if utterances is None else np.unique(np.asarray(utterances), return_inverse=True)[1]
    apart = recordings[:, None] != recordings[None]
    alike = index[:, None] == index[None]
    same, different = np.nonzero(alike & apart), np.nonzero(~alike)
    return PairScores(scores[same], index[same[0]], scores[different], np.stack([index[part] for part in different], axis=1))


def calibrate_encoder(encoder: SpeakerEncoder, utterances: Sequence[Utterance], *, seconds: float = 4.0, same_recording: bool = False,
                      vocoder: Vocoder | None = None, samples: int = 500, seed: int = 0) -> EncoderCalibration:
    """Cuts utterances into clips, embeds them, and measures how well the encoder tells their speakers apart.

    Args:
        encoder: to be calibrated.
        utterances: of at least two speakers, each with two or more of at least `seconds`; those that are shorter are left out.
        seconds: length of the clips, cut one after the other, > 0.
        same_recording: count pairs out of one recording too: an easier task, for speakers with only one.
        vocoder: compare natural clips with clips that were turned to mels and voiced by it.
        samples: bootstrap draws of speakers.
        seed: of the draws.

    Raises:
        ValueError: no positive length, fewer than two speakers with pairs, or a file that cannot be read or embedded.
        FileNotFoundError: a file is missing.
    """
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds:g}; clips must be longer than 0")
    clips, speakers, recordings = _cut(utterances, seconds)
    if not clips:
        raise ValueError(f"none of {len(utterances)} utterances is {seconds:g} s long; ask for shorter clips")
    embeddings = encoder.embed(clips, sample_rate=ENCODER_RATE, names=recordings)
    others = encoder.embed([_again(clip, vocoder) for clip in clips], sample_rate=vocoder.sample_rate) if vocoder else None
    pairs = pair_scores(embeddings, speakers, utterances=None if same_recording else recordings, others=others)
    if len(np.unique(pairs.speaker)) < 2:
        raise ValueError(f"{len(np.unique(pairs.speaker))} speakers have two recordings of {seconds:g} s, and two speakers are needed; "
                         "give more utterances, shorter clips, or same_recording")
    found = equal_error(pairs.same, pairs.different)
    low, high = _speaker_intervals(pairs, samples=samples, seed=seed)
    means = (found.rate, float(pairs.same.mean()), float(pairs.different.mean()))
    error, within, between = (Interval(*map(float, values)) for values in zip(means, low, high, strict=True))
    return EncoderCalibration(encoder.name, seconds, len(set(speakers)), len(clips), error, found.threshold, within, between)


def _cut(utterances: Sequence[Utterance], seconds: float) -> tuple[list[np.ndarray], list[str], list[str]]:
    from ..speech.audio import load_audio

    length = round(seconds * ENCODER_RATE)
    clips, speakers, recordings = [], [], []
    for utterance in utterances:
        wave = load_audio(utterance.path, sample_rate=ENCODER_RATE)
        for start in range(0, len(wave) - length + 1, length):
            clips.append(wave[start: start + length])
            speakers.append(utterance.speaker)
            recordings.append(utterance.path)
    return clips, speakers, recordings


def _again(clip: np.ndarray, vocoder: Vocoder) -> np.ndarray:
    """A clip at 16 kHz through mel and vocoder, at the vocoder's rate."""
    import torch

    from ..speech.audio import mel_spectrogram, resample

    wave = resample(clip, source_rate=ENCODER_RATE, target_rate=vocoder.sample_rate)
    return vocoder(mel_spectrogram(torch.from_numpy(wave)[None]))[0].float().cpu().numpy()


def _speaker_intervals(pairs: PairScores, *, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % intervals of (equal error, within, between), [3] each: speakers are drawn, and with them all their pairs."""
    rng = np.random.default_rng(seed)
    count, drawn = int(pairs.two.max()) + 1, []
    for _ in range(samples):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        same = np.repeat(pairs.same, times[pairs.speaker])
        different = np.repeat(pairs.different, times[pairs.two].prod(axis=1))
        # of two or three speakers one alone may be drawn, who cannot be told from anybody
        if len(same) and len(different):
            drawn.append((equal_error(same, different).rate, same.mean(), different.mean()))
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    return low, high
