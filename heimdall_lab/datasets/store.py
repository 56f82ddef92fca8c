"""Datasets on disk: a folder of netCDF4 shards and a manifest, each written whole or not at all."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from heimdall_lab.core.files import StoreError, file_checksum, locked, unwritable_error, write_atomically
from heimdall_lab.core.folder_use import unused
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import integrity, measured, netcdf, schema
from heimdall_lab.datasets.manifest import (
    DATASET_FILE,
    MANIFEST,
    MEASURED_FILE,
    Shard,
    read_manifest,
    shard_damage,
    shard_name,
    size_damage,
)
from heimdall_lab.datasets.netcdf import write_netcdf

_MAX_MISSING_ROWS = 1000
_OPENED_AS = "opened_as"  # in the encoding of IQ: the dataset's source, and the name of its Dask array


def write_shard(folder: Path, number: int, dataset: xr.Dataset, rejections: dict[str, int]) -> Shard:
    """Write one shard and return its entry for the manifest.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    path = folder / shard_name(number)
    checked = schema.check(dataset)
    write_atomically(path, lambda temporary: write_netcdf(checked, temporary), needed_bytes=checked.nbytes)
    return Shard(
        number=number,
        num_samples=dataset.sizes["sample"],
        num_bytes=path.stat().st_size,
        sha256=file_checksum(path),
        rejections=rejections,
    )


def verify(path: str | Path) -> pd.DataFrame:
    """Check every shard of a dataset against its checksum and the manifest.

    Returns
    -------
    pandas.DataFrame
        Columns ``file``, ``samples``, ``bytes`` and ``state`` ("ok", "not generated yet", or what is wrong). Of more
        than a thousand shards behind the last that is there, only the first is listed.

    Raises
    ------
    StoreError
        If the folder holds no valid manifest.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    shards = {shard.number: shard for shard in manifest.shards}
    rows, check = [], integrity.shard_check(manifest)
    count = max(shards, default=-1) + 1
    missing = manifest.config.num_shards - count
    for number in range(count + (missing if missing <= _MAX_MISSING_ROWS else 1)):
        shard = shards.get(number)
        state = (_damage(folder, shard, check) or "ok") if shard else "not generated yet"
        rows.append((shard_name(number), shard.num_samples if shard else 0, shard.num_bytes if shard else 0, state))
    return pd.DataFrame(rows, columns=["file", "samples", "bytes", "state"])


def _damage(folder: Path, shard: Shard, check: netcdf.Check) -> str | None:
    """Text of what is wrong with a shard; None where nothing is."""
    if damage := shard_damage(folder, shard):
        return damage
    try:
        netcdf.check_file(folder / shard.file, check)
    except StoreError as error:
        return str(error).removeprefix(f"{folder / shard.file}: ")
    return None


def open_dataset(path: str | Path) -> xr.Dataset:
    """Open a dataset folder lazily.

    Returns
    -------
    xr.Dataset
        With the variables of the contract; arrays are read from disk when they are used. What is measured of IQ is
        among them if it lies beside the shards.

    Raises
    ------
    StoreError
        If the folder is no dataset, is unfinished, or holds a damaged shard or one that the manifest does not fit.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        if damage := size_damage(folder, shard):
            raise StoreError(f"{folder / shard.file}: {damage}; run the same 'generate' command to write it again")
    if manifest.num_samples < manifest.config.num_samples:
        raise StoreError(
            f"{quoted(folder)} is unfinished: {manifest.num_samples} of {manifest.config.num_samples} samples "
            "are there; run the same 'generate' command to go on"
        )
    files = [folder / shard.file for shard in manifest.shards]
    try:
        dataset = opened = netcdf.open_side_by_side(files, check=integrity.shard_check(manifest))
    except (OSError, RuntimeError) as error:  # RuntimeError: the HDF5 library
        raise StoreError(
            f"{quoted(folder)}: a shard cannot be read ({error}); 'heimdall-lab verify' tells which, and the same "
            "'generate' command writes it again"
        ) from error
    if manifest.format == 1 and "reference" in dataset:
        dataset = dataset.rename_vars(reference="reference_receiver").assign_attrs(measurement=1)
    if "iq" in dataset:
        dataset["iq"].encoding[_OPENED_AS] = _source_and_name(dataset)
        if (found := measured.open_all(folder, manifest.shards)) is not None:
            dataset = dataset.assign(found.data_vars).assign_attrs(measurement=found.attrs["measurement"])
    if dataset is not opened:  # whose copies do not close it
        dataset.set_close(opened.close)
    return schema.check(dataset)


def is_as_opened(dataset: xr.Dataset) -> bool:
    """Whether the IQ of a dataset is all that was opened from its folder, lazily and untouched."""
    iq = dataset["iq"]
    return iq.chunks is not None and iq.encoding.get(_OPENED_AS) == _source_and_name(dataset)


def _source_and_name(dataset: xr.Dataset) -> tuple[Any, str]:
    return dataset.encoding.get("source"), dataset["iq"].data.name


def delete(path: str | Path) -> None:
    """Delete a dataset: its manifest and shards, and its folder unless that holds something else.

    Raises
    ------
    StoreError
        If the folder holds no dataset, or one that is being written, or used (`folder_use.in_use`).
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise StoreError(f"{quoted(folder)} is no dataset: it holds no {MANIFEST}; choose one that is listed")
    with locked(folder), locked(folder, measured.LOCK), unused(folder):
        try:
            # First, so that what is left is no dataset whenever this ends; another process may take files away too.
            (folder / MANIFEST).unlink(missing_ok=True)
            for file in folder.iterdir():
                if DATASET_FILE.fullmatch(file.name) or MEASURED_FILE.fullmatch(file.name):
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable_error(folder, error) from error
    with suppress(OSError):  # other files are in it
        folder.rmdir()
