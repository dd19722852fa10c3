"""The HiFi-GAN generator, arXiv 2010.05646, with the parameter names of its original checkpoints."""
from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradtts_robust.speech.audio import HOP, N_MELS

SLOPE = 0.1


def _same_conv(channels: int, kernel: int, dilation: int) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)


class ResBlock1(nn.Module):
    """Residual pairs of a dilated and a plain convolution, `resblock: "1"`; [B, C, N] -> [B, C, N]."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]):
        super().__init__()
        self.convs1 = nn.ModuleList(_same_conv(channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_same_conv(channels, kernel, 1) for _ in dilations)

    def forward(self, hidden: Tensor) -> Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            hidden = hidden + plain(F.leaky_relu(dilated(F.leaky_relu(hidden, SLOPE)), SLOPE))
        return hidden


class ResBlock2(nn.Module):
    """Residual dilated convolutions, `resblock: "2"`; [B, C, N] -> [B, C, N]."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]):
        super().__init__()
        self.convs = nn.ModuleList(_same_conv(channels, kernel, dilation) for dilation in dilations)

    def forward(self, hidden: Tensor) -> Tensor:
        for dilated in self.convs:
            hidden = hidden + dilated(F.leaky_relu(hidden, SLOPE))
        return hidden


RESBLOCKS = {"1": ResBlock1, "2": ResBlock2}


class HifiGanGenerator(nn.Module):
    """Upsampling stages, each followed by the mean of parallel residual blocks; mel [B, 80, F] -> wave [B, 1, 256 F].

    Plain convolutions: `fuse_weight_norm` turns a checkpoint's weight-normalised ones into these.

    Args:
        resblock: `1` or `2`.
        upsample: (rate, kernel size) of every stage; the rates multiply to 256.
        channels: before the first stage; every stage halves them.
        blocks: (kernel size, dilations) of the parallel residual blocks.

    Raises:
        ValueError: an unknown resblock, rates that do not multiply to 256, or channels that cannot be halved.
    """

    def __init__(self, *, resblock: str, upsample: list[tuple[int, int]], channels: int,
                 blocks: list[tuple[int, tuple[int, ...]]]):
        super().__init__()
        if resblock not in RESBLOCKS:
            raise ValueError(f"resblock {resblock!r} is unknown; it is one of {', '.join(RESBLOCKS)}")
        if math.prod(rate for rate, _ in upsample) != HOP:
            raise ValueError(f"upsample_rates {[rate for rate, _ in upsample]} do not multiply to the hop of {HOP}")
        if channels % 2 ** len(upsample) or channels <= 0:
            raise ValueError(f"upsample_initial_channel {channels} cannot be halved {len(upsample)} times")
        self.conv_pre = nn.Conv1d(N_MELS, channels, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in upsample:
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2))
            channels //= 2
            self.resblocks.extend(RESBLOCKS[resblock](channels, size, dilations) for size, dilations in blocks)
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)
        self.parallel = len(blocks)

    @classmethod
    def from_config(cls, values: Mapping) -> HifiGanGenerator:
        """Builds it from the original's JSON values; `KeyError` for one that is missing."""
        return cls(
            resblock=str(values["resblock"]),
            upsample=list(zip(values["upsample_rates"], values["upsample_kernel_sizes"], strict=True)),
            channels=values["upsample_initial_channel"],
            blocks=[(kernel, tuple(dilations)) for kernel, dilations
                    in zip(values["resblock_kernel_sizes"], values["resblock_dilation_sizes"], strict=True)],
        )

    def forward(self, mel: Tensor) -> Tensor:
        hidden = self.conv_pre(mel)
        for stage, upsample in enumerate(self.ups):
            hidden = upsample(F.leaky_relu(hidden, SLOPE))
            blocks = self.resblocks[stage * self.parallel: (stage + 1) * self.parallel]
            hidden = sum(block(hidden) for block in blocks) / self.parallel
        # the original leaves torch's own slope of 0.01 here, and its checkpoints are trained with it
        return torch.tanh(self.conv_post(F.leaky_relu(hidden)))


def fuse_weight_norm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turns `weight_g`, `weight_v` pairs into the `weight` g v / |v| that they stand for; other entries stay."""
    fused = {}
    for key, value in weights.items():
        stem, _, last = key.rpartition(".")
        if last == "weight_v" and f"{stem}.weight_g" in weights:
            norm = value.flatten(1).norm(dim=1).reshape(-1, *[1] * (value.dim() - 1))
            fused[f"{stem}.weight"] = value * (weights[f"{stem}.weight_g"] / norm)
        elif not (last == "weight_g" and f"{stem}.weight_v" in weights):
            fused[key] = value
    return fused
