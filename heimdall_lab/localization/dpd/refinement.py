"""Refinement of starts to the nearest maximum of the likelihood, together with one delay error a receiver."""

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import observations
from heimdall_lab.localization.dpd.eigenvalues import largest_eigenvalues
from heimdall_lab.localization.observations import Observations

_NUM_MODELS = 10  # quadratic models of the likelihood, one after the other
_MAX_STEPS = 30  # towards the maximum of each
_DELAY_STEP = 0.1  # samples by which delays are changed to measure the slope and curvature of the likelihood


def refine(
    observed: Observations, table: Array, start: Array, sigma: Array, rate_hz: float
) -> tuple[Array, Array, Array, Array]:
    """Positions that are most likely with the most likely delay errors, by quadratic models in the delays.

    From starts (S, K, 2) m on the tangent plane, with standard deviations (1, R) of the delay errors in samples:
    latitude and longitude (S, K) degrees, covariance (S, K, 2, 2) m² from the curvature at the maximum, and value (S,
    K), the log likelihood with the log density of the delay errors; −∞ where no maximum was reached.
    """
    scenes, count, _ = start.shape
    sigma_product = sigma[..., None] * sigma[:, None]  # (1, R, R)
    latitude, longitude = (degrees.ravel() for degrees in observations.from_tangent_plane(observed, start))
    observed = observed.repeat(count)
    delay, _ = _delays_and_gradient(observed, latitude, longitude, rate_hz)
    error = np.zeros_like(delay)
    for _ in range(_NUM_MODELS):
        _, slope, curvature = _quadratic_model(table, delay + error)
        # With −½ xᵀHx + gᵀx the log likelihood of delays x from here, and −½ eᵀPe the log density of their errors e,
        # the best errors at a position are (H + P)⁻¹(g + H(e₀ − x)). They leave −½ xᵀWx + bᵀx with
        # W = P − P(H + P)⁻¹P and b = P(H + P)⁻¹(g + He₀).
        # In units of the errors' standard deviation, P is 1; where H is no maximum's, that part of it is left out.
        eigenvalue, vector = np.linalg.eigh(curvature * sigma_product)
        eigenvalue = np.maximum(eigenvalue, 0.0)[:, None]
        transposed = vector.swapaxes(1, 2)
        curvature = (vector * eigenvalue) @ transposed / sigma_product
        inverse = (vector / (1 + eigenvalue)) @ transposed * sigma_product  # (H + P)⁻¹
        weight = (vector * eigenvalue / (1 + eigenvalue)) @ transposed / sigma_product
        pull = slope + np.einsum("srq,sq->sr", curvature, error)
        origin = delay
        latitude, longitude, information, moved_m = _maximize(
            observed, weight, np.einsum("srq,sq->sr", inverse, pull) / sigma**2, latitude, longitude, rate_hz
        )
        delay, _ = _delays_and_gradient(observed, latitude, longitude, rate_hz)
        residual = pull - np.einsum("srq,sq->sr", curvature, delay - origin)
        error = np.einsum("srq,sq->sr", inverse, residual)
    likelihood, _, _ = _quadratic_model(table, delay + error)
    covariance = _solve_regularized(information, np.broadcast_to(np.eye(2), information.shape))
    settled = moved_m < 0.01 * np.sqrt(np.trace(covariance, axis1=1, axis2=2))
    value = np.where(settled, likelihood - (error**2 / sigma**2).sum(axis=1) / 2, -np.inf)
    latitude, longitude, value = (part.reshape(scenes, count) for part in (latitude, longitude, value))
    return latitude, longitude, covariance.reshape(scenes, count, 2, 2), value


def _maximize(
    observed: Observations, weight: Array, pull: Array, latitude: Array, longitude: Array, rate_hz: float
) -> tuple[Array, Array, Array, Array]:
    """Maximize −½ xᵀWx + bᵀx of delays x from those of the start, by Levenberg-Marquardt steps.

    Returned are latitude and longitude (S,) in degrees, information (S, 2, 2) per m², and the way (S,) from the start,
    m.
    """
    origin, gradient = _delays_and_gradient(observed, latitude, longitude, rate_hz)
    moved = np.zeros((len(latitude), 2))
    offset, value = np.zeros_like(origin), np.zeros(len(origin))
    damping, step_m = np.full(len(origin), 1e-3), np.full(len(origin), np.inf)
    for _ in range(_MAX_STEPS):
        uphill = np.einsum("srk,sr->sk", gradient, pull - np.einsum("srq,sq->sr", weight, offset))
        information = gradient.swapaxes(1, 2) @ weight @ gradient
        step = _solve_regularized(information * (1 + damping[:, None, None] * np.eye(2)), uphill[..., None])[..., 0]
        trial = geodesy.displace(latitude, longitude, step[:, 0], step[:, 1])
        trial = trial[0].clip(-89.9, 89.9), trial[1]
        delay, slope = _delays_and_gradient(observed, *trial, rate_hz)
        shift = delay - origin
        height = (pull * shift).sum(axis=1) - np.einsum("sr,srq,sq->s", shift, weight, shift) / 2
        better = height >= value
        step_m = np.where(better, np.hypot(step[:, 0], step[:, 1]), step_m)
        damping = np.where(better, damping / 5, damping * 5).clip(1e-9, 1e9)
        moved += np.where(better[:, None], step, 0.0)
        latitude, longitude, offset, gradient, value = (
            np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(
                (*trial, shift, slope, height), (latitude, longitude, offset, gradient, value), strict=True
            )
        )
        if (step_m < 1e-4).all():
            break
    information = gradient.swapaxes(1, 2) @ weight @ gradient
    return latitude, longitude, information, np.fmax(np.hypot(moved[:, 0], moved[:, 1]), step_m)


def _delays_and_gradient(
    observed: Observations, latitude: Array, longitude: Array, rate_hz: float
) -> tuple[Array, Array]:
    """Delays (S, R), and their gradient (S, R, 2) along east and north in 1/m, in samples; 0 where no receiver is."""
    distance, gradient = observations.distances(observed, latitude, longitude)
    scale = rate_hz / SPEED_OF_LIGHT
    return np.nan_to_num(distance) * scale, np.nan_to_num(gradient[..., :2]) * scale


def _solve_regularized(matrix: Array, right: Array) -> Array:
    """Solve (S, 2, 2) systems; directions without information, as of noise alone, get next to none."""
    least = 1e-16 + 1e-12 * np.trace(matrix, axis1=1, axis2=2)
    return np.linalg.solve(matrix + least[:, None, None] * np.eye(2), right)


def _quadratic_model(table: Array, delay: Array) -> tuple[Array, Array, Array]:
    """Largest eigenvalue (S·K,) at delays (S·K, R), by differences its slope (S·K, R) and −curvature (S·K, R, R)."""
    size = delay.shape[1]
    first, second = np.triu_indices(size, 1)
    unit = np.eye(size)
    moves = np.concatenate([np.zeros((1, size)), unit, -unit, unit[first] + unit[second], -unit[first] - unit[second]])
    moved = (delay[:, None] + _DELAY_STEP * moves).reshape(len(table), -1, size)
    values = largest_eigenvalues(table, moved).reshape(len(delay), -1)
    middle, up, down, both_up, both_down = np.split(values, np.cumsum([1, size, size, len(first)]), axis=1)
    second_difference = up + down - 2 * middle  # (S, R)
    curvature = np.einsum("sr,rq->srq", second_difference, unit)
    mixed = both_up + both_down - 2 * middle - second_difference[:, first] - second_difference[:, second]
    curvature[:, first, second] = curvature[:, second, first] = mixed / 2
    return middle[:, 0], (up - down) / (2 * _DELAY_STEP), -curvature / _DELAY_STEP**2
