"""Settings of the commands that compare and look into models; `config` has them too."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class FilteringConfig:
    """What may be done about dirty data besides choosing a loss: the baselines of a study.

    Args:
        audit: train only on utterances that `gradtts-robust audit` would keep.
        trim: share of each batch that does not count, that with the highest losses, in [0, 1).
        validation: how many of the utterances, dirty ones among them, are kept out of training to choose an iteration by their loss.
        oracle: train only on utterances that no corruption touched, which nobody can know outside a study: what is lost there is the
            price of fewer clips.
    """

    audit: bool = False
    trim: float = 0.0
    validation: int = 0
    oracle: bool = False


@dataclass
class DemoConfig:
    """`gradtts-robust demo`: one unheard embedded voice learnt from clean data, from dirty data, and from dirty data robustly.

    Args:
        out: run folder.
        voice: the target, one of the embedded voices that pretraining never hears.
        base: checkpoint of the base; empty for the shipped one.
        utterances: utterances of the target to learn from; about 3 s each.
        fraction: share of them replaced by other speakers' in the dirty data, in [0, 1).
        iterations: optimizer steps of each adaptation.
        checkpoint_every: steps between the checkpoints that are judged.
        sentences: unseen sentences spoken at each checkpoint.
        delta_0: of the scheduled pseudo-Huber loss.
        learning_rate: Adam's, the same for the three conditions.
        device: where to compute.
        seed: of the data, the batches and the samples.
    """

    out: str = "runs/demo"
    voice: str = "Andrea"
    base: str = ""
    utterances: int = 20
    fraction: float = 0.3
    iterations: int = 300
    checkpoint_every: int = 50
    sentences: int = 10
    delta_0: float = 0.1
    learning_rate: float = 3e-4
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
