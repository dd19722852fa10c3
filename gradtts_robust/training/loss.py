"""What a step of training costs: the objective of the settings, and the three terms' means over a batch."""
from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn

from ..config import ModelConfig, ObjectiveConfig, OptimConfig
from ..data.dataset import Batch
from ..losses import Objective
from ..model.conditioning import Perturbation
from ..model.gradtts import GradTTS
from . import calibration
from .calibration import DeltaTable
from .cuda_graph import training_network
from .gain import check_settings as check_gain
from .weights import check_kind

TERMS = ("duration", "prior", "diffusion")


def build_objective(config: ObjectiveConfig, model: ModelConfig, *, delta_table: DeltaTable | None = None) -> Objective:
    """The objective of the settings, for the model's noise schedule; `delta_table` is what `calibrated` measured, see `calibration`."""
    settings = asdict(config)
    # weights per example are the data's affair and not the loss'
    check_kind(settings.pop("example_weights"))
    check_gain(warmup=settings.pop("gain_warmup"), every=settings.pop("gain_every"))
    calibration.check_settings(kappa=settings.pop("kappa"), quantile=settings.pop("quantile"))
    return Objective(**settings, delta_table=delta_table, beta_min=model.beta_min, beta_max=model.beta_max)


def check_objective(config: ObjectiveConfig, model: ModelConfig) -> None:
    """Refuses settings that make no objective, before anything is measured."""
    build_objective(config, model, delta_table=((0.5, 1.0),) if config.delta_schedule == calibration.NAME else None)


class Loss(nn.Module):
    """A batch in, the three terms' means out: what is wrapped for autocast and for several processes.

    Args:
        trim: share of the batch, that with the highest sum of the terms, that does not count, in [0, 1).
        graphed: on a GPU, run the score network as CUDA graphs.
    """

    def __init__(self, model: GradTTS, objective: Objective | None, optim: OptimConfig, perturbation: Perturbation | None,
                 trim: float = 0.0, *, graphed: bool = False):
        super().__init__()
        self.model, self.objective, self.optim, self.perturbation, self.trim = model, objective, optim, perturbation, trim
        self.network = training_network(model.decoder.estimator, compiled=optim.compile, graphed=graphed)

    def forward(self, batch: Batch, generator: torch.Generator, weights: Tensor | None = None) -> dict[str, Tensor]:
        terms = self.model.training_terms(batch, objective=self.objective, segment_frames=self.optim.segment_frames, generator=generator,
                                          stratified=self.optim.timesteps == "stratified", perturbation=self.perturbation,
                                          network=self.network)
        terms = {name: terms[name].float() for name in TERMS}
        if self.trim:
            kept = _kept(sum(terms.values()).detach(), self.trim)
            weights = kept if weights is None else kept * weights
        return {name: (term if weights is None else term * weights).mean() for name, term in terms.items()}


def _kept(losses: Tensor, trim: float) -> Tensor:
    """Weights [B] with mean 1: 0 for the share `trim` with the highest losses."""
    count = max(1, len(losses) - round(trim * len(losses)))
    weights = torch.zeros_like(losses)
    weights[losses.argsort(stable=True)[:count]] = len(losses) / count
    return weights
