"""Whether a fix can be believed: what its measurements, all and one by one, say of it, and what no test of them notices.

One rule for all methods. A fix comes with the measurements that it rests on, linearised where it is; of those follow how
well they agree with it, how uncertain it is and by what, whether one of them contradicts the others, and how far a fault
of one that is just below notice would move it.

Source: Parkinson and Axelrad, "Autonomous GPS integrity monitoring using the pseudorange residual", Navigation 35 (1988);
Brown, "A baseline GPS RAIM scheme", Navigation 39 (1992), for solutions without one measurement each; Baarda, A testing
procedure for use in geodetic networks (1968), for faults just below notice.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import scipy.special

from heimdall_lab.core.arrays import Array
from heimdall_lab.localization import error_law, information
from heimdall_lab.localization.observations import CAUSES, Fix, Observations, distances

BUDGET = (*CAUSES, "altitude")  # what the variance of a fix is made of
SCALED = [CAUSES.index(name) for name in ("noise", "clocks")]  # by how well the measurements agree
FALSE_ALARM = 1e-4  # share of faultless fixes that a test refuses
_ELLIPSE_LEVEL = 0.99  # that holds what a fault just below notice moves a fix by, if it is checked
_FEW_SURPLUS = 2  # measurements more than unknowns, up to which a fix is checked weakly
_LEAST_REDUNDANCY = 1e-6  # share of an error that shows in its own residual
_DRAWS = 2**17  # of errors that are not normal


class Evidence(NamedTuple):
    """Measurements of S scenes by R receivers that fixes rest on, linear about each fix, at the altitude beforehand.

    They are delays in m or levels in dB, each known but for an offset that all of a scene's have in common.
    """

    used: Array  # (S, R) bool
    residual: Array  # (S, R), measured less expected
    gradient: Array  # (S, R, 3), change of what is expected for 1 m east, north and up
    variance: Array  # (S, R, CAUSES)
    altitude_sigma_m: Array  # (S,)
    sigma_freedom: float  # degrees of freedom of what is known of the variances' scale
    is_least_squares: bool  # the fixes are where the residuals are least; else they have covariances of their own
    least_scale: float = 0.0  # of variances, below which agreement does not bring it: after the worst were left out
    late_ratio: float = 0.0  # share of the measurements that are late, which the variance by paths includes
    late_excess_m: float = 0.0  # by how much in the mean


class Integrity(NamedTuple):
    """What `assess` says of S fixes."""

    covariance: Array  # (S, 2, 2) m²
    freedom: Array  # (S,) degrees of freedom of the law of errors
    budget_m: Array  # (S, BUDGET), rms position error by each cause
    altitude_m: Array  # (S,) over that known beforehand
    altitude_sigma_m: Array  # (S,)
    misfit: Array  # (S,) χ² per degree of freedom; NaN where there is none
    status: Array  # (S,): "ok", "misfit" where all measurements together or "link" where one contradicts the others
    suspect: Array  # (S,) int, receiver whose measurement fits worst with the others; −1 where none can be told
    checked: Array  # (S,): "no" without surplus, "weakly" with little or where faults would go unnoticed, or "yes"
    undetected_m: Array  # (S,), how far a fault of one measurement just below notice would move the fix


def delays(
    observed: Observations, fix: Fix, used: Array, *, is_least_squares: bool = True, least_scale: float = 0.0
) -> Evidence:
    """Delays (S, R) that fixes rest on."""
    expected, gradient = distances(observed, fix.latitude_deg, fix.longitude_deg)
    return Evidence(
        used=used & np.isfinite(observed.pseudorange_m) & np.isfinite(observed.sigma_m),
        residual=observed.pseudorange_m - expected,
        gradient=gradient,
        variance=observed.variance_m2,
        altitude_sigma_m=observed.transmitter_altitude_sigma_m,
        sigma_freedom=observed.sigma_freedom,
        is_least_squares=is_least_squares,
        least_scale=least_scale,
        late_ratio=observed.nlos_ratio,
        late_excess_m=observed.nlos_excess_m,
    )


def levels(observed: Observations, fix: Fix, used: Array) -> Evidence:
    """Levels (S, R) in free space that fixes rest on, which have a covariance of their own."""
    distance, gradient = distances(observed, fix.latitude_deg, fix.longitude_deg)
    distance = np.maximum(distance, 1.0)
    variance = np.zeros((*distance.shape, len(CAUSES)))
    variance[..., CAUSES.index("paths")] = observed.link_sigma_db**2
    return Evidence(
        used=used,
        residual=observed.rssi_dbm + 20 * np.log10(distance),
        gradient=-20 / np.log(10) * gradient / distance[..., None],
        variance=variance,
        altitude_sigma_m=observed.transmitter_altitude_sigma_m,
        sigma_freedom=observed.sigma_freedom,
        is_least_squares=False,
        least_scale=1.0,
    )


def assess(fix: Fix, evidence: Evidence | None, freedom: float = np.inf) -> Integrity:
    """Say of each fix how uncertain it is, by what, and whether the measurements that it rests on agree.

    Without evidence nothing is said but the fix's own covariance. ``freedom`` is that of the law of errors that
    covariances of their own belong to.
    """
    if evidence is None:
        return _unassessed(fix)
    used, count = evidence.used, evidence.used.sum(axis=1)
    jacobian = np.concatenate([evidence.gradient, np.ones_like(evidence.residual)[..., None]], axis=-1)
    jacobian = np.where(used[..., None], jacobian, 0.0)  # (S, R, 4)
    residual = np.where(used, evidence.residual, 0.0)
    residual -= residual.sum(axis=1, keepdims=True) / np.maximum(count, 1)[:, None]
    variance = np.where(used[..., None], evidence.variance, 0.0)
    weight = np.where(used, 1 / np.where(used, evidence.variance.sum(axis=-1), 1.0), 0.0)
    known = _prior_information(fix, evidence)
    spread = _inverse(jacobian.swapaxes(1, 2) @ (weight[..., None] * jacobian) + known)  # (S, 4, 4)
    gain = spread @ (jacobian * weight[..., None]).swapaxes(1, 2)  # (S, 4, R), change of a fix by each measurement
    step = (gain @ residual[..., None])[..., 0]
    left = residual - (jacobian @ step[..., None])[..., 0]  # residuals of the best position
    chi_squared = np.maximum((residual * weight * left).sum(axis=1), 0.0)
    redundancy = 1 - (jacobian * gain.swapaxes(1, 2)).sum(axis=-1)  # (S, R), of each one's error, seen in its residual
    surplus = np.maximum(count - (3 if evidence.is_least_squares else 1), 0)

    scale = np.maximum(_variance_scale(chi_squared, surplus, evidence.sigma_freedom), evidence.least_scale)
    parts = np.einsum("skr,src,slr->sckl", gain[:, :2], variance, gain[:, :2], optimize=True)
    parts[:, SCALED] *= scale[:, None, None, None]
    of_altitude = spread[:, :2, 2] / evidence.altitude_sigma_m[:, None]
    parts = np.concatenate([parts, (of_altitude[..., None] * of_altitude[:, None])[:, None]], axis=1)
    budget = np.einsum("sckk->sc", parts)
    if evidence.is_least_squares:
        covariance = parts.sum(axis=1)
    else:
        covariance = fix.covariance * scale[:, None, None]
        own = np.trace(covariance, axis1=1, axis2=2)
        budget = budget * (own / np.maximum(budget.sum(axis=1), 1e-300))[:, None]
    freedom = np.minimum(surplus + evidence.sigma_freedom, freedom)

    separation = np.where(used & (redundancy > _LEAST_REDUNDANCY), left**2 * weight / redundancy, 0.0)
    largest_misfit, largest_separation = _limits(evidence, count, surplus)
    noticed = _studentised(separation, chi_squared, surplus, evidence.sigma_freedom)
    contradicts = (noticed > largest_separation[:, None]) & (surplus > 0)[:, None]
    misfits = (surplus > 0) & (chi_squared > largest_misfit)
    status = np.select([contradicts.any(axis=1), misfits], ["link", "misfit"], "ok")
    fault = np.sqrt(largest_separation * scale)[:, None] * np.sqrt(
        1 / np.where(weight > 0, weight * np.maximum(redundancy, 1e-300), np.inf)
    )
    move = np.where(
        (used & (redundancy <= _LEAST_REDUNDANCY))[:, None], np.inf, gain[:, :2] * fault[:, None]
    )  # (S, 2, R) m
    undetected_m = np.where(surplus > 0, np.hypot(move[:, 0], move[:, 1]).max(axis=1), np.inf)
    hidden = _squared_length(move, covariance) > error_law.radius_squared(_ELLIPSE_LEVEL, freedom)[:, None]
    weakly = (surplus <= _FEW_SURPLUS) | hidden.any(axis=1)
    return Integrity(
        covariance=covariance,
        freedom=freedom,
        budget_m=np.sqrt(budget),
        altitude_m=step[:, 2],
        altitude_sigma_m=np.sqrt(spread[:, 2, 2]),
        misfit=np.where(surplus > 0, chi_squared / np.maximum(surplus, 1), np.nan),
        status=status,
        suspect=np.where(surplus > 1, noticed.argmax(axis=1), -1),
        checked=np.select([surplus == 0, weakly], ["no", "weakly"], "yes"),
        undetected_m=undetected_m,
    )


def _unassessed(fix: Fix) -> Integrity:
    """What is said of fixes that rest on no measurements that could contradict each other."""
    unknown, scenes = np.full(len(fix.status), np.nan), len(fix.status)
    return Integrity(
        covariance=fix.covariance,
        freedom=np.full(scenes, np.inf),
        budget_m=np.full((scenes, len(BUDGET)), np.nan),
        altitude_m=np.zeros(scenes),
        altitude_sigma_m=unknown,
        misfit=unknown,
        status=np.full(scenes, "ok"),
        suspect=np.full(scenes, -1),
        checked=np.full(scenes, "no"),
        undetected_m=np.full(scenes, np.inf),
    )


def _prior_information(fix: Fix, evidence: Evidence) -> Array:
    """Information (S, 4, 4) of east, north, up and offset that does not come from the measurements."""
    known = np.zeros((len(evidence.used), 4, 4))
    known[:, 2, 2] = 1 / evidence.altitude_sigma_m**2
    if not evidence.is_least_squares:
        known[:, :2, :2] = np.nan_to_num(information.inverse(fix.covariance))
    return known


def _inverse(matrix: Array) -> Array:
    """Inverse of (S, 4, 4) matrices, balanced first; of directions without information, next to none is assumed."""
    scale = 1 / np.sqrt(np.maximum(np.einsum("sii->si", matrix), 1e-300))
    balanced = matrix * scale[:, :, None] * scale[:, None, :]
    return np.linalg.inv(balanced + 1e-12 * np.eye(4)) * scale[:, :, None] * scale[:, None, :]


def _variance_scale(chi_squared: Array, surplus: Array, sigma_freedom: float) -> Array:
    """Factor on variances (S,) that is known beforehand with some degrees of freedom, and by the residuals."""
    if np.isinf(sigma_freedom):
        return np.ones_like(chi_squared)
    return (sigma_freedom + chi_squared) / (sigma_freedom + surplus)


def _studentised(separation: Array, chi_squared: Array, surplus: Array, sigma_freedom: float) -> Array:
    """Squares (S, R) of how far fixes without one measurement each are away, over the standard deviation of that."""
    if np.isinf(sigma_freedom):
        return separation
    others = sigma_freedom + surplus - 1
    return separation * (others / np.maximum(sigma_freedom + chi_squared - separation.T, 1e-9)).T


def _limits(evidence: Evidence, count: Array, surplus: Array) -> tuple[Array, Array]:
    """χ² of all measurements, and the square of the largest separation, that FALSE_ALARM of the scenes exceed: (S,)."""
    if evidence.late_ratio > 0 and evidence.late_excess_m > 0:
        sigma_m = np.where(evidence.used, np.sqrt(evidence.variance.sum(axis=-1)), 0.0).sum(axis=1)
        excess = evidence.late_excess_m * count / np.maximum(sigma_m, 1e-300)
        laws = zip(count.tolist(), np.minimum(excess, _most_excess(evidence.late_ratio)).round(1).tolist(), strict=True)
        taken = 3 if evidence.is_least_squares else 1
        limits = np.array([_late_limits(*law, evidence.late_ratio, taken) for law in laws]).reshape(-1, 2)
        return limits[:, 0], limits[:, 1]
    freedom, single = np.maximum(surplus, 1), FALSE_ALARM / np.maximum(count, 1)
    if np.isinf(evidence.sigma_freedom):
        return scipy.special.chdtri(freedom, FALSE_ALARM), scipy.special.chdtri(1, single)
    beyond = freedom * scipy.special.fdtri(freedom, evidence.sigma_freedom, 1 - FALSE_ALARM)
    return beyond, scipy.special.fdtri(1, evidence.sigma_freedom + np.maximum(surplus - 1, 0), 1 - single)


def _most_excess(ratio: float) -> float:
    """Largest mean excess over the standard deviation that it is part of."""
    return float(1 / np.sqrt(ratio * (2 - ratio)))


@cache
def _late_limits(count: int, excess: float, ratio: float, unknowns: int) -> tuple[float, float]:
    """Limits of `_limits` for measurements of which a share is late, in units of their standard deviation, by drawing.

    A fix takes up the common offset of their errors, and what lies in as many random directions as there are unknowns.
    """
    if count <= unknowns:
        return np.inf, np.inf
    random = np.random.default_rng(count)
    on_time = np.sqrt(max(1 - ratio * (2 - ratio) * excess**2, 0.0))
    error = on_time * random.standard_normal((_DRAWS, count))
    error += np.where(random.random(error.shape) < ratio, random.exponential(excess, error.shape), 0.0)
    axes = [np.ones_like(error), *random.standard_normal((unknowns - 1, *error.shape))]
    redundancy = np.ones_like(error)
    for number, axis in enumerate(axes):  # Gram and Schmidt
        for other in axes[:number]:
            axis -= (axis * other).sum(axis=1, keepdims=True) * other
        axis /= np.sqrt((axis**2).sum(axis=1, keepdims=True))
        error -= (error * axis).sum(axis=1, keepdims=True) * axis
        redundancy -= axis**2
    separation = np.where(redundancy > _LEAST_REDUNDANCY, error**2 / np.maximum(redundancy, 1e-300), 0.0)
    drawn = (error**2).sum(axis=1), separation.max(axis=1)
    chi_squared, largest = (float(np.quantile(values, 1 - FALSE_ALARM)) for values in drawn)
    return chi_squared, largest


def _squared_length(vector: Array, covariance: Array) -> Array:
    """Squares (S, R) of vectors (S, 2, R) over covariances (S, 2, 2)."""
    inverse = np.nan_to_num(information.inverse(covariance))
    with np.errstate(invalid="ignore"):
        squared = (vector * (inverse @ vector)).sum(axis=1)
    return np.where(np.isinf(vector).any(axis=1), np.inf, squared)
