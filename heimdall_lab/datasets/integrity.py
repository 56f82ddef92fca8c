"""Whether the shards of a dataset are those that its manifest lists: what they hold, and their checksums."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pydantic import ValidationError

from heimdall_lab.core.config import Config
from heimdall_lab.core.files import StoreError
from heimdall_lab.core.folder_use import in_use
from heimdall_lab.core.presets import differing_fields
from heimdall_lab.core.progress import display
from heimdall_lab.core.text import shortened, si_text
from heimdall_lab.datasets import netcdf
from heimdall_lab.datasets.manifest import MANIFEST, Manifest, Shard, check_shard, read_manifest


def shard_check(manifest: Manifest) -> netcdf.Check:
    """Make the function that refuses an open file of a shard unless it holds what the manifest says.

    It looks at dimensions and attributes before anything else is read, so that neither can make readers take memory.
    """
    shard_of = {shard.file: shard for shard in manifest.shards}
    same = {manifest.config.model_dump_json()}  # texts of this configuration; other versions write others

    def check(path: Path, file: Any) -> None:
        text = str(getattr(file, "config", ""))
        if text not in same:
            _check_config(path, text, manifest.config)
            same.add(text)
        if (seed := str(getattr(file, "seed", ""))) != str(manifest.config.seed):
            raise _other(path, "seed", seed, manifest.config.seed)
        _check_sizes(path, file, shard_of[path.name], manifest.config)

    return check


def check_contents(folder: Path, manifest: Manifest) -> None:
    """Refuse the shards that a manifest lists unless they hold what it says; StoreError names the first other one."""
    check = shard_check(manifest)
    for shard in manifest.shards:
        netcdf.check_file(folder / shard.file, check)


def check_checksums(path: str | Path, numbers: Collection[int] | None = None, progress: bool = False) -> None:
    """Check shards of a dataset against their checksums, all or those of some numbers.

    Parameters
    ----------
    path : path
        Folder of the dataset.
    numbers : collection of int, optional
        Of the shards.
    progress : bool
        Say on standard error how long it takes.

    Raises
    ------
    StoreError
        Naming the first shard that is missing or damaged.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    shards = [shard for shard in manifest.shards if numbers is None or shard.number in numbers]
    began_s, num_bytes = time.monotonic(), 0
    with display(f"verify {manifest.config.name}", len(shards), progress) as report:
        for done, shard in enumerate(shards, start=1):
            check_shard(folder, shard)
            num_bytes += shard.num_bytes
            report(done, f"checksums are right: {si_text(num_bytes)}B in {time.monotonic() - began_s:.1f} s")


def check_origin(dataset: xr.Dataset, progress: bool = False) -> None:
    """Check the shards of a dataset's scenes as `check_checksums` does, where its arrays are still to be read."""
    if dataset.chunks and (found := origin(dataset)) is not None:
        folder, shards = found
        check_checksums(folder, {shard.number for shard, _ in shards}, progress)


@contextmanager
def kept(dataset: xr.Dataset) -> Iterator[None]:
    """Keep other processes from deleting the folder that a dataset was opened from, inside the block."""
    found = origin(dataset)
    with in_use(found[0]) if found is not None else nullcontext():
        yield


def origin(dataset: xr.Dataset) -> tuple[Path, list[tuple[Shard, np.ndarray]]] | None:
    """Folder that a dataset was opened from, and its shards with the rows of their scenes; None if it has none."""
    source, labels = dataset.encoding.get("source"), dataset["sample"].values
    if source is None or not len(labels) or labels.dtype.kind not in "iu":
        return None
    folder = Path(source).parent
    try:
        manifest = read_manifest(folder)
    except StoreError:
        return None
    number_of = labels // manifest.config.scenes_per_shard
    shard_of = {shard.number: shard for shard in manifest.shards}
    numbers = np.unique(number_of).tolist()
    if not set(numbers) <= set(shard_of):
        return None
    return folder, [(shard_of[number], np.flatnonzero(number_of == number)) for number in numbers]


def _check_config(path: Path, text: str, config: Config) -> None:
    try:
        stored = Config.model_validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"{path}: its attribute config is no configuration; run the same 'generate' command to write it again"
        ) from error
    if fields := differing_fields(stored, config):
        values = []
        for each in (stored, config):
            value: Any = each
            for name in fields[0].split("."):
                value = getattr(value, name)
            values.append(value)
        raise _other(path, fields[0], *values)


def _check_sizes(path: Path, file: Any, shard: Shard, config: Config) -> None:
    """Compare dimensions, and the label of the first scene."""
    sizes = {"sample": shard.num_samples, "receiver": config.max_receivers, "time": config.signal.num_time}
    for name, size in sizes.items():
        if name in file.dimensions and (found := file.dimensions[name].size) != size:
            raise _other(path, f"number of {name}s", found, size)
    first = shard.number * config.scenes_per_shard
    if (label := int(file["sample"][0])) != first:
        raise _other(path, "first sample", label, first)


def _other(path: Path, field: str, found: object, listed: object) -> StoreError:
    return StoreError(
        f"{path}: its {field} is {shortened(found)} and that of {MANIFEST} {shortened(listed)}; put back a copy of "
        "whichever was changed, or generate into another folder"
    )
