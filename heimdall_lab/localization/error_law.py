"""The law of the errors of fixes: Student's in two dimensions, of which the normal one is the limit.

A fix comes with a covariance whose 68 % ellipse is that of a normal law, and with degrees of freedom, which tell how
much larger than a normal law's the ellipses of higher levels are.

Source: Kotz and Nadarajah, Multivariate t Distributions and Their Applications (2004), eq. (1.1).
"""

import numpy as np
import scipy.optimize

from heimdall_lab.core.arrays import Array

_SHARED, _FAR = 0.68, 0.95  # level of the ellipse that is a normal law's, and the one that tells degrees of freedom
_LEAST, _MOST = 0.3, 1e4  # degrees of freedom that are told from fewer, and from a normal law


def radius_squared(level: float, freedom: Array = np.inf) -> Array:
    """Square of the radius of the ellipse that holds a share of the errors, in units of the covariance.

    Parameters
    ----------
    level : float
        The share, above 0 and below 1.
    freedom : (...)
        Degrees of freedom; infinite: normal.

    Returns
    -------
    (...)

    Examples
    --------
    >>> float(radius_squared(0.95).round(3))
    5.991
    >>> float(radius_squared(0.95, 4.0).round(3))
    10.306
    """
    return scale(freedom) * _quantile(level, freedom)


def level(squared: Array, freedom: Array = np.inf) -> Array:
    """Share of the errors that the ellipse through an error holds: the inverse of `radius_squared`.

    Parameters
    ----------
    squared : (...)
        Squared errors over their covariance.
    freedom : (...)

    Returns
    -------
    (...)
        Even between 0 and 1, if the covariances are right; NaN of NaN.
    """
    normal, factor = np.isinf(freedom), scale(freedom)
    finite = np.where(normal, 1.0, freedom)
    log_rest = np.where(normal, -np.divide(squared, 2), -finite / 2 * np.log1p(squared / (factor * finite)))
    return -np.expm1(log_rest)


def log_density(squared: Array, log_determinant: Array, freedom: Array = np.inf) -> Array:
    """Natural logarithm of the density of errors, per unit of area of the covariance.

    Parameters
    ----------
    squared : (...)
        Squared errors over their covariance.
    log_determinant : (...)
        Natural logarithm of the covariance's determinant.
    freedom : (...)

    Returns
    -------
    (...)
    """
    factor, normal = scale(freedom), np.isinf(freedom)
    finite = np.where(normal, 1.0, freedom)
    tail = np.where(normal, np.divide(squared, 2), (finite / 2 + 1) * np.log1p(squared / (factor * finite)))
    return -np.log(2 * np.pi * factor) - log_determinant / 2 - tail


def fitted(squared: Array) -> tuple[float, float]:
    """Find the law by which the ellipses of 68 and of 95 % hold as many of the errors as they should.

    Parameters
    ----------
    squared : (S,)
        Squared errors over a covariance that is right but for a factor.

    Returns
    -------
    spread : float
        Factor on standard deviations.
    freedom : float
        Infinite where the errors reach no further than a normal law's; the spread is then between those by which either
        ellipse alone is right.
    """
    near, far = np.quantile(squared, (_SHARED, _FAR))

    def excess(freedom: float) -> float:
        return float(_quantile(_FAR, freedom) / _quantile(_SHARED, freedom) - far / near)

    if excess(_MOST) >= 0:
        normal = near / _quantile(_SHARED, np.inf), far / _quantile(_FAR, np.inf)
        return float(np.prod(normal) ** 0.25), np.inf
    freedom = scipy.optimize.brentq(excess, _LEAST, _MOST) if excess(_LEAST) > 0 else _LEAST
    return float(np.sqrt(near / _quantile(_SHARED, np.inf))), float(freedom)


def _quantile(level: float, freedom: Array) -> Array:
    """Of the squared error over the law's own scale matrix: F of 2 and ν degrees of freedom, times 2."""
    log_rest = np.log1p(-level)
    normal = np.isinf(freedom)
    finite = np.where(normal, 1.0, freedom)
    return np.where(normal, -2 * log_rest, finite * np.expm1(-2 / finite * log_rest))


def scale(freedom: Array) -> Array:
    """The law's own scale matrix over the covariance."""
    return _quantile(_SHARED, np.inf) / _quantile(_SHARED, freedom)
