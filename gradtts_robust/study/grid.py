"""Runs a whole study: what runs share is made first, then the runs in processes of their own, then table and report."""
from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import __version__
from ..config_grid import StudyConfig
from ..files import atomic_text, check_folder
from ..training.adapt import prepare_adaptation, shipped_base
from ..training.checkpoint import load_checkpoint, resolve
from ..training.loss import check_objective
from ..training.record import write_config
from ..training.setup import resolve_device, torch_state
from .plan import RESULTS_VERSION, Plan, Run, file_digest, make_plan, shared_cache
from .table import STUDY
from .task import DONE, ERROR, Outcome, Task, adopt, done_facts, is_done, perform

STEP_SECONDS, SENTENCE_SECONDS = 1.0, 0.5
"""Of one step and one judged sentence: a first guess, for 16 utterances of 10 s and one core of 2020; measured as soon as a run is done."""
RUN_MEMORY = 3 * 2**30
"""Bytes of a GPU for a run with the shipped base: 16 of them on an H100 took 1.9 GiB each."""
ROUND = 8
"""Runs of each Ray worker before the study hears of them."""
Stages = Callable[..., None]


@dataclass(frozen=True)
class Estimate:
    """Time that the rest of a study takes: `seconds` of a run, `hours` of all, and what that is known from."""

    seconds: float
    hours: float
    source: str


@dataclass(frozen=True)
class Result:
    """What came of a study: its page, a table for the terminal, and the runs that failed."""

    report: Path | None
    text: str
    failed: list[Outcome]


def plan_text(config: StudyConfig) -> str:
    """The runs of a study by name, what is done of them, and how long the rest will take; starts nothing."""
    plan = make_plan(config)
    check_version(plan.out)
    runs = plan.distinct()
    waiting = [run for run in runs if not is_done(run)]
    state = {run.key: "done" if is_done(run) else "failed" if (run.out / ERROR).is_file() else "to do" for run in runs}
    lines = [f"{state[run.key]:<7} {run.key}  {run.name}" for run in plan.runs]
    guess = estimate(config, plan)
    return "\n".join([*lines, f"{len(runs)} runs, {len(runs) - len(waiting)} done; about {_duration(guess.seconds)} a run "
                              f"({guess.source}), {_jobs(config)} at a time: {_duration(3600 * guess.hours)} to go"])


def estimate(config: StudyConfig, plan: Plan) -> Estimate:
    """How long the runs that are not done will take, from the time of those that are."""
    runs = plan.distinct()
    known = [facts["seconds"] for run in runs if "seconds" in (facts := done_facts(run))]
    waiting = [run for run in runs if not is_done(run)]
    if known:
        seconds, source = sum(known) / len(known), f"mean of {len(known)} done"
    else:
        one = runs[0].config
        checkpoints = math.ceil(one.iterations / one.optim.checkpoint_every) + 1
        seconds = one.iterations * STEP_SECONDS + checkpoints * len(plan.sentences) * SENTENCE_SECONDS
        source = f"a guess: {STEP_SECONDS:g} s a step, {SENTENCE_SECONDS:g} s a sentence"
    return Estimate(seconds, seconds * len(waiting) / _jobs(config) / 3600, source)


def run_study(config: StudyConfig, *, command: str = "", progress: Stages | None = None) -> Result:
    """Runs what is not done yet, and writes tables and report. The same command goes on after a kill or a failure.

    Args:
        command: what the report says that it was run with.
        progress: called with (stage, done, total, detail).

    Raises:
        FileNotFoundError, ValueError: an empty grid, settings or data that cannot be used, or a folder of another version.
        OSError: the disk is full.
    """
    plan = make_plan(config)
    check_folder(config.out)
    check_version(plan.out)
    # seed by seed, so that a study that is not finished is an even one
    waiting = sorted((run for run in plan.distinct() if not is_done(run)), key=lambda run: config.seeds.index(run.seed))
    for run in waiting:
        adopt(run.config)
    if waiting:
        with torch_state(config.threads, torch.device(resolve_device(config.device))):
            prepare(config, plan, progress=progress)
    _write_study(config, plan, command)
    failed = execute(config, plan, waiting, progress=progress)
    from .study_report import conclude

    report, text = conclude(plan.out)
    return Result(report, text, failed)


def prepare(config: StudyConfig, plan: Plan, *, progress: Stages | None = None) -> None:
    """Makes what runs share and finds mistakes of a condition or an objective before hours are spent: the first run of each that is
    not done is prepared.

    The mels, the speakers' embeddings and corrupted audio stay in the cache.
    """
    firsts = {(run.speaker, run.condition): run for run in reversed(plan.runs) if not is_done(run)}
    chosen = [*firsts.values()][::-1]
    bases = {run.config.base: None for run in plan.runs}
    for base in bases:
        model = load_checkpoint(base or shipped_base()).model.config
        for run in {run.objective: run for run in plan.runs if run.config.base == base}.values():
            check_objective(run.config.objective, model)
    for number, run in enumerate(chosen, 1):
        try:
            prepare_adaptation(run.config)
        except (ValueError, FileNotFoundError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"{run.name}: {error}") from None
        if progress:
            progress("data", number, len(chosen))


def execute(config: StudyConfig, plan: Plan, runs: Sequence[Run], *, progress: Stages | None = None) -> list[Outcome]:
    """Does runs in processes of their own; gives those that failed.

    Raises:
        OSError: the disk is full. What is finished stays.
    """
    tasks = {task.key: task for task in _tasks(config, runs)}
    done, failed, attempts = 0, [], 0
    while tasks:
        try:
            with _processes(config) as pool:
                for outcome in pool(list(tasks.values())):
                    tasks.pop(outcome.key)
                    done += 1
                    if outcome.disk_full:
                        raise OSError(f"the disk of {plan.out} is full ({outcome.name}: {outcome.error}); what is finished stays: "
                                      "make room and give the same command again")
                    if outcome.error:
                        failed.append(outcome)
                    if progress:
                        said = f"failed: {outcome.name}: {outcome.error}" if outcome.error else outcome.name
                        progress("runs", done, len(runs), said)
        except _died() as error:
            attempts += 1
            if attempts > len(runs):
                raise ValueError(f"the processes of the study keep dying ({str(error).splitlines()[0]}); "
                                 "is there memory for --jobs runs at a time?") from None
            tasks = {key: task for key, task in tasks.items() if not is_done_at(task)}
            if attempts > 2 and tasks:
                lost = tasks.pop(next(iter(tasks)))
                failed.append(Outcome(lost.key, lost.name, 0.0, "its process was killed, perhaps for want of memory"))
                done += 1
    return failed


def is_done_at(task: Task) -> bool:
    """`is_done` by the task."""
    return (Path(task.config.out) / DONE).is_file()


def _tasks(config: StudyConfig, runs: Sequence[Run]) -> list[Task]:
    hashes = {base: file_digest(resolve(base or shipped_base())) for base in {run.config.base for run in runs}}
    parent = os.getpid() if config.backend == "local" and _jobs(config) > 1 else 0
    return [Task(run.key, run.name, run.config, tuple(config.encoders), hashes[run.config.base], config.keep_samples, shared_cache(config),
                 dict(config.encoder_sources), config.fidelity, config.asr, parent) for run in runs]


@contextmanager
def _processes(config: StudyConfig):
    """A function from tasks to outcomes as they come, on joblib's processes or a Ray cluster."""
    import joblib

    if config.backend == "ray":
        _register_ray()
        options = {"backend": "ray", "ray_remote_args": {"num_cpus": config.threads, "num_gpus": config.gpu_share}}
        with joblib.parallel_config(n_jobs=config.jobs or -1, **options):
            yield _in_rounds
        return
    jobs = _jobs(config)
    if jobs == 1:
        yield lambda tasks: map(perform, tasks)
        return
    with joblib.parallel_config(n_jobs=jobs, backend="loky", inner_max_num_threads=config.threads):
        yield lambda tasks: joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=jobs)(
            joblib.delayed(perform)(task) for task in tasks)


def _in_rounds(tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Ray's backend gives a list and nothing before it is whole: several rounds tell how far it is."""
    import joblib

    size = ROUND * joblib.effective_n_jobs(-1)
    for start in range(0, len(tasks), size):
        yield from joblib.Parallel(batch_size=1)(joblib.delayed(perform)(task) for task in tasks[start:start + size])


def _register_ray() -> None:
    try:
        from ray.util.joblib import register_ray
    except ImportError:
        raise ValueError("backend is ray, which is not installed; `pip install gradtts-robust[cluster]`, or use --backend local") from None
    register_ray()


def _died() -> tuple[type[Exception], ...]:
    from joblib.externals.loky.process_executor import BrokenProcessPool

    return (BrokenProcessPool,)


def _jobs(config: StudyConfig) -> int:
    if config.jobs:
        return config.jobs
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = max(1, cores // config.threads)
    if resolve_device(config.device) == "cuda":
        share = config.gpu_share or min(1.0, RUN_MEMORY / torch.cuda.mem_get_info()[0])
        jobs = min(jobs, max(1, int(1 / share)))
    return jobs


def check_version(out: Path) -> None:
    """Refuses a folder whose study was made by a version whose numbers differ from this one's.

    Raises:
        ValueError: it is another version's, or the note of it is broken.
    """
    path = out / STUDY
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["results_version"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not the note of a study; choose another --out, or remove the file") from None
    if found != RESULTS_VERSION:
        raise ValueError(f"{out} holds a study with results of version {found}, and this version's are {RESULTS_VERSION}; "
                         "choose another --out, where it is run anew")


def _write_study(config: StudyConfig, plan: Plan, command: str) -> None:
    write_config(plan.out, config)
    runs = [{"key": run.key, "speaker": run.speaker, "condition": run.condition, "objective": run.objective, "seed": run.seed,
             "method": run.method} for run in plan.runs]
    note = {"results_version": RESULTS_VERSION, "version": __version__, "baseline": plan.baseline, "clean": plan.clean,
            "sentences": plan.sentences, "command": command, "runs": runs, "time": int(time.time())}
    atomic_text(plan.out / STUDY, json.dumps(note, indent=1, ensure_ascii=False) + "\n")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
