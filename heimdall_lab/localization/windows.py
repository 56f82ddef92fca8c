"""Windows of one emission as one: their delays and levels together, of which the noise alone becomes smaller."""

import numpy as np
import scipy.special
import xarray as xr

from heimdall_lab.core.arrays import Array
from heimdall_lab.datasets import schema
from heimdall_lab.localization import stations
from heimdall_lab.signals.measurements import with_measurements

_AGREEMENT_SIGMAS = 5.0  # within which a window's delay agrees with those of the others
_LEAST_AGREEING = 2 / 3  # of a receiver's delays, below which windows contradict each other
_STEPS = 10
_LEAST_SIGMA_S = 1e-12  # as well as numbers hold a delay
_REPORTED = ("reported_latitude", "reported_longitude")
_MEDIAN_CHI_SQUARED = float(scipy.special.chdtri(1, 0.5))


def join_windows(dataset: xr.Dataset, *, strict: bool = False) -> xr.Dataset:
    """Join the windows of each emission: one sample an emission, with the delays of all of its windows.

    `estimators.locate` of it is the joint fix. A recording is one emission unless it has several frequencies or
    references, which are never joined (`emission_numbers`). Windows have the errors of clocks, paths, altitude and
    receivers' positions in common, and these stay as they are; the noise of a delay averages, by as much as windows
    agree.

    Parameters
    ----------
    dataset : xr.Dataset
        Of windows of one transmitter each emission; ``recording`` says which belong together, else all of them. Their
        signals are measured where they are not yet.
    strict : bool
        Whether stations that contradict the others stay in (`stations.without_bad_stations`).

    Returns
    -------
    xr.Dataset
        Without IQ, with ``tdoa_s``, ``toa_std_s`` and the rest of `schema.MEASURED`, and the attribute ``windows``, how
        many there are in all. A receiver of which more than a third of the windows contradict the others is not heard.
        ``sample`` is the number of the recording, or where recordings have several emissions counts these;
        ``recording_time`` is the mean of the windows.

    Raises
    ------
    ValueError
        If there is no window.
    """
    if dataset.sizes["sample"] == 0:
        raise ValueError("dataset: holds no windows; give at least one")
    measured = with_measurements(dataset)
    measured = measured if strict else stations.without_bad_stations(measured)
    number = emission_numbers(measured)
    bare = measured.drop_vars(["iq", "iq_full_scale", "features", "spectrogram", schema.MEASURED_OF], errors="ignore")
    bare = bare.drop_dims([name for name in ("time", "component") if name in bare.dims])
    parts = [_joined(bare.isel(sample=np.flatnonzero(number == each))) for each in np.unique(number)]
    joined = xr.concat(parts, "sample", data_vars="minimal", coords="minimal", compat="override", join="override")
    labels, long_name = _labels(measured, number)
    joined = joined.assign_coords(sample=("sample", labels, {"long_name": long_name}))
    return joined.assign_attrs(measured.attrs | {"windows": measured.sizes["sample"]})


def emission_numbers(dataset: xr.Dataset) -> Array:
    """Which emission each sample (S,) is a window of, counted from 0 in the order of their first windows.

    Windows of one emission are of one recording and, where these are told, of one frequency and one reported position;
    such windows follow each other, since a receiver that is tuned back may hear another transmitter. Simulated scenes
    of recordings, and messages that were time-stamped without a window, are an emission each. Without ``recording`` all
    windows are of one.
    """
    samples = dataset.sizes["sample"]
    if "recording" not in dataset:
        return np.zeros(samples, dtype=int)
    if "config" in dataset.attrs or not np.isfinite(dataset.attrs["duration_s"]):
        return np.arange(samples)
    runs = np.zeros(samples, dtype=int)
    if "centre_frequency" in dataset:
        told = [dataset[name].values for name in ("recording", "centre_frequency", *_REPORTED) if name in dataset]
        rows = np.nan_to_num(np.stack([values.astype(float) for values in told], axis=1), nan=np.inf)
        runs = np.concatenate([[0], (rows[1:] != rows[:-1]).any(axis=1).cumsum()])
    pairs = list(zip(dataset["recording"].values.tolist(), runs.tolist(), strict=True))
    numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    return np.array([numbers[pair] for pair in pairs])


def _labels(dataset: xr.Dataset, emission: Array) -> tuple[Array, str]:
    """Labels of emissions, and what they are: numbers of recordings where each has one emission."""
    _, first = np.unique(emission, return_index=True)
    recording = dataset["recording"].values[first] if "recording" in dataset else np.zeros(len(first), dtype=int)
    if len(np.unique(recording)) == len(first):
        return recording, "index of the recording"
    return np.arange(len(first)), "index of the emission"


def _joined(windows: xr.Dataset) -> xr.Dataset:
    """One sample of the windows of one emission."""
    heard, present = windows.heard.values, windows.receiver_present.values
    reference = int(np.bincount(windows.reference_receiver.values[heard.any(axis=1)]).argmax()) if heard.any() else 0
    sigma_s = np.maximum(windows.toa_std_s.values, _LEAST_SIGMA_S)
    timed = heard & np.isfinite(windows.tdoa_s.values) & np.isfinite(sigma_s)
    delay_s, joint_sigma_s, agreeing = _mean_delays(windows.tdoa_s.values, sigma_s, timed, reference)
    hears = agreeing >= _LEAST_AGREEING * timed.sum(axis=0)
    hears &= heard.any(axis=0)
    is_reference = np.arange(len(delay_s)) == reference
    total_s = np.hypot(joint_sigma_s, joint_sigma_s[reference])
    found = {
        "tdoa_s": np.where(is_reference, 0.0, delay_s),
        "toa_std_s": joint_sigma_s,
        "tdoa_std_s": np.where(is_reference, 0.0, total_s),
        "heard": hears,
    }
    for name in ("rssi_dbm", "snr_db", "fdoa_hz", "coherence"):
        found[name] = _mean_of_rows(windows[name].values, heard)
    first = windows.isel(sample=[int(present.sum(axis=1).argmax())]).copy()
    found |= _of_any_window(windows, timed)
    for name, values in found.items():
        first[name] = first[name].copy(data=values[None])
    if "recording_time" in first:
        first["recording_time"] = first["recording_time"].copy(data=[windows["recording_time"].values.mean()])
    first["reference_receiver"] = first["reference_receiver"].copy(data=[reference])
    return first


def _of_any_window(windows: xr.Dataset, timed: Array) -> dict[str, Array]:
    """What holds of receivers (R,) in any window: where they are, that the noise is known, and rivals of no delay."""
    heard, present = windows.heard.values, windows.receiver_present.values
    every = np.arange(present.shape[1])
    found = {"receiver_present": present.any(axis=0)}
    for name in ("latitude", "longitude", "altitude"):
        found[f"receiver_{name}"] = windows[f"receiver_{name}"].values[present.argmax(axis=0), every]
    if "noise_known" in windows:
        found["noise_known"] = (windows.noise_known.values | ~heard).all(axis=0)
    if "rival_delay_s" in windows:
        rival_s = windows["rival_delay_s"].values
        rival_s = rival_s[np.isfinite(rival_s).argmax(axis=0), every]
        found["rival_delay_s"] = np.where(timed.any(axis=0), np.nan, rival_s)
    return found


def _mean_delays(delay_s: Array, sigma_s: Array, timed: Array, reference: int) -> tuple[Array, Array, Array]:
    """Delays (R,) s against a receiver, their standard deviations by noise, and how many windows agree with each.

    Of delays (W, R) with standard deviations, each window's known but for an offset of its own, since its reference may
    be another receiver; (R,) and the offsets are fitted in turn, by least squares to what agrees with their medians.
    """
    centred = delay_s - np.where(timed[:, [reference]], delay_s[:, [reference]], _weighted(delay_s, sigma_s, timed, 1))
    joint = _medians(centred, timed)
    used = timed
    for _ in range(_STEPS):
        offset = _weighted(delay_s - joint, sigma_s, used, 1)
        residual = delay_s - offset - joint
        used = timed & (np.abs(residual) < _AGREEMENT_SIGMAS * sigma_s * _scale(residual / sigma_s, timed))
        joint = joint + _weighted(residual, sigma_s, used, 0)[0]
    weight = np.where(used, sigma_s**-2.0, 0.0)
    total = weight.sum(axis=0)
    variance = np.where(total > 0, 1 / np.where(total > 0, total, 1.0), np.nan)
    surplus = used.sum() - (used.any(axis=0).sum() + used.any(axis=1).sum() - 1)
    chi_squared = np.nansum(np.where(used, (residual / sigma_s) ** 2, 0.0))
    scatter = max(1.0, chi_squared / surplus) if surplus > 0 else 1.0
    return joint - joint[reference], np.sqrt(variance * scatter), used.sum(axis=0)


def _scale(normalised: Array, chosen: Array) -> float:
    """How much larger residuals are than stated, by their median; at least 1."""
    squared = normalised[chosen] ** 2
    return max(1.0, float(np.sqrt(np.median(squared) / _MEDIAN_CHI_SQUARED))) if squared.size else 1.0


def _weighted(values: Array, sigma: Array, chosen: Array, axis: int) -> Array:
    """Weighted mean of the chosen ones along an axis, which is kept; 0 of none."""
    weight = np.where(chosen, sigma**-2.0, 0.0)
    total = weight.sum(axis=axis, keepdims=True)
    mean: Array = (weight * np.where(chosen, values, 0.0)).sum(axis=axis, keepdims=True) / np.where(total > 0, total, 1)
    return mean


def _medians(values: Array, chosen: Array) -> Array:
    """Median (R,) of the chosen ones of (W, R), 0 of none."""
    kept = np.where(chosen, values, np.nan)
    known = chosen.any(axis=0)
    middle = np.zeros(values.shape[1])
    middle[known] = np.nanmedian(kept[:, known], axis=0)
    return middle


def _mean_of_rows(values: Array, heard: Array) -> Array:
    """Mean (R,) over the windows in which a receiver hears the signal, else over all where it is known."""
    known = np.isfinite(values)
    chosen = np.where((known & heard).any(axis=0), known & heard, known)
    count = chosen.sum(axis=0)
    return np.where(count > 0, np.where(chosen, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
