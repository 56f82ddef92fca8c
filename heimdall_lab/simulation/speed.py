"""How fast this machine draws, synthesizes, measures, writes and reads scenes."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from heimdall_lab.core.arrays import backend_namespace
from heimdall_lab.core.config import MAX_SHARD_SAMPLES, Config
from heimdall_lab.core.text import si_text
from heimdall_lab.datasets import manifest, netcdf, store
from heimdall_lab.signals import pairs
from heimdall_lab.signals.features import measure as measure_features
from heimdall_lab.simulation import scenes, synthesis
from heimdall_lab.simulation.cluster import shard_samples

COLUMNS = ["step", "where", "scenes_per_s", "iq_samples_per_s", "bytes_per_s"]

VERSIONS = ("heimdall_lab", "numpy", "numba", "xarray", "netCDF4")

_GATED_CANDIDATES = 8192
_TIMED_SCENES = (2, 10)  # of two runs: their difference is the time of eight scenes without that of a shard
_MIN_TIMED_S = 0.5  # a step is repeated until it has run for so long


def machine() -> dict[str, Any]:
    """Describe what the rates belong to: processor, number of cores, GPU and versions."""
    try:
        cupy: Any = backend_namespace("cupy")
        gpu = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except ValueError:
        gpu = None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
    }


def measure(config: Config, folder: str | Path | None = None) -> pd.DataFrame:
    """Time every step of making and using one shard of a dataset, on each backend that runs here.

    Parameters
    ----------
    config : Config
        The first shard of it is made.
    folder : path, optional
        Where the shard is written, in a temporary folder that is removed again; by default where the system keeps
        such folders, which may be in memory.

    Returns
    -------
    pandas.DataFrame
        A row for each step with the columns of ``COLUMNS``: draw (candidate scenes, drawn and gated), noise (the
        reference: drawing the same amount of noise by NumPy's own generator), iq (drawing and synthesis, with
        what is measured), features and pairs (alone, of datasets with IQ), write (netCDF, synced to disk), verify
        (checksum) and read. One process, one thread.
    """
    samples = shard_samples(config, 0)
    count, num_iq = len(samples), len(samples) * config.max_receivers * config.signal.num_time
    rows = [
        _row("draw", "numpy", _fastest_run(lambda: _gate_candidates(config))[0], _GATED_CANDIDATES),
        _row("noise", "numpy", _fastest_run(lambda: draw_noise(config, count))[0], count, num_iq),
    ]
    for backend in _backends():
        seconds, (dataset, rejections) = _fastest_run(partial(synthesis.synthesize, config, samples, backend))
        rows.append(_row("iq", backend, seconds, count, num_iq))
    if "iq" in dataset:
        signals = dataset.iq.values, dataset.iq_full_scale.values, dataset.receiver_present.values, dataset.attrs
        seconds, _ = _fastest_run(lambda: measure_features(*signals, spectrogram=False))
        rows.append(_row("features", "numpy", seconds, count, num_iq))
        rows.append(_row("pairs", "numpy", _fastest_run(lambda: pairs.pair_features(dataset))[0], count, num_iq))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary)
        seconds, shard = _fastest_run(lambda: store.write_shard(path, 0, dataset, rejections))
        rows.append(_row("write", "disk", seconds, count, num_iq, shard.num_bytes))
        for step, action in (
            ("verify", lambda: manifest.shard_damage(path, shard)),
            ("read", lambda: netcdf.load(path / shard.file)),
        ):
            rows.append(_row(step, "disk", _fastest_run(action)[0], count, num_iq, shard.num_bytes))
    return pd.DataFrame(rows, columns=COLUMNS)


def estimate_generation_s(config: Config) -> float:
    """Estimate how long one process takes here to generate a dataset, from small shards of it; NaN for huge scenes.

    ValueError if it cannot be simulated.
    """
    few, more = _TIMED_SCENES
    max_scenes = MAX_SHARD_SAMPLES // 8 // (config.signal.num_time * config.max_receivers)  # in modest memory
    if max_scenes < 1:
        return float("nan")
    if max_scenes < more:
        few, more = 0, 1
    synthesis.synthesize(config, np.arange(1))  # compiles
    short_s = _run_s(partial(synthesis.synthesize, config, np.arange(few))) if few else 0.0
    long_s = _run_s(partial(synthesis.synthesize, config, np.arange(more)))
    each_s = max(long_s - short_s, 0.0) / (more - few)
    return config.num_shards * max(short_s - few * each_s, 0.0) + config.num_samples * each_s


def text_table(rates: pd.DataFrame) -> pd.DataFrame:
    """Write the rates with three digits and SI prefixes; – where a step has none."""
    names = {"scenes_per_s": "scenes/s", "iq_samples_per_s": "IQ samples/s", "bytes_per_s": "B/s"}
    texts = {
        title: [si_text(rate).strip() if np.isfinite(rate) else "–" for rate in rates[name]]
        for name, title in names.items()
    }
    return pd.DataFrame({"step": rates["step"], "where": rates["where"], **texts})


def _backends() -> list[str]:
    try:
        backend_namespace("cupy")
    except ValueError:
        return ["numpy"]
    return ["numpy", "cupy"]


def _run_s(step: Callable[[], Any]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _fastest_run(step: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest of several runs, after one that compiles and warms up; and the last one's result."""
    step()
    fastest, total = float("inf"), 0.0
    while total < _MIN_TIMED_S:
        start = time.perf_counter()
        result = step()
        seconds = time.perf_counter() - start
        fastest, total = min(fastest, seconds), total + seconds
    return fastest, result


def _row(
    step: str,
    where: str,
    seconds: float,
    num_scenes: int,
    num_iq: float = float("nan"),
    num_bytes: float = float("nan"),
) -> tuple[str, str, float, float, float]:
    return step, where, num_scenes / seconds, num_iq / seconds, num_bytes / seconds


def _gate_candidates(config: Config) -> np.ndarray:
    streams = scenes.candidate_streams(config, np.arange(_GATED_CANDIDATES), np.zeros(_GATED_CANDIDATES, dtype=int))
    return scenes.gate_outcome(config, streams)


def draw_noise(config: Config, num_scenes: int) -> None:
    """Draw two float32 normal numbers for each IQ sample by NumPy's own generator, one scene at a time."""
    generator = np.random.default_rng(config.seed)
    scene = np.empty((config.max_receivers, 2, config.signal.num_time), dtype=np.float32)
    for _ in range(num_scenes):
        generator.standard_normal(dtype=np.float32, out=scene)


def _processor() -> str:
    """Name of the processor, as the operating system gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
