"""Datasets on disk: a folder of netCDF4 shards and a manifest, written so that nothing half-done is ever seen."""

import fcntl
import hashlib
import math
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import netCDF4
import pandas as pd
import xarray as xr
from pydantic import BaseModel, ConfigDict, ValidationError
from xarray.backends.locks import HDF5_LOCK

from heimdall_lab.core.config import Config, differing_fields
from heimdall_lab.core.units import si_text
from heimdall_lab.datasets import netcdf, schema
from heimdall_lab.signals import chunks

MANIFEST = "dataset.json"
LOCK = ".dataset.lock"
_TEMPORARY = re.compile(r"\.(shard-\d{5,}\.nc|dataset\.json)\.[0-9a-f]+\.tmp")
_OWN = re.compile(rf"shard-\d{{5,}}\.nc|{_TEMPORARY.pattern}")
_MANIFEST_SHARE = 0.05  # of the time, at most, goes into writing the manifest
_ITEM_BYTES = {"i": 2, "f": 8, "b": 1, "T": 96, "U": 96, "O": 96}  # text: a reference, and its place in the heap
_SINGLE_PRECISION = ("features", "spectrogram")
_SHARD_OVERHEAD_BYTES = 55_000  # of the netCDF library, for names, attributes and alignment of every variable
CATALOGUE = [
    "path",
    "name",
    "data_type",
    "samples",
    "of",
    "receivers",
    "seed",
    "megabytes",
    "acceptance",
    "created",
    "state",
]


class StoreError(ValueError):
    """A dataset folder that cannot be used; the message names the file and the remedy."""


class Shard(BaseModel):
    """One finished netCDF file of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    num_samples: int
    num_bytes: int
    sha256: str
    rejections: dict[str, int]

    @property
    def file(self) -> str:
        """Name of the file."""
        return shard_name(self.number)


class Manifest(BaseModel):
    """What ``dataset.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    package_version: str
    config: Config
    folders: dict[str, str] = {}  # digests of what config.folders hold
    shards: tuple[Shard, ...] = ()

    @property
    def num_samples(self) -> int:
        """Scenes written so far."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def rejections(self) -> dict[str, int]:
        """Candidate scenes turned away so far, by the field of the gate that did it."""
        reasons = [reason for shard in self.shards for reason in shard.rejections]
        return {r: sum(shard.rejections.get(r, 0) for shard in self.shards) for r in dict.fromkeys(reasons)}

    @property
    def acceptance(self) -> float:
        """Share of the candidate scenes that were kept; NaN before the first shard."""
        candidates = self.num_samples + sum(self.rejections.values())
        return self.num_samples / candidates if candidates else float("nan")


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.nc"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a temporary file beside the path, sync it to disk, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # hosts may share the folder, and numbers
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace a folder's manifest.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    text = manifest.model_dump_json(indent=1) + "\n"
    try:
        write_atomically(folder / MANIFEST, lambda path: write_text(path, text))
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_shard(folder: Path, number: int, dataset: xr.Dataset, rejections: dict[str, int]) -> Shard:
    """Write one shard and return its entry for the manifest.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    path = folder / shard_name(number)
    try:
        write_atomically(path, lambda temporary: _write_netcdf(schema.check(dataset), temporary))
    except (OSError, RuntimeError) as error:  # RuntimeError: the HDF5 library, on a full disk among others
        raise _unwritable(folder, error) from error
    return Shard(
        number=number,
        num_samples=dataset.sizes["sample"],
        num_bytes=path.stat().st_size,
        sha256=_checksum(path),
        rejections=rejections,
    )


@contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Make a dataset folder if there is none, and keep other processes from writing to it inside the block.

    The operating system gives the lock back when this process ends, however that happens. Readers are not affected.

    Yields
    ------
    str
        What the lock's file holds, by which another machine can tell that it sees this folder.

    Raises
    ------
    StoreError
        If another process holds the lock, or the folder cannot be written to.
    """
    path = folder / LOCK
    holder = f"{os.getpid()} {socket.gethostname()} {secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, holder)
    except BlockingIOError as error:
        raise StoreError(
            f"out: {str(folder)!r} is being written to by {_process(path)}; wait until it is done, or stop it, "
            "and run the same command again"
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield holder
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def lock_holder(folder: Path) -> str:
    """Return what ``locked`` yields to the process that writes to a folder; empty where there is none."""
    try:
        return (folder / LOCK).read_text()
    except OSError:
        return ""


def ask_to_stop(folder: Path) -> None:
    """Let those who write to a folder on this process's behalf see, in the lock's file, that no more is wanted."""
    with suppress(OSError), (folder / LOCK).open("a") as file:  # on a full disk they write what they were given
        file.write(" stop")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed while writing, and a manifest without shards.

    Raises
    ------
    StoreError
        If one cannot be removed.
    """
    try:
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        if (folder / MANIFEST).exists() and not any(folder.glob("shard-*.nc")) and not read_manifest(folder).shards:
            (folder / MANIFEST).unlink()  # what was begun without a shard binds nobody
    except OSError as error:
        raise _unwritable(folder, error) from error


def is_whole(folder: Path, config: Config, package_version: str) -> bool:
    """Say whether a folder holds all of a configuration's dataset, undamaged, so that nothing need be written."""
    try:
        manifest = read_manifest(folder)
    except StoreError:
        return False
    return (
        manifest.package_version == package_version
        and not differing_fields(manifest.config, config)
        and manifest.num_samples == config.num_samples
        and all(damage(folder, shard) is None for shard in manifest.shards)
    )


def expected_bytes(config: Config) -> int:
    """Bytes that a configuration's dataset takes on disk: never fewer than it will, and a few percent more at most.

    Examples
    --------
    >>> from heimdall_lab import preset
    >>> si_text(expected_bytes(preset("iq_production"))) + "B"
    '5.66 GB'
    """
    full, rest = divmod(config.num_samples, config.shard_size)
    return full * _shard_bytes(config, config.shard_size) + (_shard_bytes(config, rest) if rest else 0)


def check_room(folder: Path, manifest: Manifest) -> int:
    """Return the bytes that the missing shards will take, at most, having checked that the file system has them.

    Raises
    ------
    StoreError
        If it has not; the message names the sizes.
    """
    config = manifest.config
    needed = expected_bytes(config) - sum(_shard_bytes(config, shard.num_samples) for shard in manifest.shards)
    kept = {shard.file for shard in manifest.shards}
    replaced = sum(path.stat().st_size for path in folder.glob("shard-*.nc") if path.name not in kept)
    free = shutil.disk_usage(folder).free
    missing = config.num_samples - manifest.num_samples
    if needed > free + replaced:
        raise StoreError(
            f"out: {str(folder)!r} needs {si_text(needed)}B for {missing} scenes, and "
            f"{si_text(free + replaced)}B are free there; make room, choose a folder on a larger disk, or lower "
            "num_samples or signal.duration_s"
        )
    return needed


@contextmanager
def recording(folder: Path, manifest: Manifest) -> Iterator[Callable[[Shard], None]]:
    """Let shards be added to a folder's manifest as they are written.

    The file is replaced at every shard, or where that would take more than a twentieth of the time less often, and at
    the end of the block, however it ends. A shard that a killed process had not recorded yet is generated again.

    Raises
    ------
    StoreError
        If the manifest cannot be written.
    """
    shards = {shard.number: shard for shard in manifest.shards}
    unwritten, due_s = False, 0.0

    def write() -> None:
        nonlocal unwritten, due_s
        started_s = time.monotonic()
        ordered = tuple(shards[number] for number in sorted(shards))
        write_manifest(folder, manifest.model_copy(update={"shards": ordered}))
        ended_s = time.monotonic()
        unwritten, due_s = False, ended_s + (ended_s - started_s) / _MANIFEST_SHARE

    def record(shard: Shard) -> None:
        nonlocal unwritten
        shards[shard.number] = shard
        unwritten = True
        if time.monotonic() >= due_s:
            write()

    try:
        yield record
    finally:
        if unwritten:
            write()


def folder_digests(config: Config) -> dict[str, str]:
    """Digests of the files in the folders that a configuration names, by field; empty for a folder that is not there.

    Names and contents count, not where the folder is nor when its files were written.
    """
    digests = {}
    for field, name in config.folders.items():
        digest = hashlib.sha256()
        for path in sorted(Path(name).glob("*")):
            if path.is_file():
                digest.update(f"{path.name}\0{_checksum(path)}\n".encode())
        digests[field] = digest.hexdigest()
    return digests


def start(folder: Path, config: Config, package_version: str) -> Manifest:
    """Make or reopen a dataset folder for writing.

    Returns
    -------
    Manifest
        With those shards that are whole on disk; the others are to be written (again).

    Raises
    ------
    StoreError
        If the folder cannot be made, holds other files or another configuration, or was begun with other terrain or
        voices.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise _unwritable(folder, error) from error
    if MANIFEST not in found and (others := {name for name in found - {LOCK} if not _TEMPORARY.fullmatch(name)}):
        raise StoreError(
            f"out: {str(folder)!r} holds other files ({min(others)}) and no {MANIFEST}; choose an empty folder"
        )
    remove_leftovers(folder)
    if not (folder / MANIFEST).exists():
        manifest = Manifest(package_version=package_version, config=config, folders=folder_digests(config))
        write_manifest(folder, manifest)
        return manifest
    manifest = read_manifest(folder)
    if fields := differing_fields(manifest.config, config):
        raise StoreError(
            f"out: {str(folder)!r} holds a dataset with another {', '.join(fields)}; "
            "choose another folder or delete this one"
        )
    if manifest.package_version != package_version:
        raise StoreError(
            f"out: {str(folder)!r} was begun by version {manifest.package_version}, this is {package_version}; "
            "finish it with that version or choose another folder"
        )
    found_digests = folder_digests(config)
    if changed := [field for field, digest in manifest.folders.items() if found_digests.get(field) != digest]:
        raise StoreError(
            f"{changed[0]}: {config.folders[changed[0]]!r} holds other files than when {str(folder)!r} was begun; put "
            "those back, or choose another folder for the dataset"
        )
    whole = tuple(shard for shard in manifest.shards if damage(folder, shard) is None)
    return manifest.model_copy(update={"shards": whole})


def read_manifest(folder: Path) -> Manifest:
    """Read a dataset's manifest.

    Raises
    ------
    StoreError
        If there is none, or it is not valid.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StoreError(
            f"{str(folder)!r} is no dataset: {MANIFEST} cannot be read ({error.strerror}); "
            "give a folder that 'heimdall-lab generate' made"
        ) from error
    except ValidationError as error:
        raise StoreError(
            f"{path}: is not a valid manifest ({error.errors(include_url=False)[0]['msg']}); "
            "delete the folder and generate it again"
        ) from error


def checksum(folder: Path) -> str:
    """Checksum of all shards that a folder's manifest lists."""
    return hashlib.sha256("".join(shard.sha256 for shard in read_manifest(folder).shards).encode()).hexdigest()


def num_samples(folder: Path) -> int:
    """Scenes that a folder's manifest lists; 0 where there is none yet."""
    return read_manifest(folder).num_samples if (folder / MANIFEST).exists() else 0


def damage(folder: Path, shard: Shard) -> str | None:
    """Say what is wrong with a shard's file, or None where its bytes are those that were written."""
    path = folder / shard.file
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != shard.num_bytes:
        return f"has {path.stat().st_size} bytes instead of {shard.num_bytes}"
    if _checksum(path) != shard.sha256:
        return "has another checksum"
    return None


def verify(path: str | Path) -> pd.DataFrame:
    """Check every shard of a dataset against its checksum.

    Returns
    -------
    pandas.DataFrame
        Columns ``file``, ``samples``, ``bytes`` and ``state`` ("ok", "not generated yet", or what is wrong).

    Raises
    ------
    StoreError
        If the folder holds no valid manifest.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    shards = {shard.number: shard for shard in manifest.shards}
    rows = []
    for number in range(manifest.config.num_shards):
        shard = shards.get(number)
        state = (damage(folder, shard) or "ok") if shard else "not generated yet"
        rows.append((shard_name(number), shard.num_samples if shard else 0, shard.num_bytes if shard else 0, state))
    return pd.DataFrame(rows, columns=["file", "samples", "bytes", "state"])


def open_dataset(path: str | Path) -> xr.Dataset:
    """Open a dataset folder lazily.

    Returns
    -------
    xr.Dataset
        With the variables of the contract; arrays are read from disk when they are used.

    Raises
    ------
    StoreError
        If the folder is no dataset, is unfinished, or holds a damaged shard.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        file = folder / shard.file
        if not file.is_file() or file.stat().st_size != shard.num_bytes:
            raise StoreError(f"{file}: {damage(folder, shard)}; run the same 'generate' command to write it again")
    if manifest.num_samples < manifest.config.num_samples:
        raise StoreError(
            f"{str(folder)!r} is unfinished: {manifest.num_samples} of {manifest.config.num_samples} samples "
            "are there; run the same 'generate' command to go on"
        )
    files = [folder / shard.file for shard in manifest.shards]
    try:
        # All shards have the same coordinates; comparing them file by file would double the time to open many.
        dataset = xr.open_mfdataset(
            files,
            engine=netcdf.Shared,
            combine="nested",
            concat_dim="sample",
            data_vars="all",
            coords="minimal",
            compat="override",
            join="override",
            combine_attrs="override",
        )
    except OSError as error:
        raise StoreError(
            f"{str(folder)!r}: a shard cannot be read ({error}); 'heimdall-lab verify' tells which, and the same "
            "'generate' command writes it again"
        ) from error
    return schema.check(dataset)


def datasets(root: str | Path, leave_out: Collection[str] = ()) -> pd.DataFrame:
    """List the datasets below a folder.

    Parameters
    ----------
    root : path
    leave_out : collection of str
        Names of folders in it that hold none and are not searched.

    Returns
    -------
    pandas.DataFrame
        A row for each, with the columns of ``CATALOGUE``; ``samples`` are there ``of`` those wanted, ``acceptance``
        is the share of the drawn scenes that were kept, ``created`` when its first shard was written (local time),
        ``state`` is complete, unfinished or unreadable (manifest).

    Raises
    ------
    StoreError
        If the folder does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise StoreError(f"root: {str(root)!r} is no folder; give one that holds datasets")
    return pd.DataFrame([_entry(each) for each in sorted(_dataset_folders(folder, leave_out))], columns=CATALOGUE)


def delete(path: str | Path) -> None:
    """Delete a dataset: its manifest and shards, and its folder unless that holds something else.

    Raises
    ------
    StoreError
        If the folder holds no dataset, or one that is being written.
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise StoreError(f"{str(folder)!r} is no dataset: it holds no {MANIFEST}; choose one that is listed")
    with locked(folder):
        try:
            (folder / MANIFEST).unlink()  # first, so that what is left is no dataset whenever this ends
            for file in folder.iterdir():
                if _OWN.fullmatch(file.name):
                    file.unlink()
        except OSError as error:
            raise _unwritable(folder, error) from error
    with suppress(OSError):  # other files are in it
        folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8."""
    path.write_text(text, encoding="utf-8")


def _dataset_folders(root: Path, leave_out: Collection[str]) -> Iterator[Path]:
    """Yield the folders below a root that hold a manifest; folders may come and go meanwhile."""
    for name, folders, files in os.walk(root):
        if MANIFEST in files:
            yield Path(name)
            folders.clear()
        elif Path(name) == root:
            folders[:] = [folder for folder in folders if folder not in leave_out]


def _entry(folder: Path) -> dict[str, Any]:
    """A row of the catalogue."""
    entry: dict[str, Any] = {"path": str(folder), "name": "", "data_type": "", "acceptance": float("nan")}
    numbers = dict.fromkeys(("samples", "of", "receivers", "seed", "megabytes"), 0)
    try:
        manifest = read_manifest(folder)
    except StoreError:
        return entry | numbers | {"created": pd.NaT, "state": "unreadable"}
    config, done = manifest.config, manifest.num_samples
    first = folder / shard_name(0)
    return {
        "path": str(folder),
        "name": config.name,
        "data_type": config.data_type,
        "samples": done,
        "of": config.num_samples,
        "receivers": config.geometry.num_receivers[1],
        "seed": config.seed,
        "megabytes": round(sum(shard.num_bytes for shard in manifest.shards) / 1e6, 1),
        "acceptance": round(manifest.acceptance, 4),
        "created": pd.Timestamp.fromtimestamp(first.stat().st_mtime).floor("s") if first.exists() else pd.NaT,
        "state": "complete" if done == config.num_samples else "unfinished",
    }


def _shard_bytes(config: Config, num_samples: int) -> int:
    """Bytes of one shard, from the contract's dimensions and types."""
    sizes = {
        "sample": num_samples,
        "receiver": config.max_receivers,
        "component": 2,
        "time": config.signal.num_time,
        "echo": config.channel.multipath_taps_max,
        "feature": len(schema.FEATURES),
        "statistic": len(schema.STATISTICS),
        "frequency": chunks.MEL_BANDS,
        "frame": chunks.FRAMES,
    }
    stored = schema.TRUTH + schema.SIGNALS[config.data_type]
    values = sum(
        (4 if name in _SINGLE_PRECISION else _ITEM_BYTES[variable.kinds[0]])
        * math.prod(sizes[dim] for dim in variable.dims)
        for name, variable in schema.VARIABLES.items()
        if name in stored
    )
    numbers = num_samples + config.signal.num_time + sizes["frequency"] + sizes["frame"]
    texts = config.max_receivers + 2 + 2 * sizes["feature"] + sizes["statistic"]
    coordinates = _ITEM_BYTES["f"] * numbers + _ITEM_BYTES["U"] * texts
    return values + coordinates + len(config.model_dump_json()) + _SHARD_OVERHEAD_BYTES


def _acquire(path: Path, holder: str) -> int:
    """Open a lock's file, lock it for as long as the returned descriptor is open, and write the holder into it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):  # else a holder that ended just now removed it between these lines
                os.truncate(descriptor, 0)
                os.write(descriptor, holder.encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _process(path: Path) -> str:
    """Name the process that holds a lock."""
    with suppress(OSError, ValueError):
        number, host, *_ = path.read_text().split()
        return f"process {number} on {host}"
    return "another process"


def _unwritable(folder: Path, error: Exception) -> StoreError:
    reason = getattr(error, "strerror", None) or error
    return StoreError(
        f"out: cannot write to {str(folder)!r} ({reason}); choose a folder that you may write to and that has room, "
        "or make room and run the same command again"
    )


def _write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset as ``to_netcdf`` does, without its lock, which on a Dask worker goes through the network.

    There is no compression: it would save almost nothing of noise, at a hundredth of the speed.
    """
    variables, attributes = xr.conventions.cf_encoder(*xr.conventions.encode_dataset_coordinates(dataset))
    with HDF5_LOCK, netCDF4.Dataset(path, "w") as file:
        file.set_fill_off()  # every value is written below
        file.setncatts(attributes)
        for dimension, size in dataset.sizes.items():
            file.createDimension(str(dimension), size)
        for name, variable in variables.items():
            kind = str if variable.dtype.kind in "TUO" else variable.dtype
            fill = variable.attrs.pop("_FillValue", None)
            written = file.createVariable(name, kind, variable.dims, fill_value=fill)
            written.setncatts(variable.attrs)
            written.set_auto_maskandscale(False)
            written[...] = variable.values


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
