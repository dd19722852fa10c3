"""Sounds of every speaker in one file: natural, and voiced again by Griffin-Lim from their mels.

    python recipes/judge/prepare.py runs/judge/train-clean-100.csv runs/judge/embedded/manifest.csv --out runs/judge/waves.npz
"""
from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gradtts_robust.data.manifest import read_manifest
from gradtts_robust.files import atomic_write
from gradtts_robust.speech.audio import SAMPLE_RATE, load_audio, mel_spectrogram, resample
from gradtts_robust.speech.vocoder import load_vocoder

RATE = 16000


@dataclass
class Sounds:
    """What is heard of the speakers: name -> (natural, resynthesised), [N] int16 at 16 kHz each; and who of them is set apart."""

    speakers: dict[str, tuple[np.ndarray, np.ndarray]]
    held_out: list[str]


def crop(wave: np.ndarray, start: int, length: int) -> np.ndarray:
    """`length` samples or fewer of a wave of `Sounds`, float32 within [-1, 1]."""
    return wave[start: start + length].astype(np.float32) / 32767


def resynthesised(wave: np.ndarray, vocoder) -> np.ndarray:
    """A wave [N] at 22.05 kHz through mel and vocoder, at 16 kHz."""
    mel = mel_spectrogram(torch.from_numpy(wave)[None])
    return resample(vocoder(mel)[0].numpy(), source_rate=SAMPLE_RATE, target_rate=RATE)


def gather(manifests: list[Path]) -> dict[str, np.ndarray]:
    """Reads, voices again and joins the utterances of every speaker; arrays `natural/NAME` and `again/NAME`, int16."""
    vocoder, parts = load_vocoder("griffin-lim"), defaultdict(list)
    for manifest in manifests:
        for number, utterance in enumerate(read_manifest(manifest), 1):
            wave = load_audio(utterance.path)
            wave = wave / max(1e-6, float(np.abs(wave).max()))
            parts[f"natural/{utterance.speaker}"].append(resample(wave, source_rate=SAMPLE_RATE, target_rate=RATE))
            parts[f"again/{utterance.speaker}"].append(resynthesised(wave, vocoder))
            if number % 100 == 0:
                print(f"{manifest}: {number} utterances", flush=True)
    return {name: np.round(np.clip(np.concatenate(waves), -1, 1) * 32767).astype(np.int16) for name, waves in parts.items()}


def numbered(names: Iterable[str]) -> list[str]:
    """Each name that is a number, as real speakers of LibriSpeech have, once and by number."""
    return sorted({name for name in names if name.isdecimal()}, key=int)


def read_sounds(path: Path, *, hold_out: int) -> Sounds:
    """Opens what `main` wrote; the last `hold_out` speakers with a number for a name (LibriSpeech's) are set apart.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: fewer real speakers than are to be held out.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; recipes/judge/prepare.py makes it")
    with np.load(path) as arrays:
        names = sorted({name.partition("/")[2] for name in arrays.files})
        speakers = {name: tuple(arrays[f"{kind}/{name}"] for kind in ("natural", "again")) for name in names}
    real = numbered(names)
    if len(real) < hold_out:
        raise ValueError(f"{path}: {len(real)} speakers with a number for a name, and {hold_out} are to be held out; lower --hold-out")
    return Sounds(speakers, real[len(real) - hold_out:])


def main() -> None:
    """Reads the manifests, writes the sounds."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("manifests", type=Path, nargs="+")
    words.add_argument("--out", type=Path, default=Path("runs/judge/waves.npz"))
    asked = words.parse_args()
    with atomic_write(asked.out) as temporary:
        np.savez(temporary, **gather(asked.manifests))


if __name__ == "__main__":
    main()
