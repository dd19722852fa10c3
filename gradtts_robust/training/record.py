"""What a run folder says about its run: settings, environment, metrics and events."""
from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import torch
import yaml

from ..files import atomic_text, check_folder

Stages = Callable[..., None]
"""Progress over several stages: called with (stage, done, total, detail="")."""
METRICS = ("step", "duration", "prior", "diffusion", "encoder_norm", "decoder_norm", "lr", "seconds")
PACKAGES = ("gradtts-robust", "torch", "torchaudio", "numpy", "numba", "librosa", "accelerate", "safetensors", "resemblyzer",
            "espeakng-loader")
CONFIG = "config.yaml"
# settings that do not change what a step computes, so that a run may go on under others
FREE = ("out", "cache", "device", "iterations", "evaluation", "optim.checkpoint_every", "optim.keep", "optim.keep_models",
        "optim.threads", "optim.compile", "optim.cuda_graphs")
# of those one that does: what is kept as reference is not learnt from
BOUND = ("evaluation.reference_utterances",)
# compared as one value: a name that one run lacks would else go unseen
WHOLE = ("model", "objective.penalty_options", "objective.weighting_options")


def write_config(out: Path, config) -> None:
    """Writes the resolved settings to `out/config.yaml`."""
    atomic_text(out / CONFIG, yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True))


def read_config(out: Path, *, remedy: str) -> dict:
    """What `write_config` wrote, as plain values, or an empty dict where there is nothing.

    Args:
        remedy: what to do about a broken file, for its error.

    Raises:
        ValueError: it is not YAML of settings.
    """
    path = out / CONFIG
    if not path.exists():
        return {}
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a run's settings ({str(error).splitlines()[0]}); {remedy}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: not a run's settings (no names and values); {remedy}")
    return settings


def check_same_run(out: Path, config) -> None:
    """Refuses to go on in a folder whose run had other settings: the result would be neither of the two.

    Raises:
        ValueError: a setting that changes what is computed differs from `out/config.yaml`'s, that file is broken, or the
            folder cannot be written to.
    """
    check_folder(config.out)
    earlier, now = _flat(read_config(out, remedy="choose another folder with --out")), _flat(_plain(config))
    # a learning rate that falls towards the last step depends on which that is
    free = [name for name in FREE if name != "iterations" or not config.optim.decay]
    for name in now:
        may_change = name not in BOUND and any(name == f or name.startswith(f + ".") for f in free)
        if name in earlier and earlier[name] != now[name] and not may_change:
            raise ValueError(f"{out} holds a run with {name}={earlier[name]!r}, and now it is {now[name]!r}; "
                             "choose another --out, or remove that folder")


def _plain(config) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict) and value and prefix + name not in WHOLE:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def write_environment(out: Path, *, device: str, precision: str, processes: int) -> None:
    """Writes `out/environment.json`: what the figures of a run may depend on besides its settings."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    values = {
        "python": sys.version.split()[0], "platform": platform.platform(), "processor": _processor(), "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(), "processes": processes, "device": device, "precision": precision,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None, "versions": versions,
    }
    atomic_text(out / "environment.json", json.dumps(values, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def write_skipped(out: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """Writes `out/skipped.csv`, the utterances that were left out and why; no file where there are none."""
    if not skipped:
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("id", "reason"), *skipped])
    atomic_text(out / "skipped.csv", text.getvalue())


def count_stage(progress: Stages | None, stage: str) -> Callable[[int, int], None] | None:
    """A plain count's progress, (done, total), as one stage."""
    return None if progress is None else lambda done, total: progress(stage, done, total)


def step_stage(progress: Stages | None, stage: str) -> Callable[[int, int, dict], None] | None:
    """The loop's progress as one stage, with the loss terms as its detail."""
    if progress is None:
        return None
    names = ("duration", "prior", "diffusion")
    return lambda step, total, values: progress(stage, step, total, " ".join(f"{n} {values[n]:.3f}" for n in names))


class Record:
    """The growing files of a run, `metrics.csv` and `log.jsonl`: whole lines, no step twice.

    Args:
        out: run folder.
        step: steps that the run has behind it: later lines, left by a run that died after its last checkpoint, are dropped.
    """

    def __init__(self, out: Path, *, step: int):
        out.mkdir(parents=True, exist_ok=True)
        _cut(out / "metrics.csv", ",".join(METRICS), lambda line: int(line.split(",", 1)[0]) <= step and line.count(",") == 7)
        _cut(out / "log.jsonl", None, lambda line: json.loads(line)["step"] <= step)
        self._metrics = (out / "metrics.csv").open("a", encoding="utf-8", newline="")
        self._log = (out / "log.jsonl").open("a", encoding="utf-8")

    def metrics(self, values: dict) -> None:
        """Appends one row; `values` has the keys METRICS."""
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(
            [f"{v:.6g}" if isinstance(v := values[name], float) else v for name in METRICS])
        self._metrics.write(line.getvalue())
        self._metrics.flush()

    def event(self, name: str, *, step: int, **values) -> None:
        """Appends one event with its time, in seconds since 1970."""
        self._log.write(json.dumps({"event": name, "step": step, "time": round(time.time(), 3), **values}) + "\n")
        self._log.flush()

    def sync(self) -> None:
        """Brings the files to the disk: a checkpoint's metrics must not be lost where the checkpoint is not."""
        os.fsync(self._metrics.fileno())
        os.fsync(self._log.fileno())

    def close(self) -> None:
        self._metrics.close()
        self._log.close()


def _cut(path: Path, header: str | None, keep) -> None:
    """Keeps the lines of `path` that `keep` accepts; a line that cannot be read was half-written and goes too."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [header] if header else []
    for line in lines:
        try:
            if line != header and keep(line):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    atomic_text(path, "".join(line + "\n" for line in kept))
