"""Generate datasets: a shard is a pure function of the configuration and its number."""

import hashlib
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import xarray as xr

from heimdall_lab.core.arrays import backend_namespace
from heimdall_lab.core.config import Config
from heimdall_lab.core.files import data_folder, locked, make_folder
from heimdall_lab.core.progress import ProgressCallback, display, stop_requests
from heimdall_lab.core.text import quoted, si_text
from heimdall_lab.datasets import schema, size, store
from heimdall_lab.datasets.integrity import check_contents
from heimdall_lab.datasets.manifest import (
    begin_dataset,
    input_digests,
    is_complete,
    record_shards,
    remove_leftovers,
    samples_written,
)
from heimdall_lab.simulation import scenes
from heimdall_lab.simulation.cluster import GenerationJob, describe_backend, shard_samples, shard_writer
from heimdall_lab.simulation.synthesis import synthesize

_log = logging.getLogger(__name__)


def generate(
    config: Config,
    out: str | Path | None = None,
    backend: str = "auto",
    progress: bool = True,
    workers: int = 1,
    scheduler: str | None = None,
) -> xr.Dataset:
    """Generate a dataset.

    Ctrl-C, or the interruption of a notebook, stops it when the shards being written are finished; a second one stops
    it at once. In both cases, and after any failure, the same call goes on where it ended.

    Parameters
    ----------
    config : Config
    out : path, optional
        Folder to write shards to. If it already holds shards of the same configuration, only the missing or damaged
        ones are generated; of a complete dataset, those are found by size, and by checksum where they were written
        after the manifest. Without it, the dataset is made in memory.
    backend : str
        ``numpy``, ``cupy``, or ``auto`` for CuPy where a GPU answers.
    progress : bool
        Show progress on standard error.
    workers : int
        Processes of this machine that generate shards side by side; the result does not depend on it. Used when
        writing to a folder.
    scheduler : str, optional
        Address of a Dask scheduler, as ``tcp://host:8786``, whose workers generate instead. They need the same version
        of this package, and ``out`` on storage that they share with this process, by the same absolute path.

    Returns
    -------
    xr.Dataset
        Opened lazily from the folder, or in memory.

    Raises
    ------
    ValueError
        If the folder cannot be used, the gate accepts too few scenes, or the backend cannot run.
    KeyboardInterrupt
        After Ctrl-C; its message says how many scenes are in the folder.
    """
    if out is not None:
        generate_folder(config, out, backend, progress, workers, scheduler)
        return store.open_dataset(out)
    _check_workers(workers, scheduler, out)
    backend_namespace(backend)
    scenes.check_tones(config)
    return _in_memory(config, backend, progress)


def generate_folder(
    config: Config,
    out: str | Path,
    backend: str = "auto",
    progress: bool = True,
    workers: int = 1,
    scheduler: str | None = None,
) -> None:
    """Write a dataset to a folder as `generate` does, without opening it, which takes long where shards are many."""
    _check_workers(workers, scheduler, out)
    if scheduler is None:
        backend_namespace(backend)
    scenes.check_tones(config)
    folder = Path(out)
    if is_complete(folder, config, version("heimdall_lab")):
        return
    make_folder(folder)
    with locked(folder) as lock:
        job = GenerationJob(config, folder.absolute(), lock, backend, version("heimdall_lab"), input_digests(config))
        try:
            _write_missing(job, folder, progress, workers, scheduler)
        except KeyboardInterrupt:
            done = samples_written(folder)
            raise KeyboardInterrupt(
                f"interrupted: {done} of {config.num_samples} scenes are in {quoted(folder)}; "
                "run the same command again to go on"
            ) from None


def _check_workers(workers: int, scheduler: str | None, out: str | Path | None) -> None:
    if workers < 1:
        raise ValueError(f"workers: {workers} is refused; give at least 1")
    if scheduler is not None and (out is None or workers != 1):
        raise ValueError(
            f"scheduler: {quoted(scheduler)} has workers of its own and they write to out; give out, no workers"
        )


def load_or_generate(config: Config, root: str | Path | None = None, progress: bool = True) -> xr.Dataset:
    """Open the dataset of a configuration from its own folder below ``root``, generating what is missing of it.

    By default ``root`` is the data folder: ``HEIMDALL_LAB_DATA``, else ``data`` here.

    The folder's name holds a hash of the configuration and of the package version, so that others get other folders.
    """
    identity = version("heimdall_lab") + config.model_dump_json()
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return generate(config, data_folder(root) / f"{config.name}-{digest}", progress=progress)


def _in_memory(config: Config, backend: str, progress: bool) -> xr.Dataset:
    parts = []
    about = describe_backend(backend, backend_namespace(backend).__name__)
    _log.info("generate %s: %s", config.name, about)
    with display(config.name, config.num_samples, progress, about=about) as report:
        advance = _advance(config, 0, 0, report)
        for shard in range(config.num_shards):
            dataset, rejections = synthesize(config, shard_samples(config, shard), backend)
            parts.append(dataset)
            advance(dataset.sizes["sample"], sum(rejections.values()))
    return schema.check(xr.concat(parts, dim="sample", data_vars="all", combine_attrs="override"))


def _write_missing(job: GenerationJob, folder: Path, progress: bool, workers: int, scheduler: str | None) -> None:
    """Write the shards that a folder lacks; KeyboardInterrupt if a stop was asked for."""
    config = job.config
    manifest = begin_dataset(folder, config, job.version)
    check_contents(folder, manifest)
    needed = size.check_disk_space(folder, manifest)
    present = {shard.number for shard in manifest.shards}
    missing = [number for number in range(config.num_shards) if number not in present]
    if not missing:
        return
    with stop_requests() as stop:
        try:
            with shard_writer(job, min(workers, len(missing)), scheduler) as (how, write):
                about = f"{how}, at most {si_text(needed)}B to write"
                _log.info("generate %s: %s", config.name, about)
                with (
                    display(config.name, config.num_samples, progress, about=about) as report,
                    record_shards(folder, manifest) as record,
                ):
                    advance = _advance(config, manifest.num_samples, sum(manifest.rejections.values()), report)
                    for shard in write(missing, stop):
                        record(shard)
                        advance(shard.num_samples, sum(shard.rejections.values()))
        finally:
            if scheduler is None:  # else a worker may still be writing a shard
                remove_leftovers(folder)
    if stop.is_set():
        raise KeyboardInterrupt


def _advance(config: Config, done: int, rejected: int, report: ProgressCallback) -> Callable[[int, int], None]:
    """Make the function that reports further scenes, kept and rejected, with rate, time left and acceptance."""
    started_s, before = time.monotonic(), done
    iq_samples = sum(config.geometry.num_receivers) / 2 * config.signal.num_time  # of one scene, on average

    def advance(more_done: int, more_rejected: int) -> None:
        nonlocal done, rejected
        done += more_done
        rejected += more_rejected
        rate = (done - before) / (time.monotonic() - started_s)
        left = timedelta(seconds=round((config.num_samples - done) / rate))
        speed = f"{rate:.3g} scenes/s, {si_text(rate * iq_samples)} IQ/s"
        report(done, f"{speed}, {left} left, {done / (done + rejected):.1%} kept")

    return advance
