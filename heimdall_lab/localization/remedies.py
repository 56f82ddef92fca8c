"""What would help a fix most: how much smaller its predicted error would be with a better station, or one more.

Each remedy changes one of the standard deviations of the delays or of the height to what a good station has, or adds
a receiver. The covariance of least squares about the fix, with the measurements weighed anew, says by how much the
variance by each cause changes; the budget of the fix is changed by as much. What windows of one recording share
(clocks, paths, positions, altitude) is not smaller where they are joined: a longer window changes the noise alone.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.core.config import CLOCK_SIGMA_S
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import integrity
from heimdall_lab.localization.integrity import Evidence
from heimdall_lab.localization.methods import OF_RECORDINGS
from heimdall_lab.localization.observations import CAUSES, MAX_RIVALS, Fix, Observations, from_dataset
from heimdall_lab.localization.paths import HEIGHTS

LEAST_GAIN = 0.1  # by which a remedy makes the error smaller, below which it is none
SURVEYED_SIGMA_M = 1.0  # of a receiver's position by a good GNSS receiver that was left to average
LONGER = 4  # times as long a window halves the standard deviations by noise

_GOOD_M2 = {"clocks": (CLOCK_SIGMA_S["gpsdo"] * SPEED_OF_LIGHT) ** 2, "receiver_positions": SURVEYED_SIGMA_M**2}
_WORDS = {  # of one receiver, and of all
    "clocks": ("a GPS clock at {}", "GPS clocks at all receivers"),
    "receiver_positions": ("a surveyed position of {}", "surveyed positions of all receivers"),
}
_WINDOW = f"a window {LONGER} times as long (or {LONGER} joined)"
_HEIGHTS = {  # of what the height is (`paths.HEIGHTS`): as well as it can be known, m, and words
    "altitude": (1.0, "knowing the transmitter's altitude"),
    "ionosphere": (10e3, "knowing the height of reflection to 10 km, as by an ionosonde,"),
}
_DIRECTIONS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
_REMEDIABLE = ("noise", *_GOOD_M2, "height")  # causes that better stations, or knowing more, make smaller
_LEAST_DELAYS = 3  # of which two differences tell a position
_CLOCKS_M2 = (1e-6, 1e14)  # least and largest variance of a clock that other emissions tell, m²
_HALVINGS = 50
_ENOUGH_ALONE = 0.8  # of what a remedy gains at all receivers, from which one of them is named instead


class Remedy(NamedTuple):
    """What would make a fix more certain."""

    words: str
    ratio: float  # of the predicted rms error with it over that without


def remedies(dataset: xr.Dataset, fixes: xr.Dataset) -> list[Remedy | None]:
    """Find what would help the fix of each scene most, be it little; None where nothing is known of its causes.

    A better station or window, or a known altitude, goes before one more receiver, unless it gains less than LEAST_GAIN
    or the largest cause is none that these change. Fixes that rest on levels have none.

    Parameters
    ----------
    dataset : xr.Dataset
        With measured delays, as it was located.
    fixes : xr.Dataset
        Of one method, as `estimators.locate` returns them.
    """
    budget = np.square(fixes.budget.values)  # (S, BUDGET) m²
    is_known = (budget[:, integrity.BUDGET.index("noise")] > 0) & np.isfinite(budget).all(axis=1)
    rows = np.flatnonzero(is_known & (_used(fixes).sum(axis=1) >= _LEAST_DELAYS))
    found: list[Remedy | None] = [None] * len(budget)
    if not len(rows):
        return found
    budget, fix, evidence = budget[rows], *_linearised(from_dataset(dataset).select(rows), fixes.isel(sample=rows))
    if fixes.attrs["method"] in OF_RECORDINGS:
        evidence = _with_clocks_by_budget(budget, fix, evidence)
    names = dataset.receiver_name.values.astype(str).tolist()
    variants = _variants(evidence, names, HEIGHTS[dataset.attrs["propagation"]])
    outcomes = [(kind, text, integrity.predicted_variances(fix, variant)) for kind, text, variant in variants]
    kinds, words, after = zip(*outcomes, strict=True)
    before = integrity.predicted_variances(fix, evidence)
    change = np.where(before > 0, budget / np.where(before > 0, before, 1.0), 0.0)
    ratio = np.sqrt(np.einsum("sb,ksb->sk", change, np.stack(after)) / budget.sum(axis=1)[:, None])
    for row, largest, ratio_of_row in zip(rows.tolist(), budget.argmax(axis=1).tolist(), ratio, strict=True):
        best = _best(np.array(kinds), ratio_of_row, largest)
        found[row] = Remedy(words[best], float(ratio_of_row[best]))
    return found


def _best(kinds: Array, ratio: Array, largest_cause: int) -> int:
    """Choose of one scene's remedies (K,); the last of a kind at the receivers is at all of them."""
    candidates = [int(np.flatnonzero(kinds == kind)[0]) for kind in ("noise", "height")]
    for kind in _GOOD_M2:
        *each, everywhere = np.flatnonzero(kinds == kind).tolist()
        one = min(each, key=lambda index: ratio[index])
        candidates.append(one if 1 - ratio[one] >= _ENOUGH_ALONE * (1 - ratio[everywhere]) else everywhere)
    gains_enough = ratio[candidates].min() < 1 - LEAST_GAIN
    if not gains_enough or integrity.BUDGET[largest_cause] not in _REMEDIABLE:
        candidates += np.flatnonzero(kinds == "receiver").tolist()
    return min(candidates, key=lambda index: float(ratio[index]))


def _variants(evidence: Evidence, names: list[str], height: str) -> Iterator[tuple[str, str, Evidence]]:
    """What each remedy is of, its words, and the measurements with it; the last receivers are those to be added."""
    variance, used, count = evidence.variance, evidence.used, len(names)
    every = np.arange(variance.shape[1])
    for kind, good_m2 in _GOOD_M2.items():
        cause, (one, everywhere) = CAUSES.index(kind), _WORDS[kind]
        better = np.minimum(variance[..., cause], good_m2)
        chosen = [(one.format(name), every == receiver) for receiver, name in enumerate(names)]
        for words, receivers in [*chosen, (everywhere, every < count)]:
            changed = variance.copy()
            changed[..., cause] = np.where(receivers, better, changed[..., cause])
            yield kind, words, evidence._replace(variance=changed)
    factor = np.where(np.array(CAUSES) == "noise", 1 / LONGER, 1.0)
    yield "noise", _WINDOW, evidence._replace(variance=variance * factor)
    sigma_m, words = _HEIGHTS[height]
    yield "height", words, evidence._replace(height_sigma_m=np.minimum(evidence.height_sigma_m, sigma_m))
    for number, direction in enumerate(_DIRECTIONS):
        words = f"one more receiver, as good as the others, {direction} of the transmitter"
        yield "receiver", words, evidence._replace(used=used | (every == count + number))


def _with_clocks_by_budget(budget: Array, fix: Fix, evidence: Evidence) -> Evidence:
    """Clocks as independent as noise is, with the variance that makes their share of the fix what its budget says.

    They are known by other emissions of the recording, far better than what is known of them beforehand.
    """
    clocks, noise = (CAUSES.index(name) for name in ("clocks", "noise"))

    def with_clocks(log_m2: Array) -> Evidence:
        variance = evidence.variance.copy()
        variance[..., clocks] = np.exp(log_m2)[:, None]
        return evidence._replace(variance=variance)

    low, high = (np.full(len(budget), np.log(value_m2)) for value_m2 in _CLOCKS_M2)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        predicted = integrity.predicted_variances(fix, with_clocks(middle))
        is_less = predicted[:, clocks] * budget[:, noise] < budget[:, clocks] * predicted[:, noise]
        low, high = np.where(is_less, middle, low), np.where(is_less, high, middle)
    return with_clocks((low + high) / 2)


def _used(fixes: xr.Dataset) -> Array:
    """Receivers whose measurements fixes rest on, (S, R) bool."""
    used: Array = (fixes.receiver_budget.transpose("sample", "receiver", "cause").values > 0).any(axis=-1)
    return used


def _linearised(observed: Observations, fixes: xr.Dataset) -> tuple[Fix, Evidence]:
    """Delays that fixes rest on, linear about these, with one unused receiver more in each of the directions."""
    used = _used(fixes)
    name = "reflection_height_m" if observed.propagation == "sky_wave" else "altitude_m"
    latitude, longitude, height_m = (fixes[name].values for name in ("latitude", "longitude", name))
    rivals = np.full((len(used), MAX_RIVALS, 2), np.nan)
    fix = Fix(latitude, longitude, height_m, fixes.covariance.values, np.full(len(used), "ok"), rivals)
    more = _with_more_receivers(observed, fix, used)
    unused = np.zeros((len(used), len(_DIRECTIONS)), dtype=bool)
    return fix, integrity.delays(more, fix, np.concatenate([used, unused], axis=1))


def _with_more_receivers(observed: Observations, fix: Fix, used: Array) -> Observations:
    """Add a receiver in each of the directions, in the median as far from the fix as those used, and as good."""

    def median(values: Array) -> Array:
        """Of values (S, R, ...) over the receivers used, (S, 1, ...)."""
        mask = used.reshape(*used.shape, *[1] * (values.ndim - 2))
        return np.nanmedian(np.where(mask, values, np.nan), axis=1, keepdims=True)

    distance_m = median(
        geodesy.geodesic(
            fix.latitude_deg[:, None], fix.longitude_deg[:, None], observed.latitude_deg, observed.longitude_deg
        )[0]
    )
    azimuth_deg = np.arange(len(_DIRECTIONS)) * 360 / len(_DIRECTIONS)
    place = geodesy.destination(fix.latitude_deg[:, None], fix.longitude_deg[:, None], azimuth_deg, distance_m)
    each = np.ones_like(place[0])
    of_new = {
        "latitude_deg": place[0],
        "longitude_deg": place[1],
        "altitude_m": median(observed.altitude_m) * each,
        "pseudorange_m": 0 * each,
        "sigma_m": each,
        "variance_m2": median(observed.variance_m2) * each[..., None],
    }
    arrays: dict[str, Any] = {
        name: np.concatenate([values, of_new.get(name, np.repeat(values[:, :1], len(_DIRECTIONS), axis=1))], axis=1)
        for name, values in observed._asdict().items()
        if isinstance(values, np.ndarray) and values.ndim > 1
    }
    return observed._replace(**arrays)
