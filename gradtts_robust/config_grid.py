"""Settings of a whole study; `config` is not imported by it the other way round."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .config import EvaluationConfig, OptimConfig


def _conditions() -> dict[str, dict]:
    return {"clean": {"kind": "none"}, "mixed": {"kind": "foreign", "fraction": 0.3}}


def _objectives() -> dict[str, dict]:
    return {"squares": {"penalty": "l2"}, "pseudo_huber": {"penalty": "pseudo_huber", "delta_0": 0.1}}


@dataclass
class StudyConfig:
    """`gradtts-robust study`: every speaker under every condition with every objective and seed, judged, compared and reported.

    Args:
        manifest: utterances of the speakers and, for corruption, of others.
        out: folder of the study; the same command goes on there.
        base: checkpoint of the base; empty for the shipped one.
        speakers: names in the manifest, those that look like numbers in quotes; empty for all with enough utterances.
        conditions: name -> settings of `corruption`; where it names no seed, the dirt is drawn anew with every seed of the study.
        objectives: name -> settings of `objective`, and besides them `method` (plain, audit, trimmed, early_stopping, oracle),
            `trim` (0.3), `validation` (1 utterance), and of a run what is to differ: `optim`, `conditioning`, `train`, `iterations`,
            `base`.
        seeds: of the dirt, the batches and the samples.
        baseline: objective that damage is compared with; empty for the first of plain squared error.
        clean: condition without dirt; empty for the first of kind none.
        utterances: of each speaker to learn from, reference excluded; 0 for all.
        iterations: optimizer steps of a run.
        train: what is trained: `all`, `decoder` or `speaker`.
        optim: the training's settings; `checkpoint_every` is how often a run is judged.
        evaluation: how it is judged; its encoder is replaced by `encoders`.
        encoders: speaker encoders that judge every sample, the first one in figures.
        encoder_sources: name -> local folder or hub name, where an encoder needs one.
        keep_samples: waves kept on disk: `none`, those of the `last` checkpoint, or `all`; embeddings are always kept. With `none`, and
            without the two below, runs that learn the same clips in the same way are trained once.
        fidelity: also mel cepstral distortion and F0 error of held-out sentences said again.
        asr: also word error by pocketsphinx, the extra `asr`.
        jobs: runs at a time; 0 for as many as there are cores for.
        threads: of each run.
        backend: `local` processes, or `ray` for a cluster whose machines share these folders, the extra `cluster`.
        gpu_share: of a GPU that one run needs, so that 0.25 puts four on one; 0 for 3 GiB of what is free, which is enough with the shipped
            base (on Ray, for none).
        cache: folder of what runs share; empty for `cache` in `out`.
    """

    manifest: str = ""
    out: str = "runs/study"
    base: str = ""
    speakers: list[str] = field(default_factory=list)
    conditions: dict[str, dict] = field(default_factory=_conditions)
    objectives: dict[str, dict] = field(default_factory=_objectives)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    baseline: str = ""
    clean: str = ""
    utterances: int = 0
    iterations: int = 350
    train: Literal["all", "decoder", "speaker"] = "all"
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(keep=1, keep_models=1))
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    encoders: list[str] = field(default_factory=lambda: ["resemblyzer"])
    encoder_sources: dict[str, str] = field(default_factory=dict)
    keep_samples: Literal["none", "last", "all"] = "last"
    fidelity: bool = False
    asr: bool = False
    jobs: int = 0
    threads: int = 1
    backend: Literal["local", "ray"] = "local"
    gpu_share: float = 0.0
    cache: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
