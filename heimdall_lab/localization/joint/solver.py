"""Places, emission times and clocks of recordings that fit their pseudo-ranges best: descents from given places.

Levenberg and Marquardt's damping is on places alone: where they stand, clocks and emission times are linear, and are
solved exactly. Robust descents weigh residuals by Cauchy's law. They are graduated: each begins with much larger
standard deviations of all pseudo-ranges, which become what they are in steps, so that few of the false ones trap it.

Source: Nocedal and Wright, Numerical Optimization, 2nd ed., section 10.3; for the exact solution of what is linear
Golub and Pereyra, SIAM J. Numer. Anal. 10 (1973); for graduated losses Yang et al., "Graduated non-convexity for robust
spatial perception", IEEE Robot. Autom. Lett. 5 (2020).
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array, where_rows
from heimdall_lab.localization.hyperbolic import CAUCHY_SCALE
from heimdall_lab.localization.joint.pseudo_ranges import Recordings
from heimdall_lab.localization.shared_clocks import OWN, Equations, block_diagonal, equations, jacobian, solved

STAGES_M = (30e3, 10e3, 3e3, 1e3, 300.0, 0.0)  # standard deviations of which a graduated descent adds one after another
_CHOSEN_AT_M = 1e3  # stage after which some of the starts are followed:
_FOLLOWED, _LEAST_FOLLOWED = 4, 3  # one in so many, and no fewer than
_STAGE_STEPS = 12  # at the most in each of these but the last
_MAX_STEPS = 60
_SETTLED_M = 1e-3  # step of all places of a recording, from which a descent has ended
_SETTLED_COST = 1e-9  # part of the cost by which a step makes it smaller, likewise
_ROUGHLY_SETTLED_COST = 1e-3
_LONGEST_STEP_M = 50e3
_LEAST_ACTIVE = 0.7  # share of the descents still on their way, from which those that have ended are put aside
_ABSOLUTE_STEPS = 8
_HEIGHT = 2  # which of an emission's own unknowns is the height


class Solution(NamedTuple):
    """Where descents ended."""

    latitude_deg: Array  # (B, S)
    longitude_deg: Array  # (B, S)
    height_m: Array  # (B, S)
    clocks: Array  # (B, M) m
    residual_m: Array  # (B, S, R), 0 where none is used
    gradient: Array  # (B, S, R, 3), of pseudo-ranges for 1 m east, north and of the height
    influence: Array  # (B, S, R), share of a pseudo-range's weight that its residual leaves it
    emission_cost: Array  # (B, S), of each emission's pseudo-ranges and height
    clock_cost: Array  # (B,), of the clocks
    has_settled: Array  # (B,) bool

    @property
    def cost(self) -> Array:
        """Cost (B,) of recordings: χ², or Cauchy's loss."""
        return self.emission_cost.sum(axis=1) + self.clock_cost

    @property
    def place_deg(self) -> Array:
        """Latitude and longitude, (B, S, 2)."""
        return np.stack([self.latitude_deg, self.longitude_deg], axis=-1)

    def select(self, rows: slice | Array) -> Self:
        """Take some recordings."""
        return self._replace(**{name: values[rows] for name, values in self._asdict().items()})

    def where(self, condition: Array, other: Self) -> Self:
        """Take recordings where a condition (B,) holds, else those of another solution."""
        return self._replace(**dict(zip(self._fields, where_rows(condition, self, other), strict=True)))

    def with_rows(self, rows: Array, part: Self) -> Self:
        """Put solutions of some recordings in the place of these."""
        changed = self._replace(**{name: values.copy() for name, values in self._asdict().items()})
        _put(changed, rows, part)
        return changed


def descend_graduated(recordings: Recordings, start_deg: Array) -> Solution:
    """Descend robustly from places (B, N, S, 2), latitude and longitude, with the errors of `STAGES_M` one by one.

    Of N starts of a recording the cheapest few are followed to the end. They follow one another in the solutions.
    """
    count, number, emissions, _ = start_deg.shape
    repeated = recordings.repeat(number)
    first = repeated._replace(variance_m2=repeated.variance_m2 + STAGES_M[0] ** 2)
    starts = start_deg.reshape(-1, emissions, 2)
    solution = descend(first, starts, robust=True, max_steps=_STAGE_STEPS, roughly=True)
    for stage_m in STAGES_M[1:]:
        stage = repeated._replace(variance_m2=repeated.variance_m2 + stage_m**2)
        last = stage_m == STAGES_M[-1]
        steps = _MAX_STEPS if last else _STAGE_STEPS
        place = solution.place_deg
        solution = descend(stage, place, robust=True, before=solution, max_steps=steps, roughly=not last)
        if stage_m == _CHOSEN_AT_M:
            order = np.argsort(solution.cost.reshape(count, number), axis=1, kind="stable")
            kept = order[:, : max(_LEAST_FOLLOWED, number // _FOLLOWED)] + number * np.arange(count)[:, None]
            repeated, solution = repeated.select(kept.ravel()), solution.select(kept.ravel())
    return solution


def descend(
    recordings: Recordings,
    start_deg: Array,
    *,
    robust: bool,
    before: Solution | None = None,
    max_steps: int = _MAX_STEPS,
    roughly: bool = False,
) -> Solution:
    """Descend from places (B, S, 2), latitude and longitude; known places stay.

    The cost is that of the normalised residuals, squared or Cauchy's, and of heights and clocks beforehand. Robust
    descents weigh residuals at first as they did ``before``, where that is given, and begin at its heights. Those that
    are followed by others may end ``roughly``.
    """
    place: Array = np.where(recordings.is_known[..., None], recordings.place_deg, start_deg)
    height_m = recordings.height_m if before is None else before.height_m
    at = place[..., 0], place[..., 1], height_m
    state = _solved(recordings, at, None if before is None else before.influence, robust)
    if robust and before is None:
        state = _without_largest(recordings, at, state)
    least_gain = _ROUGHLY_SETTLED_COST if roughly else _SETTLED_COST
    ended = Solution._make(np.empty_like(values) for values in state)
    active, damping = np.arange(len(place)), np.full(len(place), 1e-3)
    for _ in range(max_steps):
        trial, step_m = _trial(recordings, state, damping, robust)
        gain = state.cost - trial.cost
        accepted = gain >= 0
        small = (step_m < _SETTLED_M) | (accepted & (gain < least_gain * state.cost))
        settled = state.has_settled | (small & (damping < 1))
        damping = np.where(accepted, damping / 5, damping * 6).clip(1e-10, 1e8)
        state = trial.where(accepted, state)._replace(has_settled=settled)
        rest = np.flatnonzero(~settled)
        if len(rest) <= _LEAST_ACTIVE * len(active):
            _put(ended, active, state)
            recordings, state, damping, active = (
                recordings.select(rest),
                state.select(rest),
                damping[rest],
                active[rest],
            )
        if not len(rest):
            break
    _put(ended, active, state)
    return ended


def clocks_and_times(recordings: Recordings, expected_m: Array, weight: Array) -> tuple[Array, Array]:
    """Clocks (B, M) and emission times (B, S), m, that fit best where paths are (B, S, R) m long, with weights."""
    basis, rest = recordings.basis, weight * (recordings.measured_m - expected_m)
    (count, emissions, order), total = basis.shape, weight.sum(axis=-1)
    numbers = recordings.clock_mean_m.shape[1]
    share = np.where(total > 0, 1 / np.where(total > 0, total, 1.0), 0.0)
    mean = share * rest.sum(axis=-1)
    cross = (weight[..., None] * basis[:, :, None]).reshape(count, emissions, numbers)
    products = basis[..., None] * basis[..., None, :]  # (B, S, K, K)
    each = weight.sum(axis=1)[..., None, None] if order == 1 else np.einsum("bsr,bskl->brkl", weight, products)
    information = block_diagonal(each) + recordings.clock_information
    alone = np.einsum("bmm->bm", information).copy()
    information -= (cross * share[..., None]).swapaxes(1, 2) @ cross
    right = (rest.swapaxes(1, 2) @ basis).reshape(count, numbers) - (mean[:, None] @ cross)[:, 0]
    right += (recordings.clock_information @ recordings.clock_mean_m[..., None])[..., 0]
    clocks = solved(information, alone, right)
    return clocks, mean - share * (cross @ clocks[..., None])[..., 0]


def joint_equations(recordings: Recordings, solution: Solution, damping: Array | float = 0.0) -> Equations:
    """Linear equations about solutions, with the weights that their residuals leave pseudo-ranges."""
    columns = jacobian(solution.gradient, recordings.is_known)
    beforehand = np.zeros((*recordings.is_known.shape, OWN, OWN))
    beforehand[..., _HEIGHT, _HEIGHT] = 1 / recordings.height_sigma_m**2
    return equations(columns, _weight(recordings, solution.influence), recordings.basis, beforehand, damping)


def _solved(recordings: Recordings, at: Sequence[Array], influence: Array | None, robust: bool) -> Solution:
    """Solve for clocks and emission times with places and heights (B, S) as they are, and take the cost there."""
    latitude, longitude, height_m = at
    if influence is None:
        influence = recordings.used.astype(float)
    distance, gradient = recordings.lengths(latitude, longitude, height_m)
    clocks, time = clocks_and_times(recordings, distance, _weight(recordings, influence))
    rest = recordings.measured_m - distance - time[..., None] - recordings.clock_m(clocks)
    residual = np.where(recordings.used, rest, 0.0)
    square = residual**2 / recordings.variance_m2
    loss = CAUCHY_SCALE**2 * np.log1p(square / CAUCHY_SCALE**2) if robust else square
    height_cost = ((height_m - recordings.height_m) / recordings.height_sigma_m) ** 2
    return Solution(
        latitude_deg=latitude,
        longitude_deg=longitude,
        height_m=height_m,
        clocks=clocks,
        residual_m=residual,
        gradient=gradient,
        influence=recordings.used / (1 + square / CAUCHY_SCALE**2) if robust else recordings.used.astype(float),
        emission_cost=loss.sum(axis=-1) + height_cost,
        clock_cost=((clocks - recordings.clock_mean_m) * recordings.from_prior(clocks)).sum(axis=-1),
        has_settled=np.zeros(len(latitude), dtype=bool),
    )


def _without_largest(recordings: Recordings, at: Sequence[Array], state: Solution) -> Solution:
    """Solve anew with weights of least absolute residuals, which few false pseudo-ranges of thousands of km move.

    Source: Schlossmacher, "An iterative technique for absolute deviations curve fitting", J. Am. Stat. Assoc. 68
    (1973).
    """
    used = recordings.used
    counts = used | ~used.any(axis=(1, 2), keepdims=True)  # where none is used all are 0
    for _ in range(_ABSOLUTE_STEPS):
        size = np.where(counts, np.abs(state.residual_m), np.nan).reshape(len(used), -1)
        typical = np.nanmedian(size, axis=1)[:, None, None] + 1.0
        absolute = used / np.maximum(np.abs(state.residual_m) / typical, 0.1)
        state = _solved(recordings, at, absolute, robust=True)
    return state


def _trial(recordings: Recordings, state: Solution, damping: Array, robust: bool) -> tuple[Solution, Array]:
    """Where one damped step leads, and its length over all places, (B,) m."""
    found = joint_equations(recordings, state, damping)
    pull = _weight(recordings, state.influence) * state.residual_m  # (B, S, R)
    columns = jacobian(state.gradient, recordings.is_known)
    right = (pull[..., None, :] @ columns)[..., 0, :]  # (B, S, 4)
    right[..., _HEIGHT] += (recordings.height_m - state.height_m) / recordings.height_sigma_m**2
    of_clocks = (pull.swapaxes(1, 2) @ recordings.basis).reshape(state.clocks.shape) - recordings.from_prior(
        state.clocks
    )
    alone = (found.inverse_own @ right[..., None])[..., 0]
    of_clocks -= np.einsum("bsim,bsi->bm", found.cross, alone)
    information = found.clocks() + recordings.clock_information
    clock_step = solved(
        information, found.clocks_alone() + np.einsum("bmm->bm", recordings.clock_information), of_clocks
    )
    step = alone - (found.gain @ clock_step[:, None, :, None])[..., 0]
    length_m = np.sqrt((step[..., :2] ** 2).sum(axis=-1)).max(axis=1)
    step = step * np.minimum(1.0, _LONGEST_STEP_M / np.maximum(length_m, 1e-9))[:, None, None]
    latitude, longitude = geodesy.displace(state.latitude_deg, state.longitude_deg, step[..., 0], step[..., 1])
    at = latitude.clip(-89.9, 89.9), longitude, state.height_m + step[..., _HEIGHT]
    return _solved(recordings, at, state.influence, robust), length_m


def _weight(recordings: Recordings, influence: Array) -> Array:
    return influence / recordings.variance_m2


def _put(solution: Solution, rows: Array, part: Solution) -> None:
    """Write solutions of some recordings into arrays of all."""
    for values, new in zip(solution, part, strict=True):
        values[rows] = new
