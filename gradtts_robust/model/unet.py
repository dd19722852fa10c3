"""The score network of Grad-TTS (arXiv 2105.06337, section 3.2), after the U-Net of DDPM (arXiv 2006.11239).

Submodules are named and numbered so that the state-dict keys are those of the original's `decoder.estimator`.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gradtts_robust.config import ModelConfig
from gradtts_robust.model.encoder import N_MELS
from gradtts_robust.model.norm_mish import norm_mish

WIDTH_FACTORS = (1, 2, 4)
FRAME_MULTIPLE = 4
ORIGINAL_DIM = 64
"""Networks of the original's width, or wider, take its operations in a quicker order and memory layout. Narrower ones keep the
original's own, and so its rounding: they are there to be compared with reference values, 1e-4 apart at most, while those are 2e-4 from
an evaluation in float64."""


def _masked(features: Tensor, mask: Tensor) -> Tensor:
    # A float32 mask would widen bfloat16 features under autocast, at twice the memory traffic.
    return features * mask.to(features.dtype)


class ConvBlock(nn.Module):
    """3 x 3 convolution, group normalisation over all frames of the batch's length, Mish (arXiv 1908.08681).

    Takes and gives features that are zero where masked; `shift` [B, C] and `residual` [B, C, H, W] are added before the mask.
    """

    def __init__(self, channels: int, out: int, groups: int = 8):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(groups, out), nn.Mish())

    def forward(self, features: Tensor, mask: Tensor, *, shift: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        conv, norm, _ = self.block
        return norm_mish(conv(features), norm.weight, norm.bias, mask, groups=norm.num_groups, shift=shift, residual=residual)


class ResnetBlock(nn.Module):
    """Two `ConvBlock`s with the time embedding added between them, and a shortcut."""

    def __init__(self, channels: int, out: int, time_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_dim, out))
        self.block1 = ConvBlock(channels, out)
        self.block2 = ConvBlock(out, out)
        self.res_conv = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, features: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        hidden = self.block1(features, mask, shift=self.mlp(time))
        return self.block2(hidden, mask, residual=self.res_conv(features))


class LinearAttention(nn.Module):
    """Attention in time linear in the positions (arXiv 1812.01243): keys are normalised over positions, queries are not.

    Positions beyond a shorter example's end take part, as in the original. Without a softmax over the queries the whole is, for one
    example, the product of its features with one matrix. `reordered` finds that matrix, so that only keys are computed at every position.
    """

    def __init__(self, channels: int, heads: int = 4, head_dim: int = 32, *, reordered: bool = False):
        super().__init__()
        self.heads, self.head_dim, self.reordered = heads, head_dim, reordered
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_dim, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self._reordered(features) if self.reordered else self._in_order(features)

    def _in_order(self, features: Tensor) -> Tensor:
        batch, _, rows, frames = features.shape
        query, key, value = self.to_qkv(features).reshape(batch, 3, self.heads, self.head_dim, rows * frames).unbind(1)
        context = key.softmax(dim=-1) @ value.transpose(-1, -2)
        mixed = context.transpose(-1, -2) @ query
        return self.to_out(mixed.reshape(batch, self.heads * self.head_dim, rows, frames))

    def _reordered(self, features: Tensor) -> Tensor:
        batch, channels, rows, frames = features.shape
        places = features.flatten(2)
        query, key, value = self.to_qkv.weight.view(3, self.heads, self.head_dim, channels)
        keys = (key.reshape(1, -1, channels).expand(batch, -1, -1) @ places).softmax(dim=-1)
        context = (keys @ places.transpose(1, 2)).view(batch, self.heads, self.head_dim, channels) @ value.transpose(1, 2)
        out = self.to_out.weight.view(channels, self.heads, self.head_dim).permute(1, 2, 0)
        matrix = query.reshape(-1, channels).t() @ (context @ out).flatten(1, 2)
        if features.is_contiguous(memory_format=torch.channels_last):
            mixed = torch.baddbmm(self.to_out.bias, places.transpose(1, 2), matrix).transpose(1, 2)
        else:
            mixed = torch.baddbmm(self.to_out.bias[:, None], matrix.transpose(1, 2), places)
        return mixed.unflatten(2, (rows, frames))


class ReZero(nn.Module):
    """A branch scaled by a gate that starts at zero (arXiv 2003.04887)."""

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.fn = branch
        self.g = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        branch = self.fn(features)
        return branch * self.g.to(branch.dtype)


class ResidualAttention(nn.Module):
    """Linear attention as a gated residual branch."""

    def __init__(self, channels: int, *, reordered: bool = False):
        super().__init__()
        self.fn = ReZero(LinearAttention(channels, reordered=reordered))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.fn(features)


class Downsample(nn.Module):
    """Halves rows and frames."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)


class Upsample(nn.Module):
    """Doubles rows and frames."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)


def _time_embedding(t: Tensor, dim: int, scale: float) -> Tensor:
    rates = torch.exp(torch.arange(dim // 2, device=t.device) * (-math.log(10000) / (dim // 2 - 1)))
    angles = scale * t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class GradTTSUNet(nn.Module):
    """The original's score network over the planes mu, X_t and, with several speakers, a spectrum made of the speaker's row.

    Args:
        config: uses decoder_dim (a multiple of 8), n_speakers, speaker_dim and pe_scale.

    Raises:
        ValueError: decoder_dim is not a positive multiple of 8.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        dim = config.decoder_dim
        if dim < 8 or dim % 8:
            raise ValueError(f"decoder_dim {dim} must be a positive multiple of 8, the groups of its normalisation")
        self.dim, self.pe_scale, self.many_speakers, self.reordered = dim, config.pe_scale, config.n_speakers > 1, dim >= ORIGINAL_DIM
        if self.many_speakers:
            width = config.speaker_dim
            self.spk_mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, N_MELS))
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))
        dims = [3 if self.many_speakers else 2, *[dim * factor for factor in WIDTH_FACTORS]]
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level in range(len(WIDTH_FACTORS)):
            self.downs.append(self._stage(dims[level], dims[level + 1], nn.Identity if level == len(WIDTH_FACTORS) - 1 else Downsample))
        self.mid_block1 = ResnetBlock(dims[-1], dims[-1], dim)
        self.mid_attn = ResidualAttention(dims[-1], reordered=self.reordered)
        self.mid_block2 = ResnetBlock(dims[-1], dims[-1], dim)
        for level in range(len(WIDTH_FACTORS) - 1, 0, -1):
            self.ups.append(self._stage(2 * dims[level + 1], dims[level], Upsample))
        self.final_block = ConvBlock(dim, dim)
        self.final_conv = nn.Conv2d(dim, 1, 1)

    def _stage(self, channels: int, out: int, resample: type[nn.Module]) -> nn.ModuleList:
        blocks = [ResnetBlock(channels, out, self.dim), ResnetBlock(out, out, self.dim)]
        return nn.ModuleList([*blocks, ResidualAttention(out, reordered=self.reordered), resample(out)])

    def forward(self, noisy: Tensor, mask: Tensor, mu: Tensor, t: Tensor, speaker: Tensor | None = None) -> Tensor:
        """Estimates the score of p_t at X_t.

        Args:
            noisy: X_t [B, 80, F]; F a multiple of 4.
            mask: [B, 1, F], 1 on real frames.
            mu: the prior's mean [B, 80, F].
            t: diffusion time in [0, 1], [B].
            speaker: speaker rows [B, speaker_dim], where the model has several.

        Returns:
            Score [B, 80, F], zero on masked frames, in the dtype of `noisy`.

        Raises:
            ValueError: F is not a multiple of 4, or a speaker is missing or superfluous.
        """
        if noisy.shape[-1] % FRAME_MULTIPLE:
            raise ValueError(f"{noisy.shape[-1]} frames: the grad-tts decoder takes a multiple of {FRAME_MULTIPLE}, pad the mel")
        if self.many_speakers != (speaker is not None):
            raise ValueError("this decoder has several speakers, give their rows" if self.many_speakers else
                             "this decoder has one speaker, give no speaker row")
        planes = [mu, noisy]
        if speaker is not None:
            planes.append(self.spk_mlp(speaker).to(noisy.dtype)[:, :, None].expand_as(noisy))
        time = self.mlp(_time_embedding(t, self.dim, self.pe_scale).to(self.mlp[0].weight.dtype))
        inputs = torch.stack(planes, dim=1)
        if self.reordered and inputs.device.type == "cpu":
            # oneDNN reads and writes this layout without copies, and `norm_mish` has its kernel for it
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        score = self._estimate(inputs, mask[:, None], time)
        return score.squeeze(1).to(noisy.dtype)

    def _estimate(self, features: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        masks = [mask[..., ::2 ** level] for level in range(len(WIDTH_FACTORS))]
        skips = []
        for level, (block_1, block_2, attention, shrink) in enumerate(self.downs):
            features = _masked(features, masks[level])
            features = attention(block_2(block_1(features, masks[level], time), masks[level], time))
            skips.append(_masked(features, masks[level]))
            features = shrink(skips[-1])
        features = self.mid_attn(self.mid_block1(features, masks[-1], time))
        features = self.mid_block2(_masked(features, masks[-1]), masks[-1], time)
        for level, (block_1, block_2, attention, grow) in zip((2, 1), self.ups, strict=True):
            features = torch.cat([features, skips.pop()], dim=1)
            features = attention(block_2(block_1(features, masks[level], time), masks[level], time))
            features = _masked(grow(_masked(features, masks[level])), masks[level - 1])
        return _masked(self.final_conv(self.final_block(features, mask)), mask)
