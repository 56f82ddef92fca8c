"""Recordings solved: their clocks, what these rest on, and what each emission's others say of them."""

from typing import NamedTuple

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.localization import integrity
from heimdall_lab.localization.joint.clock_rates import without_known_growth
from heimdall_lab.localization.joint.observability import PLACE_UNKNOWNS, Observability, observability
from heimdall_lab.localization.joint.pseudo_ranges import Recordings
from heimdall_lab.localization.joint.search import search
from heimdall_lab.localization.joint.solver import Solution, descend, joint_equations
from heimdall_lab.localization.levels import rough_position
from heimdall_lab.localization.observations import Observations
from heimdall_lab.localization.shared_clocks import inverse, root_of_inverse
from heimdall_lab.localization.tdoa import AGREEMENT_SIGMAS, enough_delays

_JITTER = 0.7  # of the standard deviation of levels, by which starts lie apart
_LEAST_VARIANCE_M2 = 1e-6  # of clocks that are known exactly
_MOST_OTHERS = 8  # solutions of a whole recording that are compared with the best


class Calibration(NamedTuple):
    """Solutions of B recordings of S emissions by R receivers, with M numbers of their clocks."""

    recordings: Recordings  # of the delays that the solutions rest on
    solution: Solution
    observability: Observability
    clock_root: Array  # (B, M, M) m, of the clocks' covariance (`shared_clocks.root_of_inverse`)
    other_clock_m: Array  # (B, S, R), what clocks add to an emission's pseudo-ranges as all the others tell them
    other_covariance: Array  # (B, S, R, R) m², of that without what all receivers that are used have in common
    fits: Array  # (B, S) bool, whether enough delays of an emission agree, and all of its recording
    other_deg: Array  # (B, N, S, 2), places by other solutions
    excess: Array  # (B, N), by how much more these cost

    def other_information(self) -> Array:
        """Information (B, S, R, R) of these clocks; what they have in common is known as well as what differs, about.

        That makes no difference, for an emission's own time takes it up.
        """
        used, covariance = self.recordings.used, self.other_covariance
        size = 1.0 + np.einsum("bsrr->bs", covariance)[..., None, None]
        both = used[..., None] & used[..., None, :]
        alone = np.eye(used.shape[-1]) * ~used[..., None]
        return inverse(covariance + size * both + alone + _LEAST_VARIANCE_M2 * np.eye(used.shape[-1]))

    def other_solutions(self) -> tuple[Array, Array]:
        """Places of each emission by other solutions (B · S, N, 2), and by how much more these cost, (B · S, N)."""
        count, number, emissions, _ = self.other_deg.shape
        places = self.other_deg.swapaxes(1, 2).reshape(count * emissions, number, 2)
        return places, np.repeat(self.excess, emissions, axis=0)


def calibrate(observed: Observations, recordings: Recordings) -> Calibration:
    """Solve recordings, whose scenes are observed one recording after the other."""
    latitude, longitude, sigma_m = rough_position(observed)
    shape = recordings.is_known.shape
    start_deg = np.stack([latitude, longitude], axis=-1).reshape(*shape, 2)
    found = search(without_known_growth(recordings), start_deg, _JITTER * sigma_m.reshape(shape))
    normalised = np.abs(found.best.residual_m) / np.sqrt(recordings.variance_m2)
    retained = recordings.used & (normalised < AGREEMENT_SIGMAS)
    needed = PLACE_UNKNOWNS if observed.expects_late else enough_delays(recordings.used.sum(axis=-1))
    enough = recordings.is_known | (retained.sum(axis=-1) >= needed)
    rest = recordings._replace(used=retained)
    solution = descend(rest, found.best.place_deg, robust=False)
    equations = joint_equations(rest, solution)
    information = equations.clocks() + rest.clock_information
    of_others = information[:, None] - equations.clocks_by_emission()
    root = root_of_inverse(of_others, rest.clock_information[:, None])  # (B, S, M, M) m
    other_clocks = _other_clocks(rest, solution, root)
    compared = _centred(rest.used, _at_their_times(rest, root))
    cheapest = np.argsort(found.excess, axis=1, kind="stable")[:, :_MOST_OTHERS]
    return Calibration(
        recordings=rest,
        solution=solution,
        observability=observability(rest, solution),
        clock_root=root_of_inverse(information, rest.clock_information),
        other_clock_m=_at_their_times(rest, other_clocks[..., None])[..., 0],
        other_covariance=compared @ compared.swapaxes(-2, -1),
        fits=enough & _agrees(observed, rest, solution)[:, None],
        other_deg=np.take_along_axis(found.other_deg, cheapest[..., None, None], axis=1),
        excess=np.take_along_axis(found.excess, cheapest, axis=1),
    )


def _other_clocks(recordings: Recordings, solution: Solution, root: Array) -> Array:
    """Clocks (B, S, M) as all emissions but one tell them, with the root (B, S, M, M) of their covariance.

    They are those of all without what that one pulls them by: at the best clocks of all its pull and that of its
    others, by their information, are opposite.
    """
    pull = solution.residual_m * solution.influence / recordings.variance_m2  # (B, S, R)
    of_clocks = (pull[..., None] * recordings.basis[:, :, None]).reshape(root.shape[:-1])
    return solution.clocks[:, None] - (root @ (root.swapaxes(-2, -1) @ of_clocks[..., None]))[..., 0]


def _centred(used: Array, columns: Array) -> Array:
    """Columns (B, S, R, N) less their mean over the receivers that are used, (B, S, R), and 0 for others."""
    mask = used[..., None]
    mean = np.where(mask, columns, 0.0).sum(axis=-2, keepdims=True) / np.maximum(mask.sum(axis=-2, keepdims=True), 1)
    return np.where(mask, columns - mean, 0.0)


def _at_their_times(recordings: Recordings, of_clocks: Array) -> Array:
    """Rows for receivers, (B, S, R, N), that rows for their clocks' numbers, (B, S, M, N), come to at each time."""
    count, emissions, receivers = recordings.used.shape
    by_receiver = of_clocks.reshape(count, emissions, receivers, -1, of_clocks.shape[-1])
    return np.einsum("bsrkn,bsk->bsrn", by_receiver, recordings.basis)


def _agrees(observed: Observations, recordings: Recordings, solution: Solution) -> Array:
    """Whether all delays of each recording agree about as well as their standard deviations say, (B,) bool.

    What is known of clocks and heights beforehand counts as measured. Late delays are judged one emission at a time.
    """
    if observed.expects_late:
        return np.full(len(solution.cost), True)
    heard = recordings.used.any(axis=-1)
    own = heard * np.where(recordings.is_known, 1, integrity.UNKNOWNS)
    surplus = recordings.used.sum(axis=(1, 2)) - own.sum(axis=1)
    limit = integrity.largest_misfit(surplus, observed.sigma_freedom)
    fits: Array = (surplus < 1) | (solution.cost <= limit)
    return fits
