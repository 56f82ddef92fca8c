"""Fisher information that arrival times, levels, bearings and frequencies carry of a transmitter's position.

Unknowns that all receivers have in common (emission time, radiated power, emission frequency) are eliminated of each
kind of measurement by itself. The transmitter's altitude is common to all kinds, and is eliminated of their sum.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.compiled import njit
from heimdall_lab.core.units import SPEED_OF_LIGHT

_LEAST_NORM_RATIO = 1e-20  # squared norm of a nuisance beside the others, below which it is a combination of them
_LEAST_ALTITUDE_RATIO = 1e-20  # information of an altitude over that of all axes, below which it is rounding
_LEAST_DETERMINANT_RATIO = 1e-12  # determinant over the squared trace, below which a matrix is singular to rounding


class LinesOfSight(NamedTuple):
    """Lines of sight from a transmitter to receivers."""

    unit: Sequence[Array]  # two or three of (..., R): unit vectors towards the receivers along east, north (and up)
    distance_m: Array  # (..., R); NaN, as the vectors are, without a receiver or with the transmitter on it
    present: Array  # (..., R) bool, where there is a receiver


class Measurements(NamedTuple):
    """One measurement a receiver with a normal error, linear in small steps of the transmitter."""

    gradient: Sequence[Array]  # two or three of (..., R): change for a step of 1 m along each axis, up to one sign
    weight: Array  # (..., R), inverse variance, 0 without a measurement
    nuisances: Sequence[Array] = ()  # (..., R) each, its change for a unit of each common unknown


def lines_of_sight(receivers_enu: Array, transmitter_enu: Array) -> LinesOfSight:
    """Lines of sight from transmitters (..., 2 or 3) to receivers (..., R, 2 or 3), in m along east, north and up."""
    offset = [receivers_enu[..., k] - transmitter_enu[..., None, k] for k in range(transmitter_enu.shape[-1])]
    distance = np.sqrt(sum(component * component for component in offset))
    apart = np.where(distance > 0, distance, np.nan)
    return LinesOfSight([component / apart for component in offset], apart, np.isfinite(distance))


def times(lines: LinesOfSight, sigma_s: Array, *, emission_time_known: bool = False) -> Measurements:
    """Arrival times with standard deviations (..., R): their information is that of time differences.

    Source: Torrieri, "Statistical theory of passive location systems", IEEE Trans. AES 20 (1984).
    """
    weight = _weight("toa_sigma_s", sigma_s, lines)
    nuisances = () if emission_time_known else (np.ones_like(weight),)
    return Measurements([component / SPEED_OF_LIGHT for component in lines.unit], weight, nuisances)


def levels(
    lines: LinesOfSight,
    sigma_db: Array,
    *,
    path_loss_exponent: float = 2.0,
    path_loss_exponent_known: bool = True,
    slopes: tuple[Array, Array] | None = None,
    correlation: Array | None = None,
) -> Measurements:
    """Received levels P − 10 n log10 d with standard deviations (..., R), of an unknown power P.

    Of another law, slopes are by how much its loss grows for 1 m of distance, and for 1 m of the transmitter's altitude
    over the same distance, (..., R) dB each.

    Errors with the correlation (..., R, R) are made independent: measurements are combined by the inverse of its
    Cholesky factor.

    Source: Patwari et al., "Relative location estimation in wireless sensor networks", IEEE Trans. Signal Process. 51
    (2003); for correlated errors Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 4.5.
    """
    weight = _weight("rss_sigma_db", sigma_db, lines)
    of_free_space = 10 * path_loss_exponent / np.log(10) / lines.distance_m, 0.0
    slope, altitude_slope = of_free_space if slopes is None else slopes  # dB per metre
    gradient = [component * slope for component in lines.unit]
    if len(gradient) > 2:
        gradient[2] = gradient[2] - altitude_slope  # units are towards the receivers, which makes distances shorter
    nuisances = [np.ones_like(weight)]
    if not path_loss_exponent_known:
        nuisances.append(10 * np.log10(lines.distance_m))
    if correlation is None:
        return Measurements(gradient, weight, nuisances)
    measured = weight > 0
    columns = np.stack(np.broadcast_arrays(*gradient, *nuisances), axis=-1) * np.sqrt(weight)[..., None]
    both = measured[..., :, None] & measured[..., None, :]
    try:
        factor = np.linalg.cholesky(np.where(both, correlation, np.eye(weight.shape[-1])))
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"rss_correlation: is not positive definite ({error}); give receivers at one place an error of their own"
        ) from error
    independent = [*np.moveaxis(np.linalg.solve(factor, np.where(measured[..., None], columns, 0.0)), -1, 0)]
    axes = len(gradient)
    return Measurements(independent[:axes], measured.astype(float), independent[axes:])


def bearings(lines: LinesOfSight, sigma_rad: Array) -> Measurements:
    """Horizontal bearings with standard deviations (..., R).

    Source: Torrieri, IEEE Trans. AES 20 (1984), section on bearing measurements.
    """
    squared = lines.unit[0] ** 2 + lines.unit[1] ** 2
    inverse = 1 / (lines.distance_m * np.where(squared > 0, squared, np.nan))  # one horizontal unit, one distance
    weight = _weight("aoa_sigma_rad", sigma_rad, lines)
    gradient = [lines.unit[1] * inverse, -lines.unit[0] * inverse]
    if len(lines.unit) > 2:
        gradient.append(np.zeros_like(weight))  # who climbs stays on the same bearing
    return Measurements(gradient, weight)


def frequencies(lines: LinesOfSight, sigma_hz: Array, frequency_hz: float, velocity_m_s: Array) -> Measurements:
    """Received frequencies with standard deviations (..., R), of an unknown emission frequency near ``frequency_hz``.

    Velocities (..., R, 2 or 3) are those of the receivers relative to the transmitter, known.

    Source: Ho and Xu, "An accurate algebraic solution for moving source location using TDOA and FDOA measurements",
    IEEE Trans. Signal Process. 52 (2004): the gradient of a range rate.
    """
    weight = _weight("fdoa_sigma_hz", sigma_hz, lines)
    velocity = [velocity_m_s[..., k] for k in range(len(lines.unit))]
    range_rate = sum(unit * speed for unit, speed in zip(lines.unit, velocity, strict=True))
    scale = frequency_hz / SPEED_OF_LIGHT / lines.distance_m
    gradient = [(speed - unit * range_rate) * scale for unit, speed in zip(lines.unit, velocity, strict=True)]
    return Measurements(gradient, weight, (np.ones_like(weight),))


def fisher(measurements: Measurements, *, altitude: bool = False) -> Array:
    """Fisher information of the position with the nuisances eliminated: (..., 2, 2), along east and north.

    With ``altitude`` it is along east, north and up, (..., 3, 3), of lines of sight that have three coordinates.

    Eliminating one leaves Σ w (g − ḡ)(g − ḡ)ᵀ, ḡ its weighted regression: the Schur complement of the full information.
    """
    axes = measurements.gradient[: 3 if altitude else 2]
    weight, *columns = np.broadcast_arrays(measurements.weight, *measurements.nuisances, *axes)
    shape, receivers = weight.shape[:-1], weight.shape[-1]
    flat_weight = np.ascontiguousarray(weight).reshape(-1, receivers)
    flat = np.array(columns).reshape(len(columns), len(flat_weight), receivers)
    information: Array = _information_without_nuisances(flat, flat_weight, len(measurements.nuisances))
    return information.reshape(*shape, len(axes), len(axes))


def without_altitude(information: Array, sigma_m: Array) -> Array:
    """Information (..., 2, 2) of the horizontal position that that of all axes, (..., 3, 3), leaves: Schur complement.

    The altitude has a normal prior with the standard deviation ``sigma_m`` (...): 0 where it is known, infinite where
    nothing is known of it. NaN where the rest is singular to rounding of what was there.
    """
    with np.errstate(divide="ignore"):
        prior = 1 / np.square(sigma_m, dtype=float)
    horizontal, slope = information[..., :2, :2], information[..., :2, 2]
    trace = np.trace(horizontal, axis1=-2, axis2=-1)
    altitude = information[..., 2, 2] + prior
    observed = altitude > _LEAST_ALTITUDE_RATIO * trace
    share = np.where(observed, 1 / np.where(observed, altitude, 1.0), 0.0)
    rest = horizontal - share[..., None, None] * slope[..., :, None] * slope[..., None, :]
    determinant = rest[..., 0, 0] * rest[..., 1, 1] - rest[..., 0, 1] ** 2
    return np.where((determinant > _LEAST_DETERMINANT_RATIO * trace**2)[..., None, None], rest, np.nan)


def balanced(information: Array) -> tuple[Array, Array]:
    """Scale (S, K, K) to ones on the diagonal, before ranks are decided; the scale is (S, K)."""
    scale = 1 / np.sqrt(np.maximum(np.einsum("sii->si", information), 1e-300))
    return information * scale[:, :, None] * scale[:, None, :], scale


def inverse(information: Array) -> Array:
    """Inverse of (..., 2, 2) matrices, NaN where singular to rounding."""
    a, b, d = information[..., 0, 0], information[..., 0, 1], information[..., 1, 1]
    determinant = a * d - b**2
    regular = determinant > _LEAST_DETERMINANT_RATIO * (a + d) ** 2
    scale = np.where(regular, 1 / np.where(regular, determinant, 1.0), np.nan)
    return np.stack([d * scale, -b * scale, -b * scale, a * scale], axis=-1).reshape(information.shape)


def _weight(name: str, sigma: Array, lines: LinesOfSight) -> Array:
    """Inverse variance, 0 where there is no measurement."""
    sigma = np.asarray(sigma, dtype=float)
    if (sigma <= 0).any():
        raise ValueError(f"{name}: {np.nanmin(sigma)} is not positive; a measurement without error bounds nothing")
    measured = np.isfinite(sigma) & lines.present
    return np.where(measured, 1 / np.where(measured, sigma, 1.0) ** 2, 0.0)


@njit(cache=True, error_model="numpy")
def _information_without_nuisances(given: Array, weight: Array, nuisances: int) -> Array:
    """Information (P, A, A) of A gradients, orthogonal to nuisances by Gram and Schmidt's method.

    ``given`` (K + A, P, R) holds K ``nuisances``, then the gradients.
    """
    total, count, receivers = given.shape
    axes = total - nuisances
    information = np.empty((count, axes, axes))
    columns = np.empty((total, receivers))
    norms = np.empty(nuisances)
    for point in range(count):
        point_weight = weight[point]
        for r in range(receivers):
            measured = point_weight[r] > 0  # else the gradient may be NaN
            for k in range(total):
                columns[k, r] = given[k, point, r] if measured else 0.0
        for k in range(nuisances):
            norms[k] = _inner(point_weight, columns[k], columns[k])
        for k in range(nuisances):
            norm = _inner(point_weight, columns[k], columns[k])
            if norm > _LEAST_NORM_RATIO * norms[k]:
                for other in range(k + 1, total):
                    share = _inner(point_weight, columns[k], columns[other]) / norm
                    for r in range(receivers):
                        columns[other, r] -= share * columns[k, r]
        for i in range(axes):
            for k in range(i, axes):
                entry = _inner(point_weight, columns[nuisances + i], columns[nuisances + k])
                information[point, i, k] = information[point, k, i] = entry
    return information


@njit(cache=True, error_model="numpy")
def _inner(weight: Array, first: Array, second: Array) -> float:
    total = 0.0
    for r in range(len(weight)):
        total += weight[r] * first[r] * second[r]
    return total
