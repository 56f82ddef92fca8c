"""The law of the errors of fixes: Student's in two dimensions, of which the normal one is the limit.

A fix comes with a covariance whose 68 % ellipse is that of a normal law, and with degrees of freedom. The
fewer these are, the larger are the ellipses of higher levels beside those of a normal law.

Source: Kotz and Nadarajah, Multivariate t Distributions and Their Applications (2004), eq. (1.1).
"""

import numpy as np
import scipy.optimize

from heimdall_lab.core.arrays import Array

_SHARED_LEVEL = 0.68  # of the ellipse that is a normal law's
_OUTER_LEVEL = 0.95  # of the ellipse that degrees of freedom are fitted to
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


def _quantile(level: float, freedom: Array) -> Array:
    """Of the squared error over the law's own scale matrix: F of 2 and ν degrees of freedom, times 2."""
    log_beyond = np.log1p(-level)
    normal = np.isinf(freedom)
    finite = np.where(normal, 1.0, freedom)
    return np.where(normal, -2 * log_beyond, finite * np.expm1(-2 / finite * log_beyond))


def scale(freedom: Array) -> Array:
    """The law's own scale matrix over the covariance."""
    return _quantile(_SHARED_LEVEL, np.inf) / _quantile(_SHARED_LEVEL, freedom)
