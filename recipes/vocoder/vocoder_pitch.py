"""Pitch and periodicity by autocorrelation: whether a vocoder keeps the tune, and whether it buzzes or grows hoarse."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradtts_robust.speech.audio import HOP, SAMPLE_RATE

WINDOW = 1024
LOWEST, HIGHEST = 65.0, 400.0
VOICED = 0.6
# a frame this far below the loudest is silence
SILENCE = 0.03
GROSS = 0.2


@dataclass
class Pitch:
    """Per frame of 256 samples: `f0` [F] in Hz, `strength` [F] of the periodicity, at most about 1, and `voiced` [F]."""

    f0: Tensor
    strength: Tensor
    voiced: Tensor


def pitch(wave: Tensor) -> Pitch:
    """Highest peak of the autocorrelation over that of the window (Boersma 1993), without his path search.

    Args:
        wave: [N] float at 22.05 kHz, N >= 1024.
    """
    window = torch.hann_window(WINDOW)
    frames = wave.unfold(0, WINDOW, HOP)
    frames = (frames - frames.mean(dim=1, keepdim=True)) * window
    shortest, longest = int(SAMPLE_RATE / HIGHEST), int(SAMPLE_RATE / LOWEST)
    ours, windows = _autocorrelation(frames), _autocorrelation(window[None])
    normal = (ours / ours[:, :1].clamp(min=1e-9)) / (windows / windows[:, :1])
    # slightly for short periods: two periods match as well as one
    penalty = 0.02 * torch.log2(torch.arange(shortest, longest) / shortest)
    at = (normal[:, shortest:longest] - penalty).argmax(dim=1) + shortest
    strength = normal.gather(1, at[:, None])[:, 0]
    loud = frames.square().mean(dim=1).sqrt()
    return Pitch(SAMPLE_RATE / at, strength, (strength > VOICED) & (loud > SILENCE * loud.max()))


def _autocorrelation(frames: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(frames, n=2 * WINDOW)
    return torch.fft.irfft(spectrum.real.square() + spectrum.imag.square())[:, :WINDOW]


def gross_errors(made: Pitch, truth: Pitch) -> float:
    """Share of the frames voiced in truth whose pitch is more than a fifth off; in [0, 1], NaN where nothing is voiced."""
    off = (made.f0 / truth.f0 - 1).abs() > GROSS
    return float(off[truth.voiced].float().mean())


def periodicity_lost(made: Pitch, truth: Pitch) -> float:
    """Mean fall of the strength over the frames voiced in truth; below 0 where what was made is more periodic than speech."""
    return float((truth.strength - made.strength)[truth.voiced].mean())
