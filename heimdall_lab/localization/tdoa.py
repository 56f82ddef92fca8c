"""Positions from time differences of arrival, vectorised over samples."""

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.localization import integrity
from heimdall_lab.localization.baselines import centroid_where, receivers_centroid
from heimdall_lab.localization.exclusion import without_faults
from heimdall_lab.localization.hyperbolic import best_candidate, closed_form, descend_twice
from heimdall_lab.localization.integrity import Evidence
from heimdall_lab.localization.late_links import posterior_mean
from heimdall_lab.localization.observations import Fix, Observations

_GRID_SIDE = 5  # starts of the robust estimator along each side of the receivers' box
AGREEMENT_SIGMAS = 5.0  # within which a delay agrees with a fix
_ENOUGH_DELAYS = 4  # delays, if there are as many, that must agree with a robust fix: any three can be made to;
_MAJORITY = 2 / 3  # and this share of them, because among many some four agree by chance


def tdoa_ls(observed: Observations) -> tuple[Fix, Evidence]:
    """Weighted least squares on the time differences: closed form, then Gauss-Newton; of two solutions, by levels."""
    compact, _ = _with_delays(observed)
    found = descend_twice(compact, closed_form(compact), robust=False)
    fix, _ = best_candidate(compact, found, np.full(found.cost.shape, True))
    fix = or_centroid(fix, observed)
    return fix, integrity.delays(observed, fix, observed.heard)


def tdoa_robust(observed: Observations) -> tuple[Fix, Evidence]:
    """Time differences without those that contradict the others, so that single outliers neither bias nor trap the fix.

    A Cauchy-weighted fit from many starts finds the place. Where a share of the links is known to be late,
    `late_links.posterior_mean` refines it; else `exclusion.without_faults` tells which delays it rests on.
    """
    compact, order = _with_delays(observed)
    centre = receivers_centroid(compact)
    at_centroid = np.stack([centre.latitude_deg, centre.longitude_deg], axis=-1)[:, None]
    starts = np.concatenate([closed_form(compact), at_centroid, _start_grid(compact)], axis=1)
    found = descend_twice(compact, starts, robust=True)
    enough = enough_delays(compact.heard.sum(axis=1, keepdims=True))
    agreeing = compact.heard[:, None] & (np.abs(found.residual) < AGREEMENT_SIGMAS)
    fix, chosen = best_candidate(compact, found, agreeing.sum(axis=-1) >= enough)
    fix = or_centroid(fix, observed)
    residual = np.abs(found.residual[np.arange(len(chosen)), chosen])
    if observed.expects_late:
        retained = compact.heard & (residual < AGREEMENT_SIGMAS)
        fix = posterior_mean(compact, fix)
    else:
        fix, retained = without_faults(compact, fix, compact.heard & (residual < AGREEMENT_SIGMAS))
    used = np.zeros_like(observed.heard)
    np.put_along_axis(used, order[:, : retained.shape[1]], retained, axis=1)
    return fix, integrity.delays(observed, fix, used, has_own_covariance=observed.expects_late, least_scale=1.0)


def enough_delays(heard: Array) -> Array:
    """How many of the delays that are heard must agree with a robust fix."""
    enough: Array = np.maximum(np.minimum(heard, _ENOUGH_DELAYS), np.ceil(_MAJORITY * heard))
    return enough


def or_centroid(fix: Fix, observed: Observations) -> Fix:
    """Put the centroid where no position was observed; silence is that of the receivers, not of their delays."""
    unobserved = (fix.status == "silent") & observed.heard.any(axis=1)
    status = np.where(unobserved, "unobserved", fix.status)
    if observed.is_ambiguous is not None:
        repeating = (status == "unobserved") & (observed.heard & observed.is_ambiguous).any(axis=1)
        status = np.where(repeating, "repeating", status)
    fix = fix._replace(status=status)
    return centroid_where(np.isnan(fix.latitude_deg), fix, observed)


def intersections(observed: Observations) -> Array:
    """Where the time differences of all pairs meet on the tangent plane: two solutions, (S, 2, 2) degrees."""
    return closed_form(_with_delays(observed)[0])


def _with_delays(observed: Observations) -> tuple[Observations, Array]:
    """Drop receivers that hear nothing or have no known delay, as far as the scene with the most others allows.

    The reference comes first, whether it is heard or not. Returned beside is the order (S, R) of all receivers.
    """
    timed = observed.heard & np.isfinite(observed.pseudorange_m) & np.isfinite(observed.sigma_m)
    first = np.arange(timed.shape[1]) == observed.reference[:, None]
    rank = np.where(first, 0, np.where(timed, 1, 2))
    compact = observed._replace(heard=timed).order_receivers(rank, timed | first)
    order = np.argsort(rank, axis=1, kind="stable")
    return compact._replace(reference=np.zeros_like(observed.reference)), order


def _start_grid(observed: Observations) -> Array:
    """Starts on a grid over the receivers' box, widened by half on each side: (S, _GRID_SIDE², 2) degrees."""
    steps = np.stack(np.meshgrid(*[np.linspace(-0.5, 1.5, _GRID_SIDE)] * 2), axis=-1).reshape(-1, 2)
    counted = observed.heard | (np.arange(observed.heard.shape[1]) == observed.reference[:, None])
    positions = np.stack([observed.latitude_deg, observed.longitude_deg], axis=-1)
    positions = np.where(counted[..., None], positions, np.nan)
    low, high = np.nanmin(positions, axis=1)[:, None], np.nanmax(positions, axis=1)[:, None]
    return low + (high - low) * steps
