"""Draws clips' spectrograms as they were, through Griffin-Lim and through the vocoder that ships: a row a clip.

    python recipes/vocoder/figure.py CLIP... --out docs/figures/vocoder.png
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


def through_vocoders(clip: Path) -> dict[str, torch.Tensor]:
    """The clip [N] as it was and as each vocoder makes it from its mel, by name."""
    wave = load_audio(clip)
    wave = torch.from_numpy(wave[: len(wave) // HOP * HOP])
    mel = mel_spectrogram(wave)
    return {"as it was": wave, **{name: load_vocoder(name)(mel)[0] for name in (GRIFFIN_LIM, SHIPPED_VOCODER)}}


def main() -> None:
    """Reads the command line and draws."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("clips", type=Path, nargs="+")
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--start", type=float, default=0.8, help="seconds")
    words.add_argument("--length", type=float, default=0.8, help="seconds")
    asked = words.parse_args()
    matplotlib.use("Agg")
    from matplotlib import pyplot

    first, last = (int(at * SAMPLE_RATE) for at in (asked.start, asked.start + asked.length))
    figure, axes = pyplot.subplots(len(asked.clips), 3, figsize=(12, 3.2 * len(asked.clips)), sharex=True, sharey=True,
                                   squeeze=False, layout="constrained")
    for clip, row in zip(asked.clips, axes):
        for axis, (title, wave) in zip(row, through_vocoders(clip).items()):
            shown = axis.imshow(decibels(wave[first:last].numpy()), origin="lower", aspect="auto", cmap="magma", vmin=-DECIBELS, vmax=0,
                                extent=(asked.start, asked.start + asked.length, 0, SAMPLE_RATE / 2000))
            axis.set_title(title)
        row[0].set_ylabel("kHz")
    for axis in axes[-1]:
        axis.set_xlabel("s")
    figure.colorbar(shown, ax=axes, label="dB below the loudest")
    with atomic_write(asked.out) as temporary:
        figure.savefig(temporary, dpi=90)


if __name__ == "__main__":
    main()
