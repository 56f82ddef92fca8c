"""Synthesize scenes in memory: what every receiver records, labelled, with its truth."""

from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import scipy.fft
import xarray as xr

from heimdall_lab.core import interpolation
from heimdall_lab.core.arrays import backend_namespace
from heimdall_lab.core.config import Config
from heimdall_lab.core.philox import Stage, Streams
from heimdall_lab.core.transmission import Signal
from heimdall_lab.core.units import SPEED_OF_LIGHT, db_to_linear, linear_to_db
from heimdall_lab.datasets import schema
from heimdall_lab.localization import bounds
from heimdall_lab.signals import pairs, spectra
from heimdall_lab.signals.features import coordinates, measure
from heimdall_lab.simulation import clocks, placement, receiver, receiver_cuda, scenes
from heimdall_lab.simulation.propagation import fading
from heimdall_lab.simulation.waveforms import kinds

_SHORTEST_SPECTRUM = 64  # samples from which the bandwidth of a waveform is measured
_BATCH_IQ_SAMPLES = {"numpy": 2**21, "cupy": 2**26}  # of all receivers, synthesized at a time: caches, GPUs


def synthesize(config: Config, samples: np.ndarray, backend: str = "auto") -> tuple[xr.Dataset, dict[str, int]]:
    """Generate some samples of a dataset in memory.

    Parameters
    ----------
    samples : (S,) int
        Their indices.
    backend : str
        Where the receivers' samples are computed; all truth is computed on the CPU, so that it is the same everywhere.

    Returns
    -------
    dataset : xr.Dataset
        With every variable of the contract that its type of data holds.
    rejections : dict of str to int
        Candidate scenes rejected, by the field of the gate that did it.
    """
    namespace = backend_namespace(backend)
    receive = receiver.upsample_and_receive if namespace is np else partial(receiver_cuda.receive, namespace)
    batch_samples = _BATCH_IQ_SAMPLES["numpy" if namespace is np else "cupy"]
    drawn = scenes.draw_scenes(config, samples)
    signal, present = config.signal, drawn.variables["receiver_present"]
    iq = np.empty((*present.shape, 2, signal.num_time), dtype=np.int16)
    full_scale = receiver.full_scale(
        db_to_linear(drawn.variables["received_power"]),
        db_to_linear(drawn.variables["noise_power"]),
        config.channel.agc_headroom_db,
    )
    kind = kinds.draw_kinds(signal, drawn.streams)
    bandwidths = np.empty((2, len(samples)))
    attrs = _attributes(config)
    measured = []
    per_batch = max(1, batch_samples // iq[0, :, 0].size)
    for first in range(0, len(samples), per_batch):
        rows = slice(first, first + per_batch)
        streams = drawn.streams.select(rows)
        guard, length = _waveform_length(config)
        waveform = kinds.synthesize_waveforms(signal, kind[rows], streams, length)
        bandwidths[:, rows] = _bandwidths_hz(_window(signal, waveform, guard), signal.waveform_rate_hz)
        truth = {name: values[rows] for name, values in drawn.variables.items()}
        links = _links(config, truth, streams, full_scale[rows])
        receive(waveform, signal.interpolation, links, streams, iq[rows], guard)
        measured.append(
            measure(
                namespace.asarray(iq[rows]),
                full_scale[rows],
                present[rows],
                attrs,
                spectrogram="spectrogram" in schema.SIGNALS[config.data_type],
            )
        )
    signals = {
        "iq": iq,
        "iq_full_scale": full_scale,
        "waveform": np.array(kinds.KINDS)[kind],
        "rms_bandwidth": bandwidths[0],
        "occupied_bandwidth": bandwidths[1],
    }
    for name in measured[0]:
        signals[name] = np.concatenate([part[name] for part in measured])
    dataset = _dataset(config, samples, drawn.variables | signals, attrs)
    if "tdoa_s" in schema.SIGNALS[config.data_type]:
        dataset = dataset.merge(pairs.pair_features(dataset), combine_attrs="override", compat="override")
        dataset.attrs["measurement"] = schema.measurement(attrs)
    dropped = {"iq", "iq_full_scale"}.difference(schema.SIGNALS[config.data_type])
    return dataset.drop_vars(dropped).drop_dims(["component", "time"] if dropped else []), drawn.rejections


def _waveform_length(config: Config) -> tuple[int, int]:
    """Sample of the interpolated waveform that is its time 0, and number of samples before interpolation."""
    signal, paths = config.signal, config.channel
    clock_s = clocks.largest_offset_s(config)
    echo_s = paths.multipath_delay_max_s if paths.multipath_taps_max > 0 else 0.0
    widest_s = placement.longest_delay_spread_s(config) + 2 * clock_s + paths.max_excess_delay_s + echo_s
    rate = config.geometry.transmitter_speed_max_m_s / SPEED_OF_LIGHT + config.clock_rate_max
    after = int(np.ceil(rate * signal.duration_s / 2 * signal.sample_rate_hz)) + receiver.MARGIN
    guard = int(np.ceil(widest_s * signal.sample_rate_hz)) + after
    count = -(-(guard + signal.num_time + after) // signal.interpolation) + interpolation.TAPS
    return guard, scipy.fft.next_fast_len(count)


def _links(config: Config, truth: dict[str, np.ndarray], streams: Streams, full_scale: np.ndarray) -> receiver.Links:
    """Delays, gains, oscillators and noise of every link, in samples, turns and √mW."""
    rate_hz, num_receivers = config.signal.sample_rate_hz, config.max_receivers
    paths = fading.draw_multipath(config.channel, streams, truth["line_of_sight"])
    block = receiver.block_length(
        rate_hz, config.channel.max_fading_hz, config.channel.frequency_drift_max_hz_per_s, config.clock_rate_max
    )
    gain = fading.gains(paths, streams, block / rate_hz, -(-config.signal.num_time // block) + 1)
    amplitude = db_to_linear(np.nan_to_num(truth["received_power"] - truth["fading"], nan=-np.inf)) ** 0.5
    arrival_s = truth["propagation_delay"] + truth["excess_delay"] + truth["clock_offset"]
    first_s = np.nan_to_num(arrival_s - truth["emission_time"][:, None])
    return receiver.Links(
        arrival=(first_s[..., None] + paths.delay_s) * rate_hz,
        arrival_rate=np.nan_to_num(
            truth.get("clock_rate", 0.0) - truth["doppler"] / scenes.carrier_hz(config, streams)
        ),
        gain=amplitude[..., None, None].astype(np.float32) * gain,
        block=block,
        phase=streams.uniform(Stage.CARRIER_PHASE, num_receivers),
        frequency=np.nan_to_num(truth["frequency_offset"] + truth["doppler"]) / rate_hz,
        drift=np.nan_to_num(truth["frequency_drift"]) / rate_hz**2,
        noise_amplitude=db_to_linear(truth["noise_power"]) ** 0.5,
        full_scale=full_scale,
    )


def _window(signal: Signal, waveform: np.ndarray, guard: int) -> np.ndarray:
    """Part of waveforms, at their own rate, that the first receiver reached records; at least 64 samples."""
    first = interpolation.LEAD + guard // signal.interpolation
    count = max(_SHORTEST_SPECTRUM, signal.num_time // signal.interpolation)
    first = min(first, waveform.shape[1] - count)
    return waveform[:, first : first + count]


def _bandwidths_hz(waveform: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Rms and occupied bandwidth of each waveform, (S,), Hz."""
    frequency_hz, density = spectra.periodogram(waveform, rate_hz)
    return spectra.rms_bandwidth_hz(frequency_hz, density), spectra.occupied_bandwidth_hz(frequency_hz, density)


def _dataset(config: Config, samples: np.ndarray, truth: dict[str, np.ndarray], attrs: dict[str, Any]) -> xr.Dataset:
    """Label the arrays, and add what follows from the waveform's bandwidth."""
    rate_hz = config.signal.sample_rate_hz
    noise_in_band = db_to_linear(truth["noise_power"]) * truth["occupied_bandwidth"][:, None] / rate_hz
    snr = truth["received_power"] - linear_to_db(noise_in_band)
    derived = {"snr": snr, "signal_present": snr >= config.gate.min_snr_db}
    coords = {
        "sample": ("sample", samples, {"long_name": "index of the scene"}),
        "receiver": np.arange(config.max_receivers),
        "receiver_name": ("receiver", np.array(placement.receiver_names(config))),
        "component": ["i", "q"],
        "time": np.arange(config.signal.num_time) / rate_hz,
    }
    labels = coordinates(rate_hz, config.signal.num_time)
    coords |= {name: labels[name] for name in labels if "spectrogram" in truth or name not in ("frequency", "frame")}
    scene = schema.label(truth | derived, coords, attrs)
    bound = bounds.scene_crlb(scene)
    if config.has_recordings:
        bound["crlb_rmse"][:] = np.nan  # it is joint, of all emissions that a dataset holds
    return scene.merge(schema.label({name: bound[name].values for name in ("gdop", "crlb_rmse")}, {}, {}))


def _attributes(config: Config) -> dict[str, Any]:
    """Attributes of the contract, and where the dataset comes from."""
    level_sigmas_db = (
        config.channel.link_sigma_db,
        fading.level_sigma_db(config.channel, config.signal.duration_s),
        scenes.unexplained_diffraction_db(config),
    )
    low_m, high_m = config.geometry.transmitter_altitude_min_m, config.geometry.transmitter_altitude_max_m
    altitude = {
        "transmitter_altitude_m": (low_m + high_m) / 2,
        "transmitter_altitude_sigma_m": (high_m - low_m) / 12**0.5,
    }
    over_terrain = config.channel.diffraction == "terrain"  # which says how high transmitters are
    return {
        "title": f"Simulated multi-receiver IQ: {config.name}",
        "history": f"generated by heimdall_lab {version('heimdall_lab')} from the attributes config and seed",
        "config": config.model_dump_json(),
        "seed": str(config.seed),
        "centre_frequency_hz": config.signal.frequency_hz,
        "sample_rate_hz": config.signal.sample_rate_hz,
        "duration_s": config.signal.duration_s,
        "propagation": "line_of_sight",
        "clock_sigma_s": clocks.offset_sigma_s(config),
        "path_delay_sigma_s": fading.path_delay_sigma_s(config.channel),
        "nlos_ratio": config.channel.nlos_ratio,
        "nlos_excess_mean_s": config.channel.nlos_excess_mean_s if config.channel.nlos_ratio > 0 else 0.0,
        "max_clock_offset_s": clocks.largest_offset_s(config),
        "max_frequency_offset_hz": config.max_frequency_offset_hz,
        "link_sigma_db": float(np.linalg.norm(level_sigmas_db)),
        "level_law": "smooth_earth" if config.channel.diffraction == "smooth_earth" else "free_space",
        "min_snr_db": config.gate.min_snr_db,
        "sigma_freedom": np.inf,
        **clocks.clock_attributes(config),
        **({} if over_terrain else altitude),
    }
