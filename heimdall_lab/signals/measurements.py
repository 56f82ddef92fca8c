"""What is measured of a dataset's signals: read from beside its shards, or measured once and kept there."""

import logging
import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from heimdall_lab.core.arrays import batch_slices
from heimdall_lab.core.files import StoreError, UnwritableError, locked, unwritable_error
from heimdall_lab.core.processes import process_pool, start_of_workers
from heimdall_lab.core.progress import ProgressCallback, display, stop_requests
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import integrity, measured, netcdf, schema, store
from heimdall_lab.datasets.manifest import Shard, check_shard, read_manifest
from heimdall_lab.signals import pairs

_BLOCK_BYTES = 2**27  # of IQ whose digests are taken at a time
_ATTRIBUTES = (
    "sample_rate_hz",
    "max_clock_offset_s",
    "max_frequency_offset_hz",
    "min_snr_db",
    "path_delay_sigma_s",
    "nlos_ratio",
)
_CLOCK_ATTRIBUTES = ("one_crystal", "clock_rate_sigma")
_NAMES = (*schema.MEASURED, *schema.MEASURED_BESIDE, schema.MEASURED_OF)
_IQ_DIMS = ("sample", "receiver", "component", "time")

_log = logging.getLogger(__name__)


def with_measurements(dataset: xr.Dataset, progress: ProgressCallback | None = None) -> xr.Dataset:
    """Add what is measured of the signals to a dataset, unless it holds that already.

    Of scenes that were opened from a folder, it is read from the files beside their shards, which are made first where
    they are missing, or by an earlier measurer. It is measured in memory where that folder cannot be written to, of
    datasets that have none, and where IQ, receivers or attributes are others than those that were measured.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract.
    progress : callable, optional
        Called with the number of scenes measured so far; by default that is shown on standard error where they are
        measured for a folder.

    Returns
    -------
    xr.Dataset
        With the variables of `schema.MEASURED`, in memory, as `pairs.pair_features` measures them; of datasets with IQ
        also ``measured_of``, by which changes are noticed, and the attribute ``measurement``, the version of the
        measurer.

    Raises
    ------
    ValueError
        If the dataset breaks the contract, or as `pairs.pair_features` does.
    """
    if "iq" in dataset and schema.MEASURED_OF in dataset and dataset[schema.MEASURED_OF].dtype.kind == "f":
        dataset = _bare(dataset)  # it was joined of scenes that were measured and others, which leaves gaps
    schema.check(dataset)
    names = [name for name in _NAMES if name in dataset]
    held = set(schema.MEASURED) <= set(names)
    needed = schema.measurement(dataset.attrs)
    version = dataset.attrs.get("measurement", needed)
    if held and version < needed:
        what = "made anew" if "iq" in dataset else "used as stored"
        _log.warning("measured by an earlier measurer (%d, this is %d): %s", version, needed, what)
    if held and "iq" not in dataset:
        return dataset.assign(dataset[names].compute().data_vars)
    if held and version >= needed:
        with suppress(OSError, RuntimeError):  # of the HDF5 library, on damaged files, which are made anew
            if _is_measured_of(dataset, dataset):
                return dataset.assign(dataset[names].compute().data_vars)
    bare = _bare(dataset)
    found = _of_folder(bare, progress)
    if found is None:
        found = measure(bare, progress)
    # By position: the dataset's own labels of receivers and samples may be others.
    added = {name: (variable.dims, variable.values, variable.attrs) for name, variable in found.data_vars.items()}
    return bare.assign(added).assign_attrs(measurement=found.attrs["measurement"])


def without_receivers(dataset: xr.Dataset, absent: np.ndarray) -> xr.Dataset:
    """Take receivers of a dataset with measurements for absent where ``absent`` (sample, receiver) says so.

    Signals of the scenes of which one of them was the reference are measured anew.
    """
    kept = xr.DataArray(~absent, dims=("sample", "receiver"))
    places = [f"receiver_{name}" for name in ("latitude", "longitude", "altitude")]
    of_links = [name for name in (*schema.MEASURED, "rival_delay_s") if name in dataset]
    of_links = [name for name in of_links if name not in ("heard", "reference_receiver")]
    changed = dataset.assign({name: dataset[name].where(kept) for name in (*places, *of_links)})
    changed = changed.assign({name: dataset[name] & kept for name in ("receiver_present", "heard")})
    if schema.MEASURED_OF in dataset:
        digests = dataset[schema.MEASURED_OF].values & ~0xFFFF_FFFF | _known_digests(changed)
        changed[schema.MEASURED_OF] = dataset[schema.MEASURED_OF].copy(data=digests)
    lost = np.flatnonzero(absent[np.arange(len(absent)), dataset["reference_receiver"].values])
    if "iq" not in dataset or not len(lost):
        return changed
    for name, anew in measure(_bare(changed.isel(sample=lost))).data_vars.items():
        values = changed[name].transpose(*anew.dims).values.copy()
        values[lost] = anew.values
        changed[name] = anew.dims, values, changed[name].attrs
    return changed


def without_kept(dataset: xr.Dataset) -> xr.Dataset:
    """Leave out of a dataset with IQ what was measured of it, where the files beside its shards hold the same."""
    names = [name for name in _NAMES if name in dataset]
    if "iq" not in dataset or schema.MEASURED_OF not in names or (kept := _kept(dataset)) is None:
        return dataset
    same = all(np.array_equal(dataset[name].values, kept[name].values, equal_nan=True) for name in names)
    return _bare(dataset) if same else dataset


def measure(dataset: xr.Dataset, progress: ProgressCallback | None = None) -> xr.Dataset:
    """Measure the signals of a dataset with IQ in memory: `schema.MEASURED`, and what they are measured of."""
    found = pairs.pair_features(dataset, progress)
    digests = _iq_digests(dataset) << 32 | _known_digests(dataset)
    found[schema.MEASURED_OF] = ("sample", digests, {"long_name": schema.VARIABLES[schema.MEASURED_OF].long_name})
    return found.assign_attrs(measurement=schema.measurement(dataset.attrs))


def measure_folder(
    path: str | Path,
    workers: int = 1,
    progress: ProgressCallback | None = None,
    numbers: Collection[int] | None = None,
) -> int:
    """Measure what is missing of the signals of a dataset with IQ, and keep it in files beside the shards.

    One process at a time measures in a folder; others wait for it. It can be ended at any moment: what is finished
    stays, and the rest is measured when it is next needed. Ctrl-C ends it when a shard is finished.

    Parameters
    ----------
    path : path
        Folder of a dataset.
    workers : int
        Processes that measure side by side.
    progress : callable, optional
        Called with the number of scenes measured so far; by default progress is shown on standard error.
    numbers : collection of int, optional
        Of the shards to measure; by default all.

    Returns
    -------
    int
        Scenes that were measured now.

    Raises
    ------
    StoreError
        If the folder is no dataset or cannot be written to, a shard is missing or damaged, or a worker is lost.
    ValueError
        If there are no workers, or the signals cannot be measured.
    """
    if workers < 1:
        raise ValueError(f"workers: {workers} is refused; give at least 1")
    folder = Path(path)
    manifest = read_manifest(folder)
    shards = [shard for shard in manifest.shards if numbers is None or shard.number in numbers]
    missing = _missing(folder, shards)
    if manifest.config.data_type != "iq_raw" or not missing:
        return 0
    if not os.access(folder, os.W_OK):
        raise unwritable_error(folder, PermissionError("it may only be read"), "folder")
    count = sum(shard.num_samples for shard in missing)
    about = f"time differences of {count} scenes, kept in {quoted(folder)}"
    if any((folder / measured.file_name(shard.number)).exists() for shard in missing):
        _log.warning("%s: measurements are damaged, of other shards, or by an earlier version: made anew", folder)
    with display(f"measure {manifest.config.name}", count, progress is None, about=about) as shown:
        report, done = progress or shown, 0
        with locked(folder, measured.LOCK, lambda holder: report(0, f"waiting for {holder}, which measures"), "folder"):
            missing = _missing(folder, missing)
            try:
                with stop_requests() as stop:
                    for shard in _measure_shards(folder, missing, min(workers, len(missing))):
                        done += shard.num_samples
                        report(done, "scenes measured")
                        if stop.is_set():
                            raise KeyboardInterrupt
            finally:
                for left in folder.glob(".measured-*.tmp"):  # by processes that were killed
                    left.unlink(missing_ok=True)
    return done


def _missing(folder: Path, shards: Sequence[Shard]) -> list[Shard]:
    return [shard for shard in shards if measured.read(folder, shard) is None]


def _measure_shards(folder: Path, shards: Sequence[Shard], workers: int) -> Iterator[Shard]:
    """Yield each shard when it is measured."""
    if workers <= 1:
        for shard in shards:
            yield _measure_shard(folder, shard)
        return
    with process_pool(workers) as pool:
        with start_of_workers():
            waiting = [pool.submit(_measure_shard, folder, shard) for shard in shards]
        try:
            for each in as_completed(waiting):
                yield each.result()
        except BrokenProcessPool as error:
            raise StoreError(
                "workers: one ended before its shard was measured, as when memory runs out; give fewer, and run the "
                "same command again to go on"
            ) from error


def _measure_shard(folder: Path, shard: Shard) -> Shard:
    check_shard(folder, shard)
    try:
        with xr.open_dataset(folder / shard.file, engine=netcdf.SharedFileBackend) as dataset:
            found = measure(dataset)
    except (OSError, RuntimeError) as error:  # RuntimeError: the HDF5 library
        raise StoreError(f"{folder / shard.file}: cannot be read ({error}); 'heimdall-lab verify' checks it") from error
    measured.write(folder, shard, found)
    return shard


def _bare(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset without measurements."""
    attributes = {name: value for name, value in dataset.attrs.items() if name != "measurement"}
    bare = dataset.drop_vars(_NAMES, errors="ignore")
    bare.attrs = attributes
    return bare


def _kept(dataset: xr.Dataset) -> xr.Dataset | None:
    """What is kept beside the shards of a dataset's scenes, by their labels; None if not of all of them."""
    if (origin := integrity.origin(dataset)) is None:
        return None
    folder, shards = origin
    parts = [part for shard, _ in shards if (part := measured.read(folder, shard)) is not None]
    if len(parts) < len(shards):
        return None
    found = xr.concat(parts, "sample", data_vars="minimal", coords="minimal", compat="override", join="override")
    rows = found.indexes["sample"].get_indexer(pd.Index(dataset["sample"].values))
    return None if (rows < 0).any() else found.isel(sample=rows)


def _of_folder(dataset: xr.Dataset, progress: ProgressCallback | None) -> xr.Dataset | None:
    """What is kept of a dataset's scenes, made first where it is missing; None if the folder's scenes are others."""
    if (found := _kept(dataset)) is None and (origin := integrity.origin(dataset)) is not None:
        folder, shards = origin
        as_opened = store.is_as_opened(dataset)
        missing = _missing(folder, [shard for shard, _ in shards])
        for shard, rows in shards:
            if shard in missing and not _is_stored(dataset.isel(sample=rows), folder, shard, as_opened):
                return None
        try:
            measure_folder(folder, progress=progress, numbers=[shard.number for shard in missing])
        except UnwritableError as error:
            _log.warning("measured in memory, and not kept: %s", error)
            return None
        found = _kept(dataset)
    return found if found is not None and _is_measured_of(found, dataset) else None


def _is_measured_of(found: xr.Dataset, dataset: xr.Dataset) -> bool:
    """Whether measurements are of a dataset's IQ, receivers and attributes; others' own are taken for that."""
    if schema.MEASURED_OF not in found:
        return True
    of = found[schema.MEASURED_OF].values
    if not np.array_equal(of & 0xFFFF_FFFF, _known_digests(dataset)):
        return False
    return store.is_as_opened(dataset) or np.array_equal(of >> 32, _iq_digests(dataset))


def _is_stored(dataset: xr.Dataset, folder: Path, shard: Shard, as_opened: bool) -> bool:
    """Whether a shard holds a dataset's scenes: receivers and attributes, and IQ unless it is known to be as opened."""
    try:
        with xr.open_dataset(folder / shard.file, engine=netcdf.SharedFileBackend) as stored:
            rows = stored.indexes["sample"].get_indexer(pd.Index(dataset["sample"].values))
            if (rows < 0).any():
                return False
            stored = stored.isel(sample=rows)
            same = np.array_equal(_known_digests(dataset), _known_digests(stored))
            return same and (as_opened or np.array_equal(_iq_digests(dataset), _iq_digests(stored)))
    except (OSError, RuntimeError):  # RuntimeError: the HDF5 library
        return as_opened  # and whoever measures it says what is wrong


def _iq_digests(dataset: xr.Dataset) -> np.ndarray:
    """Digest of each scene's IQ, (S,) of 31 bits."""
    iq = dataset["iq"].transpose(*_IQ_DIMS)
    per_block = _BLOCK_BYTES // max(1, iq.nbytes // max(1, iq.sizes["sample"]))
    digests = []
    for rows in batch_slices(iq.sizes["sample"], per_block):
        scenes = iq[rows].compute(scheduler="synchronous").values  # HDF5 reads one at a time in any case
        digests += [zlib.crc32(np.ascontiguousarray(scene).data) >> 1 for scene in scenes]
    return np.array(digests, dtype=np.int64)


def _known_digests(dataset: xr.Dataset) -> np.ndarray:
    """Digest of what else each scene's measurements depend on, (S,) of 32 bits."""
    of_clocks = [dataset.attrs.get(name, 0) for name in _CLOCK_ATTRIBUTES]
    known = [*(dataset.attrs[name] for name in _ATTRIBUTES), *(of_clocks if any(of_clocks) else ())]
    attributes = np.array(known, dtype=float).tobytes()
    names = "\0".join(map(str, dataset["receiver_name"].values)).encode()
    links = [dataset[name].transpose("sample", "receiver").values.astype(float) for name in pairs.OF_LINKS]
    shared = zlib.crc32(names, zlib.crc32(attributes))
    return np.array([zlib.crc32(scene.tobytes(), shared) for scene in np.stack(links, axis=-1)], dtype=np.int64)
