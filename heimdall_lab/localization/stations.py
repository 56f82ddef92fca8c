"""Stations of recordings that a fix does better without: too far away, unlike the others, or in contradiction to them.

Each is left out with its reason, if enough others remain. Simulated datasets, and tables without signals, are taken as
they are.
"""

import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.core.text import delay_text, length_text
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization.observations import MAX_RANGE_M, from_dataset
from heimdall_lab.localization.tdoa import tdoa_robust
from heimdall_lab.signals import chance, measurements

LEFT_OUT = "left_out"  # attribute of datasets and fixes: names and reasons, as JSON
_FEWEST = 3  # stations that a position by delays takes
_FEWEST_TO_EXCLUDE = 5  # delays, of which one can be told to be at fault
_MAJORITY = 0.5  # share of windows from which a station is at fault in all


class _Fault(NamedTuple):
    """What is wrong with a station."""

    windows: Array  # (S,) bool, in which it is so
    reason: str


_Test = Callable[[xr.Dataset], dict[int, _Fault]]


def left_out(dataset: xr.Dataset) -> dict[str, str]:
    """Reasons why stations of a dataset, or of fixes, are left out, by their names."""
    found: dict[str, str] = json.loads(dataset.attrs.get(LEFT_OUT, "{}"))
    return found


def without_bad_stations(dataset: xr.Dataset) -> xr.Dataset:
    """Leave out the stations of recordings that contradict the others, and say why in the attribute ``left_out``.

    Left out are stations that are further from the others than two receivers of one transmitter can be; whose signal
    has no more in common with the others' than by chance, or is later or earlier than can be; and whose delay
    contradicts those of four others or more, in most windows. A signal that is unlike the others' in less than half of
    the windows is left out of these alone, and not used where too few would remain. Those that hear nothing are named.

    Parameters
    ----------
    dataset : xr.Dataset
        With what was measured of it, as `measurements.with_measurements` returns it.

    Returns
    -------
    xr.Dataset
        With the same receivers, of which those left out are not present; the same one where there is nothing to say.
    """
    if "config" in dataset.attrs or "iq" not in dataset:
        return dataset
    reasons = left_out(dataset)
    dataset, too_far, _ = _without(dataset, _far_away)
    dataset, unlike, unused = _without(dataset, _unlike)
    dataset, contradicting, _ = _without(dataset, _contradicting)
    if unused:
        heard = dataset.heard.values.copy()
        for receiver, fault in unused.items():
            heard[fault.windows, receiver] = False
        dataset = dataset.assign(heard=dataset.heard.copy(data=heard))
    reasons = dict(_unheard(dataset, unused)) | reasons | too_far | unlike | contradicting
    return dataset.assign_attrs({LEFT_OUT: json.dumps(reasons)}) if reasons else dataset


def _without(dataset: xr.Dataset, test: _Test) -> tuple[xr.Dataset, dict[str, str], dict[int, _Fault]]:
    """Leave out what fails a test: the rest, why by names, and faults that stay where too few would remain."""
    reasons: dict[str, str] = {}
    faults: dict[int, _Fault] = {}
    for _ in range(dataset.sizes["receiver"]):  # without one, another one shows
        present, faults = dataset.receiver_present.values, test(dataset)
        absent = _absent(present, faults)
        if not absent.any():
            break
        for receiver in np.flatnonzero(absent.any(axis=0)).tolist():
            where = _in_windows(absent[:, receiver], present[:, receiver])
            reasons[str(dataset.receiver_name.values[receiver])] = where + faults[receiver].reason
        dataset = measurements.without_receivers(dataset, absent)
    return dataset, reasons, faults


def _absent(present: Array, faults: dict[int, _Fault]) -> Array:
    """Where stations present (S, R) are left out for their faults, (S, R) bool: in windows in which enough remain."""
    faulty = np.zeros_like(present)
    for receiver, fault in faults.items():
        faulty[:, receiver] = present[:, receiver] & fault.windows
    enough = (present & ~faulty).sum(axis=1) >= _FEWEST
    return np.where(enough[:, None], faulty, False)


def _in_windows(some: Array, of_all: Array) -> str:
    """Say in how many windows something is so; nothing where it is so in all."""
    count, windows = int(some.sum()), int(of_all.sum())
    return "" if count == windows else f"in {count:,} of {windows:,} windows "


def _far_away(dataset: xr.Dataset) -> dict[int, _Fault]:
    """The station furthest from the middle of all, if it is out of reach of what the others hear."""
    reach_m = 2 * MAX_RANGE_M[dataset.attrs["propagation"]]
    present = dataset.receiver_present.values
    latitude, longitude = (
        np.where(present, dataset[f"receiver_{name}"].values, np.nan) for name in ("latitude", "longitude")
    )
    longitude = np.nanmin(longitude) + (longitude - np.nanmin(longitude) + 180) % 360 - 180
    middle = (np.nanmedian(degrees, axis=1, keepdims=True) for degrees in (latitude, longitude))
    distance_m = np.nan_to_num(_median_of_rows(_distances(latitude, longitude, *middle).T)[:, 0])
    furthest = int(distance_m.argmax())
    if not distance_m[furthest] > reach_m:
        return {}
    reason = (
        f"its place is {length_text(distance_m[furthest])} from the middle of the stations, and one "
        f"transmitter is heard by stations within {length_text(reach_m)}"
    )
    return {furthest: _Fault(present[:, furthest], reason)}


def _distances(latitude: Array, longitude: Array, middle_latitude: Array, middle_longitude: Array) -> Array:
    known = np.isfinite(latitude)
    places = np.broadcast_arrays(latitude, longitude, middle_latitude, middle_longitude)
    distance_m = np.full(latitude.shape, np.nan)
    distance_m[known] = geodesy.geodesic(*(degrees[known] for degrees in places))[0]
    return distance_m


def _unlike(dataset: xr.Dataset) -> dict[int, _Fault]:
    """Stations whose signals are not those of the reference; where most are not, it is the reference."""
    heard, reference = dataset.heard.values, dataset.reference_receiver.values
    is_reference = np.arange(heard.shape[1]) == reference[:, None]
    hears = dataset.receiver_present.values & (dataset.snr_db.values >= dataset.attrs["min_snr_db"]) & ~is_reference
    late_s = np.where(hears, chance.far_delay_s(dataset), np.nan)
    alien = (chance.is_by_chance(dataset) | ~heard | np.isfinite(late_s)) & hears
    most = (alien.sum(axis=1) > hears.sum(axis=1) / 2) & (hears.sum(axis=1) > 1)
    late_s = np.where(most[:, None], np.where(is_reference, _median_of_rows(-late_s), np.nan), late_s)
    alien = np.where(most[:, None], is_reference, alien)
    judged = (hears | is_reference).sum(axis=0)
    everywhere = alien.sum(axis=0) > _MAJORITY * np.maximum(judged, 1)
    return {
        receiver: _Fault(where | everywhere[receiver], _unlike_reason(late_s[where, receiver]))
        for receiver, where in enumerate(alien.T)
        if where.any()
    }


def _unlike_reason(late_s: Array) -> str:
    """Why a station's signal is not the others': of each window, by how much it is too late, or NaN."""
    known_s = late_s[np.isfinite(late_s)]
    if len(known_s) * 2 <= len(late_s):
        nothing = "its signal has no more in common with the others' than by chance"
        return f"{nothing}, at any delay that clocks and places allow"
    middle_s = float(np.median(known_s))
    way = "later" if middle_s > 0 else "earlier"
    return f"its signal is {delay_text(abs(middle_s))} {way} than the others', more than clocks and places allow"


def _contradicting(dataset: xr.Dataset) -> dict[int, _Fault]:
    """Stations whose delays a robust fix by at least four others leaves out."""
    observed = from_dataset(dataset)
    judged = observed.heard.sum(axis=1) >= _FEWEST_TO_EXCLUDE
    if observed.expects_late or not judged.any():
        return {}
    fix, evidence = tdoa_robust(observed)
    judged &= fix.converged
    excluded = observed.heard & ~evidence.used & judged[:, None]
    offset_m = np.where(evidence.used, evidence.residual, np.nan)
    error_s = (evidence.residual - _median_of_rows(offset_m)) / SPEED_OF_LIGHT
    windows = (observed.heard & judged[:, None]).sum(axis=0)
    bad = excluded.sum(axis=0) > _MAJORITY * np.maximum(windows, 1)
    reason = "its delays contradict the others', as by a wrong clock or place: by "
    return {
        receiver: _Fault(
            np.full(len(bad_in), True), reason + delay_text(float(np.median(np.abs(error_s[bad_in, receiver]))))
        )
        for receiver, bad_in in enumerate(excluded.T)
        if bad[receiver]
    }


def _median_of_rows(values: Array) -> Array:
    known = np.isfinite(values).any(axis=1)
    middle = np.full((len(values), 1), np.nan)
    middle[known, 0] = np.nanmedian(values[known], axis=1)
    return middle


def _unheard(dataset: xr.Dataset, unused: dict[int, _Fault]) -> Iterator[tuple[str, str]]:
    """Stations of which no delay is used in some window, and why, as by faults that are known."""
    present, heard = dataset.receiver_present.values, dataset.heard.values
    silent = present & ~(dataset.snr_db.values >= dataset.attrs["min_snr_db"])
    rival = (
        present & np.isfinite(dataset["rival_delay_s"].values) if "rival_delay_s" in dataset else np.zeros_like(silent)
    )
    missing = present & ~heard | rival
    for receiver in np.flatnonzero(missing.any(axis=0)).tolist():
        lost = missing[:, receiver]
        reasons = {"it hears no signal": silent[:, receiver]}
        if receiver in unused:
            reasons[unused[receiver].reason] = lost & unused[receiver].windows
        reasons["its delay has rivals that fit as well"] = rival[:, receiver]
        likely = (reason for reason, where in reasons.items() if where.sum() * 2 >= lost.sum())
        why = next(likely, "no delay that is possible is seen")
        yield str(dataset.receiver_name.values[receiver]), _in_windows(lost, present[:, receiver]) + why
