"""Figures from a results table. Legible in black and white: every condition has its own line style and marker."""
from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from ..files import atomic_write
from .results import conditions, last_checkpoint, summarise

INK = "#22262e"  # a page may replace it by its own text colour
# Okabe and Ito's colours, told apart by colour-blind readers
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
STYLES = ("-", "--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 3)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")
HOP_SECONDS = 256 / 22050
_RC = {
    "svg.fonttype": "none", "svg.hashsalt": "gradtts-robust", "font.size": 10, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
    "hatch.linewidth": 0.6, "axes.titlesize": 10,
}


def line_style(index: int) -> dict:
    """Colour, line and marker of the `index`-th of several lines; hollow markers in a second round."""
    place, again = index % len(COLOURS), index >= len(COLOURS)
    return {"color": COLOURS[place], "linestyle": STYLES[(place + again) % len(STYLES)], "marker": MARKERS[place],
            "markerfacecolor": "none" if again else COLOURS[place]}


@dataclass
class Picture:
    """A mel [80, F], natural log, with its title and the name of its row."""

    title: str
    mel: np.ndarray
    row: str = ""


def similarity_curves(table: pd.DataFrame, *, natural: float = math.nan, resynthesis: float = math.nan) -> Figure:
    """Mean similarity over iterations, a line per condition, with 95 % bootstrap intervals and the ceilings where they are known."""
    with matplotlib.rc_context(_RC):
        figure, axes = _figure(5.6, 3.9)
        summary, names = summarise(table), conditions(table)
        for index, name in enumerate(names):
            part = summary[summary["condition"] == name].sort_values("iteration")
            style = line_style(index)
            axes.fill_between(part["iteration"], part["low"], part["high"], color=style["color"], alpha=0.15, linewidth=0)
            axes.plot(part["iteration"], part["mean"], **style, markersize=5, linewidth=1.8, label=name)
        for value, label, style in ((natural, "target's own clips", (0, (5, 1))), (resynthesis, "through the vocoder", (0, (1, 1)))):
            if math.isfinite(value):
                axes.axhline(value, color=INK, linestyle=style, linewidth=1, label=f"{label}, {value:.3f}")
        axes.set(xlabel="iteration", ylabel="similarity to the target")
        iterations = sorted(table["iteration"].unique())
        axes.xaxis.set_major_locator(FixedLocator(iterations) if len(iterations) <= 10 else MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.25)
        _legend_below(axes, columns=2)
    return figure


def threshold_bars(table: pd.DataFrame, thresholds: Sequence[float]) -> Figure:
    """Samples below each threshold at the last checkpoint, a bar per condition: the fewer the better."""
    with matplotlib.rc_context(_RC):
        figure, axes = _figure(5.6, 3.9)
        part, names = last_checkpoint(table), conditions(table)
        summary = summarise(part, thresholds=thresholds).set_index("condition")
        width = 0.8 / len(names)
        for index, name in enumerate(names):
            counts = [int(summary.loc[name, f"below {threshold:g}"]) for threshold in thresholds]
            places = np.arange(len(thresholds)) + (index - (len(names) - 1) / 2) * width
            bars = axes.bar(places, counts, width * 0.92, color=COLOURS[index % len(COLOURS)], hatch=HATCHES[index % len(HATCHES)],
                            edgecolor=INK, linewidth=0.7, label=name)
            axes.bar_label(bars, fontsize=7, padding=1, color=INK)
        axes.set_xticks(np.arange(len(thresholds)), [f"< {threshold:g}" for threshold in thresholds])
        axes.set(xlabel="similarity", ylabel=f"samples of {int(summary['count'].max())}")
        axes.set_ylim(0, summary["count"].max() * 1.12)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_below(axes, columns=min(3, len(names)))
    return figure


def mel_grid(pictures: Sequence[Picture], *, columns: int) -> Figure:
    """Mels side by side, `columns` in a row, all on one colour scale and one time axis."""
    assert pictures and columns > 0
    rows = -(-len(pictures) // columns)
    with matplotlib.rc_context(_RC):
        figure, grid = _figure(min(3.4 * columns + 0.8, 14), 1.75 * rows + 0.5, rows=rows, columns=columns)
        values = np.concatenate([picture.mel.astype(np.float32).ravel() for picture in pictures])
        low, high = np.percentile(values, (1, 99.8))
        longest = max(picture.mel.shape[1] for picture in pictures) * HOP_SECONDS
        for index, axes in enumerate(grid.flat):
            if index >= len(pictures):
                axes.set_visible(False)
                continue
            picture = pictures[index]
            bands, frames = picture.mel.shape
            image = axes.imshow(picture.mel.astype(np.float32), origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high,
                                interpolation="nearest", extent=(0, frames * HOP_SECONDS, 0, bands))
            axes.set_xlim(0, longest)
            axes.set_title(picture.title)
            if index % columns == 0:
                axes.set_ylabel(f"{picture.row}\nmel band" if picture.row else "mel band")
            else:
                axes.set_yticklabels([])
            if index + columns >= len(pictures):
                axes.set_xlabel("seconds")
            else:
                axes.set_xticklabels([])
        figure.colorbar(image, ax=grid, label="log magnitude", fraction=0.02, pad=0.01)
    return figure


def pollution_scatter(table: pd.DataFrame, *, reference: Sequence[float] = ()) -> Figure | None:
    """Similarity to the target against similarity to the foreign speakers, a point per sample of the last checkpoint.

    Args:
        reference: similarities of the target's own clips to the foreign speakers; their mean becomes a line.

    Returns:
        None where no similarity to foreign speakers is known.
    """
    part = last_checkpoint(table).dropna(subset=["pollution_similarity"])
    if part.empty:
        return None
    with matplotlib.rc_context(_RC):
        figure, axes = _figure(5.6, 3.9)
        for index, name in enumerate(conditions(table)):
            points = part[part["condition"] == name]
            if len(points):
                axes.scatter(points["pollution_similarity"], points["similarity"], color=COLOURS[index % len(COLOURS)],
                             marker=MARKERS[index % len(MARKERS)], edgecolor=INK, linewidth=0.5, s=38, alpha=0.85, label=name)
        if len(reference):
            axes.axvline(float(np.mean(reference)), color=INK, linestyle=(0, (5, 1)), linewidth=1, label="target's own clips")
        axes.set(xlabel="similarity to the foreign speakers", ylabel="similarity to the target")
        axes.grid(alpha=0.25)
        _legend_below(axes, columns=2)
    return figure


def similarity_histograms(table: pd.DataFrame, thresholds: Sequence[float] = ()) -> Figure:
    """How the similarities of the last checkpoint are spread, one strip per condition, thresholds as thin lines."""
    with matplotlib.rc_context(_RC):
        part, names = last_checkpoint(table), conditions(table)
        figure, grid = _figure(5.6, max(2.6, 0.95 * len(names) + 0.7), rows=len(names), sharex=True)
        values = part["similarity"].dropna()
        edges = np.histogram_bin_edges(values, bins=min(30, max(8, len(values) // (2 * len(names)))))
        for index, (name, axes) in enumerate(zip(names, np.atleast_1d(grid).flat, strict=True)):
            axes.hist(part.loc[part["condition"] == name, "similarity"], bins=edges, color=COLOURS[index % len(COLOURS)],
                      hatch=HATCHES[index % len(HATCHES)], edgecolor=INK, linewidth=0.7)
            for threshold in thresholds:
                if edges[0] <= threshold <= edges[-1]:
                    axes.axvline(threshold, color=INK, linewidth=0.6, linestyle=":")
            axes.set_title(name, loc="left", pad=3)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
        axes.set_xlabel("similarity to the target")
        figure.supylabel("samples", fontsize=10)
    return figure


def save(figure: Figure, path: str | os.PathLike) -> list[str]:
    """Writes `path` with the suffixes `.svg`, its text as text, and `.png`, each whole or not at all; gives the paths."""
    base = os.path.splitext(os.fspath(path))[0]
    written = []
    for suffix in (".svg", ".png"):
        with atomic_write(base + suffix) as temporary:
            if suffix == ".svg":
                temporary.write_text(to_svg(figure), encoding="utf-8")
            else:
                temporary.write_bytes(to_png(figure, paper="white"))
        written.append(base + suffix)
    return written


def to_svg(figure: Figure) -> str:
    """The figure as SVG; the same figure gives the same text."""
    target = io.StringIO()
    with matplotlib.rc_context(_RC):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return target.getvalue()


def to_png(figure: Figure, *, dpi: int = 110, paper: str = "none") -> bytes:
    """The figure as PNG on `paper`, a colour or `none`."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=dpi, facecolor=paper)
    return target.getvalue()


def _figure(width: float, height: float, *, rows: int = 1, columns: int = 1, sharex: bool = False) -> tuple[Figure, Axes | np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, sharex=sharex, squeeze=rows == columns == 1)


def _legend_below(axes: Axes, *, columns: int) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, handlelength=3.2, fontsize=9)
