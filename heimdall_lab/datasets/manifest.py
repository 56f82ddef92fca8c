"""The manifest of a dataset's folder: its configuration, and the shards that were written."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from heimdall_lab.core.checked import first_error
from heimdall_lab.core.config import Config
from heimdall_lab.core.files import LOCK, StoreError, file_checksum, unwritable_error, write_atomically
from heimdall_lab.core.presets import differing_fields
from heimdall_lab.core.text import quoted

MANIFEST = "dataset.json"
FORMAT = 2  # of the datasets that are written; a manifest that names none has format 1
TEMPORARY_FILE = re.compile(r"\.(shard-\d{5,}\.nc|dataset\.json)\.[0-9a-f]+\.tmp")
DATASET_FILE = re.compile(rf"shard-\d{{5,}}\.nc|{TEMPORARY_FILE.pattern}")
MEASURED_FILE = re.compile(r"measured-\d{5,}\.nc|\.measured-\d{5,}\.nc\.[0-9a-f]+\.tmp|\.measured\.lock")
_LEFT = re.compile(rf"{TEMPORARY_FILE.pattern}|{MEASURED_FILE.pattern}")  # nothing that is missed
_MAX_WRITING_SHARE = 0.05  # of the time may go into writing the manifest


class Shard(BaseModel):
    """One finished netCDF file of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=0)
    num_samples: int = Field(ge=1)
    num_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rejections: dict[str, NonNegativeInt]

    @property
    def file(self) -> str:
        """Name of the file."""
        return shard_name(self.number)


class Manifest(BaseModel):
    """What ``dataset.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(FORMAT, ge=1)
    package_version: str
    config: Config
    folders: dict[str, str] = {}  # digests of what config.folders hold
    shards: tuple[Shard, ...] = ()

    @model_validator(mode="after")
    def _check_shards(self) -> "Manifest":
        """Refuse shards that the configuration does not have."""
        size, samples = self.config.scenes_per_shard, self.config.num_samples
        before = -1
        for shard in self.shards:
            if shard.number <= before:
                raise ValueError(f"shards: {shard.number} is listed twice, or out of order")
            if (wanted := min(size, samples - shard.number * size)) != shard.num_samples:
                raise ValueError(
                    f"shards: {shard.number} has {shard.num_samples} samples, of {samples} in shards of {size} it has "
                    f"{max(0, wanted)}"
                )
            before = shard.number
        return self

    @property
    def num_samples(self) -> int:
        """Scenes written so far."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def rejections(self) -> dict[str, int]:
        """Candidate scenes rejected so far, by the field of the gate that did it."""
        reasons = [reason for shard in self.shards for reason in shard.rejections]
        return {r: sum(shard.rejections.get(r, 0) for shard in self.shards) for r in dict.fromkeys(reasons)}

    @property
    def acceptance(self) -> float:
        """Share of the candidate scenes that were kept; NaN before the first shard."""
        candidates = self.num_samples + sum(self.rejections.values())
        return self.num_samples / candidates if candidates else float("nan")

    @property
    def checksum(self) -> str:
        """Checksum of all shards."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.nc"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace a folder's manifest.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    text = (manifest.model_dump_json(indent=1) + "\n").encode()
    write_atomically(folder / MANIFEST, lambda temporary: temporary.write_bytes(text), needed_bytes=len(text))


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed while writing, and a manifest without shards.

    Raises
    ------
    StoreError
        If one cannot be removed.
    """
    try:
        for path in folder.iterdir():
            if TEMPORARY_FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)
        if (folder / MANIFEST).exists() and not any(folder.glob("shard-*.nc")) and not read_manifest(folder).shards:
            (folder / MANIFEST).unlink()  # another configuration may use the folder
    except OSError as error:
        raise unwritable_error(folder, error) from error


def is_complete(folder: Path, config: Config, package_version: str) -> bool:
    """Whether a folder holds all of a configuration's dataset, so that nothing need be written.

    Shards are compared by size, and those that were written after the manifest by checksum too, as are the folders that
    the configuration names; one that is not there any more is not asked for.
    """
    try:
        manifest = read_manifest(folder)
    except StoreError:
        return False
    return (
        manifest.package_version == package_version
        and not differing_fields(manifest.config, config)
        and manifest.num_samples == config.num_samples
        and _looks_whole(folder, manifest, config)
    )


def _looks_whole(folder: Path, manifest: Manifest, config: Config) -> bool:
    """Compare sizes, and checksums of what is newer than the manifest, which then gets the time of the newest."""
    path, inputs = folder / MANIFEST, [Path(name) for name in config.folders.values() if Path(name).is_dir()]
    try:
        manifest_ns = path.stat().st_mtime_ns
        shards_ns = {shard.number: (folder / shard.file).stat().st_mtime_ns for shard in manifest.shards}
        # A folder's own time changes as files come and go.
        inputs_ns = [each.stat().st_mtime_ns for place in inputs for each in (place, *place.glob("*"))]
    except OSError:
        return False
    newer = [shard for shard in manifest.shards if shards_ns[shard.number] > manifest_ns]
    if any(size_damage(folder, shard) for shard in manifest.shards) or any(shard_damage(folder, s) for s in newer):
        return False
    changed = _changed_folders(manifest, config) if max(inputs_ns, default=0) > manifest_ns else []
    if any(Path(config.folders[field]) in inputs for field in changed):
        return False
    if (newest_ns := max([*shards_ns.values(), *inputs_ns])) > manifest_ns:
        with suppress(OSError):  # who may only read the folder hashes them again next time
            os.utime(path, ns=(manifest_ns, newest_ns))
    return True


@contextmanager
def record_shards(folder: Path, manifest: Manifest) -> Iterator[Callable[[Shard], None]]:
    """Yield a function that adds a shard to a folder's manifest.

    The file is replaced at every shard, or less often where that would take more than a twentieth of the time, and at
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
        unwritten, due_s = False, ended_s + (ended_s - started_s) / _MAX_WRITING_SHARE

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


def input_digests(config: Config) -> dict[str, str]:
    """Digests of the files in the folders that a configuration names, by field; empty for a folder that is not there.

    Names and contents count, not where the folder is nor when its files were written.

    Raises
    ------
    StoreError
        If a file cannot be read.
    """
    digests = {}
    for field, name in config.folders.items():
        digest = hashlib.sha256()
        for path in sorted(Path(name).glob("*")):
            try:
                if path.is_file():
                    digest.update(f"{path.name}\0{file_checksum(path)}\n".encode())
            except OSError as error:
                raise StoreError(
                    f"{field}: {quoted(path)} cannot be read ({error.strerror}); make it readable"
                ) from error
        digests[field] = digest.hexdigest()
    return digests


def _changed_folders(manifest: Manifest, config: Config) -> list[str]:
    """Fields of the folders that hold other files than when a dataset was begun."""
    found = input_digests(config)
    return [field for field, digest in manifest.folders.items() if found.get(field) != digest]


def begin_dataset(folder: Path, config: Config, package_version: str) -> Manifest:
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
        raise unwritable_error(folder, error) from error
    if MANIFEST not in found and (others := {name for name in found - {LOCK} if not _LEFT.fullmatch(name)}):
        raise StoreError(
            f"out: {quoted(folder)} holds other files ({min(others)}) and no {MANIFEST}; choose an empty folder"
        )
    remove_leftovers(folder)
    if not (folder / MANIFEST).exists():
        manifest = Manifest(package_version=package_version, config=config, folders=input_digests(config))
        write_manifest(folder, manifest)
        return manifest
    manifest = read_manifest(folder)
    if fields := differing_fields(manifest.config, config):
        raise StoreError(
            f"out: {quoted(folder)} holds a dataset with another {', '.join(fields)}; choose another folder"
        )
    if manifest.package_version != package_version:
        raise StoreError(
            f"out: {quoted(folder)} was begun by version {manifest.package_version}, this is {package_version}; "
            "finish it with that version or choose another folder"
        )
    if manifest.format != FORMAT:
        raise StoreError(
            f"out: {quoted(folder)} was begun in format {manifest.format}, and this version writes format {FORMAT}; "
            "choose another folder"
        )
    if changed := _changed_folders(manifest, config):
        raise StoreError(
            f"{changed[0]}: {quoted(config.folders[changed[0]])} holds other files than when {quoted(folder)} was "
            "begun; put those back, or choose another folder for the dataset"
        )
    whole = tuple(shard for shard in manifest.shards if shard_damage(folder, shard) is None)
    return manifest.model_copy(update={"shards": whole})


def read_manifest(folder: Path) -> Manifest:
    """Read a dataset's manifest.

    Raises
    ------
    StoreError
        If there is none, it is damaged, or it was written by a version whose format or fields are others.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{quoted(folder)} is no dataset: {MANIFEST} cannot be read ({error.strerror}); "
            "give a folder that 'heimdall-lab generate' made"
        ) from error
    return _parse_manifest(content, path)


def _parse_manifest(content: bytes, path: Path) -> Manifest:
    """Validate what ``dataset.json`` holds; its format decides whether anything else is looked at."""
    try:
        fields: Any = json.loads(content)
    except ValueError as error:
        raise _damaged(path, f"no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _damaged(path, f"{type(fields).__name__} instead of fields")
    fields.setdefault("format", 1)
    writer, reader, number = fields.get("package_version"), version("heimdall_lab"), fields["format"]
    if isinstance(number, int) and number > FORMAT:
        raise StoreError(
            f"{path}: was written by version {writer} in format {number}, and this version {reader} reads formats up "
            f"to {FORMAT}; use version {writer} or a later one"
        )
    _fill_later_fields(fields.get("config"))
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        kinds = ("extra_forbidden", "missing")
        others = [".".join(map(str, each["loc"])) for each in error.errors() if each["type"] in kinds]
        if not isinstance(writer, str) or (writer == reader and not others):
            raise _damaged(path, first_error(error, Manifest)) from error
        raise _unfit(path, writer, others, first_error(error, Manifest)) from error
    # An earlier version may lack a field that has a default today; this version writes all of them.
    if writer == reader and (absent := list(_unset_fields(manifest.config, "config"))):
        raise _unfit(path, writer, absent, "")
    return manifest


def _fill_later_fields(config: Any) -> None:
    """Give the fields of a configuration that versions before did not write the values that reproduce those."""
    signal = config.get("signal") if isinstance(config, dict) else None
    if isinstance(signal, dict) and signal.get("voice_folder"):
        signal.setdefault("limiter_reference", "window")


def _unset_fields(model: BaseModel, prefix: str) -> Iterator[str]:
    """Yield the dotted names of the fields that a configuration was read without, but for those it leaves out."""
    written = model.model_dump()
    for name, value in ((name, value) for name, value in model if name in written):
        if name not in model.model_fields_set:
            yield f"{prefix}.{name}"
        elif isinstance(value, BaseModel):
            yield from _unset_fields(value, f"{prefix}.{name}")


def _unfit(path: Path, writer: str, fields: list[str], reason: str) -> StoreError:
    reader = version("heimdall_lab")
    remedy = f"put a copy of {MANIFEST} back, or generate into another folder"
    if writer != reader:
        remedy = f"open it with version {writer}, or, if somebody changed it, {remedy}"
    what = f"fields that only one has: {', '.join(fields)}" if fields else reason
    return StoreError(
        f"{path}: was written by version {writer} and does not fit this version {reader} ({what}); {remedy}"
    )


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path}: is damaged ({reason}); put a copy of it back, or generate into another folder")


def dataset_checksum(folder: Path) -> str:
    """Checksum of all shards that a folder's manifest lists."""
    return read_manifest(folder).checksum


def samples_written(folder: Path) -> int:
    """Scenes that a folder's manifest lists; 0 where there is none yet."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
    return _parse_manifest(content, path).num_samples


def check_shard(folder: Path, shard: Shard) -> None:
    """Refuse a shard that is missing or damaged by a StoreError that names it."""
    if damage := shard_damage(folder, shard):
        raise StoreError(f"{folder / shard.file}: {damage}; run the same 'generate' command to write it again")


def shard_damage(folder: Path, shard: Shard) -> str | None:
    """Text of what is wrong with a shard's file; None where its bytes are those that were written."""
    if damage := size_damage(folder, shard):
        return damage
    try:
        return None if file_checksum(folder / shard.file) == shard.sha256 else "has another checksum"
    except OSError as error:
        return _access_damage(error)


def size_damage(folder: Path, shard: Shard) -> str | None:
    """Text of what is wrong with a shard's file, as far as its size tells."""
    try:
        num_bytes = (folder / shard.file).stat().st_size
    except OSError as error:
        return _access_damage(error)
    return None if num_bytes == shard.num_bytes else f"has {num_bytes} bytes instead of {shard.num_bytes}"


def _access_damage(error: OSError) -> str:
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    return "is missing" if missing else f"cannot be read ({error.strerror})"
