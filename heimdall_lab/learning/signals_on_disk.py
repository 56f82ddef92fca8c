"""Signals of many scenes, IQ and spectrograms, read a few scenes at a time: from memory, or from their shards."""

from pathlib import Path
from typing import Any

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.files import StoreError
from heimdall_lab.datasets import manifest, netcdf

SIGNAL_DIMS = {  # dims of the variables that are too large for memory in some datasets
    "iq": ("sample", "receiver", "component", "time"),
    "spectrogram": ("sample", "receiver", "frequency", "frame"),
}


class InMemory:
    """A variable (S, R, …, N) as an array."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.length: int = values.shape[-1]

    def read(self, rows: Array, starts: Array | None, length: int | None) -> Array:
        """See `OnDisk.read`."""
        if starts is None or length is None:
            return self.values[rows]
        return np.stack(
            [self.values[row, ..., start : start + length] for row, start in zip(rows, starts, strict=True)]
        )


class OnDisk:
    """A variable (S, R, …, N) in the shards of a dataset folder, which are opened when they are first read.

    Parameters
    ----------
    folder : Path
    name : str
        Of `SIGNAL_DIMS`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        shards = manifest.read_manifest(folder).shards
        self.name, self.files = name, [folder / shard.file for shard in shards]
        self.ends = np.cumsum([shard.num_samples for shard in shards])
        self._open: dict[int, netcdf.SharedFile] = {}
        with netcdf.LOCK:
            self.shape = (int(self.ends[-1]), *self._variable(0).shape[1:])
            self.dtype = self._variable(0).dtype
        self.length: int = self.shape[-1]

    def read(self, rows: Array, starts: Array | None, length: int | None) -> Array:
        """Read some scenes.

        Parameters
        ----------
        rows : (B,) int
        starts : (B,) int, optional
            First instant to read of each scene; by default all instants are read.
        length : int, optional
            Number of instants.

        Returns
        -------
        array (B, R, …, N)
            As stored.

        Raises
        ------
        ValueError
            If a shard cannot be read.
        """
        parts = []
        for number, row in enumerate(rows):
            shard = int(np.searchsorted(self.ends, row, side="right"))
            local = int(row) - (int(self.ends[shard - 1]) if shard else 0)
            first = 0 if starts is None else int(starts[number])
            parts.append(self._slice(shard, local, slice(first, None if length is None else first + length)))
        return np.stack(parts)

    def load(self) -> InMemory:
        """Read all of it into memory."""
        values = np.empty(self.shape, dtype=self.dtype)
        for shard, end in enumerate(self.ends):
            first = int(self.ends[shard - 1]) if shard else 0
            values[first:end] = self._slice(shard, slice(None), slice(None))
        return InMemory(values)

    def _slice(self, shard: int, rows: int | slice, instants: slice) -> Array:
        try:
            with netcdf.LOCK:
                return np.asarray(self._variable(shard)[rows, ..., instants])
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"{self.files[shard]}: cannot be read ({error}); run the same 'generate' command to write it again"
            ) from error

    def _variable(self, shard: int) -> Any:
        if shard not in self._open:
            self._open[shard] = netcdf.shared_file(self.files[shard])
        variable = self._open[shard].acquire().variables[self.name]
        variable.set_auto_maskandscale(False)
        return variable
