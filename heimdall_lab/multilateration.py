"""Positions from time differences of arrival, vectorised over samples."""

import numpy as np

from heimdall_lab import geodesy
from heimdall_lab.network import MAX_RANGE_M, Array, Fix, Network, centroid, distances, or_centroid

_CAUCHY_SCALE = 2.385  # standard deviations; 95 % efficient on normal errors (Holland and Welsch, 1977)
_STEPS = 40
_GRID = 5  # starts of the robust estimator along each side of the receivers' box


def tdoa_ls(network: Network) -> Fix:
    """Weighted least squares on the time differences: closed form, then Gauss-Newton."""
    return or_centroid(_best_fit(network, _closed_form(network), robust=False), network)


def tdoa_robust(network: Network) -> Fix:
    """Cauchy-weighted time differences from many starts, so that single false ones neither pull nor trap the fix."""
    centre = centroid(network)
    known = np.stack([centre.latitude_deg, centre.longitude_deg], axis=-1)[:, None]
    starts = np.concatenate([_closed_form(network), known, _grid(network)], axis=1)
    return or_centroid(_best_fit(network, starts, robust=True), network)


def _grid(network: Network) -> Array:
    """Starts on a grid over the receivers' box, widened by half on each side: (S, _GRID², 2) degrees."""
    steps = np.stack(np.meshgrid(*[np.linspace(-0.5, 1.5, _GRID)] * 2), axis=-1).reshape(-1, 2)
    positions = np.stack([network.latitude_deg, network.longitude_deg], axis=-1)
    low, high = np.nanmin(positions, axis=1)[:, None], np.nanmax(positions, axis=1)[:, None]
    return low + (high - low) * steps


def _closed_form(network: Network) -> Array:
    """Both spherical-intersection solutions on the tangent plane at the centroid: (S, 2, 2) latitude and longitude.

    Source: Schau and Robinson, "Passive source localization employing intersecting spherical surfaces from
    time-of-arrival differences", IEEE Trans. ASSP 35 (1987).
    """
    centre = centroid(network)
    position = geodesy.ecef(network.latitude_deg, network.longitude_deg, network.altitude_m)
    plane = geodesy.enu(position, centre.latitude_deg, centre.longitude_deg)[..., :2]
    reference = network.reference[:, None]
    origin = np.take_along_axis(plane, reference[..., None], axis=1)
    others = network.heard & (np.arange(plane.shape[1]) != reference)
    weight = np.where(others, 1 / network.sigma_m, 0.0)
    offset = np.where(others[..., None], plane - origin, 0.0)
    difference = np.where(others, network.pseudorange_m, 0.0)
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


def _best_fit(network: Network, starts: Array, *, robust: bool) -> Fix:
    """Descend from every start (S, K, 2) and keep the fix of lowest cost; of equals the one nearest the receivers."""
    scenes, count, _ = starts.shape
    repeated = Network._make(np.repeat(a, count, axis=0) if isinstance(a, np.ndarray) else a for a in network)
    latitude, longitude, covariance, cost = _gauss_newton(repeated, starts.reshape(-1, 2), robust=robust)
    centre = centroid(network)
    distance, _ = geodesy.geodesic(
        latitude.reshape(scenes, count),
        longitude.reshape(scenes, count),
        centre.latitude_deg[:, None],
        centre.longitude_deg[:, None],
    )
    spread = np.sqrt(np.trace(covariance, axis1=1, axis2=2)).reshape(scenes, count)
    usable = np.isfinite(cost).reshape(scenes, count) & (
        np.maximum(distance, spread) < MAX_RANGE_M[network.propagation]
    )
    # Costs that differ by less than one unit of χ² fit equally well: with three receivers both intersections do.
    cost = np.where(usable, cost.reshape(scenes, count), np.inf)
    equal = usable & (cost <= cost.min(axis=1, keepdims=True) + 1.0)
    best = np.where(equal, distance, np.inf).argmin(axis=1)
    row = np.arange(scenes) * count + best
    return Fix(latitude[row], longitude[row], covariance[row], usable[np.arange(scenes), best])


def _gauss_newton(network: Network, start: Array, *, robust: bool) -> tuple[Array, Array, Array, Array]:
    """Levenberg-Marquardt steps in east, north and the common range offset of all receivers.

    Returns
    -------
    latitude, longitude : (S,) degrees
    covariance : (S, 2, 2) m²
    cost : (S,)
        Sum of squared (or Cauchy) normalised residuals; infinite with fewer than three receivers or no convergence.
    """
    used = network.heard & np.isfinite(network.sigma_m)
    sigma = np.where(used, network.sigma_m, 1.0)
    measured = np.where(used, network.pseudorange_m, 0.0)
    latitude, longitude = start[:, 0], start[:, 1]

    def residuals(latitude: Array, longitude: Array, offset: Array) -> tuple[Array, Array, Array, Array]:
        ranges, gradient = distances(network, latitude, longitude)
        normalised = np.where(used, (measured - ranges - offset[:, None]) / sigma, 0.0)
        square = normalised**2
        loss = _CAUCHY_SCALE**2 * np.log1p(square / _CAUCHY_SCALE**2) if robust else square
        influence = 1 / (1 + square / _CAUCHY_SCALE**2) if robust else np.ones_like(square)
        return normalised, gradient, influence, loss.sum(axis=1)

    ranges, _ = distances(network, latitude, longitude)
    difference = np.where(used, measured - ranges, np.nan)
    offset = np.nan_to_num(_median(difference))
    normalised, gradient, influence, cost = residuals(latitude, longitude, offset)
    damping = np.full(len(start), 1e-3)
    step_m = np.full(len(start), np.inf)
    for _ in range(_STEPS):
        information, jacobian = _normal_matrix(gradient, influence, used, sigma)
        scaled = information * (1 + damping[:, None, None] * np.eye(3))
        right = np.einsum("srk,sr->sk", jacobian, influence * normalised)
        step = _solve(scaled, right)
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
    information, _ = _normal_matrix(gradient, influence, used, sigma)
    covariance = _solve(information, np.broadcast_to(np.eye(3), information.shape))[:, :2, :2]
    settled = (step_m < 0.01 * np.sqrt(np.trace(covariance, axis1=1, axis2=2))) & (used.sum(axis=1) >= 3)
    return latitude, longitude, covariance, np.where(settled, cost, np.inf)


def _normal_matrix(gradient: Array, influence: Array, used: Array, sigma: Array) -> tuple[Array, Array]:
    """Information of (east, north, offset), (S, 3, 3), and the normalised Jacobian (S, R, 3)."""
    columns = np.concatenate([gradient, np.ones_like(gradient[..., :1])], axis=-1)
    jacobian = np.where(used[..., None], columns, 0.0) / sigma[..., None]
    return np.einsum("srk,sr,srl->skl", jacobian, influence, jacobian), jacobian


def _solve(matrix: Array, right: Array) -> Array:
    """Solve (S, 3, 3) systems, NaN-free: a singular one is solved in the least-squares sense."""
    vector = right.ndim == matrix.ndim - 1
    scale = 1 / np.sqrt(np.maximum(np.einsum("sii->si", matrix), 1e-300))  # equilibrate before the rank decision
    balanced = matrix * scale[:, :, None] * scale[:, None, :]
    inverse = np.linalg.pinv(balanced, rcond=1e-12, hermitian=True) * scale[:, :, None] * scale[:, None, :]
    return np.einsum("sij,sj->si", inverse, right) if vector else inverse @ right


def _median(values: Array) -> Array:
    """Median along receivers without the NaN, NaN where all are."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(axis=1)
    middle = np.maximum(count - 1, 0) // 2
    return np.take_along_axis(ordered, middle[:, None], axis=1)[:, 0]
