"""Tables and figure of the digits study, from its results.csv."""
from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TextIO

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradtts_robust.files import atomic_text
from gradtts_robust.study.figures import line_style, save
from gradtts_robust.study.metrics import Interval, bootstrap_interval

PLAIN = "l2"
LEAST_DAMAGE = 0.01  # below it a ratio is noise divided by noise


def resilience_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """R = S(dirty) - S(clean) of every dirty training at every step, beside it the clean run's S; clean is the same objective and seed.

    Args:
        rows: results with the columns objective, pick, fraction, seed, step, share; fraction 0 is clean.
    """
    same = ["objective", "seed", "step"]
    clean = rows[rows["fraction"] == 0].set_index(same)["share"].rename("clean")
    dirty = rows[rows["fraction"] > 0].join(clean, on=same)
    return dirty.assign(resilience=dirty["share"] - dirty["clean"])


def damage_ratio(rows: pd.DataFrame, objective: str, *, samples: int = 2000) -> Interval:
    """Damage of an objective's runs over the damage of squared error's, (S_clean - S) / (S_clean - S_l2), with S_clean of squared error.

    Means over all given dirty runs, interval by drawing seeds. NaN where squared error is not damaged.

    Args:
        rows: results of one step.
        objective: whose ratio.
    """
    table = rows.pivot_table(index=["seed", "pick", "fraction"], columns="objective", values="share").reset_index()
    parts = []
    for _, part in table.groupby("seed"):
        clean, dirty = part[part["fraction"] == 0][PLAIN].mean(), part[part["fraction"] > 0]
        parts.append([clean - dirty[objective].mean(), clean - dirty[PLAIN].mean()])
    damage = np.array(parts)
    drawn = damage[np.random.default_rng(0).integers(len(damage), size=(samples, len(damage)))].mean(axis=1)
    mean = damage.mean(axis=0)
    if mean[1] < LEAST_DAMAGE:
        return Interval(math.nan, math.nan, math.nan)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1].clip(LEAST_DAMAGE), [0.025, 0.975])
    return Interval(float(mean[0] / mean[1]), float(low), float(high))


def resilience_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean R and its 95 % interval over seeds, by objective, pick, fraction and step."""
    table = []
    for key, part in resilience_rows(rows).groupby(["objective", "pick", "fraction", "step"], sort=True):
        interval = bootstrap_interval(part["resilience"], part["seed"])
        table.append([*key, part["share"].mean(), part["clean"].mean(), interval.mean, interval.low, interval.high])
    return pd.DataFrame(table, columns=["objective", "pick", "fraction", "step", "share", "clean", "resilience", "low", "high"])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per objective: over all dirty runs R at the first and the last step, S on clean data and damage ratio at the last."""
    dirty = resilience_rows(rows)
    steps = sorted(rows["step"].unique())
    table = []
    for objective in pd.unique(rows["objective"]):
        own, cells = dirty[dirty["objective"] == objective], [objective]
        mine = rows[(rows["objective"] == objective) & (rows["step"] == steps[-1]) & (rows["fraction"] == 0)]
        cells += [f"{mine['rate'].iloc[0]:g}", f"{mine['share'].mean():.3f}", f"{mine['energy'].mean():.2f}"]
        for step in dict.fromkeys((steps[0], steps[-1])):
            part = own[own["step"] == step]
            cells.append(_shown(bootstrap_interval(part["resilience"], part["seed"])))
            cells.append(_shown(damage_ratio(rows[rows["step"] == step], objective), digits=2))
        table.append(cells)
    columns = ["objective", "rate", "S clean", "distance clean"]
    columns += [f"{name} at {step}" for step in dict.fromkeys((steps[0], steps[-1])) for name in ("R", "damage ratio")]
    return pd.DataFrame(table, columns=columns)


def by_dirt(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per objective, a column per kind and share of dirt: R at the last step, mean over seeds."""
    last = resilience_rows(rows[rows["step"] == rows["step"].max()])
    table = last.pivot_table(index="objective", columns=["pick", "fraction"], values="resilience")
    table = table.loc[[name for name in pd.unique(rows["objective"]) if name in table.index]]
    table.columns = [f"{pick} {fraction:.0%}" for pick, fraction in table.columns]
    return table.map(lambda value: f"{value:+.3f}").reset_index()


def by_fraction(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per objective, a column per share of dirt: damage ratio at the last step over all kinds of dirt."""
    last = rows[rows["step"] == rows["step"].max()]
    fractions = [fraction for fraction in sorted(last["fraction"].unique()) if fraction > 0]
    table = [[objective, *(_shown(damage_ratio(last[last["fraction"].isin((0, fraction))], objective), digits=2) for fraction in fractions)]
             for objective in pd.unique(last["objective"])]
    return pd.DataFrame(table, columns=["objective", *(f"damage ratio, {fraction:.0%}" for fraction in fractions)])


def resilience_figure(table: pd.DataFrame) -> Figure:
    """R over training steps with 95 % intervals: a row of axes per pick, a column per fraction, a line per objective."""
    picks, fractions = list(pd.unique(table["pick"])), sorted(table["fraction"].unique())
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gradtts-robust", "font.size": 9}):
        figure = Figure(figsize=(3.0 * len(fractions) + 1, 2.4 * len(picks) + 1.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(picks), len(fractions), sharex=True, sharey=True, squeeze=False)
        for row, pick in enumerate(picks):
            for column, fraction in enumerate(fractions):
                place = axes[row][column]
                _lines(place, table[(table["pick"] == pick) & (table["fraction"] == fraction)], shift=0.012)
                place.set_title(f"{fraction:.0%} off-class, {pick}{'' if pick == 'random' else ' similar'}", fontsize=9)
        for place in axes[-1]:
            place.set_xlabel("training step")
        for place in axes[:, 0]:
            place.set_ylabel("R = S(dirty) - S(clean)")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _lines(axes, part: pd.DataFrame, *, shift: float) -> None:
    names = list(pd.unique(part["objective"]))
    steps = sorted(part["step"].unique())
    axes.set_xscale("log")
    axes.set_xticks(steps, [str(step) for step in steps])
    axes.minorticks_off()
    axes.axhline(0, color="0.6", linewidth=0.8)
    for index, name in enumerate(names):
        line = part[part["objective"] == name].sort_values("step")
        # side by side, or the intervals hide each other
        steps = line["step"] * (1 + shift * 2) ** (index - (len(names) - 1) / 2)
        errors = np.stack([line["resilience"] - line["low"], line["high"] - line["resilience"]]).clip(0)
        axes.errorbar(steps, line["resilience"], errors, **line_style(index), markersize=4, linewidth=1.2, elinewidth=0.7, label=name)


def _shown(interval: Interval, *, digits: int = 3) -> str:
    if not math.isfinite(interval.mean):
        return "-"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def report(rows: pd.DataFrame, out: Path, stream: TextIO) -> None:
    """Writes resilience.csv, summary.md, resilience.svg and resilience.png into `out`, and the summary to `stream`."""
    order = {name: place for place, name in enumerate(_known_order(rows))}
    rows = rows.sort_values("objective", key=lambda names: names.map(order), kind="stable")
    table = resilience_table(rows)
    table = table.sort_values("objective", key=lambda names: names.map(order), kind="stable")
    with io.StringIO() as text:
        table.to_csv(text, index=False)
        atomic_text(out / "resilience.csv", text.getvalue())
    shown = markdown(summary(rows)) + "\n" + markdown(by_fraction(rows)) + "\n" + markdown(by_dirt(rows))
    atomic_text(out / "summary.md", shown)
    save(resilience_figure(table), out / "resilience")
    stream.write(shown)


def _known_order(rows: pd.DataFrame) -> list[str]:
    from digits import OBJECTIVES

    return [name for name in OBJECTIVES if name in set(rows["objective"])]
