"""Measures what people wait for, beside the original Grad-TTS where its folder is given.

    python recipes/bench/bench.py --original Speech-Backbones/Grad-TTS --out runs/bench.json

Both are measured in the same run, alternately, and medians are compared. docs/performance.md says what the rows are.
"""
from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import bench_original
from bench_measure import CLOCKS, Figure, Settings, report, table

# row -> the function that measures it
ROWS = {"train": "bench_training.measure", "speak": "bench_synthesis.measure", "align": "bench_small.align", "embed": "bench_small.embed",
        "start": "bench_small.start", "adapt": "bench_runs.adapt", "study": "bench_runs.study", "scale": "bench_scaling.measure"}
FAILED = "failed"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every chosen row was measured, 1 where one failed, 2 for a command that cannot be carried out."""
    args = parser().parse_args(argv)
    # before torch and numba are imported: they read it once
    os.environ.update({name: str(args.threads) for name in THREADS})
    try:
        with tempfile.TemporaryDirectory(prefix="gradtts-bench-") as folder:
            figures = measure(args, Path(folder))
    except (ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    facts = machine(args)
    print(", ".join(f"{name} {value}" for name, value in facts.items()) + "\n\n" + table(figures))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(report(figures, facts), encoding="utf-8")
    return int(any(figure.name == FAILED for figure in figures))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--original", type=Path, help="folder Grad-TTS of huawei-noah/Speech-Backbones; without it our own figures alone")
    made.add_argument("--only", nargs="+", choices=ROWS, default=[row for row in ROWS if row != "scale"], metavar="ROW",
                      help=f"rows to measure: {', '.join(ROWS)}; scale needs a GPU")
    made.add_argument("--repeats", type=_positive, default=3, help="measured repetitions, of which the median counts")
    made.add_argument("--threads", type=_positive, default=os.cpu_count(), help="CPU threads")
    made.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu is processor time, for one thread on a busy machine")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the models compute")
    made.add_argument("--manifest", default="", help="real speech to embed and to adapt to; without it the embedded corpus")
    made.add_argument("--speaker", default="", help="whom of it to adapt to")
    made.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, and nothing else")
    made.add_argument("--out", type=Path, help="JSON file with every repetition")
    return made


def measure(args: argparse.Namespace, folder: Path) -> list[Figure]:
    """The figures of the chosen rows, each told as soon as it is there.

    Raises:
        FileNotFoundError, ValueError: a setting that cannot be used.
    """
    settings = Settings(
        work=folder, original=args.original and args.original.resolve(), manifest=args.manifest, speaker=args.speaker, device=args.device,
        threads=args.threads, repeats=args.repeats, clock=args.clock, quick=args.quick)
    if args.device == "cuda":
        import torch

        # float32 is float32 on both sides, where nothing else is said
        torch.backends.cudnn.allow_tf32 = False
    if bool(args.manifest) != bool(args.speaker):
        raise ValueError("--manifest and --speaker belong together; give both or neither")
    if settings.original:
        bench_original.check(settings.original)
        search = folder / "search"
        search.mkdir()
        failed = bench_original.build_search(settings.original, search)
        if failed:
            print(f"the original's alignment search is not built, ours stands in for it: {failed}", file=sys.stderr)
        settings = replace(settings, search=None if failed else search)
    figures = []
    for row in args.only:
        found = measure_row(row, settings)
        for figure in found:
            print(table([figure]).splitlines()[-1], file=sys.stderr, flush=True)
        figures += found
    return figures


def measure_row(row: str, settings: Settings) -> list[Figure]:
    """A row's figures, or the line that says why there are none: the other rows are worth having without it."""
    module, function = ROWS[row].split(".")
    try:
        return getattr(importlib.import_module(module), function)(settings)
    except (ValueError, OSError, ImportError) as error:
        return [Figure(row, FAILED, note=str(error).splitlines()[0])]


def machine(args: argparse.Namespace) -> dict:
    """What the figures depend on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    device = torch.cuda.get_device_name() if args.device == "cuda" else name
    return {"device": device, "threads": args.threads, "clock": args.clock, "repeats": args.repeats, "torch": torch.__version__,
            "quick": args.quick}


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
