"""Fixes where a share of the paths is late: the mean of the position given the delays, and its covariance.

An excess delay is never negative, and most links have none. Least squares uses only the variance of all links. Here the
whole law is used (`delay_law`): a link is on time, or late by an exponential excess delay, summed over which links are
late. Nothing is taken for known of the position beforehand, so that the bounds of the genie and of the mixture hold for
these fixes; the bound of normal errors of that variance does not.
"""

from functools import cache

import numpy as np
import scipy.special

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.localization import delay_law
from heimdall_lab.localization.observations import Fix, Observations, normal_matrix

_BATCH_SCENES = 64  # scenes at a time: some 30 MB
_NUM_POINTS = 1024
_NUM_HYPOTHESES = 32  # about which links are late, the most likely ones
_PROPOSAL_FREEDOM = 5.0  # of the Student distribution that points are drawn from: wider than the posterior
_LEAST_EFFECTIVE_POINTS = 20.0  # below which the mean is left to chance
_ROW, _COLUMN = np.triu_indices(3)
_MULTIPLICITY = np.where(_ROW == _COLUMN, 1.0, 2.0)
_PRIOR_SIGMAS = 3.0  # of the fix that is refined: width of the prior around it
_OUTLIER_RATIO = 0.02  # share of links on time whose error follows a Cauchy law
_LEAST_SIGMA_M = 1.0  # of a link on time


def posterior_mean(observed: Observations, fix: Fix) -> Fix:
    """Refine fixes of delays that all have the variance ``sigma_m``² by the law of excess delays, around the fix.

    Importance sampling over east, north and the common range offset, from a sum of distributions, one for each likely
    set of late links. Where the fix did not converge, or where too few points count, it is left as it is.
    """
    return Fix.concatenate(_refine_batch(batch, fix.select(rows)) for rows, batch in observed.batches(_BATCH_SCENES))


def _refine_batch(observed: Observations, fix: Fix) -> Fix:
    """Refine the fixes of one batch of scenes."""
    used = observed.heard & np.isfinite(observed.sigma_m)
    sigma = np.where(used, observed.sigma_m, 1.0)
    ratio, excess_m = observed.nlos_ratio, observed.nlos_excess_m
    on_time = delay_law.on_time_sigma(sigma, ratio, excess_m, least=_LEAST_SIGMA_M)
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    receiver = np.where(used[..., None], geodesy.enu(position, fix.latitude_deg, fix.longitude_deg), 0.0)
    height = observed.transmitter_altitude_m[:, None] - receiver[..., 2]
    ranges = np.sqrt((receiver[..., :2] ** 2).sum(axis=-1) + height**2)
    gradient = -receiver[..., :2] / np.maximum(ranges, 1.0)[..., None]
    delay = np.where(used, observed.pseudorange_m - ranges, 0.0)
    delay = np.where(used, delay - (np.sum(delay, axis=1) / np.maximum(used.sum(axis=1), 1))[:, None], 0.0)
    information, _ = normal_matrix(gradient, np.ones_like(sigma), used, sigma)
    converged = fix.converged[:, None, None]
    prior = _PRIOR_SIGMAS**2 * np.linalg.inv(np.where(converged, information, np.eye(3)))

    points, log_proposal = _draw_points(*_gaussian_sum(delay, gradient, on_time, used, prior, ratio, excess_m))
    log_density = np.zeros(points.shape[:2])
    for link in range(used.shape[1]):
        distance = np.sqrt(
            (points[..., 0] - receiver[:, link, :1]) ** 2
            + (points[..., 1] - receiver[:, link, 1:2]) ** 2
            + height[:, link, None] ** 2
        )
        late = (delay + ranges)[:, link, None] - distance - points[..., 2]
        density = _log_density(late, on_time[:, link, None], ratio, excess_m)
        log_density += np.where(used[:, link, None], density, 0.0)
    share = scipy.special.softmax(log_density - log_proposal, axis=1)  # (S, N)
    mean = np.einsum("sn,snk->sk", share, points[..., :2])
    deviation = points[..., :2] - mean[:, None]
    covariance = np.einsum("sn,snk,snl->skl", share, deviation, deviation)
    reliable = fix.converged & (1 / (share**2).sum(axis=1) >= _LEAST_EFFECTIVE_POINTS)
    latitude, longitude = geodesy.displace(fix.latitude_deg, fix.longitude_deg, mean[:, 0], mean[:, 1])
    return fix._replace(
        latitude_deg=np.where(reliable, latitude, fix.latitude_deg),
        longitude_deg=np.where(reliable, longitude, fix.longitude_deg),
        covariance=np.where(reliable[:, None, None], covariance, fix.covariance),
    )


def _gaussian_sum(
    delay: Array, gradient: Array, on_time: Array, used: Array, prior: Array, ratio: float, excess_m: float
) -> tuple[Array, Array, Array]:
    """Weights (S, H), means (S, H, 3) and covariances (S, H, 3, 3) of the likeliest hypotheses on which links are late.

    Links are taken in by Kalman's update one by one, each on time or late, and the least likely hypotheses are dropped.
    Their order is that of the delays, so that it does not depend on the order of the receivers.

    Source: Alspach and Sorenson, "Nonlinear Bayesian estimation using Gaussian sum approximations", IEEE Trans. Autom.
    Control 17 (1972).
    """
    scenes = len(delay)
    mean, covariance, log_weight = np.zeros((scenes, 1, 3)), prior[:, None], np.zeros((scenes, 1))
    direction = np.concatenate([gradient, np.ones_like(gradient[..., :1])], axis=-1)
    order = np.argsort(np.where(used, delay, np.inf), axis=1, kind="stable")
    for link in order.T:
        row = np.arange(scenes), link
        link_direction, is_used = direction[row][:, None], used[row][:, None]
        projected = np.einsum("shkl,sml->shk", covariance, link_direction)
        children = []
        for log_share, excess in ((scipy.special.log1p(-ratio), 0.0), (np.log(ratio), excess_m)):
            variance = (projected * link_direction).sum(axis=-1) + on_time[row][:, None] ** 2 + excess**2
            innovation = delay[row][:, None] - excess - (mean * link_direction).sum(axis=-1)
            gain = np.where(is_used[..., None], projected / variance[..., None], 0.0)
            evidence = log_share - (np.log(variance) + innovation**2 / variance) / 2
            # A link that is not used is no hypothesis: it is on time.
            unused = 0.0 if excess == 0 else -np.inf
            children.append(
                (
                    mean + gain * innovation[..., None],
                    covariance - gain[..., :, None] * projected[..., None, :],
                    log_weight + np.where(is_used, evidence, unused),
                )
            )
        mean, covariance, log_weight = (np.concatenate(parts, axis=1) for parts in zip(*children, strict=True))
        best = np.argsort(-log_weight, axis=1, kind="stable")[:, :_NUM_HYPOTHESES]
        mean = np.take_along_axis(mean, best[..., None], axis=1)
        covariance = np.take_along_axis(covariance, best[..., None, None], axis=1)
        log_weight = np.take_along_axis(log_weight, best, axis=1)
    return scipy.special.softmax(log_weight, axis=1), mean, covariance


def _draw_points(weight: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
    """Points (S, N, 3) of a sum of Student's distributions, and the logarithm of their density but for a constant."""
    standard, uniform = _student_points()
    root = np.linalg.cholesky(covariance)
    chosen = (uniform > weight.cumsum(axis=1)[..., None]).sum(axis=1).clip(0, weight.shape[1] - 1)  # (S, N)
    scene = np.arange(len(weight))[:, None]
    points = mean[scene, chosen] + np.einsum("snkl,nl->snk", root[scene, chosen], standard)
    precision = np.linalg.inv(covariance)  # (S, H, 3, 3)
    # The squared distance is a quadratic form: all points and hypotheses in one product of their monomials.
    linear = -2 * np.einsum("shkl,shl->shk", precision, mean)
    constant = np.einsum("shk,shkl,shl->sh", mean, precision, mean)
    product = points[..., _ROW] * points[..., _COLUMN]  # (S, N, 6)
    monomials = np.concatenate([product, points, np.ones_like(points[..., :1])], axis=-1)  # (S, N, 10)
    form = np.concatenate([precision[..., _ROW, _COLUMN] * _MULTIPLICITY, linear, constant[..., None]], axis=-1)
    squared = np.maximum(monomials @ form.swapaxes(1, 2), 0.0)  # (S, N, H)
    volume = np.prod(np.einsum("shkk->shk", root), axis=-1)
    density = 1 / np.square(np.square(1 + squared / _PROPOSAL_FREEDOM))  # to the power −(ν + 3) / 2
    return points, np.log((density @ (weight / volume)[..., None])[..., 0])


def _log_density(late_m: Array, sigma_m: Array, ratio: float, excess_m: float) -> Array:
    """Logarithm of the density of errors of delays, 1/m: normal, or Cauchy's, or normal plus exponential."""
    normalised = late_m / sigma_m
    normal = np.exp(-(normalised**2) / 2) / np.sqrt(2 * np.pi)
    outlier = 1 / (np.pi * (1 + normalised**2))
    on_time = ((1 - _OUTLIER_RATIO) * normal + _OUTLIER_RATIO * outlier) / sigma_m
    late = delay_law.late_log_density(late_m, sigma_m, excess_m)
    # By logarithms: where all links are late, early arrivals are too unlikely for numbers.
    return np.logaddexp(scipy.special.log1p(-ratio) + np.log(on_time), np.log(ratio) + late)


@cache
def _student_points() -> tuple[Array, Array]:
    """Quasi-random points (N, 3) of Student's distribution with unit scale, and uniform numbers (N,).

    The numbers choose the hypothesis of each point. All are the same in every scene, so that a fix depends on its
    delays alone.
    """
    # SciPy loads its folder stats here, not at every start of this package.
    uniform = scipy.stats.qmc.Halton(5, scramble=False).random(_NUM_POINTS + 1)[1:]  # the first one is the corner
    stretch = np.sqrt(_PROPOSAL_FREEDOM / scipy.stats.chi2(_PROPOSAL_FREEDOM).ppf(uniform[:, 4]))
    return scipy.special.ndtri(uniform[:, 1:4]) * stretch[:, None], uniform[:, 0]
