"""A study small enough for tests: a tiny base, one or two speakers, a few steps."""
from dataclasses import replace
from pathlib import Path

import torch
from study_base import tiny_base

from gradtts_robust.config import EvaluationConfig, OptimConfig
from gradtts_robust.config_grid import StudyConfig
from gradtts_robust.data.generated import generate

CONDITIONS = {"clean": {"kind": "none"}, "mixed": {"kind": "foreign", "fraction": 0.4}}
OBJECTIVES = {"squares": {"penalty": "l2"}, "huber": {"penalty": "pseudo_huber", "delta_0": 0.1}}


def tiny_corpus(folder: Path) -> Path:
    """A base and a manifest of two voices in `folder`; gives the manifest."""
    tiny_base(folder / "base.safetensors")
    return generate(folder, voices=["Andrea", "Reed"], sentences_per_voice=7)


def tiny_study(manifest: Path, out: Path, **changes) -> StudyConfig:
    """One speaker, two conditions, two objectives, one seed: four runs of four steps."""
    config = StudyConfig(
        manifest=str(manifest), base=str(manifest.parent / "base.safetensors"), out=str(out), speakers=["Andrea"],
        conditions=dict(CONDITIONS), objectives=dict(OBJECTIVES), seeds=[0], utterances=5, iterations=4,
        optim=OptimConfig(batch_size=2, segment_frames=16, checkpoint_every=2, keep=1, keep_models=1, precision="float32"),
        evaluation=EvaluationConfig(sentences="2", reference_utterances=2, steps=1), jobs=1, device="cpu",
        cache=str(manifest.parent / "cache"))
    return replace(config, **changes)


def pools(_task) -> list[int]:
    """Threads of every library that counts for itself in the process that this runs in."""
    import numba
    from threadpoolctl import threadpool_info

    return [torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, *(pool["num_threads"] for pool in threadpool_info())]
