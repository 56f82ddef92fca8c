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

import numpy as np
import xarray as xr

from heimdall_lab import scenes, schema, store
from heimdall_lab.arrays import backend_namespace
from heimdall_lab.config import Config
from heimdall_lab.progress import display
from heimdall_lab.synthesis import synthesize


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
