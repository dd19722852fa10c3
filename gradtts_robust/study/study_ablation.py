"""Ablations of a study as figures: what a delta schedule, or the delta at full noise, does to the damage."""
from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .figures import _RC, INK, _legend_below, line_style
from .robustness import resilience
from .study_figures import View, label_axes, panels_for, share_y, whiskers


def ablation(view: View, column: str) -> Figure | None:
    """R over an objective's `delta_schedule` or `delta_0` at the selected checkpoint, a line per penalty (and schedule), a panel per dirty
    condition; None where nothing but it differs."""
    facts = view.table.drop_duplicates("objective")
    facts = facts[(facts["penalty"] != "l2") & (facts["method"] == "plain") & (facts["example_weights"] == "none")]
    facts = facts[facts["matched"].astype(str) == "False"]
    same = ["penalty", "delta_schedule" if column == "delta_0" else "delta_0", "weighting", "learning_rate", "level"]
    lines = {key: group for key, group in facts.groupby(same, sort=False) if group[column].nunique() > 1}
    if not lines or not view.note.clean:
        return None
    values = sorted({value for group in lines.values() for value in group[column]})
    with matplotlib.rc_context(_RC):
        figure, panels = panels_for(view.dirty)
        for name, axes in zip(view.dirty, panels, strict=True):
            for index, (key, group) in enumerate(lines.items()):
                group = group.sort_values(column)
                found = [resilience(view.draws, view.final.get(name, objective), view.final.get(view.note.clean, objective))
                         for objective in group["objective"]]
                places = group[column].to_numpy(dtype=float) if column == "delta_0" else np.array([values.index(v) for v in group[column]])
                style = {**line_style(index), "markersize": 5} | ({} if column == "delta_0" else {"linestyle": ""})
                whiskers(axes, places, found, style, ", ".join(str(part) for part in key[: 2 if len(lines) < 4 else None]))
            plain = resilience(view.draws, view.final.get(name, view.note.baseline), view.final.get(view.note.clean, view.note.baseline))
            axes.axhline(plain.value, color=INK, linewidth=0.9, linestyle="--", label=view.note.baseline)
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set_title(name, loc="left")
            axes.grid(axis="y", alpha=0.25)
            if column == "delta_0":
                axes.set_xscale("log")
            else:
                axes.set_xticks(range(len(values)), values, rotation=30, ha="right")
        label_axes(panels, column, "R")
        share_y(panels)
        _legend_below(panels[0], columns=2)
    return figure
