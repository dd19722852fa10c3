"""Averaged weights."""
from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_at(decay: float, step: int) -> float:
    """Decay at a step, small at first so that the start is soon forgotten: min(decay, (1 + step) / (10 + step))."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, *, decay: float, step: int) -> None:
    """average <- d average + (1 - d) model in place, with d = `decay_at(decay, step)`; `step` >= 0 counts the updates so far."""
    update_all = get_ema_multi_avg_fn(decay_at(decay, step))
    update_all(list(average.parameters()), list(model.parameters()), step)
