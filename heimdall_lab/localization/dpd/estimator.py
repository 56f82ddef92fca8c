"""The estimator: batches of scenes are searched, refined, and the most likely position of each is taken."""

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import baselines, observations, tdoa
from heimdall_lab.localization.dpd.correlations import correlate_pairs, delay_sigma_s, noise_energy
from heimdall_lab.localization.dpd.eigenvalues import largest_eigenvalues
from heimdall_lab.localization.dpd.refinement import Summits, refine
from heimdall_lab.localization.dpd.search import grid_delays, position_grid, search
from heimdall_lab.localization.dpd.verification import LeaveOneOut, leave_one_out_delays, misfit, probability
from heimdall_lab.localization.dpd.whitening import whiten
from heimdall_lab.localization.observations import MAX_RANGE_M, Fix, Observations
from heimdall_lab.signals.measurements import with_measurements

_BATCH_IQ_SAMPLES = 2**20
_EQUAL_LOG_LIKELIHOOD = 0.5  # maxima that differ by less are equally likely
_RIVAL_LOG_LIKELIHOOD = np.log(19)  # by which a fix is 95 % certain against one other
_SEPARATE_SIGMAS = 5.0  # of a fix, from which another one is distinct
_LEAST_RESOLUTIONS = 1.25  # of the spectrum, that its rms bandwidth must exceed: a carrier is as wide as resolved
_LEAST_PROBABILITY = 1e-4  # by which the delays at a fix may be as far from it


def dpd(observed: Observations, dataset: xr.Dataset) -> Fix:
    """Most likely position given the IQ of all receivers; waveform, phases and frequency offsets are unknown.

    For every position the delays that it implies are taken off the whitened signals. The largest eigenvalue of their
    Gram matrix, in which a frequency weighs by its share of signal, is the log likelihood. It is maximized together
    with one delay error a receiver, normal with the standard deviation of clock and path: where these exceed the error
    by noise, the eigenvalue alone would trust the strongest receivers too much.

    It is no fix if no more than two receivers agree better than by chance, if clocks (ntp, none) or paths err by more
    than the main lobe of the correlation is wide, if the signal is a carrier, whose delays are not seen, if another
    position is as likely, if the delay of a receiver against the waveform of the others contradicts it, or if it is
    uncertain by more than receivers can hear.

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
    return baselines.centroid_where_failed(fix, observed)


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
    summits = refine(observed, table, found.start, sigma_s * rate_hz, rate_hz)
    best, alone = _choose(observed, summits)
    summit = summits.select(best)
    measured = leave_one_out_delays(table, summit.delay, summit.delay_error, noise_energy(signals), rate_hz)
    # Delay errors of one radian at the rms bandwidth leave the main lobe of the correlation; unknown ones may.
    in_lobe = (2 * np.pi * signals.rms_hz[:, None] * sigma_s < 1).all(axis=1)
    known = in_lobe & (signals.rms_hz > _LEAST_RESOLUTIONS * signals.resolution_hz)
    # What is not coherent with the others spreads a delay as noise does, of which the likelihood knows nothing.
    spread_m = summit.gain * np.nan_to_num(measured.incoherent_s * rate_hz)[:, None]
    return Fix(
        summit.latitude_deg,
        summit.longitude_deg,
        summit.covariance + spread_m @ spread_m.swapaxes(1, 2),
        found.detected & known & alone & _agree(observed, summit, measured, sigma_s),
    )


def _agree(observed: Observations, summit: Summits, measured: LeaveOneOut, sigma_s: Array) -> Array:
    """Whether the receivers' delays differ from those of a fix by no more than noise, clocks and paths, (S,) bool."""
    _, gradient = observations.distances(observed, summit.latitude_deg, summit.longitude_deg)
    squared, freedom = misfit(
        measured.delay_s, measured.sigma_s**2 + sigma_s**2, np.nan_to_num(gradient) / SPEED_OF_LIGHT
    )
    return probability(squared, freedom) > _LEAST_PROBABILITY


def _choose(observed: Observations, summits: Summits) -> tuple[Array, Array]:
    """Most likely summit of each scene, (S,), and whether it is a fix: within reach, and no other as likely, (S,) bool.

    Levels do not shape a fix, but help to choose between several. Of equally likely ones it is the one nearest the
    receivers.
    """
    latitude, longitude = summits.latitude_deg, summits.longitude_deg
    at_summits = observed.repeat(latitude.shape[1])
    levels = tdoa.level_cost(at_summits, latitude.ravel(), longitude.ravel()).reshape(latitude.shape)
    value = summits.value - levels / 2
    centre = baselines.centroid(observed)
    distance, _ = geodesy.geodesic(latitude, longitude, centre.latitude_deg[:, None], centre.longitude_deg[:, None])
    equal = value >= value.max(axis=1, keepdims=True) - _EQUAL_LOG_LIKELIHOOD
    best = np.where(equal, distance, np.inf).argmin(axis=1)
    row = np.arange(len(best)), best
    spread = np.sqrt(np.trace(summits.covariance, axis1=-2, axis2=-1))
    as_likely = value > value[row][:, None] - _RIVAL_LOG_LIKELIHOOD
    apart, azimuth_deg = geodesy.geodesic(latitude[row][:, None], longitude[row][:, None], latitude, longitude)
    azimuth = np.radians(azimuth_deg)
    offset = apart[..., None] * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=-1)  # (S, K, 2)
    distinct = (offset * (offset @ np.linalg.inv(summits.covariance[row]))).sum(axis=-1) > _SEPARATE_SIGMAS**2
    in_reach = np.maximum(distance, spread) < MAX_RANGE_M[observed.propagation]
    return best, np.isfinite(value[row]) & in_reach[row] & ~(as_likely & distinct & in_reach).any(axis=1)
