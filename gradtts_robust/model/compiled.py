"""What the loops compiled by numba share: how they are compiled, their threads and their view of tensors."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def compiled(**options) -> Callable[[Callable], Callable]:
    """`numba.njit` with these options, once per machine where there is a folder to keep that in, as there is not for a user without a home
    and a package that cannot be written; else once per process.

    Never with `fastmath`: numba runs a parallel loop that it has just compiled as it was optimised once, and keeps one that was optimised a
    second time, so that any leave to round otherwise lets the process that compiles differ from those that find the loop on disk.
    """
    from numba import njit

    def decorate(function: Callable) -> Callable:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate


@contextmanager
def as_many_as_torch() -> Iterator[None]:
    """Lets numba's parallel loops inside use as many threads as torch does."""
    import numba

    threads = torch.get_num_threads()
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))
    yield
    # numba's first parallel call sets OpenMP's count for the whole process, torch's with it; only then, as setting it makes torch forget
    # every convolution it has compiled
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def rows_of(features: Tensor) -> Tensor:
    """[B, C, H, W] as float32 [B, H, W, C] in this order in memory: a view of what is channels-last already."""
    return features.detach().float().permute(0, 2, 3, 1).contiguous()


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """The tensors' memory as numpy sees it."""
    return tuple(tensor.detach().numpy() for tensor in tensors)
