"""Fixes where a share of the paths is late: the mean of the position given the delays, and its covariance.

An excess delay is never negative, and most links have none. Least squares knows but the variance of all links; here the
whole law is used: a link is on time, or late by an exponential excess delay, and which of them are late is summed over.
The bound of `bounds.crlb` holds for normal errors of that variance, so that these fixes may be better than it.
"""

from functools import cache

import numpy as np
import scipy.special
import scipy.stats

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.localization.observations import Fix, Observations, normal_matrix

_BATCH = 64  # scenes at a time: some 30 MB
_POINTS = 1024
_HYPOTHESES = 32  # about which links are late, the most likely ones
_FREEDOM = 5.0  # of Student's distribution that is drawn from: wider than what it stands for
_FEWEST = 20.0  # effective points below which the mean is one of chance
_FIRST, _SECOND = np.triu_indices(3)
_TIMES = np.where(_FIRST == _SECOND, 1.0, 2.0)
_PRIOR_SIGMAS = 3.0  # of the fix that is refined: how far around it
_ODD_RATIO = 0.02  # of links on time, share with any error at all, by Cauchy's law


def posterior(observed: Observations, fix: Fix) -> Fix:
    """Refine fixes by the law of excess delays, in the surroundings of the fix.

    Importance sampling over east, north and the common range offset, from a sum of distributions, one for each likely
    set of late links. Where the fix did not converge, or where too few points count, it is left as it is.

    Parameters
    ----------
    fix : Fix
        Of delays that all have the variance ``sigma_m``².
    """
    return Fix.concatenate(_refined(batch, fix.select(rows)) for rows, batch in observed.batches(_BATCH))


def _refined(observed: Observations, fix: Fix) -> Fix:
    """Refine the fixes of one batch of scenes."""
    used = observed.heard & np.isfinite(observed.sigma_m)
    sigma = np.where(used, observed.sigma_m, 1.0)
    ratio, excess_m = observed.nlos_ratio, observed.nlos_excess_m
    on_time = np.sqrt(np.maximum(sigma**2 - ratio * (2 - ratio) * excess_m**2, 1.0))
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    receiver = np.where(used[..., None], geodesy.enu(position, fix.latitude_deg, fix.longitude_deg), 0.0)
    climb = observed.transmitter_altitude_m[:, None] - receiver[..., 2]
    ranges = np.sqrt((receiver[..., :2] ** 2).sum(axis=-1) + climb**2)
    gradient = -receiver[..., :2] / np.maximum(ranges, 1.0)[..., None]
    delay = np.where(used, observed.pseudorange_m - ranges, 0.0)
    delay = np.where(used, delay - (np.sum(delay, axis=1) / np.maximum(used.sum(axis=1), 1))[:, None], 0.0)
    information, _ = normal_matrix(gradient, np.ones_like(sigma), used, sigma)
    found = fix.converged[:, None, None]
    prior = _PRIOR_SIGMAS**2 * np.linalg.inv(np.where(found, information, np.eye(3)))

    drawn, log_drawn = _draw(*_gaussian_sum(delay, gradient, on_time, used, prior, ratio, excess_m))
    log_density = np.zeros(drawn.shape[:2])
    for link in range(used.shape[1]):
        distance = np.sqrt(
            (drawn[..., 0] - receiver[:, link, :1]) ** 2
            + (drawn[..., 1] - receiver[:, link, 1:2]) ** 2
            + climb[:, link, None] ** 2
        )
        late = (delay + ranges)[:, link, None] - distance - drawn[..., 2]
        density = _log_density(late, on_time[:, link, None], ratio, excess_m)
        log_density += np.where(used[:, link, None], density, 0.0)
    share = scipy.special.softmax(log_density - log_drawn, axis=1)  # (S, N)
    mean = np.einsum("sn,snk->sk", share, drawn[..., :2])
    apart = drawn[..., :2] - mean[:, None]
    covariance = np.einsum("sn,snk,snl->skl", share, apart, apart)
    sound = fix.converged & (1 / (share**2).sum(axis=1) >= _FEWEST)
    latitude, longitude = geodesy.displace(fix.latitude_deg, fix.longitude_deg, mean[:, 0], mean[:, 1])
    return Fix(
        np.where(sound, latitude, fix.latitude_deg),
        np.where(sound, longitude, fix.longitude_deg),
        np.where(sound[:, None, None], covariance, fix.covariance),
        fix.converged,
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
        toward, take = direction[row][:, None], used[row][:, None]
        reach = np.einsum("shkl,sml->shk", covariance, toward)
        children = []
        for log_share, excess in ((scipy.special.log1p(-ratio), 0.0), (np.log(ratio), excess_m)):
            variance = (reach * toward).sum(axis=-1) + on_time[row][:, None] ** 2 + excess**2
            surprise = delay[row][:, None] - excess - (mean * toward).sum(axis=-1)
            gain = np.where(take[..., None], reach / variance[..., None], 0.0)
            evidence = log_share - (np.log(variance) + surprise**2 / variance) / 2
            # A link that is not used is no hypothesis: it is on time.
            unused = 0.0 if excess == 0 else -np.inf
            children.append(
                (
                    mean + gain * surprise[..., None],
                    covariance - gain[..., :, None] * reach[..., None, :],
                    log_weight + np.where(take, evidence, unused),
                )
            )
        mean, covariance, log_weight = (np.concatenate(parts, axis=1) for parts in zip(*children, strict=True))
        best = np.argsort(-log_weight, axis=1, kind="stable")[:, :_HYPOTHESES]
        mean = np.take_along_axis(mean, best[..., None], axis=1)
        covariance = np.take_along_axis(covariance, best[..., None, None], axis=1)
        log_weight = np.take_along_axis(log_weight, best, axis=1)
    return scipy.special.softmax(log_weight, axis=1), mean, covariance


def _draw(weight: Array, mean: Array, covariance: Array) -> tuple[Array, Array]:
    """Points (S, N, 3) of a sum of Student's distributions, and the logarithm of their density but for a constant."""
    points, which = _student_points()
    root = np.linalg.cholesky(covariance)
    chosen = (which > weight.cumsum(axis=1)[..., None]).sum(axis=1).clip(0, weight.shape[1] - 1)  # (S, N)
    scene = np.arange(len(weight))[:, None]
    drawn = mean[scene, chosen] + np.einsum("snkl,nl->snk", root[scene, chosen], points)
    precision = np.linalg.inv(covariance)  # (S, H, 3, 3)
    # The squared distance is a quadratic form: all points and hypotheses in one product of their monomials.
    linear = -2 * np.einsum("shkl,shl->shk", precision, mean)
    constant = np.einsum("shk,shkl,shl->sh", mean, precision, mean)
    product = drawn[..., _FIRST] * drawn[..., _SECOND]  # (S, N, 6)
    monomials = np.concatenate([product, drawn, np.ones_like(drawn[..., :1])], axis=-1)  # (S, N, 10)
    form = np.concatenate([precision[..., _FIRST, _SECOND] * _TIMES, linear, constant[..., None]], axis=-1)
    squared = np.maximum(monomials @ form.swapaxes(1, 2), 0.0)  # (S, N, H)
    volume = np.prod(np.einsum("shkk->shk", root), axis=-1)
    density = 1 / np.square(np.square(1 + squared / _FREEDOM))  # to the power −(ν + 3) / 2
    return drawn, np.log((density @ (weight / volume)[..., None])[..., 0])


def _log_density(late_m: Array, sigma_m: Array, ratio: float, excess_m: float) -> Array:
    """Logarithm of the density of arrivals later than expected, 1/m: normal, or Cauchy's, or normal plus exponential.

    Source of the last: Grushka, "Characterization of exponentially modified Gaussian peaks", Anal. Chem. 44 (1972).
    """
    normalised = late_m / sigma_m
    normal = np.exp(-(normalised**2) / 2) / np.sqrt(2 * np.pi)
    odd = 1 / (np.pi * (1 + normalised**2))
    on_time = ((1 - _ODD_RATIO) * normal + _ODD_RATIO * odd) / sigma_m
    share = sigma_m / excess_m
    exponent = share**2 / 2 - late_m / excess_m + scipy.special.log_ndtr(normalised - share)
    # By logarithms: where all links are late, early arrivals are too unlikely for numbers.
    return np.logaddexp(scipy.special.log1p(-ratio) + np.log(on_time), np.log(ratio / excess_m) + exponent)


@cache
def _student_points() -> tuple[Array, Array]:
    """Quasi-random points (N, 3) of Student's distribution with unit scale, and what each one's choice is by, (N,).

    They are the same in every scene, so that a fix depends on nothing but its delays.
    """
    uniform = scipy.stats.qmc.Halton(5, scramble=False).random(_POINTS + 1)[1:]  # the first one is the corner
    stretch = np.sqrt(_FREEDOM / scipy.stats.chi2(_FREEDOM).ppf(uniform[:, 4]))
    return scipy.special.ndtri(uniform[:, 1:4]) * stretch[:, None], uniform[:, 0]
