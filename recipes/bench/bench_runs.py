"""Rows `adapt` and `study`: a few-shot adaptation as a user starts it, and runs of a study side by side."""
from __future__ import annotations

import statistics
from pathlib import Path

import bench_speech
import torch
from bench_measure import Figure, Settings, in_process

from gradtts_robust.config import AdaptConfig, EvaluationConfig, OptimConfig
from gradtts_robust.config_grid import StudyConfig
from gradtts_robust.study.grid import run_study
from gradtts_robust.training.adapt import adapt as adapt_base

ITERATIONS, STEPS, WARM = 350, 25, 5


def adapt(settings: Settings) -> list[Figure]:
    """350 iterations on the shipped base with the defaults, from 25 of them; checkpoints are written and not judged."""
    torch.set_num_threads(settings.threads)
    speech, defaults, steps = bench_speech.speech(settings), AdaptConfig(), 6 if settings.quick else STEPS
    config = AdaptConfig(
        manifest=str(speech.manifest), speaker=speech.speaker, out=str(settings.work / "adapt"), iterations=steps, device=settings.device,
        optim=OptimConfig(threads=settings.threads, checkpoint_every=steps), cache=str(settings.work / "adapt-cache"))
    marks = []

    def tell(stage: str, *_, **__) -> None:
        if stage == "adapt":
            marks.append(settings.now())

    began = settings.now()
    adapt_base(config, progress=tell)
    checkpoint, start = settings.now() - marks[-1], marks[0] - began
    step = statistics.median(after - before for before, after in zip(marks[WARM - 1:], marks[WARM:]))
    count = defaults.iterations // defaults.optim.checkpoint_every
    whole = start + (ITERATIONS - 1) * step + count * checkpoint
    note = (f"{start:.1f} s to the end of the first step, then {step:.3f} s a step (median of {steps - WARM}), "
            f"{checkpoint:.2f} s for each of {count} checkpoints; judging them is not in it")
    return [Figure("adapt", f"{ITERATIONS} iterations on {speech.name}, defaults", ours=whole, goal="under 180 s on 2 cores, 20 s on a GPU",
                   note=note, values={"start": start, "step": step, "checkpoint": checkpoint})]


def study(settings: Settings) -> list[Figure]:
    """Short runs on the shipped base: all of them by two processes and by one, a thread each."""
    speech = bench_speech.speech(settings)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(settings.repeats):
        for jobs, taken in seconds.items():
            taken.append(in_process(study_seconds, settings, speech, jobs, settings.work / f"study-{number}-{jobs}"))
    one, two = (statistics.median(taken) for taken in seconds.values())
    runs = len(study_config(settings, speech, 1, settings.work).seeds) * 2
    return [Figure("study", f"{runs} short runs, 2 workers of one thread", ours=two, goal="1.6 times the throughput of one worker",
                   note=f"one worker {one:.1f} s: {one / two:.2f} times its throughput", values={"seconds": seconds})]


def study_seconds(settings: Settings, speech: bench_speech.Speech, jobs: int, out: Path) -> float:
    """From the last data made ready to the last run done; the workers' start is part of it, the report is not."""
    import time

    marks = {}

    def tell(stage: str, *_, **__) -> None:
        marks[stage] = time.perf_counter()

    failed = run_study(study_config(settings, speech, jobs, out), progress=tell).failed
    if failed:
        raise ValueError(f"a run of the study failed: {failed[0].error}")
    return marks["runs"] - marks["data"]


def study_config(settings: Settings, speech: bench_speech.Speech, jobs: int, out: Path) -> StudyConfig:
    """Two objectives and a few seeds on clean data."""
    steps = 2 if settings.quick else 20
    return StudyConfig(
        manifest=str(speech.manifest), speakers=[speech.speaker], out=str(out), conditions={"clean": {"kind": "none"}},
        seeds=[0] if settings.quick else [0, 1, 2, 3], iterations=steps, optim=OptimConfig(checkpoint_every=steps, keep=1, keep_models=1),
        evaluation=EvaluationConfig(sentences="1" if settings.quick else "2", reference_utterances=2), jobs=jobs, threads=1,
        device=settings.device, cache=str(settings.work / "study-cache"), keep_samples="none")
