"""Recordings of a dataset: which scenes share clocks, when they were, and what is known of these clocks."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import Array, batch_slices
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema
from heimdall_lab.localization import delay_law
from heimdall_lab.localization.joint.clock_rates import with_rates
from heimdall_lab.localization.joint.pseudo_ranges import Recordings
from heimdall_lab.localization.observations import CAUSES, Observations
from heimdall_lab.localization.shared_clocks import (
    clock_rate_sigma,
    rows_of_recordings,
    shared_clock_variance_m2,
    window_clock_variance_m2,
)

_CLOCKS = CAUSES.index("clocks")
_LEAST_SIGMA_M = 1.0  # of a link on time
_BATCH_LINKS = 2**15  # that are solved at a time


def recordings_of(observed: Observations, dataset: xr.Dataset) -> Iterator[tuple[Array, Recordings]]:
    """Recordings of as many emissions each together, some at a time, and which scenes they are: rows (B, S)."""
    for rows in rows_of_recordings(dataset):
        links = rows.shape[1] * dataset.sizes["receiver"]
        for part in batch_slices(len(rows), _BATCH_LINKS // links):
            yield rows[part], _gathered(observed, dataset, rows[part])


def reported_places(dataset: xr.Dataset) -> tuple[Array, Array]:
    """Which scenes are references, (S,) bool, and latitude and longitude (S, 2) of these, else NaN."""
    is_known = schema.references(dataset)
    if not is_known.any():
        return is_known, np.full((len(is_known), 2), np.nan)
    place = np.stack([dataset[f"reported_{name}"].values for name in ("latitude", "longitude")], axis=-1)
    return is_known, np.where(is_known[:, None], place, np.nan)


def _gathered(observed: Observations, dataset: xr.Dataset, rows: Array) -> Recordings:
    """Gather recordings of scenes (B, S)."""
    count, emissions = rows.shape

    def of_rows(values: Array) -> Array:
        return values[rows.ravel()].reshape(count, emissions, *values.shape[1:])

    each_m2 = of_rows(observed.variance_m2)
    clock_m2 = shared_clock_variance_m2(each_m2[..., _CLOCKS], dataset.attrs)
    variance = each_m2.sum(axis=-1) - each_m2[..., _CLOCKS] + window_clock_variance_m2(dataset.attrs)
    if observed.expects_late:  # late ones are as false ones to the solution, and their law refines the fixes
        late = observed.nlos_ratio, observed.nlos_excess_m
        variance = np.square(delay_law.on_time_sigma(np.sqrt(variance), *late, least=_LEAST_SIGMA_M))
    measured = of_rows(observed.pseudorange_m)
    used = of_rows(observed.heard) & np.isfinite(measured) & np.isfinite(variance)
    known_m2 = np.where(np.isfinite(clock_m2), clock_m2, 0.0).max(axis=1)
    receivers = used.shape[-1]
    is_known, place = reported_places(dataset)
    recordings = Recordings(
        latitude_deg=of_rows(observed.latitude_deg),
        longitude_deg=of_rows(observed.longitude_deg),
        altitude_m=of_rows(observed.altitude_m),
        measured_m=np.where(used, measured, 0.0),
        variance_m2=np.where(used, variance, 1.0),
        used=used,
        is_known=of_rows(is_known),
        place_deg=of_rows(place),
        height_m=of_rows(observed.height_m),
        height_sigma_m=of_rows(observed.height_sigma_m),
        basis=np.ones((count, emissions, 1)),
        span_s=np.ones(count),
        clock_mean_m=np.zeros((count, receivers)),
        clock_information=np.eye(receivers) / np.where(known_m2 > 0, known_m2, 1.0)[:, None],
        propagation=observed.propagation,
    )
    if emissions == 1 or "recording_time" not in dataset:
        return recordings
    sigma_m_s = clock_rate_sigma(dataset.attrs) * SPEED_OF_LIGHT
    measured_m_s = of_rows(_rates_m_s(dataset)) if dataset.attrs.get("one_crystal", 0) else None
    return with_rates(recordings, of_rows(dataset["recording_time"].values), sigma_m_s, measured_m_s)


def _rates_m_s(dataset: xr.Dataset) -> Array:
    """Rates (S, R) of clocks but for that of the reference, as frequencies tell them where one crystal shifts both."""
    stated_hz = dataset.attrs["centre_frequency_hz"]
    carrier_hz = dataset["centre_frequency"].values[:, None] if "centre_frequency" in dataset else stated_hz
    shift_hz = dataset["fdoa_hz"].values
    is_reference = np.arange(shift_hz.shape[1]) == dataset["reference_receiver"].values[:, None]
    return -np.where(is_reference, 0.0, shift_hz) / carrier_hz * SPEED_OF_LIGHT
