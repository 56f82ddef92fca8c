"""What was measured of the IQ of a dataset, in files beside its shards; whoever needs them first makes them.

The file of a shard holds the variables of `schema.MEASURED`, `schema.MEASURED_OF`, the version of the measurer, and the
checksum of the shard that they are of. It is good for as long as these are what they should be: nothing else need be
kept in step with it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from heimdall_lab.core.files import unwritable_error, write_atomically
from heimdall_lab.datasets import netcdf, schema
from heimdall_lab.datasets.manifest import Shard

LOCK = ".measured.lock"  # of the process that measures
_NAMES = (*schema.MEASURED, *schema.MEASURED_BESIDE, schema.MEASURED_OF)
_UNREADABLE = (OSError, RuntimeError, ValueError)  # of the HDF5 library and of xarray, on damaged files


def file_name(number: int) -> str:
    """Name of the file of a shard."""
    return f"measured-{number:05d}.nc"


def read(folder: Path, shard: Shard) -> xr.Dataset | None:
    """What was measured of a shard; None if that is missing, damaged, of another shard, or by an earlier measurer."""
    try:
        found = netcdf.load(folder / file_name(shard.number), _size_check([shard]))
    except _UNREADABLE:
        return None
    return found[list(_NAMES)] if _is_good(found, shard) else None


def open_all(folder: Path, shards: Sequence[Shard]) -> xr.Dataset | None:
    """Open what was measured of all shards of a dataset, lazily; None if that of one is missing, as `read` says."""
    shard_of = {file_name(shard.number): shard for shard in shards}
    if not all((folder / name).exists() for name in shard_of):
        return None

    def good(part: xr.Dataset) -> xr.Dataset:
        if not _is_good(part, shard_of[Path(part.encoding["source"]).name]):
            raise ValueError("measured again")
        return part[list(_NAMES)]

    try:
        files = [folder / name for name in shard_of]
        return netcdf.open_side_by_side(files, preprocess=good, check=_size_check(shards))
    except _UNREADABLE:
        return None


def write(folder: Path, shard: Shard, found: xr.Dataset) -> None:
    """Write what was measured of a shard, with its attribute ``measurement``, the version of the measurer.

    Raises
    ------
    UnwritableError
        If it cannot be written.
    """
    known = {"shard_sha256": shard.sha256, "Conventions": "CF-1.11"}
    described = found.assign_attrs(known)
    path = folder / file_name(shard.number)
    try:
        write_atomically(path, lambda temporary: netcdf.write_netcdf(described, temporary, checksums=True))
    except OSError as error:
        raise unwritable_error(folder, error, "folder") from error


def _size_check(shards: Sequence[Shard]) -> netcdf.Check:
    """Make the function that refuses a file with more scenes than its shard before they are read."""
    sizes = {file_name(shard.number): shard.num_samples for shard in shards}

    def check(path: Path, file: Any) -> None:
        if file.dimensions["sample"].size != sizes[path.name]:
            raise ValueError("of another shard")

    return check


def _is_good(found: xr.Dataset, shard: Shard) -> bool:
    return (
        set(_NAMES) <= set(found)
        and found.sizes["sample"] == shard.num_samples
        and found.attrs.get("shard_sha256") == shard.sha256
        and found.attrs.get("measurement", 0) >= schema.measurement({})  # earlier ones knew of no rates
    )
