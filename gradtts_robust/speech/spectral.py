"""A small network that guesses magnitudes and phases from a mel, at the mel's own rate, as Vocos does (arXiv 2306.00814)."""
from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gradtts_robust.files import atomic_write
from gradtts_robust.speech.audio import FMAX, FMIN, HOP, N_FFT, N_MELS, SAMPLE_RATE, mel_filters
from gradtts_robust.speech.phase import fit_to_mel

FORMAT = "gradtts-robust vocoder 1"
METADATA = "gradtts-robust"
MEL = {"sample_rate": SAMPLE_RATE, "n_fft": N_FFT, "hop": HOP, "n_mels": N_MELS, "fmin": FMIN, "fmax": FMAX, "scale": "natural log"}
BINS = N_FFT // 2 + 1
# exp(6) is above the magnitude of any tone within [-1, 1]
LARGEST_LOG = 6.0
# updates that bring the guessed magnitudes to the mel asked for
FITS = 4


@dataclass
class Spectrum:
    """A guessed spectrum.

    Args:
        magnitude: [B, F, 513], > 0.
        phase: [B, F, 513] complex of modulus 1.
    """

    magnitude: Tensor
    phase: Tensor


class Block(nn.Module):
    """A ConvNeXt block: what neighbouring frames hold, then a perceptron on every frame; [B, F, C] -> [B, F, C]."""

    def __init__(self, width: int, inner: int, scale: float):
        super().__init__()
        self.near = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, hidden: Tensor) -> Tensor:
        near = self.near(hidden.transpose(1, 2)).transpose(1, 2)
        return hidden + self.scale * self.narrow(F.gelu(self.widen(self.norm(near))))


class SpectralGenerator(nn.Module):
    """Mel -> magnitudes and phases of the 513 bins of every frame.

    Magnitudes start from the mel itself, read between the centres of its bands; the network says what to add in the
    logarithm, and `fit_to_mel` brings the sum to the mel asked for. Phases are directions in the plane, told from the
    middle of the frame, where neighbouring bins agree.

    Args:
        width: channels of the trunk, > 0.
        inner: channels within a block, > 0.
        blocks: how many, > 0.

    Raises:
        ValueError: a size that is not a positive whole number.
    """

    def __init__(self, *, width: int = 256, inner: int = 512, blocks: int = 5):
        super().__init__()
        for name, value in (("width", width), ("inner", inner), ("blocks", blocks)):
            if not isinstance(value, int) or value <= 0:
                raise ValueError(f"{name} is {value!r}; it must be a whole number above 0")
        self.sizes = {"width": width, "inner": inner, "blocks": blocks}
        self.enter = nn.Conv1d(N_MELS, width, 7, padding=3)
        self.first_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, inner, 1 / blocks) for _ in range(blocks))
        self.last_norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 3 * BINS)
        self.between = nn.Linear(N_MELS, BINS)
        with torch.no_grad():
            self.leave.weight[:BINS] *= 0.1
            self.leave.bias.zero_()
            weight, bias = _between_bands()
            self.between.weight.copy_(weight)
            self.between.bias.copy_(bias)
        # turns a phase told from the frame's middle into one told from its start
        self.register_buffer("turn", 1.0 - 2.0 * (torch.arange(BINS) % 2), persistent=False)

    def forward(self, mel: Tensor, *, fits: int = FITS) -> Spectrum:
        """Guesses from natural-log mels [B, 80, F] float32, any F > 0; `fits` updates bring the magnitudes to the mel."""
        hidden = self.first_norm(self.enter(mel).transpose(1, 2))
        for block in self.blocks:
            hidden = block(hidden)
        change, real, imaginary = self.leave(self.last_norm(hidden)).split(BINS, dim=2)
        magnitude = (self.between(mel.transpose(1, 2)) + change).clamp(max=LARGEST_LOG).exp()
        magnitude = fit_to_mel(magnitude, mel, iterations=fits)
        length = torch.sqrt(real.square() + imaginary.square() + 1e-8)
        return Spectrum(magnitude, torch.complex(self.turn * real / length, self.turn * imaginary / length))


@dataclass
class SpectralCheckpoint:
    """What a vocoder's file holds.

    Args:
        generator: the network.
        iterations, momentum, keep: of `speech.phase.griffin_lim` after it, as chosen on held-out speech.
    """

    generator: SpectralGenerator
    iterations: int
    momentum: float
    keep: float


def save_spectral(path: str | os.PathLike, checkpoint: SpectralCheckpoint, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes a vocoder as safetensors with its settings in the metadata, whole or not at all.

    Args:
        path: ends in `.safetensors`.
        dtype: of the weights in the file.
    """
    tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in checkpoint.generator.state_dict().items()}
    metadata = {"format": FORMAT, "mel": MEL, "sizes": checkpoint.generator.sizes, "iterations": checkpoint.iterations,
                "momentum": checkpoint.momentum, "keep": checkpoint.keep}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA: json.dumps(metadata)})


def load_spectral(path: str | os.PathLike) -> SpectralCheckpoint:
    """Reads a vocoder onto the CPU in float32.

    Raises:
        ValueError: a file that is truncated or something else, made for other mels, or whose weights do not fit its settings.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy it again, it may be truncated") from None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise ValueError(f"{path}: not a vocoder of this version ({FORMAT}); a voice's checkpoint goes to --model")
    if settings["mel"] != MEL:
        raise ValueError(f"{path}: made for other mels than this version's; use the version that made it")
    try:
        generator = SpectralGenerator(**settings["sizes"])
        generator.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        detail = " ".join(line.strip() for line in str(error).splitlines()[1:2])
        raise ValueError(f"{path}: its weights do not fit its settings: {detail[:160]}") from None
    return SpectralCheckpoint(generator, settings["iterations"], settings["momentum"], settings["keep"])


def _between_bands() -> tuple[Tensor, Tensor]:
    """Weight [513, 80] and bias [513] that read a bin's log magnitude between the log mels of the two nearest bands."""
    filters = mel_filters(n_fft=N_FFT, n_mels=N_MELS, sample_rate=SAMPLE_RATE, fmin=FMIN, fmax=FMAX, dtype=torch.float64)
    bins = torch.arange(BINS, dtype=torch.float64)
    total = filters.sum(dim=1)
    centres = filters @ bins / total
    upper = torch.searchsorted(centres, bins).clamp(1, N_MELS - 1)
    share = ((bins - centres[upper - 1]) / (centres[upper] - centres[upper - 1])).clamp(0, 1)
    weight = torch.zeros(BINS, N_MELS, dtype=torch.float64)
    rows = torch.arange(BINS)
    weight[rows, upper - 1] = 1 - share
    weight[rows, upper] += share
    return weight.float(), -(weight @ total.log()).float()
