"""The estimator: batches of scenes are searched, refined, and the most likely position of each is taken."""

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.localization import baselines, integrity, observations
from heimdall_lab.localization.dpd.correlations import correlate_pairs, delay_sigma_s
from heimdall_lab.localization.dpd.eigenvalues import largest_eigenvalues
from heimdall_lab.localization.dpd.refinement import refine
from heimdall_lab.localization.dpd.search import grid_delays, position_grid, search
from heimdall_lab.localization.dpd.whitening import whiten
from heimdall_lab.localization.integrity import Evidence
from heimdall_lab.localization.observations import MAX_RANGE_M, Fix, Observations
from heimdall_lab.signals.measurements import with_measurements

_BATCH_IQ_SAMPLES = 2**20
_EQUAL_LOG_LIKELIHOOD = 0.5  # maxima that differ by less are equally likely


def dpd(observed: Observations, dataset: xr.Dataset) -> tuple[Fix, Evidence]:
    """Most likely position given the IQ of all receivers; waveform, phases and frequency offsets are unknown.

    For every position the delays that it implies are taken off the whitened signals. The largest eigenvalue of their
    Gram matrix, in which a frequency weighs by its share of signal, is the log likelihood. It is maximized together
    with one delay error a receiver, normal with the standard deviation of clock and path: where these exceed the error
    by noise, the eigenvalue alone would trust the strongest receivers too much.

    It is no fix if no more than two receivers agree better than by chance, if clocks (ntp, none) or paths err by more
    than the main lobe of the correlation is wide, or if it is uncertain by more than receivers can hear.

    Raises
    ------
    ValueError
        If the dataset holds no IQ.

    Source: Weiss, "Direct position determination of narrowband radio frequency transmitters", IEEE Signal Process.
    Lett. 11 (2004); frequency offsets as Amar and Weiss, IEEE Trans. Signal Process. 56 (2008), but each
    receiver's own.
    """
    _require_iq(dataset)
    per_batch = _BATCH_IQ_SAMPLES // (dataset.sizes["receiver"] * dataset.sizes["time"])
    fix = Fix.concatenate(
        _locate_batch(batch, dataset.isel(sample=rows).load(), dataset.fdoa_hz.values[rows])
        for rows, batch in observed.batches(per_batch)
    )
    fix = baselines.centroid_where(np.isnan(fix.latitude_deg), fix, observed)
    return fix, integrity.delays(observed, fix, observed.heard, is_least_squares=False, least_scale=1.0)


def likelihood(scene: xr.Dataset, side: int = 201) -> xr.DataArray:
    """Log likelihood of the transmitter's position in one scene, over that of the best position on the map.

    Parameters
    ----------
    scene : xr.Dataset
        One sample of a dataset with IQ, without the dimension ``sample``.
    side : int
        Positions along each axis.

    Returns
    -------
    xr.DataArray
        Dims (north, east), m on the tangent plane at the centroid of the present receivers, the plane of
        `estimators.locate`. Clocks and paths are taken as perfect.

    Raises
    ------
    ValueError
        If the scene holds no IQ or is more than one, or the map has fewer than two positions along an axis.
    """
    if "sample" in scene.dims:
        raise ValueError(f"scene: holds {scene.sizes['sample']} samples; choose one with .isel(sample=0)")
    _require_iq(scene)
    if side < 2:
        raise ValueError(f"side: {side} positions span no map; give at least 2")
    dataset = with_measurements(scene.expand_dims("sample").transpose("sample", "receiver", ...))
    observed = observations.from_dataset(dataset)
    signals = whiten(dataset)
    found = search(observed, dataset, signals, dataset.fdoa_hz.values)
    table = correlate_pairs(observed, dataset, signals, found.frequency_hz)
    plane, axis_m = position_grid(observed, side)
    delay = grid_delays(observed, plane, dataset.attrs["sample_rate_hz"])
    value = largest_eigenvalues(table, delay)[0].reshape(side, side)
    return xr.DataArray(
        value - value.max(),
        {name: (name, axis_m[0], {"units": "m"}) for name in ("north", "east")},
        ("north", "east"),
        "log_likelihood",
        {"units": "1", "long_name": "log likelihood over that of the best position"},
    )


def _require_iq(dataset: xr.Dataset) -> None:
    """Raise ValueError if there is no IQ."""
    if "iq" not in dataset:
        raise ValueError("iq: is missing; dpd needs a dataset of iq_raw, so choose another method")


def _locate_batch(observed: Observations, batch: xr.Dataset, fdoa_hz: Array) -> Fix:
    """Fixes of one batch of scenes."""
    rate_hz = batch.attrs["sample_rate_hz"]
    signals = whiten(batch)
    sigma_s = delay_sigma_s(batch)
    found = search(observed, batch, signals, fdoa_hz)
    table = correlate_pairs(observed, batch, signals, found.frequency_hz)
    latitude, longitude, covariance, value = refine(observed, table, found.start, sigma_s * rate_hz, rate_hz)  # (S, K)
    centre = baselines.receivers_centroid(observed)
    distance, _ = geodesy.geodesic(latitude, longitude, centre.latitude_deg[:, None], centre.longitude_deg[:, None])
    spread = np.sqrt(np.trace(covariance, axis1=-2, axis2=-1))
    value = np.where(np.maximum(distance, spread) < MAX_RANGE_M[observed.propagation], value, -np.inf)
    # Of equally likely maxima, the one nearest the receivers is taken.
    equal = value >= value.max(axis=1, keepdims=True) - _EQUAL_LOG_LIKELIHOOD
    best = np.arange(len(value)), np.where(equal, distance, np.inf).argmin(axis=1)
    # Delay errors of one radian at the rms bandwidth leave the main lobe of the correlation; unknown ones may.
    in_lobe = (2 * np.pi * signals.rms_hz[:, None] * sigma_s < 1).all(axis=1)
    reached = found.detected & np.isfinite(value[best])
    status = np.select([~found.detected, ~in_lobe, ~reached], ["noise", "clocks", "unobserved"], "ok")
    latitude, longitude = (np.where(reached, degrees[best], np.nan) for degrees in (latitude, longitude))
    return baselines.fix_without_rivals(latitude, longitude, covariance[best], status)
