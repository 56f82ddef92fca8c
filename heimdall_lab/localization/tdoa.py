"""Positions from time differences of arrival, vectorised over samples."""

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.localization.baselines import centroid, centroid_where_failed
from heimdall_lab.localization.late_links import posterior_mean
from heimdall_lab.localization.observations import (
    MAX_RANGE_M,
    Fix,
    Observations,
    distances,
    normal_matrix,
)

_CAUCHY_SCALE = 2.385  # standard deviations; 95 % efficient on normal errors (Holland and Welsch, 1977)
_MAX_STEPS = 40
_GRID_SIDE = 5  # starts of the robust estimator along each side of the receivers' box
_RIVAL_CHI_SQUARED = 2 * np.log(19)  # by which a fix is 95 % certain against one other
_SEPARATE_SIGMAS = 5.0  # of both together, from which two fixes are distinct
_AGREEMENT_SIGMAS = 5.0  # within which a delay agrees with a fix
_ENOUGH_DELAYS = 4  # delays, if there are as many, that must agree with a robust fix: any three can be made to;
_MAJORITY = 2 / 3  # and this share of them, because among many some four agree by chance
_LEAST_EIGENVALUE = 1e-9  # smallest eigenvalue of a balanced information from which a direction is not observed
_MISFIT_CHI_SQUARED = 25.0  # a degree of freedom, from which delays contradict the model: five standard deviations


def tdoa_ls(observed: Observations) -> Fix:
    """Weighted least squares on the time differences: closed form, then Gauss-Newton; of two solutions, by levels."""
    compact = _with_delays(observed)
    return centroid_where_failed(_best_fit(compact, _closed_form(compact), robust=False), observed)


def tdoa_robust(observed: Observations) -> Fix:
    """Cauchy-weighted time differences from many starts, so that single outliers neither bias nor trap the fix.

    Where a share of the links is known to be late, `late_links.posterior_mean` refines it.
    """
    compact = _with_delays(observed)
    centre = centroid(compact)
    at_centroid = np.stack([centre.latitude_deg, centre.longitude_deg], axis=-1)[:, None]
    starts = np.concatenate([_closed_form(compact), at_centroid, _start_grid(compact)], axis=1)
    fix = _best_fit(compact, starts, robust=True)
    late = observed.nlos_ratio > 0 and observed.nlos_excess_m > 0 and observed.propagation == "line_of_sight"
    return centroid_where_failed(posterior_mean(compact, fix) if late else fix, observed)


def closed_form(observed: Observations) -> Array:
    """Where the time differences of all pairs meet on the tangent plane: two solutions, (S, 2, 2) degrees."""
    return _closed_form(_with_delays(observed))


def _with_delays(observed: Observations) -> Observations:
    """Drop receivers that hear nothing or have no known delay, as far as the scene with the most others allows.

    The reference comes first, whether it is heard or not.
    """
    timed = observed.heard & np.isfinite(observed.pseudorange_m) & np.isfinite(observed.sigma_m)
    first = np.arange(timed.shape[1]) == observed.reference[:, None]
    compact = observed._replace(heard=timed).order_receivers(np.where(first, 0, np.where(timed, 1, 2)), timed | first)
    return compact._replace(reference=np.zeros_like(observed.reference))


def _start_grid(observed: Observations) -> Array:
    """Starts on a grid over the receivers' box, widened by half on each side: (S, _GRID_SIDE², 2) degrees."""
    steps = np.stack(np.meshgrid(*[np.linspace(-0.5, 1.5, _GRID_SIDE)] * 2), axis=-1).reshape(-1, 2)
    counted = observed.heard | (np.arange(observed.heard.shape[1]) == observed.reference[:, None])
    positions = np.stack([observed.latitude_deg, observed.longitude_deg], axis=-1)
    positions = np.where(counted[..., None], positions, np.nan)
    low, high = np.nanmin(positions, axis=1)[:, None], np.nanmax(positions, axis=1)[:, None]
    return low + (high - low) * steps


def _closed_form(observed: Observations) -> Array:
    """Both spherical-intersection solutions on the tangent plane at the centroid: (S, 2, 2) latitude and longitude.

    Source: Schau and Robinson, "Passive source localization employing intersecting spherical surfaces from
    time-of-arrival differences", IEEE Trans. ASSP 35 (1987).
    """
    centre = centroid(observed)
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    plane = geodesy.enu(position, centre.latitude_deg, centre.longitude_deg)[..., :2]
    reference = observed.reference[:, None]
    origin = np.take_along_axis(plane, reference[..., None], axis=1)
    others = observed.heard & (np.arange(plane.shape[1]) != reference)
    weight = np.where(others, 1 / observed.sigma_m, 0.0)
    offset = np.where(others[..., None], plane - origin, 0.0)
    difference = np.where(others, observed.pseudorange_m, 0.0)
    design = weight[..., None] * offset
    # weight · (offset · p) = weight · ((|offset|² − difference²) / 2 − difference · range)
    constant = weight * ((offset**2).sum(axis=-1) - difference**2) / 2
    solve = np.linalg.pinv(design)  # (S, 2, R)
    intercept = np.einsum("skr,sr->sk", solve, constant)
    slope = -np.einsum("skr,sr->sk", solve, weight * difference)
    a = (slope**2).sum(axis=-1) - 1
    b = (slope * intercept).sum(axis=-1)
    c = (intercept**2).sum(axis=-1)
    root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
    a = np.where(np.abs(a) > 1e-9, a, 1e-9)
    ranges = np.stack([(-b - root) / a, (-b + root) / a], axis=-1)  # (S, 2)
    extent = np.abs(offset).max(axis=(1, 2))[:, None]
    ranges = np.clip(np.nan_to_num(ranges), 0.0, 10 * extent)
    solution = origin + intercept[:, None] + slope[:, None] * ranges[..., None]  # (S, 2, 2)
    latitude, longitude = geodesy.displace(
        centre.latitude_deg[:, None], centre.longitude_deg[:, None], solution[..., 0], solution[..., 1]
    )
    return np.stack([latitude.clip(-89, 89), longitude], axis=-1)


def _best_fit(observed: Observations, starts: Array, *, robust: bool) -> Fix:
    """Descend from every start (S, K, 2) and keep the fix of lowest cost; of equals the one nearest the receivers.

    Levels do not shape a fix, but help to choose between several: for ranges of kilometres they are precise enough.
    Not converged: no usable fix, one that contradicts its delays, or another one elsewhere that is nearly as likely.
    """
    scenes, count, _ = starts.shape
    at_starts = observed.repeat(count)
    latitude, longitude, covariance, cost, agreeing = _gauss_newton(at_starts, starts.reshape(-1, 2), robust=robust)
    by_start = (scenes, count)
    centre = centroid(observed)
    distance = _distance_m(
        latitude.reshape(by_start), longitude.reshape(by_start), centre.latitude_deg, centre.longitude_deg
    )
    spread = np.sqrt(np.trace(covariance, axis1=1, axis2=2)).reshape(by_start)
    heard = at_starts.heard.sum(axis=1)
    enough = np.maximum(np.minimum(heard, _ENOUGH_DELAYS), np.ceil(_MAJORITY * heard))
    fits = agreeing >= enough if robust else cost <= _MISFIT_CHI_SQUARED * np.maximum(heard - 3, 1)
    cost = np.where(fits, cost, np.inf)
    cost = cost + level_cost(at_starts, latitude, longitude)
    usable = np.isfinite(cost).reshape(by_start) & (np.maximum(distance, spread) < MAX_RANGE_M[observed.propagation])
    # Costs that differ by less than one unit of χ² fit equally well: with three receivers both intersections do.
    cost = np.where(usable, cost.reshape(by_start), np.inf)
    equal = usable & (cost <= cost.min(axis=1, keepdims=True) + 1.0)
    best = np.where(equal, distance, np.inf).argmin(axis=1)
    scene = np.arange(scenes)
    row = scene * count + best
    distance_to_best = _distance_m(
        latitude.reshape(by_start), longitude.reshape(by_start), latitude[row], longitude[row]
    )
    uncertainty = np.hypot(spread, spread[scene, best][:, None])
    rival = (
        usable
        & (cost < cost[scene, best][:, None] + _RIVAL_CHI_SQUARED)
        & (distance_to_best > _SEPARATE_SIGMAS * uncertainty)
    )
    return Fix(latitude[row], longitude[row], covariance[row], usable[scene, best] & ~rival.any(axis=1))


def _distance_m(latitude: Array, longitude: Array, other_latitude: Array, other_longitude: Array) -> Array:
    """Distances (S, K) of positions (S, K) from one in each scene, (S,)."""
    return geodesy.geodesic(latitude, longitude, other_latitude[:, None], other_longitude[:, None])[0]


def level_cost(observed: Observations, latitude: Array, longitude: Array) -> Array:
    """Cauchy cost of levels about free space with unknown power, (S,); 0 where levels cannot be compared."""
    ranges, _ = distances(observed, latitude, longitude)
    used = observed.heard & np.isfinite(observed.rssi_dbm) & np.isfinite(observed.link_sigma_db)
    power = np.where(used, observed.rssi_dbm + 20 * np.log10(np.maximum(ranges, 1.0)), np.nan)
    square = np.where(used, (power - _lower_median(power)[:, None]) / observed.link_sigma_db, 0.0) ** 2
    return _CAUCHY_SCALE**2 * np.log1p(square / _CAUCHY_SCALE**2).sum(axis=1)


def _gauss_newton(observed: Observations, start: Array, *, robust: bool) -> tuple[Array, Array, Array, Array, Array]:
    """Levenberg-Marquardt steps in east, north and the common range offset of all receivers.

    Returned are latitude and longitude (S,) in degrees, covariance (S, 2, 2) m², cost (S,) and the number of agreeing
    delays (S,). The cost is the sum of squared (or Cauchy) normalised residuals; infinite with fewer than three
    receivers, no convergence, or a direction that is not observed.
    """
    used = observed.heard
    sigma = np.where(used, observed.sigma_m, 1.0)
    measured = np.where(used, observed.pseudorange_m, 0.0)
    latitude, longitude = start[:, 0], start[:, 1]

    def residuals(latitude: Array, longitude: Array, offset: Array) -> tuple[Array, Array, Array, Array]:
        ranges, gradient = distances(observed, latitude, longitude)
        normalised = np.where(used, (measured - ranges - offset[:, None]) / sigma, 0.0)
        square = normalised**2
        loss = _CAUCHY_SCALE**2 * np.log1p(square / _CAUCHY_SCALE**2) if robust else square
        influence = 1 / (1 + square / _CAUCHY_SCALE**2) if robust else np.ones_like(square)
        return normalised, gradient, influence, loss.sum(axis=1)

    ranges, _ = distances(observed, latitude, longitude)
    difference = np.where(used, measured - ranges, np.nan)
    offset = np.nan_to_num(_lower_median(difference))
    normalised, gradient, influence, cost = residuals(latitude, longitude, offset)
    damping = np.full(len(start), 1e-3)
    step_m = np.full(len(start), np.inf)
    for _ in range(_MAX_STEPS):
        information, jacobian = normal_matrix(gradient, influence, used, sigma)
        scaled = information * (1 + damping[:, None, None] * np.eye(3))
        right = np.einsum("srk,sr->sk", jacobian, influence * normalised)
        step = _solve_damped(scaled, right)
        trial = *geodesy.displace(latitude, longitude, step[:, 0], step[:, 1]), offset + step[:, 2]
        trial = trial[0].clip(-89.9, 89.9), trial[1], trial[2]
        outcome = residuals(*trial)
        better = outcome[3] <= cost
        step_m = np.where(better, np.hypot(step[:, 0], step[:, 1]), step_m)
        damping = np.where(better, damping / 5, damping * 5).clip(1e-9, 1e9)
        latitude, longitude, offset, normalised, gradient, influence, cost = (
            np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(
                (*trial, *outcome), (latitude, longitude, offset, normalised, gradient, influence, cost), strict=True
            )
        )
        if (step_m < 1e-3).all():
            break
    information, _ = normal_matrix(gradient, influence, used, sigma)
    balanced, scale = _balance(information)
    observable = np.linalg.eigvalsh(balanced)[:, 0] > _LEAST_EIGENVALUE
    inverse = np.linalg.inv(np.where(observable[:, None, None], balanced, np.eye(3)))
    covariance = (inverse * scale[:, :, None] * scale[:, None, :])[:, :2, :2]
    settled = observable & (step_m < 0.01 * np.sqrt(np.trace(covariance, axis1=1, axis2=2)))
    agreeing = (used & (np.abs(normalised) < _AGREEMENT_SIGMAS)).sum(axis=1)
    return latitude, longitude, covariance, np.where(settled & (used.sum(axis=1) >= 3), cost, np.inf), agreeing


def _balance(matrix: Array) -> tuple[Array, Array]:
    """Scale (S, 3, 3) to ones on the diagonal, before ranks are decided; the scale is (S, 3)."""
    scale = 1 / np.sqrt(np.maximum(np.einsum("sii->si", matrix), 1e-300))
    return matrix * scale[:, :, None] * scale[:, None, :], scale


def _solve_damped(matrix: Array, right: Array) -> Array:
    """Solve damped (S, 3, 3) systems for (S, 3); zeros where nothing is measured."""
    balanced, scale = _balance(matrix)
    regular = balanced + 1e-12 * np.eye(3)
    return np.linalg.solve(regular, (right * scale)[..., None])[..., 0] * scale


def _lower_median(values: Array) -> Array:
    """Lower median along receivers without the NaN, NaN where all are."""
    ascending = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(axis=1)
    middle = np.maximum(count - 1, 0) // 2
    return np.take_along_axis(ascending, middle[:, None], axis=1)[:, 0]
