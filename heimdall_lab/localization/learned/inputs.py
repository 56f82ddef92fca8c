"""Inputs of learned localizers: arrays made of a dataset, the same way in training and in use.

East and north are on the tangent plane at the centroid of the scene's present receivers.
"""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array
from heimdall_lab.datasets import schema
from heimdall_lab.localization import delay_law, observations
from heimdall_lab.localization.observations import Observations
from heimdall_lab.signals import features

ARRAYS = {  # name of each array: its dims after the sample, and what it is
    "iq": "(R, 2, N) float32 √mW: the same instants of every receiver",
    "features": "(R, F) float32: see FEATURES, amplitudes in dB over 1 mW; 0 where not known",
    "spectrogram": "(R, 128, 32) float32 dB over 1 mW/Hz; 0 where no receiver is",
    "position": "(R, 2) float32 km: east and north of the receiver; 0 where none is",
    "present": "(R,) bool",
}

_LINK_FEATURES = {  # measurements of each link, beside the features of its signal
    "height_km": "altitude of the receiver over the tangent plane",
    "heard": "1 where the SNR is at least min_snr_db, and the delay was found",
    "reference": "1 for the receiver that differences are against",
    "level_db": "level over the mean of those that hear the signal",
    "signal_to_noise_db": "SNR in the whole window",
    "range_difference_km": "time difference against the reference times the speed of light",
    "log_sigma": "natural logarithm of the standard deviation of a pseudo-range by noise, clock and path, in km",
    "log_sigma_on_time": "the same of a link without excess delay",
    "frequency_difference_hz": "against the reference",
    "coherence": "squared coherence with the reference",
    "nlos_ratio": "share of links that are late",
    "nlos_excess_km": "mean of their excess delays times the speed of light",
    "link_sigma_db": "standard deviation of a level about its law of distance",
}

FEATURES = (*(f"{name}_{of}" for name in schema.FEATURES for of in schema.STATISTICS), *_LINK_FEATURES)

_KM = 1e3  # m
_LEAST_SIGMA_KM = 1e-3
_LEAST_AMPLITUDE = 1e-9  # √mW, −180 dBm


def arrays(dataset: xr.Dataset, names: Iterable[str], window: slice | None = None) -> dict[str, Array]:
    """Make the arrays that a localizer takes.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract, with what was measured of its signals; truth variables are not read.
    names : iterable of str
        Of `ARRAYS`.
    window : slice, optional
        Instants that ``iq`` is taken from; by default all.

    Returns
    -------
    dict of str to array
        As `ARRAYS` says, with the sample dimension first.

    Raises
    ------
    ValueError
        If the dataset lacks what is asked for.
    """
    known = observations.from_dataset(dataset)
    present = dataset.receiver_present.values
    made: dict[str, Array] = {}
    for name in names:
        if name == "present":
            made[name] = present
        elif name == "position":
            made[name] = _receiver_position(known, present)[..., :2]
        elif name == "features":
            made[name] = _features(dataset, known)
        elif name == "spectrogram":
            made[name] = _variable(dataset, "spectrogram")
        else:
            made[name] = voltage(dataset, window)
    return made


def target(dataset: xr.Dataset) -> Array:
    """True east and north of the transmitters, (S, 2) float32 km; NaN where the position is not known."""
    known = observations.from_dataset(dataset)
    latitude, longitude = dataset.transmitter_latitude.values, dataset.transmitter_longitude.values
    return (observations.tangent_plane(known, latitude, longitude) / _KM).astype(np.float32)


def voltage(dataset: xr.Dataset, window: slice | None = None) -> Array:
    """Decode IQ to (S, R, 2, N) float32 √mW."""
    if "iq" not in dataset:
        raise ValueError("iq: is not in the dataset; generate one with data_type iq_raw, which keeps the samples")
    code = dataset["iq"].transpose("sample", "receiver", "component", "time")
    scale = schema.converter_step(np.nan_to_num(dataset["iq_full_scale"].values))
    chosen = code if window is None else code.isel(time=window)
    return chosen.values * scale[..., None, None]


def _receiver_position(known: Observations, present: Array) -> Array:
    """East, north and up of the receivers, (S, R, 3) float32 km."""
    latitude, longitude = geodesy.tangent_plane_origin(known.latitude_deg, known.longitude_deg)
    position = geodesy.ecef(known.latitude_deg, known.longitude_deg, known.altitude_m)
    position_km = geodesy.enu(position, latitude, longitude) / _KM
    return np.where(present[..., None], position_km, 0.0).astype(np.float32)


def _features(dataset: xr.Dataset, known: Observations) -> Array:
    """Lay out the features of every link, (S, R, F) float32."""
    if "features" not in dataset and "iq" not in dataset:
        raise ValueError("features: are not in the dataset, nor is IQ to measure them; give either")
    of_signal = dataset["features"] if "features" in dataset else features.of_each_receiver(dataset)["features"]
    signal = of_signal.transpose("sample", "receiver", "feature", "statistic").values
    amplitude = np.array([units == "mW^0.5" for units, _ in schema.FEATURES.values()])[:, None]
    signal = np.where(amplitude, 20 * np.log10(np.maximum(signal, _LEAST_AMPLITUDE)), signal)
    present = dataset.receiver_present.values
    sigma_km = known.sigma_m / _KM
    if known.is_ambiguous is not None:  # the error of clocks is known all the same
        sigma_km = np.where(known.is_ambiguous, np.sqrt(np.nansum(known.variance_m2, axis=-1)) / _KM, sigma_km)
    ratio, excess_km = known.nlos_ratio, known.nlos_excess_m / _KM
    on_time_km = delay_law.on_time_sigma(sigma_km, ratio, excess_km)
    level = np.where(known.heard, known.rssi_dbm, np.nan)
    count = np.maximum(np.isfinite(level).sum(axis=1, keepdims=True), 1)
    link = {
        "height_km": _receiver_position(known, present)[..., 2],
        "heard": known.heard,
        "reference": np.arange(present.shape[1]) == known.reference[:, None],
        "level_db": level - np.nansum(level, axis=1, keepdims=True) / count,
        "signal_to_noise_db": dataset.snr_db.values,
        "range_difference_km": np.where(known.heard, known.pseudorange_m / _KM, 0.0),
        "log_sigma": np.log(np.maximum(sigma_km, _LEAST_SIGMA_KM)),
        "log_sigma_on_time": np.log(np.maximum(on_time_km, _LEAST_SIGMA_KM)),
        "frequency_difference_hz": dataset.fdoa_hz.values,
        "coherence": dataset.coherence.values,
        "nlos_ratio": np.full(present.shape, ratio),
        "nlos_excess_km": np.full(present.shape, excess_km),
        "link_sigma_db": np.full(present.shape, known.link_sigma_db),
    }
    of_link = np.stack([np.asarray(link[name], dtype=np.float32) for name in _LINK_FEATURES], axis=-1)
    values = np.concatenate([signal.reshape(*present.shape, -1), of_link], axis=-1)
    return np.where(present[..., None], np.nan_to_num(values, posinf=0.0, neginf=0.0), 0.0).astype(np.float32)


def _variable(dataset: xr.Dataset, name: str) -> Array:
    """Values of a variable (sample, receiver, …), 0 where there is no receiver."""
    if name not in dataset:
        raise ValueError(f"{name}: is not in the dataset; add it with hl.features, or generate it again")
    return np.nan_to_num(dataset[name].transpose("sample", "receiver", ...).values)
