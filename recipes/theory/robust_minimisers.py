"""What a robust objective can do at all: exact minimisers of E[penalty] at every (x_t, t) for a mixture, then the reverse ODE.

    python recipes/theory/robust_minimisers.py --out runs/theory [--quick]

Derivations, limits and verdict: docs/theory.md. The networks stopped early are in early_stopping.py.
"""
from __future__ import annotations

import theory_output
from matplotlib import pyplot
from mixture import Loss, Mixture, minority_share

LOSSES = (
    Loss(), *(Loss("pseudo_huber", "exponential", delta) for delta in (0.1, 0.01, 0.001)), Loss("pseudo_huber", "constant", 0.01),
    Loss("pseudo_huber", "exponential_backward", 0.01), Loss("l1"), Loss("floor"), Loss("floor_limit"),
)
SPREAD = (
    Loss(), Loss("pseudo_huber", "exponential", 0.1), Loss("pseudo_huber", "exponential", 0.01), Loss("l1"), Loss("l1", level="norm"),
    Loss("floor"), Loss("floor_limit"),
)
FAR = 2 / 0.3
"""Modes at -1 and 1 with standard deviation 0.3, in standard deviations."""


def one_dimension_rows(points: int, steps: int) -> list[dict]:
    """Modes at -1 and 1, standard deviation 0.3: every loss over the minority's fraction."""
    rows = []
    for loss in LOSSES:
        row: dict = {"loss": loss.name}
        for fraction in (0.15, 0.3, 0.45):
            row[f"f = {fraction}"] = minority_share(Mixture(FAR, fraction, 1, 0.3), loss, points=points, steps=steps)
        rows.append(row)
    return rows


def dimension_rows(points: int, steps: int, *, fraction: float, quick: bool) -> list[dict]:
    """Every dimension and separation (unit standard deviation, mu at the data's mean, where squared error puts the encoder's output)."""
    rows = []
    for dimensions in (1, 16) if quick else (1, 2, 16, 64, 13760):
        for separation in (0.5, 4.0) if quick else (0.5, 1.0, 2.0, 4.0):
            mixture = Mixture(separation, fraction, dimensions, 1.0, fraction)
            row: dict = {"dimensions": dimensions, "separation per dimension": separation, "data's own": mixture.own_share}
            for loss in SPREAD:
                row[loss.name] = minority_share(mixture, loss, points=points, steps=steps)
            rows.append(row)
    return rows


def fraction_rows(points: int, steps: int) -> list[dict]:
    """Half a standard deviation per dimension, many dimensions, over the fraction."""
    rows = []
    for dimensions in (64, 13760):
        for fraction in (0.15, 0.3, 0.45):
            mixture = Mixture(0.5, fraction, dimensions, 1.0, fraction)
            row: dict = {"dimensions": dimensions, "fraction": fraction, "data's own": mixture.own_share}
            for loss in SPREAD:
                row[loss.name] = minority_share(mixture, loss, points=points, steps=steps)
            rows.append(row)
    return rows


def delta_rows(points: int, steps: int) -> list[dict]:
    """Share over delta_0 for three schedules: one dimension (modes at -1 and 1), and 64 dimensions half a deviation apart."""
    rows = []
    for label, mixture in (("1, far apart", Mixture(FAR, 0.3, 1, 0.3)), ("64, overlapping", Mixture(0.5, 0.3, 64, 1.0, 0.3))):
        for delta in (1.0, 0.1, 0.01, 0.001):
            row: dict = {"dimensions": label, "delta_0": delta}
            for schedule in ("exponential", "constant", "exponential_backward"):
                row[schedule] = minority_share(mixture, Loss("pseudo_huber", schedule, delta), points=points, steps=steps)
            rows.append(row)
    return rows


def draw(deltas: list[dict], dimensions: list[dict]) -> pyplot.Figure:
    """Share over delta_0, and share over separation by dimension for the sharpest loss of a bin and for the distance beyond the floor."""
    figure, panels = pyplot.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
    for (grey, dash, marker), schedule in zip(theory_output.LINES, ("exponential", "constant", "exponential_backward")):
        for label, fill in (("1, far apart", "full"), ("64, overlapping", "none")):
            rows = [row for row in deltas if row["dimensions"] == label]
            panels[0].plot([row["delta_0"] for row in rows], [row[schedule] for row in rows], linestyle=dash, color=grey, marker=marker,
                           markersize=4, fillstyle=fill, label=f"{schedule.replace('exponential_', '')}, {label}")
    panels[0].set_xscale("log")
    panels[0].set_xlabel("delta_0")
    panels[0].set_ylabel("minority's share of the samples")
    panels[0].set_title("pseudo-Huber, 30 % minority")
    for panel, loss in ((panels[1], "l1"), (panels[2], "floor")):
        for (grey, dash, marker), size in zip(theory_output.LINES, sorted({row["dimensions"] for row in dimensions})):
            rows = [row for row in dimensions if row["dimensions"] == size]
            panel.plot([row["separation per dimension"] for row in rows], [row[loss] / row["l2"] for row in rows], linestyle=dash,
                       color=grey, marker=marker, markersize=4, label=f"{size:,} dimension" + "s" * (size > 1))
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_ylim(0.4, 1.2)
        panel.set_xlabel("separation per dimension (standard deviations)")
    panels[1].set_title("l1 per bin, relative to squares")
    panels[2].set_title("beyond the floor, relative to squares")
    for panel in panels:
        panel.grid(color="0.9")
    panels[0].set_ylim(0.1, 0.5)
    panels[0].legend(frameon=False, fontsize=7, loc="upper left")
    panels[1].legend(frameon=False, fontsize=7, loc="lower left")
    return figure


def main() -> None:
    """Tables, CSV and figure."""
    options = theory_output.arguments(__doc__)
    points, steps = (401, 100) if options.quick else (2001, 150)
    tables = {
        "one-dimension": (one_dimension_rows(points, steps), "Share of the minority, modes at -1 and 1, standard deviation 0.3"),
        "delta": (delta_rows(points, steps), "Share of the 30 % minority over delta_0"),
        "dimensions": (dimension_rows(points, steps, fraction=0.3, quick=options.quick),
                       "Share of the 30 % minority over dimension and separation"),
    }
    if not options.quick:
        tables["fractions"] = (fraction_rows(points, steps), "Half a standard deviation per dimension, over the fraction")
    for name, (rows, title) in tables.items():
        theory_output.print_table(rows, title)
        theory_output.write_table(rows, options.out / f"robust-minimisers-{name}.csv")
    theory_output.save_figure(draw(tables["delta"][0], tables["dimensions"][0]), options.out / "robust-minimisers")


if __name__ == "__main__":
    main()
