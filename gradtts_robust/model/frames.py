"""Frames of padded batches: which symbol each has, which of them a segment holds, how long symbols last in whole ones."""
from __future__ import annotations

import torch
from torch import Tensor

MAX_FRAMES = 100_000


def at_frames(values: Tensor, index: Tensor) -> Tensor:
    """[B, 80, N] at places [B, F] -> [B, 80, F]: exact also under autocast, where a product with the path would be rounded."""
    return values.gather(2, index.unsqueeze(1).expand(-1, values.shape[1], -1))


def segment_indices(lengths: Tensor, frames: int, size: int | None, *, generator: torch.Generator | None,
                    multiple: int = 8) -> Tensor:
    """Frame numbers [B, size] of a random segment of each row; those of short rows run past their end."""
    if size is None:
        size = -(-frames // 8) * 8
    if size < 8 or size % multiple:
        raise ValueError(f"segment_frames is {size}; this model's decoder needs a multiple of {multiple}, at least 8")
    room = (lengths - size).clamp_min(0)
    drawn = torch.rand(len(lengths), generator=generator).to(lengths.device, non_blocking=True)
    starts = torch.minimum((drawn * (room + 1)).long(), room)
    return starts.unsqueeze(1) + torch.arange(size, device=lengths.device)


def whole_durations(durations: Tensor) -> Tensor:
    """Whole frames [B, T] from fractional ones: frame f belongs to the symbol whose share of the sum holds f, as in the original."""
    ends = durations.cumsum(1)
    longest = float(ends[:, -1].max())
    if not longest <= MAX_FRAMES:
        raise ValueError(f"the duration predictor asks for {longest:.0f} frames, above {MAX_FRAMES}; the model is not trained "
                         "or has diverged")
    ends = torch.minimum(ends.ceil(), ends[:, -1:].floor().clamp_min(1)).long()
    return ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1]))
