"""Positions by differences of range, vectorised over samples: closed form, descents from starts, and the best of these.

Source: Schau and Robinson, IEEE Trans. ASSP 35 (1987); Levenberg-Marquardt after Nocedal and Wright, Numerical
Optimization, 2nd ed., section 10.3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array, where_rows
from heimdall_lab.localization import information, level_law
from heimdall_lab.localization.baselines import receivers_centroid
from heimdall_lab.localization.observations import (
    MAX_RANGE_M,
    MAX_RIVALS,
    Fix,
    Observations,
    distances,
    normal_matrix,
)

RIVAL_CHI_SQUARED = 2 * np.log(19)  # by which a fix is 95 % certain against one other
SEPARATE_SIGMAS = 5.0  # from which two fixes are distinct
CAUCHY_SCALE = 2.385  # standard deviations; 95 % efficient on normal errors (Holland and Welsch, 1977)
_MAX_STEPS = 40
_SAME_PLACE_M = 1.0  # within which two descents have ended at one place
_LEAST_FROM_LINE = 0.25  # of the receivers' extent, that starts to either side of their line are away from it
_LEAST_EIGENVALUE = 1e-9  # smallest eigenvalue of a balanced information from which a direction is not observed


class Candidates(NamedTuple):
    """Where descents from several starts ended."""

    latitude_deg: Array  # (S, K)
    longitude_deg: Array  # (S, K)
    height_m: Array  # (S, K), that of `Observations`
    covariance: Array  # (S, K, 2, 2) m²
    cost: Array  # (S, K), of the delays and of the height
    level_cost: Array  # (S, K)
    residual: Array  # (S, K, R), normalised
    observed: Array  # (S, K) bool, whether the descent has ended and every direction is observed

    def join(self, other: "Candidates") -> "Candidates":
        """More candidates of the same scenes."""
        return Candidates(*(np.concatenate(pair, axis=1) for pair in zip(self, other, strict=True)))


def closed_form(observed: Observations) -> Array:
    """Both spherical-intersection solutions on the tangent plane at the centroid: (S, 2, 2) latitude and longitude.

    Source: Schau and Robinson, "Passive source localization employing intersecting spherical surfaces from
    time-of-arrival differences", IEEE Trans. ASSP 35 (1987).
    """
    centre = receivers_centroid(observed)
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    plane = geodesy.enu(position, centre.latitude_deg, centre.longitude_deg)[..., :2]
    # From the reference, or another one where its delay is left out.
    first, reference = observed.heard.argmax(axis=1)[:, None], observed.reference[:, None]
    datum = np.where(np.take_along_axis(observed.heard, reference, axis=1), reference, first)
    origin = np.take_along_axis(plane, datum[..., None], axis=1)
    others = observed.heard & (np.arange(plane.shape[1]) != datum)
    weight = np.where(others, 1 / observed.sigma_m, 0.0)
    offset = np.where(others[..., None], plane - origin, 0.0)
    difference = observed.pseudorange_m - np.take_along_axis(observed.pseudorange_m, datum, axis=1)
    difference = np.where(others, difference, 0.0)
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


def descend_twice(observed: Observations, starts: Array, *, robust: bool) -> Candidates:
    """Descend from every start (S, K, 2), and from either side of the receivers' line beside the best of these.

    Receivers on a line, or nearly so, have mirror images that fit as well, and on the line itself no slope leads away.
    """
    found = descend(observed, starts, robust=robust)
    best = np.where(found.observed, found.cost + found.level_cost, np.inf).argmin(axis=1)
    rows = np.arange(len(best))
    beside = beside_line(observed, found.latitude_deg[rows, best], found.longitude_deg[rows, best])
    return found.join(descend(observed, beside, robust=robust))


def descend(observed: Observations, starts: Array, *, robust: bool) -> Candidates:
    """Levenberg-Marquardt steps from (S, K, 2) degrees in east, north, height and the receivers' common range offset.

    The cost is the sum of squared (or Cauchy) normalised residuals, that of the height included.
    """
    shape = starts.shape[:2]
    observed, start = observed.repeat(shape[1]), starts.reshape(-1, 2)
    used = observed.heard
    sigma = np.where(used, observed.sigma_m, 1.0)
    measured = np.where(used, observed.pseudorange_m, 0.0)
    beforehand_m, height_sigma_m = observed.height_m, observed.height_sigma_m
    known = np.zeros((len(start), 4, 4))
    known[:, 2, 2] = 1 / height_sigma_m**2

    def residuals(place: Sequence[Array], offset: Array) -> tuple[Array, Array, Array, Array]:
        ranges, gradient = distances(observed, *place)
        normalised = np.where(used, (measured - ranges - offset[:, None]) / sigma, 0.0)
        square = normalised**2
        loss = CAUCHY_SCALE**2 * np.log1p(square / CAUCHY_SCALE**2) if robust else square
        influence = 1 / (1 + square / CAUCHY_SCALE**2) if robust else np.ones_like(square)
        return normalised, gradient, influence, loss.sum(axis=1) + ((place[2] - beforehand_m) / height_sigma_m) ** 2

    place: Sequence[Array] = (start[:, 0], start[:, 1], beforehand_m)
    offset = np.nan_to_num(_lower_median(np.where(used, measured - distances(observed, *place)[0], np.nan)))
    normalised, gradient, influence, cost = residuals(place, offset)
    damping = np.full(len(start), 1e-3)
    step_m = np.full(len(start), np.inf)
    for _ in range(_MAX_STEPS):
        of_delays, jacobian = normal_matrix(gradient, influence, used, sigma)
        scaled = (of_delays + known) * (1 + damping[:, None, None] * np.eye(4))
        right = ((influence * normalised)[:, None] @ jacobian)[:, 0]
        right[:, 2] += (beforehand_m - place[2]) / height_sigma_m**2
        step = _solve_damped(scaled, right)
        latitude, longitude = geodesy.displace(place[0], place[1], step[:, 0], step[:, 1])
        trial = (latitude.clip(-89.9, 89.9), longitude, place[2] + step[:, 2]), offset + step[:, 3]
        outcome = residuals(*trial)
        better = outcome[3] <= cost
        step_m = np.where(better, np.hypot(step[:, 0], step[:, 1]), step_m)
        damping = np.where(better, damping / 5, damping * 5).clip(1e-9, 1e9)
        *place, offset, normalised, gradient, influence, cost = where_rows(
            better, (*trial[0], trial[1], *outcome), (*place, offset, normalised, gradient, influence, cost)
        )
        if (step_m < 1e-3).all():
            break
    covariance, is_observed = _covariance(normal_matrix(gradient, influence, used, sigma)[0] + known)
    settled = is_observed & (step_m < 0.01 * np.sqrt(np.trace(covariance, axis1=1, axis2=2)))
    found = Candidates(
        latitude_deg=place[0],
        longitude_deg=place[1],
        height_m=place[2],
        covariance=covariance,
        cost=cost,
        level_cost=level_cost(observed, place[0], place[1]),
        residual=normalised,
        observed=settled & (used.sum(axis=1) >= 3),
    )
    return Candidates(*(values.reshape(*shape, *values.shape[1:]) for values in found))


def _covariance(matrix: Array) -> tuple[Array, Array]:
    """Covariance (S, 2, 2) of east and north by information (S, 4, 4), and where every direction is observed, (S,)."""
    balanced, scale = information.balanced(matrix)
    is_observed = np.linalg.eigvalsh(balanced)[:, 0] > _LEAST_EIGENVALUE
    inverse = np.linalg.inv(np.where(is_observed[:, None, None], balanced, np.eye(4)))
    return (inverse * scale[:, :, None] * scale[:, None, :])[:, :2, :2], is_observed


def best_candidate(
    observed: Observations,
    found: Candidates,
    fits: Array,
    *,
    strict: bool = False,
) -> tuple[Fix, Array]:
    """Choose the candidate of lowest cost, of equals the one nearest the receivers; and which of them it is, (S,).

    Levels do not shape a fix, but help to choose between several: for ranges of kilometres they are precise enough.
    ``fits`` (S, K) says with which enough delays agree. Positions are NaN where none is observed.
    """
    centre = receivers_centroid(observed)
    distance = distance_m(found.latitude_deg, found.longitude_deg, centre.latitude_deg, centre.longitude_deg)
    spread = np.sqrt(np.trace(found.covariance, axis1=2, axis2=3))
    within = found.observed & (distance < MAX_RANGE_M[observed.propagation])
    usable = within & (spread < MAX_RANGE_M[observed.propagation])
    # Those that are no fix come last: a position that is not certain enough, or one that too few delays agree with.
    tiers = np.where(usable & fits, 0, np.where(usable, 1, np.where(within, 2, 3)))
    tier = tiers.min(axis=1)
    cost = np.where(tiers == tier[:, None], found.cost + found.level_cost, np.inf)
    # Costs that differ by less than one unit of χ² fit equally well: with three receivers both intersections do.
    equal = cost <= cost.min(axis=1, keepdims=True) + 1.0
    best = np.where(equal, distance, np.inf).argmin(axis=1)
    rows = np.arange(len(best))
    latitude, longitude = (
        np.where(tier < 3, values[rows, best], np.nan) for values in (found.latitude_deg, found.longitude_deg)
    )
    compared = np.where((tier < 2)[:, None], cost, np.inf)
    others = rivals(found.latitude_deg, found.longitude_deg, found.covariance, compared, best, strict=strict)
    reasons = {
        "silent": ~observed.heard.any(axis=1),
        "unobserved": tier == 3,
        "far": tier == 2,
        "misfit": tier == 1,
        "ambiguous": np.isfinite(others).any(axis=(1, 2)),
    }
    status = np.select(list(reasons.values()), list(reasons), "ok")
    return Fix(latitude, longitude, found.height_m[rows, best], found.covariance[rows, best], status, others), best


def rivals(
    latitude_deg: Array,
    longitude_deg: Array,
    covariance: Array,
    cost: Array,
    best: Array,
    *,
    strict: bool = False,
) -> Array:
    """Latitude and longitude (S, MAX_RIVALS, 2) of candidates that fit as well as the best of each scene, (S,).

    Of positions (S, K) with their covariances (S, K, 2, 2) and costs those that cost little more and are distinct, from
    it and from each other, in the order of cost; NaN beyond their number. Distinct are two that differ by more than
    both are uncertain, or where it is strict than either is.
    """
    rows, places = np.arange(len(cost)), []
    covariance = np.where(np.isfinite(cost)[..., None, None], covariance, np.nan)
    cost, chosen = np.where(cost < cost[rows, best][:, None] + RIVAL_CHI_SQUARED, cost, np.inf), best
    for _ in range(MAX_RIVALS + 1):
        place = latitude_deg[rows, chosen], longitude_deg[rows, chosen]
        places.append(np.where(np.isfinite(cost[rows, chosen])[:, None], np.stack(place, axis=-1), np.nan))
        distance, azimuth_deg = geodesy.geodesic(place[0][:, None], place[1][:, None], latitude_deg, longitude_deg)
        azimuth = np.radians(azimuth_deg)
        offset = distance[..., None] * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=-1)  # (S, K, 2)
        other = covariance[rows, chosen][:, None]
        uncertain = (covariance, other) if strict else (covariance + other,)
        squared = [np.einsum("ski,skij,skj->sk", offset, information.inverse(each), offset) for each in uncertain]
        # An ellipse without width has no inverse, and holds nothing but its own place.
        distinct = np.nan_to_num(np.max(squared, axis=0), nan=np.inf) > SEPARATE_SIGMAS**2
        cost = np.where(distinct & (distance > _SAME_PLACE_M), cost, np.inf)
        chosen = cost.argmin(axis=1)
    return np.stack(places[1:], axis=1)


def beside_line(observed: Observations, latitude: Array, longitude: Array) -> Array:
    """Positions (S, 2, 2) degrees to both sides of the main axis of the receivers, as far from it as a position is.

    And no nearer than a part of their extent.
    """
    centre = receivers_centroid(observed)
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    plane = geodesy.enu(position, centre.latitude_deg, centre.longitude_deg)[..., :2]
    plane = np.where(observed.heard[..., None], plane, 0.0)
    scatter = plane.swapaxes(1, 2) @ plane
    across = np.linalg.eigh(scatter)[1][..., 0]  # (S, 2), of the smaller eigenvalue
    here = geodesy.ecef(latitude, longitude, observed.transmitter_altitude_m)[:, None]
    offset = geodesy.enu(here, centre.latitude_deg, centre.longitude_deg)[:, 0, :2]
    from_line = (offset * across).sum(axis=1, keepdims=True)  # (S, 1) m
    foot = offset - from_line * across
    extent = np.sqrt(np.trace(scatter, axis1=1, axis2=2))[:, None]
    away = np.maximum(np.abs(from_line), _LEAST_FROM_LINE * extent)
    east, north = np.stack([foot + away * across, foot - away * across], axis=1).transpose(2, 0, 1)
    origin = centre.latitude_deg[:, None], centre.longitude_deg[:, None]
    latitude, longitude = geodesy.displace(*origin, east, north)
    return np.stack([latitude.clip(-89, 89), longitude], axis=-1)


def distance_m(latitude: Array, longitude: Array, other_latitude: Array, other_longitude: Array) -> Array:
    """Distances (S, K) of positions (S, K) from one in each scene, (S,)."""
    return geodesy.geodesic(latitude, longitude, other_latitude[:, None], other_longitude[:, None])[0]


def level_cost(observed: Observations, latitude: Array, longitude: Array) -> Array:
    """Cauchy cost of levels about their law with unknown power, (S,); 0 where levels cannot be compared."""
    ranges, _ = distances(observed, latitude, longitude)
    used = observed.heard & np.isfinite(observed.rssi_dbm) & np.isfinite(observed.link_sigma_db)
    loss_db = level_law.loss_db(observed, ranges, observed.transmitter_altitude_m)
    power = np.where(used, observed.rssi_dbm + loss_db, np.nan)
    square = np.where(used, (power - _lower_median(power)[:, None]) / observed.link_sigma_db, 0.0) ** 2
    return CAUCHY_SCALE**2 * np.log1p(square / CAUCHY_SCALE**2).sum(axis=1)


def _solve_damped(matrix: Array, right: Array) -> Array:
    """Solve damped (S, 4, 4) systems for (S, 4); next to nothing where nothing is measured."""
    balanced, scale = information.balanced(matrix)
    regular = balanced + 1e-12 * np.eye(4)
    return np.linalg.solve(regular, (right * scale)[..., None])[..., 0] * scale


def _lower_median(values: Array) -> Array:
    """Lower median along receivers without the NaN, NaN where all are."""
    ascending = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(axis=1)
    middle = np.maximum(count - 1, 0) // 2
    return np.take_along_axis(ascending, middle[:, None], axis=1)[:, 0]
