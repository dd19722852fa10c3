"""A study's page."""
from __future__ import annotations

from pathlib import Path

from .robustness import compare
from .table import read_note, read_table


def write_study_report(out: Path) -> tuple[Path, str]:
    note, table = read_note(out), read_table(out)
    found = compare(table, baseline=note.baseline, clean=note.clean, encoder=table["encoder"].iloc[0])
    return Path(out) / "report.html", found.to_string()
