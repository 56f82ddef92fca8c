"""NetCDF files: written whole, and read through one handle each, however often this process opens one.

HDF5 crashes where a file with variable-length text is open twice, one of its handles is closed, and the file is opened
or read once more: the text's datatype still refers to the handle that is gone.

Source: https://github.com/HDFGroup/hdf5/issues/5359.
"""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import netCDF4
import xarray as xr
from xarray.backends import BackendEntrypoint, CachingFileManager, NetCDF4DataStore
from xarray.backends.locks import HDF5_LOCK
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK
from xarray.backends.store import StoreBackendEntrypoint

LOCK = NETCDF4_PYTHON_LOCK  # to be held while a handle is used


def shared_file(path: str | PathLike[str]) -> CachingFileManager[Any]:
    """Manager of the one handle of a file in this process; a closed handle is opened again when it is next used."""
    resolved = Path(path).resolve()
    status = resolved.stat()  # one that replaces it under the same name is another file
    identity = f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}"
    opener: Any = netCDF4.Dataset
    return CachingFileManager(opener, str(resolved), mode="r", lock=LOCK, manager_id=identity)


class SharedFileBackend(BackendEntrypoint):
    """Engine of `xarray.open_dataset` that opens netCDF files by `shared_file`."""

    open_dataset_parameters = ("filename_or_obj", "drop_variables")

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None) -> xr.Dataset:
        """Open a file lazily."""
        manager = shared_file(filename_or_obj)
        with manager.acquire_context():  # stays open until all variables are known
            store = NetCDF4DataStore(manager, mode="r", lock=LOCK)
            return StoreBackendEntrypoint().open_dataset(store, drop_variables=drop_variables)


def write_netcdf(dataset: xr.Dataset, path: Path) -> None:
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
