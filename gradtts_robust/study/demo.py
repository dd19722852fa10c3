"""The demo: one unheard voice learnt from clean data, from dirty data, and from the same dirty data with the robust loss."""
from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from ..config import AdaptConfig, CorruptionConfig, DemoConfig, EvaluationConfig, ObjectiveConfig, OptimConfig
from ..data.corruption import corrupt
from ..data.generated import VOICES, generate
from ..data.manifest import read_manifest, write_manifest
from ..files import atomic_text, check_folder
from ..speech.audio import mel_spectrogram
from ..speech.espeak import speak_all
from ..training.adapt import shipped_base, split_target
from ..training.checkpoint import load_checkpoint
from ..training.loss import build_objective
from ..training.record import check_same_run
from ..training.setup import check_settings
from .evaluation import read_sentences, write_sample
from .experiment import Stages, Summary, ceiling_line, judge_adaptation
from .report import findings, write_report
from .results import SAMPLES, conditions, last_checkpoint, merge_results, read_evaluation, summarise

REFERENCES = 6
FOREIGN_EACH = 4
CLEAN, DIRTY, ROBUST = "clean-l2", "dirty-l2", "dirty-pseudo_huber"


def run_demo(config: DemoConfig, *, progress: Stages | None = None) -> Summary:
    """Runs the three conditions on the embedded corpus, with the same seeds, steps and learning rate, and compares them.

    A demo that was cut off goes on. `out` gets `corpus/`, a run folder per condition, `results.csv` and `report.html`.

    Args:
        progress: called with (stage, done, total, detail).

    Raises:
        FileNotFoundError, ValueError: a setting that cannot be used, no base, or no espeak-ng; or `out` holds another demo.
    """
    began, out = time.monotonic(), Path(config.out)
    check_folder(config.out)
    runs = plan(config)
    read_sentences(str(config.sentences))
    base = load_checkpoint(config.base or shipped_base())
    if config.voice in base.speakers:
        raise ValueError(f"the base has heard the voice {config.voice!r}; choose one that it has not")
    for one in runs.values():
        check_same_run(Path(one.out), one)
        check_settings(one.optim, iterations=one.iterations, seed=one.seed, decoder=base.model.config.decoder)
        build_objective(one.objective, base.model.config)
    make_corpus(config, progress=progress)
    speak_natural(config)
    foreign = _foreign_files(runs[DIRTY])
    for name, one in runs.items():
        judge_adaptation(one, condition=name, foreign=foreign, progress=progress)
    table = merge_results(out, {name: Path(one.out) for name, one in runs.items()})
    facts = [read_evaluation(Path(one.out)) for one in runs.values()]
    text = demo_table(table, facts, runs[CLEAN].evaluation.thresholds)
    return Summary(write_report(out), f"{text}\n{(time.monotonic() - began) / 60:.1f} minutes", table)


def plan(config: DemoConfig) -> dict[str, AdaptConfig]:
    """The three conditions' settings, which differ in corruption and objective alone.

    Raises:
        ValueError: an unknown voice, or a fraction outside [0, 1).
    """
    if config.voice not in VOICES:
        targets = ", ".join(name for name, voice in VOICES.items() if voice.target)
        raise ValueError(f"no embedded voice {config.voice!r}; those that the base has never heard are {targets}")
    if not 0 <= config.fraction < 1:
        raise ValueError(f"fraction is {config.fraction:g}; it must be in [0, 1), such as 0.3")
    if config.utterances < 1:
        raise ValueError(f"utterances is {config.utterances}; it must be at least 1")
    out = Path(config.out)
    dirt = CorruptionConfig(kind="foreign", fraction=config.fraction, seed=config.seed)
    robust = ObjectiveConfig(penalty="pseudo_huber", delta_schedule="exponential", delta_0=config.delta_0)
    shared = {
        "base": config.base, "manifest": str(out / "corpus" / "manifest.csv"), "speaker": config.voice, "utterances": config.utterances,
        "iterations": config.iterations, "cache": str(out / "features"), "device": config.device, "seed": config.seed,
        "optim": OptimConfig(learning_rate=config.learning_rate, checkpoint_every=config.checkpoint_every),
        "evaluation": EvaluationConfig(sentences=str(config.sentences), reference_utterances=REFERENCES),
    }
    parts = {CLEAN: {}, DIRTY: {"corruption": dirt}, ROBUST: {"corruption": dirt, "objective": robust}}
    return {name: AdaptConfig(out=str(out / name), **shared, **part) for name, part in parts.items()}


def make_corpus(config: DemoConfig, *, progress: Stages | None = None) -> Path:
    """Speaks the target's utterances and enough of other voices', none of them a target; gives the manifest.

    The others are voices that the base may have heard: what counts is that they are not the target.
    """
    folder = Path(config.out) / "corpus"
    manifest, made = folder / "manifest.csv", folder / "made.json"
    own = config.utterances + REFERENCES
    others = [name for name, voice in VOICES.items() if not voice.target and not voice.base_only and name != config.voice]
    each = max(FOREIGN_EACH, -(-round(config.fraction * config.utterances) // len(others)))
    wanted = json.dumps({"voice": config.voice, "utterances": own, "others": others, "each": each, "seed": config.seed})
    if manifest.is_file() and made.is_file() and made.read_text(encoding="utf-8") == wanted:
        return manifest
    made.unlink(missing_ok=True)
    utterances = []
    for voices, count in (([config.voice], own), (others, each)):
        path = generate(folder, voices=voices, sentences_per_voice=count, seed=config.seed,
                        progress=_voices(progress, len(utterances) > 0, 1 + len(others)))
        utterances += read_manifest(path)
    write_manifest(manifest, utterances)
    atomic_text(made, wanted)
    return manifest


def speak_natural(config: DemoConfig) -> None:
    """Lets the target voice itself say the sentences of the evaluation, to listen to and to look at; nothing is measured by them."""
    folder, texts = Path(config.out) / SAMPLES / "natural", read_sentences(str(config.sentences))
    paths = [folder / f"{number:02d}.wav" for number in range(1, len(texts) + 1)]
    if all(path.is_file() for path in paths):
        return
    spoken = speak_all(texts, voice=VOICES[config.voice], seeds=[config.seed + number for number in range(1, len(texts) + 1)])
    for path, one in zip(paths, spoken, strict=True):
        write_sample(path, one.wave, mel_spectrogram(torch.from_numpy(one.wave)[None])[0])


def demo_table(table: pd.DataFrame, facts: Sequence[dict], thresholds: Sequence[float]) -> str:
    """Conditions by iterations, mean similarity; then the last checkpoint's counts below thresholds, and what can be said of it."""
    means = table.pivot_table(index="condition", columns="iteration", values="similarity", aggfunc="mean")
    names, width = conditions(table), max(len(name) for name in conditions(table))
    last = last_checkpoint(table)
    lines = ["mean similarity to the target", " " * width + "".join(f"{iteration:>8}" for iteration in means.columns)]
    lines += [f"{name:<{width}}" + "".join(f"{value:8.3f}" if math.isfinite(value) else f"{'-':>8}" for value in means.loc[name])
              for name in names]
    summary = summarise(last, thresholds=thresholds).set_index("condition")
    lines += ["", f"samples below, of {int(summary['count'].max())}, at iteration {int(last['iteration'].max())}",
              " " * width + "".join(f"{threshold:>8g}" for threshold in thresholds)]
    lines += [f"{name:<{width}}" + "".join(f"{int(summary.loc[name, f'below {threshold:g}']):8d}" for threshold in thresholds)
              for name in names]
    return "\n".join([*lines, "", *findings(last), ceiling_line(table, facts), "one voice and one seed: a demonstration, not a study"])


def _foreign_files(config: AdaptConfig) -> list[str]:
    """The foreign files of the dirty conditions, to measure the clean one against as a control."""
    split = split_target(config)
    dirty = corrupt(split.train, split.others, config.corruption, protected={u.id for u in split.reference})
    return [u.path for u in dirty.utterances if u.extra.get("true_speaker")]


def _voices(progress: Stages | None, others: bool, total: int):
    return None if progress is None else lambda done, count: progress("corpus", done + others, total)
