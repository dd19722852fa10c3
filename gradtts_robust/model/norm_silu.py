"""Channel normalisation, scale, shift, SiLU and mask in one operation: what stands before every convolution of the lean network."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gradtts_robust.model.compiled import arrays, as_many_as_torch, rows_of

EPSILON = 1e-5


def norm_silu(features: Tensor, slope: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    """silu(slope layer_norm(features) + offset) mask, each position's channels normalised by themselves.

    In training on the CPU, features in channels-last memory are done by a compiled kernel in float32, in one pass each way; all others, and
    float64, by torch's own operations. Without gradients the kernel would save a twentieth of a speaking voice's time, and cost as much as
    loading it does.

    Args:
        features: [B, C, H, W].
        slope, offset: [B, C].
        mask: [B, 1, 1, W], 0 or 1; gets no gradient.

    Returns:
        [B, C, H, W] in the dtype of `features`.
    """
    compiled = features.device.type == "cpu" and features.dtype in (torch.float32, torch.bfloat16)
    if torch.is_grad_enabled() and compiled and features.is_contiguous(memory_format=torch.channels_last):
        return _NormSilu.apply(features, slope, offset, mask)
    normal = F.layer_norm(features.permute(0, 2, 3, 1), features.shape[1:2], eps=EPSILON).permute(0, 3, 1, 2)
    hidden = normal * slope[:, :, None, None] + offset[:, :, None, None]
    return (F.silu(hidden) * mask).to(features.dtype)


class _NormSilu(torch.autograd.Function):
    """`norm_silu` by the kernel; keeps its input and each position's mean and scale, and finds the rest again in the backward pass."""

    @staticmethod
    def forward(ctx, features, slope, offset, mask):
        from gradtts_robust.model import norm_silu_kernel as kernel

        given = (slope.float().contiguous(), offset.float().contiguous(), mask.float().reshape(len(mask), -1).contiguous())
        ctx.dtypes = slope.dtype, offset.dtype
        values = rows_of(features)
        out = torch.empty_like(values)
        with as_many_as_torch():
            moments = kernel.forward(values.numpy(), *arrays(*given), EPSILON, out.numpy())
        ctx.save_for_backward(features, *given, torch.from_numpy(moments))
        return out.permute(0, 3, 1, 2).to(features.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        from gradtts_robust.model import norm_silu_kernel as kernel

        features, *given = ctx.saved_tensors
        values = rows_of(features)
        out = torch.empty_like(values)
        with as_many_as_torch():
            sums = kernel.backward(values.numpy(), *arrays(*given), rows_of(grad).numpy(), out.numpy())
        offsets, slopes = torch.from_numpy(sums).sum(1).unbind(1)
        slope_type, offset_type = ctx.dtypes
        return out.permute(0, 3, 1, 2).to(features.dtype), slopes.to(slope_type), offsets.to(offset_type), None
