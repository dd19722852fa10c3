"""What happens to a voice on its way to a judge: rooms, filters, noise, other voices, telephones; for batches of waves, seeded."""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

RATE = 16000
ROOM = 4800  # samples of an impulse response: 0.3 s
_FILTER_POINTS = 8


@dataclass(frozen=True)
class Augmentation:
    """Shares of the waves in [0, 1] to which each thing happens, and ranges of what happens.

    Args:
        filter, filter_db: a smooth filter over frequency, and its standard deviation in dB.
        room, decay: an impulse response of decaying noise, and its time to fall by 60 dB, in seconds.
        noise, noise_snr: coloured noise, steady or swelling, and its signal-to-noise ratio in dB.
        babble, babble_snr: other voices of the batch on top, in dB.
        band: a telephone's band or a low-pass.
        clip: soft clipping; mu_law: eight bits.
        mask: a band and a stretch of the log-mel blanked.
    """

    filter: float = 0.6
    filter_db: float = 5.0
    room: float = 0.4
    decay: tuple[float, float] = (0.1, 0.7)
    noise: float = 0.5
    noise_snr: tuple[float, float] = (5.0, 30.0)
    babble: float = 0.25
    babble_snr: tuple[float, float] = (8.0, 20.0)
    band: float = 0.3
    clip: float = 0.15
    mu_law: float = 0.15
    mask: float = 0.6

    def milder(self, factor: float) -> Augmentation:
        """The same with every share times `factor`."""
        shares = ("filter", "room", "noise", "babble", "band", "clip", "mu_law", "mask")
        return replace(self, **{name: factor * getattr(self, name) for name in shares})


def augment(waves: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Passes waves [B, N] at 16 kHz through filter, room, noises and codecs, each with its own chance; [B, N] of unit power."""
    waves = _unit_power(_through_rooms(waves, settings, generator))
    noisy = waves + _noise(waves, settings, generator) + _babble(waves, settings, generator)
    return _unit_power(_coded(_unit_power(noisy), settings, generator))


def mask_features(features: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Sets a band of up to a sixth and a stretch of up to a sixth of log-mels [B, F, M] to 0, their mean (SpecAugment)."""
    kept = torch.ones_like(features)
    for axis in (1, 2):
        size = features.shape[axis]
        width = _uniform(len(features), 0, size / 6, generator) * _chosen(len(features), settings.mask, generator)
        start = _uniform(len(features), 0, 1, generator) * (size - width)
        place = torch.arange(size).expand(len(features), size)
        inside = (place >= start[:, None]) & (place < (start + width)[:, None])
        kept = kept * (~inside).float().unsqueeze(2 if axis == 1 else 1)
    return features * kept


def _through_rooms(waves: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    count, length = waves.shape
    size = _fft_size(length + ROOM)
    gain_db = torch.randn(count, _FILTER_POINTS, generator=generator) * settings.filter_db
    gain_db = gain_db * _chosen(count, settings.filter, generator)[:, None]
    gain = torch.nn.functional.interpolate(gain_db[:, None], size=size // 2 + 1, mode="linear", align_corners=True)[:, 0]
    decay = _uniform(count, *settings.decay, generator)
    time = torch.arange(ROOM) / RATE
    tail = torch.randn(count, ROOM, generator=generator) * torch.exp(-6.9 * time / decay[:, None])
    tail = tail / tail.norm(dim=1, keepdim=True) * _uniform(count, 0.2, 1.2, generator)[:, None]
    response = tail * _chosen(count, settings.room, generator)[:, None]
    response[:, 0] += 1
    spectrum = torch.fft.rfft(waves, size) * torch.fft.rfft(response, size) * 10 ** (gain / 20)
    return torch.fft.irfft(spectrum, size)[:, :length]


def _noise(waves: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Noise of a random slope over frequency (0 to -9 dB an octave), half of it swelling and sinking, at a random level."""
    count, length = waves.shape
    size = _fft_size(length)
    hertz = torch.fft.rfftfreq(size, 1 / RATE).clamp(min=50)
    slope = _uniform(count, 0, 1.5, generator)
    spectrum = torch.fft.rfft(torch.randn(count, size, generator=generator)) * (hertz / 1000) ** -slope[:, None]
    noise = torch.fft.irfft(spectrum, size)[:, :length]
    swell = torch.nn.functional.interpolate(torch.rand(count, 1, 9, generator=generator), size=length, mode="linear")[:, 0]
    noise = noise * torch.where(_chosen(count, 0.5, generator)[:, None] > 0, swell, torch.ones(()))
    return _at_level(noise, settings.noise_snr, settings.noise, generator)


def _babble(waves: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """One to four other waves of the batch together, at a random level below the wave."""
    count = len(waves)
    weights = torch.zeros(count, count)
    voices = torch.randint(1, 5, (count,), generator=generator).tolist()
    for row, number in enumerate(voices):
        weights[row, (row + 1 + torch.randperm(count - 1, generator=generator)[:number]) % count] = 1
    return _at_level(weights @ waves, settings.babble_snr, settings.babble, generator)


def _coded(waves: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    count, length = waves.shape
    drive = _uniform(count, 0.3, 1.0, generator)[:, None]
    clipped = torch.tanh(waves * drive) / drive
    waves = torch.where(_chosen(count, settings.clip, generator)[:, None] > 0, clipped, waves)
    size = _fft_size(length)
    hertz = torch.fft.rfftfreq(size, 1 / RATE)
    low = torch.where(_chosen(count, 0.5, generator) > 0, torch.full((count,), 300.0), torch.zeros(count))
    high = torch.where(low > 0, torch.full((count,), 3400.0), _uniform(count, 3000, 7500, generator))
    pass_band = torch.sigmoid((hertz - low[:, None] + 1) / 25) * torch.sigmoid((high[:, None] - hertz) / 100)
    pass_band = torch.where(_chosen(count, settings.band, generator)[:, None] > 0, pass_band, torch.ones(()))
    waves = torch.fft.irfft(torch.fft.rfft(waves, size) * pass_band, size)[:, :length]
    peak = waves.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
    squeezed = torch.sign(waves) * torch.log1p(255 * waves.abs() / peak) / torch.log(torch.tensor(256.0))
    steps = torch.round(squeezed * 127) / 127
    decoded = torch.sign(steps) * (256 ** steps.abs() - 1) / 255 * peak
    return torch.where(_chosen(count, settings.mu_law, generator)[:, None] > 0, decoded, waves)


def _at_level(sound: Tensor, snr: tuple[float, float], share: float, generator: torch.Generator) -> Tensor:
    level = 10 ** (-_uniform(len(sound), *snr, generator) / 20) * _chosen(len(sound), share, generator)
    return _unit_power(sound) * level[:, None]


def _unit_power(waves: Tensor) -> Tensor:
    return waves / waves.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _chosen(count: int, share: float, generator: torch.Generator) -> Tensor:
    """1 for about `share` of `count` things, 0 for the rest."""
    return (torch.rand(count, generator=generator) < share).float()


def _fft_size(length: int) -> int:
    """The next length that a Fourier transform is quick for."""
    import scipy.fft

    return scipy.fft.next_fast_len(length + length % 2, real=True)
