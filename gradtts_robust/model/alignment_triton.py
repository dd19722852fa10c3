"""The alignment search on a GPU, in two kernels of triton, which comes with torch there: a program an utterance, a loop over its frames."""
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gradtts_robust.model.alignment import IMPOSSIBLE

_IMPOSSIBLE = tl.constexpr(IMPOSSIBLE)


@triton.jit(do_not_specialize=["n_symbols", "n_frames"])
def _forward(values, symbol_lengths, frame_lengths, advances, n_symbols, n_frames, WIDTH: tl.constexpr):
    """Whether the best way to each symbol at each frame came from the symbol before, int8 [B, F, T]; values is [B, F, T]."""
    row = tl.program_id(0).to(tl.int64)
    count, length = tl.load(symbol_lengths + row), tl.load(frame_lengths + row)
    symbol = tl.arange(0, WIDTH)
    before = tl.maximum(symbol - 1, 0)
    place = row * n_frames * n_symbols + symbol
    best = tl.full([WIDTH], _IMPOSSIBLE, tl.float32)
    for frame in range(length):
        value = tl.load(values + place, mask=symbol < count, other=0.0)
        advancing = tl.gather(best, before, 0)
        advancing = tl.where(symbol == 0, tl.where(frame == 0, 0.0, _IMPOSSIBLE), advancing)
        advanced = (best < advancing) | (symbol == frame)
        tl.store(advances + place, advanced.to(tl.int8), mask=symbol < count)
        best = tl.maximum(best, advancing) + value
        place += n_symbols


@triton.jit(do_not_specialize=["n_symbols", "n_frames"])
def _backward(advances, symbol_lengths, frame_lengths, durations, n_symbols, n_frames):
    """Follows the best way back from the last symbol at the last frame; durations [B, T] are zero before."""
    row = tl.program_id(0).to(tl.int64)
    symbol, length = tl.load(symbol_lengths + row) - 1, tl.load(frame_lengths + row)
    lasted = tl.zeros([], tl.int64)
    for back in range(length):
        lasted += 1
        advanced = tl.load(advances + (row * n_frames + length - 1 - back) * n_symbols + symbol)
        if (advanced != 0) & (symbol > 0):
            tl.store(durations + row * n_symbols + symbol, lasted)
            symbol -= 1
            lasted = tl.zeros([], tl.int64)
    tl.store(durations + row * n_symbols + symbol, lasted, mask=symbol >= 0)


def search(log_prior: Tensor, symbol_lengths: Tensor, frame_lengths: Tensor) -> Tensor:
    """The search where the tensors are; nothing in it waits for the GPU.

    Args:
        log_prior: float32 [B, T, F]; read without a copy where its symbols lie side by side, as `alignment.log_prior` leaves them.
        symbol_lengths, frame_lengths: int64 [B], symbols <= frames wherever both are above 0; that is not checked.

    Returns:
        int64 [B, T], the same as of `alignment.search_durations`.
    """
    batch, n_symbols, n_frames = log_prior.shape
    durations = symbol_lengths.new_zeros(batch, n_symbols)
    if not (batch and n_symbols and n_frames):
        return durations
    values = log_prior.transpose(1, 2).contiguous()
    frame_lengths = torch.where(symbol_lengths > 0, frame_lengths, 0)
    advances = torch.empty(values.shape, dtype=torch.int8, device=values.device)
    _forward[(batch,)](values, symbol_lengths, frame_lengths, advances, n_symbols, n_frames, WIDTH=triton.next_power_of_2(n_symbols))
    _backward[(batch,)](advances, symbol_lengths, frame_lengths, durations, n_symbols, n_frames)
    return durations
