"""What recordings tell of the clocks of their receivers."""

from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import stations
from heimdall_lab.localization.joint.calibration import Calibration, calibrate
from heimdall_lab.localization.joint.recordings import recordings_of
from heimdall_lab.localization.observations import from_dataset
from heimdall_lab.localization.shared_clocks import rows_of_recordings
from heimdall_lab.signals.measurements import with_measurements

_VARIABLES = {
    "offset": ("s", "clock ahead of the mean of its component, in the middle of the recording"),
    "offset_std": ("s", "standard deviation of that"),
    "rate": ("1", "growth of the offset"),
    "rate_std": ("1", "standard deviation of that"),
}


def clocks(dataset: xr.Dataset, *, strict: bool = False) -> xr.Dataset:
    """Say how far the clocks of receivers are apart in each recording, as its emissions tell it jointly.

    Known and unknown transmitters calibrate the network alike: it is the solution that `locate` takes with
    ``tdoa_joint``. What all clocks of a recording have in common shows in no difference of arrival times, so that they
    are told against their mean.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract, with IQ or what was measured of it; truth variables are not read.
    strict : bool
        As of `locate`.

    Returns
    -------
    xr.Dataset
        Dims ``recording`` (its numbers; without them each sample is one) and ``receiver``: ``offset`` and
        ``offset_std`` in s, positive where a clock is ahead, so that arrivals seem late, in the middle between the
        times of the emissions; ``rate`` and ``rate_std``, by how much offsets grow, NaN where rates are not among the
        unknowns; ``observable``, whether the clock can be compared with those of its ``component``, receivers that
        share emissions, counted from 0, −1 where a receiver hears nothing. NaN where a clock is not observable. Dim
        ``recording``: ``emissions``, how many were solved, and ``references``, of which the position was known.

    Raises
    ------
    ValueError
        If the dataset breaks the contract, or holds no samples.

    Source: Wang and Ho, IEEE Trans. Signal Process. 61 (2013).
    """
    if dataset.sizes["sample"] == 0:
        raise ValueError("dataset: holds no samples; give at least one")
    dataset = with_measurements(dataset)
    dataset = dataset if strict else stations.without_bad_stations(dataset)
    observed = from_dataset(dataset)
    first = np.concatenate([rows[:, 0] for rows in rows_of_recordings(dataset)])
    numbers = dataset["recording"].values[first] if "recording" in dataset else dataset["sample"].values[first]
    parts = [
        _told(calibrate(observed.select(rows.ravel()), recordings))
        for rows, recordings in recordings_of(observed, dataset)
    ]
    found = xr.concat(parts, dim="recording").assign_coords(
        recording=numbers, receiver=dataset["receiver"], receiver_name=dataset["receiver_name"]
    )
    return found.sortby("recording")


def _told(calibration: Calibration) -> xr.Dataset:
    """What calibrated recordings tell of their clocks, one row each."""
    recordings, said = calibration.recordings, calibration.observability
    count, _, receivers = recordings.used.shape
    order = recordings.basis.shape[-1]
    clocks = calibration.solution.clocks.reshape(count, receivers, order)
    root = calibration.clock_root.reshape(count, receivers, order, receivers * order)
    same = said.is_clock_told[:, :, None] & said.is_clock_told[:, None]
    same &= said.component[:, :, None] == said.component[:, None]
    against_mean = np.eye(receivers) - same / np.maximum(same.sum(axis=-1, keepdims=True), 1)
    units_m = np.ones((count, 1)), recordings.span_s[:, None]
    values: dict[str, Array] = {
        "rate": np.full((count, receivers), np.nan),
        "rate_std": np.full((count, receivers), np.nan),
    }
    for number, (name, unit) in enumerate(zip(("offset", "rate")[:order], units_m, strict=False)):
        std_m = np.sqrt(((against_mean @ root[:, :, number]) ** 2).sum(axis=-1))
        mean_m = (against_mean @ clocks[..., number, None])[..., 0]
        values[name] = np.where(said.is_clock_told, mean_m / unit / SPEED_OF_LIGHT, np.nan)
        values[f"{name}_std"] = np.where(said.is_clock_told, std_m / unit / SPEED_OF_LIGHT, np.nan)
    links = "recording", "receiver"
    variables: dict[str, Any] = {
        name: (links, values[name], {"units": units, "long_name": meaning})
        for name, (units, meaning) in _VARIABLES.items()
    }
    heard = recordings.used.any(axis=-1)
    known = heard & recordings.is_known
    counts = {"emissions": (heard, "that were solved"), "references": (known, "of these from known places")}
    variables |= {
        name: ("recording", values.sum(axis=1), {"units": "1", "long_name": f"emissions {meaning}"})
        for name, (values, meaning) in counts.items()
    }
    return xr.Dataset(variables).assign(
        observable=(links, said.is_clock_told, {"long_name": "can be compared with its component"}),
        component=(links, said.component, {"units": "1", "long_name": "number of receivers that share emissions"}),
    )
