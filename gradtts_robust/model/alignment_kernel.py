"""The inner loops of monotonic alignment search, compiled by numba on first import: `alignment.py` imports this lazily."""
from __future__ import annotations

import numpy as np

from gradtts_robust.model.alignment import IMPOSSIBLE
from gradtts_robust.model.compiled import compiled


@compiled(nogil=True)
def search_one(log_prior, n_symbols, n_frames, durations):
    """Most likely monotonic alignment of one utterance.

    Args:
        log_prior: float32 [F, T], C-contiguous: a frame's symbols side by side.
        n_symbols, n_frames: how many of them are there, 0 < n_symbols <= n_frames.
        durations: int64 [T], zeros; gets the frames of each symbol.
    """
    # the ways that are not there have a row and a column, so that the loop over symbols has no branch and becomes vector instructions
    best = np.full((n_frames + 1, n_symbols + 1), np.float32(IMPOSSIBLE), dtype=np.float32)
    best[0, 0] = 0
    for frame in range(n_frames):
        first, last = max(0, n_symbols + frame - n_frames), min(n_symbols, frame + 1)
        stay, advance = best[frame, first + 1: last + 1], best[frame, first:last]
        values, sums = log_prior[frame, first:last], best[frame + 1, first + 1: last + 1]
        for place in range(stay.shape[0]):
            sums[place] = max(stay[place], advance[place]) + values[place]
    symbol = n_symbols - 1
    for frame in range(n_frames - 1, -1, -1):
        durations[symbol] += 1
        if symbol > 0 and (symbol == frame or best[frame, symbol + 1] < best[frame, symbol]):
            symbol -= 1
