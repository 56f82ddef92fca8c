"""Fisher information that arrival times, levels, bearings and frequencies carry of a transmitter's horizontal position.

Unknowns that all receivers have in common (emission time, radiated power, emission frequency) are eliminated.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.compiled import njit
from heimdall_lab.core.units import SPEED_OF_LIGHT

_LEAST_NORM_RATIO = 1e-20  # squared norm of a nuisance beside the others, below which it is a combination of them


class LinesOfSight(NamedTuple):
    """Lines of sight from a transmitter to receivers."""

    unit: Sequence[Array]  # two or three of (..., R): unit vectors towards the receivers along east, north (and up)
    distance_m: Array  # (..., R); NaN, as the vectors are, without a receiver or with the transmitter on it
    present: Array  # (..., R) bool, where there is a receiver


class Measurements(NamedTuple):
    """One measurement a receiver with a normal error, linear in small steps of the transmitter."""

    east: Array  # (..., R), change of the measurement for a step of 1 m, up to one sign for all
    north: Array  # (..., R), the same
    weight: Array  # (..., R), inverse variance, 0 without a measurement
    nuisances: tuple[Array, ...] = ()  # (..., R) each, its change for a unit of each common unknown


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
    east, north = (component / SPEED_OF_LIGHT for component in lines.unit[:2])
    return Measurements(east, north, weight, () if emission_time_known else (np.ones_like(weight),))


def levels(
    lines: LinesOfSight,
    sigma_db: Array,
    *,
    path_loss_exponent: float = 2.0,
    path_loss_exponent_known: bool = True,
    correlation: Array | None = None,
) -> Measurements:
    """Received levels P − 10 n log10 d with standard deviations (..., R), of an unknown power P.

    Errors with the correlation (..., R, R) are made independent: measurements are combined by the inverse of its
    Cholesky factor.

    Source: Patwari et al., "Relative location estimation in wireless sensor networks", IEEE Trans. Signal Process. 51
    (2003); for correlated errors Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 4.5.
    """
    weight = _weight("rss_sigma_db", sigma_db, lines)
    slope = 10 * path_loss_exponent / np.log(10) / lines.distance_m  # dB per metre of distance
    east, north = (component * slope for component in lines.unit[:2])
    nuisances = [np.ones_like(weight)]
    if not path_loss_exponent_known:
        nuisances.append(10 * np.log10(lines.distance_m))
    if correlation is None:
        return Measurements(east, north, weight, tuple(nuisances))
    measured = weight > 0
    columns = np.stack(np.broadcast_arrays(east, north, *nuisances), axis=-1) * np.sqrt(weight)[..., None]
    both = measured[..., :, None] & measured[..., None, :]
    try:
        factor = np.linalg.cholesky(np.where(both, correlation, np.eye(weight.shape[-1])))
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"rss_correlation: is not positive definite ({error}); give receivers at one place an error of their own"
        ) from error
    east, north, *nuisances = np.moveaxis(np.linalg.solve(factor, np.where(measured[..., None], columns, 0.0)), -1, 0)
    return Measurements(east, north, measured.astype(float), tuple(nuisances))


def bearings(lines: LinesOfSight, sigma_rad: Array) -> Measurements:
    """Horizontal bearings with standard deviations (..., R).

    Source: Torrieri, IEEE Trans. AES 20 (1984), section on bearing measurements.
    """
    squared = lines.unit[0] ** 2 + lines.unit[1] ** 2
    inverse = 1 / (lines.distance_m * np.where(squared > 0, squared, np.nan))  # one horizontal unit, one distance
    weight = _weight("aoa_sigma_rad", sigma_rad, lines)
    return Measurements(lines.unit[1] * inverse, -lines.unit[0] * inverse, weight)


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
    east, north = ((velocity[k] - lines.unit[k] * range_rate) * scale for k in range(2))
    return Measurements(east, north, weight, (np.ones_like(weight),))


def fisher(measurements: Measurements) -> Array:
    """Fisher information of the position along east and north, (..., 2, 2), with the nuisances eliminated.

    Eliminating one leaves Σ w (g − ḡ)(g − ḡ)ᵀ, ḡ its weighted regression: the Schur complement of the full information.
    """
    east, north, weight, *nuisances = np.broadcast_arrays(*measurements[:3], *measurements.nuisances)
    shape, receivers = weight.shape[:-1], weight.shape[-1]
    flat = [np.ascontiguousarray(array).reshape(-1, receivers) for array in (east, north, weight)]
    columns = np.array(nuisances).reshape(len(nuisances), len(flat[0]), receivers)
    information: Array = _information_without_nuisances(flat[0], flat[1], flat[2], columns)
    return information.reshape(*shape, 2, 2)


def inverse(information: Array) -> Array:
    """Inverse of (..., 2, 2) matrices, NaN where singular to rounding."""
    a, b, d = information[..., 0, 0], information[..., 0, 1], information[..., 1, 1]
    determinant = a * d - b**2
    regular = determinant > 1e-12 * (a + d) ** 2
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
def _information_without_nuisances(east: Array, north: Array, weight: Array, nuisances: Array) -> Array:
    """Information (P, 2, 2) of gradients (P, R), orthogonal to nuisances (K, P, R) by Gram and Schmidt's method."""
    unknowns, count, receivers = nuisances.shape
    information = np.empty((count, 2, 2))
    columns = np.empty((unknowns + 2, receivers))
    norms = np.empty(unknowns)
    for point in range(count):
        point_weight = weight[point]
        for r in range(receivers):
            measured = point_weight[r] > 0  # else the gradient may be NaN
            for k in range(unknowns):
                columns[k, r] = nuisances[k, point, r] if measured else 0.0
            columns[unknowns, r] = east[point, r] if measured else 0.0
            columns[unknowns + 1, r] = north[point, r] if measured else 0.0
        for k in range(unknowns):
            norms[k] = _inner(point_weight, columns[k], columns[k])
        for k in range(unknowns):
            norm = _inner(point_weight, columns[k], columns[k])
            if norm > _LEAST_NORM_RATIO * norms[k]:
                for other in range(k + 1, unknowns + 2):
                    share = _inner(point_weight, columns[k], columns[other]) / norm
                    for r in range(receivers):
                        columns[other, r] -= share * columns[k, r]
        gradient_east, gradient_north = columns[unknowns], columns[unknowns + 1]
        information[point, 0, 0] = _inner(point_weight, gradient_east, gradient_east)
        information[point, 0, 1] = information[point, 1, 0] = _inner(point_weight, gradient_east, gradient_north)
        information[point, 1, 1] = _inner(point_weight, gradient_north, gradient_north)
    return information


@njit(cache=True, error_model="numpy")
def _inner(weight: Array, first: Array, second: Array) -> float:
    total = 0.0
    for r in range(len(weight)):
        total += weight[r] * first[r] * second[r]
    return total
