"""Positions by time differences where the emissions of a recording tell the receivers' clocks, too.

Source: Ho and Yang, IEEE Trans. Signal Process. 56 (2008), for references: to subtract their delays first is above the
bound, to solve for all together attains it; Wang and Ho, IEEE Trans. Signal Process. 61 (2013), for unknown clocks.
"""

import numpy as np
import xarray as xr

from heimdall_lab.localization import integrity
from heimdall_lab.localization.baselines import centroid_where, receivers_centroid
from heimdall_lab.localization.hyperbolic import beside_line, distance_m, level_cost, rivals
from heimdall_lab.localization.integrity import Evidence
from heimdall_lab.localization.joint.calibration import Calibration, calibrate
from heimdall_lab.localization.joint.observability import PLACE_UNKNOWNS
from heimdall_lab.localization.joint.recordings import recordings_of
from heimdall_lab.localization.joint.search import candidates
from heimdall_lab.localization.joint.solver import descend, joint_equations
from heimdall_lab.localization.late_links import posterior_mean
from heimdall_lab.localization.observations import CAUSES, MAX_RANGE_M, Fix, Observations
from heimdall_lab.localization.shared_clocks import covariances, root_of_inverse, window_clock_variance_m2
from heimdall_lab.localization.tdoa import or_centroid

_CLOCKS = CAUSES.index("clocks")
_ROUGH_STEPS = 12  # of descents to other places that fit as well,
_PROMISING = 30.0  # and the cost above the least after these, up to which they are followed to the end
_REFERENCE_SIGMA_M = 1e-3  # of a place that is known beforehand


def tdoa_joint(observed: Observations, dataset: xr.Dataset) -> tuple[Fix, Evidence]:
    """Places, emission times and clocks of each recording together, from the least cost of all its time differences.

    What is known of clocks beforehand is a normal prior, so that synchronised receivers and free running ones are one
    case. References are emissions from known places, where their fixes are. A graduated Cauchy-weighted search finds
    the places, and least squares of the delays that agree refines them. Recordings are never joined: a calibration is
    of no other than its own.
    """
    variance = observed.variance_m2.copy()
    variance[..., _CLOCKS] = window_clock_variance_m2(dataset.attrs)
    corrected = observed._replace(pseudorange_m=observed.pseudorange_m.copy(), variance_m2=variance)
    scenes, receivers = observed.heard.shape
    covariance, used = np.zeros((scenes, receivers, receivers)), np.zeros_like(observed.heard)
    parts, order = [], []
    for rows, recordings in recordings_of(observed, dataset):
        flat = rows.ravel()
        part = observed.select(flat)
        calibration = calibrate(part, recordings)
        corrected.pseudorange_m[flat] -= calibration.other_clock_m.reshape(-1, receivers)
        covariance[flat] = calibration.other_covariance.reshape(-1, receivers, receivers)
        kept = recordings.used if observed.expects_late else calibration.recordings.used
        used[flat] = (kept & ~recordings.is_known[..., None]).reshape(-1, receivers)
        parts.append(located(part, calibration))
        order.append(flat)
    fix = Fix.concatenate(parts).select(np.argsort(np.concatenate(order)))
    if observed.expects_late:
        own_m2 = np.einsum("srr->sr", covariance) + variance.sum(axis=-1)
        fix = posterior_mean(corrected._replace(heard=used, sigma_m=np.sqrt(own_m2)), fix)
    evidence = integrity.delays(
        corrected,
        fix,
        used,
        has_own_covariance=observed.expects_late,
        least_scale=1.0,
        clock_covariance=covariance,
    )
    return fix, evidence


def located(observed: Observations, calibration: Calibration) -> Fix:
    """Fixes of the emissions of calibrated recordings, one recording after the other, and why some are none."""
    recordings = calibration.recordings
    fix = _best_places(observed, calibration)
    centre = receivers_centroid(observed)
    distance = distance_m(
        fix.latitude_deg[:, None], fix.longitude_deg[:, None], centre.latitude_deg, centre.longitude_deg
    )
    spread = np.sqrt(np.trace(fix.covariance, axis1=1, axis2=2))
    limit = MAX_RANGE_M[observed.propagation]
    tells = calibration.observability
    reasons = {
        "silent": ~observed.heard.any(axis=1),
        "uncalibrated": ~tells.is_calibrated.ravel() & (recordings.used.sum(axis=-1) >= PLACE_UNKNOWNS).ravel(),
        "unobserved": ~tells.is_placed.ravel(),
        "far": (distance[:, 0] > limit) | (spread > limit),
        "misfit": ~calibration.fits.ravel(),
        "ambiguous": np.isfinite(fix.rivals).any(axis=(1, 2)),
    }
    fix = fix._replace(status=np.select(list(reasons.values()), list(reasons), "ok"))
    fix = or_centroid(fix, observed)
    fix = centroid_where(np.isin(fix.status, integrity.STAND_IN), fix, observed)
    known, place = recordings.is_known.ravel(), recordings.place_deg.reshape(-1, 2)
    return fix._replace(
        latitude_deg=np.where(known, place[:, 0], fix.latitude_deg),
        longitude_deg=np.where(known, place[:, 1], fix.longitude_deg),
        covariance=np.where(known[:, None, None], _REFERENCE_SIGMA_M**2 * np.eye(2), fix.covariance),
        status=np.where(known, "ok", fix.status),
        rivals=np.where(known[:, None, None], np.nan, fix.rivals),
    )


def _best_places(observed: Observations, calibration: Calibration) -> Fix:
    """The best place of each emission with the clocks that the others tell, and those that fit as well.

    Others are searched for on a grid, to both sides of the receivers' line, and among solutions of the whole recording.
    Levels help to choose between those of one emission, as `hyperbolic.best_candidate` has it.
    """
    recordings, solution = calibration.recordings, calibration.solution
    scenes, own = recordings.is_known.size, solution.place_deg.reshape(-1, 2)
    beside = beside_line(observed._replace(heard=recordings.used.reshape(scenes, -1)), own[:, 0], own[:, 1])
    around = candidates(recordings, solution).reshape(scenes, -1, 2)
    starts = np.concatenate([own[:, None], beside, around], axis=1)  # (S, N, 2)
    number = starts.shape[1]
    alone = recordings.each_emission(calibration.other_clock_m, calibration.other_information()).repeat(number)
    ended = descend(alone, starts.reshape(-1, 1, 2), robust=False, max_steps=_ROUGH_STEPS, roughly=True)
    least = np.repeat(ended.cost.reshape(scenes, number).min(axis=1), number)
    near = np.flatnonzero(ended.cost < least + _PROMISING)
    ended = ended.with_rows(near, descend(alone.select(near), ended.place_deg[near], robust=False))
    found = joint_equations(alone, ended)
    root = root_of_inverse(found.clocks() + alone.clock_information, alone.clock_information)
    covariance = covariances(found, root)[:, 0, :2, :2]
    place = ended.place_deg.reshape(scenes, number, 2)
    levels = level_cost(observed.repeat(number), ended.latitude_deg[:, 0], ended.longitude_deg[:, 0])
    cost = np.where(ended.has_settled, ended.cost + levels, np.inf).reshape(scenes, number)
    cost[:, 0] = (ended.cost + levels).reshape(scenes, number)[:, 0]
    best, rows = cost.argmin(axis=1), np.arange(scenes)
    covariance = covariance.reshape(scenes, number, 2, 2)
    other_deg, excess = calibration.other_solutions()
    count = excess.shape[1]
    places = np.concatenate([place, other_deg], axis=1)
    costs = np.concatenate([cost, cost[rows, best][:, None] + excess], axis=1)
    spreads = np.concatenate([covariance, np.repeat(covariance[rows, best][:, None], count, axis=1)], axis=1)
    return Fix(
        latitude_deg=place[rows, best, 0],
        longitude_deg=place[rows, best, 1],
        height_m=ended.height_m.reshape(scenes, number)[rows, best],
        covariance=covariance[rows, best],
        status=np.full(scenes, "ok"),
        rivals=rivals(places[..., 0], places[..., 1], spreads, costs, best),
    )
