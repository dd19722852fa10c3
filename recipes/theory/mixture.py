"""Two Gaussian components diffused: the exact minimiser of a penalty at every (x_t, t), and what the reverse ODE makes of it.

Clean data are (1 - f) N(m_0, s^2 I) + f N(m_1, s^2 I). Given X_t, the noise xi is again a mixture of two Gaussians, of means a_0, a_1 and
one variance v(t) per dimension, with weights w_0, w_1 that depend on X_t through its projection on m_1 - m_0 alone. Every minimiser
below is a_0 + g (a_1 - a_0) with a share g in [0, 1] that depends on w_1 and t only, so that the reverse ODE closes in that one
projection, whatever the dimension.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.special import erf, erfinv, expit, logit
from scipy.stats import chi2, norm

from gradtts_robust.losses import DELTA_SCHEDULES
from gradtts_robust.model.diffusion import NoiseSchedule
from gradtts_robust.model.samplers import ode

SCHEDULE = NoiseSchedule()
_SHARES = expit(np.linspace(-36.0, 36.0, 181))
"""The grid of g; symmetric, so that 1 - g is the grid reversed."""
_LOG_S = np.arange(-70.0, 45.0, 0.5)


@dataclass(frozen=True)
class Mixture:
    """Two components of equal spherical covariance.

    Args:
        separation: distance between the means in one dimension, in standard deviations of a component, the same in every dimension.
        fraction: f, weight of component 1, in (0, 1).
        dimensions: d >= 1.
        std: s, a component's standard deviation.
        centre: where mu lies on the line of the means: 0 at m_0, 1 at m_1.
    """

    separation: float
    fraction: float
    dimensions: int = 1
    std: float = 1.0
    centre: float = 0.5

    @property
    def distance(self) -> float:
        """|m_1 - m_0|."""
        return self.separation * self.std * self.dimensions ** 0.5

    @property
    def own_share(self) -> float:
        """Share of clean data on component 1's side of the midpoint: what perfect samples would score."""
        miss = norm.cdf(-0.5 * self.distance / self.std)
        return self.fraction * (1 - miss) + (1 - self.fraction) * miss


@dataclass(frozen=True)
class Loss:
    """What is minimised: a penalty, its delta schedule, and the level at which the penalty acts.

    Args:
        penalty: `l2`, `l1`, `pseudo_huber` (whose minimiser is also `smooth_l1`'s), or `floor`: sqrt(max(|r|^2 - d v, 0)) of the
            whole residual, with the within-component variance v known; `floor_limit` is its limit of many dimensions.
        schedule: a name in DELTA_SCHEDULES.
        delta_0: its end value.
        level: `bin`, or `norm` for the penalty of |r| with delta sqrt(d).
    """

    penalty: str = "l2"
    schedule: str = "constant"
    delta_0: float = 1.0
    level: str = "bin"

    @property
    def name(self) -> str:
        """As printed."""
        name = f"{self.penalty} {self.schedule} {self.delta_0:g}" if self.penalty == "pseudo_huber" else self.penalty
        return f"{name} ({self.level})" if self.level == "norm" else name


def influence(offset: np.ndarray, delta: float, dimensions: int = 1) -> np.ndarray:
    """E[(U + z_1) / sqrt((U + z_1)^2 + z_2^2 + ... + z_d^2 + delta^2)] over standard normal z: the pull of a component at distance U.

    With 1 / sqrt(q) = integral of exp(-s q) / sqrt(pi s) over s > 0, the expectation over z is elementary, leaving
    U / sqrt(pi) * integral of s^(-1/2) (1 + 2 s)^(-(d + 2) / 2) exp(-s U^2 / (1 + 2 s) - s delta^2) ds, here by the trapezoid rule in log s
    (analytic and decaying at both ends, so exact to about 1e-8).

    Args:
        offset: U >= 0, any shape, in standard deviations.
        delta: >= 0, in standard deviations; 0 in one dimension gives erf(U / sqrt 2), the sign's expectation.
        dimensions: d.
    """
    s = np.exp(_LOG_S)
    shared = 0.5 * _LOG_S - 0.5 * (dimensions + 2) * np.log1p(2 * s) - s * delta * delta
    kept = shared > shared.max() - 45.0
    s, shared = s[kept], shared[kept]
    step = _LOG_S[1] - _LOG_S[0]
    decay = np.exp(shared - (s / (1 + 2 * s)) * np.square(offset)[..., None])
    return offset * decay.sum(-1) * step / np.sqrt(np.pi)


@lru_cache(maxsize=16)
def _beyond_floor(dimensions: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """(U grid, E sqrt(max(|U e_1 + z|^2 - d, 0))) by quadrature: trapezoid along U, equal-probability nodes of chi^2 across."""
    offset = np.linspace(0.0, reach, 300)
    nodes = np.linspace(-7.0, 7.0, 281 if dimensions > 1 else 5601)
    weights = norm.pdf(nodes) / norm.pdf(nodes).sum()
    across = chi2.ppf((np.arange(120) + 0.5) / 120, dimensions - 1) if dimensions > 1 else np.zeros(1)
    cost = [np.sqrt(np.maximum(np.square(u + nodes)[:, None] + across - dimensions, 0)).mean(1) @ weights for u in offset]
    return offset, np.array(cost)


def _floor_share(odds: np.ndarray, gap: float, dimensions: int) -> np.ndarray:
    offset, cost = _beyond_floor(dimensions, 2.0 ** np.ceil(np.log2(gap + 1)))
    share = np.linspace(0.0, 1.0, 301)
    towards, away = np.interp(share * gap, offset, cost), np.interp((1 - share) * gap, offset, cost)
    table = np.sinh(np.linspace(-4.1, 4.1, 321))
    weight = expit(table)[:, None]
    best = share[np.argmin((1 - weight) * towards + weight * away, axis=1)]
    return np.interp(odds, table, best)


def minimiser_share(loss: Loss, odds: np.ndarray, gap: float, delta: float, dimensions: int) -> np.ndarray:
    """g of the minimiser a_0 + g (a_1 - a_0), given log(w_1 / w_0).

    Where the penalty's gradient is monotone the stationary point is w_0 G(g S) = w_1 G((1 - g) S), which gives w_1 / w_0 as an
    explicit, rising function of g: a table, no root search. S is the gap between a_0 and a_1 as the penalty sees it.

    Args:
        odds: log(w_1 / w_0), any shape.
        gap: |a_1 - a_0| / sqrt(v), per dimension.
        delta: delta(t) / sqrt(v), per dimension.
        dimensions: d, used by the levels above `bin`.
    """
    whole = gap * dimensions ** 0.5
    if loss.penalty == "l2":
        return expit(odds)
    if loss.penalty == "floor_limit":
        return (odds > 0).astype(float)
    if loss.penalty == "floor":
        return _floor_share(odds, whole, dimensions)
    width = 0.0 if loss.penalty == "l1" else delta
    if loss.level == "norm":
        pull = influence(_SHARES * whole, width * dimensions ** 0.5, dimensions)
    elif width == 0.0:
        pull = erf(_SHARES * gap / np.sqrt(2))
    else:
        pull = influence(_SHARES * gap, width)
    table = np.log(pull) - np.log(pull[::-1])
    return np.interp(odds, table, _SHARES)


def posterior(mixture: Mixture, t: float) -> dict[str, float]:
    """What the noise looks like given X_t at time t: v, the gap per dimension in sqrt(v), and the numbers of the log odds and score."""
    time = torch.tensor(t, dtype=torch.float64)
    rho, variance, snr = (float(f(time)) for f in (SCHEDULE.rho, SCHEDULE.variance, SCHEDULE.snr))
    total = rho ** 2 * mixture.std ** 2 + variance
    v = rho ** 2 * mixture.std ** 2 / total
    return {"rho": rho, "variance": variance, "snr": snr, "total": total, "v": v,
            "gap": variance ** 0.5 * rho * mixture.separation * mixture.std / total / v ** 0.5}


def score(mixture: Mixture, loss: Loss, projection: np.ndarray, t: float) -> np.ndarray:
    """The minimiser's score along m_1 - m_0, -e / sqrt(lambda), at projections of X_t - mu on it."""
    here = posterior(mixture, t)
    low, high = -mixture.centre * mixture.distance, (1 - mixture.centre) * mixture.distance
    middle = here["rho"] * 0.5 * (low + high)
    odds = logit(mixture.fraction) + here["rho"] * mixture.distance * (projection - middle) / here["total"]
    time, snr = (torch.tensor(value, dtype=torch.float64) for value in (t, here["snr"]))
    delta = float(DELTA_SCHEDULES[loss.schedule](time, snr, loss.delta_0)) / here["v"] ** 0.5
    share = minimiser_share(loss, odds, here["gap"], delta, mixture.dimensions)
    return -(projection - here["rho"] * (low + share * mixture.distance)) / here["total"]


def flow(mixture: Mixture, score_at: Callable[[np.ndarray, float], np.ndarray], *, points: int = 2001, steps: int = 400) -> np.ndarray:
    """End points of the reverse ODE, started at `points` equally likely quantiles of N(mu, I) along the line of the means."""
    start = torch.from_numpy(np.sqrt(2) * erfinv(2 * (np.arange(points) + 0.5) / points - 1))[:, None, None]

    def closed_form(noisy, mask, mu, t):
        return torch.from_numpy(score_at(noisy[:, 0, 0].numpy(), float(t[0])))[:, None, None]

    ends = ode(closed_form, start, torch.ones_like(start), torch.zeros_like(start), schedule=SCHEDULE, steps=steps)
    return ends[:, 0, 0].numpy()


def minority_share(mixture: Mixture, loss: Loss, *, points: int = 2001, steps: int = 400) -> float:
    """Share of the reverse ODE's samples on component 1's side of the midpoint, resolved to 1 / `points`."""
    ends = flow(mixture, lambda projection, t: score(mixture, loss, projection, t), points=points, steps=steps)
    return float(np.mean(ends > (0.5 - mixture.centre) * mixture.distance))
