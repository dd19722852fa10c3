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


@njit
def _total(line):
    """The sum of one position's channels; four sums at a time, as an addition waits for the one before it."""
    first = second = third = fourth = _ZERO
    whole = line.size - line.size % 4
    for channel in range(0, whole, 4):
        first += line[channel]
        second += line[channel + 1]
        third += line[channel + 2]
        fourth += line[channel + 3]
    total = (first + third) + (second + fourth)
    for channel in range(whole, line.size):
        total += line[channel]
    return total


@njit
def _moments(line, squares, share, epsilon):
    """Mean and 1 / sqrt(variance + epsilon) of one position's channels; share is 1 / C, squares room for C values."""
    mean = _total(line) * share
    for channel in range(line.size):
        offset = line[channel] - mean
        squares[channel] = offset * offset
    return mean, _ONE / np.sqrt(_total(squares) * share + _F(epsilon))


@compiled(parallel=True)
def forward(features, slope, offset, mask, epsilon, out):
    """out = silu(slope normalised(features) + offset) mask; slope and offset [B, C], mask [B, W].

    Returns:
        float32 [B, H, W, 2]: each position's mean and 1 / sqrt(variance + epsilon).
    """
    batch, rows, frames, channels = features.shape
    moments = np.empty((batch, rows, frames, 2), dtype=np.float32)
    share = _F(1.0 / channels)
    for task in prange(batch * rows):
        example, row = task // rows, task % rows
        a, b, squares = slope[example], offset[example], np.empty(channels, dtype=np.float32)
        for frame in range(frames):
            line, target, kept = features[example, row, frame], out[example, row, frame], mask[example, frame]
            mean, scale = _moments(line, squares, share, epsilon)
            moments[example, row, frame, 0], moments[example, row, frame, 1] = mean, scale
            for channel in range(channels):
                u = (line[channel] - mean) * scale * a[channel] + b[channel]
                target[channel] = u * kept / (_ONE + exp(-u))
    return moments


@compiled(parallel=True)
def backward(features, slope, offset, mask, moments, grad, out):
    """The gradient of `forward`'s features into `out`, and float32 [B, H, 2, C]: those of offset and slope, to be added over H."""
    batch, rows, frames, channels = features.shape
    sums = np.zeros((batch, rows, 2, channels), dtype=np.float32)
    share = _F(1.0 / channels)
    for task in prange(batch * rows):
        example, row = task // rows, task % rows
        a, b, plain, scaled = slope[example], offset[example], sums[example, row, 0], sums[example, row, 1]
        products = np.empty(channels, dtype=np.float32)
        for frame in range(frames):
            line, target, source = features[example, row, frame], out[example, row, frame], grad[example, row, frame]
            kept, mean, scale = mask[example, frame], moments[example, row, frame, 0], moments[example, row, frame, 1]
            for channel in range(channels):
                normal = (line[channel] - mean) * scale
                u = normal * a[channel] + b[channel]
                sigmoid = _ONE / (_ONE + exp(-u))
                du = source[channel] * kept * sigmoid * (_ONE + u * (_ONE - sigmoid))
                plain[channel] += du
                scaled[channel] += du * normal
                du *= a[channel]
                target[channel] = du
                products[channel] = du * normal
            total, along = _total(target) * share, _total(products) * share * scale
            for channel in range(channels):
                target[channel] = scale * (target[channel] - total - (line[channel] - mean) * along)
    return sums
