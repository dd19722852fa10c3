"""Gain: how much less the adapting model errs on each utterance than the base did, on the same crops, times and noise.

What most utterances share is learnt first, so that a foreign voice may gain less; but what the base errs most on has most to gain, which
a wrong transcript does and a foreign voice may: which way dirt lies is not known, and what is far from most on either side is distrusted.
Gain does not know whose voice is the target's: with one foreign voice in 45 % of the clips it may take that for the majority's.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Features, collate
from ..model.gradtts import GradTTS
from .agreement import biweight
from .weights import ExampleWeights

TIMES = (0.35, 0.45, 0.55, 0.65)
"""Where the residual tells voices apart: below it is all texture, above all noise."""
CROPS = 2
"""Random segments of each utterance at each time."""
SEGMENT_FRAMES = 64
BATCH = 16
SCALE = (0.03, 0.1)
"""Range of a gain's standard deviation between clean clips: after 60 steps of squares on one embedded voice it was 0.05."""


@dataclass
class GainEstimate:
    """Weighs a run's utterances anew by their gain while it trains.

    Args:
        start: weights before the first estimate, by which those of the gain are multiplied.
        warmup, every: steps before the first estimate and between two.
        features, speaker_ids, seed: what `residual_energies` is measured on.
        base: energies of the model before its first step, [n].
        tell: called with every estimate.
    """

    start: ExampleWeights
    warmup: int
    every: int
    features: Sequence[Features]
    speaker_ids: dict[str, int]
    seed: int
    base: np.ndarray
    tell: Callable[[ExampleWeights], None]

    def due(self, step: int) -> bool:
        """Whether the weights are to be estimated anew before this step."""
        return step >= self.warmup and (step - self.warmup) % self.every == 0

    def weights(self, model: GradTTS) -> ExampleWeights:
        """Weights by the gain of a model in training; a function of its weights and of the seed alone."""
        now = residual_energies(model, self.features, self.speaker_ids, seed=self.seed)
        gain = np.log(self.base / np.maximum(now, 1e-12))
        weights, usual = gain_weights(gain)
        values = self.start.values * weights
        signals = {"gain": weights, "log_gain": gain, "usual_gain": np.full(len(gain), usual)}
        return ExampleWeights(self.start.ids, values / max(values.max(), 1e-12), {**self.start.signals, **signals})


def check_settings(*, warmup: int, every: int) -> None:
    """Refuses counts of steps below 1, by a ValueError."""
    for name, value in (("gain_warmup", warmup), ("gain_every", every)):
        if value < 1:
            raise ValueError(f"objective.{name} is {value}; it must be at least 1 step")


def gain_weights(gain: np.ndarray) -> tuple[np.ndarray, float]:
    """Biweights [n] of gains about the middle of the tightest half of them, and that middle."""
    ordered, half = np.sort(gain), len(gain) // 2 + 1
    first = int(np.argmin(ordered[half - 1:] - ordered[: len(ordered) - half + 1]))
    middle = float(np.median(ordered[first:first + half]))
    scale = np.clip(1.4826 * np.median(np.abs(ordered[first:first + half] - middle)), *SCALE)
    return biweight(np.abs(gain - middle) / scale), middle


@torch.no_grad()
def residual_energies(model: GradTTS, features: Sequence[Features], speaker_ids: dict[str, int], *, seed: int) -> np.ndarray:
    """Mean square residual of each utterance, float64 [n], over `CROPS` segments at each of `TIMES`; the same draws for the same seed.

    The model is in `eval()` meanwhile.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    device = next(model.parameters()).device
    energies = np.zeros(len(features))
    try:
        for start in range(0, len(features), BATCH):
            batch = collate(features[start:start + BATCH], speaker_ids).to(device)
            for draw in range(CROPS * len(TIMES)):
                found = _energies(model, batch, TIMES[draw % len(TIMES)], seed=_seed(seed, start, draw))
                energies[start:start + len(found)] += found / (CROPS * len(TIMES))
    finally:
        for module, mode in modes:
            module.training = mode
    return energies


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _energies(model: GradTTS, batch, time: float, *, seed: int) -> np.ndarray:
    found: list[Tensor] = []

    def probe(residual: Tensor, *, t: Tensor, snr: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
        energy = (residual.square() * mask).sum((1, 2)) / (mask.sum((1, 2)) * residual.shape[1])
        found.append(energy.double().cpu())
        return torch.zeros_like(t)

    model.training_terms(batch, objective=probe, segment_frames=SEGMENT_FRAMES, generator=torch.Generator().manual_seed(seed),
                         t=torch.full((len(batch.keys),), time))
    return found[0].numpy()
