"""Settings of what the score network is told while it learns; `config` has them too."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class ConditioningConfig:
    """Perturbation of the score network's conditions in training (arXiv 2405.20494), see `model.conditioning.Perturbation`.

    Args:
        perturbation: `none`; `uniform` or `gaussian` noise on the condition's embedding; or a baseline: `input` (noise on the noisy
            mel), `dropout` (of the embedding's elements), `smoothing` (a speaker's row mixed with the mean of all).
        gamma: strength, >= 0: of `uniform` and `gaussian` relative to 1 / sqrt(width), of `input` relative to the noise; a share in
            [0, 1) for `dropout` and `smoothing`.
        where: which embedding: the speaker's row, the encoder's mu, or both.
    """

    perturbation: Literal["none", "uniform", "gaussian", "input", "dropout", "smoothing"] = "none"
    gamma: float = 0.1
    where: Literal["speaker", "mu", "both"] = "speaker"


@dataclass
class ConditionNoiseConfig:
    """Wrong conditions put into pretraining data, see `data.condition_noise`.

    Args:
        kind: `none`; `symmetric`: wrong speaker labels by how much each speaker speaks; `asymmetric`: wrong labels of similar speakers
            only; `transcripts`: utterances in pairs swap their texts.
        eta: share of utterances with a wrong condition, in [0, 1).
        similar: for `asymmetric`, how many of the most similar speakers a label may turn into.
        seed: what is drawn depends on this alone.
    """

    kind: Literal["none", "symmetric", "asymmetric", "transcripts"] = "none"
    eta: float = 0.0
    similar: int = 3
    seed: int = 0
