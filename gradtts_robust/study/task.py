"""One run of a study, as a process of its own does it: trained, judged at every checkpoint, marked as done."""
from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..config import AdaptConfig, EvaluationConfig
from ..files import atomic_text
from ..training.record import CONFIG, write_config
from ..training.setup import resolve_device, torch_state
from .plan import Run

if TYPE_CHECKING:
    from .judging import Judge

DONE = "done.json"
ERROR = "error.txt"
LOCK = "lock"
WATCHED = 1.0
"""Seconds from one look at whether the study still lives to the next."""


@dataclass(frozen=True)
class Task:
    """What a process needs for one run.

    Args:
        key, name: the run's.
        config: its settings.
        encoders, sources: who judges.
        base: hash of the base.
        keep: see `Judge`.
        fidelity, asr: further measures, see `StudyConfig`.
        cache: folder of what runs share.
        parent: process whose end ends that of the run, or 0.
    """

    key: str
    name: str
    config: AdaptConfig
    encoders: tuple[str, ...]
    base: str
    keep: str
    cache: Path
    sources: Mapping[str, str] = field(default_factory=dict)
    fidelity: bool = False
    asr: bool = False
    parent: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `error` is "" where it is done, else one line; `disk_full` says that the others would fail like it."""

    key: str
    name: str
    seconds: float
    error: str = ""
    disk_full: bool = False


def is_done(run: Run) -> bool:
    """Whether a run is finished."""
    return (run.out / DONE).is_file()


def done_facts(run: Run) -> dict:
    """What a finished run noted: its seconds and further measures; empty where the note is missing or broken."""
    try:
        return json.loads((run.out / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def adopt(config: AdaptConfig) -> None:
    """Lets a run go on in its folder under the paths of today: its key vouches for all else that its `config.yaml` says, but the study, the
    manifest or the base may have moved."""
    out = Path(config.out)
    if (out / CONFIG).is_file():
        write_config(out, config)


def perform(task: Task) -> Outcome:
    """Does one run, or goes on with it; an error becomes part of the outcome and of `error.txt`, as it must not stop the others.

    All of it, not its training alone, has the run's threads, since two threads round a voice otherwise than one.
    """
    if task.parent:
        _end_with(task.parent)
    out, began = Path(task.config.out), time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out), torch_state(task.config.optim.threads, torch.device(resolve_device(task.config.device))):
            if not (out / DONE).is_file():
                _run(task, out)
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
            (out / ERROR).unlink(missing_ok=True)
        return Outcome(task.key, task.name, time.monotonic() - began)
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        try:
            atomic_text(out / ERROR, f"{message}\n\n{traceback.format_exc()}")
        except OSError:
            pass
        return Outcome(task.key, task.name, time.monotonic() - began, message, _disk_full(error, out))


def _run(task: Task, out: Path) -> None:
    from ..training.checkpoint import load_checkpoint
    from ..training.history import newest_state, saved_checkpoints
    from .judging import Judge

    began, busy = time.monotonic(), time.process_time()
    ears = _ears(_frozen(task.config.evaluation), task.encoders, tuple(sorted(task.sources.items())), resolve_device(task.config.device),
                 task.cache)
    judge = Judge(task.config, ears, base=task.base, keep=task.keep)
    newest = newest_state(out)
    if newest is None or int(newest.name) < task.config.iterations:
        _learn(task, judge)
    for folder in saved_checkpoints(out)[-1:]:
        # a run that died while its last checkpoint was judged has nothing left to train
        judge.on_checkpoint(folder, load_checkpoint(folder))
    facts = {"key": task.key, "name": task.name, "seconds": round(_earlier(out) + time.monotonic() - began, 1),
             "cpu_seconds": round(time.process_time() - busy, 1)}
    if task.fidelity or task.asr:
        from .speech_quality import measure

        facts |= measure(judge, load_checkpoint(saved_checkpoints(out)[-1]), fidelity=task.fidelity, asr=task.asr)
    atomic_text(out / DONE, json.dumps(facts, indent=1) + "\n")


def _learn(task: Task, judge: Judge) -> None:
    """Trains and judges, or takes over what a run that learnt the same has said, where nothing but that is asked for."""
    from ..training.adapt import adapt, prepare_adaptation, write_data
    from . import twins

    prepared = prepare_adaptation(task.config)
    alone = task.keep != "none" or task.fidelity or task.asr
    folder = None if alone else task.cache / "learnt" / twins.learnt_key(task.config, prepared, judge.facts())
    if folder and folder.is_dir():
        write_data(task.config, prepared)
        judge.write_voices()
        twins.take(folder, judge.out)
        return
    adapt(task.config, prepared=prepared, on_checkpoint=judge.on_checkpoint)
    if folder:
        twins.share(folder, judge.out)


@lru_cache(maxsize=1)
def _ears(evaluation: tuple, encoders: tuple[str, ...], sources: tuple, device: str, cache: Path):
    """Encoders and vocoder, loaded once in a process that does many runs."""
    from .judging import load_ears

    return load_ears(AdaptConfig(evaluation=EvaluationConfig(**dict(evaluation))), encoders, dict(sources), device, cache)


def _frozen(evaluation: EvaluationConfig) -> tuple:
    return tuple(sorted(vars(evaluation).items()))


def _earlier(out: Path) -> float:
    """Seconds of training steps that earlier, killed calls spent on this run."""
    try:
        events = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return 0.0
    starts = [i for i, event in enumerate(events) if event["event"] in ("start", "resume")]
    return sum(max(0.0, events[end - 1]["time"] - events[begin]["time"]) for begin, end in zip(starts, starts[1:]))


@lru_cache(maxsize=1)
def _end_with(parent: int) -> None:
    """Ends this process, at work or idle, soon after its parent, whose successor goes on with the run; what is on disk is whole anyway."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCHED)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps a second process, such as one that outlived a killed study, out of a run's folder meanwhile."""
    with open(out / LOCK, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _disk_full(error: Exception, out: Path) -> bool:
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in str(error) \
        or shutil.disk_usage(out if out.exists() else out.parent).free < 2**20
