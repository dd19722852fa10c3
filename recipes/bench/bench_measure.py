"""How the benchmark measures: clocks, medians of interleaved repetitions, fresh processes, peak memory, and the table of the figures."""
from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# of processes that have ended: their user and system time
CHILD_CLOCKS = {"wall": time.perf_counter, "cpu": lambda: sum(os.times()[2:4])}
CALL = """
import pathlib, pickle, sys
sys.path.insert(0, sys.argv[1])
function, args = pickle.loads(pathlib.Path(sys.argv[2]).read_bytes())
pathlib.Path(sys.argv[3]).write_bytes(pickle.dumps(function(*args)))
"""


@dataclass(frozen=True)
class Settings:
    """Of a run of the benchmark.

    Args:
        work: folder for what the rows make.
        original: folder of the original Grad-TTS; None for our own figures alone.
        search: folder of its built alignment search; None where that could not be built.
        manifest, speaker: real speech for the rows that need some, and whom to adapt to; empty for the embedded corpus.
        device: `cpu` or `cuda`.
        threads: of everything that has threads.
        repeats: measured repetitions of each thing, after one that is not counted.
        clock: `wall`, or `cpu` for processor time, which other work on the machine disturbs less.
        quick: sizes so small that the figures mean nothing, to see that it runs.
    """

    work: Path
    original: Path | None = None
    search: Path | None = None
    manifest: str = ""
    speaker: str = ""
    device: str = "cpu"
    threads: int = 1
    repeats: int = 3
    clock: str = "wall"
    quick: bool = False

    def now(self) -> float:
        """Seconds on the chosen clock, once the device has nothing left to do."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return CLOCKS[self.clock]()


@dataclass
class Figure:
    """A line of the table.

    Args:
        row: the row of the benchmark that it belongs to.
        name: what was measured.
        unit: of `ours` and `original`, both better when lower.
        ours, original: medians; None where not measured.
        goal: what is to be reached, in words.
        note: what belongs to the figure: differences of the results, why something is missing.
        values: further numbers, for the JSON file.
    """

    row: str
    name: str
    unit: str = "s"
    ours: float | None = None
    original: float | None = None
    goal: str = ""
    note: str = ""
    values: dict = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times less ours is than the original."""
        return self.original / self.ours if self.original is not None and self.ours else None


def interleaved(calls: dict[str, Callable[[], object]], settings: Settings, *, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each call, one after the other in every round, so that what else the machine does meets all alike.

    Args:
        warm: begin with a round that is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(settings.repeats + warm):
        for name, call in calls.items():
            began = settings.now()
            call()
            if number >= warm:
                seconds[name].append(settings.now() - began)
    return seconds


def compared(row: str, name: str, seconds: dict[str, list[float]], **fields) -> Figure:
    """The medians of `ours` and, where it was measured, `original`."""
    medians = {key: statistics.median(values) for key, values in seconds.items() if values}
    values = {"seconds": seconds, **fields.pop("values", {})}
    return Figure(row, name, ours=medians.get("ours"), original=medians.get("original"), values=values, **fields)


def in_process(function: Callable, *args):
    """What a function of one of these modules gives in a fresh process of its own.

    Raises:
        ValueError: it failed; with the last line that it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        call, result = Path(folder, "call"), Path(folder, "result")
        call.write_bytes(pickle.dumps((function, args)))
        run(script(CALL, Path(__file__).parent, call, result), "wall")
        return pickle.loads(result.read_bytes())


def run(words: Sequence[str], clock: str) -> float:
    """Seconds of a command from its start to its end, by a name in `CLOCKS`.

    Raises:
        ValueError: it failed; with the last line that it said.
    """
    now = CHILD_CLOCKS[clock]
    began = now()
    done = subprocess.run(words, capture_output=True, text=True)
    seconds = now() - began
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise ValueError(f"a process of {Path(words[0]).name} failed: {last}")
    return seconds


def script(code: str, *args: str | Path) -> list[str]:
    """The command that runs Python code in a fresh process."""
    return [sys.executable, "-c", code, *map(str, args)]


def memory(name: str = "VmRSS") -> float:
    """MiB of this process: `VmRSS` now, `VmHWM` at its highest.

    Not `ru_maxrss`, which a new process inherits from the one that started it.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def table(figures: Sequence[Figure]) -> str:
    """Markdown, a line per figure."""
    lines = ["| row | what | original | ours | original / ours | goal | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for f in figures:
        ratio = "" if f.ratio is None else f"{f.ratio:.2f}"
        lines.append(f"| {f.row} | {f.name} | {_shown(f.original, f.unit)} | {_shown(f.ours, f.unit)} | {ratio} | {f.goal} | {f.note} |")
    return "\n".join(lines)


def report(figures: Sequence[Figure], facts: dict) -> str:
    """The same as JSON, with every single repetition and what is known of the machine."""
    rows = [{**asdict(f), "ratio": f.ratio} for f in figures]
    return json.dumps({"machine": facts, "figures": rows}, indent=1) + "\n"


def _shown(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
