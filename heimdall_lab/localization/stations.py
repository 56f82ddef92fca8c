"""Stations of recordings that a fix does better without: too far away, unlike the others, or in contradiction to them.

Each is left out with its reason, if enough others remain. Simulated datasets, and tables without signals, are taken as
they are.
"""

import json
from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.core.text import length_text, microseconds_text
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization.observations import MAX_RANGE_M, from_dataset
from heimdall_lab.localization.tdoa import tdoa_robust
from heimdall_lab.signals import chance, measurements

LEFT_OUT = "left_out"  # attribute of datasets and fixes: names and reasons, as JSON
_FEWEST = 3  # stations that a position by delays takes
_FEWEST_TO_EXCLUDE = 5  # delays, of which one can be told to be at fault
_MAJORITY = 0.5  # share of windows from which a station is at fault in all

_Test = Callable[[xr.Dataset], dict[int, str]]


def left_out(dataset: xr.Dataset) -> dict[str, str]:
    """Reasons why stations of a dataset, or of fixes, are left out, by their names."""
    found: dict[str, str] = json.loads(dataset.attrs.get(LEFT_OUT, "{}"))
    return found


def without_bad_stations(dataset: xr.Dataset) -> xr.Dataset:
    """Leave out the stations of recordings that contradict the others, and say why in the attribute ``left_out``.

    Left out are stations that are further from the others than two receivers of one transmitter can be; whose signal
    has no more in common with the others' than by chance; and whose delay contradicts those of four others or more, in
    most windows. Those that hear nothing are named.

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
    for test in (_far_away, _unlike, _contradicting):
        for _ in range(dataset.sizes["receiver"]):  # without one, another one shows
            present = dataset.receiver_present.values.any(axis=0)
            found = {receiver: reason for receiver, reason in test(dataset).items() if present[receiver]}
            if not found or present.sum() - len(found) < _FEWEST:
                break
            reasons |= {str(dataset.receiver_name.values[receiver]): reason for receiver, reason in found.items()}
            dataset = measurements.without_receivers(dataset, list(found))
    reasons = dict(_unheard(dataset)) | reasons
    return dataset.assign_attrs({LEFT_OUT: json.dumps(reasons)}) if reasons else dataset


def _far_away(dataset: xr.Dataset) -> dict[int, str]:
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
    return {
        furthest: f"its place is {length_text(distance_m[furthest])} from the middle of the stations, and one "
        f"transmitter is heard by stations within {length_text(reach_m)}"
    }


def _distances(latitude: Array, longitude: Array, middle_latitude: Array, middle_longitude: Array) -> Array:
    known = np.isfinite(latitude)
    places = np.broadcast_arrays(latitude, longitude, middle_latitude, middle_longitude)
    distance_m = np.full(latitude.shape, np.nan)
    distance_m[known] = geodesy.geodesic(*(degrees[known] for degrees in places))[0]
    return distance_m


def _unlike(dataset: xr.Dataset) -> dict[int, str]:
    """Stations whose signals have nothing in common with the reference's; where most have not, it is the reference."""
    heard, reference = dataset.heard.values, dataset.reference_receiver.values
    is_reference = np.arange(heard.shape[1]) == reference[:, None]
    hears = dataset.receiver_present.values & (dataset.snr_db.values >= dataset.attrs["min_snr_db"]) & ~is_reference
    alien = (chance.is_by_chance(dataset) | ~heard) & hears
    most = (alien.sum(axis=1) > hears.sum(axis=1) / 2) & (hears.sum(axis=1) > 1)
    alien = np.where(most[:, None], is_reference, alien)
    judged = (hears | is_reference).sum(axis=0)
    bad = alien.sum(axis=0) > _MAJORITY * np.maximum(judged, 1)
    reason = (
        "its signal has no more in common with the others' than by chance, at any delay that clocks and places allow"
    )
    return dict.fromkeys(np.flatnonzero(bad).tolist(), reason)


def _contradicting(dataset: xr.Dataset) -> dict[int, str]:
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
    return {
        receiver: "its delays contradict the others', as by a wrong clock or place: by "
        f"{microseconds_text(_median_size(error_s, excluded, receiver))}"
        for receiver in np.flatnonzero(bad).tolist()
    }


def _median_of_rows(values: Array) -> Array:
    known = np.isfinite(values).any(axis=1)
    middle = np.full((len(values), 1), np.nan)
    middle[known, 0] = np.nanmedian(values[known], axis=1)
    return middle


def _median_size(values: Array, chosen: Array, receiver: int) -> float:
    return float(np.median(np.abs(values[chosen[:, receiver], receiver])))


def _unheard(dataset: xr.Dataset) -> Iterator[tuple[str, str]]:
    """Stations that no delay is measured of in some window, and why."""
    present, heard = dataset.receiver_present.values, dataset.heard.values
    silent = present & ~(dataset.snr_db.values >= dataset.attrs["min_snr_db"])
    rival = (
        present & np.isfinite(dataset["rival_delay_s"].values) if "rival_delay_s" in dataset else np.zeros_like(silent)
    )
    missing = present & ~heard | rival
    for receiver in np.flatnonzero(missing.any(axis=0)).tolist():
        lost, windows = int(missing[:, receiver].sum()), int(present[:, receiver].sum())
        reasons = {
            "it hears no signal": silent[:, receiver],
            "its delay has rivals that fit as well": rival[:, receiver],
        }
        likely = (reason for reason, where in reasons.items() if where.sum() * 2 >= lost)
        why = next(likely, "no delay that is possible is seen")
        where = "" if lost == windows else f"in {lost:,} of {windows:,} windows "
        yield str(dataset.receiver_name.values[receiver]), f"{where}{why}"
