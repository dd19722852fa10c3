"""What a checkpoint errs by at each diffusion time, and what each time contributes to training under several objectives."""
from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..data.dataset import Features, collate, prepare_usable_features
from ..data.manifest import Utterance, read_manifest, validate
from ..files import atomic_text, atomic_write, check_folder
from ..losses import Objective
from ..model.gradtts import GradTTS
from ..training.checkpoint import load_checkpoint
from ..training.setup import resolve_device
from . import figures

SETTINGS = {
    "l2": {},
    "l1": {"penalty": "l1"},
    "pseudo_huber": {"penalty": "pseudo_huber", "delta_schedule": "exponential"},
    "pseudo_huber_constant": {"penalty": "pseudo_huber", "delta_schedule": "constant"},
    "smooth_l1": {"penalty": "smooth_l1", "delta_schedule": "exponential"},
    "matched": {"penalty": "pseudo_huber", "delta_schedule": "exponential", "matched": "unit"},
    "debias": {"weighting": "debias"},
}
GROUPS = ("clean", "foreign")
EDGES = np.concatenate([[0.0], np.geomspace(0.001, 10, 61), [np.inf]])
BATCH = 8
SEGMENT_FRAMES = 64
Progress = Callable[..., None]


@dataclass
class Analysis:
    """Three tables, a row per time and group, objective and time, or time, group and bin.

    Args:
        errors: t, group, utterances, snr, amplification (1 / sqrt(snr)); root mean squares over bins of the residual, of the error of the
            score, residual / sqrt(lambda), and of the one-step estimate of X_0, residual x amplification.
        shares: objective, t, delta, loss, loss_share, gradient_norm, gradient_share; shares of an objective sum to 1 over t. Also
            foreign_loss and foreign_gradient, the foreign utterances' share of the loss, and of the norms of their own gradient and of
            the others'; NaN where all are of one kind.
        histograms: t, group, low, high, share of the |residual| in [low, high).
    """

    errors: pd.DataFrame
    shares: pd.DataFrame
    histograms: pd.DataFrame


def run_analysis(model: str, manifest: str, out: str, *, times: int = 10, delta_0: float = 0.1, limit: int = 32, cache: str = "",
                 device: str = "auto", seed: int = 0, progress: Progress | None = None) -> Path:
    """Analyses a checkpoint on a manifest's utterances; `out` gets tables, figures and `analysis.html`, whose path is given.

    Utterances whose column true_speaker differs from speaker, as in an adaptation's train.csv, are foreign.

    Args:
        times: diffusion times, in the middles of as many equal parts of [0, 1].
        limit: at most so many utterances, spread over the manifest; 0 for all.

    Raises:
        FileNotFoundError, ValueError: a setting out of its range, or files that cannot be used.
    """
    for name, value, least in (("times", times, 1), ("limit", limit, 0), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    device, folder = resolve_device(device), Path(out)
    check_folder(folder)
    check_folder(cache or folder)
    checkpoint = load_checkpoint(model)
    config = checkpoint.model.config
    objectives = {name: Objective(**{"delta_0": delta_0, "beta_min": config.beta_min, "beta_max": config.beta_max, **settings})
                  for name, settings in SETTINGS.items()}
    utterances = read_manifest(manifest)
    if limit:
        utterances = [utterances[i] for i in sorted({int(i) for i in np.linspace(0, len(utterances) - 1, limit)})]
    rows = _rows(checkpoint.speakers, utterances, model)
    validate(utterances)
    prepared = prepare_usable_features(utterances, checkpoint.text, cache or folder / "features")
    if not prepared.features:
        raise ValueError(f"{manifest}: no utterance can be used; the first one: {prepared.skipped[0][1]}")
    foreign = {u.id for u in utterances if u.extra.get("true_speaker", u.speaker) != u.speaker}
    middles = [(i + 0.5) / times for i in range(times)]
    found = analyse(checkpoint.model.to(device), prepared.features, rows, objectives, times=middles, foreign=foreign, seed=seed,
                    progress=progress)
    return write_analysis(found, folder, title=f"{model} on {manifest}")


def analyse(model: GradTTS, features: Sequence[Features], speaker_ids: dict[str, int], objectives: dict[str, Objective], *,
            times: Sequence[float], foreign: set[str], seed: int, progress: Progress | None = None) -> Analysis:
    """Measures at every time, with the same segments and noise at all; the model is left in `eval()`."""
    model.eval()
    device = next(model.parameters()).device
    parameters = list(model.decoder.parameters())
    errors, shares, histograms = [], [], []
    for done, time in enumerate(times):
        squares, counts = {group: [] for group in GROUPS}, {group: np.zeros(len(EDGES) - 1) for group in GROUPS}
        pushes = {(name, group): Push() for name in objectives for group in GROUPS}
        for start in range(0, len(features), BATCH):
            part = features[start:start + BATCH]
            seen = _residuals(model, collate(part, speaker_ids).to(device), time, seed=seed + start)
            strange = torch.tensor([feature.id in foreign for feature in part], device=device)
            for name, objective in objectives.items():
                costs = objective(seen["residual"], t=seen["t"], snr=seen["snr"], mask=seen["mask"]) / len(features)
                for group, among in zip(GROUPS, (~strange, strange), strict=True):
                    if among.any():
                        pushes[name, group].add(costs[among].sum(), parameters)
            for feature, residual, mask in zip(part, seen["residual"].detach(), seen["mask"], strict=True):
                size = residual[:, : int(mask.sum())].abs().cpu().double().numpy().ravel()
                group = GROUPS[feature.id in foreign]
                squares[group].append(float(np.mean(size ** 2)))
                counts[group] += np.histogram(size, EDGES)[0]
        t = torch.tensor([time], dtype=torch.float64)
        snr, spread = model.schedule.snr(t), model.schedule.variance(t).sqrt().item()
        amplification = snr.rsqrt().item()
        for group in (group for group in GROUPS if squares[group]):
            root = math.sqrt(np.mean(squares[group]))
            errors.append({"t": time, "group": group, "utterances": len(squares[group]), "snr": snr.item(), "amplification": amplification,
                           "residual": root, "score_error": root / spread, "x0_error": root * amplification})
            histograms += [{"t": time, "group": group, "low": low, "high": high, "share": share} for low, high, share in zip(
                EDGES[:-1], EDGES[1:], counts[group] / counts[group].sum(), strict=True)]
        shares += [{"objective": name, "t": time, "delta": objective.delta(t, snr).item(), **_together(*(pushes[name, g] for g in GROUPS))}
                   for name, objective in objectives.items()]
        if progress:
            progress("times", done + 1, len(times))
    table = pd.DataFrame(shares)
    for value, share in (("loss", "loss_share"), ("gradient_norm", "gradient_share")):
        table[share] = table[value] / table.groupby("objective")[value].transform("sum")
    return Analysis(pd.DataFrame(errors), table, pd.DataFrame(histograms))


class Push:
    """What some utterances cost, and the gradient of that."""

    def __init__(self):
        self.loss, self.gradient = 0.0, None

    def add(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        """Adds the loss of some more of them, which stays differentiable."""
        parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        gradient = torch.cat([g.detach().flatten() for g in parts if g is not None])
        self.loss += loss.item()
        self.gradient = gradient if self.gradient is None else self.gradient + gradient


def _together(clean: Push, foreign: Push) -> dict[str, float]:
    """The loss and gradient norm of all, and the foreign utterances' part of either."""
    known = [push.gradient for push in (clean, foreign) if push.gradient is not None]
    found = {"loss": clean.loss + foreign.loss, "gradient_norm": sum(known).norm().item(), "foreign_loss": math.nan,
             "foreign_gradient": math.nan}
    if len(known) == 2:
        norms = [gradient.norm().item() for gradient in known]
        found |= {"foreign_loss": foreign.loss / found["loss"], "foreign_gradient": norms[1] / sum(norms)}
    return found


def _residuals(model: GradTTS, batch, time: float, *, seed: int) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def probe(residual: Tensor, *, t: Tensor, snr: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
        seen.update(residual=residual, t=t, snr=snr, mask=mask)
        return torch.zeros_like(t)

    model.training_terms(batch, objective=probe, segment_frames=SEGMENT_FRAMES, generator=torch.Generator().manual_seed(seed),
                         t=torch.full((len(batch.keys),), time))
    return seen


def _rows(speakers: Sequence[str], utterances: Sequence[Utterance], model: str) -> dict[str, int]:
    rows = {name: row for row, name in enumerate(speakers)}
    for utterance in utterances:
        if len(speakers) > 1 and utterance.speaker not in rows:
            raise ValueError(f"{model}: knows no speaker {utterance.speaker!r} ({utterance.id}); it knows {', '.join(speakers[:10])}"
                             f"{', ...' if len(speakers) > 10 else ''}")
    return rows if len(speakers) > 1 else {u.speaker: 0 for u in utterances}


def write_analysis(found: Analysis, folder: Path, *, title: str) -> Path:
    """Writes the tables as CSV, the figures as SVG and PNG, and a page of all three figures; gives the page."""
    for name in ("errors", "shares", "histograms"):
        with atomic_write(folder / f"{name}.csv") as temporary:
            getattr(found, name).to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    page = [f"<!doctype html><html lang=en><meta charset=utf-8><title>Analysis</title><h1>{html.escape(title)}</h1>"]
    drawn = {"errors": ("Error at each time", _draw_errors(found)), "shares": ("What each time contributes", _draw_shares(found)),
             "histograms": ("Residuals against delta", _draw_histograms(found))}
    if found.shares["foreign_gradient"].notna().any():
        drawn["foreign"] = ("What foreign utterances contribute", _draw_foreign(found))
    for name, (heading, figure) in drawn.items():
        figures.save(figure, folder / f"{name}.svg")
        svg = figures.to_svg(figure)
        table = "shares" if name == "foreign" else name
        page.append(f"<h2>{heading}</h2>{svg[svg.index('<svg'):]}<p><a href={table}.csv>{table}.csv</a></p>")
    atomic_text(folder / "analysis.html", "\n".join([*page, "</html>\n"]))
    return folder / "analysis.html"


def _draw_errors(found: Analysis) -> Figure:
    with matplotlib.rc_context(figures._RC):
        figure, axes = figures._figure(5.6, 3.9)
        for index, (column, label) in enumerate((("score_error", "score"), ("x0_error", "one-step X_0"))):
            for group, part in found.errors.groupby("group", sort=False):
                foreign = group == "foreign"
                axes.plot(part["t"], part[column], color=figures.COLOURS[index], linestyle="--" if foreign else "-",
                          marker=figures.MARKERS[index + 2 * foreign], markersize=4, label=f"{label}, {group}")
        once = found.errors.drop_duplicates("t")
        axes.plot(once["t"], once["amplification"], color=figures.INK, linestyle=":", label="amplification 1 / sqrt(SNR)")
        axes.set(xlabel="t", ylabel="root mean square", yscale="log")
        figures._legend_below(axes, columns=2)
    return figure


def _draw_shares(found: Analysis) -> Figure:
    return _draw_columns(found, (("loss_share", "share of the loss"), ("gradient_share", "share of the gradient norm")))


def _draw_foreign(found: Analysis) -> Figure:
    return _draw_columns(found, (("foreign_loss", "foreign utterances' share of the loss"),
                                 ("foreign_gradient", "foreign utterances' share of the gradient norms")))


def _draw_columns(found: Analysis, columns: Sequence[tuple[str, str]]) -> Figure:
    """Two columns of the shares over t, a line for every objective."""
    with matplotlib.rc_context(figures._RC):
        figure, grid = figures._figure(8.4, 3.9, columns=2)
        for axes, (column, label) in zip(grid.flat, columns, strict=True):
            for index, (name, part) in enumerate(found.shares.groupby("objective", sort=False)):
                axes.plot(part["t"], part[column], color=figures.COLOURS[index], linestyle=figures.STYLES[index],
                          marker=figures.MARKERS[index], markersize=4, label=name)
            axes.set(xlabel="t", ylabel=label)
        figures._legend_below(grid.flat[0], columns=4)
    return figure


def _draw_histograms(found: Analysis) -> Figure:
    times = sorted(found.histograms["t"].unique())
    shown = [times[i] for i in sorted({round(p) for p in np.linspace(0, len(times) - 1, min(4, len(times)))})]
    delta = found.shares[found.shares["objective"] == "pseudo_huber"].set_index("t")["delta"]
    with matplotlib.rc_context(figures._RC):
        figure, grid = figures._figure(5.6, 1.4 * len(shown) + 0.8, rows=len(shown), sharex=True)
        every = np.atleast_1d(grid).ravel()
        for time, axes in zip(shown, every, strict=True):
            for index, (group, part) in enumerate(found.histograms[found.histograms["t"] == time].groupby("group", sort=False)):
                inner = part.iloc[1:-1]
                axes.stairs(inner["share"], [*inner["low"], inner["high"].iloc[-1]], color=figures.COLOURS[index],
                            linestyle=figures.STYLES[index], label=group)
            axes.axvline(delta[time], color=figures.INK, linewidth=0.8, linestyle=":", label="delta(t)")
            axes.set_xscale("log")
            axes.set_title(f"t = {time:.2f}", loc="left", pad=3)
        every[-1].set_xlabel("|residual|")
        figures._legend_below(every[0], columns=3)
    return figure
