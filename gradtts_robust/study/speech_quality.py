"""Whether samples can be understood and how near a resynthesis comes: word error, mel cepstral distortion, error of the pitch."""
from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.manifest import Utterance, read_manifest
from ..speech.audio import HOP, SAMPLE_RATE, load_audio, mel_spectrogram, resample
from ..training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from .judging import Judge

ASR_RATE = 16000
CEPSTRUM = 13
F0_RANGE = (60.0, 500.0)
CLIPS = 2
"""Held-out sentences said again, the shortest ones: following the pitch takes longer than speaking."""


@dataclass(frozen=True)
class Words:
    """Word errors (substitutions, insertions, omissions) and the words that should have been."""

    errors: int
    words: int


def measure(judge: Judge, checkpoint: Checkpoint, *, fidelity: bool, asr: bool) -> dict:
    """What is asked for of a run's last checkpoint, under `quality`: word_error and word_error_natural, of the samples and of the target's
    held-out recordings; mcd in dB and f0_semitones, of held-out sentences said again against their recordings.

    Raises:
        ValueError: pocketsphinx is asked for and missing.
    """
    reference, quality = read_manifest(judge.out / "reference.csv"), {}
    if asr:
        recognise = recogniser()
        said = [heard(recognise(speech.wave, SAMPLE_RATE), text)
                for speech, text in zip(judge.speak(checkpoint, judge.ears.sentences), judge.ears.sentences, strict=True)]
        natural = [_natural_words(u, recognise, judge.ears.cache) for u in reference]
        quality |= {"word_error": error_rate(said), "word_error_natural": error_rate(natural)}
    if fidelity:
        chosen = sorted(reference, key=lambda u: os.path.getsize(u.path))[:CLIPS]
        pairs = [_nearness(speech, u, judge.ears.cache) for speech, u in
                 zip(judge.speak(checkpoint, [u.text for u in chosen]), chosen, strict=True)]
        quality |= {name: _mean([pair[name] for pair in pairs]) for name in ("mcd", "f0_semitones")}
    return {"quality": quality}


def recogniser():
    """A function (wave [N], rate) -> words, by pocketsphinx with the English models that come with it.

    A weak listener: of natural LibriSpeech test-other it takes about half of the words wrongly, so that only the distance from the
    target's own recordings means something.

    Raises:
        ValueError: pocketsphinx is not installed.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise ValueError("word errors need pocketsphinx, which is not installed: pip install 'gradtts-robust[asr]', "
                         "or leave --asr false") from None
    decoder = Decoder(samprate=float(ASR_RATE), loglevel="FATAL")

    def recognise(wave: np.ndarray, rate: int) -> list[str]:
        samples = resample(np.asarray(wave, dtype=np.float32), source_rate=rate, target_rate=ASR_RATE)
        decoder.start_utt()
        decoder.process_raw((samples.clip(-1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return words_of(found.hypstr if found else "")

    return recognise


def words_of(text: str) -> list[str]:
    """The words of a text without case, punctuation and the recogniser's marks of noise and variants."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", re.sub(r"<[^>]*>|\[[^\]]*\]|\(\d+\)", " ", text.lower()))


def heard(found: Sequence[str], text: str) -> Words:
    """Errors of the words found against a text, by the least number of edits."""
    wanted = words_of(text)
    row = list(range(len(found) + 1))
    for number, word in enumerate(wanted, 1):
        before, row[0] = row[0], number
        for place, other in enumerate(found, 1):
            before, row[place] = row[place], min(before + (word != other), row[place] + 1, row[place - 1] + 1)
    return Words(row[-1], len(wanted))


def error_rate(found: Sequence[Words]) -> float:
    """Errors over words, of all together; may exceed 1."""
    words = sum(one.words for one in found)
    return sum(one.errors for one in found) / words if words else math.nan


def _natural_words(utterance: Utterance, recognise, cache: Path) -> Words:
    from .judging import read_arrays, write_arrays

    entry = _entry(cache, "asr", utterance)
    if not entry.is_file():
        found = heard(recognise(load_audio(utterance.path), SAMPLE_RATE), utterance.text)
        write_arrays(entry, {"counts": np.array([found.errors, found.words])})
    return Words(*map(int, read_arrays(entry)["counts"]))


def _nearness(speech, utterance: Utterance, cache: Path) -> dict[str, float]:
    from .judging import read_arrays, write_arrays

    wave = load_audio(utterance.path)
    mel = mel_spectrogram(torch.from_numpy(wave)[None])[0].numpy()
    entry = _entry(cache, "f0", utterance)
    if not entry.is_file():
        write_arrays(entry, {"f0": pitch(wave)})
    path = aligned(mel, speech.mel.numpy())
    return {"mcd": cepstral_distortion(mel, speech.mel.numpy(), path),
            "f0_semitones": pitch_error(read_arrays(entry)["f0"], pitch(speech.wave), path)}


def cepstrum(mel: np.ndarray) -> np.ndarray:
    """Mel cepstrum [13, F] without its mean, of a natural-log mel [80, F]: ln mel = c_0 / 2 + sum of c_k cos(pi k (m + 1/2) / 80)."""
    bands = np.arange(len(mel)) + 0.5
    basis = np.cos(np.pi * np.arange(1, CEPSTRUM + 1)[:, None] * bands / len(mel))
    return 2 / len(mel) * basis @ np.asarray(mel, dtype=np.float64)


def aligned(mel: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pairs of frames [P, 2] of two mels, by dynamic time warping of their cepstra with steps of one frame in either or both.

    Computed diagonal by diagonal, as the cells of one do not depend on each other.
    """
    first, second = cepstrum(mel).T, cepstrum(other).T
    squared = np.square(first).sum(1)[:, None] + np.square(second).sum(1)[None] - 2 * first @ second.T
    rows, columns = squared.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    cost = np.sqrt(np.maximum(squared, 0))
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        total[i + 1, j + 1] = cost[i, j] + np.minimum(total[i, j], np.minimum(total[i, j + 1], total[i + 1, j]))
    path = [(rows, columns)]
    while path[-1] != (1, 1):
        i, j = path[-1]
        path.append(min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda cell: total[cell]))
    return np.array(path[::-1]) - 1


def cepstral_distortion(mel: np.ndarray, other: np.ndarray, path: np.ndarray) -> float:
    """Mel cepstral distortion in dB, the mean along the path of 10 / ln 10 sqrt(2 sum of squared differences), loudness left out.

    Of the cepstrum of our mel: figures of other analyses are not comparable.
    """
    difference = cepstrum(mel)[:, path[:, 0]] - cepstrum(other)[:, path[:, 1]]
    return float((10 / math.log(10) * np.sqrt(2 * np.square(difference).sum(0))).mean())


def pitch(wave: np.ndarray) -> np.ndarray:
    """F0 in Hz of each mel frame, NaN where unvoiced, by pYIN."""
    import librosa

    return librosa.pyin(np.asarray(wave, dtype=np.float32), fmin=F0_RANGE[0], fmax=F0_RANGE[1], sr=SAMPLE_RATE, hop_length=HOP)[0]


def pitch_error(f0: np.ndarray, other: np.ndarray, path: np.ndarray) -> float:
    """Root mean square of the difference in semitones along the path, where both are voiced; NaN where they never are."""
    pairs = path[(path[:, 0] < len(f0)) & (path[:, 1] < len(other))]
    difference = 12 * np.log2(f0[pairs[:, 0]] / other[pairs[:, 1]])
    difference = difference[np.isfinite(difference)]
    return float(np.sqrt(np.square(difference).mean())) if len(difference) else math.nan


def _entry(cache: Path, kind: str, utterance: Utterance) -> Path:
    status = os.stat(utterance.path)
    key = repr((os.path.abspath(utterance.path), utterance.text, status.st_size, status.st_mtime_ns))
    return cache / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None
