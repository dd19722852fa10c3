"""A lean score network: a few million parameters, made to train and to sample on two CPU cores."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradtts_robust.config import ModelConfig
from gradtts_robust.model.diffusion import NoiseSchedule
from gradtts_robust.model.encoder import N_MELS
from gradtts_robust.model.norm_silu import norm_silu

TIME_DIM = 64
EMBEDDING_DIM = 128
BLOCKS = 2


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of every position by itself.

    Unlike group normalisation it looks at no other frame: a mel's scores do not depend on how long the batch is padded,
    and short training segments have the same statistics as whole sentences. A view in channels_last memory, so no copy.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def silu(self, features: Tensor, mask: Tensor, scale: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> Tensor:
        """silu(scale norm(features) + shift) mask; scale and shift [B, C], mask [B, 1, 1, W]."""
        shape = len(features), -1
        return norm_silu(features, (self.norm.weight * scale).expand(shape), (self.norm.bias * scale + shift).expand(shape), mask)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions; the time-and-speaker embedding scales and shifts between them (FiLM, arXiv 1709.07871)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm_1 = ChannelNorm(channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(EMBEDDING_DIM, 2 * channels)
        self.norm_2 = ChannelNorm(channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        for layer in (self.film, self.conv_2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, mask: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding).chunk(2, dim=1)
        hidden = self.conv_1(self.norm_1.silu(features, mask))
        return features + self.conv_2(self.norm_2.silu(hidden, mask, 1 + scale, shift))


class FrequencyAttention(nn.Module):
    """Self-attention among the frequency rows of each frame: sees the whole spectrum, whatever the length in time."""

    def __init__(self, channels: int, rows: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.position = nn.Parameter(torch.randn(rows, channels) * 0.02)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        batch, channels, rows, frames = features.shape
        tokens = self.norm(features).permute(0, 3, 2, 1).reshape(batch * frames, rows, channels) + self.position
        query, key, value = self.qkv(tokens).view(batch * frames, rows, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, frames, rows, channels)
        return features + self.out(mixed).permute(0, 3, 2, 1)


class LeanUNet(nn.Module):
    """Score network over a 2 x 2 pixel-unshuffled mel, arXiv 1609.05158, with three resolutions below it.

    It sees x_t - mu, which has about unit variance at every t, and the normalised mu, and gives
    eps = sqrt(lambda) (x_t - mu) + rho v with the network's output v: the velocity form of arXiv 2202.00512, whose error does
    not blow up in X_0 where the noise is strong. The score is -eps / sqrt(lambda), as everywhere in this package.

    Args:
        config: uses decoder_dims, n_speakers, speaker_dim, beta_min, beta_max, pe_scale, mel_mean and mel_std.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        dims = tuple(config.decoder_dims)
        if len(dims) != 3:
            raise ValueError(f"decoder_dims {dims} must hold three widths, e.g. (48, 96, 128)")
        self.schedule = NoiseSchedule(config.beta_min, config.beta_max)
        self.pe_scale, self.mel_mean, self.mel_std = config.pe_scale, config.mel_mean, config.mel_std
        self.time = nn.Sequential(nn.Linear(TIME_DIM, EMBEDDING_DIM), nn.SiLU(), nn.Linear(EMBEDDING_DIM, EMBEDDING_DIM))
        if config.n_speakers > 1:
            self.speaker = nn.Linear(config.speaker_dim, EMBEDDING_DIM)
            self.speaker_spectrum = nn.Linear(config.speaker_dim, N_MELS)
        inputs = 3 if config.n_speakers > 1 else 2
        self.stem = nn.Conv2d(4 * inputs, dims[0], 3, padding=1)
        self.row_bias = nn.Parameter(torch.zeros(dims[0], N_MELS // 2, 1))
        self.downs, self.shrinks, self.ups, self.grows = (nn.ModuleList() for _ in range(4))
        for width in dims:
            self.downs.append(nn.ModuleList(ResidualBlock(width) for _ in range(BLOCKS)))
            self.ups.append(nn.ModuleList(ResidualBlock(width) for _ in range(BLOCKS)))
        for width, deeper in zip(dims[:-1], dims[1:], strict=True):
            self.shrinks.append(nn.Conv2d(width, deeper, 3, stride=2, padding=1))
            self.grows.append(nn.Conv2d(deeper, 4 * width, 1))
        self.middle = nn.ModuleList([ResidualBlock(dims[-1]), ResidualBlock(dims[-1])])
        self.attention = FrequencyAttention(dims[-1], N_MELS // 8)
        self.final_norm = ChannelNorm(dims[0])
        self.final = nn.Conv2d(dims[0], 4, 3, padding=1)
        nn.init.zeros_(self.final.weight)
        nn.init.zeros_(self.final.bias)

    def forward(self, noisy: Tensor, mask: Tensor, mu: Tensor, t: Tensor, speaker: Tensor | None = None) -> Tensor:
        """Estimates the score of p_t at x_t.

        Args:
            noisy: x_t [B, 80, F]; F a multiple of 8.
            mask: [B, 1, F], 1 on real frames.
            mu: the prior's mean [B, 80, F].
            t: diffusion time in (0, 1] [B].
            speaker: speaker rows [B, speaker_dim], where the model has several.

        Returns:
            Score [B, 80, F], 0 on masked frames.

        Raises:
            ValueError: F is not a multiple of 8.
        """
        if noisy.shape[-1] % 8:
            raise ValueError(f"{noisy.shape[-1]} frames: the lean decoder takes a multiple of 8, pad the mel")
        offset = noisy - mu
        embedding, planes = self.time(self._sinusoids(t)), [offset, (mu - self.mel_mean) / self.mel_std]
        if speaker is not None:
            embedding = embedding + self.speaker(speaker)
            planes.append(self.speaker_spectrum(speaker)[:, :, None].to(mu.dtype).expand_as(mu))
        inputs = torch.stack(planes, dim=1) * mask[:, None]
        velocity = self._unet(F.pixel_unshuffle(inputs, 2), mask[:, None, :, ::2], F.silu(embedding))
        velocity = F.pixel_shuffle(velocity, 2).squeeze(1).to(noisy.dtype)
        time = t[:, None, None]
        sigma = self.schedule.variance(time).sqrt()
        return -(offset + self.schedule.rho(time) / sigma * velocity) * mask

    def _sinusoids(self, t: Tensor) -> Tensor:
        rates = torch.exp(torch.arange(TIME_DIM // 2, device=t.device) * (-math.log(10000) / (TIME_DIM // 2 - 1)))
        angles = self.pe_scale * t[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def _unet(self, planes: Tensor, mask: Tensor, embedding: Tensor) -> Tensor:
        masks = [mask, mask[..., ::2], mask[..., ::4]]
        features = self.stem(planes.contiguous(memory_format=torch.channels_last)) + self.row_bias
        skips = []
        for level, blocks in enumerate(self.downs):
            for block in blocks:
                features = block(features, masks[level], embedding)
            skips.append(features)
            if level < len(self.shrinks):
                features = self.shrinks[level](features * masks[level])
        features = self.attention(self.middle[0](features, masks[-1], embedding))
        features = self.middle[1](features, masks[-1], embedding)
        for level in reversed(range(len(self.ups))):
            if level < len(self.grows):
                features = F.pixel_shuffle(self.grows[level](features), 2).contiguous(memory_format=torch.channels_last)
            features = features + skips[level]
            for block in self.ups[level]:
                features = block(features, masks[level], embedding)
        return self.final(self.final_norm.silu(features, mask))
