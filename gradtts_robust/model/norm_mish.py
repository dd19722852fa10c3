"""Group normalisation, Mish, sums and mask in one operation: what stands behind every convolution of the original's score network.

Operation by operation they take more time than the convolutions on a CPU and keep seven tensors for the backward pass. Here the CPU
makes two passes over the convolution's output and keeps that alone.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gradtts_robust.model.compiled import arrays, as_many_as_torch, rows_of

EPSILON = 1e-5


def norm_mish(features: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, *, groups: int, shift: Tensor | None = None,
              residual: Tensor | None = None) -> Tensor:
    """(mish(group_norm(features)) + shift + residual) mask; Mish as in arXiv 1908.08681.

    The statistics are over all frames, the masked ones too, as in the original. On the CPU, features in channels-last memory are done by a
    compiled kernel in float32; all others, and float64, by torch's own operations.

    Args:
        features: [B, C, H, W], C a multiple of `groups`.
        weight, bias: of the normalisation, [C].
        mask: [B, 1, 1, W], 0 or 1; gets no gradient.
        shift: [B, C].
        residual: [B, C, H, W].

    Returns:
        [B, C, H, W] in the dtype of `features`.
    """
    compiled = features.device.type == "cpu" and features.dtype in (torch.float32, torch.bfloat16)
    if compiled and features.is_contiguous(memory_format=torch.channels_last):
        return _NormMish.apply(features, weight, bias, shift, residual, mask, groups)
    return _composed(features, weight, bias, mask, groups, shift, residual)


def _composed(features: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, groups: int, shift: Tensor | None,
              residual: Tensor | None) -> Tensor:
    dtype = features.dtype
    # autocast would normalise in float32 and widen all that follows; the operation's own sums are in float32 anyway
    with torch.autocast(features.device.type, enabled=False):
        out = F.mish(F.group_norm(features, groups, weight.to(dtype), bias.to(dtype), EPSILON))
        if shift is not None:
            out = out + shift.to(dtype)[:, :, None, None]
        if residual is not None:
            out = out + residual.to(dtype)
        return out * mask.to(dtype)


class _NormMish(torch.autograd.Function):
    """`norm_mish` by the kernel; keeps its input and each channel's slope and offset, not what the passes make."""

    @staticmethod
    def forward(ctx, features, weight, bias, shift, residual, mask, groups):
        from gradtts_robust.model import norm_mish_kernel as kernel

        values, frames_kept = rows_of(features), mask.float().reshape(len(mask), -1).contiguous()
        added = torch.zeros(features.shape[:2]) if shift is None else shift.float().contiguous()
        beside = torch.empty(0, 0, 0, 0) if residual is None else rows_of(residual)
        out = torch.empty_like(values)
        with as_many_as_torch():
            mean, scale = (torch.from_numpy(found).repeat_interleave(features.shape[1] // groups, dim=1)
                           for found in kernel.moments(values.numpy(), groups, EPSILON))
            slope = scale * weight
            offset = bias - mean * slope
            kernel.forward(*arrays(values, slope, offset, added, beside, frames_kept, out))
        ctx.save_for_backward(features, weight, mean, scale, slope, offset, frames_kept)
        ctx.groups = groups
        ctx.dtypes = tuple(None if given is None else given.dtype for given in (bias, shift, residual))
        return out.permute(0, 3, 1, 2).to(features.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        from gradtts_robust.model import norm_mish_kernel as kernel

        features, weight, mean, scale, slope, offset, frames_kept = ctx.saved_tensors
        values, out = rows_of(features), torch.empty(rows_of(grad).shape)
        with as_many_as_torch():
            sums = kernel.backward(*arrays(values, slope, offset, mean, rows_of(grad), frames_kept, out))
            shifts, plain, scaled = torch.from_numpy(sums).sum(1, dtype=torch.float64).unbind(1)
            scaled = scaled * scale
            count = values[0].numel() // ctx.groups
            centre, towards = (_by_group(part * weight, ctx.groups) / count for part in (plain, scaled))
            towards = -scale.double().square() * towards
            constant = -scale * centre - towards * mean
            kernel.combine(*arrays(values, slope, towards.float(), constant.float(), out))
        bias_type, shift_type, residual_type = ctx.dtypes
        beside = None
        if residual_type is not None:
            beside = (grad if frames_kept.all() else grad * frames_kept[:, None, None].to(grad.dtype)).to(residual_type)
        return (out.permute(0, 3, 1, 2).to(features.dtype), scaled.sum(0).to(weight.dtype), plain.sum(0).to(bias_type),
                None if shift_type is None else shifts.to(shift_type), beside, None, None)


def _by_group(values: Tensor, groups: int) -> Tensor:
    """[B, C] summed over each group of channels, [B, C]."""
    width = values.shape[1] // groups
    return values.unflatten(1, (groups, width)).sum(2).repeat_interleave(width, dim=1)
