"""How often ellipses hold the truth, and the factor on standard deviations that makes it as often as they should."""

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray

TOLERANCES = {0.68: 0.04, 0.95: 0.02}  # level of an ellipse, and by how much its coverage may be off


def coverage(mahalanobis_squared: Array, level: float) -> float:
    """Share of truths inside the ellipses of a level, of squared errors (S,) over their covariance.

    >>> coverage(np.array([0.1, 1.0, 3.0, 9.0]), 0.95)
    0.75
    """
    return float((mahalanobis_squared <= _limit(level)).mean())


def best_spread(mahalanobis_squared: Array) -> float:
    """Find the factor on all standard deviations that makes the larger of both misses, over its tolerance, least.

    Parameters
    ----------
    mahalanobis_squared : (S,)
        Squared errors over their covariance, as predicted.

    Returns
    -------
    float
        Middle of the factors that are as good as any.
    """
    ordered = np.sort(mahalanobis_squared)
    edges = np.unique(np.concatenate([ordered / _limit(level) for level in TOLERANCES]))  # squared factors
    candidates = np.sqrt(np.append((edges[:-1] + edges[1:]) / 2, edges[-1]))  # coverage is constant in between
    misses = [
        np.abs(np.searchsorted(ordered, candidates**2 * _limit(level), side="right") / len(ordered) - level) / tolerance
        for level, tolerance in TOLERANCES.items()
    ]
    worst = np.max(misses, axis=0)
    best = np.flatnonzero(worst <= worst.min() + 1e-9)
    return float(candidates[best[len(best) // 2]])


def _limit(level: float) -> float:
    """Quantile of a chi-squared variable of two degrees of freedom."""
    return float(-2 * np.log1p(-level))
