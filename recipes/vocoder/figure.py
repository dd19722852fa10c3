"""Draws one clip's spectrogram as it was, through Griffin-Lim and through the vocoder that ships.

    python recipes/vocoder/figure.py CLIP --out docs/figures/vocoder.png
"""
from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch

from gradtts_robust.files import atomic_write
from gradtts_robust.speech.audio import HOP, SAMPLE_RATE, load_audio, mel_spectrogram
from gradtts_robust.speech.vocoder import GRIFFIN_LIM, SHIPPED_VOCODER, load_vocoder

WINDOW, STEP = 1024, 128
DECIBELS = 75


def decibels(wave: np.ndarray) -> np.ndarray:
    """Levels [513, F] in dB below the loudest bin."""
    spectrum = torch.stft(torch.from_numpy(wave), WINDOW, STEP, window=torch.hann_window(WINDOW), return_complex=True)
    level = 20 * torch.log10(spectrum.abs().clamp(min=1e-6)).numpy()
    return level - level.max()


def main() -> None:
    """Reads the command line and draws."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("clip", type=Path)
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--start", type=float, default=1.0, help="seconds")
    words.add_argument("--length", type=float, default=1.5, help="seconds")
    asked = words.parse_args()
    matplotlib.use("Agg")
    from matplotlib import pyplot

    wave = load_audio(asked.clip)
    wave = torch.from_numpy(wave[: len(wave) // HOP * HOP])
    mel = mel_spectrogram(wave)
    waves = {"as it was": wave, **{name: load_vocoder(name)(mel)[0] for name in (GRIFFIN_LIM, SHIPPED_VOCODER)}}
    first, last = (int(at * SAMPLE_RATE) for at in (asked.start, asked.start + asked.length))
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
    for axis, (title, one) in zip(axes, waves.items()):
        shown = axis.imshow(decibels(one[first:last].numpy()), origin="lower", aspect="auto", cmap="magma", vmin=-DECIBELS, vmax=0,
                            extent=(asked.start, asked.start + asked.length, 0, SAMPLE_RATE / 2000))
        axis.set(title=title, xlabel="s")
    axes[0].set_ylabel("kHz")
    figure.colorbar(shown, ax=axes, label="dB below the loudest")
    with atomic_write(asked.out) as temporary:
        figure.savefig(temporary, dpi=90)


if __name__ == "__main__":
    main()
