"""The law of the errors of fixes: Student's in two dimensions, of which the normal one is the limit.

A fix comes with a covariance whose 68 % ellipse is that of a normal law, and with degrees of freedom. The
fewer these are, the larger are the ellipses of higher levels beside those of a normal law.

Source: Kotz and Nadarajah, Multivariate t Distributions and Their Applications (2004), eq. (1.1).
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.optimize
import scipy.special

from heimdall_lab.core.arrays import Array

if TYPE_CHECKING:
    from scipy.interpolate import RegularGridInterpolator

_SHARED_LEVEL = 0.68  # of the ellipse that is a normal law's
_OUTER_LEVEL = 0.95  # of the ellipse that degrees of freedom are fitted to
_LEAST_PARTLY = 1.0  # degrees of freedom of a part of the variance, below which they count as so many
_NEWTON_STEPS = 8
_LEAST_FREEDOM, _MOST_FREEDOM = 0.3, 1e4  # below and above which degrees of freedom cannot be told apart


def radius_squared(level: float, freedom: Array = np.inf) -> Array:
    """Square of the radius of the ellipse that holds a share (0 … 1) of the errors, in units of the covariance: (...).

    Infinite degrees of freedom (...) make errors normal.

    >>> float(radius_squared(0.95).round(3)), float(radius_squared(0.95, 4.0).round(3))
    (5.991, 10.306)
    """
    return scale(freedom) * _quantile(level, freedom)


def level(squared: Array, freedom: Array = np.inf) -> Array:
    """Share of the errors that the ellipse through an error holds: the inverse of `radius_squared`.

    Of squared errors over their covariance (...): even between 0 and 1, if the covariances are right; NaN of NaN.
    """
    normal, factor = np.isinf(freedom), scale(freedom)
    finite = np.where(normal, 1.0, freedom)
    log_beyond = np.where(normal, -np.divide(squared, 2), -finite / 2 * np.log1p(squared / (factor * finite)))
    return -np.expm1(log_beyond)


def log_density(squared: Array, log_determinant: Array, freedom: Array = np.inf) -> Array:
    """Natural logarithm of the density of errors, per unit of area of the covariance, (...).

    Given are squared errors over their covariance (...), and natural logarithms of the covariance's determinant (...).
    """
    factor, normal = scale(freedom), np.isinf(freedom)
    finite = np.where(normal, 1.0, freedom)
    tail = np.where(normal, np.divide(squared, 2), (finite / 2 + 1) * np.log1p(squared / (factor * finite)))
    return -np.log(2 * np.pi * factor) - log_determinant / 2 - tail


def fit(squared: Array) -> tuple[float, float]:
    """Fit the law to errors, so that the ellipses of 68 and of 95 % hold these shares of them: spread and freedom.

    Of squared errors (S,) over a covariance that is right but for a factor, the spread is the factor on standard
    deviations. The freedom is infinite where the errors reach no further than a normal law's; the spread is then
    between those by which either ellipse alone is right.
    """
    inner, outer = np.quantile(squared, (_SHARED_LEVEL, _OUTER_LEVEL))

    def excess(freedom: float) -> float:
        return float(_quantile(_OUTER_LEVEL, freedom) / _quantile(_SHARED_LEVEL, freedom) - outer / inner)

    if excess(_MOST_FREEDOM) >= 0:
        normal = inner / _quantile(_SHARED_LEVEL, np.inf), outer / _quantile(_OUTER_LEVEL, np.inf)
        return float(np.prod(normal) ** 0.25), np.inf
    freedom = (
        scipy.optimize.brentq(excess, _LEAST_FREEDOM, _MOST_FREEDOM) if excess(_LEAST_FREEDOM) > 0 else _LEAST_FREEDOM
    )
    return float(np.sqrt(inner / _quantile(_SHARED_LEVEL, np.inf))), float(freedom)


def partly_scaled(share: Array, freedom: Array) -> tuple[Array, Array]:
    """Factor on a covariance (...), and degrees of freedom, where only a share of its variance has an unknown scale.

    Errors are the sum of a normal part, whose variance is known, and one of Student's law with the degrees of freedom
    of that scale. The ellipses of the result hold 68 and 95 % of them.

    Source: Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2
    (1946), for one law in the place of such a sum; here by its quantiles instead of its moments, which few degrees of
    freedom do not have.

    >>> factor, freedom = partly_scaled(0.5, 5.0)
    >>> float(factor.round(2)), float(freedom.round(0))
    (1.18, 11.0)
    """
    share, freedom = np.broadcast_arrays(np.clip(share, 0, 1), np.asarray(freedom, dtype=float))
    inverse = 1 / freedom
    within = np.clip(inverse, 1 / _MOST_FREEDOM, 1 / _LEAST_PARTLY)
    found = _partly_scaled_table()(np.stack([share, within], axis=-1)).reshape(*share.shape, 2)
    of_widening, of_inverse = found[..., 0], found[..., 1]
    with np.errstate(divide="ignore"):
        return 1 + of_widening * (1 / scale(freedom) - 1), 1 / (of_inverse * inverse)


@cache
def _partly_scaled_table() -> "RegularGridInterpolator":
    """How much of the widening, and of the inverse degrees of freedom, of the scaled part the whole has.

    Over its share and its inverse degrees of freedom ν: given the scale's factor w = ν / χ², the squared error over the
    variance has an exponential law of mean 2 (1 − share + share w).
    """
    share = np.linspace(0, 1, 17)
    inverse = 1 / np.geomspace(_MOST_FREEDOM, _LEAST_PARTLY, 25)
    draw = (np.arange(1000) + 0.5) / 1000
    freedoms = np.geomspace(_LEAST_FREEDOM, _MOST_FREEDOM, 2000)
    ratios = _quantile(_OUTER_LEVEL, freedoms) / _quantile(_SHARED_LEVEL, freedoms)  # falling
    table = np.zeros((len(share), len(inverse), 2))
    for column, each in enumerate(inverse):
        spread = 1 - share[:, None] + share[:, None] / (each * scipy.special.chdtri(1 / each, draw))  # (share, draw)
        inner, outer = (_mixed_quantile(level, spread) for level in (_SHARED_LEVEL, _OUTER_LEVEL))
        widening = inner / _quantile(_SHARED_LEVEL, np.inf) - 1
        inverse_freedom = np.interp(-outer / inner, -ratios, 1 / freedoms)
        table[:, column] = np.stack([widening / widening[-1], inverse_freedom / inverse_freedom[-1]], axis=-1)
    table[0] = 0.0
    return scipy.interpolate.RegularGridInterpolator((share, inverse), table)


def _mixed_quantile(level: float, spread: Array) -> Array:
    """Quantile (S,) of squared errors, by Newton's method: exponential of means 2 ``spread`` (S, N), any as likely."""
    squared = np.full(len(spread), _quantile(level, np.inf))
    for _ in range(_NEWTON_STEPS):
        beyond = np.exp(-squared[:, None] / 2 / spread)
        slope = (beyond / 2 / spread).mean(axis=1) / beyond.mean(axis=1)
        squared = squared + (np.log(beyond.mean(axis=1)) - np.log1p(-level)) / slope
    return squared


def _quantile(level: float, freedom: Array) -> Array:
    """Of the squared error over the law's own scale matrix: F of 2 and ν degrees of freedom, times 2."""
    log_beyond = np.log1p(-level)
    normal = np.isinf(freedom)
    finite = np.where(normal, 1.0, freedom)
    return np.where(normal, -2 * log_beyond, finite * np.expm1(-2 / finite * log_beyond))


def scale(freedom: Array) -> Array:
    """The law's own scale matrix over the covariance."""
    return _quantile(_SHARED_LEVEL, np.inf) / _quantile(_SHARED_LEVEL, freedom)
