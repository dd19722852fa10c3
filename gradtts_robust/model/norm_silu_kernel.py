"""The loops of `norm_silu.py` over float32 [B, H, W, C], compiled by numba on first import, which is lazy.

A position's channels lie side by side, so that one pass normalises and activates them while they are in the nearest cache.
"""
from __future__ import annotations

import numpy as np
from numba import njit, prange

from gradtts_robust.model.compiled import compiled
from gradtts_robust.model.norm_mish_kernel import exp

_F = np.float32
_ZERO, _ONE = _F(0.0), _F(1.0)
_QUICK = {"reassoc", "contract", "nsz", "arcp"}  # sums over channels in vectors


@njit(fastmath=_QUICK)
def _moments(line, share, epsilon):
    """Mean and 1 / sqrt(variance + epsilon) of one position's channels; share is 1 / C."""
    total = _ZERO
    for channel in range(line.size):
        total += line[channel]
    mean = total * share
    square = _ZERO
    for channel in range(line.size):
        offset = line[channel] - mean
        square += offset * offset
    return mean, _ONE / np.sqrt(square * share + _F(epsilon))


@compiled(parallel=True, fastmath=_QUICK)
def forward(features, slope, offset, mask, epsilon, out):
    """out = silu(slope normalised(features) + offset) mask; slope and offset [B, C], mask [B, W]."""
    batch, rows, frames, channels = features.shape
    share = _F(1.0 / channels)
    for task in prange(batch * rows):
        example, row = task // rows, task % rows
        a, b = slope[example], offset[example]
        for frame in range(frames):
            line, target, kept = features[example, row, frame], out[example, row, frame], mask[example, frame]
            mean, scale = _moments(line, share, epsilon)
            for channel in range(channels):
                u = (line[channel] - mean) * scale * a[channel] + b[channel]
                target[channel] = u * kept / (_ONE + exp(-u))


@compiled(parallel=True, fastmath=_QUICK)
def backward(features, slope, offset, mask, epsilon, grad, out):
    """The gradient of `forward`'s features into `out`, and float32 [B, H, 2, C]: those of offset and slope, to be added over H."""
    batch, rows, frames, channels = features.shape
    sums = np.zeros((batch, rows, 2, channels), dtype=np.float32)
    share = _F(1.0 / channels)
    for task in prange(batch * rows):
        example, row = task // rows, task % rows
        a, b, plain, scaled = slope[example], offset[example], sums[example, row, 0], sums[example, row, 1]
        for frame in range(frames):
            line, target, source = features[example, row, frame], out[example, row, frame], grad[example, row, frame]
            kept = mask[example, frame]
            mean, scale = _moments(line, share, epsilon)
            total = along = _ZERO
            for channel in range(channels):
                normal = (line[channel] - mean) * scale
                u = normal * a[channel] + b[channel]
                sigmoid = _ONE / (_ONE + exp(-u))
                du = source[channel] * kept * sigmoid * (_ONE + u * (_ONE - sigmoid))
                plain[channel] += du
                scaled[channel] += du * normal
                du *= a[channel]
                target[channel] = du
                total += du
                along += du * normal
            total *= share
            along *= share
            for channel in range(channels):
                target[channel] = scale * (target[channel] - total - (line[channel] - mean) * scale * along)
    return sums
