"""What the theory recipes share: the command line, a printed table, a CSV, a figure that reads without colour."""
from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

# before pyplot is imported: no display is needed
matplotlib.use("Agg")
from matplotlib import pyplot

from gradtts_robust.files import atomic_write

LINES = [("black", "-", "o"), ("0.35", "--", "s"), ("black", ":", "^"), ("0.55", "-.", "D"), ("black", (0, (5, 1)), "v"),
         ("0.45", (0, (1, 1)), "x"), ("black", "-.", "P"), ("0.6", "-", "*")]
"""(grey, dash, marker) of the n-th curve of a panel."""


def arguments(description: str) -> argparse.Namespace:
    """The options all recipes have: `out` folder, `quick` for small sizes, `seed`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/theory"), help="folder for the tables and figures")
    parser.add_argument("--quick", action="store_true", help="small sizes: seconds instead of minutes, coarser numbers")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def cell(value: object) -> str:
    """A table's cell: numbers with four digits, the rest as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_table(rows: list[dict], path: Path) -> None:
    """Rows with equal keys as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)


def print_table(rows: list[dict], title: str) -> None:
    """Rows with equal keys as a table in Markdown, ready for the docs."""
    print(f"\n{title}\n")
    print("| " + " | ".join(rows[0]) + " |")
    print("| " + " | ".join("---" for _ in rows[0]) + " |")
    for row in rows:
        print("| " + " | ".join(cell(value) for value in row.values()) + " |")


def save_figure(figure: pyplot.Figure, path: Path) -> None:
    """The figure as SVG and PNG, `path` being without suffix; the SVG is the same file for the same numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        for suffix in ("svg", "png"):
            with atomic_write(path.with_suffix(f".{suffix}")) as temporary:
                figure.savefig(temporary, format=suffix, dpi=120, metadata={"Date": None} if suffix == "svg" else None)
    pyplot.close(figure)
