"""Datasets to train on: opened from a folder or in memory, with a checksum that identifies them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from heimdall_lab.core.files import StoreError
from heimdall_lab.datasets import manifest, schema, store
from heimdall_lab.signals.measurements import without_kept

_BLOCK_BYTES = 2**28  # of a variable in memory while it is hashed
_TEXT = "OTU"  # kinds of arrays of text, whose type and width depend on whether they come from a file


@dataclass(frozen=True)
class Source:
    """A dataset to train on.

    Attributes
    ----------
    dataset : xr.Dataset
    folder : Path or None
        Where its shards are; None if it is in memory only.
    checksum : str
        Of all shards; in memory, `content_checksum`.
    """

    dataset: xr.Dataset
    folder: Path | None
    checksum: str

    @property
    def data_type(self) -> str:
        """Of the contract: ``iq_raw`` or ``feature_based``."""
        return "iq_raw" if "iq" in self.dataset else "feature_based"


def open_source(dataset: xr.Dataset | str | Path) -> Source:
    """Open a dataset to train on; one that was opened from a folder and is unchanged is read from that folder.

    Raises
    ------
    ValueError
        If it cannot be read, or does not fulfil the contract.
    """
    if not isinstance(dataset, xr.Dataset):
        folder = Path(dataset)
        return Source(store.open_dataset(folder), folder, manifest.dataset_checksum(folder))
    plain = without_kept(dataset)  # whether they were measured before makes no difference
    if file := dataset.encoding.get("source"):
        origin = Path(file).parent
        if _is_unchanged(plain, origin):
            return Source(dataset, origin, manifest.dataset_checksum(origin))
    try:
        return Source(schema.check(dataset), None, content_checksum(plain))
    except (OSError, RuntimeError) as error:  # RuntimeError: the HDF5 library
        raise StoreError(f"dataset: its files cannot be read ({error}); put them back and open it again") from error


def content_checksum(dataset: xr.Dataset) -> str:
    """Checksum of all that a dataset holds: names, dimensions, types, shapes, attributes and values.

    Values that are not in memory are read a few scenes at a time.
    """
    digest = hashlib.sha256(_json(dataset.attrs).encode())
    for name in sorted(map(str, dataset.variables)):
        variable = dataset.variables[name]
        digest.update(_json([name, *_description(variable), variable.shape]).encode())
        for block in _blocks(variable):
            digest.update(_text_bytes(block) if block.dtype.kind in _TEXT else block.tobytes())
    return digest.hexdigest()


def _is_unchanged(dataset: xr.Dataset, folder: Path) -> bool:
    """Whether a dataset is what its folder holds: the same lazy arrays of the same scenes."""
    if manifest.samples_written(folder) != dataset.sizes["sample"]:
        return False
    with store.open_dataset(folder) as stored:
        stored = without_kept(stored)
        return (
            _computation_names(dataset) == _computation_names(stored)
            and dataset.coords.to_dataset().identical(stored.coords.to_dataset())
            and _json(dataset.attrs) == _json(stored.attrs)
        )


def _computation_names(dataset: xr.Dataset) -> dict[str, str]:
    """Name of the Dask computation behind each variable, and its description; equal names mean equal arrays."""
    return {
        str(name): _json([variable.data.name if variable.chunks is not None else "", *_description(variable)])
        for name, variable in dataset.variables.items()
        if name not in dataset.coords
    }


def _description(variable: xr.Variable) -> list[Any]:
    return [variable.dims, "text" if variable.dtype.kind in _TEXT else str(variable.dtype), variable.attrs]


def _blocks(variable: xr.Variable) -> Iterator[np.ndarray]:
    """Yield a variable's values along its first dimension, `_BLOCK_BYTES` at a time."""
    if not variable.dims:
        yield variable.values
        return
    rows = variable.shape[0]
    step = max(1, _BLOCK_BYTES * rows // max(1, variable.nbytes))
    with dask.config.set(scheduler="synchronous"):  # HDF5 reads one at a time in any case
        for first in range(0, rows, step):
            yield variable[first : first + step].values


def _text_bytes(texts: np.ndarray) -> bytes:
    """Bytes of an array of texts, the same for every type of array that holds them."""
    plain = (str(each) if isinstance(each, str) else each for each in texts.ravel().tolist())
    return "".join(f"{each!r}," for each in plain).encode()


def _json(values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON does not know, as lists, numbers and text."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
