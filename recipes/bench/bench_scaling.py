"""Row `scale`: training at growing batch on a GPU, in samples per second and as a share of what the GPU multiplies in bf16."""
from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import torch
from bench_measure import Figure, Settings
from bench_model import Size, make_features, size, speaker_rows, write_weights
from bench_training import our_steps
from torch.utils.flop_counter import FlopCounterMode

from gradtts_robust.data.dataset import collate
from gradtts_robust.losses import Objective
from gradtts_robust.training.checkpoint import load_checkpoint

ROW = "scale"
BATCHES = ((16, False), (64, False), (256, False), (64, True))
MATRIX, PRODUCTS = 8192, 20


def measure(settings: Settings) -> list[Figure]:
    """Batches of the full size in bf16; at last with the score network compiled.

    Raises:
        ValueError: there is no GPU.
    """
    if settings.device != "cuda":
        raise ValueError("measured on a GPU only: --device cuda")
    sizes, ceiling = size(settings), bf16_ceiling(settings)
    weights = write_weights(settings.work / "scale.pt", sizes)
    cost, found = step_operations(weights, sizes, settings) / sizes.batch, []
    for batch, compiled in BATCHES:
        name = f"step of {batch} samples, bf16" + (", compiled" if compiled else "")
        try:
            seconds = step_seconds(weights, replace(sizes, batch=batch), settings, compiled=compiled)
        except torch.OutOfMemoryError:
            found.append(Figure(ROW, name, note="out of memory"))
            continue
        rate = batch / seconds
        note = f"{rate:.0f} samples/s; {cost * rate / 1e12:.0f} of {ceiling / 1e12:.0f} TFLOP/s: {cost * rate / ceiling:.1%}"
        values = {"samples_per_second": rate, "operations_per_sample": cost, "bf16_ceiling": ceiling}
        found.append(Figure(ROW, name, ours=seconds, note=note, values=values))
    return found


def bf16_ceiling(settings: Settings) -> float:
    """Operations a second in products of large random matrices, the median."""
    left, right = (torch.randn(MATRIX, MATRIX, device=settings.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(PRODUCTS):
        began = settings.now()
        left @ right
        seconds.append(settings.now() - began)
    return 2 * MATRIX ** 3 / statistics.median(seconds)


def step_operations(weights: Path, sizes: Size, settings: Settings) -> float:
    """Floating-point operations of the products and convolutions of a step, forward and backward."""
    net = load_checkpoint(weights).model.to(settings.device).train()
    batch = collate(make_features(sizes), speaker_rows(sizes)).to(settings.device)
    with FlopCounterMode(display=False) as counter:
        terms = net.training_terms(batch, objective=Objective(penalty="l2"), segment_frames=sizes.segment,
                                   generator=torch.Generator().manual_seed(0))
        sum(term.mean() for term in terms.values()).backward()
    return float(counter.get_total_flops())


def step_seconds(weights: Path, sizes: Size, settings: Settings, *, compiled: bool) -> float:
    """Median of our steps in `train`, the first two not counted."""
    marks: list[float] = []
    our_steps(weights, sizes, settings, "bf16", steps=settings.repeats + 3, compile=compiled,
              progress=lambda *_: marks.append(settings.now()))
    return statistics.median(after - before for before, after in zip(marks[1:], marks[2:]))
