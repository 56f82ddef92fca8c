"""What a network measures of a signal from its IQ alone: levels, and time and frequency differences of pairs."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import batch_slices
from heimdall_lab.core.units import SPEED_OF_LIGHT, db_to_linear, linear_to_db
from heimdall_lab.datasets import schema
from heimdall_lab.signals import correlation, spectra

_BATCH_IQ_SAMPLES = 2**21
_SIGNIFICANT = 4.0  # standard deviations from which excess power is a signal
_LEAST_SAMPLES = 64
_PATH_SIGMAS = 20.0  # standard deviations of path delay that are searched: excess delays have long tails
_LEAST_MARGIN_S = 20e-6  # delays searched beyond what baseline and clocks allow, for refraction and ground


def pair_features(dataset: xr.Dataset) -> xr.Dataset:
    """Measure level and SNR of every receiver, and its time and frequency difference against the strongest one.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ, or with these variables already, which are given back; truth variables are not read.

    Returns
    -------
    xr.Dataset
        Dims (sample, receiver): ``rssi_dbm``, ``snr_db``, ``tdoa_s``, ``fdoa_hz``, ``toa_std_s``, ``tdoa_std_s``,
        ``coherence``, NaN where no receiver is; ``heard``, True where the SNR is at least ``min_snr_db`` and the delay
        was found; and ``reference`` (sample), the position of the strongest receiver along ``receiver``.

    Raises
    ------
    ValueError
        If the dataset holds neither IQ nor all of these variables, no samples, fewer than 64 instants, or lacks what
        is needed to measure.

    Source: Knapp and Carter, IEEE Trans. ASSP 24 (1976); Stein, IEEE Trans. ASSP 29 (1981).
    """
    if set(schema.MEASURED) <= set(dataset):
        return dataset[list(schema.MEASURED)].drop_attrs(deep=False).compute()
    if "iq" not in dataset:
        missing = sorted(set(schema.MEASURED) - set(dataset))
        raise ValueError(f"iq: is not in the dataset, nor is {missing[0]!r} as measured of it; give either")
    if dataset.sizes["sample"] == 0:
        raise ValueError("dataset: holds no samples; give at least one")
    if dataset.sizes["time"] < _LEAST_SAMPLES:
        raise ValueError(f"time: {dataset.sizes['time']} samples are too few to measure; give {_LEAST_SAMPLES} or more")
    for name in ("sample_rate_hz", "max_clock_offset_s", "max_frequency_offset_hz", "min_snr_db"):
        if not np.isfinite(dataset.attrs[name]):
            raise ValueError(f"{name}: is {dataset.attrs[name]}; set it ({schema.ATTRIBUTES[name]}) to measure signals")
    parts = [_pair_features(batch) for batch in batches(dataset)]
    measured = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return schema.label(
        {name: measured[name] for name in schema.MEASURED},
        {name: dataset[name] for name in ("sample", "receiver", "receiver_name")},
        {},
    ).drop_attrs(deep=False)


def batches(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
    """Load the scenes of a dataset with IQ, some at a time, so that a large one does not fill the memory."""
    per_batch = _BATCH_IQ_SAMPLES // (dataset.sizes["receiver"] * dataset.sizes["time"])
    return (dataset.isel(sample=rows).load() for rows in batch_slices(dataset.sizes["sample"], per_batch))


def largest_delay_s(dataset: xr.Dataset, reference: np.ndarray) -> np.ndarray:
    """Largest time difference that baseline, paths and clocks allow against each reference, (S, R) s."""
    position = geodesy.ecef(*(dataset[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude")))
    baseline_m = np.linalg.norm(position - _at(position, reference)[:, None], axis=-1)
    # The chord between two receivers bounds the difference of straight paths; over ground the arc is longer than the
    # chord by d²/24R², 0.1 % at 1,000 km.
    return np.nan_to_num(
        1.001 * baseline_m / SPEED_OF_LIGHT
        + 2 * dataset.attrs["max_clock_offset_s"]
        + max(_LEAST_MARGIN_S, _PATH_SIGMAS * np.nan_to_num(dataset.attrs["path_delay_sigma_s"]))
    )


@np.errstate(divide="ignore", invalid="ignore")  # what cannot be measured becomes NaN
def _pair_features(batch: xr.Dataset) -> dict[str, np.ndarray]:
    """Measure one batch of scenes on arrays (S, R, N)."""
    rate_hz, present = batch.attrs["sample_rate_hz"], batch.receiver_present.values
    duration_s = batch.sizes["time"] / rate_hz
    voltage = schema.voltage(batch)
    spectrum = spectra.power_spectrum(voltage, rate_hz)
    noise_density = np.where(present, spectra.noise_density(spectrum), np.nan)  # (S, R)
    signal = (np.abs(voltage) ** 2).mean(axis=-1) - noise_density * rate_hz
    # Of N samples of noise, the power has a relative variance of 1 / N, and the median over half the band of π / N.
    fluctuation = noise_density * rate_hz * np.sqrt((1 + np.pi) / voltage.shape[-1])
    signal = np.where(signal > _SIGNIFICANT * fluctuation, signal, np.nan)

    reference = np.nan_to_num(signal / noise_density, nan=-1.0).argmax(axis=1)
    is_reference = np.arange(present.shape[1]) == reference[:, None]
    density = _at(spectrum.density, reference)  # (S, F)
    weight = spectra.wiener_weight(spectrum._replace(density=density), _at(noise_density, reference))
    occupied_hz = spectra.occupied_bandwidth_hz(spectrum.frequency_hz, weight * density)[:, None]
    rms_hz = spectra.rms_bandwidth_hz(spectrum.frequency_hz, weight * density)[:, None]
    snr = signal / (noise_density * occupied_hz)
    peak = correlation.ambiguity_peak(
        voltage,
        reference,
        weight,
        max_delay_samples=largest_delay_s(batch, reference) * rate_hz,
        max_frequency_cycles=2 * batch.attrs["max_frequency_offset_hz"] / rate_hz,
    )

    noise_std = spectra.delay_sigma_s(snr, occupied_hz, rms_hz, duration_s)
    reference_std = _at(noise_std, reference)[:, None]
    # What is incoherent between the two receivers, noise or not, spreads their time difference (Stein 1981,
    # with the effective noise over signal (1 − γ²) / γ²); what the reference does not explain is the other receiver's.
    weight_hz = weight.sum(axis=1)[:, None] * rate_hz / weight.shape[1]
    coherent = np.clip(peak.coherence, 0.0, 1 - 1e-9)  # rounding may leave 1
    pair_std = spectra.delay_sigma_s(coherent / (1 - coherent), weight_hz, rms_hz, duration_s)
    own_variance = np.fmax(noise_std**2 * (1 + 1 / _at(snr, reference)[:, None]), pair_std**2 - reference_std**2)
    toa_std = np.where(is_reference, noise_std, np.sqrt(own_variance))
    return {
        "rssi_dbm": linear_to_db(signal),
        "snr_db": linear_to_db(snr),
        "tdoa_s": np.where(present, np.where(is_reference, 0.0, peak.delay_samples / rate_hz), np.nan),
        "fdoa_hz": np.where(present, np.where(is_reference, 0.0, peak.frequency_cycles * rate_hz), np.nan),
        "toa_std_s": toa_std,
        "tdoa_std_s": np.where(is_reference, 0.0, np.hypot(toa_std, reference_std)),
        "coherence": np.where(present, peak.coherence, np.nan),
        "heard": (snr >= db_to_linear(batch.attrs["min_snr_db"])) & np.isfinite(peak.delay_samples),
        "reference": reference,
    }


def _at(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Take the reference receiver's value out of (S, R, ...): (S, ...)."""
    return values[np.arange(len(reference)), reference]
