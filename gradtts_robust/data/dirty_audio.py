"""Waves with noise or with another voice in them, at a given signal-to-noise ratio; written once, named by what went into them."""
from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

VERSION = "dirty audio 1"
"""Part of every name: change it where the same ingredients give another wave."""
PEAK = 0.95
MAINS = 50.0
HARMONICS = 20


def overlay(path: str, other: str, *, snr: float, seed: int, folder: str | os.PathLike | None) -> str:
    """Writes the voice of `path` with that of `other` over it, which begins anywhere and is repeated where it is shorter.

    Args:
        snr: power of the first to that of the second, dB.
        folder: where the wave is written, unless it is there already.

    Returns:
        The wave's path: 22.05 kHz, 16 bit, as long as the first.

    Raises:
        FileNotFoundError, ValueError: audio that cannot be used, or no folder.
    """
    def make(voice: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
        return _spoken(others[0], len(voice), np.random.default_rng(seed))

    return _mixed(path, [other], make, snr=snr, recipe=f"overlay {seed}", folder=folder)


def noisy(path: str, noise: str, babble: Sequence[str] = (), *, snr: float, seed: int, folder: str | os.PathLike | None) -> str:
    """Writes the voice of `path` with noise of a kind in `NOISES`; `babble` are the files of those who talk, else as `overlay`."""
    def make(voice: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
        return NOISES[noise](len(voice), np.random.default_rng(seed), others)

    return _mixed(path, babble, make, snr=snr, recipe=f"{noise} {seed}", folder=folder)


def _mixed(path: str, others: Sequence[str], make, *, snr: float, recipe: str, folder: str | os.PathLike | None) -> str:
    if folder is None:
        raise ValueError(f"{path}: to mix sound into it needs a folder to write to; give one")
    digest = hashlib.sha256(f"{VERSION} {recipe} {snr!r}".encode())
    for name in (path, *others):
        if not Path(name).is_file():
            raise FileNotFoundError(f"{name}: no such audio file; correct the path or remove the utterance")
        digest.update(hashlib.sha256(Path(name).read_bytes()).digest())
    written = Path(folder) / f"{digest.hexdigest()[:32]}.wav"
    if written.is_file():
        return os.path.abspath(written)
    from ..speech.audio import load_audio, save_wav

    voice = load_audio(path)
    added = make(voice, [load_audio(name) for name in others])
    powers = [float(np.mean(np.square(wave, dtype=np.float64))) for wave in (voice, added)]
    if min(powers) <= 0:
        raise ValueError(f"{path if powers[0] <= 0 else others[0]}: only silence, so that no ratio to it can be set; take it out")
    mixed = voice + added * np.sqrt(powers[0] / powers[1] / 10 ** (snr / 10))
    save_wav(written, mixed * min(1.0, PEAK / float(np.abs(mixed).max())))
    return os.path.abspath(written)


def _spoken(wave: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    return np.resize(np.roll(wave, int(rng.integers(len(wave)))), length)


def _white(length: int, rng: np.random.Generator, others: list[np.ndarray]) -> np.ndarray:
    return rng.standard_normal(length)


def _pink(length: int, rng: np.random.Generator, others: list[np.ndarray]) -> np.ndarray:
    """Power falls with 1 / frequency."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return np.fft.irfft(spectrum, length)


def _hum(length: int, rng: np.random.Generator, others: list[np.ndarray]) -> np.ndarray:
    """The mains frequency and its harmonics, their amplitude falling with their number."""
    from ..speech.audio import SAMPLE_RATE

    time = np.arange(length) / SAMPLE_RATE
    phases = rng.uniform(0, 2 * np.pi, HARMONICS)
    return sum(np.sin(2 * np.pi * MAINS * k * time + phase) / k for k, phase in enumerate(phases, 1))


def _babble(length: int, rng: np.random.Generator, others: list[np.ndarray]) -> np.ndarray:
    """Several voices, equally loud."""
    return sum(_spoken(wave, length, rng) / max(float(np.sqrt(np.mean(wave**2))), 1e-8) for wave in others)


NOISES = {"white": _white, "pink": _pink, "hum": _hum, "babble": _babble}
