"""Measurements of a signal from its IQ alone: levels, and time and frequency differences of pairs."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import scipy.fft
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import batch_slices
from heimdall_lab.core.progress import ProgressCallback
from heimdall_lab.core.units import ADC_MAX, EARTH_RADIUS_KM, SPEED_OF_LIGHT, db_to_linear, linear_to_db
from heimdall_lab.datasets import schema
from heimdall_lab.signals import spectra
from heimdall_lab.signals.frequency_drift import frequency_drift
from heimdall_lab.signals.group_delay import group_delay_sigma
from heimdall_lab.signals.noise_floor import NoiseFloor, noise_floor
from heimdall_lab.signals.voltages import Voltages, delay_growth

# What is read of a dataset, beside its IQ and attributes.
OF_LINKS = ("iq_full_scale", "receiver_present", "receiver_latitude", "receiver_longitude", "receiver_altitude")
OF_SCENES = ("centre_frequency",)  # where it is there
_BATCH_IQ_SAMPLES = 2**21
_MAX_IQ_SAMPLES = 2**24  # of all threads; with spectra some 50 B each
_SIGNIFICANT = 4.0  # standard deviations from which excess power is a signal
_LEAST_SAMPLES = 64
_PATH_SIGMAS = 20.0  # standard deviations of path delay that are searched: excess delays have long tails
_QUANTISATION = 10.0  # times its power, from which noise is not just that of integers behind a filter
_LEAST_BANDWIDTH = 1.25  # steps of a spectrum, from which the rms bandwidth is the signal's and not the windows'
_LEAST_MARGIN_S = 200e-6  # delays searched beyond what baseline and clocks allow: what errs by less is seen to err


def pair_features(dataset: xr.Dataset, progress: ProgressCallback | None = None) -> xr.Dataset:
    """Measure level and SNR of every receiver, and its time and frequency difference against the strongest one.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ; truth variables are not read.
    progress : callable, optional
        Called with the number of scenes measured so far; what it raises ends the measuring.

    Returns
    -------
    xr.Dataset
        Dims (sample, receiver): ``rssi_dbm``, ``snr_db``, ``tdoa_s``, ``fdoa_hz``, ``toa_std_s``, ``tdoa_std_s``,
        ``coherence``, NaN where no receiver is, and the two standard deviations of delays of a carrier, too, of whose
        bandwidth the spectrum shows nothing, and of delays with rivals: ``rival_delay_s``, another one that noise does
        not tell from ``tdoa_s``, else NaN; ``noise_known``, False where ``snr_db`` is only a limit, as the signal may
        fill the band that a filter lets pass; ``heard``, True where the SNR is at least ``min_snr_db`` and the delay
        was found; and ``reference_receiver`` (sample), the position of the strongest receiver along ``receiver``.

    Raises
    ------
    ValueError
        If the dataset holds no IQ, no samples, fewer than 64 instants, or lacks what is needed to measure.

    Delays are those at the middle of the window. Where ``one_crystal`` says that frequencies tell the rates of the
    sample clocks, these are taken out; else ``clock_rate_sigma`` is in the standard deviations.

    Source: Knapp and Carter, IEEE Trans. ASSP 24 (1976); Stein, IEEE Trans. ASSP 29 (1981).
    """
    if "iq" not in dataset:
        missing = set(schema.MEASURED) - set(dataset)
        as_well = (
            f"nor is {min(missing)!r} as measured of it; give either" if missing else "but what was measured of it"
        )
        raise ValueError(f"iq: is not in the dataset, {as_well}")
    if dataset.sizes["time"] < _LEAST_SAMPLES:
        raise ValueError(f"time: {dataset.sizes['time']} samples are too few to measure; give {_LEAST_SAMPLES} or more")
    for name in ("sample_rate_hz", "max_clock_offset_s", "max_frequency_offset_hz", "min_snr_db"):
        if not np.isfinite(dataset.attrs[name]):
            raise ValueError(f"{name}: is {dataset.attrs[name]}; set it ({schema.ATTRIBUTES[name]}) to measure signals")
    measured = in_batches(_pair_features, dataset, _num_threads(dataset), progress)
    return schema.label(
        {name: measured[name] for name in (*schema.MEASURED, *schema.MEASURED_BESIDE)},
        {name: dataset[name] for name in ("sample", "receiver", "receiver_name")},
        {},
    ).drop_attrs(deep=False)


def in_batches(
    measure: Callable[[xr.Dataset], dict[str, np.ndarray]],
    dataset: xr.Dataset,
    threads: int = 1,
    progress: ProgressCallback | None = None,
) -> dict[str, np.ndarray]:
    """Measure a dataset with IQ some scenes at a time, so that a large one does not fill the memory.

    ValueError if it holds no samples.
    """
    if dataset.sizes["sample"] == 0:
        raise ValueError("dataset: holds no samples; give at least one")
    per_batch = _BATCH_IQ_SAMPLES // (dataset.sizes["receiver"] * dataset.sizes["time"])
    known = [*OF_LINKS, *(name for name in OF_SCENES if name in dataset)]
    dataset = dataset[["iq"]].assign(dataset[known].compute().data_vars)
    parts: list[dict[str, np.ndarray]] = []
    waiting: deque[tuple[int, Future[dict[str, np.ndarray]]]] = deque()

    def finish_one() -> None:
        done, part = waiting.popleft()
        parts.append(part.result())
        if progress:
            progress(done, "scenes measured")

    with ThreadPoolExecutor(threads) as pool:
        for rows in batch_slices(dataset.sizes["sample"], per_batch):
            if len(waiting) == threads:
                finish_one()
            batch = dataset.isel(sample=rows).load()
            waiting.append((rows.start + batch.sizes["sample"], pool.submit(measure, batch)))
        while waiting:
            finish_one()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _num_threads(dataset: xr.Dataset) -> int:
    """One for each core, or as many as OMP_NUM_THREADS says; fewer where scenes are large, for each holds its own."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fit = _MAX_IQ_SAMPLES // max(_BATCH_IQ_SAMPLES, dataset.sizes["receiver"] * dataset.sizes["time"])
    return max(1, min(int(asked) if asked.isdigit() else cores, fit))


def largest_delay_s(dataset: xr.Dataset, reference: np.ndarray) -> np.ndarray:
    """Largest time difference that baseline, paths and clocks allow against each reference, (S, R) s."""
    position = geodesy.ecef(*(dataset[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude")))
    baseline_m = np.linalg.norm(position - _of_reference(position, reference)[:, None], axis=-1)
    # The chord between two receivers bounds the difference of straight paths, the arc that of ground and sky waves. It
    # is longer by d²/24R², 0.1 % at 1,000 km.
    radius_m = EARTH_RADIUS_KM * 1e3
    arc_m = 2 * radius_m * np.arcsin(np.minimum(baseline_m / (2 * radius_m), 1.0))
    return np.nan_to_num(
        np.maximum(1.001 * baseline_m, arc_m) / SPEED_OF_LIGHT
        + 2 * dataset.attrs["max_clock_offset_s"]
        + max(_LEAST_MARGIN_S, _PATH_SIGMAS * np.nan_to_num(dataset.attrs["path_delay_sigma_s"]))
    )


@np.errstate(divide="ignore", invalid="ignore")  # what cannot be measured becomes NaN
def _pair_features(batch: xr.Dataset) -> dict[str, np.ndarray]:
    """Measure one batch of scenes on arrays (S, R, N)."""
    # As numbers of Python: those of NumPy, as files hold them, would turn single precision into double.
    rate_hz, max_frequency_hz, min_snr_db = (
        float(batch.attrs[name]) for name in ("sample_rate_hz", "max_frequency_offset_hz", "min_snr_db")
    )
    present = batch.receiver_present.values
    duration_s = batch.sizes["time"] / rate_hz
    voltages = Voltages(batch)
    spectrum, power = voltages.spectra()
    floor = noise_floor(spectrum, present)
    noise_density = np.where(present, floor.density, np.nan)  # (S, R)
    quantisation = np.square(batch.iq_full_scale.values / ADC_MAX) / 6  # power of both components
    signal = _signal_power(power, batch.sizes["time"], spectrum, floor, noise_density)

    reference = np.nan_to_num(signal / noise_density, nan=-1.0).argmax(axis=1)
    is_reference = np.arange(present.shape[1]) == reference[:, None]
    density = _of_reference(spectrum.density, reference)  # (S, F)
    weight = spectra.wiener_weight(spectrum._replace(density=density), _of_reference(noise_density, reference))
    occupied_hz = spectra.occupied_bandwidth_hz(spectrum.frequency_hz, weight * density)[:, None]
    rms_hz = spectra.rms_bandwidth_hz(spectrum.frequency_hz, weight * density)[:, None]
    step_hz = spectrum.frequency_hz[1] - spectrum.frequency_hz[0]
    rms_hz = np.where(rms_hz > _LEAST_BANDWIDTH * step_hz, rms_hz, np.nan)  # of a carrier no delay is known
    snr = signal / (noise_density * occupied_hz)
    find_peak = partial(
        Voltages.ambiguity_peak,
        reference=reference,
        weight=weight,
        max_delay_samples=largest_delay_s(batch, reference) * rate_hz,
        max_frequency_cycles=2 * max_frequency_hz / rate_hz,
    )
    peak = find_peak(voltages)
    if schema.has_clock_rates(batch.attrs):
        growth = delay_growth(batch, peak.frequency_cycles * rate_hz)
        found = reference, peak.delay_samples, peak.frequency_cycles, weight
        drift = frequency_drift(voltages.of_receiver, *found)
        if growth.any() or drift.any():
            voltages = Voltages(batch, growth, drift)
            peak = find_peak(voltages)

    is_heard = (snr >= db_to_linear(min_snr_db)) & np.isfinite(peak.delay_samples)
    is_ambiguous = np.isfinite(peak.rival_samples) & ~is_reference
    # The reference's noise is in all of its differences, whose efficiencies differ.
    others = np.where(is_heard & ~is_reference, peak.efficiency, np.nan)
    of_others = np.nan_to_num(_mean(others), nan=1.0)[:, None]
    used_s = duration_s * np.where(is_reference, of_others, peak.efficiency)
    noise_std = spectra.delay_sigma_s(snr, occupied_hz, rms_hz, used_s)
    reference_std = _of_reference(noise_std, reference)[:, None]
    # What is incoherent between the two receivers, noise or not, spreads their time difference (Stein 1981,
    # with the effective noise over signal (1 − γ²) / γ²); what the reference does not explain is the other receiver's.
    weight_hz = weight.sum(axis=1)[:, None] * rate_hz / weight.shape[1]
    coherent = np.clip(peak.coherence, 0.0, 1 - 1e-9)  # rounding may leave 1
    pair_std = spectra.delay_sigma_s(coherent / (1 - coherent), weight_hz, rms_hz, used_s)
    own_variance = np.fmax(
        noise_std**2 * (1 + 1 / _of_reference(snr, reference)[:, None]), pair_std**2 - reference_std**2
    )
    # Echoes bend phases as filters do; where links are known to be late, the law of their delays holds that already.
    unlike_s = np.zeros(present.shape)
    if not batch.attrs["nlos_ratio"] > 0:
        used = is_heard & np.isfinite(own_variance) & ~is_ambiguous
        lag, turns = peak.delay_samples, peak.frequency_cycles
        unlike_s = group_delay_sigma(voltages.of_receiver, reference, used, lag, turns, weight) / rate_hz
    rate_sigma = float(batch.attrs.get("clock_rate_sigma", 0.0))
    if rate_sigma > 0:
        # A delay is counted by the reference's clock, whose own rate nobody tells.
        unlike_s = np.hypot(unlike_s, rate_sigma * np.abs(np.nan_to_num(peak.delay_samples)) / rate_hz)
        if not batch.attrs.get("one_crystal", 0):
            unlike_s = np.hypot(unlike_s, rate_sigma * _lever_s(voltages, reference, weight, rate_hz)[:, None])
    toa_std = np.hypot(np.where(is_reference, noise_std, np.sqrt(own_variance)), unlike_s)
    toa_std = np.where(is_ambiguous, np.nan, toa_std)
    reference_std = _of_reference(toa_std, reference)[:, None]
    return {
        "rssi_dbm": linear_to_db(signal),
        "snr_db": linear_to_db(snr),
        "tdoa_s": np.where(present, np.where(is_reference, 0.0, peak.delay_samples / rate_hz), np.nan),
        "fdoa_hz": np.where(present, np.where(is_reference, 0.0, peak.frequency_cycles * rate_hz), np.nan),
        "toa_std_s": toa_std,
        "tdoa_std_s": np.where(is_reference, 0.0, np.hypot(toa_std, reference_std)),
        "coherence": np.where(present, peak.coherence, np.nan),
        "heard": is_heard,
        "reference_receiver": reference,
        "rival_delay_s": np.where(is_ambiguous, peak.rival_samples / rate_hz, np.nan),
        "noise_known": floor.known & present & (noise_density * rate_hz > _QUANTISATION * quantisation),
    }


def _lever_s(voltages: Voltages, reference: np.ndarray, weight: np.ndarray, rate_hz: float) -> np.ndarray:
    """By how much a delay that grows by one second in a second is measured off what it is in mid-window, (S,) s.

    It is what the middle of the signal's information on its delay is off that of the window, once the phase and the
    frequency that are estimated with the delay have taken their share: least squares for the change that a growing
    delay makes, by those that delay, phase and frequency make.
    """
    lever = np.empty(len(reference))
    for scene, receiver in enumerate(reference):
        voltage = voltages.of_scene(scene, int(receiver))
        num_time = len(voltage)
        cycles = scipy.fft.fftfreq(num_time)
        spectrum = scipy.fft.fft(voltage) * np.sqrt(spectra.weight_at(weight[[scene]], cycles)[0])
        signal, slope = (
            each / np.maximum(np.linalg.norm(each), 1e-30)  # so that sums of products are no larger than 1
            for each in (scipy.fft.ifft(spectrum), scipy.fft.ifft(2j * np.pi * cycles * spectrum))
        )
        place = 2 * np.arange(num_time) / num_time - 1
        changes = np.stack([slope, 1j * signal, 1j * place * signal])
        products = (changes @ np.stack([*changes, place * slope]).conj().T).real  # (3, 4)
        lever[scene] = np.linalg.lstsq(products[:, :3], products[:, 3])[0][0] * num_time / 2
    return np.abs(lever) / rate_hz


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean (S,) of the finite ones of (S, R), NaN of none."""
    finite = np.isfinite(values)
    return np.where(finite, values, 0.0).sum(axis=1) / finite.sum(axis=1)


def _signal_power(
    power: np.ndarray, num_time: int, spectrum: spectra.Spectrum, floor: NoiseFloor, noise_density: np.ndarray
) -> np.ndarray:
    """What of a power (S, R) is not noise of a density (S, R), of so many samples; NaN where it is not significant."""
    step_hz = spectrum.frequency_hz[1] - spectrum.frequency_hz[0]
    rate_hz = step_hz * len(spectrum.frequency_hz)
    power = power - noise_density * rate_hz
    # Of N samples of noise, the power has a relative variance of 1 / N, and the median over half the band of π / N.
    fluctuation = noise_density * rate_hz * np.sqrt((1 + np.pi) / num_time)
    if not floor.is_white.all():
        # Beyond the frequencies at which noise was seen, it is another, and there is no signal.
        places = np.arange(len(spectrum.frequency_hz))
        inside = (places >= floor.first[..., None]) & (places < floor.last[..., None])
        width_hz = (floor.last - floor.first) * step_hz
        in_band = (inside * spectrum.density).sum(axis=-1) * step_hz - noise_density * width_hz
        variance = rate_hz / (width_hz * num_time) + floor.variance
        power = np.where(floor.is_white, power, in_band)
        fluctuation = np.where(floor.is_white, fluctuation, noise_density * width_hz * np.sqrt(variance))
    return np.where(power > _SIGNIFICANT * fluctuation, power, np.nan)


def _of_reference(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Take the reference receiver's value out of (S, R, ...): (S, ...)."""
    return values[np.arange(len(reference)), reference]
