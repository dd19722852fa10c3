"""A study concluded: its tables, figures, one page with all of them, and a table for the terminal."""
from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .. import __version__
from ..files import atomic_text
from ..training.record import CONFIG
from . import figures, study_figures
from .embedding import SoundShelf, inline_svg
from .report import REPORT, SOUND_BYTES, render
from .results import read_settings
from .robustness import Grid, compare, courses, draw, interval
from .study_ablation import ablation
from .study_figures import View
from .summary import calibrations, distribution_table, pollution_anchor, share_table, thresholds_of
from .table import Loaded, Note, gather, load_runs, read_note, write_table
from .verification import Calibration

TEMPLATE = "study_report.html"
PIXELS = 108
"""Of a page to an inch of a figure."""


@dataclass(frozen=True)
class Conclusion:
    """All that a study's finished runs say.

    Args:
        note, table: see `table`.
        comparisons, shares, distributions: with a column `encoder`, see `robustness.compare` and `summary`.
        known: encoder -> calibration on natural clips.
        anchors: encoder -> label -> similarity that the target's own clips reach.
        seconds: what the runs took together.
    """

    note: Note
    table: pd.DataFrame
    comparisons: pd.DataFrame
    shares: pd.DataFrame
    distributions: pd.DataFrame
    known: dict[str, Calibration]
    anchors: dict[str, dict[str, float]]
    seconds: float

    @property
    def encoders(self) -> list[str]:
        return list(pd.unique(self.table["encoder"]))

    @property
    def judge(self) -> str:
        """The first encoder that takes no part in training; Resemblyzer does: new voices start from it, weights and audits hear by it."""
        return next((name for name in self.encoders if name != "resemblyzer"), self.encoders[0])

    @property
    def settings(self) -> dict:
        return read_settings(self.note.out)

    def thresholds(self, encoder: str) -> list[float]:
        """Similarities below which an encoder's samples are counted."""
        return thresholds_of(encoder, self.known[encoder], self.settings["evaluation"]["thresholds"])


def conclude(out: Path) -> tuple[Path | None, str]:
    """Gathers a study's finished runs into `results.parquet`, `results.csv`, `comparison.csv`, `courses.csv` (the same at
    every iteration), `shares.csv`, `distribution.csv`, `figures/` and `report.html`; gives the page, None where no run is
    finished, and a table for the terminal.

    Raises:
        ValueError: no study there, or a broken file.
    """
    note = read_note(out)
    runs = load_runs(note)
    if not runs:
        return None, "no run is finished"
    found = _concluded(note, runs)
    write_table(out, found.table)
    every = pd.concat([courses(found.table, baseline=note.baseline, clean=note.clean, encoder=name).assign(encoder=name)
                       for name in found.encoders], ignore_index=True)
    for name, table in (("comparison", found.comparisons), ("courses", every), ("shares", found.shares),
                        ("distribution", found.distributions)):
        atomic_text(Path(out) / f"{name}.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    atomic_text(Path(out) / "calibration.json", json.dumps({name: asdict(one) for name, one in found.known.items()}, indent=1) + "\n")
    page = Path(out) / REPORT
    atomic_text(page, render(TEMPLATE, _context(found, runs)))
    return page, terminal_text(found)


def _concluded(note: Note, runs: Sequence[Loaded]) -> Conclusion:
    table = gather(note, runs)
    encoders = list(pd.unique(table["encoder"]))
    known = calibrations(runs, encoders)
    thresholds = read_settings(note.out)["evaluation"]["thresholds"]
    comparisons = pd.concat([compare(table, baseline=note.baseline, clean=note.clean, encoder=name).assign(encoder=name)
                             for name in encoders], ignore_index=True)
    anchors = {name: {"target's own clips": known[name].within} for name in encoders}
    seconds = sum({one.run["key"]: one.facts["seconds"] for one in runs}.values())
    return Conclusion(note, table, comparisons, share_table(table, known, thresholds), distribution_table(note, runs, encoders), known,
                      anchors, seconds)


def terminal_text(found: Conclusion) -> str:
    """Per encoder a line for each condition and objective: mean, R, damage ratio with interval, Holm's p."""
    lines = []
    for encoder in found.encoders:
        part = found.comparisons[found.comparisons["encoder"] == encoder]
        first = max(map(len, part["condition"]))
        width = first + 2 + max(map(len, part["objective"]))
        lines.append(f"{encoder}: similarity, R and damage ratio against {found.note.baseline or 'nothing'}, 95 % intervals over speakers "
                     "and seeds")
        lines.append(f"{'':<{width}}  {'similarity':<26}{'R':<28}{'damage ratio':<24}p (Holm)")
        for row in part.itertuples():
            name = f"{row.condition:<{first}}  {row.objective}"
            lines.append(f"{name:<{width}}  {_span(row.mean, row.mean_low, row.mean_high):<26}"
                         f"{_span(row.R, row.R_low, row.R_high, sign=True):<28}"
                         f"{_span(row.ratio, row.ratio_low, row.ratio_high, digits=2):<24}"
                         f"{'' if math.isnan(row.p_holm) else f'{row.p_holm:.3f}'}".rstrip())
    return "\n".join([*lines, *statements(found), f"{len(found.note.finished())} of {len(found.note.runs)} runs, "
                      f"{found.seconds / 3600:.1f} hours of one process"])


def statements(found: Conclusion) -> list[str]:
    """What the comparison says in words, whichever way it came out, by `found.judge`."""
    note, said = found.note, []
    methods = {run["objective"]: run["method"] for run in note.runs}
    part = found.comparisons[found.comparisons["encoder"] == found.judge]
    if not note.clean or not note.baseline:
        return [f"no damage is told: the study has no {'clean condition' if not note.clean else 'baseline of squared error'}"]
    for condition in [name for name in pd.unique(part["condition"]) if name != note.clean]:
        rows = part[part["condition"] == condition]
        plain = rows[rows["objective"] == note.baseline]
        if plain.empty:
            continue
        one = plain.iloc[0]
        line = f"{condition}: dirt changes the similarity of {note.baseline} by {_span(one['R'], one['R_low'], one['R_high'], sign=True)}"
        ratios = rows[np.isfinite(rows["ratio"].astype(float))]
        # what nobody can do outside a study is no advice
        ratios = ratios[[methods.get(name) != "oracle" for name in ratios["objective"]]]
        if len(ratios):
            best = ratios.sort_values("ratio").iloc[0]
            line += (f"; least damage by {best['objective']}, ratio {_span(best['ratio'], best['ratio_low'], best['ratio_high'], digits=2)}"
                     + (f" ({best['remark']})" if best["remark"] else ""))
            clear = [row.objective for row in ratios.itertuples() if row.ratio_high < 1 and not row.remark]
            line += f"; whole interval below 1: {', '.join(clear)}" if clear else "; no interval lies below 1 as a whole"
            line += _beside_audit(found, ratios, methods)
        elif len(remarks := [text for text in rows["remark"] if text]):
            line += f"; no ratios: {remarks[0]}"
        said.append(line)
    unhurt = part[(part["condition"] == note.clean) & (part["objective"] != note.baseline)]
    costs = [f"{row.objective} {_span(row.difference, row.difference_low, row.difference_high, sign=True)}" for row in unhurt.itertuples()]
    said += [f"{note.clean}, against {note.baseline}: {'; '.join(costs)}"] if costs else []
    if len(found.encoders) > 1:
        said.insert(0, f"judged by {found.judge}:")
    if len(pd.unique(found.table["speaker"])) * len(pd.unique(found.table["seed"])) < 6:
        said.append("few speakers and seeds: a trial, not a study")
    return said


def _beside_audit(found: Conclusion, ratios: pd.DataFrame, methods: dict[str, str]) -> str:
    """Whether the best of the objectives that keep all data is worth more than leaving out what an audit finds; "" without an audit."""
    audits, others = ([row for row in ratios.sort_values("ratio").itertuples() if (methods.get(row.objective) == "audit") == audited]
                      for audited in (True, False))
    if not audits or not others:
        return ""
    best, audit = others[0], audits[0]
    grid = Grid(found.table[found.table["encoder"] == found.judge])
    apart = interval(draw(len(grid.speakers), len(grid.seeds)), grid.get(best.condition, best.objective),
                     grid.get(best.condition, audit.objective), statistic=lambda one, other: one - other)
    verdict = f"{best.objective} does better" if apart.low > 0 else f"{audit.objective} does at least as well" if apart.value <= 0 else \
        f"{audit.objective} may do as well"
    return f"; {verdict} ({best.objective} minus {audit.objective} {_span(apart.value, apart.low, apart.high, sign=True)})"


def _context(found: Conclusion, runs: Sequence[Loaded]) -> dict:
    table, note = found.table, found.note
    shelf = SoundShelf(SOUND_BYTES)
    counts = {name: int(table[name].nunique()) for name in ("speaker", "condition", "objective", "seed", "sentence")}
    others = found.encoders[1:]
    settings = found.settings
    return {
        "version": __version__, "counts": counts, "encoders": found.encoders, "vocoder": settings["evaluation"]["vocoder"],
        "iterations": int(table["iteration"].max()), "baseline": note.baseline, "clean": note.clean, "statements": statements(found),
        "tables": [{"encoder": name, "rows": _shown(found.comparisons, name), "remarks": _remarks(found.comparisons, name)}
                   for name in found.encoders],
        "details": [{"encoder": name, "rows": _details(found, name), "thresholds": found.thresholds(name)} for name in found.encoders],
        "known": [{"encoder": name, "foreign": pollution_anchor(runs, name), **asdict(one)} for name, one in found.known.items()],
        "figures": _figures(found, found.encoders[0], "a"),
        "more": [{"encoder": name, "figures": _figures(found, name, f"b{number}")} for number, name in enumerate(others)],
        "failures": note.failures(), "unfinished": len(note.runs) - len(note.finished()), "runs": len(note.runs),
        "hours": found.seconds / 3600, "each": found.seconds / max(1, len(found.note.finished())), "quality": quality(runs),
        "players": _players(found, shelf), "left_out": shelf.left_out, "command": note.command,
        "settings": (note.out / CONFIG).read_text(encoding="utf-8")}


def _shown(comparisons: pd.DataFrame, encoder: str) -> list[dict]:
    rows = comparisons[comparisons["encoder"] == encoder].to_dict("records")
    for before, row in zip([None, *rows], rows):
        row["first"] = before is None or before["condition"] != row["condition"]
        for name, digits, sign in (("mean", 3, False), ("R", 3, True), ("differential", 3, True), ("ratio", 2, False),
                                   ("own_ratio", 2, False), ("difference", 3, True)):
            value, _, rest = _span(row[name], row[f"{name}_low"], row[f"{name}_high"], digits=digits, sign=sign).partition(" ")
            row[f"{name}_text"] = (value or "–", rest.strip("()"))
    return rows


def _remarks(comparisons: pd.DataFrame, encoder: str) -> list[str]:
    """Each remark once per condition."""
    rows = comparisons[(comparisons["encoder"] == encoder) & (comparisons["remark"] != "")]
    return [f"{condition}: {remark}" for condition, remark in dict.fromkeys(zip(rows["condition"], rows["remark"]))]


def _details(found: Conclusion, encoder: str) -> list[dict]:
    keys = ["encoder", "condition", "objective"]
    merged = found.shares.merge(found.distributions.drop(columns="samples"), on=keys, how="left")
    rows = merged[merged["encoder"] == encoder].to_dict("records")
    for before, row in zip([None, *rows], rows):
        row["first"] = before is None or before["condition"] != row["condition"]
        row["below"] = [int(row[f"below {value:g}"]) for value in found.thresholds(encoder)]
    return rows


def quality(runs: Sequence[Loaded]) -> list[dict]:
    """Means over runs of what `speech_quality` measured, per condition and objective; empty where nothing was."""
    groups: dict[tuple[str, str], dict[str, list[float]]] = {}
    for one in runs:
        for name, value in one.facts.get("quality", {}).items():
            if value is not None and math.isfinite(value):
                groups.setdefault((one.run["condition"], one.run["objective"]), {}).setdefault(name, []).append(value)
    return [{"condition": key[0], "objective": key[1], **{name: statistics.fmean(found) for name, found in values.items()}}
            for key, values in groups.items()]


def _figures(found: Conclusion, encoder: str, prefix: str) -> list[dict]:
    """The figures as inline SVG with the words that stand for them; as files in `figures/` too."""
    comparison = found.comparisons[found.comparisons["encoder"] == encoder]
    view = View(found.note, found.table[found.table["encoder"] == encoder], comparison, found.anchors[encoder])
    band = "Bands: 95 % bootstrap intervals over speakers, and seeds within them, widened for few speakers (expanded percentiles)."
    drawn = [
        ("damage", study_figures.damage_forest(view), "Damage ratio",
         "What each objective leaves of the damage that dirt does to plain training. Dotted: that damage's own interval includes 0, and "
         "the ratio says little. Intervals that leave the picture are cut."),
        ("trajectories", study_figures.trajectories(view), "Similarity over iterations",
         f"Means over speakers, seeds and sentences. {band}"),
        ("resilience", study_figures.resilience_courses(view), "Resilience over iterations",
         f"R, the similarity after training on dirty data minus that after clean data by the same objective: 0 is no damage. {band}"),
        ("fractions", study_figures.resilience_over_fraction(view), "Resilience over the share of dirt",
         "R at the checkpoint that a run is judged by. Whiskers: 95 % intervals."),
        ("schedules", ablation(view, "delta_schedule"), "Delta schedules",
         "R by the schedule of delta; the dashed line is the baseline's."),
        ("delta", ablation(view, "delta_0"), "Delta at full noise", "R over delta_0; the dashed line is the baseline's."),
        ("speakers", study_figures.per_speaker(view), "Every speaker",
         "One line per speaker, means over seeds, under the worst conditions."),
        ("below", study_figures.below_thresholds(view, found.thresholds(encoder)), "Samples below thresholds",
         "Which share of the samples stays below a similarity: the lower the better."),
        ("pollution", study_figures.target_against_pollution(view), "Target against foreign speakers",
         "A point per speaker and objective: further right sounds more like the foreign clips, higher up more like the target."),
    ]
    shown = [(name, figure, title, text) for name, figure, title, text in drawn if figure is not None]
    for name, figure, _, _ in shown:
        figures.save(figure, found.note.out / "figures" / f"{encoder}-{name}.svg")
    return [{"svg": inline_svg(figures.to_svg(figure), name=f"{prefix}{number}"), "title": title, "text": text,
             "width": round(PIXELS * figure.get_figwidth())}
            for number, (_, figure, title, text) in enumerate(shown)]


def _players(found: Conclusion, shelf: SoundShelf) -> list[dict]:
    """The first sentence of the first speaker and seed by every condition and objective, where waves were kept."""
    table = found.table
    part = table[(table["sample"] != "") & table["selected"] & (table["encoder"] == found.encoders[0])]
    part = part[(part["speaker"] == table["speaker"].iloc[0]) & (part["seed"] == table["seed"].iloc[0]) & (part["sentence"] == 1)]
    return [{"condition": condition, "cells": [
        {"name": row.objective, "similarity": row.similarity, "sound": shelf(found.note.out / row.sample)} for row in rows.itertuples()]}
        for condition, rows in part.groupby("condition", sort=False)]


def _span(value: float, low: float, high: float, *, digits: int = 3, sign: bool = False) -> str:
    """A value and its interval, such as `0.71 (0.68 to 0.74)`; "" where there is none."""
    if not math.isfinite(value):
        return ""
    form = f"{'+' if sign else ''}.{digits}f"
    inner = f" ({low:{form}} to {high:{form}})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{value:{form}}{inner}"
