"""How far a wave is from another, by its mel and by its short-time spectra: what is learnt from and what is measured."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gradtts_robust.speech.audio import mel_spectrogram

RESOLUTIONS = (512, 1024, 2048)
# of a squared magnitude, as in arXiv 1910.11480's losses
FLOOR = 1e-7


def mel_error(wave: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of the natural-log mels, per item: [B, N], [B, N] -> [B]."""
    with torch.no_grad():
        wanted = mel_spectrogram(truth)
    return (mel_spectrogram(wave) - wanted).abs().mean(dim=(1, 2))


def stft_error(wave: Tensor, truth: Tensor) -> Tensor:
    """Spectral convergence plus mean absolute difference of log magnitudes, mean of three resolutions (arXiv 1910.11480).

    Args:
        wave, truth: [B, N] float, N > 1024; no gradient flows into the truth.

    Returns:
        [B].
    """
    total = torch.zeros(len(wave))
    for size in RESOLUTIONS:
        made = squared_magnitude(wave, size)
        with torch.no_grad():
            wanted = squared_magnitude(truth, size)
        total = total + convergence(made.sqrt(), wanted.sqrt()) + (made.log() - wanted.log()).abs().mean(dim=(1, 2)) / 2
    return total / len(RESOLUTIONS)


def convergence(made: Tensor, wanted: Tensor) -> Tensor:
    """Norm of the difference of magnitudes over the norm of the wanted ones, per item: [B, F, K] twice -> [B]."""
    return (made - wanted).square().sum(dim=(1, 2)).sqrt() / wanted.square().sum(dim=(1, 2)).sqrt()


def squared_magnitude(wave: Tensor, size: int) -> Tensor:
    """Squared magnitudes [B, F, size // 2 + 1] by a Hann window of `size`, a quarter apart, at least 1e-7."""
    padded = F.pad(wave[:, None], (size // 2, size // 2), mode="reflect")[:, 0]
    spectrum = torch.fft.rfft(padded.unfold(1, size, size // 4) * torch.hann_window(size))
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=FLOOR)
