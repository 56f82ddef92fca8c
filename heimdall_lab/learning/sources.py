"""Datasets to train on: opened from a folder or in memory, with a checksum that identifies them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from heimdall_lab.core.files import StoreError
from heimdall_lab.datasets import manifest, schema, store
from heimdall_lab.learning.signals_on_disk import SIGNAL_DIMS


@dataclass(frozen=True)
class Source:
    """A dataset to train on.

    Attributes
    ----------
    dataset : xr.Dataset
    folder : Path or None
        Where its shards are; None if it is in memory only.
    checksum : str
        Of all shards; in memory, of all variables except IQ and spectrograms.
    """

    dataset: xr.Dataset
    folder: Path | None
    checksum: str

    @property
    def data_type(self) -> str:
        """Of the contract: ``iq_raw`` or ``feature_based``."""
        return "iq_raw" if "iq" in self.dataset else "feature_based"


def open_source(dataset: xr.Dataset | str | Path) -> Source:
    """Open a dataset to train on; one that was opened from a folder and is unchanged is read from that folder."""
    if not isinstance(dataset, xr.Dataset):
        folder = Path(dataset)
        return Source(store.open_dataset(folder), folder, manifest.dataset_checksum(folder))
    origin = Path(dataset.encoding.get("source", "")).parent
    if _is_unchanged(dataset, origin):
        return Source(dataset, origin, manifest.dataset_checksum(origin))
    return Source(schema.check(dataset), None, _checksum(dataset))


def check_shards(folder: Path) -> None:
    """Refuse a dataset folder of which a shard is missing or damaged.

    Raises
    ------
    StoreError
        Naming the shard.
    """
    for shard in manifest.read_manifest(folder).shards:
        if fault := manifest.shard_damage(folder, shard):
            raise StoreError(f"{folder / shard.file}: {fault}; run the same 'generate' command to write it again")


def _is_unchanged(dataset: xr.Dataset, folder: Path) -> bool:
    """Whether a dataset is what its folder holds: the same lazy arrays of the same scenes."""
    if manifest.samples_written(folder) != dataset.sizes["sample"]:
        return False
    with store.open_dataset(folder) as stored:
        return (
            _computation_names(dataset) == _computation_names(stored)
            and np.array_equal(dataset["sample"].values, stored["sample"].values)
            and _attributes_json(dataset) == _attributes_json(stored)
        )


def _computation_names(dataset: xr.Dataset) -> dict[str, str]:
    """Name of the Dask computation behind each variable; equal names mean equal arrays."""
    return {str(name): getattr(variable.variable.data, "name", "") for name, variable in dataset.data_vars.items()}


def _attributes_json(dataset: xr.Dataset) -> str:
    return json.dumps(dict(dataset.attrs), sort_keys=True, default=str)


def _checksum(dataset: xr.Dataset) -> str:
    digest = hashlib.sha256(_attributes_json(dataset).encode())
    for name in sorted(map(str, dataset.variables)):
        if name not in SIGNAL_DIMS:
            values = dataset[name].values
            digest.update(
                name.encode() + (str(values.tolist()).encode() if values.dtype.hasobject else values.tobytes())
            )
    return digest.hexdigest()
