"""What a network measures of a signal from its IQ alone: levels, and time and frequency differences."""

import numpy as np
import xarray as xr

from heimdall_lab import geodesy, schema, spectra
from heimdall_lab.units import SPEED_OF_LIGHT, db_to_linear, linear_to_db

_BATCH_IQ_SAMPLES = 2**20
_LEAST_MARGIN_S = 20e-6  # delays searched beyond what baseline and clocks allow, for refraction and ground

_UNITS = {
    "rssi_dbm": ("dBm", "power of the signal"),
    "snr_db": ("dB", "signal to noise ratio in the occupied bandwidth"),
    "tdoa_s": ("s", "arrival later than at the reference"),
    "fdoa_hz": ("Hz", "received higher than at the reference"),
    "toa_std_s": ("s", "predicted standard deviation of the arrival by noise"),
    "tdoa_std_s": ("s", "predicted standard deviation of tdoa_s by noise"),
    "coherence": ("1", "squared coherence with the reference at the peak"),
}


def pair_features(dataset: xr.Dataset) -> xr.Dataset:
    """Measure level and SNR of every receiver, and its time and frequency difference against the strongest one.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ; truth variables are not read.

    Returns
    -------
    xr.Dataset
        Dims (sample, receiver): ``rssi_dbm``, ``snr_db``, ``tdoa_s``, ``fdoa_hz``, ``toa_std_s``, ``tdoa_std_s``,
        ``coherence``, NaN where no receiver is; ``heard``, True where the SNR is at least ``min_snr_db``; and
        ``reference`` (sample), the position of the strongest receiver along ``receiver``.

    Source: Knapp and Carter, IEEE Trans. ASSP 24 (1976); Stein, IEEE Trans. ASSP 29 (1981).
    """
    per_batch = max(1, _BATCH_IQ_SAMPLES // (dataset.sizes["receiver"] * dataset.sizes["time"]))
    parts = [
        _pair_features(dataset.isel(sample=slice(first, first + per_batch)).load())
        for first in range(0, dataset.sizes["sample"], per_batch)
    ]
    measured = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    variables = {
        name: (("sample", "receiver"), measured[name], {"units": units, "long_name": long_name})
        for name, (units, long_name) in _UNITS.items()
    }
    return xr.Dataset(
        {
            **variables,
            "heard": (("sample", "receiver"), measured["heard"], {"long_name": "SNR is at least min_snr_db"}),
            "reference": ("sample", measured["reference"], {"long_name": "position of the reference receiver"}),
        },
        coords={name: dataset[name] for name in ("sample", "receiver", "receiver_name")},
    )


def largest_delay_s(dataset: xr.Dataset, reference: np.ndarray) -> np.ndarray:
    """Largest time difference that baseline and clocks allow against each reference, (S, R) s."""
    position = geodesy.ecef(*(dataset[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude")))
    baseline_m = np.linalg.norm(position - np.take_along_axis(position, reference[:, None, None], axis=1), axis=-1)
    # The chord between two receivers bounds the difference of straight paths; over ground the arc is longer than the
    # chord by d²/24R², 0.1 % at 1,000 km.
    return np.nan_to_num(
        1.001 * baseline_m / SPEED_OF_LIGHT + 2 * dataset.attrs["max_clock_offset_s"] + _LEAST_MARGIN_S
    )


def _pair_features(batch: xr.Dataset) -> dict[str, np.ndarray]:
    """Measure one batch of scenes on arrays (S, R, N)."""
    rate_hz, present = batch.attrs["sample_rate_hz"], batch.receiver_present.values
    voltage = np.nan_to_num(schema.iq(batch).transpose("sample", "receiver", "time").values)
    spectrum = spectra.power_spectrum(voltage, rate_hz)
    noise_density = spectra.noise_density(spectrum)
    total = (np.abs(voltage) ** 2).mean(axis=-1)
    signal = np.where(present, total - noise_density * rate_hz, np.nan)
    signal = np.where(signal > 0, signal, np.nan)  # weaker than the noise fluctuates: not measurable

    reference = np.nan_to_num(signal / np.where(present, noise_density, np.nan), nan=-1.0).argmax(axis=1)
    density, noise = (
        np.take_along_axis(a, i, axis=1)[:, 0]
        for a, i in ((spectrum.density, reference[:, None, None]), (noise_density, reference[:, None]))
    )
    weight = spectra.wiener_weight(spectrum._replace(density=density), noise)
    occupied_hz = spectra.occupied_bandwidth_hz(spectrum.frequency_hz, weight * density)[:, None]
    rms_hz = spectra.rms_bandwidth_hz(spectrum.frequency_hz, weight * density)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = signal / (noise_density * occupied_hz)
    duration_s = batch.sizes["time"] / rate_hz

    peak = spectra.ambiguity_peak(
        voltage,
        reference,
        weight,
        max_delay_samples=largest_delay_s(batch, reference) * rate_hz,
        max_frequency_cycles=2 * batch.attrs["max_frequency_offset_hz"] / rate_hz,
    )
    reference_snr = np.take_along_axis(snr, reference[:, None], axis=1)
    is_reference = np.arange(present.shape[1]) == reference[:, None]
    toa_std = spectra.delay_sigma_s(snr, occupied_hz, rms_hz, duration_s)
    reference_std = np.take_along_axis(toa_std, reference[:, None], axis=1)
    # What is incoherent between the two receivers, noise or not, spreads their time difference (Stein 1981, eq. 23,
    # with the effective noise over signal (1 − γ²) / γ²); what the reference does not explain is the other receiver's.
    weight_hz = weight.sum(axis=1)[:, None] * rate_hz / weight.shape[1]
    coherent = np.clip(peak.coherence, 0.0, 1 - 1e-9)  # rounding leaves the reference with itself at either side of 1
    with np.errstate(divide="ignore"):
        pair_std = spectra.delay_sigma_s(coherent / (1 - coherent), weight_hz, rms_hz, duration_s)
    noise_only_std = toa_std * np.sqrt(1 + 1 / reference_snr)
    toa_std = np.where(
        is_reference,
        toa_std,
        np.sqrt(np.maximum(noise_only_std**2, np.nan_to_num(pair_std**2 - reference_std**2, posinf=0.0))),
    )
    return {
        "rssi_dbm": linear_to_db(signal),
        "snr_db": linear_to_db(snr),
        "tdoa_s": np.where(present, np.where(is_reference, 0.0, peak.delay_samples / rate_hz), np.nan),
        "fdoa_hz": np.where(present, np.where(is_reference, 0.0, peak.frequency_cycles * rate_hz), np.nan),
        "toa_std_s": toa_std,
        "tdoa_std_s": np.where(is_reference, 0.0, np.hypot(toa_std, reference_std)),
        "coherence": np.where(present, peak.coherence, np.nan),
        "heard": snr >= db_to_linear(batch.attrs["min_snr_db"]),
        "reference": reference,
    }
