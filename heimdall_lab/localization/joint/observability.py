"""What recordings tell of places and clocks: which receivers can be compared, and which emissions located.

Receivers that share no emission, not even through others, cannot be compared: they are of different components. In each
component one offset stays unknown, which moves all emission times and no place.

A calibration without enough references is refused where a direction of the clocks is not observed, and where as many
delays as unknowns are left: these have twins, other places and clocks that fit as well. In two dimensions R receivers
that all hear S emissions have S (R − 3) delays for R − 1 offsets: one more is needed.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csgraph

from heimdall_lab.core.arrays import Array
from heimdall_lab.localization.joint.pseudo_ranges import Recordings
from heimdall_lab.localization.joint.solver import Solution, joint_equations

LEAST_EIGENVALUE = 1e-6  # smallest of the clocks' balanced information, from which a direction of them is observed
_LEAST_OWN_EIGENVALUE = 1e-9  # of an emission's own, likewise (`hyperbolic`)
_METRES_PER_DEGREE = 111e3  # of latitude, to a percent
_MOVES = 1e-3  # m of place for 1 m of a clock that is not observed, from which the place is not either
PLACE_UNKNOWNS = 3  # of an emission from an unknown place: east, north and its time; the height has a prior


class Observability(NamedTuple):
    """What can be told of B recordings of S emissions by R receivers."""

    component: Array  # (B, R) int, of receivers that can be compared, counted from 0; −1 where one hears nothing
    is_calibrated: Array  # (B, S) bool, whether the clocks that a place rests on are told, beforehand or by emissions
    is_placed: Array  # (B, S) bool, whether every direction of the place is, where these clocks are
    is_clock_told: Array  # (B, R) bool, whether a clock is compared with those of its component


def observability(recordings: Recordings, solution: Solution) -> Observability:
    """Say what can be told of recordings, linear about a solution."""
    component = components(recordings.used.swapaxes(1, 2) @ recordings.used)
    is_loose = _is_loose(recordings)
    weak, gain = _weak_directions(recordings, solution, component, is_loose)
    moved_m = np.sqrt((np.matmul(gain[..., :2, :], weak[:, None]) ** 2).sum(axis=-2)).max(axis=-1, initial=0.0)
    has_surplus = _has_surplus(recordings, component, is_loose)
    hears = component >= 0
    of_receiver = np.take_along_axis(has_surplus, np.maximum(component, 0), axis=1) & hears
    first = np.where(recordings.used.any(axis=-1), recordings.used.argmax(axis=-1), 0)  # (B, S)
    return Observability(
        component=component,
        is_calibrated=(moved_m < _MOVES) & np.take_along_axis(of_receiver, first, axis=1),
        is_placed=_is_placed(recordings, solution),
        is_clock_told=of_receiver & ~_is_moved(weak, component),
    )


def extent_m(recordings: Recordings) -> Array:
    """How far apart the receivers of each recording are, about, (B,) m."""
    latitude, longitude = (
        np.where(recordings.used, values, np.nan) for values in (recordings.latitude_deg, recordings.longitude_deg)
    )
    span = [np.nanmax(values, axis=(1, 2)) - np.nanmin(values, axis=(1, 2)) for values in (latitude, longitude)]
    return _METRES_PER_DEGREE * np.hypot(span[0], span[1] * np.cos(np.radians(np.nanmean(latitude, axis=(1, 2)))))


def _is_loose(recordings: Recordings) -> Array:
    """Numbers of clocks, (B, M) bool, that are known beforehand no better than delays between the receivers are long.

    Those that the others are compared with count as known: tight ones may have twins, but of places far away.
    """
    count, numbers = recordings.clock_mean_m.shape
    sigma_m = 1 / np.sqrt(np.einsum("bmm->bm", recordings.clock_information).reshape(count, numbers))
    return sigma_m > extent_m(recordings)[:, None]


def components(linked: Array) -> Array:
    """Number (B, R) the components of receivers that are linked to others, (B, R, R); −1 of those that are to none."""
    found = np.full(linked.shape[:2], -1)
    for row, links in enumerate(linked):
        hears = links.diagonal() > 0
        found[row, hears] = csgraph.connected_components(links[np.ix_(hears, hears)], directed=False)[1]
    return found


def _weak_directions(
    recordings: Recordings, solution: Solution, component: Array, is_loose: Array
) -> tuple[Array, Array]:
    """Directions of the clocks that nothing observes, the columns of (B, M, M) with 1 m as their largest, else 0.

    And the gain (B, S, 4, M) of emissions' own unknowns.
    """
    found = joint_equations(recordings, solution)
    both_tight = ~(is_loose[:, :, None] | is_loose[:, None])
    information = found.clocks() + np.where(both_tight, recordings.clock_information, 0.0)
    # Balanced by what each number's measurements tell of it if all the rest is known.
    alone = found.clocks_alone() + np.where(is_loose, 0.0, np.einsum("bmm->bm", recordings.clock_information))
    scale = np.where(alone > 0, 1 / np.sqrt(np.where(alone > 0, alone, 1.0)), 0.0)
    balanced = information * scale[:, :, None] * scale[:, None]
    values, vectors = np.linalg.eigh(balanced + _gauge(component, is_loose, scale))
    directions = vectors * scale[:, :, None]
    largest = np.abs(directions).max(axis=1, keepdims=True, initial=0.0)
    is_weak = (values < LEAST_EIGENVALUE)[:, None] & (largest > 0)
    return np.where(is_weak, directions / np.where(largest > 0, largest, 1.0), 0.0), found.gain


def _is_moved(weak: Array, component: Array) -> Array:
    """Which clocks (B, R) some of the directions (B, M, M) move against most of their component."""
    count, receivers = component.shape
    order = weak.shape[1] // receivers
    each = weak.reshape(count, receivers, order, weak.shape[2])
    moved = np.zeros((count, receivers), dtype=bool)
    for number in range(int(component.max(initial=-1)) + 1):
        of_component = component == number
        members = np.where(of_component[..., None, None], each, np.nan)
        members = members[of_component.any(axis=1)]
        off = np.abs(members - np.nanmedian(members, axis=1, keepdims=True)) > _MOVES
        moved[of_component.any(axis=1)] |= off.any(axis=(2, 3))
    return moved


def _gauge(component: Array, is_loose: Array, scale: Array) -> Array:
    """Information of one unit, (B, M, M), of what all loose clocks of a component have in common: it moves no place."""
    count, receivers = component.shape
    order = scale.shape[1] // receivers
    loose, balance = is_loose.reshape(count, receivers, order), scale.reshape(count, receivers, order)
    gauge = np.zeros((count, receivers, order, receivers, order))
    for number in range(int(component.max(initial=-1)) + 1):
        of_component = component == number
        for k in range(order):
            # Where one of them is tight it tells the others, and nothing stays unknown.
            is_common = (loose[..., k] | ~of_component).all(axis=1, keepdims=True)
            at = of_component & is_common & (balance[..., k] > 0)
            vector = np.where(at, 1 / np.where(at, balance[..., k], 1.0), 0.0)
            length = np.sqrt((vector**2).sum(axis=1, keepdims=True))
            vector = vector / np.where(length > 0, length, 1.0)
            gauge[:, :, k, :, k] += vector[:, :, None] * vector[:, None]
    return gauge.reshape(count, receivers * order, receivers * order)


def _has_surplus(recordings: Recordings, component: Array, is_loose: Array) -> Array:
    """Whether components (B, R), by their numbers, have more delays than a calibration by unknown places needs.

    Receivers that hear references in common, as many as their clocks have loose numbers, or that are known beforehand,
    are one group whose clocks are compared without any place. Groups are compared by the emissions that several hear.
    """
    count, receivers = component.shape
    loose = is_loose.reshape(count, receivers, -1)
    unknowns = loose.sum(axis=-1).max(axis=1)  # (B,) of each clock
    references = (recordings.used & recordings.is_known[..., None]).astype(int)
    common = references.swapaxes(1, 2) @ references
    is_tight = ~loose.any(axis=-1)
    tied = (common >= np.maximum(unknowns, 1)[:, None, None]) | (is_tight[:, :, None] & is_tight[:, None])
    group = components(tied | np.eye(receivers, dtype=bool))
    enough = np.zeros((count, receivers), dtype=bool)
    for row in range(count):
        heard, free = recordings.used[row], ~recordings.is_known[row]
        for number in range(component[row].max() + 1):
            member = component[row] == number
            groups = len(np.unique(group[row, member]))
            spans = np.array([len(np.unique(group[row, each])) > 1 for each in heard & member], dtype=bool)
            delays = np.maximum((heard & member).sum(axis=1) - PLACE_UNKNOWNS, 0)[free & spans].sum()
            enough[row, number] = groups == 1 or delays > (groups - 1) * unknowns[row]
    return enough


def _is_placed(recordings: Recordings, solution: Solution) -> Array:
    """Whether the delays of each emission would tell its place with known clocks, (B, S) bool; known places are."""
    found = joint_equations(recordings, solution)
    diagonal = np.einsum("bsii->bsi", found.own)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
    least = np.linalg.eigvalsh(found.own * scale[..., None] * scale[..., None, :])[..., 0]
    enough = recordings.used.sum(axis=-1) >= PLACE_UNKNOWNS
    return recordings.is_known | (enough & (least > _LEAST_OWN_EIGENVALUE))
