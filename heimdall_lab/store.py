"""Datasets on disk: a folder of netCDF4 shards and a manifest, written so that nothing half-done is ever seen."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import xarray as xr
from pydantic import BaseModel, ConfigDict, ValidationError

from heimdall_lab import schema
from heimdall_lab.config import Config, differing_fields

MANIFEST = "dataset.json"
_TEMPORARY = re.compile(r"\.(shard-\d{5,}\.nc|dataset\.json)\.\d+\.tmp")
CATALOGUE = ["path", "name", "data_type", "samples", "of", "receivers", "seed", "megabytes", "acceptance", "state"]


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

    def with_shard(self, shard: Shard) -> "Manifest":
        """Return the manifest with a shard added."""
        return self.model_copy(update={"shards": tuple(sorted([*self.shards, shard], key=lambda s: s.number))})


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.nc"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a temporary file beside the path, sync it to disk, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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


def start(folder: Path, config: Config, package_version: str) -> Manifest:
    """Make or reopen a dataset folder for writing.

    Returns
    -------
    Manifest
        With those shards that are whole on disk; the others are to be written (again).

    Raises
    ------
    StoreError
        If the folder cannot be made, holds other files, or holds another configuration.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise _unwritable(folder, error) from error
    leftovers = {name for name in found if _TEMPORARY.fullmatch(name)}  # of processes that were killed while writing
    if MANIFEST not in found and (others := found - leftovers):
        raise StoreError(
            f"out: {str(folder)!r} holds other files ({min(others)}) and no {MANIFEST}; choose an empty folder"
        )
    for name in leftovers:
        (folder / name).unlink(missing_ok=True)
    if MANIFEST not in found:
        manifest = Manifest(package_version=package_version, config=config)
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
        dataset = xr.open_mfdataset(files, engine="netcdf4", combine="nested", concat_dim="sample", data_vars="all")
    except OSError as error:
        raise StoreError(
            f"{str(folder)!r}: a shard cannot be read ({error}); 'heimdall-lab verify' tells which, and the same "
            "'generate' command writes it again"
        ) from error
    return schema.check(dataset)


def datasets(root: str | Path) -> pd.DataFrame:
    """List the datasets below a folder.

    Returns
    -------
    pandas.DataFrame
        A row for each, with the columns of ``CATALOGUE``; ``samples`` are there ``of`` those wanted, ``acceptance``
        is the share of the drawn scenes that were kept, ``state`` is complete, unfinished or unreadable (manifest).

    Raises
    ------
    StoreError
        If the folder does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise StoreError(f"root: {str(root)!r} is no folder; give one that holds datasets")
    rows = []
    for path in sorted(folder.rglob(MANIFEST)):
        try:
            manifest = read_manifest(path.parent)
        except StoreError:
            rows.append((str(path.parent), "", "", 0, 0, 0, 0, 0.0, float("nan"), "unreadable"))
            continue
        config, done = manifest.config, manifest.num_samples
        megabytes = round(sum(shard.num_bytes for shard in manifest.shards) / 1e6, 1)
        counts = (done, config.num_samples, len(config.geometry.receivers), config.seed)
        state = "complete" if done == config.num_samples else "unfinished"
        kind = (config.name, config.data_type)
        rows.append((str(path.parent), *kind, *counts, megabytes, round(manifest.acceptance, 4), state))
    return pd.DataFrame(rows, columns=CATALOGUE)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8."""
    path.write_text(text, encoding="utf-8")


def _unwritable(folder: Path, error: Exception) -> StoreError:
    reason = getattr(error, "strerror", None) or error
    return StoreError(
        f"out: cannot write to {str(folder)!r} ({reason}); choose a folder that you may write to and that has room, "
        "or make room and run the same command again"
    )


def _write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write without compression: it would save almost nothing of noise, at a hundredth of the speed."""
    encoding = {
        str(name): {"_FillValue": None} for name, values in dataset.variables.items() if values.dtype.kind in "iub"
    }
    dataset.to_netcdf(path, engine="netcdf4", encoding=encoding)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
