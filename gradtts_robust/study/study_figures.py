"""Figures of a study. Legible in black and white: every objective has its own line style and marker."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .figures import _RC, INK, _figure, _legend_below, line_style
from .robustness import Draws, Grid, draw, interval, resilience
from .table import Note

WORST = 3
"""Conditions with a panel where all would be too many: those that hurt the baseline most."""
PANEL = (3.3, 2.7)


@dataclass
class View:
    """One encoder's part of a study's table, with what figures need again and again.

    Args:
        note: of the study.
        table: rows of one encoder.
        comparison: see `robustness.compare`.
        anchors: lines to draw: label -> similarity.
    """

    note: Note
    table: pd.DataFrame
    comparison: pd.DataFrame
    anchors: dict[str, float]

    def __post_init__(self):
        self.objectives = list(pd.unique(self.table["objective"]))
        self.conditions = list(pd.unique(self.table["condition"]))
        self.dirty = [name for name in self.conditions if name != self.note.clean]
        self.iterations = [int(value) for value in sorted(self.table["iteration"].unique())]
        self.grids = {iteration: Grid(self.table, iteration=iteration) for iteration in self.iterations}
        self.final = Grid(self.table)
        self.draws: Draws = draw(len(self.final.speakers), len(self.final.seeds), draws=500)

    def worst(self, names: Sequence[str]) -> list[str]:
        """Up to `WORST` of these conditions, those where the baseline is least like the target."""
        means = self.comparison[self.comparison["objective"] == self.note.baseline].set_index("condition")["mean"]
        return sorted(names, key=lambda name: means.get(name, math.inf))[:WORST]

    def style(self, objective: str) -> dict:
        """Colour, line and marker of an objective, the same in every figure."""
        return {**line_style(self.objectives.index(objective)), "markersize": 4.5, "linewidth": 1.5}


def trajectories(view: View) -> Figure:
    """Similarity to the target over iterations, a panel per condition, averaged over speakers and seeds."""
    return _courses(view, view.conditions, "similarity to the target", lambda grid, condition, objective: interval(
        view.draws, grid.get(condition, objective)), anchors=True)


def resilience_courses(view: View) -> Figure | None:
    """R over iterations, a panel per dirty condition; None without clean runs."""
    if not view.note.clean or not view.dirty:
        return None
    figure = _courses(view, view.dirty, "R", lambda grid, condition, objective: resilience(
        view.draws, grid.get(condition, objective), grid.get(view.note.clean, objective)))
    for axes in figure.axes:
        axes.axhline(0, color=INK, linewidth=0.8)
    return figure


def _courses(view: View, names: Sequence[str], label: str, measure, *, anchors: bool = False) -> Figure:
    with matplotlib.rc_context(_RC):
        figure, panels = panels_for(names)
        for name, axes in zip(names, panels, strict=True):
            for objective in view.objectives:
                found = [measure(view.grids[iteration], name, objective) for iteration in view.iterations]
                style = view.style(objective)
                axes.fill_between(view.iterations, [one.low for one in found], [one.high for one in found], color=style["color"],
                                  alpha=0.1, linewidth=0)
                axes.plot(view.iterations, [one.value for one in found], label=objective, **style)
            if anchors:
                _anchors(axes, view.anchors)
            axes.set_title(name, loc="left")
            axes.grid(axis="y", alpha=0.25)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        label_axes(panels, "iteration", label)
        share_y(panels)
        _legend_below(panels[0], columns=_legend_columns(view.objectives, len(panels)))
    return figure


def resilience_over_fraction(view: View) -> Figure | None:
    """R at the selected checkpoint over the share of dirt, a panel per kind of dirt that has several shares; None without such."""
    clean = view.note.clean
    facts = view.table.drop_duplicates("condition").set_index("condition")
    families: dict[tuple, list[str]] = {}
    for name in view.dirty:
        row = facts.loc[name]
        families.setdefault((row["corruption_kind"], row["corruption_pick"], _stem(name)), []).append(name)
    families = {key: sorted(names, key=lambda name: facts.loc[name, "corruption_fraction"]) for key, names in families.items()
                if len({facts.loc[name, "corruption_fraction"] for name in names}) > 1}
    if not families or not clean:
        return None
    with matplotlib.rc_context(_RC):
        figure, panels = panels_for(list(families))
        for (kind, pick, stem), names, axes in zip(families, families.values(), panels, strict=False):
            fractions = [0.0, *(float(facts.loc[name, "corruption_fraction"]) for name in names)]
            for place, objective in enumerate(view.objectives):
                found = [resilience(view.draws, view.final.get(name, objective), view.final.get(clean, objective))
                         for name in (clean, *names)]
                whiskers(axes, np.array(fractions) + 0.003 * (place - len(view.objectives) / 2), found, view.style(objective), objective)
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set_title(stem.strip("-_ ") or f"{kind}, {pick}", loc="left")
            axes.grid(axis="y", alpha=0.25)
        label_axes(panels, "share of dirt", "R")
        share_y(panels)
        _legend_below(panels[0], columns=_legend_columns(view.objectives, len(panels)))
    return figure


def below_thresholds(view: View, thresholds: Sequence[float]) -> Figure:
    """Share of samples below each threshold at the selected checkpoints, a panel per condition: the lower the better."""
    part = view.table[view.table["selected"]]
    with matplotlib.rc_context(_RC):
        figure, panels = panels_for(view.conditions)
        width = 0.84 / len(view.objectives)
        for name, axes in zip(view.conditions, panels, strict=True):
            for index, objective in enumerate(view.objectives):
                values = part.loc[(part["condition"] == name) & (part["objective"] == objective), "similarity"].dropna()
                shares = [float((values < threshold).mean()) if len(values) else math.nan for threshold in thresholds]
                style = view.style(objective)
                axes.bar(np.arange(len(thresholds)) + (index - (len(view.objectives) - 1) / 2) * width, shares, width,
                         color=style["color"], edgecolor=INK, linewidth=0.4, hatch=("", "////", "....", "xxxx")[index % 4],
                         alpha=0.55 if style["markerfacecolor"] == "none" else 1.0, label=objective)
            axes.set_xticks(np.arange(len(thresholds)), [f"{threshold:g}" for threshold in thresholds])
            axes.set_title(name, loc="left")
            axes.set_ylim(0, 1)
            axes.grid(axis="y", alpha=0.25)
        label_axes(panels, "threshold", "share of samples below")
        _legend_below(panels[0], columns=_legend_columns(view.objectives, len(panels)))
    return figure


def damage_forest(view: View) -> Figure | None:
    """Damage ratio of every objective with its interval, a group per condition; None where no ratio is known."""
    known = view.comparison[np.isfinite(view.comparison["ratio"].astype(float))]
    if known.empty:
        return None
    with matplotlib.rc_context(_RC):
        rows = sum(len(group) + 1 for _, group in known.groupby("condition"))
        figure, axes = _figure(6.4, 0.24 * rows + 1.1)
        place, ticks, names = 0.0, [], []
        limits = np.clip(known[["ratio", "ratio_low", "ratio_high"]].to_numpy(dtype=float), -1.5, 2.5)
        left, right = min(-0.25, np.nanmin(limits)), max(1.25, np.nanmax(limits))
        for condition in [name for name in view.dirty if name in set(known["condition"])]:
            axes.text(left + 0.01 * (right - left), place, condition, fontweight="bold", va="center")
            place += 1
            for row in known[known["condition"] == condition].itertuples():
                style = view.style(row.objective)
                axes.plot(np.clip([row.ratio_low, row.ratio_high], left, right), [place, place], color=style["color"], linewidth=1.6,
                          linestyle=":" if row.remark else "-")
                axes.plot([np.clip(row.ratio, left, right)], [place], **{**style, "linestyle": "", "markersize": 6})
                ticks.append(place)
                names.append(row.objective)
                place += 1
        for value, kind in ((0, "-"), (1, "--")):
            axes.axvline(value, color=INK, linewidth=0.8, linestyle=kind)
        axes.set_yticks(ticks, names)
        axes.set_ylim(place - 0.4, -0.6)
        axes.set_xlim(left, right)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("damage ratio: 0 no damage, 1 as much as plain training")
    return figure


def per_speaker(view: View) -> Figure | None:
    """Each speaker's mean similarity under every objective, lines pair them; panels for the conditions that hurt the baseline most."""
    clean, baseline = view.note.clean, view.note.baseline
    if not view.dirty or not baseline:
        return None
    names = view.worst(view.dirty)
    with matplotlib.rc_context(_RC):
        figure, panels = panels_for(names, wide=1.25)
        labels = [*([f"{baseline},\nclean data"] if clean else []), *view.objectives]
        for name, axes in zip(names, panels, strict=True):
            for index, speaker in enumerate(view.final.speakers):
                values = [view.final.get(clean, baseline)[index]] if clean else []
                values += [view.final.get(name, objective)[index] for objective in view.objectives]
                means = [float(np.nanmean(value)) if np.isfinite(value).any() else math.nan for value in values]
                axes.plot(range(len(labels)), means, **line_style(index), markersize=4.5, linewidth=1.1,
                          label=str(speaker) if index < 12 else None)
            axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
            axes.set_title(name, loc="left")
            axes.grid(axis="y", alpha=0.25)
        label_axes(panels, "", "similarity to the target")
        share_y(panels)
        _legend_below(panels[0], columns=6)
    return figure


def target_against_pollution(view: View) -> Figure | None:
    """Similarity to the target against that to the foreign speakers, a point per speaker and objective; None without foreign clips."""
    part = view.table[view.table["selected"]].dropna(subset=["pollution_similarity"])
    names = view.worst([name for name in view.dirty if name in set(part["condition"])])
    if not names:
        return None
    with matplotlib.rc_context(_RC):
        figure, panels = panels_for(names)
        for name, axes in zip(names, panels, strict=True):
            for objective in view.objectives:
                own = part[(part["condition"] == name) & (part["objective"] == objective)]
                means = own.groupby("speaker")[["pollution_similarity", "similarity"]].mean()
                style = view.style(objective)
                axes.plot(means["pollution_similarity"], means["similarity"], **{**style, "linestyle": "", "alpha": 0.9}, label=objective)
            _anchors(axes, view.anchors)
            axes.set_title(name, loc="left")
            axes.grid(alpha=0.25)
        label_axes(panels, "similarity to the foreign speakers", "similarity to the target")
        share_y(panels)
        _legend_below(panels[0], columns=_legend_columns(view.objectives, len(panels)))
    return figure


def _stem(condition: str) -> str:
    """A condition's name without its share, such as `random-` of `random-45`."""
    return condition.rstrip("0123456789.%")


def panels_for(names: Sequence, *, wide: float = 1.0) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each name, three in a row."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    single = 1.6 if len(names) == 1 else 1.0
    figure, grid = _figure(PANEL[0] * columns * wide * single + 0.4, PANEL[1] * rows + 0.9, rows=rows, columns=columns)
    panels = list(np.atleast_1d(grid).ravel())
    for axes in panels[len(names):]:
        axes.remove()
    return figure, panels[:len(names)]


def label_axes(panels: Iterable[Axes], below: str, left: str) -> None:
    """Names the axes, the upright one in the first column alone."""
    for axes in panels:
        place = axes.get_subplotspec()
        if place.is_first_col():
            axes.set_ylabel(left)
        axes.set_xlabel(below)


def share_y(panels: Sequence[Axes]) -> None:
    """Gives all panels one upright range."""
    low, high = min(axes.get_ylim()[0] for axes in panels), max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(low, high)


def _legend_columns(names: Sequence[str], panels: int) -> int:
    return max(1, min(len(names), 2 if panels == 1 else 2 * min(3, panels) - 1))


def _anchors(axes: Axes, anchors: dict[str, float]) -> None:
    for (label, value), style in zip(anchors.items(), ((0, (5, 1)), (0, (1, 1)), "-."), strict=False):
        if math.isfinite(value):
            axes.axhline(value, color=INK, linestyle=style, linewidth=1, label=f"{label}, {value:.2f}")


def whiskers(axes: Axes, places: np.ndarray, found: Sequence, style: dict, label: str) -> None:
    """Draws estimates with their intervals."""
    values = np.array([one.value for one in found])
    low, high = (np.array([getattr(one, side) for one in found]) for side in ("low", "high"))
    error = np.nan_to_num(np.abs(np.stack([values - low, high - values])))
    axes.errorbar(places, values, yerr=error, capsize=2, elinewidth=0.8, label=label, **style)
