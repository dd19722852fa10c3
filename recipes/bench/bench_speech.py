"""Speech for the rows that need some: the user's own, or what the embedded voices say."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench_measure import Settings

from gradtts_robust.data.generated import generate
from gradtts_robust.data.manifest import read_manifest
from gradtts_robust.speech.audio import load_audio

TARGET, OTHERS, SENTENCES = "Andrea", ("Reed", "belinda"), 20
RATE, SECONDS = 16000, 4


@dataclass(frozen=True)
class Speech:
    """A manifest, whom of it to adapt to, and what it is in words."""

    manifest: Path
    speaker: str
    name: str


def speech(settings: Settings) -> Speech:
    """The user's manifest, or a minute each of three embedded voices, the first of them unknown to the shipped base."""
    if settings.manifest:
        return Speech(Path(settings.manifest), settings.speaker, f"{settings.speaker} of {Path(settings.manifest).name}")
    folder = settings.work / "corpus"
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        generate(folder, voices=[TARGET, *OTHERS], sentences_per_voice=7 if settings.quick else SENTENCES)
    return Speech(manifest, TARGET, f"the embedded voice {TARGET}")


def clips(manifest: Path, count: int) -> list[np.ndarray]:
    """Pieces of 4 s at 16 kHz, float32, from a few minutes of what the manifest lists; a piece may go on in the next clip."""
    whole = np.concatenate([load_audio(u.path, sample_rate=RATE) for u in read_manifest(manifest)[:60]])
    starts = np.random.default_rng(0).integers(0, len(whole) - SECONDS * RATE, count)
    return [whole[start:start + SECONDS * RATE].copy() for start in starts]
