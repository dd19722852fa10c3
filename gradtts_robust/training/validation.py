"""The loss of utterances that training does not see: what early stopping may look at, since it looks at no test result."""
from __future__ import annotations

from collections.abc import Sequence

import torch

from ..data.dataset import Features, collate
from ..losses import Objective
from ..model.gradtts import GradTTS

TIMES = tuple((2 * i + 1) / 16 for i in range(8))
SEGMENT_FRAMES = 64


@torch.no_grad()
def validation_loss(model: GradTTS, features: Sequence[Features], row: int, *, seed: int) -> float:
    """Mean over utterances of duration + prior + squared diffusion error, the last one the mean over eight times.

    The same segments and noise at every call with the same seed, whatever the training's objective: losses of different checkpoints
    and objectives can be compared.

    Args:
        features: at least one.
        row: of the speaker table.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    batch = collate(features, {feature.speaker: row for feature in features}).to(device)
    total = 0.0
    for number, time in enumerate(TIMES):
        terms = model.training_terms(batch, objective=Objective(), segment_frames=SEGMENT_FRAMES,
                                     generator=torch.Generator().manual_seed(seed + number), t=torch.full((len(features),), time))
        total += sum(float(term.double().mean()) for term in terms.values())
    for module, mode in modes:
        module.training = mode
    return total / len(TIMES)
