"""How many threads the compiled loops use."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def as_many_as_torch() -> Iterator[None]:
    """Lets numba's parallel loops inside use as many threads as torch does."""
    import numba

    threads = torch.get_num_threads()
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))
    yield
    torch.set_num_threads(threads)  # numba's first parallel call sets OpenMP's count for the whole process, torch's with it
