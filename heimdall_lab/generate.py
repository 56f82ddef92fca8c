"""Generate datasets: a shard is a pure function of the configuration and its number."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import numpy as np
import scipy.fft
import xarray as xr

from heimdall_lab import bounds, channel, scenes, schema, spectra, store, waveforms
from heimdall_lab.arrays import Array, array_namespace, backend_namespace
from heimdall_lab.config import Config
from heimdall_lab.progress import display
from heimdall_lab.units import db_to_linear, linear_to_db

_BATCH_IQ_SAMPLES = 2**21  # IQ samples of all receivers that are synthesized at a time


def generate(
    config: Config,
    out: str | Path | None = None,
    backend: str = "auto",
    progress: bool = True,
    workers: int = 1,
) -> xr.Dataset:
    """Generate a dataset.

    Parameters
    ----------
    config : Config
    out : path, optional
        Folder to write shards to. If it already holds shards of the same configuration, only the missing or damaged
        ones are generated. Without it, the dataset is made in memory.
    backend : str
        ``numpy``, ``cupy``, or ``auto`` for CuPy where a GPU answers.
    progress : bool
        Show progress on standard error.
    workers : int
        Processes that generate shards side by side; the result does not depend on it. Used when writing to a folder.

    Returns
    -------
    xr.Dataset
        Opened lazily from the folder, or in memory.

    Raises
    ------
    ValueError
        If the folder cannot be used, the gate accepts too few scenes, or the backend cannot run.
    """
    if workers < 1:
        raise ValueError(f"workers: {workers} is refused; give at least 1")
    backend_namespace(backend)
    scenes.check_tones(config)
    if out is None:
        return _in_memory(config, backend, progress)
    manifest = store.start(Path(out), config, version("heimdall_lab"))
    missing = sorted(set(range(config.num_shards)) - {shard.number for shard in manifest.shards})
    if missing:
        started, before = time.monotonic(), manifest.num_samples
        with display(f"generate {config.name}", config.num_samples, enabled=progress) as report:
            for shard in _shards(config, Path(out), backend, missing, workers):
                manifest = manifest.with_shard(shard)
                store.write_manifest(Path(out), manifest)
                rate = (manifest.num_samples - before) / (time.monotonic() - started)
                report(manifest.num_samples, f"scenes, {rate:.1f} per second, {manifest.acceptance:.1%} accepted")
    return store.open_dataset(out)


def load_or_generate(config: Config, root: str | Path = "data", progress: bool = True) -> xr.Dataset:
    """Open the dataset of a configuration from its own folder below ``root``, generating what is missing of it.

    The folder's name holds a hash of the configuration and of the package version, so that others get other folders.
    """
    identity = version("heimdall_lab") + config.model_dump_json()
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return generate(config, Path(root) / f"{config.name}-{digest}", progress=progress)


def samples_of(config: Config, shard: int) -> np.ndarray:
    """Indices of the samples of one shard."""
    return np.arange(shard * config.shard_size, min((shard + 1) * config.shard_size, config.num_samples))


def synthesize(config: Config, samples: np.ndarray, backend: str = "auto") -> tuple[xr.Dataset, dict[str, int]]:
    """Generate some samples of a dataset in memory.

    Parameters
    ----------
    samples : (S,) int
        Their indices.

    Returns
    -------
    dataset : xr.Dataset
        With every variable of the contract.
    rejections : dict of str to int
        Candidate scenes turned away, by the field of the gate that did it.
    """
    xp = backend_namespace(backend)
    drawn = scenes.draw(config, samples)
    per_batch = max(1, _BATCH_IQ_SAMPLES // (config.max_receivers * config.signal.num_time))
    batches = [np.arange(len(samples))[i : i + per_batch] for i in range(0, len(samples), per_batch)]
    parts = [_signals(config, drawn, rows, xp) for rows in batches]
    signals = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _dataset(config, samples, drawn.variables | signals), drawn.rejections


def _in_memory(config: Config, backend: str, progress: bool) -> xr.Dataset:
    parts = []
    with display(f"generate {config.name}", config.num_samples, enabled=progress) as report:
        for shard in range(config.num_shards):
            parts.append(synthesize(config, samples_of(config, shard), backend)[0])
            report(sum(part.sizes["sample"] for part in parts), "scenes")
    return schema.check(xr.concat(parts, dim="sample", data_vars="all", combine_attrs="override"))


def _shards(config: Config, folder: Path, backend: str, numbers: list[int], workers: int) -> Iterator[store.Shard]:
    """Write shards and yield each one's manifest entry as soon as it is on disk."""
    if workers == 1:
        for number in numbers:
            yield _write_shard(config, folder, backend, number)
        return
    # Spawned processes share no state with this one, so that threads and GPU contexts here cannot harm them.
    with ProcessPoolExecutor(
        min(workers, len(numbers)), mp_context=get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
    ) as pool:
        futures = [pool.submit(_write_shard, config, folder, backend, number) for number in numbers]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenExecutor as error:
            raise store.StoreError(
                f"workers: a process of the {workers} ended before its shard was written, as when memory runs out; "
                "what is written is kept, so run the same command again, with fewer workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with(parent: int) -> None:
    """Make this worker ignore Ctrl-C, which its parent handles, and end when the parent has been killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_shard(config: Config, folder: Path, backend: str, number: int) -> store.Shard:
    dataset, rejections = synthesize(config, samples_of(config, number), backend)
    return store.write_shard(folder, number, dataset, rejections)


def _signals(config: Config, drawn: scenes.Scenes, rows: Array, xp: ModuleType) -> dict[str, np.ndarray]:
    """Synthesize what the receivers of some scenes record, and the properties of their waveforms."""
    rate_hz, num_time = config.signal.sample_rate_hz, config.signal.num_time
    truth = {name: values[rows] for name, values in drawn.variables.items()}
    host_streams = drawn.streams.select(rows)
    streams = host_streams.to(xp)
    clock_bound_s = channel.clock_bound_s(config.channel.clock, config.channel.clock_sigma_s)
    widest_s = scenes.longest_delay_spread_s(config) + 2 * clock_bound_s
    guard = int(np.ceil(widest_s * rate_hz)) + channel.TAPER
    length = 2 * scipy.fft.next_fast_len(-(-(guard + num_time + channel.TAPER) // 2))

    kind = waveforms.kinds(config.signal, host_streams)
    waveform = waveforms.synthesize(config.signal, kind, streams, length)
    frequency_hz, density = _periodogram(channel.taper(waveform), rate_hz)
    arrival_s = truth["propagation_delay"] + truth["excess_delay"] + truth["clock_offset"]
    arrival_s = arrival_s - truth["emission_time"][:, None]
    present = truth["receiver_present"]
    voltage = channel.receive(
        waveform,
        arrival_samples=xp.asarray(np.where(present, arrival_s, 0.0) * rate_hz),
        frequency_offset_cycles=xp.asarray(np.where(present, truth["frequency_offset"], 0.0) / rate_hz),
        received_power_dbm=xp.asarray(np.where(present, truth["received_power"], -np.inf)),
        noise_power_dbm=float(truth["noise_power"][present][0]),
        streams=streams,
        num_time=num_time,
        guard=guard,
    )
    iq, full_scale = (_on_host(a) for a in channel.convert(voltage, config.channel.agc_headroom_db))
    return {
        "iq": np.where(present[..., None, None], iq, np.int16(0)),
        "iq_full_scale": np.where(present, full_scale, np.nan),
        "waveform": np.array(waveforms.KINDS)[kind],
        "rms_bandwidth": _on_host(spectra.rms_bandwidth_hz(frequency_hz, density)),
        "occupied_bandwidth": _on_host(spectra.occupied_bandwidth_hz(frequency_hz, density)),
    }


def _dataset(config: Config, samples: np.ndarray, truth: dict[str, np.ndarray]) -> xr.Dataset:
    """Label the arrays, and add what follows from the waveform's bandwidth."""
    rate_hz = config.signal.sample_rate_hz
    noise_in_band = db_to_linear(truth["noise_power"]) * truth["occupied_bandwidth"][:, None] / rate_hz
    snr = truth["received_power"] - linear_to_db(noise_in_band)
    derived = {"snr": snr, "signal_present": snr >= config.gate.min_snr_db}
    names = [receiver.name for receiver in config.geometry.receivers]
    coords = {
        "sample": ("sample", samples, {"long_name": "index of the scene"}),
        "receiver": np.arange(config.max_receivers),
        "receiver_name": ("receiver", np.array(names + [""] * (config.max_receivers - len(names)))),
        "component": ["i", "q"],
        "time": np.arange(config.signal.num_time) / rate_hz,
    }
    attrs = {
        "title": f"Simulated multi-receiver IQ: {config.name}",
        "history": f"generated by heimdall_lab {version('heimdall_lab')} from the attributes config and seed",
        "config": config.model_dump_json(),
        "seed": str(config.seed),
        "centre_frequency_hz": config.signal.frequency_hz,
        "sample_rate_hz": rate_hz,
        "propagation": "line_of_sight",
        "clock_sigma_s": config.channel.clock_sigma_s,
        "path_delay_sigma_s": 0.0,
        "max_clock_offset_s": channel.clock_bound_s(config.channel.clock, config.channel.clock_sigma_s),
        "max_frequency_offset_hz": config.channel.frequency_offset_max_hz,
        "link_sigma_db": config.channel.link_sigma_db,
        "min_snr_db": config.gate.min_snr_db,
    }
    scene = schema.label(truth | derived, coords, attrs)
    bound = bounds.scene_crlb(scene)
    return scene.merge(schema.label({name: bound[name].values for name in ("gdop", "crlb_rmse")}, {}, {}))


def _periodogram(waveform: Array, sample_rate_hz: float) -> tuple[Array, Array]:
    """Frequencies (F,), ascending, and |spectrum|² (S, F) of whole waveforms."""
    xp = array_namespace(waveform)
    density = xp.abs(xp.fft.fftshift(xp.fft.fft(waveform, axis=-1), axes=-1)).astype(xp.float64) ** 2
    return xp.fft.fftshift(xp.fft.fftfreq(waveform.shape[-1], 1 / sample_rate_hz)), density


def _on_host(array: Array) -> np.ndarray:
    """Bring an array to NumPy."""
    return array.get() if hasattr(array, "get") else array
