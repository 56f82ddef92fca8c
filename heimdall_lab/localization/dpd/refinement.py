"""Refinement of starts to the nearest maximum of the likelihood, together with one delay error a receiver."""

from typing import NamedTuple

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array, where_rows
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import observations
from heimdall_lab.localization.dpd.eigenvalues import largest_eigenvalues
from heimdall_lab.localization.observations import Observations

_NUM_MODELS = 10  # quadratic models of the likelihood, one after the other
_MAX_STEPS = 30  # towards the maximum of each
_REST_M = 1e-4  # step of a model from which the next would not move the position
_SETTLED_SIGMAS = 0.01  # step of the last model from which a maximum is reached
_DELAY_STEP = 0.1  # samples by which delays are changed to measure the slope and curvature of the likelihood


class Summits(NamedTuple):
    """Maxima of the likelihood of S scenes, reached from K starts each."""

    latitude_deg: Array  # (S, K)
    longitude_deg: Array  # (S, K)
    covariance: Array  # (S, K, 2, 2) m², from the curvature at the maximum
    value: Array  # (S, K), log likelihood with the log density of the delay errors; −∞ where no maximum was reached
    delay: Array  # (S, K, R) samples from the position to each receiver
    delay_error: Array  # (S, K, R) samples, the most likely ones
    gain: Array  # (S, K, 2, R) m east and north per sample by which a receiver's delay is later

    def select(self, start: Array) -> "Summits":
        """Take the summit that one start (S,) of each scene reached."""
        return Summits(*(values[np.arange(len(start)), start] for values in self))


class _State(NamedTuple):
    """Where the refinement of N starts stands."""

    latitude_deg: Array  # (N,)
    longitude_deg: Array  # (N,)
    delay: Array  # (N, R) samples
    delay_error: Array  # (N, R) samples
    covariance: Array  # (N, 2, 2) m²
    gain: Array  # (N, 2, R) m per sample
    moved_m: Array  # (N,), by the latest model

    @property
    def settled(self) -> Array:
        """Whether the latest step was small against the uncertainty, (N,) bool."""
        return self.moved_m < _SETTLED_SIGMAS * np.sqrt(np.trace(self.covariance, axis1=1, axis2=2))

    def select(self, rows: Array) -> "_State":
        """Take some starts."""
        return _State(*(values[rows] for values in self))


def refine(observed: Observations, table: Array, start: Array, sigma: Array, rate_hz: float) -> Summits:
    """Positions that are most likely with the most likely delay errors, by quadratic models in the delays.

    From starts (S, K, 2) m on the tangent plane, with standard deviations (1, R) of the delay errors in samples.
    """
    scenes, count, _ = start.shape
    latitude, longitude = (degrees.ravel() for degrees in observations.from_tangent_plane(observed, start))
    observed = observed.repeat(count)
    scene = np.repeat(np.arange(scenes), count)
    delay, gradient = _delays_and_gradient(observed, latitude, longitude, rate_hz)
    state = _State(
        latitude,
        longitude,
        delay,
        np.zeros_like(delay),
        np.broadcast_to(np.eye(2), (len(delay), 2, 2)).copy(),
        np.zeros_like(gradient.swapaxes(1, 2)),
        np.full(len(delay), np.inf),
    )
    moving = np.arange(len(delay))
    for _ in range(_NUM_MODELS):
        known = observed.select(moving)
        moved = _climb(known, table, scene[moving], sigma, state.select(moving), rate_hz)
        for values, new in zip(state, moved, strict=True):
            values[moving] = new
        at_rest = state.moved_m < _REST_M
        moving = np.flatnonzero(~at_rest)
        if len(moving) == 0:
            break
    likelihood = largest_eigenvalues(table, (state.delay + state.delay_error).reshape(scenes, count, -1)).ravel()
    value = np.where(state.settled, likelihood - (state.delay_error**2 / sigma**2).sum(axis=1) / 2, -np.inf)
    summits = Summits(
        state.latitude_deg,
        state.longitude_deg,
        state.covariance,
        value,
        state.delay,
        state.delay_error,
        state.gain,
    )
    return Summits(*(values.reshape(scenes, count, *values.shape[1:]) for values in summits))


def _climb(observed: Observations, table: Array, scene: Array, sigma: Array, state: _State, rate_hz: float) -> _State:
    """Maximize one quadratic model of the likelihood in the delays, made where each start (N,) of a scene stands."""
    sigma_product = sigma[..., None] * sigma[:, None]  # (1, R, R)
    slope, curvature = _quadratic_model(table, scene, state.delay + state.delay_error)
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
    pull = slope + np.einsum("srq,sq->sr", curvature, state.delay_error)
    latitude, longitude, moved_m = _maximize(
        observed,
        weight,
        np.einsum("srq,sq->sr", inverse, pull) / sigma**2,
        state.latitude_deg,
        state.longitude_deg,
        rate_hz,
    )
    delay, gradient = _delays_and_gradient(observed, latitude, longitude, rate_hz)
    residual = pull - np.einsum("srq,sq->sr", curvature, delay - state.delay)
    error = np.einsum("srq,sq->sr", inverse, residual)
    uphill = gradient.swapaxes(1, 2) @ weight  # (N, 2, R)
    information = uphill @ gradient
    covariance = _solve_regularized(information, np.broadcast_to(np.eye(2), information.shape))
    return _State(latitude, longitude, delay, error, covariance, covariance @ uphill, moved_m)


def _maximize(
    observed: Observations, weight: Array, pull: Array, latitude: Array, longitude: Array, rate_hz: float
) -> tuple[Array, Array, Array]:
    """Maximize −½ xᵀWx + bᵀx of delays x from those of the start, by Levenberg-Marquardt steps.

    Returned are latitude and longitude (S,) in degrees, and the way (S,) from the start, m.
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
        latitude, longitude, offset, gradient, value = where_rows(
            better, (*trial, shift, slope, height), (latitude, longitude, offset, gradient, value)
        )
        if (step_m < 1e-4).all():
            break
    return latitude, longitude, np.fmax(np.hypot(moved[:, 0], moved[:, 1]), step_m)


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


def _quadratic_model(table: Array, scene: Array, delay: Array) -> tuple[Array, Array]:
    """Slope (N, R) and −curvature (N, R, R) of the largest eigenvalue at delays (N, R), by differences.

    ``scene`` (N,), ascending, says which of the tables (S, …) each is of.
    """
    size = delay.shape[1]
    first, second = np.triu_indices(size, 1)
    unit, index = np.eye(size), np.arange(size)
    moves = np.concatenate([np.zeros((1, size)), unit, -unit, unit[first] + unit[second], -unit[first] - unit[second]])
    values = largest_eigenvalues(table, delay[:, None] + _DELAY_STEP * moves, scene)
    middle, up, down, both_up, both_down = np.split(values, np.cumsum([1, size, size, len(first)]), axis=1)
    second_difference = up + down - 2 * middle  # (S, R)
    curvature = np.einsum("sr,rq->srq", second_difference, unit)
    mixed = both_up + both_down - 2 * middle - second_difference[:, first] - second_difference[:, second]
    curvature[:, first, second] = curvature[:, second, first] = mixed / 2
    # A delay that is common to all changes nothing. Where signals are strong, rounding would have it change too much.
    present = table[:, index, index, (table.shape[-1] - 1) // 2].real[scene] > 0
    share = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
    relative = unit * present[:, None] - share[:, None] * present[..., None]  # (N, R, R), takes the mean off
    slope = np.einsum("srq,sq->sr", relative, up - down) / (2 * _DELAY_STEP)
    return slope, relative @ (-curvature / _DELAY_STEP**2) @ relative
