"""How a set of embeddings lies beside another: distances, precision and recall, spread. Unit rows [N, D] in, float64 inside."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 3
SHRINK = 0.1
"""Share of a covariance that is spread evenly over all directions, as it is estimated from fewer clips than there are dimensions."""


@dataclass(frozen=True)
class Coverage:
    """k-NN precision, the share of samples that lie within the real ones' neighbourhoods, and recall, the other way round; in [0, 1]."""

    precision: float
    recall: float


def frechet_distance(real: np.ndarray, samples: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians with the sets' means and covariances (FID's, arXiv 1706.08500).

    Biased upwards by few samples: compare values of sets of the same size only.

    Raises:
        ValueError: fewer than two rows, or widths that differ.
    """
    real, samples = _checked(real, samples, least=2)
    roots = [(rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (real, samples)]
    # trace of sqrt(C1 C2) from the singular values of the factors' product: exact and of low rank
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(np.square(root).sum() for root in roots)
    return float(max(0.0, np.square(real.mean(0) - samples.mean(0)).sum() + spread - 2 * cross))


def coverage(real: np.ndarray, samples: np.ndarray, *, neighbours: int = NEIGHBOURS) -> Coverage:
    """Improved precision and recall (arXiv 1904.06991) by distances to the k-th nearest neighbour.

    Raises:
        ValueError: a set of no more than `neighbours` rows, or widths that differ.
    """
    real, samples = _checked(real, samples, least=neighbours + 1)
    across = _distances(real, samples)
    reach = [np.sort(_distances(rows, rows), axis=1)[:, neighbours] for rows in (real, samples)]
    return Coverage(float((across <= reach[0][:, None]).any(0).mean()), float((across <= reach[1][None]).any(1).mean()))


def relative_mahalanobis(samples: np.ndarray, owners: np.ndarray, real: np.ndarray, real_owners: np.ndarray) -> np.ndarray:
    """Relative Mahalanobis distance (arXiv 2106.09022) of each sample to its own speaker: squared distance to that speaker's mean minus
    that to the mean of all, each with its own covariance; the lower the more it is that speaker's.

    Args:
        samples, real: [N, D] and [M, D], with `owners` [N] and `real_owners` [M].

    Returns:
        [N]; NaN for a speaker without real rows.
    """
    real, samples = _checked(real, samples, least=1)
    means = {name: real[real_owners == name].mean(0) for name in np.unique(real_owners)}
    within = _precision(real - np.stack([means[name] for name in real_owners]))
    centre = real.mean(0)
    overall = _precision(real - centre)
    found = []
    for row, name in zip(samples, owners, strict=True):
        own, all_ = row - means.get(name, np.nan), row - centre
        found.append(own @ within @ own - all_ @ overall @ all_)
    return np.array(found)


def spectral_entropy(rows: np.ndarray) -> float:
    """Entropy of the eigenvalues of the rows' similarity matrix, in nats: the logarithm of the Vendi score (arXiv 2210.02410).

    0 where all rows are one, log N where they are at right angles.
    """
    rows = np.asarray(rows, dtype=np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    shares = np.square(np.linalg.svd(rows, compute_uv=False)) / len(rows)
    shares = shares[shares > 1e-12]
    return float(max(0.0, -(shares * np.log(shares)).sum()))


def _precision(centred: np.ndarray) -> np.ndarray:
    covariance = centred.T @ centred / max(1, len(centred) - 1)
    scale = np.trace(covariance) / len(covariance)
    return np.linalg.inv((1 - SHRINK) * covariance + (SHRINK * scale + 1e-9) * np.eye(len(covariance)))


def _distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    squared = np.square(left).sum(1)[:, None] + np.square(right).sum(1)[None] - 2 * left @ right.T
    return np.sqrt(np.maximum(squared, 0))


def _checked(real: np.ndarray, samples: np.ndarray, *, least: int) -> tuple[np.ndarray, np.ndarray]:
    real, samples = np.asarray(real, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    if real.ndim != 2 or samples.ndim != 2 or real.shape[1] != samples.shape[1]:
        raise ValueError(f"embeddings of shapes {real.shape} and {samples.shape} cannot be compared; give [N, D] and [M, D]")
    if min(len(real), len(samples)) < least:
        raise ValueError(f"{len(real)} and {len(samples)} embeddings are too few to compare; at least {least} of each are needed")
    return real, samples
