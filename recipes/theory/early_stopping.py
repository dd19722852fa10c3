"""A small network trained on the mixture and looked at while it trains: do robust losses keep the minority out before the optimum?

    python recipes/theory/early_stopping.py --out runs/theory [--quick]

Many losses and seeds train side by side on the same draws, one batched product each. Verdict: docs/theory.md.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import theory_output
import torch
from matplotlib import pyplot
from mixture import SCHEDULE, Loss, Mixture, minority_share
from torch import Tensor

from gradtts_robust.losses import Objective
from gradtts_robust.model.diffusion import forward_process, residual, sample_t
from gradtts_robust.model.samplers import ode


class Networks(torch.nn.Module):
    """`count` independent two-layer networks, noisy [count, B, d] and t [count, B] -> score, same shape as noisy."""

    def __init__(self, count: int, dimensions: int, hidden: int, *, generator: torch.Generator):
        super().__init__()
        sizes = [dimensions + 6, hidden, hidden, dimensions]
        self.weights = torch.nn.ParameterList(
            torch.randn(count, inner, outer, generator=generator) / math.sqrt(inner) * (1.0 if i < 2 else 0.1)
            for i, (inner, outer) in enumerate(zip(sizes, sizes[1:])))
        self.biases = torch.nn.ParameterList(torch.zeros(count, 1, outer) for outer in sizes[1:])

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        rho, deviation = SCHEDULE.rho(t), SCHEDULE.variance(t).sqrt().clamp(min=1e-3)
        features = torch.stack([rho, deviation, t, torch.cos(3 * t), torch.cos(9 * t), 0.1 * SCHEDULE.snr(t.clamp(min=1e-4)).log()], -1)
        hidden = torch.cat([noisy, features], -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            hidden = torch.baddbmm(bias, hidden, weight)
            hidden = torch.nn.functional.silu(hidden) if i < 2 else hidden
        return -(noisy * deviation[..., None] + hidden) / deviation[..., None]


@dataclass(frozen=True)
class Training:
    """How long and from where.

    Args:
        steps: at which the networks are looked at, rising.
        seeds: networks per loss.
        batch: fresh samples a step.
        hidden: width.
        base_steps: steps of squared error on broad data (twice the mixture's spread, no components) before the mixture; 0: from scratch.
        rate: Adam's.
        samples: drawn at each look.
    """

    steps: tuple[int, ...]
    seeds: int = 3
    batch: int = 128
    hidden: int = 64
    base_steps: int = 0
    rate: float = 2e-3
    samples: int = 800


def _draw(mixture: Mixture, shape: tuple[int, int], generator: torch.Generator, *, broad: bool) -> Tensor:
    unit = torch.full((mixture.dimensions,), mixture.separation * mixture.std)
    noise = torch.randn(*shape, mixture.dimensions, generator=generator)
    if broad:
        return (2 * mixture.std + unit) * noise
    foreign = (torch.rand(*shape, 1, generator=generator) < mixture.fraction).float()
    return mixture.std * noise + (foreign - mixture.centre) * unit


def _look(networks: Networks, mixture: Mixture, count: int, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(share on the minority's side, share within two deviations of either mean along their line), each [count]."""
    start = torch.randn(samples, mixture.dimensions, generator=generator).expand(count, samples, mixture.dimensions)
    flat = start.reshape(count * samples, mixture.dimensions, 1)

    def score(noisy, mask, mu, t):
        return networks(noisy.view(count, samples, mixture.dimensions), t.view(count, samples)).view_as(noisy)

    ends = ode(score, flat, torch.ones(len(flat), 1, 1), torch.zeros_like(flat), schedule=SCHEDULE, steps=30)
    along = ends.view(count, samples, mixture.dimensions).sum(-1) / mixture.dimensions ** 0.5
    side = along - (0.5 - mixture.centre) * mixture.distance
    settled = ((side.abs() - 0.5 * mixture.distance).abs() < 2 * mixture.std).float()
    return (side > 0).float().mean(-1), settled.mean(-1)


def early_shares(mixture: Mixture, objectives: dict[str, Objective], training: Training, seed: int) -> list[dict]:
    """Trains every objective on the same draws and counts the samples of the minority as it goes.

    Returns:
        One row per objective and look: step, mean share over seeds, its difference from the first objective's with the standard error of
        that difference (paired: same draws), and how many samples are settled within two deviations of a mean.
    """
    generator = torch.Generator().manual_seed(seed)
    per_seed = Networks(training.seeds, mixture.dimensions, training.hidden, generator=generator)
    networks = Networks(training.seeds * len(objectives), mixture.dimensions, training.hidden, generator=generator)
    with torch.no_grad():
        for wide, narrow in zip(networks.parameters(), per_seed.parameters()):
            wide.copy_(narrow.repeat(len(objectives), 1, 1))
    optimiser = torch.optim.Adam(networks.parameters(), lr=training.rate)
    rows = []
    for step in range(1, training.base_steps + training.steps[-1] + 1):
        broad = step <= training.base_steps
        if step == training.base_steps + 1:
            optimiser = torch.optim.Adam(networks.parameters(), lr=training.rate)
        loss = _loss(networks, mixture, objectives, training, generator=generator, broad=broad)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step - training.base_steps in training.steps:
            share, settled = _look(networks, mixture, training.seeds * len(objectives), training.samples, generator)
            rows += _rows(step - training.base_steps, list(objectives), share.view(len(objectives), -1), settled.view(len(objectives), -1))
    return rows


def _loss(networks: Networks, mixture: Mixture, objectives: dict[str, Objective], training: Training, *,
          generator: torch.Generator, broad: bool) -> Tensor:
    shape = (training.seeds, training.batch)
    clean = _draw(mixture, shape, generator, broad=broad)
    t = sample_t(training.seeds * training.batch, generator)
    noise = torch.randn(clean.shape, generator=generator)
    flat = (-1, mixture.dimensions, 1)
    noisy = forward_process(clean.view(flat), torch.zeros(()), t, noise.view(flat), SCHEDULE).view_as(clean)
    count = len(objectives)
    score = networks(noisy.repeat(count, 1, 1), t.view(shape).repeat(count, 1))
    plain = Objective()
    total = torch.zeros(())
    for objective, guess in zip(objectives.values(), score.chunk(count)):
        error = residual(guess.reshape(flat), noise.view(flat), t, SCHEDULE)
        total = total + (plain if broad else objective)(error, t=t, snr=SCHEDULE.snr(t)).mean()
    return total


def _rows(step: int, names: list[str], share: Tensor, settled: Tensor) -> list[dict]:
    paired = share - share[:1]
    error = paired.std(1) / share.shape[1] ** 0.5
    return [{"loss": name, "step": step, "share": float(share[i].mean()), "less squares": float(paired[i].mean()),
             "standard error": float(error[i]), "settled": float(settled[i].mean())} for i, name in enumerate(names)]


OBJECTIVES = {
    "l2": Objective(),
    "pseudo_huber exponential 0.1": Objective("pseudo_huber", delta_0=0.1),
    "its matched squares": Objective("pseudo_huber", delta_0=0.1, matched="unit"),
    "pseudo_huber exponential 0.01": Objective("pseudo_huber", delta_0=0.01),
    "l1": Objective("l1"),
}
OPTIMA = {"l2": Loss(), "pseudo_huber exponential 0.1": Loss("pseudo_huber", "exponential", 0.1), "its matched squares": Loss(),
          "pseudo_huber exponential 0.01": Loss("pseudo_huber", "exponential", 0.01), "l1": Loss("l1")}


def scenarios(quick: bool) -> dict[str, tuple[Mixture, Training]]:
    """Name -> what is learnt, and how long."""
    near, far = Mixture(0.5, 0.3, 64, 1.0, 0.3), Mixture(2 / 0.3, 0.3, 1, 0.3)
    if quick:
        short = Training((20, 60), seeds=2, samples=300)
        return {"1 dimension": (far, short), "64 dimensions": (near, short)}
    return {
        "1 dimension": (far, Training((50, 200, 1000), seeds=4)),
        "64 dimensions": (near, Training((50, 200, 500), seeds=4)),
        "64 dimensions, from a base": (near, Training((50, 200, 500), seeds=4, base_steps=200)),
    }


def draw(rows: list[dict]) -> pyplot.Figure:
    """Share over steps, a panel per scenario, the exact minimisers' shares at the right edge."""
    names = list(dict.fromkeys(row["setting"] for row in rows))
    figure, panels = pyplot.subplots(1, len(names), figsize=(3.7 * len(names), 3.5), layout="constrained", sharey=True, squeeze=False)
    for panel, name in zip(panels[0], names):
        for (grey, dash, marker), loss in zip(theory_output.LINES, OBJECTIVES):
            some = [row for row in rows if (row["setting"], row["loss"]) == (name, loss)]
            panel.plot([row["step"] for row in some], [row["share"] for row in some], linestyle=dash, color=grey, marker=marker,
                       markersize=4, label=loss)
            panel.plot(some[-1]["step"] * 1.6, some[-1]["at the optimum"], marker=marker, color=grey, fillstyle="none", markersize=7)
        panel.set_xscale("log")
        panel.set_xticks(sorted({row["step"] for row in rows if row["setting"] == name}), minor=False)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.set_xlabel("training steps (large, hollow: exact minimiser)")
        panel.set_title(name)
        panel.grid(color="0.9")
    panels[0, 0].set_ylabel("minority's share of the samples")
    panels[0, 0].legend(frameon=False, fontsize=7)
    return figure


def main() -> None:
    """Tables, CSV and figure."""
    options = theory_output.arguments(__doc__)
    rows: list[dict] = []
    for name, (mixture, training) in scenarios(options.quick).items():
        optimum = {loss: minority_share(mixture, exact, steps=100) for loss, exact in OPTIMA.items()}
        found = early_shares(mixture, OBJECTIVES, training, options.seed)
        rows += [{"setting": name, **row, "at the optimum": optimum[row["loss"]]} for row in found]
    theory_output.print_table(rows, "Share of the 30 % minority while a small network trains")
    theory_output.write_table(rows, options.out / "early-stopping.csv")
    theory_output.save_figure(draw(rows), options.out / "early-stopping")


if __name__ == "__main__":
    main()
