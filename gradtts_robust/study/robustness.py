"""What a study's table says of robustness: damage by dirt, what an objective saves of it, and how sure that is.

The unit is a run, (speaker, seed), as the mean over its sentences. Speakers are drawn first, then seeds within each: an interval speaks
of other speakers and other draws of the dirt, not of other sentences. Objectives are compared on the same draws.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .metrics import LEAST_DAMAGE

DRAWS = 5000
LEVEL = 0.95
EXACT_SPEAKERS = 14
"""Up to so many speakers all changes of signs are tried."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, NaN where there is none, and a remark."""

    value: float
    low: float
    high: float
    remark: str = ""


@dataclass(frozen=True)
class Draws:
    """The same resamples for all that is compared: weights [draws, speakers, seeds] of each run, 0 where it was not drawn."""

    weights: np.ndarray

    def means(self, values: np.ndarray) -> np.ndarray:
        """Means over the drawn runs, [draws], of values [speakers, seeds] with NaN where a run is missing."""
        known = np.isfinite(values)
        weights = self.weights * known
        total = weights.sum((1, 2))
        sums = (weights * np.where(known, values, 0.0)).sum((1, 2))
        return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)


def draw(speakers: int, seeds: int, *, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Resamples of speakers with replacement, and of seeds with replacement within each drawn speaker."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((draws, speakers, seeds))
    chosen, inner = rng.integers(speakers, size=(draws, speakers)), rng.integers(seeds, size=(draws, speakers, seeds))
    rows = np.arange(draws)
    for slot, place in itertools.product(range(speakers), range(seeds)):
        np.add.at(weights, (rows, chosen[:, slot], inner[:, slot, place]), 1)
    return Draws(weights)


class Grid:
    """A study's runs of one encoder as arrays [speakers, seeds] per condition and objective.

    Args:
        table: see `table.gather`, of one encoder.
        column: what is averaged over a run's sentences.
        iteration: of the checkpoint; None for the selected one.
    """

    def __init__(self, table: pd.DataFrame, *, column: str = "similarity", iteration: int | None = None):
        part = table[table["selected"] if iteration is None else table["iteration"] == iteration]
        self.speakers, self.seeds = sorted(table["speaker"].unique()), sorted(table["seed"].unique())
        means = part.groupby(["condition", "objective", "speaker", "seed"], sort=False)[column].mean()
        self.values = {key: group.droplevel([0, 1]).unstack().reindex(index=self.speakers, columns=self.seeds).to_numpy(dtype=float)
                       for key, group in means.groupby(level=[0, 1], sort=False)}

    def get(self, condition: str, objective: str) -> np.ndarray:
        """[speakers, seeds], NaN where a run is missing."""
        return self.values.get((condition, objective), np.full((len(self.speakers), len(self.seeds)), np.nan))


def interval(draws: Draws, *values: np.ndarray, statistic: Callable[..., np.ndarray] = lambda mean: mean) -> Estimate:
    """A statistic of means over runs and its interval (`expanded_tail`); only runs that all `values` [speakers, seeds] have are used."""
    shared = np.logical_and.reduce([np.isfinite(value) for value in values])
    values = tuple(np.where(shared, value, np.nan) for value in values)
    if not shared.any():
        return Estimate(math.nan, math.nan, math.nan, "no runs to compare")
    point = statistic(*(np.array([np.nanmean(value)]) for value in values))[0]
    if shared.sum() == 1:
        return Estimate(float(point), math.nan, math.nan, "a single run has no interval")
    drawn = statistic(*(draws.means(value) for value in values))
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Estimate(float(point), math.nan, math.nan)
    speakers = int(shared.any(1).sum())
    tail = expanded_tail(speakers if speakers > 1 else int(shared.sum()))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(float(point), float(low), float(high))


def expanded_tail(count: int, *, level: float = LEVEL) -> float:
    """The share of draws to leave out at either end, for an interval that holds its `level` with few speakers.

    Draws of n speakers spread by a factor sqrt((n - 1) / n) too little, and with tails of a normal distribution where the mean of few has
    Student's: of six speakers the plain percentiles at 95 % hold the truth 88 times of 100. The expanded ones (Hesterberg 2014,
    arXiv 1411.5279) look that far out that both are made good, as far as draws reach.

    Args:
        count: speakers, or seeds where there is one speaker, >= 2.
    """
    from scipy.stats import norm
    from scipy.stats import t as student

    return float(norm.sf(math.sqrt(count / (count - 1)) * student.ppf((1 + level) / 2, count - 1)))


def damage_ratio(draws: Draws, *, robust: np.ndarray, dirty: np.ndarray, clean: np.ndarray) -> Estimate:
    """(clean - robust) / (clean - dirty), a ratio of means: the share of plain training's damage that an objective leaves.

    Args:
        robust, dirty: of the objective and of the baseline on dirty data, [speakers, seeds].
        clean: of the baseline on clean data.

    Returns:
        With a remark where the interval of the denominator includes 0: the ratio is then no more than noise over noise, and its interval
        may be anything. NaN where the damage itself is below `LEAST_DAMAGE`, or no run has all three; those that lack one don't count.
    """
    damage = interval(draws, robust, dirty, clean, statistic=lambda r, d, c: c - d)
    if math.isnan(damage.value):
        return damage
    if not damage.value >= LEAST_DAMAGE:
        return Estimate(math.nan, math.nan, math.nan, f"the dirt costs plain training {damage.value:.3f}, too little to divide by")
    found = interval(draws, robust, dirty, clean, statistic=lambda r, d, c: (c - r) / (c - d))
    if damage.low <= 0:
        return Estimate(found.value, found.low, found.high, f"the damage's own interval, {damage.low:.3f} to {damage.high:.3f}, includes 0")
    return found


def resilience(draws: Draws, dirty: np.ndarray, clean: np.ndarray) -> Estimate:
    """R = S(trained on dirty data) - S(trained on clean data) by one objective, both against clean references; 0 for no damage."""
    return interval(draws, dirty, clean, statistic=lambda d, c: d - c)


def differential(draws: Draws, dirty: np.ndarray, clean: np.ndarray, pollution: np.ndarray, control: np.ndarray) -> Estimate:
    """R minus the same against the pollution's voices: negative where dirty training moved away from the target or towards them."""
    return interval(draws, dirty, clean, pollution, control, statistic=lambda d, c, p, q: (d - c) - (p - q))


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided p value of a mean of paired differences, one per speaker, being 0, by changes of their signs.

    Exact for up to `EXACT_SPEAKERS`: with n speakers no p is below 2 / 2^n, 0.031 for six. NaN without any difference.
    """
    values = np.asarray(differences, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan
    if len(values) <= EXACT_SPEAKERS:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    else:
        signs = np.vstack([np.ones(len(values)), np.random.default_rng(0).choice((-1, 1), size=(20000, len(values)))])
    means = np.abs(signs @ values)
    return float(np.mean(means >= abs(values.sum()) - 1e-12))


def paired_t_test(differences: Sequence[float]) -> float:
    """Two-sided p value of the mean of paired differences, one per speaker, being 0, taken as normally distributed.

    NaN for fewer than two of them, or where all are equal.
    """
    from scipy.stats import t as student

    values = np.asarray(differences, dtype=float)
    values = values[np.isfinite(values)]
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    if not spread > 0:
        return math.nan
    return float(2 * student.sf(abs(values.mean()) / spread * math.sqrt(len(values)), df=len(values) - 1))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's correction (1979): adjusted p values that keep the chance of any false finding at the level; NaN ones stay and don't count."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    highest = 0.0
    for rank, index in enumerate(known[np.argsort(p[known], kind="stable")]):
        highest = max(highest, min(1.0, (len(known) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def compare(table: pd.DataFrame, *, baseline: str, clean: str, encoder: str) -> pd.DataFrame:
    """One row per condition and objective at the selected checkpoints.

    Columns: condition, objective, runs; mean, R, differential, ratio (damage ratio), recovery (1 - ratio), own_ratio (R over the
    baseline's R), each with `_low` and `_high` but recovery; remark; difference to the baseline under the same condition; over speakers'
    means p of a paired t test, p_holm corrected over all rows but the baseline's, and p_signs of an exact test without correction.
    """
    part = table[table["encoder"] == encoder]
    near, away = Grid(part), Grid(part, column="pollution_similarity")
    control = Grid(part, column="control_pollution_similarity")
    draws = draw(len(near.speakers), len(near.seeds))
    rows = []
    for condition, objective in near.values:
        value = near.get(condition, objective)
        row = {"condition": condition, "objective": objective, "runs": int(np.isfinite(value).sum())}
        row |= _named("mean", interval(draws, value))
        dirty = condition != clean
        own = near.get(clean, objective)
        row |= _named("R", resilience(draws, value, own) if dirty else _nothing())
        row |= _named("differential", differential(draws, value, own, away.get(condition, objective), control.get(condition, objective))
                      if dirty else _nothing())
        plain, unhurt = near.get(condition, baseline), near.get(clean, baseline)
        ratio = damage_ratio(draws, robust=value, dirty=plain, clean=unhurt) if dirty and objective != baseline else _nothing()
        row |= _named("ratio", ratio) | {"recovery": 1 - ratio.value, "remark": ratio.remark}
        row |= _named("own_ratio", interval(draws, value, own, plain, unhurt, statistic=lambda v, o, p, u: (v - o) / (p - u))
                      if dirty and objective != baseline and math.isfinite(ratio.value) else _nothing())
        row |= _named("difference", interval(draws, value, plain, statistic=lambda v, p: v - p) if objective != baseline else _nothing())
        differences = _speaker_means(value - plain) if objective != baseline else []
        rows.append(row | {"p": paired_t_test(differences), "p_signs": sign_flip_test(differences)})
    found = pd.DataFrame(rows)
    return found.assign(p_holm=holm(found["p"]))


def courses(table: pd.DataFrame, *, baseline: str, clean: str, encoder: str, draws: int = 2000) -> pd.DataFrame:
    """One row per condition, objective and iteration: mean, R and ratio, each with `_low` and `_high`, and the ratio's remark.

    R is against clean training by the same objective, the ratio against the baseline's damage, both after as many iterations.
    """
    part, rows = table[table["encoder"] == encoder], []
    for iteration in sorted(part["iteration"].unique()):
        grid = Grid(part, iteration=iteration)
        drawn = draw(len(grid.speakers), len(grid.seeds), draws=draws)
        for condition, objective in grid.values:
            value, dirty = grid.get(condition, objective), condition != clean
            ratio = damage_ratio(drawn, robust=value, dirty=grid.get(condition, baseline), clean=grid.get(clean, baseline)) \
                if dirty and objective != baseline else _nothing()
            rows.append({"condition": condition, "objective": objective, "iteration": int(iteration),
                         **_named("mean", interval(drawn, value)),
                         **_named("R", resilience(drawn, value, grid.get(clean, objective)) if dirty else _nothing()),
                         **_named("ratio", ratio), "remark": ratio.remark})
    return pd.DataFrame(rows)


def _speaker_means(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    counts = known.sum(1)
    return np.divide(np.where(known, values, 0).sum(1), counts, out=np.full(len(values), np.nan), where=counts > 0)


def _named(name: str, found: Estimate) -> dict:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _nothing() -> Estimate:
    return Estimate(math.nan, math.nan, math.nan)
