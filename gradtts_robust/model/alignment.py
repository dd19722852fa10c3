"""Which frame belongs to which symbol: monotonic alignment search (Glow-TTS, arXiv 2005.11129) and paths from durations."""
from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

IMPOSSIBLE = -1e9
"""The original's value for a way that is not there. Real sums stay far above it: 1e6 for minutes of speech."""


def log_prior(mu: Tensor, mel: Tensor) -> Tensor:
    """Log-likelihood of every frame under every symbol's unit Gaussian, log N(mel; mu, I) of Grad-TTS (arXiv 2105.06337).

    Always in float32, without gradient and outside autocast: the search compares sums over the whole utterance.

    Args:
        mu: the encoder's means, [B, 80, T].
        mel: log-mel, [B, 80, F].

    Returns:
        float32 [B, T, F], a transposed view of a contiguous [B, F, T], which the search reads without a copy.
    """
    with torch.no_grad(), torch.autocast(mu.device.type, enabled=False):
        mu, mel = mu.float(), mel.float()
        constant = -0.5 * math.log(2 * math.pi) * mel.shape[1]
        symbols = (-0.5 * mu.square().sum(1) + constant).unsqueeze(1)
        frames = -0.5 * mel.square().sum(1).unsqueeze(2)
        return (torch.baddbmm(symbols, mel.transpose(1, 2), mu) + frames).transpose(1, 2)


def hear_pauses(log_prior: Tensor, ids: Tensor, lengths: Tensor, *, pause: int) -> Tensor:
    """Lets every space between words sound as the utterance's edges do, which are silent.

    Most spaces hold no silence, so their means are those of speech, and a search gives a real pause to the words beside it.

    Args:
        log_prior: [B, T, F].
        ids: [B, T], with lengths [B].
        pause: the space's id.

    Returns:
        [B, T, F]: under a space, the likelihood of the first or the last symbol where that is higher and that one is a space itself.
    """
    rows = torch.arange(len(ids), device=ids.device)
    edges = [torch.where((ids[rows, place] == pause)[:, None], log_prior[rows, place], -torch.inf)
             for place in (torch.zeros_like(lengths), lengths - 1)]
    silence = torch.maximum(*edges).unsqueeze(1)
    return torch.where((ids == pause).unsqueeze(2), torch.maximum(log_prior, silence), log_prior)


def search_durations(log_prior: Tensor, symbol_lengths: Tensor, frame_lengths: Tensor) -> Tensor:
    """Frames of each symbol in the most likely alignment that starts at the first symbol, ends at the last and skips none.

    In float32: on a GPU there, without waiting for it; else by a compiled search, with as many threads as torch uses.

    Args:
        log_prior: [B, T, F], any device and floating dtype.
        symbol_lengths, frame_lengths: [B], at most T and F; rows where either is 0 get no frames.

    Returns:
        int64 [B, T] on `log_prior`'s device; a row sums to its frame length.

    Raises:
        ValueError: a row has more symbols than frames, so that no alignment exists; not found where the lengths are on a GPU.
    """
    symbols, frames = (lengths.to(torch.int64) for lengths in (symbol_lengths, frame_lengths))
    if not symbols.is_cuda:
        for row in torch.nonzero((symbols > frames) & (frames > 0)).flatten().tolist()[:1]:
            raise ValueError(f"row {row}: {int(symbols[row])} symbols cannot be aligned to {int(frames[row])} frames; "
                             "drop the utterance or check its transcript")
    values = log_prior.detach().float()
    if values.is_cuda:
        return _gpu_search()(values, symbols.to(values.device), frames.to(values.device))
    return _search_compiled(values, symbols.cpu(), frames.cpu())


@lru_cache(maxsize=1)
def _gpu_search() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    try:
        from gradtts_robust.model.alignment_triton import search
    except ImportError:
        return search_on_device
    return search


def _search_compiled(values: Tensor, symbols: Tensor, frames: Tensor) -> Tensor:
    from gradtts_robust.model.alignment_kernel import search_one

    rows = values.transpose(1, 2).contiguous().numpy()
    durations = np.zeros((rows.shape[0], rows.shape[2]), dtype=np.int64)
    searches = [(rows[row], n_symbols, n_frames, durations[row])
                for row, (n_symbols, n_frames) in enumerate(zip(symbols.tolist(), frames.tolist())) if n_symbols and n_frames]
    threads = min(torch.get_num_threads(), len(searches))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(search_one, *zip(*searches)))
    else:
        for one in searches:
            search_one(*one)
    return torch.from_numpy(durations)


def search_on_device(log_prior: Tensor, symbol_lengths: Tensor, frame_lengths: Tensor) -> Tensor:
    """The search as three operations a frame on the whole batch, where the tensors are, for GPUs without triton; nothing in it waits.

    Args:
        log_prior: float32 [B, T, F].
        symbol_lengths, frame_lengths: int64 [B], symbols <= frames wherever both are above 0; that is not checked.

    Returns:
        int64 [B, T], the same as of `search_durations`.
    """
    batch, n_symbols, n_frames = log_prior.shape
    if not (batch and n_symbols and n_frames):
        return symbol_lengths.new_zeros(batch, n_symbols)
    values = log_prior.permute(2, 0, 1)
    best = values.new_full((n_frames + 1, batch, n_symbols + 1), IMPOSSIBLE)
    best[0, :, 0] = 0
    for frame in range(n_frames):
        torch.maximum(best[frame, :, 1:], best[frame, :, :-1], out=best[frame + 1, :, 1:])
        best[frame + 1, :, 1:] += values[frame]
    symbol, frame = (torch.arange(size, device=values.device) for size in (n_symbols, n_frames))
    there = (frame.unsqueeze(1) < frame_lengths) & (symbol_lengths > 0)
    advanced = (best[:-1, :, 1:] < best[:-1, :, :-1]) | (frame[:, None, None] == symbol)
    before = symbol - (advanced & there.unsqueeze(2) & (symbol > 0)).long()
    path = before.new_empty(n_frames, batch, 1)
    path[-1] = (symbol_lengths - 1).clamp_min(0).unsqueeze(1)
    for last in range(n_frames - 1, 0, -1):
        torch.gather(before[last], 1, path[last], out=path[last - 1])
    durations = before.new_zeros(batch, n_symbols)
    return durations.scatter_add_(1, path[:, :, 0].T, there.T.long())


def maximum_path(log_prior: Tensor, mask: Tensor) -> Tensor:
    """Monotonic alignment search: the most likely path through a matrix of log-likelihoods.

    Every frame gets one symbol, every symbol at least one frame, in order. Ties are broken as the original breaks them.

    Args:
        log_prior: log-likelihood of frame f under symbol t, [B, T, F], any device and floating dtype.
        mask: [B, T, F], nonzero in the first symbols and frames of each row; rows may be empty.

    Returns:
        0/1 path of `log_prior`'s shape, dtype and device.

    Raises:
        ValueError: a row has more symbols than frames.
    """
    symbols, frames = (edge.sum((1, 2)).cpu() for edge in (mask[:, :, :1] != 0, mask[:, :1] != 0))
    durations = search_durations(log_prior, symbols, frames)
    return durations_to_path(durations, log_prior.shape[2], dtype=log_prior.dtype)


def durations_to_path(durations: Tensor, frames: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The 0/1 path in which each symbol holds its duration's frames, one symbol after the other.

    Args:
        durations: >= 0, [B, T]; fractions are summed before they are cut, as the original does.
        frames: F; frames past a row's sum stay empty, those of the row past F are dropped.
        dtype: of the path.

    Returns:
        [B, T, frames].
    """
    path = torch.zeros(*durations.shape, frames, dtype=dtype, device=durations.device)
    there = torch.arange(frames, device=durations.device) < durations.sum(1, keepdim=True)
    return path.scatter_(1, frame_symbols(durations, frames).unsqueeze(1), there.unsqueeze(1).to(dtype))


def frame_symbols(durations: Tensor, frames: int) -> Tensor:
    """The path of `durations_to_path` as the index of each frame's symbol.

    Args:
        durations: >= 0, [B, T], T > 0.
        frames: F.

    Returns:
        int64 [B, frames]; frames past a row's sum are given to the last symbol that has any.
    """
    ends = durations.cumsum(1)
    frame = torch.arange(frames, device=durations.device, dtype=ends.dtype).expand(len(ends), -1).contiguous()
    last = torch.searchsorted(ends, ends[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(ends, frame, right=True), last)
