"""The law of delays where some links are late, and what such delays tell of the place that they are measured from.

Every delay has a normal error of standard deviation σ. A share p of the links is late as well, by exponential excess
delays of mean m, and the sum has an exponentially modified normal law. Which links are late, none of the delays says.

Bounds are of one of three laws. ``normal`` takes all delays as normal with the variance that late links make of it,
which is all that least squares uses. ``genie`` is told which links are late. ``mixture`` knows how many are late and by
how much, as the whole law says, and nothing of the single link. Where no link is late, all three are the same.

Lengths, times and standard deviations are in one unit, whichever it is.

Source: Grushka, "Characterization of exponentially modified Gaussian peaks", Anal. Chem. 44 (1972), for the density;
Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 3.4, for the information.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.text import quoted

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

LAWS = ("normal", "genie", "mixture")
LAW_NAMES = {"normal": "normal law", "genie": "genie's law", "mixture": "mixture's law"}
SUFFIXES = {"normal": "", "genie": "_genie", "mixture": "_mixture"}  # of variables and columns by each law
_MOST_EXCESS = 1e6  # mean excess over the normal standard deviation, beyond which information follows a power of it
_KNOT_STEP = 0.025  # of log(1 + m/σ): interpolation errs by less than 1e-7 of the information
_POINT_STEP = 0.02  # of asinh(error/σ), in which the trapezoidal rule converges faster than any power
_LEFT_SIGMAS, _RIGHT_EXCESSES = 40.0, 40.0  # beyond which densities are below 1e-17


def has_late_links(attributes: Mapping[Any, Any]) -> bool:
    """Whether the attributes of a dataset say that a share of its links is late, so that delays are not normal."""
    late = attributes["nlos_ratio"] > 0 and attributes["nlos_excess_mean_s"] > 0
    return bool(late and attributes["propagation"] == "line_of_sight")


def laws_of(variables: Iterable[Any]) -> dict[str, str]:
    """Laws whose bounds errors are to be judged by, and the suffix of the variables (or columns) of each.

    Of a result of `bounds.crlb_by_law` or what was made of it: the genie's and the mixture's where there are these,
    else the normal one.

    >>> laws_of(["crlb_rmse"]), laws_of(["crlb_rmse", "crlb_rmse_genie", "crlb_rmse_mixture"])
    ({'normal': ''}, {'genie': '_genie', 'mixture': '_mixture'})
    """
    late = any(str(name).endswith(SUFFIXES["genie"]) for name in variables)
    return {law: suffix for law, suffix in SUFFIXES.items() if (law != "normal") == late}


def check(law: str) -> None:
    """Refuse a law of another name by a ValueError."""
    if law not in LAWS:
        raise ValueError(f"law: {quoted(law)} is unknown; choose one of {', '.join(LAWS)}")


def excess_variance(ratio: float, excess: float) -> float:
    """Variance of excess delays of mean ``excess`` that a share of the links has, and the others not."""
    return ratio * (2 - ratio) * excess**2


def on_time_sigma(sigma: Array, ratio: float, excess: float, least: Array = 0.0) -> Array:
    """Standard deviation of a link on time, of that of all links (...); at least ``least``, where they disagree."""
    return np.sqrt(np.maximum(np.square(sigma) - excess_variance(ratio, excess), np.square(least)))


def late_log_density(error: Array, sigma: Array, excess: float) -> Array:
    """Natural logarithm of the density of errors (...) of late links: normal plus exponential."""
    share = sigma / excess
    exponent = share**2 / 2 - error / excess + scipy.special.log_ndtr(error / sigma - share)
    return exponent - np.log(excess)


def draw_errors(
    random: np.random.Generator, shape: tuple[int, ...], sigma: Array, ratio: float, excess: float
) -> np.ndarray:
    """Draw errors of delays, of a share of links that is late and of those on time."""
    error: np.ndarray = sigma * random.standard_normal(shape)
    return error + np.where(random.random(shape) < ratio, random.exponential(excess, shape), 0.0)


def information(sigma: Array, ratio: float, excess: float) -> Array:
    """Fisher information of a delay (...) whose link is late with the probability ``ratio``.

    It is that of the law's location, from a table, to 1e-7 of it (1e-4 where m is above 1e6 σ): 1/σ² where no link is
    late, and at least one over the variance of the whole law, for of all laws of a variance the normal one tells least.
    """
    return _standard_information(ratio, excess / np.asarray(sigma, dtype=float)) / np.square(sigma, dtype=float)


def equivalent_sigma(law: str, sigma: Array, ratio: float, excess: float, late: Array | None = None) -> Array:
    """Standard deviation (...) of a normal error that tells as much as a delay of one of `LAWS`.

    Parameters
    ----------
    law : str
    sigma : (...)
        Standard deviation of the normal error that every link has.
    ratio : float
        Share of links that are late.
    excess : float
        Mean of their excess delays.
    late : (...) optional
        Probability that a genie gives each link of being late: 1 or 0 where it is told. By default it is the share of
        all links, so that information is the mean over which links are late. (The mean of the genie's bounds is at
        least the bound of that, by Jensen's inequality.)

    Raises
    ------
    ValueError
        If the law is unknown.
    """
    check(law)
    if law == "normal":
        return np.sqrt(np.square(sigma) + excess_variance(ratio, excess))
    if law == "mixture":
        return sigma / np.sqrt(_standard_information(ratio, excess / sigma))
    share = ratio if late is None else late
    return sigma / np.sqrt(1 - share + share * _standard_information(1.0, excess / sigma))


def _standard_information(ratio: float, excess: Array) -> Array:
    """Information for σ = 1 and mean excess delays (...), from the table; beyond its end by the power that ends it."""
    table = _table(float(ratio))
    place = np.log1p(excess)
    inside = np.minimum(place, table.x[-1])
    return np.exp(table(inside) + (place - inside) * float(table(table.x[-1], 1)))


@cache
def _table(ratio: float) -> "CubicSpline":
    """Natural logarithm of the information for σ = 1, over log(1 + m), of links late with one probability."""
    # SciPy loads its folder interpolate here, not at every start of this package.
    knots = np.linspace(0, np.log1p(_MOST_EXCESS), 1 + round(np.log1p(_MOST_EXCESS) / _KNOT_STEP))
    values = [0.0, *(np.log(_by_quadrature(ratio, excess)) for excess in np.expm1(knots[1:]))]
    return scipy.interpolate.CubicSpline(knots, values)


def _by_quadrature(ratio: float, excess: float) -> float:
    """Information for σ = 1, the mean of the squared derivative of the log density, by the trapezoidal rule.

    The density g of late links follows from the normal one, φ, by g + m g′ = φ.
    """
    last = np.arcsinh(_LEFT_SIGMAS + _RIGHT_EXCESSES * excess)
    point = np.arange(-np.arcsinh(_LEFT_SIGMAS), last, _POINT_STEP)
    error = np.sinh(point)
    on_time = np.exp(-(error**2) / 2) / np.sqrt(2 * np.pi)
    late = np.exp(late_log_density(error, 1.0, excess))
    density = (1 - ratio) * on_time + ratio * late
    slope = -(1 - ratio) * error * on_time + ratio * (on_time - late) / excess
    known = density > np.finfo(float).tiny
    squared = np.where(known, slope**2 / np.where(known, density, 1.0), 0.0)
    return float(_POINT_STEP * (squared * np.cosh(point)).sum())
