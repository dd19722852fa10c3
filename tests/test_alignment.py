"""Monotonic alignment search against a plain reference, brute force and the original; paths from durations."""
import importlib
from itertools import combinations

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from gradtts_robust.model import alignment_kernel
from gradtts_robust.model.alignment import (
    durations_to_path,
    frame_symbols,
    log_prior,
    maximum_path,
    search_durations,
    search_on_device,
)


def slow_path(values: np.ndarray) -> np.ndarray:
    """The dynamic programme written out, [T, F] float32 -> 0/1 path; a tie keeps the symbol, as the original does."""
    symbols, frames = values.shape
    best = np.full((symbols, frames), -np.inf, dtype=np.float32)
    best[0, 0] = values[0, 0]
    for f in range(1, frames):
        for s in range(min(symbols, f + 1)):
            before = best[s - 1, f - 1] if s else np.float32(-np.inf)
            best[s, f] = max(best[s, f - 1], before) + values[s, f]
    path = np.zeros_like(values)
    s = symbols - 1
    for f in range(frames - 1, -1, -1):
        path[s, f] = 1
        if s and (s == f or best[s, f - 1] < best[s - 1, f - 1]):
            s -= 1
    return path


def prefix_mask(symbols, frames, shape):
    mask = torch.zeros(shape)
    for row, (s, f) in enumerate(zip(symbols, frames)):
        mask[row, :s, :f] = 1
    return mask


def brute_force_best(values: np.ndarray) -> float:
    symbols, frames = values.shape
    best = -np.inf
    for starts in combinations(range(1, frames), symbols - 1):
        index = np.searchsorted(np.array(starts), np.arange(frames), side="right")
        best = max(best, float(values[index, np.arange(frames)].sum()))
    return best


@st.composite
def matrices(draw, most_symbols=5, most_frames=8):
    """Batches of ragged rows whose small whole numbers make ties common and sums exact."""
    rows = draw(st.integers(1, 3))
    frames = [draw(st.integers(1, most_frames)) for _ in range(rows)]
    symbols = [draw(st.integers(1, min(most_symbols, f))) for f in frames]
    shape = (rows, max(symbols) + draw(st.integers(0, 2)), max(frames) + draw(st.integers(0, 2)))
    seed = draw(st.integers(0, 2**32 - 1))
    values = torch.from_numpy(np.random.default_rng(seed).integers(-3, 1, shape)).float()
    return values, symbols, frames


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_path_is_monotonic_surjective_and_optimal(drawn):
    values, symbols, frames = drawn
    path = maximum_path(values, prefix_mask(symbols, frames, values.shape))
    assert path.shape == values.shape
    for row, (s, f) in enumerate(zip(symbols, frames)):
        inside = path[row, :s, :f]
        assert path[row].sum() == inside.sum() == f
        index = inside.argmax(0)
        assert (inside.sum(0) == 1).all() and (inside.sum(1) >= 1).all()
        assert index[0] == 0 and index[-1] == s - 1 and set(index.diff().tolist()) <= {0, 1}
        exact = values[row, :s, :f].numpy()
        assert (exact * inside.numpy()).sum() == brute_force_best(exact)


@settings(max_examples=150, deadline=None)
@given(matrices(most_symbols=12, most_frames=30))
def test_ties_break_as_in_the_plain_reference(drawn):
    values, symbols, frames = drawn
    path = maximum_path(values, prefix_mask(symbols, frames, values.shape))
    for row, (s, f) in enumerate(zip(symbols, frames)):
        np.testing.assert_array_equal(path[row, :s, :f].numpy(), slow_path(values[row, :s, :f].numpy()))


@settings(max_examples=150, deadline=None)
@given(matrices(most_symbols=12, most_frames=30), st.integers(0, 2))
def test_the_search_for_gpus_finds_the_same(drawn, empty):
    values, symbols, frames = drawn
    lengths = torch.tensor(symbols), torch.tensor(frames)
    if empty < len(symbols):
        for length in lengths:
            length[empty] = 0
    assert torch.equal(search_on_device(values, *lengths), search_durations(values, *lengths))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
def test_real_sized_batches_on_a_device(device):
    values = -200 * torch.rand(4, 90, 400, generator=torch.Generator().manual_seed(3)) - 900
    symbols, frames = torch.tensor([90, 1, 60, 80]), torch.tensor([400, 300, 60, 399])
    found = search_on_device(values.to(device), symbols.to(device), frames.to(device))
    assert found.device.type == device and torch.equal(found.cpu(), search_durations(values, symbols, frames))
    if device == "cuda":
        assert torch.equal(search_durations(values.cuda(), symbols.cuda(), frames.cuda()), found)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_number_of_threads_changes_nothing(threads):
    values = torch.randint(-3, 1, (5, 20, 60), generator=torch.Generator().manual_seed(4)).float()
    lengths = torch.tensor([20, 3, 0, 9, 20]), torch.tensor([60, 44, 0, 9, 31])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = search_durations(values, *lengths)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, search_on_device(values, *lengths))


def test_compiles_where_nothing_can_be_kept(monkeypatch):
    """As for a user without a home, with the package in a folder that cannot be written."""
    njit = numba.njit

    def homeless(*, cache=False, **options):
        def refuse(function):
            raise RuntimeError(f"cannot cache function {function.__name__!r}: no locator available")

        return refuse if cache else njit(**options)

    monkeypatch.setattr(numba, "njit", homeless)
    try:
        durations = np.zeros(2, dtype=np.int64)
        importlib.reload(alignment_kernel).search_one(np.zeros((5, 2), dtype=np.float32), 2, 5, durations)
        assert durations.tolist() == [1, 4]
    finally:
        monkeypatch.undo()
        importlib.reload(alignment_kernel)


def test_real_sized_values_equal_the_plain_reference():
    values = -200 * torch.rand(2, 60, 300, generator=torch.Generator().manual_seed(0)) - 900
    path = maximum_path(values, torch.ones_like(values))
    for row in range(2):
        np.testing.assert_array_equal(path[row].numpy(), slow_path(values[row].numpy()))


@pytest.mark.parametrize("name", ["multi", "single"])
def test_equals_the_original(golden, name):
    io = load_file(golden / f"gradtts_{name}_io.safetensors")
    mask = io["x_mask"].transpose(1, 2) * io["y_mask"]
    assert torch.equal(maximum_path(io["log_prior"], mask), io["attn"])
    ours = log_prior(io["mu_x"], io["y"])
    torch.testing.assert_close(ours * mask, io["log_prior"] * mask, atol=1e-3, rtol=1e-6)
    assert torch.equal(maximum_path(ours, mask), io["attn"])


def test_rows_may_be_empty():
    values = torch.zeros(3, 4, 6)
    path = maximum_path(values, prefix_mask([0, 2, 4], [0, 6, 4], values.shape))
    assert path[0].sum() == 0
    assert path[1].sum() == 6 and path[2].sum() == 4
    assert maximum_path(torch.zeros(0, 4, 6), torch.zeros(0, 4, 6)).shape == (0, 4, 6)


def test_not_a_number_still_gives_a_path():
    path = maximum_path(torch.full((1, 3, 7), float("nan")), torch.ones(1, 3, 7))
    assert (path.sum(1) == 1).all() and (path.sum(2) >= 1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_the_dtype_and_the_input(dtype):
    values = -torch.rand(2, 5, 9, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = values.clone()
    path = maximum_path(values.requires_grad_(), torch.ones(2, 5, 9))
    assert path.dtype == dtype and not path.requires_grad and torch.equal(values, before)
    assert torch.equal(path.float(), maximum_path(before.float(), torch.ones(2, 5, 9)))


def test_more_symbols_than_frames_is_refused():
    values = torch.zeros(2, 5, 6)
    with pytest.raises(ValueError, match=r"row 1: 5 symbols .* 3 frames"):
        maximum_path(values, prefix_mask([2, 5], [6, 3], values.shape))


def test_log_prior_is_the_normal_density():
    mu, mel = torch.randn(2, 80, 3), torch.randn(2, 80, 5)
    wanted = torch.distributions.Normal(mu[..., :, None], 1.0).log_prob(mel[..., None, :]).sum(1)
    torch.testing.assert_close(log_prior(mu, mel), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(log_prior(mu, mel), wanted)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(0, 3))
def test_paths_and_frame_symbols_say_the_same(durations, padding):
    total = sum(durations)
    path = durations_to_path(torch.tensor([durations]), total + padding)[0]
    assert path.sum(1).tolist() == durations
    index = frame_symbols(torch.tensor([durations]), total + padding)[0]
    assert index[:total].tolist() == [s for s, d in enumerate(durations) for _ in range(d)]
    assert path.sum(0).tolist() == [1] * total + [0] * padding
    if total:
        assert (index[total:] == max(s for s, d in enumerate(durations) if d)).all()


def test_fractions_are_summed_before_they_are_cut():
    path = durations_to_path(torch.tensor([[1.6, 1.6, 1.6]]), 5)[0]
    assert path.argmax(0).tolist() == [0, 0, 1, 1, 2] and path.sum() == 5


def test_search_gives_the_paths_durations():
    values = torch.randn(2, 4, 11, generator=torch.Generator().manual_seed(2))
    found = search_durations(values, torch.tensor([4, 3]), torch.tensor([11, 8]))
    assert found.dtype == torch.int64
    mask = prefix_mask([4, 3], [11, 8], values.shape)
    assert torch.equal(found, maximum_path(values, mask).sum(2).long())
