"""The best of many solutions: descents from several starts, and every emission searched anew with the clocks held.

A blind recording has many minima: emissions that begin on the wrong side of the receivers drag the clocks along. A
descent from one start finds the best of them in half of the recordings, this search in nearly all.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.localization import paths
from heimdall_lab.localization.joint.pseudo_ranges import Recordings
from heimdall_lab.localization.joint.solver import Solution, descend, descend_graduated

GRID_SIDE = 21  # places searched along each side of the receivers' box
_WIDENING = 0.2  # of that box to each side
_LEAST_CELL_M = 1.0  # as where one receiver alone hears
_LOCAL_MINIMA = 4  # of an emission's grid that are refined,
_MORE_LOCAL_MINIMA = 8  # and that are tried with all the rest, where there are few emissions
_NUM_STARTS = (5, 32)  # at the least and at the most: few emissions leave more minima, and cost less
_EMISSIONS_STARTED = 100  # in all starts of a recording together, between these
_MOST_EXCHANGED = 6  # emissions of recordings in which each is also tried at other places with all the rest
_MOST_SEARCHES = 3  # of all emissions with clocks held, while they find something better
_LEAST_GAIN = 1e-3  # by which a solution must cost less to be another one
_HELD_STEPS = 25


class Found(NamedTuple):
    """The best solutions of B recordings, and others that were found."""

    best: Solution
    other_deg: Array  # (B, N, S, 2), places of the others
    excess: Array  # (B, N), by how much these cost more


def search(recordings: Recordings, start_deg: Array, start_sigma_m: Array) -> Found:
    """Find solutions of least cost by Cauchy's loss, from places (B, S, 2) degrees known to (B, S) m."""
    starts = _starts(start_deg, start_sigma_m)  # (B, N, S, 2)
    ended = descend_graduated(recordings, starts)
    best = _while_better(recordings, _cheapest(ended, len(ended.cost) // len(starts)), _all_searched)
    others = [ended]
    if start_deg.shape[1] <= _MOST_EXCHANGED:
        best = _while_better(recordings, best, _one_exchanged)
        others.append(_exchanges(recordings, best))
    places = [each.place_deg.reshape(len(start_deg), -1, *start_deg.shape[1:]) for each in others]
    costs = [each.cost.reshape(len(start_deg), -1) for each in others]
    return Found(best, np.concatenate(places, axis=1), np.concatenate(costs, axis=1) - best.cost[:, None])


def _while_better(
    recordings: Recordings, best: Solution, search: Callable[[Recordings, Solution], Solution]
) -> Solution:
    """Search about the best solutions again while that finds some that cost less."""
    rows = np.arange(len(best.cost))
    for _ in range(_MOST_SEARCHES):
        found, before = search(recordings.select(rows), best.select(rows)), best.select(rows)
        improved = found.cost < before.cost - _LEAST_GAIN
        best = best.with_rows(rows, found.where(improved, before))
        rows = rows[improved]
        if not len(rows):
            break
    return best


def _all_searched(recordings: Recordings, solution: Solution) -> Solution:
    """Descend from where each emission alone fits best with the clocks of a solution."""
    places = np.concatenate([solution.place_deg[:, :, None], candidates(recordings, solution)], axis=2)
    count, emissions, number, _ = places.shape
    none = np.zeros((count, emissions, 0))
    alone = recordings.with_clocks_held(solution.clocks).each_emission(none, np.zeros((*none.shape, 0)))
    found = descend(alone.repeat(number), places.reshape(-1, 1, 2), robust=True, max_steps=_HELD_STEPS, roughly=True)
    chosen = _cheapest(found, number).place_deg.reshape(count, emissions, 2)
    return descend(recordings, chosen, robust=True)


def _one_exchanged(recordings: Recordings, solution: Solution) -> Solution:
    """The best of `_exchanges`."""
    ended = _exchanges(recordings, solution)
    return _cheapest(ended, len(ended.cost) // len(solution.cost))


def _exchanges(recordings: Recordings, solution: Solution) -> Solution:
    """Descend, of each recording several times, with one emission beginning elsewhere, where it fits held clocks."""
    places = candidates(recordings, solution, _MORE_LOCAL_MINIMA)
    count, emissions, number, _ = places.shape
    starts = np.broadcast_to(solution.place_deg[:, None, None], (count, emissions, number, emissions, 2)).copy()
    each = np.arange(emissions)
    starts[:, each, :, each] = places.swapaxes(0, 1)
    total = emissions * number
    return descend(recordings.repeat(total), starts.reshape(count * total, emissions, 2), robust=True)


def _cheapest(solutions: Solution, number: int) -> Solution:
    """The solution of lowest cost of each ``number`` that follow one another."""
    cheapest = solutions.cost.reshape(-1, number).argmin(axis=1)
    return solutions.select(np.arange(len(cheapest)) * number + cheapest)


def candidates(recordings: Recordings, solution: Solution, number: int = _LOCAL_MINIMA) -> Array:
    """Places (B, S, number, 2) degrees on a grid that fit each emission best with clocks held, best first."""
    latitude, longitude, cell_m = _grid(recordings)
    receivers = (values[:, :1] for values in (recordings.latitude_deg, recordings.longitude_deg, recordings.altitude_m))
    height_m = recordings.height_m.mean(axis=1, keepdims=True)
    distance = paths.lengths_alone(recordings.propagation, tuple(receivers), latitude, longitude, height_m)  # (B, G, R)
    rest = recordings.measured_m - recordings.clock_m(solution.clocks)
    late = np.where(recordings.used[:, :, None], rest[:, :, None] - np.nan_to_num(distance)[:, None], np.inf)
    middle = (np.maximum(recordings.used.sum(axis=-1), 1) - 1) // 2
    time = np.take_along_axis(np.sort(late, axis=-1), middle[..., None, None], axis=-1)
    used = recordings.used[:, :, None]
    residual = np.where(used, late, 0.0) - np.where(used, time, 0.0)
    scaled = residual / cell_m[:, None, None, None]
    cost = np.log1p(scaled**2).sum(axis=-1)  # (B, S, G); what a place errs by is the cell, not the noise
    square = np.pad(
        cost.reshape(*cost.shape[:2], GRID_SIDE, GRID_SIDE), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.inf
    )
    steps = [(i, k) for i in range(3) for k in range(3) if (i, k) != (1, 1)]
    around = np.min([square[..., i : i + GRID_SIDE, k : k + GRID_SIDE] for i, k in steps], axis=0)
    is_minimum = cost <= around.reshape(cost.shape)
    order = np.argsort(np.where(is_minimum, cost, np.inf), axis=-1, kind="stable")[..., :number]
    rows = np.arange(len(cost))[:, None, None]
    return np.stack([latitude[rows, order], longitude[rows, order]], axis=-1)


def _grid(recordings: Recordings) -> tuple[Array, Array, Array]:
    """Latitude and longitude (B, G) of places over the receivers' box, widened, and half of a cell, (B,) m."""
    used = recordings.used.any(axis=1)
    used |= ~used.any(axis=1, keepdims=True)
    latitude, longitude = (
        np.where(used, values[:, 0], np.nan) for values in (recordings.latitude_deg, recordings.longitude_deg)
    )
    steps = np.linspace(-_WIDENING, 1 + _WIDENING, GRID_SIDE)
    low, high = (
        np.stack([extreme(values, axis=1) for values in (latitude, longitude)], axis=-1)[:, None]
        for extreme in (np.nanmin, np.nanmax)
    )
    places = low + (high - low) * np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    extent_m, _ = geodesy.geodesic(low[:, 0, 0], low[:, 0, 1], high[:, 0, 0], high[:, 0, 1])
    return places[..., 0], places[..., 1], np.maximum(extent_m * (steps[1] - steps[0]) / 2, _LEAST_CELL_M)


def _starts(place_deg: Array, sigma_m: Array) -> Array:
    """Places (B, S, 2), and others about them at random but the same every time: (B, N, S, 2)."""
    emissions = place_deg.shape[1]
    number = int(np.clip(_EMISSIONS_STARTED // emissions, *_NUM_STARTS))
    offset = _offsets(number, emissions)[None] * sigma_m[:, None, :, None]  # (B, N, S, 2)
    places = geodesy.displace(place_deg[:, None, :, 0], place_deg[:, None, :, 1], offset[..., 0], offset[..., 1])
    return np.stack([places[0].clip(-89.0, 89.0), places[1]], axis=-1)


@cache
def _offsets(number: int, emissions: int) -> Array:
    """Offsets (N, S, 2) of starts, normal of unit standard deviation; the first has none."""
    uniform = scipy.stats.qmc.Halton(2, scramble=False).random((number - 1) * emissions + 1)[1:]
    normal = scipy.special.ndtri(uniform).reshape(number - 1, emissions, 2)
    return np.concatenate([np.zeros((1, emissions, 2)), normal])
