"""The inner loops of monotonic alignment search, compiled by numba on first import: `alignment.py` imports this lazily."""
from __future__ import annotations

import numpy as np
from numba import njit, prange

# The original's value for a way that is not there. Real sums stay far above it: 1e6 for minutes of speech.
_IMPOSSIBLE = np.float32(-1e9)


@njit(cache=True)
def _search_one(log_prior, n_symbols, n_frames, durations):
    best = np.empty(n_symbols, dtype=np.float32)
    advanced = np.zeros((n_frames, n_symbols), dtype=np.bool_)
    for frame in range(n_frames):
        first = max(0, n_symbols + frame - n_frames)
        last = min(n_symbols - 1, frame)
        # downwards, so that best[symbol - 1] is still the previous frame's
        for symbol in range(last, first - 1, -1):
            stay = _IMPOSSIBLE if symbol == frame else best[symbol]
            if symbol > 0:
                advance = best[symbol - 1]
            else:
                advance = np.float32(0.0) if frame == 0 else _IMPOSSIBLE
            advanced[frame, symbol] = symbol == frame or stay < advance
            best[symbol] = max(stay, advance) + log_prior[frame, symbol]
    symbol = n_symbols - 1
    for frame in range(n_frames - 1, -1, -1):
        durations[symbol] += 1
        if symbol > 0 and advanced[frame, symbol]:
            symbol -= 1


@njit(parallel=True, cache=True)
def search(log_prior, symbol_lengths, frame_lengths):
    """Most likely monotonic alignments, a row of the batch per thread.

    Args:
        log_prior: float32 [B, F, T], C-contiguous: a frame's symbols side by side.
        symbol_lengths, frame_lengths: int64 [B], symbols <= frames wherever both are above 0.

    Returns:
        Frames of each symbol, int64 [B, T]; zero in rows without symbols or frames.
    """
    durations = np.zeros((log_prior.shape[0], log_prior.shape[2]), dtype=np.int64)
    for row in prange(log_prior.shape[0]):
        if symbol_lengths[row] > 0 and frame_lengths[row] > 0:
            _search_one(log_prior[row], symbol_lengths[row], frame_lengths[row], durations[row])
    return durations
