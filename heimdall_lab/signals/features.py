"""Features of each receiver's signal: 18 numbers over time, and a mel spectrogram."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from heimdall_lab.core.arrays import Array, array_namespace, batch_slices
from heimdall_lab.core.units import ADC_MAX, db_to_linear, linear_to_db
from heimdall_lab.datasets import schema
from heimdall_lab.signals import pairs, spectra
from heimdall_lab.signals.chunks import LEAST_SAMPLES, NUM_CHUNKS, Chunks, Plan, chunks, frame_middles, mel_edges_hz
from heimdall_lab.signals.measurements import with_measurements
from heimdall_lab.signals.noise_floor import NoiseFloor, noise_floor

_BLOCK_IQ_SAMPLES = {"numpy": 2**16, "cupy": 2**26}  # reduced at a time: caches, GPUs
_SIGNIFICANT = 4.0  # standard deviations from which power above the noise is a signal
_SILENCE = 1e-30  # power, in units of the converter squared, of what is all zeros
_EDGE_BINS = 2  # by which the Hann window widens a band
_LEAST_FIT_BINS = 8  # frequencies with signal from which the slope of a channel's gain is fitted
_POWERS = ("rssi_dbm", "snr_db", "noise_floor_dbm", "psd_dbm_per_hz")  # their means are those of powers, not decibels


def features(dataset: xr.Dataset) -> xr.Dataset:
    """Measure every receiver's features, mel spectrogram and differences against the strongest receiver.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ, simulated or recorded; truth variables are not read. Of a dataset without IQ, what it holds of the
        features is given back.

    Returns
    -------
    xr.Dataset
        ``features`` (sample, receiver, feature, statistic): each of `schema.FEATURES` over five equal chunks of the
        window, as mean, std, min and max; the means of rssi_dbm, snr_db, noise_floor_dbm and psd_dbm_per_hz are those
        of the powers. Finite where a receiver is present, with signal or without. ``spectrogram`` (sample, receiver,
        frequency, frame): power density in dB over 1 mW/Hz in 128 bands equally spaced in mel of the distance from
        the centre frequency, both sides together, and 32 frames. And all that `pairs.pair_features` returns, whose
        levels are of the whole window. NaN
        where no receiver is.

    Raises
    ------
    ValueError
        If the dataset breaks the contract, holds no samples, fewer than 192 instants, or neither IQ nor features.

    Source: ITU-R SM.328-11 (bandwidths); Rappaport, Wireless Communications, section 5.4 (coherence bandwidth).
    """
    schema.check(dataset)
    measured = with_measurements(dataset)
    names = [name for name in (*schema.MEASURED, *schema.MEASURED_BESIDE) if name in measured]
    differences = measured[names].drop_attrs(deep=False)
    return differences.merge(of_each_receiver(dataset), compat="override")


def of_each_receiver(dataset: xr.Dataset) -> xr.Dataset:
    """What `features` returns but for the differences."""
    if "iq" not in dataset:
        stored = [name for name in ("features", "spectrogram") if name in dataset]
        if not stored:
            raise ValueError("features: are not in the dataset, nor is IQ to measure them; give either")
        return dataset[stored].compute()
    measured = pairs.in_batches(_measure_all, dataset)
    coords = {name: dataset[name] for name in ("sample", "receiver", "receiver_name")}
    labels = coordinates(dataset.attrs["sample_rate_hz"], dataset.sizes["time"])
    return schema.label(measured, coords | labels, {}).drop_attrs(deep=False)


def summary(measured: xr.Dataset) -> pd.DataFrame:
    """Describe the features of a dataset: how their means over the window spread over links with a receiver.

    Parameters
    ----------
    measured : xr.Dataset
        With ``features``.

    Returns
    -------
    pandas.DataFrame
        A row for each feature: ``feature``, ``units``, ``lowest``, ``p5``, ``median``, ``p95``, ``highest``.
    """
    means = measured["features"].sel(statistic="mean").stack(link=("sample", "receiver"))
    levels = means.quantile([0.0, 0.05, 0.5, 0.95, 1.0], "link").values
    columns = zip(("lowest", "p5", "median", "p95", "highest"), levels, strict=True)
    return pd.DataFrame({"feature": means.feature, "units": means.feature_units, **dict(columns)})


def coordinates(sample_rate_hz: float, num_time: int) -> dict[str, Any]:
    """Label the dims of features, and a spectrogram's bands and frames by their middles."""
    frequency_hz, frame_s = mel_edges_hz(sample_rate_hz)[1:-1], frame_middles(num_time) / sample_rate_hz
    return {
        "feature": list(schema.FEATURES),
        "feature_units": ("feature", [units for units, _ in schema.FEATURES.values()], {"long_name": "units"}),
        "statistic": list(schema.STATISTICS),
        "frequency": ("frequency", frequency_hz, {"units": "Hz", "long_name": "distance from the centre frequency"}),
        "frame": ("frame", frame_s, {"units": "s", "long_name": "local time of the frame's middle"}),
    }


def _measure_all(batch: xr.Dataset) -> dict[str, np.ndarray]:
    iq, full_scale, present = (batch[name].values for name in ("iq", "iq_full_scale", "receiver_present"))
    return measure(iq, full_scale, present, batch.attrs, spectrogram=True)


def measure(
    iq: Array,
    full_scale: np.ndarray,
    present: np.ndarray,
    known: Mapping[Any, Any],
    *,
    spectrogram: bool,
) -> dict[str, np.ndarray]:
    """Measure the features of scenes, on the device that holds the samples.

    Parameters
    ----------
    iq : (S, R, 2, N) int16
    full_scale : (S, R) √mW
    present : (S, R) bool
    known : mapping
        Attributes of the contract: ``sample_rate_hz``, ``max_frequency_offset_hz``, ``min_snr_db``.
    spectrogram : bool
        Whether the spectrogram is made as well.

    Returns
    -------
    dict of str to array
        ``features`` (S, R, 18, 4) float32 and, if asked for, ``spectrogram`` (S, R, 128, 32) float32, on the CPU; NaN
        where no receiver is.

    Raises
    ------
    ValueError
        If there are fewer than 192 instants.
    """
    num_time = iq.shape[-1]
    if num_time < LEAST_SAMPLES:
        raise ValueError(f"time: {num_time} samples are too few for features; give at least {LEAST_SAMPLES}")
    xp = array_namespace(iq)
    # As numbers of Python: those of NumPy, as files hold them, would turn single precision into double.
    sample_rate_hz, offset_hz = float(known["sample_rate_hz"]), 2 * float(known["max_frequency_offset_hz"])
    plan = Plan.of(iq, num_time, sample_rate_hz)
    per_block = _BLOCK_IQ_SAMPLES[xp.__name__] // num_time
    links = iq.reshape(-1, 2, num_time)
    blocks = [chunks(links[rows], plan, spectrogram) for rows in batch_slices(len(links), per_block)]
    whole = Chunks(
        *(xp.concatenate(parts).reshape(*present.shape, *parts[0].shape[1:]) for parts in zip(*blocks, strict=True))
    )
    to_power = xp.asarray(np.where(present, full_scale / ADC_MAX, 1.0) ** 2)[..., None]  # (S, R, 1) mW
    links_present = xp.asarray(present)
    min_snr = db_to_linear(float(known["min_snr_db"]))
    values = _features(whole, plan, to_power, links_present, num_time, offset_hz, min_snr)
    measured = {"features": _statistics(values)}
    if spectrogram:
        to_density = to_power[..., None] / sample_rate_hz
        measured["spectrogram"] = linear_to_db(xp.maximum(whole.spectrogram, _SILENCE) * to_density)
    return {
        name: _to_host(xp.where(links_present[..., None, None], values, np.nan).astype(np.float32))
        for name, values in measured.items()
    }


def _features(
    chunk: Chunks, plan: Plan, to_power: Array, present: Array, num_time: int, offset_hz: float, min_snr: float
) -> dict[str, Array]:
    """Compute each feature in each chunk, (S, R, C)."""
    xp = array_namespace(present)
    chunk = Chunks(*(xp.maximum(values, _SILENCE) for values in chunk))  # whose logarithms are finite
    whole = spectra.Spectrum(plan.frequency_hz, chunk.density.mean(axis=-2), NUM_CHUNKS * plan.averages)  # (S, R, F)
    floor = noise_floor(whole, present)
    noise = floor.density[..., None]  # (S, R, 1), as a power in the full sample rate
    by_chunk = spectra.Spectrum(plan.frequency_hz, chunk.density, plan.averages)
    band_hz = _band_hz(whole, noise[..., 0], present)
    amplitude = xp.sqrt(to_power)
    return {
        **_power_features(by_chunk, floor, band_hz, to_power, num_time, offset_hz, min_snr),
        **_spectral_features(by_chunk, noise, present),
        "envelope_mean": chunk.envelope * amplitude,
        "envelope_std": xp.sqrt(xp.maximum(chunk.power - chunk.envelope**2, 0.0)) * amplitude,
        "envelope_max": xp.sqrt(chunk.peak) * amplitude,
        "peak_to_avg_ratio_db": linear_to_db(chunk.peak / chunk.power),
        "zero_crossing_rate": chunk.crossings,
    }


def _power_features(
    by_chunk: spectra.Spectrum,
    floor: NoiseFloor,
    band_hz: tuple[Array, Array],
    to_power: Array,
    num_time: int,
    offset_hz: float,
    min_snr: float,
) -> dict[str, Array]:
    """Compute features of power, in a band (S, 1, 1) that may be shifted by an offset at every receiver."""
    xp, noise = array_namespace(floor.density), floor.density[..., None]
    frequency_hz, bins = by_chunk.frequency_hz, len(by_chunk.frequency_hz)
    bin_hz = frequency_hz[1] - frequency_hz[0]
    low_hz, high_hz = band_hz
    margin_hz = _EDGE_BINS * bin_hz + offset_hz
    in_band = (frequency_hz >= (low_hz - margin_hz)[..., None]) & (frequency_hz <= (high_hz + margin_hz)[..., None])
    share = in_band.sum(axis=-1) / bins  # of the sample rate, (S, 1, 1)
    signal = xp.where(in_band, by_chunk.density - noise[..., None], 0.0).sum(axis=-1) / bins
    # Of M independent samples of noise, the power has a relative variance of 1/M; the median over half the band, π/N.
    of_power = NUM_CHUNKS / (share * num_time)
    is_white = floor.is_white[..., None]
    of_others = xp.sqrt(of_power + floor.variance[..., None]).astype(noise.dtype)
    error = noise * share * xp.where(is_white, xp.sqrt(of_power + np.pi / num_time), of_others)
    by_outer_band = spectra.noise_density(by_chunk)
    significant = signal > _SIGNIFICANT * error
    signal = xp.maximum(signal, error)
    snr = signal / (noise * (high_hz - low_hz) / (bins * bin_hz))
    inner = xp.abs(frequency_hz) <= bins * bin_hz / 4
    return {
        "rssi_dbm": linear_to_db(signal * to_power),
        "snr_db": linear_to_db(snr),
        "noise_floor_dbm": linear_to_db(xp.where(is_white, by_outer_band, noise) * to_power),
        "psd_dbm_per_hz": linear_to_db(by_chunk.density[..., inner].max(axis=-1) * to_power / (bins * bin_hz)),
        "confidence_score": signal / (signal + noise * share),
        "signal_present": (significant & (snr >= min_snr)).astype(np.float32),
    }


def _spectral_features(by_chunk: spectra.Spectrum, noise: Array, present: Array) -> dict[str, Array]:
    """Compute features of the signal's spectrum, in the inner half of the band; of noise where there is none."""
    xp = array_namespace(noise)
    inner = xp.abs(by_chunk.frequency_hz) <= xp.abs(by_chunk.frequency_hz).max() / 2
    frequency_hz, density = by_chunk.frequency_hz[inner], by_chunk.density[..., inner]
    weight = spectra.wiener_weight(by_chunk, noise)[..., inner]
    shape = xp.where((weight > 0).any(axis=-1, keepdims=True), weight, 1.0) * density
    shape = shape / shape.sum(axis=-1, keepdims=True)
    upper_hz, lower_hz = spectra.quantiles_hz(frequency_hz, shape, (0.995, 0.005))
    distance_hz, folded = _fold_sides(frequency_hz, shape)
    occupied = (frequency_hz >= lower_hz[..., None]) & (frequency_hz <= upper_hz[..., None])  # its skirts are leakage
    slope, slope_variance = _gain_slope(frequency_hz, weight * occupied, density / noise[..., None], present)
    # A spread below its standard error is not resolved.
    resolved = xp.maximum(slope**2, slope_variance)
    spread_us = 1e6 * np.sqrt(2) / (4 * np.pi) * xp.sqrt(resolved)
    return {
        "frequency_offset_hz": (shape * frequency_hz).sum(axis=-1),
        "bandwidth_hz": upper_hz - lower_hz,
        "spectral_centroid_hz": (folded * distance_hz).sum(axis=-1),
        "spectral_rolloff_hz": xp.maximum(spectra.quantiles_hz(distance_hz, folded, (0.85,))[0], 0.0),
        "multipath_delay_spread_us": spread_us,
        "coherence_bandwidth_khz": 1e3 / (5 * spread_us),
        "delay_spread_confidence": 1 - slope_variance / resolved,
    }


def _band_hz(whole: spectra.Spectrum, noise: Array, present: Array) -> tuple[Array, Array]:
    """Edges of the band that the scene's strongest signal occupies, each (S, 1, 1); the inner half where none is."""
    xp = array_namespace(noise)
    weight = spectra.wiener_weight(whole, noise)
    strength = xp.where(present, (weight * whole.density).sum(axis=-1) / noise, -1.0)
    strongest = strength.argmax(axis=1)[:, None, None]
    shape = xp.take_along_axis(weight * whole.density, strongest, axis=1)  # (S, 1, F)
    inner = xp.abs(whole.frequency_hz) <= xp.abs(whole.frequency_hz).max() / 2
    shape = xp.where(shape.any(axis=-1, keepdims=True), shape, inner)
    upper_hz, lower_hz = spectra.quantiles_hz(whole.frequency_hz, shape, (0.995, 0.005))
    return lower_hz[..., None], upper_hz[..., None]


def _fold_sides(frequency_hz: Array, shape: Array) -> tuple[Array, Array]:
    """Add the power on both sides of the centre frequency: distances (K,) and shares (..., K)."""
    xp = array_namespace(shape)
    middle = len(frequency_hz) // 2
    sides = shape[..., middle:] + shape[..., middle::-1]
    return frequency_hz[middle:], xp.where(xp.arange(middle + 1) > 0, sides, sides / 2)


def _gain_slope(frequency_hz: Array, weight: Array, density: Array, present: Array) -> tuple[Array, Array]:
    """Slope of the logarithm of each channel's power gain over frequency, 1/Hz, and its variance, each (S, R, C).

    All receivers hear one waveform, so the ratio of a receiver's spectrum to that of all others together is the ratio
    of channels. Between two paths of relative amplitude a and delay τ the slope is 4π a τ sin φ at most, and
    2√2 π a τ in the mean over the carrier phase φ, where a τ is the rms delay spread of a weak echo. A difference in
    frequency offsets shifts the spectrum, and is fitted together with the slope.

    Parameters
    ----------
    weight : (S, R, C, K)
        Share of signal in each density, 0 where none is looked for.
    density : (S, R, C, K)
        In units of the receiver's noise.
    """
    xp = array_namespace(density)
    signal = xp.where(present[..., None, None], weight * density, 0.0)
    others = xp.einsum("rq,sqck->srck", 1 - xp.eye(present.shape[1], dtype=signal.dtype), signal)
    both = (signal > 0) & (others > 0)
    level = xp.log(xp.where(both, others, 1.0))
    ratio = xp.where(both, xp.log(xp.where(both, signal, 1.0)) - level, 0.0)
    step_hz = frequency_hz[1] - frequency_hz[0]
    tilt = xp.zeros_like(level)
    tilt[..., 1:-1] = (level[..., 2:] - level[..., :-2]) / 2  # per bin: what a shift of the spectrum looks like
    used = xp.zeros_like(both)
    used[..., 1:-1] = both[..., 1:-1] & both[..., 2:] & both[..., :-2]
    fit = xp.where(used, weight**2, 0.0)  # the variance of a logarithm is that of the density over its signal's square
    total = xp.maximum(fit.sum(axis=-1, keepdims=True), 1e-30)

    def centred(values: Array) -> Array:
        return values - (fit * values).sum(axis=-1, keepdims=True) / total

    tilt, ratio, place = centred(tilt), centred(ratio), centred(xp.broadcast_to(frequency_hz / step_hz, level.shape))
    square = xp.maximum((fit * tilt**2).sum(axis=-1, keepdims=True), 1e-30)
    place = place - tilt * (fit * tilt * place).sum(axis=-1, keepdims=True) / square
    ratio = ratio - tilt * (fit * tilt * ratio).sum(axis=-1, keepdims=True) / square
    spread = xp.maximum((fit * place**2).sum(axis=-1), 1e-30)
    slope = (fit * place * ratio).sum(axis=-1) / spread
    rest = ratio - slope[..., None] * place
    # Neighbouring bins of Hann windows correlate by (2/3)², next ones by (1/6)²: the variance is 1.94 times as large.
    variance = 1.94 * (fit**2 * place**2 * rest**2).sum(axis=-1) / spread**2
    enough = used.sum(axis=-1) >= _LEAST_FIT_BINS
    unknown = 1 / len(frequency_hz)  # per bin: a factor e over the whole band
    return xp.where(enough, slope, 0.0) / step_hz, xp.where(enough, variance, unknown**2) / step_hz**2


def _statistics(values: dict[str, Array]) -> Array:
    """Mean, std, min and max over chunks, (S, R, 18, 4)."""
    xp = array_namespace(values["snr_db"])
    stacked = xp.stack([values[name] for name in schema.FEATURES], axis=-2)  # (S, R, 18, C)
    mean = stacked.mean(axis=-1)
    for name in _POWERS:
        mean[..., list(schema.FEATURES).index(name)] = linear_to_db(db_to_linear(values[name]).mean(axis=-1))
    return xp.stack([mean, stacked.std(axis=-1), stacked.min(axis=-1), stacked.max(axis=-1)], axis=-1)


def _to_host(array: Array) -> np.ndarray:
    return array if array_namespace(array) is np else array.get()
