"""One adaptation, judged at every checkpoint, with its table and report."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..config import AdaptConfig
from ..data.corruption import RECORDS, read_records
from ..training.adapt import adapt
from ..training.checkpoint import load_checkpoint
from ..training.history import newest_state, saved_checkpoints
from ..training.record import check_same_run
from ..training.setup import resolve_device
from ..training.weights import WEIGHTS, read_weights, weights_line
from .evaluation import Evaluation, load_tools
from .report import write_report
from .results import ceilings, read_evaluation, read_results, summarise

Stages = Callable[..., None]


@dataclass
class Summary:
    """What an experiment gives back: its report, a plain table for the terminal, and its results."""

    report: Path
    text: str
    table: pd.DataFrame


def condition_name(config: AdaptConfig) -> str:
    """What a run is called where nobody named it, such as `clean-l2`, `dirty-pseudo_huber` or `dirty-l2-agreement`."""
    weights = config.objective.example_weights
    parts = ("dirty" if config.corruption.fraction else "clean", config.objective.penalty, *([weights] if weights != "none" else []))
    return "-".join(parts)


def run_adaptation(config: AdaptConfig, *, progress: Stages | None = None, condition: str = "", foreign: Sequence[str] = ()) -> Summary:
    """Adapts a base, judges every checkpoint from the one before training on, and writes table and report.

    A run that was cut off goes on; what is finished is not done again. Samples of a sentence are spoken with the seed
    `config.seed` + its number at every checkpoint and under every condition.

    Args:
        progress: called with (stage, done, total, detail).
        condition: the run's name in tables; by default `condition_name`.
        foreign: see `Evaluation`.

    Raises:
        FileNotFoundError, ValueError: settings or data that cannot be used, or a folder that holds another run.
    """
    table = judge_adaptation(config, progress=progress, condition=condition, foreign=foreign)
    out = Path(config.out)
    weighted, lines = read_weights(out / WEIGHTS), [terminal_table(table, read_evaluation(out))]
    if config.corruption.kind != "none":
        lines.append(dirt_line(config, out))
    if weighted:
        lines.append(weights_line(weighted))
    return Summary(write_report(out), "\n".join(lines), table)


def judge_adaptation(config: AdaptConfig, *, progress: Stages | None = None, condition: str = "",
                     foreign: Sequence[str] = ()) -> pd.DataFrame:
    """`run_adaptation` without a report: gives the results table that it leaves in the run folder."""
    out, name = Path(config.out), condition or condition_name(config)
    check_same_run(out, config)
    tell = _named(progress, condition)
    tools = load_tools(config.evaluation, resolve_device(config.device))
    evaluation = Evaluation(config, tools, condition=name, foreign=foreign, progress=tell)
    newest = newest_state(out)
    if newest and (out / "reference.csv").is_file():
        evaluation.drop_after(int(newest.name))
    if not newest or int(newest.name) < config.iterations:
        adapt(config, on_checkpoint=evaluation.on_checkpoint, progress=tell)
    # those written by a run that died, or judged in another way before
    for folder in saved_checkpoints(out):
        if int(folder.name) not in evaluation.judged():
            evaluation.on_checkpoint(folder, load_checkpoint(folder))
    return read_results(out)


def terminal_table(table: pd.DataFrame, facts: dict) -> str:
    """Iteration, mean and least similarity, similarity to the foreign speakers where there are any, and the ceiling."""
    summary = summarise(table)
    polluted = summary["pollution"].notna().any()
    lines = ["iteration    mean   least" + ("   to the foreign" if polluted else "")]
    for row in summary.itertuples():
        lines.append(f"{row.iteration:9d}   {row.mean:.3f}   {row.least:.3f}" + (f"   {row.pollution:14.3f}" if polluted else ""))
    return "\n".join([*lines, ceiling_line(table, [facts])])


def dirt_line(config: AdaptConfig, out: Path) -> str:
    """How many utterances were made dirty: a small fraction of few may well be none."""
    dirty = [record["corrupted"] for record in read_records(out / RECORDS)]
    return f"corruption: {config.corruption.kind}, {sum(dirty)} of {len(dirty)} utterances at fraction {config.corruption.fraction:g}"


def ceiling_line(table: pd.DataFrame, evaluations: Sequence[dict]) -> str:
    """What the target's own clips reach, and how the similarity was measured."""
    reached = ceilings(evaluations)
    encoder, vocoder = table["encoder"].iloc[0], evaluations[0].get("vocoder", "the vocoder") if evaluations else "the vocoder"
    said = f"{table['sentence'].nunique()} unseen sentences, encoder {encoder}"
    if math.isnan(reached["natural"]):
        return f"no ceiling, as there is only one reference clip; {said}"
    return f"ceiling: natural {reached['natural']:.3f}, through {vocoder} {reached['resynthesis']:.3f}; {said}"


def _named(progress: Stages | None, condition: str) -> Stages | None:
    """Progress of one of several runs: its two long stages under the condition's name, the short ones left out."""
    if progress is None or not condition:
        return progress
    words = {"adapt": "training", "evaluation": "evaluation"}

    def tell(stage: str, done: int, total: int, detail: str = "") -> None:
        if stage in words:
            progress(f"{condition}: {words[stage]}", done, total, detail)

    return tell
