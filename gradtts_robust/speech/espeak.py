"""Speech and phonemes from espeak-ng: voices with exact alignments, and ARPAbet for words that no dictionary has.

espeak-ng is GPL and comes with the `voices` extra, in the `espeakng-loader` wheel.
"""
from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradtts_robust.speech import espeak_library
from gradtts_robust.speech.espeak_arpabet import transcription_to_arpabet
from gradtts_robust.speech.espeak_library import SAMPLE_RATE
from gradtts_robust.speech.espeak_tokens import assign, split_words, timed_groups, to_tokens

SILENCE = 0.1
LEVEL = 10 ** (-23 / 20)
PEAK = 0.95
# of 32768: what is softer is silence
QUIET = 32
_lock = threading.Lock()


@dataclass(frozen=True)
class Voice:
    """One of espeak's American English voices.

    Args:
        name: the speaker's name in manifests.
        variant: espeak's voice variant; "" for the plain voice.
        pitch: 0 to 100, about the variant's own pitch at 50.
        rate: words per minute, 80 to 450.
        range: liveliness of the intonation, 0 to 100.
        sex: "female" or "male", as it sounds.
        f0: median fundamental frequency as measured, Hz; 0 if not.
        target: kept out of pretraining, to be adapted to.
        base_only: widens the base, but is not among the voices chosen to be told apart.
    """

    name: str
    variant: str
    pitch: int = 50
    rate: int = 175
    range: int = 50
    sex: str = ""
    f0: float = 0.0
    target: bool = False
    base_only: bool = False


@dataclass
class Spoken:
    """What `speak` returns.

    Args:
        wave: float32 [N] in [-1, 1].
        sample_rate: Hz.
        phonemes: tokens: ARPAbet with stress digits, " " at both ends and between words, punctuation.
        ends: end of each token in seconds, never falling; the last is the wave's duration.
    """

    wave: np.ndarray
    sample_rate: int
    phonemes: list[str]
    ends: list[float]


def available() -> bool:
    """Whether espeak-ng is installed and starts."""
    try:
        with _lock:
            espeak_library.load_library()
    except ValueError:
        return False
    return True


def phonemize(words: list[str]) -> list[list[str]]:
    """ARPAbet with stress digits for each word as espeak's American English voice says it; [] where it says nothing.

    Raises:
        ValueError: the `voices` extra is not installed.
    """
    with _lock:
        return [transcription_to_arpabet(espeak_library.transcribe(word)) if word.strip() else [] for word in words]


def speak(text: str, *, voice: Voice, seed: int) -> Spoken:
    """Speaks `text`; the same text, voice and seed give the same samples.

    Args:
        text: English; figures are best written out, for the tokens know no borders within what "1984" becomes.
        voice: who speaks.
        seed: of espeak's noise, 0 to 2^31 - 1; only breathy voices have any.

    Raises:
        ValueError: no word in `text`, an unknown variant, or the `voices` extra is not installed.
    """
    return speak_all([text], voice=voice, seeds=[seed])[0]


def speak_all(texts: list[str], *, voice: Voice, seeds: list[int]) -> list[Spoken]:
    """Speaks each text as `speak` does, with the same result, but starts one process for all of them. Safe to call from threads.

    Raises:
        ValueError: no word in a text, an unknown variant, or the `voices` extra is not installed.
    """
    assert len(texts) == len(seeds)
    for text in texts:
        if not split_words(text):
            raise ValueError(f"nothing to speak in {text!r}; give a text with words")
    _check_variant(voice.variant)
    request = {
        "voice": f"en-us+{voice.variant}" if voice.variant else "en-us", "rate": voice.rate, "pitch": voice.pitch, "range": voice.range,
        "items": [{"text": text, "seed": seed} for text, seed in zip(texts, seeds)],
    }
    answer = _ask(request)
    spoken, start = [], 0
    for text in texts:
        line_end = answer.index(b"\n", start)
        header = json.loads(answer[start:line_end])
        samples = np.frombuffer(answer, dtype="<i2", count=header["samples"], offset=line_end + 1)
        spoken.append(_assemble(text, samples.astype(np.int64), header["phonemes"]))
        start = line_end + 1 + samples.nbytes
    return spoken


def _check_variant(variant: str) -> None:
    # espeak itself falls back to its plain voice without a word
    folder = espeak_library.data_path() / "voices" / "!v"
    if variant and variant not in os.listdir(folder):
        raise ValueError(f"espeak-ng has no voice variant {variant!r}; its variants are the files in {folder}")


def _ask(request: dict) -> bytes:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", espeak_library.__name__], input=json.dumps(request).encode(), capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ValueError(f"espeak-ng could not speak: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return done.stdout


def _assemble(text: str, samples: np.ndarray, events: list) -> Spoken:
    words = split_words(text)
    edges = [event[2] for event in events[1:]] + [len(samples)]
    # what has no name is a pause, or a glide between two vowels, which belongs to the first
    events = [event for event, edge in zip(events, edges) if event[0] or not np.any(np.abs(samples[event[2]:edge]) > QUIET)]
    spoken = assign(timed_groups(events, sample_rate=SAMPLE_RATE), phonemize([word.text for word in words]))
    silence = np.zeros(round(SILENCE * SAMPLE_RATE), dtype=np.float32)
    wave = np.concatenate([silence, _normalise(samples), silence])
    duration = len(wave) / SAMPLE_RATE
    tokens, ends = to_tokens(spoken, words, duration=duration, lead=len(silence) / SAMPLE_RATE)
    if len(tokens) < 3:
        raise ValueError(f"espeak-ng speaks nothing for {text!r}; give a text with words")
    return Spoken(wave=wave, sample_rate=SAMPLE_RATE, phonemes=tokens, ends=ends)


def _normalise(samples: np.ndarray) -> np.ndarray:
    # whole numbers, so that the gain is the same on every machine, however it sums
    magnitude = np.abs(samples)
    loud = magnitude[magnitude > QUIET]
    if not len(loud):
        return samples.astype(np.float32)
    gain = min(LEVEL / math.sqrt(int(np.square(loud).sum()) / len(loud)), PEAK / int(magnitude.max()))
    return samples.astype(np.float32) * np.float32(gain)
