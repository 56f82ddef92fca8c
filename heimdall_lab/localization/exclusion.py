"""Which delay is at fault: least squares without each one of them in turn, where all of them contradict each other.

Source: Brown, "A baseline GPS RAIM scheme and a note on the equivalence of three RAIM methods", Navigation 39 (1992),
on fault detection and exclusion.
"""

import numpy as np
import scipy.special

from heimdall_lab.core.arrays import Array, where_rows
from heimdall_lab.localization import integrity
from heimdall_lab.localization.hyperbolic import Candidates, best_candidate, closed_form, descend, descend_twice
from heimdall_lab.localization.observations import MAX_RANGE_M, Fix, Observations

_DOUBTFUL_CHI_SQUARED = float(scipy.special.chdtri(1, integrity.FALSE_ALARM))  # by which one delay less fits far better
_FEWEST = 5  # delays from which one may be left out: four are one more than there are unknowns


def without_faults(observed: Observations, fix: Fix, agreeing: Array) -> tuple[Fix, Array]:
    """Fixes by least squares with the delays that are not at fault, and which these are, (S, R) bool.

    From robust fixes, and the delays that agree with them. They are all, where these agree with each other, and do not
    agree elsewhere without one of them far better; else all but one, where without it they do; else those that agree
    with the robust fix.
    """
    fix, used = _refit(observed._replace(heard=agreeing), fix), agreeing
    whole = _refit(observed, fix)
    of_whole = integrity.assess(whole, integrity.delays(observed, whole, observed.heard))
    agree = (of_whole.status == "ok") & np.isin(fix.status, ("ok", "ambiguous"))
    fix, used = Fix(*where_rows(agree, whole, fix)), np.where(agree[:, None], observed.heard, used)
    count = observed.heard.sum(axis=1)
    chi_squared = np.nan_to_num(of_whole.misfit * (count - integrity.UNKNOWNS))
    possible = np.isin(fix.status, ("ok", "ambiguous")) & (count >= _FEWEST)
    possible &= ~agree | (chi_squared > _DOUBTFUL_CHI_SQUARED)
    rows = np.flatnonzero(possible)
    if len(rows):
        without, kept, fits, cost = _without_one(observed.select(rows), fix.select(rows))
        fits &= ~agree[rows] | (without.status == "ok") & (cost < chi_squared[rows] - _DOUBTFUL_CHI_SQUARED)
        found, rows = without.select(fits), rows[fits]
        fix = Fix(*(_with_rows(old, rows, new) for old, new in zip(fix, found, strict=True)))
        used = _with_rows(used, rows, kept[fits])
    return fix, used


def _without_one(observed: Observations, fix: Fix) -> tuple[Fix, Array, Array, Array]:
    """Best fixes without one delay each, delays that they use (S, R) bool, whether these agree (S,) bool, χ² (S,)."""
    scenes, receivers = observed.heard.shape
    kept = observed.heard[:, None] & ~np.eye(receivers, dtype=bool)  # (S, R, R), without each
    each = observed.repeat(receivers)._replace(heard=kept.reshape(-1, receivers))
    robust = np.repeat(np.stack([fix.latitude_deg, fix.longitude_deg], axis=-1), receivers, axis=0)[:, None]
    found = descend_twice(each, np.concatenate([closed_form(each), robust], axis=1), robust=False)
    starts = found.cost.shape[1]
    found = Candidates(*(values.reshape(scenes, -1, *values.shape[2:]) for values in found))
    surplus = np.maximum(observed.heard.sum(axis=1) - 4, 1)
    fits = found.cost <= integrity.largest_misfit(surplus, observed.sigma_freedom)[:, None]
    fits &= np.repeat(observed.heard, starts, axis=1)  # leaving out what is not heard is no hypothesis
    best, chosen = best_candidate(observed, found, fits, strict=True)
    rows = np.arange(scenes)
    found_one = fits[rows, chosen] & np.isin(best.status, ("ok", "ambiguous"))
    return best, kept[rows, chosen // starts], found_one, found.cost[rows, chosen]


def _refit(observed: Observations, fix: Fix) -> Fix:
    """Least squares from a fix with the delays that are heard, where that leads to one."""
    start = np.stack([fix.latitude_deg, fix.longitude_deg], axis=-1)[:, None]
    found = descend(observed, start, robust=False)
    spread = np.sqrt(np.trace(found.covariance[:, 0], axis1=1, axis2=2))
    better = found.observed[:, 0] & (spread < MAX_RANGE_M[observed.propagation])
    refitted = fix._replace(
        latitude_deg=found.latitude_deg[:, 0],
        longitude_deg=found.longitude_deg[:, 0],
        height_m=found.height_m[:, 0],
        covariance=found.covariance[:, 0],
    )
    return Fix(*where_rows(better, refitted, fix))


def _with_rows(values: Array, rows: Array, new: Array) -> Array:
    """Values with others in some rows."""
    changed = values.astype(np.result_type(values, new), copy=True)
    changed[rows] = new
    return changed
