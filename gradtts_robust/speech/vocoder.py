"""From mel to sound: Griffin-Lim, which needs no weights, the small vocoder that ships, and the original's HiFi-GAN checkpoints."""
from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from gradtts_robust.config import DEFAULT_VOCODER
from gradtts_robust.files import shipped_weights
from gradtts_robust.speech.audio import FMAX, FMIN, HOP, N_FFT, N_MELS, SAMPLE_RATE, mel_filters
from gradtts_robust.speech.hifigan import HifiGanGenerator, fuse_weight_norm
from gradtts_robust.speech.phase import griffin_lim
from gradtts_robust.speech.spectral import SpectralCheckpoint, load_spectral

GRIFFIN_LIM = "griffin-lim"
SHIPPED_VOCODER = "vocoder-small"


class Vocoder(Protocol):
    """Anything that turns mels [B, 80, F] into waves [B, 256 F] of `sample_rate` Hz; `name` goes into results tables."""

    name: str
    sample_rate: int

    def __call__(self, mel: Tensor) -> Tensor: ...


def _checked(mel: Tensor) -> Tensor:
    if mel.dim() != 3 or mel.shape[1] != N_MELS or mel.shape[2] == 0:
        raise ValueError(f"a mel of shape {tuple(mel.shape)} cannot be voiced; give [B, {N_MELS}, F] with F > 0")
    return mel.detach().float()


@lru_cache(maxsize=4)
def _inverse_filters(device: torch.device) -> Tensor:
    filters = mel_filters(n_fft=N_FFT, n_mels=N_MELS, sample_rate=SAMPLE_RATE, fmin=FMIN, fmax=FMAX, dtype=torch.float64)
    return torch.linalg.pinv(filters).float().to(device)


def linear_magnitude(mel: Tensor, *, iterations: int = 32) -> Tensor:
    """Non-negative magnitudes whose mel is `mel`: least squares by multiplicative updates from the pseudo-inverse.

    The updates are Lee and Seung's (2001), w <- w (A' m) / (A' A w): the pseudo-inverse alone has negative bins, and
    cutting those off leaves a mel that is not the one asked for.

    Args:
        mel: natural-log mel [B, 80, F].
        iterations: of the updates; 0 for the pseudo-inverse with its negative bins at a floor.

    Returns:
        [B, 513, F]; above 8 kHz, where no filter looks, close to 0.
    """
    filters = mel_filters(n_fft=N_FFT, n_mels=N_MELS, sample_rate=SAMPLE_RATE, fmin=FMIN, fmax=FMAX, device=mel.device)
    wanted = mel.exp()
    magnitude = (_inverse_filters(mel.device) @ wanted).clamp(min=1e-6)
    numerator = filters.T @ wanted
    for _ in range(iterations):
        magnitude = magnitude * numerator / (filters.T @ (filters @ magnitude)).clamp(min=1e-10)
    return magnitude


class GriffinLim:
    """Phase by the fast Griffin-Lim algorithm (Perraudin et al. 2013); the same mel always gives the same wave.

    Args:
        iterations: phase estimates; momentum: of their acceleration, in [0, 1).
        seed: of the phase that it starts from, one and the same for every item of a batch.
        device: where mels are moved to and waves come back on.
    """

    name = GRIFFIN_LIM
    sample_rate = SAMPLE_RATE

    def __init__(self, *, iterations: int = 32, momentum: float = 0.99, seed: int = 0, device: str | torch.device = "cpu"):
        assert iterations > 0 and 0 <= momentum < 1
        self.iterations, self.momentum, self.seed = iterations, momentum, seed
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, mel: Tensor) -> Tensor:
        """Turns natural-log mels [B, 80, F] into waves [B, 256 F] float32; `ValueError` for another shape."""
        magnitude = linear_magnitude(_checked(mel).to(self.device)).transpose(1, 2).contiguous()
        generator = torch.Generator().manual_seed(self.seed)
        turns = torch.rand(magnitude.shape[1:], generator=generator).to(self.device)
        phase = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
        return griffin_lim(magnitude, phase, iterations=self.iterations, momentum=self.momentum)


class SpectralVocoder:
    """Magnitudes and first phases by a small network, then Griffin-Lim's iterations; the same mel always gives the same wave."""

    sample_rate = SAMPLE_RATE

    def __init__(self, checkpoint: SpectralCheckpoint, *, name: str, device: str | torch.device = "cpu"):
        self.name = name
        self.device = torch.device(device)
        self.generator = checkpoint.generator.eval().requires_grad_(False).to(self.device)
        self.iterations, self.momentum, self.keep = checkpoint.iterations, checkpoint.momentum, checkpoint.keep

    @torch.no_grad()
    def __call__(self, mel: Tensor) -> Tensor:
        """Turns natural-log mels [B, 80, F] into waves [B, 256 F] float32; `ValueError` for another shape."""
        mel = _checked(mel).to(self.device)
        guess = self.generator(mel)
        return griffin_lim(guess.magnitude, guess.phase, iterations=self.iterations, momentum=self.momentum, mel=mel, keep=self.keep)


class HifiGan:
    """A HiFi-GAN generator (arXiv 2010.05646) with its checkpoint's name."""

    sample_rate = SAMPLE_RATE

    def __init__(self, generator: HifiGanGenerator, *, name: str, device: str | torch.device = "cpu"):
        self.name = name
        self.device = torch.device(device)
        self.generator = generator.eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def __call__(self, mel: Tensor) -> Tensor:
        """Turns natural-log mels [B, 80, F] into waves [B, 256 F] float32; `ValueError` for another shape."""
        mel = _checked(mel).to(self.device)
        return self.generator(mel)[:, 0, : HOP * mel.shape[2]]


def load_vocoder(name: str | os.PathLike = DEFAULT_VOCODER, config: str | os.PathLike | Mapping | None = None,
                 device: str | torch.device = "cpu") -> Vocoder:
    """Makes a vocoder.

    Args:
        name: `griffin-lim`; `vocoder-small`, which ships; a `.safetensors` file made as that one; or a HiFi-GAN generator
            checkpoint as the original saves it (`generator.pt`, `g_02500000`): `{"generator": state_dict}` or the bare
            state dict, weight norm in place or removed.
        config: for HiFi-GAN, its JSON file or that file's values; left out, it is looked for beside the checkpoint:
            `<name>.json`, `<name>-config.json`, `config.json`.
        device: where it computes.

    Returns:
        A callable mel [B, 80, F] -> wave [B, 256 F] with `.name` and `.sample_rate`.

    Raises:
        FileNotFoundError: no such checkpoint, or no configuration beside it.
        ValueError: a file that is truncated or something else, weights that do not fit the configuration, or a
            configuration for other mels than ours.
    """
    path = shipped_vocoder() if str(name) == SHIPPED_VOCODER else Path(name)
    if str(name) == GRIFFIN_LIM or path.suffix == ".safetensors":
        if config is not None:
            raise ValueError(f"{name} takes no configuration; name a HiFi-GAN checkpoint with it, or leave it out")
    if str(name) == GRIFFIN_LIM:
        return GriffinLim(device=device)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such vocoder; use '{GRIFFIN_LIM}', '{SHIPPED_VOCODER}' or the path of a "
                                ".safetensors vocoder or a HiFi-GAN generator checkpoint")
    if path.suffix == ".safetensors":
        return SpectralVocoder(load_spectral(path), name=path.stem, device=device)
    return _load_hifigan(path, config, device)


def shipped_vocoder() -> Path:
    """Where the vocoder that ships lies, see `files.shipped_weights`."""
    return shipped_weights(SHIPPED_VOCODER, instead=f"use the vocoder '{GRIFFIN_LIM}'")


def _load_hifigan(path: Path, config: str | os.PathLike | Mapping | None, device: str | torch.device) -> HifiGan:
    weights = _read_generator(path)
    values, origin = _read_config(path, config)
    _check_mels(values, origin)
    try:
        generator = HifiGanGenerator.from_config(values)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"setting {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{origin}: not a HiFi-GAN configuration ({reason})") from error
    try:
        generator.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        detail = [line.strip() for line in str(error).splitlines()[1:2]]
        raise ValueError(f"{path}: its weights do not fit the architecture in {origin}: {' '.join(detail)[:160]}") from error
    return HifiGan(generator, name=path.stem, device=device)


def _read_generator(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a HiFi-GAN generator checkpoint, or cut off; fetch it again") from error
    weights = content.get("generator", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path}: not a HiFi-GAN generator checkpoint: it holds no state dict under 'generator'")
    if not any(key.startswith("conv_pre.") for key in weights):
        raise ValueError(f"{path}: not a HiFi-GAN generator checkpoint: it has no 'conv_pre' weights")
    return fuse_weight_norm(weights)


def _read_config(path: Path, config: str | os.PathLike | Mapping | None) -> tuple[Mapping, str]:
    if isinstance(config, Mapping):
        return config, "the given configuration"
    if config is None:
        beside = [path.with_name(name) for name in (f"{path.stem}.json", f"{path.stem}-config.json", "config.json")]
        found = [file for file in beside if file.is_file()]
        if not found:
            raise FileNotFoundError(f"{path}: its configuration is not beside it ({', '.join(f.name for f in beside)}); "
                                    "put it there or name it")
        config = found[0]
    config = Path(config)
    if not config.is_file():
        raise FileNotFoundError(f"{config}: no such HiFi-GAN configuration")
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config}: not JSON ({error})") from error
    return values if isinstance(values, dict) else {}, str(config)


def _check_mels(values: Mapping, origin: str) -> None:
    ours = {"num_mels": N_MELS, "n_fft": N_FFT, "win_size": N_FFT, "hop_size": HOP, "sampling_rate": SAMPLE_RATE,
            "fmin": FMIN, "fmax": FMAX}
    for key, value in ours.items():
        if key in values and values[key] != value:
            raise ValueError(f"{origin}: {key} is {values[key]} where this project's mels have {value:g}; "
                             "use a vocoder trained on 22.05 kHz mels of 80 bands up to 8 kHz")
