"""Condition noise on class-conditional Gaussians, solved exactly (after arXiv 2405.20494): entropy and 2-Wasserstein distance.

    python recipes/theory/condition_noise.py --out runs/theory [--quick]

Derivations and verdict: docs/theory.md.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import theory_output
import torch
from matplotlib import pyplot
from numpy.typing import NDArray
from scipy.special import gammaln

from gradtts_robust.model.diffusion import NoiseSchedule
from gradtts_robust.model.samplers import ode

SCHEDULE = NoiseSchedule()
GAMMAS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """N(mean [d], covariance [d, d])."""

    mean: Array
    covariance: Array

    @property
    def entropy(self) -> float:
        """In nats."""
        return 0.5 * (len(self.mean) * np.log(2 * np.pi * np.e) + np.linalg.slogdet(self.covariance)[1])


def _root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def wasserstein(one: Gaussian, other: Gaussian) -> float:
    """2-Wasserstein distance of two Gaussians (Bures' formula)."""
    root = _root(one.covariance)
    cross = _root(root @ other.covariance @ root)
    squared = np.sum((one.mean - other.mean) ** 2) + np.trace(one.covariance) + np.trace(other.covariance) - 2 * np.trace(cross)
    return float(np.sqrt(max(squared, 0.0)))


def generated(truth: Gaussian, gamma: float, *, condition_size: float = 1.0) -> Gaussian:
    """What one class's least-squares network without bias generates: N((1 - a) mu, Sigma + a mu mu^T), a = gamma^2 / (|c|^2 + gamma^2).

    Args:
        truth: N(mu, Sigma) of the class.
        gamma: standard deviation of the condition's noise in every coordinate, >= 0.
        condition_size: |c| of the clean condition.
    """
    share = gamma ** 2 / (condition_size ** 2 + gamma ** 2)
    return Gaussian((1 - share) * truth.mean, truth.covariance + share * np.outer(truth.mean, truth.mean))


def printed(truth: Gaussian, gamma: float) -> Gaussian:
    """The same with the covariance as the paper prints it, a |mu|^2 I in the place of a mu mu^T."""
    share = gamma ** 2 / (1 + gamma ** 2)
    return Gaussian((1 - share) * truth.mean, truth.covariance + share * truth.mean @ truth.mean * np.eye(len(truth.mean)))


def generated_shared(classes: list[Gaussian], gamma: float, *, bias: bool) -> list[Gaussian]:
    """What one network for all classes (equally frequent, one-hot conditions, with a bias or not) generates for clean conditions."""
    count, size = len(classes), len(classes[0].mean)
    means = np.stack([one.mean for one in classes], 1)
    second = sum(one.covariance for one in classes) / count + means @ means.T / count
    cross, condition = means / count, np.eye(count) / count + gamma ** 2 * np.eye(count)
    middle, centre = (means.mean(1), np.full(count, 1 / count)) if bias else (np.zeros(size), np.zeros(count))
    cross, condition, second = cross - np.outer(middle, centre), condition - np.outer(centre, centre), second - np.outer(middle, middle)
    slope = cross @ np.linalg.pinv(condition)
    return [Gaussian(middle + slope @ (np.eye(count)[k] - centre), second - slope @ cross.T) for k in range(count)]


def simulate(classes: list[Gaussian], gamma: float, *, bias: bool, draws: int, steps: int, generator: torch.Generator) -> list[Gaussian]:
    """Regresses the noise on (x_t, noisy condition) at every step of the sampler, then samples with clean conditions.

    Args:
        classes: one class is the per-class network; its condition is the first unit vector of as many coordinates as the data have.
        gamma: standard deviation of the condition's noise.
        bias: whether the regression has a constant.
        draws: fresh training draws at each step, and samples per class.
        steps: of the reverse ODE.

    Returns:
        Moments of the samples of each class.
    """
    size = len(classes[0].mean)
    width = len(classes) if len(classes) > 1 else size
    factors = torch.stack([torch.linalg.cholesky(torch.from_numpy(one.covariance)) for one in classes])
    means = torch.stack([torch.from_numpy(one.mean) for one in classes])
    label = torch.arange(draws) % len(classes)
    clean_conditions = torch.eye(width, dtype=torch.float64)[label]

    def normal(columns: int) -> torch.Tensor:
        return torch.randn(draws, columns, dtype=torch.float64, generator=generator)

    def score(noisy, mask, mu, t):
        deviation = SCHEDULE.variance(t[0]).sqrt()
        noise = normal(size)
        data = means[label] + torch.einsum("nij,nj->ni", factors[label], normal(size))
        constant = torch.ones(draws, int(bias), dtype=torch.float64)
        features = torch.cat([SCHEDULE.rho(t[0]) * data + deviation * noise, clean_conditions + gamma * normal(width), constant], 1)
        # at gamma 0 the unused coordinates of the condition are 0: least norm, not an inverse
        weights = torch.linalg.pinv(features.T @ features, hermitian=True) @ (features.T @ noise)
        clean = torch.cat([noisy[:, :, 0], clean_conditions, constant], 1)
        return -(clean @ weights / deviation)[:, :, None]

    start = normal(size)[:, :, None]
    ends = ode(score, start, torch.ones_like(start[:, :1]), torch.zeros_like(start), schedule=SCHEDULE, steps=steps)[:, :, 0].numpy()
    return [Gaussian(ends[label == k].mean(0), np.cov(ends[label == k].T).reshape(size, size)) for k in range(len(classes))]


def finite_sample_change(mean: Array, count: int, gammas: Array, *, datasets: int, isotropic: bool, random: np.random.Generator) -> Array:
    """W2^2 to the truth N(mean, I) of what is generated after training on `count` examples, less the same at gamma 0.

    Returns:
        [datasets, gammas]: every data set of `count` draws is the same over gammas, the condition's noise is fresh at every step.
    """
    size = len(mean)
    data = mean + random.standard_normal((datasets, count, size))
    centre = data.mean(1)
    spread = np.einsum("nki,nkj->nij", data - centre[:, None], data - centre[:, None]) / count
    share = np.concatenate([[0.0], gammas ** 2 / (1 + gammas ** 2)])[:, None]
    shape = np.sum(centre ** 2, 1)[:, None, None] * np.eye(size) if isotropic else centre[:, :, None] * centre[:, None, :]
    squared = np.sum((mean - (1 - share[:, :, None]) * centre) ** 2, -1)
    for i, a in enumerate(share[:, 0]):
        values = np.maximum(np.linalg.eigvalsh(spread + a * shape), 0)
        squared[i] += np.sum((np.sqrt(values) - 1) ** 2, -1)
    return (squared[1:] - squared[0]).T


def slope_one_dimension(mean: float, count: int) -> float:
    """d E[W2^2] / d(gamma^2) at gamma 0 in one dimension, truth N(mean, 1): -2 / n - (mean^2 + 1 / n) (E[1 / std_hat] - 1) < 0."""
    inverse = np.sqrt(count / 2) * np.exp(gammaln((count - 2) / 2) - gammaln((count - 1) / 2))
    return float(-2 / count - (mean ** 2 + 1 / count) * (inverse - 1))


def example_class(size: int = 4) -> Gaussian:
    """A class with correlated coordinates and |mu| = 2."""
    mixing = np.tril(np.ones((size, size))) * 0.3 + np.diag(np.linspace(0.3, 0.9, size))
    direction = np.arange(1.0, size + 1)
    return Gaussian(2 * direction / np.linalg.norm(direction), mixing @ mixing.T)


def population_rows(draws: int, steps: int, generator: torch.Generator) -> list[dict]:
    """Closed form against simulation over gamma, one class."""
    truth, rows = example_class(), []
    for gamma in GAMMAS:
        exact, paper = generated(truth, gamma), printed(truth, gamma)
        seen = simulate([truth], gamma, bias=False, draws=draws, steps=steps, generator=generator)[0]
        excess = np.sort(np.linalg.eigvalsh(seen.covariance - truth.covariance))[::-1]
        rows.append({"gamma": gamma, "entropy": exact.entropy, "entropy simulated": seen.entropy, "entropy printed": paper.entropy,
                     "W2": wasserstein(exact, truth), "W2 simulated": wasserstein(seen, truth), "W2 printed": wasserstein(paper, truth),
                     "a |mu|^2": gamma ** 2 / (1 + gamma ** 2) * 4.0, "1st excess eigenvalue": excess[0], "2nd": excess[1]})
    return rows


def network_rows(draws: int, steps: int, generator: torch.Generator) -> list[dict]:
    """Which network: per class or shared by three classes, with or without a bias, at gamma 0.5."""
    one = example_class()
    others = [one, Gaussian(-one.mean[::-1].copy(), one.covariance), Gaussian(np.array([1.0, -1.0, 1.0, -1.0]), one.covariance)]
    rows = []
    for name, classes, bias in (("per class", [one], False), ("per class, bias", [one], True),
                                ("shared by 3", others, False), ("shared by 3, bias", others, True)):
        exact = [generated(one, 0.5)] if name == "per class" else generated_shared(classes, 0.5, bias=bias)
        if name == "per class, bias":
            exact = [one]
        seen = simulate(classes, 0.5, bias=bias, draws=draws, steps=steps, generator=generator)
        rows.append({"network": name, "entropy gained": exact[0].entropy - one.entropy, "simulated": seen[0].entropy - one.entropy,
                     "W2": wasserstein(exact[0], one), "W2 simulated": wasserstein(seen[0], one),
                     "largest error of a moment": max(float(np.abs(np.concatenate([
                         (e.mean - s.mean), (e.covariance - s.covariance).ravel()])).max()) for e, s in zip(exact, seen))})
    return rows


def finite_rows(datasets: int, gammas: Array, random: np.random.Generator) -> list[dict]:
    """Change of E[W2^2] over gamma when trained on n examples of N(mu, I), d = 8, |mu|^2 = d: exact and with the printed covariance."""
    mean, rows = np.ones(8), []
    for count in (12, 20, 50, 200):
        for isotropic in (False, True):
            change = finite_sample_change(mean, count, gammas, datasets=datasets, isotropic=isotropic, random=random)
            average, error = change.mean(0), change.std(0) / np.sqrt(datasets)
            base = finite_sample_base(mean, count, datasets, random)
            for gamma, a, e in zip(gammas, average, error):
                rows.append({"n": count, "covariance": "printed" if isotropic else "exact", "gamma": float(gamma),
                             "change of E[W2^2]": float(a), "standard error": float(e), "E[W2^2] at 0": base})
    return rows


def best_rows(finite: list[dict]) -> list[dict]:
    """The best gamma of each n, and what it gains."""
    rows = []
    for count in sorted({row["n"] for row in finite}):
        entry: dict = {"n": count, "E[W2^2] at gamma 0": 0.0}
        for kind in ("exact", "printed"):
            best = min((row for row in finite if row["n"] == count and row["covariance"] == kind), key=lambda row: row["change of E[W2^2]"])
            entry["E[W2^2] at gamma 0"] = best["E[W2^2] at 0"]
            change = 100 * best["change of E[W2^2]"] / best["E[W2^2] at 0"]
            entry |= {f"best gamma, {kind}": best["gamma"], f"change, {kind}": f"{change:.2f} %"}
        rows.append(entry)
    return rows


def finite_sample_base(mean: Array, count: int, datasets: int, random: np.random.Generator) -> float:
    """E[W2^2] at gamma 0."""
    data = mean + random.standard_normal((datasets, count, len(mean)))
    centre = data.mean(1)
    spread = np.einsum("nki,nkj->nij", data - centre[:, None], data - centre[:, None]) / count
    values = np.maximum(np.linalg.eigvalsh(spread), 0)
    return float(np.mean(np.sum((centre - mean) ** 2, 1) + np.sum((np.sqrt(values) - 1) ** 2, 1)))


def draw(population: list[dict], finite: list[dict]) -> pyplot.Figure:
    """Entropy and W2 over gamma, and the finite-sample change."""
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    gammas = [row["gamma"] for row in population]
    for panel, key, label in ((left, "entropy", "entropy (nats)"), (middle, "W2", "2-Wasserstein distance to the class")):
        panel.plot(gammas, [row[key] for row in population], "-", color="black", label="exact: rank one")
        panel.plot(gammas, [row[f"{key} simulated"] for row in population], "o", color="black", fillstyle="none", label="simulated")
        panel.plot(gammas, [row[f"{key} printed"] for row in population], "--", color="0.45", label="as printed: isotropic")
        panel.set_xlabel("gamma")
        panel.set_ylabel(label)
    left.legend(frameon=False)
    for (grey, dash, marker), count in zip(theory_output.LINES, (12, 20, 50, 200)):
        rows = [row for row in finite if row["n"] == count and row["covariance"] == "exact"]
        right.plot([row["gamma"] for row in rows], [100 * row["change of E[W2^2]"] / row["E[W2^2] at 0"] for row in rows],
                   linestyle=dash, color=grey, marker=marker, markersize=4, label=f"n = {count}")
    right.axhline(0, color="0.7", linewidth=0.8)
    right.set_ylim(-9, 6)
    right.set_xlabel("gamma")
    right.set_ylabel("change of E[W2^2] on n examples, %")
    right.legend(frameon=False, loc="upper left")
    return figure


def main() -> None:
    """Tables, CSV and figure."""
    options = theory_output.arguments(__doc__)
    generator = torch.Generator().manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    draws, steps, datasets = (8000, 100, 2000) if options.quick else (40000, 200, 10000)
    population = population_rows(draws, steps, generator)
    networks = network_rows(draws, steps, generator)
    finite = finite_rows(datasets, np.array([0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4]), random)
    theory_output.write_table(finite, options.out / "condition-noise-finite.csv")
    for name, rows, title in (("population", population, "One class, closed form against regression and reverse ODE"),
                              ("networks", networks, "Which network, gamma 0.5, class 1"),
                              ("finite-best", best_rows(finite), "Trained on n examples of N(mu, I), 8 dimensions, |mu|^2 = 8")):
        theory_output.print_table(rows, title)
        theory_output.write_table(rows, options.out / f"condition-noise-{name}.csv")
    theory_output.save_figure(draw(population, finite), options.out / "condition-noise")


if __name__ == "__main__":
    main()
