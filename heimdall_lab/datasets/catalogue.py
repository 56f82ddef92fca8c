"""The datasets below a folder."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from heimdall_lab.core.config import Config
from heimdall_lab.core.files import StoreError, data_folder
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets.manifest import MANIFEST, Manifest, read_manifest, shard_name

_MAX_SUMMARIES = 1024  # a few kB each, where a whole manifest of many shards has megabytes

COLUMNS = [
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


def datasets(root: str | Path | None = None, leave_out: Collection[str] = ()) -> pd.DataFrame:
    """List the datasets below a folder.

    Parameters
    ----------
    root : path, optional
        By default the data folder: ``HEIMDALL_LAB_DATA``, else ``data`` here.
    leave_out : collection of str
        Names of folders directly below it that are not searched.

    Returns
    -------
    pandas.DataFrame
        A row for each, with the columns of ``COLUMNS``: ``samples`` are there, ``of`` those wanted; ``acceptance``
        is the share of the drawn scenes that were kept; ``created`` is when its first shard was written (local time);
        ``state`` is complete, unfinished, or unreadable where the manifest is damaged or of another version
        (`manifest.read_manifest` says which).

    Raises
    ------
    StoreError
        If the folder does not exist.
    """
    folder = data_folder(root)
    if not folder.is_dir():
        raise StoreError(f"root: {quoted(folder)} is no folder; give one that holds datasets, or generate one into it")
    rows = (_row(each) for each in sorted(_dataset_folders(folder, leave_out)))
    return pd.DataFrame([row for row in rows if row is not None], columns=COLUMNS)


class Summary(NamedTuple):
    """A dataset as a whole, as its manifest has it.

    Attributes
    ----------
    config : Config
    num_samples : int
        Scenes written so far.
    num_bytes : int
        Of all shards.
    acceptance : float
        Share of the candidate scenes that were kept; NaN before the first shard.
    checksum : str
        Of all shards, as `manifest.dataset_checksum` returns it.
    """

    config: Config
    num_samples: int
    num_bytes: int
    acceptance: float
    checksum: str


def summary(folder: Path) -> Summary:
    """Sum up a dataset's manifest, which is parsed again only when its file has changed.

    Raises
    ------
    StoreError
        If there is no manifest, or it is not valid.
    """
    with suppress(OSError):
        found = (folder / MANIFEST).stat()
        return _summary_of_file(folder, found.st_mtime_ns, found.st_size, found.st_ino)
    return _sum_up(read_manifest(folder))  # which says what is wrong


@lru_cache(maxsize=_MAX_SUMMARIES)
def _summary_of_file(folder: Path, *_identity: int) -> Summary:
    return _sum_up(read_manifest(folder))


def _sum_up(manifest: Manifest) -> Summary:
    return Summary(
        config=manifest.config,
        num_samples=manifest.num_samples,
        num_bytes=sum(shard.num_bytes for shard in manifest.shards),
        acceptance=manifest.acceptance,
        checksum=manifest.checksum,
    )


def _dataset_folders(root: Path, leave_out: Collection[str]) -> Iterator[Path]:
    """Yield the folders below a root that hold a manifest; folders may come and go meanwhile."""
    for name, folders, files in os.walk(root):
        if MANIFEST in files:
            yield Path(name)
            folders.clear()
        elif Path(name) == root:
            folders[:] = [folder for folder in folders if folder not in leave_out]


def _row(folder: Path) -> dict[str, Any] | None:
    """A row of the catalogue; None if the folder holds no dataset any more."""
    entry: dict[str, Any] = {"path": str(folder), "name": "", "data_type": "", "acceptance": float("nan")}
    numbers = dict.fromkeys(("samples", "of", "receivers", "seed", "megabytes"), 0)
    try:
        found = summary(folder)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        return entry | numbers | {"created": pd.NaT, "state": "unreadable"}
    config, done = found.config, found.num_samples
    return {
        "path": str(folder),
        "name": config.name,
        "data_type": config.data_type,
        "samples": done,
        "of": config.num_samples,
        "receivers": config.geometry.num_receivers[1],
        "seed": config.seed,
        "megabytes": round(found.num_bytes / 1e6, 1),
        "acceptance": round(found.acceptance, 4),
        "created": _created(folder),
        "state": "complete" if done == config.num_samples else "unfinished",
    }


def _created(folder: Path) -> Any:
    """When the first shard was written, in local time; NaT where it is not there."""
    try:
        return pd.Timestamp.fromtimestamp((folder / shard_name(0)).stat().st_mtime).floor("s")
    except OSError:
        return pd.NaT
