"""Positions from received levels, vectorised over samples; they need no common clock."""

import numpy as np
from scipy.special import log_ndtr, logsumexp

from heimdall_lab.core.arrays import Array
from heimdall_lab.localization import integrity, level_law
from heimdall_lab.localization.baselines import centroid_where, fix_without_rivals, receivers_centroid
from heimdall_lab.localization.integrity import Evidence
from heimdall_lab.localization.observations import (
    Fix,
    Observations,
    from_tangent_plane,
    grid_distances,
    tangent_plane,
)

_GRID_SIDE = 41  # grid positions along each axis
_GRID_SIGMAS = 6.0  # to either side of the middle
_FARTHEST_SIGMAS = 5.0  # of a fix from there; beyond, more of what is likely may lie outside of the grid
_LOOSER_PRIOR = 3.0  # times as far a transmitter may be, to see whether a fix depends on that;
_MOST_WIDENING = 1.2  # times as uncertain it becomes at the most, and moves by its standard deviation, if it does not
_ROUGH_SIDE = 13  # grid positions along each axis where a rough position does
_LEAST_SPREAD_M = 1.0  # along either axis: all weight may lie on one position of the grid
_NUM_GRIDS = 4  # nested: each spans the spread that the one before found
_BATCH_VALUES = 2**20  # values (scene, position, receiver) that are in memory at once


def rss_ml(observed: Observations) -> tuple[Fix, Evidence | None]:
    """Mean position under the likelihood of the levels: their law with log-normal shadowing, any transmitter power.

    A maximum of the likelihood alone is of no use: with 8 dB of shadowing it lies at infinity or on top of a receiver.
    It is therefore weighted by what is known without levels, that the transmitter stands where one more receiver might,
    and the fix is the mean of the product (of least mean squared error), with its covariance. Where levels are precise
    the weight has no effect; where they are not the fix is near the centroid.

    Fewer than three receivers that hear the signal, or an unknown ``link_sigma_db``, are no fix.

    Source: Patwari et al., IEEE Trans. Signal Process. 51 (2003), eq. (4) and (5), with receivers that hear nothing as
    censored measurements: Tobin, Econometrica 26 (1958).
    """
    measured = observed.heard & np.isfinite(observed.rssi_dbm)
    usable = measured.sum(axis=1) >= 3
    if np.isnan(observed.link_sigma_db):
        return receivers_centroid(observed)._replace(status=np.full(len(usable), "unobserved")), None
    informative = measured | np.isfinite(observed.silent_dbm)
    compact = observed._replace(heard=measured).order_receivers(np.where(informative, 0, 1), informative)
    per_batch = _BATCH_VALUES // (_GRID_SIDE**2 * compact.heard.shape[1])
    parts = [_located(batch) for _, batch in compact.batches(per_batch)]
    latitude, longitude, covariance, far, rests_on_prior = (np.concatenate(part) for part in zip(*parts, strict=True))
    reasons = {"silent": ~measured.any(axis=1), "unobserved": ~usable, "far": far}
    status = np.select(list(reasons.values()), list(reasons), "ok")
    fix = centroid_where(~usable, fix_without_rivals(observed, latitude, longitude, covariance, status), observed)
    return fix, integrity.levels(observed, fix, measured, rests_on_prior)


def rough_position(observed: Observations) -> tuple[Array, Array, Array]:
    """Latitude and longitude (S,), degrees, and standard deviation (S,) m, by a coarse grid: a start for others.

    Where levels tell nothing they are those of the receivers' centroid.
    """
    prior = receivers_centroid(observed)
    measured = observed.heard & np.isfinite(observed.rssi_dbm)
    if np.isnan(observed.link_sigma_db) or not measured.any():
        return prior.latitude_deg, prior.longitude_deg, _rms_axis(prior.covariance)
    compact = observed._replace(heard=measured, silent_dbm=np.full_like(observed.silent_dbm, np.nan))
    centre = tangent_plane(observed, prior.latitude_deg, prior.longitude_deg)
    variance = np.trace(prior.covariance, axis1=1, axis2=2) / 2
    mean, covariance = _posterior_moments(compact, centre, variance, side=_ROUGH_SIDE, grids=1)
    latitude, longitude = from_tangent_plane(observed, mean[:, None])
    return latitude[:, 0], longitude[:, 0], _rms_axis(covariance)


def _rms_axis(covariance: Array) -> Array:
    return np.sqrt(np.trace(covariance, axis1=1, axis2=2) / 2)


def _located(observed: Observations) -> tuple[Array, Array, Array, Array, Array]:
    """Latitude (S,) and longitude (S,) of fixes, degrees, and their covariances (S, 2, 2) m².

    And whether they lie at the edge of what is searched, (S,) bool; and whether they would lie elsewhere, or be less
    certain, if the transmitter might stand farther from the receivers, (S,) bool.
    """
    prior = receivers_centroid(observed)
    centre = tangent_plane(observed, prior.latitude_deg, prior.longitude_deg)
    count = observed.heard.sum(axis=1)
    # Of one more draw from a round normal distribution of which n are known: scatter with n − 1 degrees of freedom, and
    # the error of the mean. Round, because few receivers on a line do not confine the transmitter to it.
    variance = np.trace(prior.covariance, axis1=1, axis2=2) / 2 * (count + 1) / np.maximum(count - 1, 1)
    mean, covariance = _posterior_moments(observed, centre, variance)
    other_mean, other = _posterior_moments(observed, centre, variance * _LOOSER_PRIOR**2)
    far = np.linalg.norm(mean - centre, axis=1) > _FARTHEST_SIGMAS * np.sqrt(variance)
    widest, other_widest = (np.linalg.eigvalsh(each)[:, 1] ** 0.5 for each in (covariance, other))
    moved = np.linalg.norm(other_mean - mean, axis=1) > widest
    latitude, longitude = from_tangent_plane(observed, mean[:, None])
    return latitude[:, 0], longitude[:, 0], covariance, far, moved | (other_widest > _MOST_WIDENING * widest)


def _posterior_moments(
    observed: Observations, centre: Array, variance: Array, *, side: int = _GRID_SIDE, grids: int = _NUM_GRIDS
) -> tuple[Array, Array]:
    """Mean (S, 2) m and covariance (S, 2, 2) m² of the posterior distribution, for a prior about a centre (S, 2)."""
    steps = np.linspace(-_GRID_SIGMAS, _GRID_SIGMAS, side)
    normal = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)  # (G, 2), in standard deviations
    mean, spread = centre, variance[:, None, None] * np.eye(2)
    for _ in range(grids):
        axes = np.linalg.cholesky(spread)
        plane = mean[:, None] + np.einsum("sij,gj->sgi", axes, normal)
        from_prior = plane - centre[:, None]
        cell_variance = (steps[1] - steps[0]) ** 2 / 12 * spread  # of positions within one square of the grid
        cell_sigma_m = np.sqrt(np.trace(cell_variance, axis1=1, axis2=2) / 2)
        log_density = _log_likelihood(observed, grid_distances(observed, plane), cell_sigma_m)
        log_density -= (from_prior**2).sum(axis=-1) / (2 * variance[:, None])
        weight = np.exp(log_density - log_density.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        mean = np.einsum("sg,sgi->si", weight, plane)
        deviation = plane - mean[:, None]
        covariance = np.einsum("sg,sgi,sgj->sij", weight, deviation, deviation, optimize=True)
        spread = covariance + cell_variance
    return mean, covariance + _LEAST_SPREAD_M**2 * np.eye(2)


def _log_likelihood(observed: Observations, distance_m: Array, cell_sigma_m: Array) -> Array:
    """Log likelihood of all levels at distances (S, G, R): (S, G), the altitude being any that is known beforehand."""
    parts = [
        np.log(share)
        + _log_likelihood_of(observed, distance_m, level_law.loss_db(observed, distance_m, altitude_m), cell_sigma_m)
        for share, altitude_m in level_law.altitudes(observed)
    ]
    return logsumexp(parts, axis=0)


def _log_likelihood_of(observed: Observations, distance_m: Array, loss_db: Array, cell_sigma_m: Array) -> Array:
    """Log likelihood of all levels at distances and losses (S, G, R): (S, G); any power is as likely as any other.

    Positions stand for squares of standard deviation ``cell_sigma_m`` (S,), which is one more error of the distances:
    without it, a coarse grid would miss a narrow peak.
    """
    slope_db = 20 / np.log(10) * cell_sigma_m[:, None, None] / np.maximum(distance_m, cell_sigma_m[:, None, None])
    variance = observed.link_sigma_db**2 + slope_db**2
    heard = observed.heard[:, None]
    weight = np.where(heard, 1 / variance, 0.0)
    total = weight.sum(axis=-1, keepdims=True)
    total = np.where(total > 0, total, 1.0)
    power_dbm = np.where(heard, observed.rssi_dbm[:, None] + loss_db, 0.0)
    mean_dbm = (weight * power_dbm).sum(axis=-1, keepdims=True) / total
    squares = weight * (power_dbm - mean_dbm) ** 2
    # The levels' densities and the integral over the power: of any weight, since it depends on the position.
    scale = np.where(heard, np.log(weight + ~heard), 0.0).sum(axis=-1) / 2 - np.log(total[..., 0]) / 2
    if not np.isfinite(observed.silent_dbm).any():
        return scale - squares.sum(axis=-1) / 2
    # The power has a normal distribution of variance 1 / Σ σ⁻² about its mean. Integrated over it, the chance that one
    # receiver's level is below its threshold is again normal; of several, this leaves out that the power is common.
    silent = np.isfinite(observed.silent_dbm)[:, None]
    margin_db = np.where(silent, observed.silent_dbm[:, None] + loss_db - mean_dbm, 0.0)
    log_below = np.where(silent, log_ndtr(margin_db / np.sqrt(variance + 1 / total)), 0.0)
    return (log_below - squares / 2).sum(axis=-1) + scale
