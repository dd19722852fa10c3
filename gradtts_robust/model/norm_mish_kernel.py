"""The loops of `norm_mish.py` over float32 [B, H, W, C], compiled by numba on first import, which is lazy.

mish(u) = u tanh(log(1 + e)), e = exp(min(u, _SURE)), needs one exponential and a division: with n = e (e + 2) it is u n / (n + 2), and its
derivative is n / (n + 2) + 4 u e (e + 1) / (n + 2)^2. Nothing cancels in either.
"""
from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic

from gradtts_robust.model.compiled import compiled

_F = np.float32
_LOG2E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
_HALF, _ONE, _TWO, _FOUR = _F(0.5), _F(1.0), _F(2.0), _F(4.0)
_MOST, _SURE = _F(80.0), _F(20.0)  # above the second tanh is 1 to the last place, and up to it (n + 2)^2 is finite


@intrinsic
def _fma(_typing, factor, other, term):
    """factor other + term in float32, rounded once."""
    return types.float32(factor, other, term), lambda _context, builder, _signature, given: builder.fma(*given)


@njit
def exp(u):
    """exp between -80 and 80, to 2 units in the last place, of simple operations: numba's own is a call per element
    where Intel's SVML is missing."""
    u = min(max(u, -_MOST), _MOST)
    power = np.floor(_fma(u, _LOG2E, _HALF))
    rest = _fma(power, -_LN2_LOW, _fma(power, -_LN2_HIGH, u))
    series = _fma(_F(1.9875691500e-4), rest, _F(1.3981999507e-3))
    series = _fma(series, rest, _F(8.3334519073e-3))
    series = _fma(series, rest, _F(4.1665795894e-2))
    series = _fma(series, rest, _F(1.6666665459e-1))
    series = _fma(series, rest, _HALF)
    scale = np.int32((np.int32(power) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (_fma(series, rest * rest, rest) + _ONE) * scale


@compiled(parallel=True)
def moments(features, groups, epsilon):
    """Mean and 1 / sqrt(variance + epsilon) of every example's groups of channels, float32 [B, G] each."""
    batch, rows, frames, channels = features.shape
    sums = np.empty((batch, rows, 2, channels), dtype=np.float32)
    for task in prange(batch * rows):
        example, row = task // rows, task % rows
        first, line = features[example, 0, 0], features[example, row]
        total, square = sums[example, row, 0], sums[example, row, 1]
        total[:] = _F(0.0)
        square[:] = _F(0.0)
        for frame in range(frames):
            for channel in range(channels):
                # about the first value: a mean far from zero would cancel in the squares
                offset = line[frame, channel] - first[channel]
                total[channel] += offset
                square[channel] += offset * offset
    return _grouped(features, sums, groups, epsilon)


@compiled()
def _grouped(features, sums, groups, epsilon):
    batch, rows, frames, channels = features.shape
    width, count = channels // groups, float(rows * frames)
    mean = np.empty((batch, groups), dtype=np.float32)
    scale = np.empty((batch, groups), dtype=np.float32)
    means, squares = np.empty(width), np.empty(width)
    for example in range(batch):
        for group in range(groups):
            for i in range(width):
                channel = group * width + i
                total = square = 0.0
                for row in range(rows):
                    total += sums[example, row, 0, channel]
                    square += sums[example, row, 1, channel]
                means[i] = total / count + features[example, 0, 0, channel]
                squares[i] = square / count - (total / count) ** 2
            middle = means.mean()
            mean[example, group] = middle
            variance = squares.mean() + ((means - middle) ** 2).mean()
            # of infinite squares 0 would hide that they overflowed
            scale[example, group] = 1.0 / np.sqrt(variance + epsilon) if np.isfinite(variance) else np.nan
    return mean, scale


@compiled(parallel=True)
def forward(features, slope, offset, shift, residual, mask, out):
    """out = (mish(slope features + offset) + shift + residual) mask.

    Args:
        features, out: [B, H, W, C].
        slope, offset, shift: [B, C].
        residual: [B, H, W, C], or of no size for none.
        mask: [B, W].
    """
    batch, rows, frames, channels = features.shape
    summed = residual.size > 0
    for task in prange(batch * rows):
        example, row = task // rows, task % rows
        a, b, c = slope[example], offset[example], shift[example]
        for frame in range(frames):
            line, target, kept = features[example, row, frame], out[example, row, frame], mask[example, frame]
            for channel in range(channels):
                u = line[channel] * a[channel] + b[channel]
                e = exp(min(u, _SURE))
                n = e * (e + _TWO)
                target[channel] = (u * n / (n + _TWO) + c[channel]) * kept
            if summed:
                other = residual[example, row, frame]
                for channel in range(channels):
                    target[channel] += other[channel] * kept


@compiled(parallel=True)
def backward(features, slope, offset, centre, grad, mask, out):
    """Of `forward`: the gradient of u = slope features + offset into `out`, and sums over frames.

    Returns:
        float32 [B, H, 3, C], to be added over H: of the masked gradient, which is `shift`'s, of the gradient of u, and of that times
        features - centre.
    """
    batch, rows, frames, channels = features.shape
    sums = np.empty((batch, rows, 3, channels), dtype=np.float32)
    for task in prange(batch * rows):
        example, row = task // rows, task % rows
        a, b, c = slope[example], offset[example], centre[example]
        shifts, plain, scaled = sums[example, row, 0], sums[example, row, 1], sums[example, row, 2]
        sums[example, row] = _F(0.0)
        for frame in range(frames):
            line, source, target = features[example, row, frame], grad[example, row, frame], out[example, row, frame]
            kept = mask[example, frame]
            for channel in range(channels):
                u = line[channel] * a[channel] + b[channel]
                e = exp(min(u, _SURE))
                n = e * (e + _TWO)
                share = _ONE / (n + _TWO)
                given = source[channel] * kept
                du = given * (n + _FOUR * u * e * (e + _ONE) * share) * share
                target[channel] = du
                shifts[channel] += given
                plain[channel] += du
                scaled[channel] += du * (line[channel] - c[channel])
    return sums


@compiled(parallel=True)
def combine(features, slope, towards, constant, out):
    """out = slope out + towards features + constant, in place; slope, towards and constant are [B, C]."""
    batch, rows, frames, channels = features.shape
    for task in prange(batch * rows):
        example, row = task // rows, task % rows
        a, b, c = slope[example], towards[example], constant[example]
        for frame in range(frames):
            line, target = features[example, row, frame], out[example, row, frame]
            for channel in range(channels):
                target[channel] = a[channel] * target[channel] + b[channel] * line[channel] + c[channel]
