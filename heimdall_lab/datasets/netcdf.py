"""NetCDF files: written whole, and read through one handle each, by one thread at a time.

Neither HDF5 nor netCDF-C is made for threads, and netCDF4-python lets other threads run while it is in them. Whatever
opens, reads, writes or closes a file therefore holds `LOCK`.

HDF5 crashes, even in one thread, where a file with variable-length text is open twice, one of its handles is closed,
and the file is opened or read once more: the text's datatype still refers to the handle that is gone.

Source: https://github.com/HDFGroup/hdf5/issues/5359.
"""

import logging
import os
import resource
import threading
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import netCDF4
import xarray as xr
from xarray.backends import BackendEntrypoint, FileManager, NetCDF4DataStore
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK
from xarray.backends.store import StoreBackendEntrypoint

from heimdall_lab.core.files import StoreError

Check = Callable[[Path, Any], None]  # looks at a file, with its open handle, and raises what is wrong
_log = logging.getLogger(__name__)
_FILE_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
_MAX_HANDLES = 512 if _FILE_LIMIT == resource.RLIM_INFINITY else min(512, _FILE_LIMIT // 2)  # some 2 MB each
_handles: OrderedDict[tuple[str, str], Any] = OrderedDict()  # open files by `SharedFile.key`, the last used one last
_users: Counter[tuple[str, str]] = Counter()  # how many managers there are of each file
_dropped: deque[tuple[str, str]] = deque()  # files of managers that were garbage-collected


class _Lock:
    """The lock that xarray holds while it reads netCDF files, which the thread that holds it may take again.

    Compute no Dask array while you hold it: the threads that would compute it wait for the lock.
    """

    def __init__(self) -> None:
        self._holder: int | None = None
        self._depth = 0

    # Garbage collection may call `_drop`, which takes and releases the lock, between any two lines of this thread: the
    # holder is set last and unset first.
    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock, and return whether this thread holds it now."""
        if self._holder == threading.get_ident():
            self._depth += 1
            return True
        if not NETCDF4_PYTHON_LOCK.acquire(blocking):
            return False
        self._depth = 1
        self._holder = threading.get_ident()
        return True

    def release(self) -> None:
        """Release the lock, and before its last release in this thread close the files that nobody uses any more."""
        if self._depth > 1:
            self._depth -= 1
            return
        try:
            while _dropped:
                _count_dropped(_dropped.popleft())
        finally:
            try:
                self._holder = None
            finally:
                NETCDF4_PYTHON_LOCK.release()
        if _dropped:  # by a thread that found the lock taken, after the loop
            self.release_if_free()

    def release_if_free(self) -> None:
        """Close the files that nobody uses any more, unless the lock is taken: then its holder will."""
        if self.acquire(blocking=False):
            self.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> str:
        return "LOCK"  # that of the process it is sent to


LOCK = _Lock()
# A fork copies the lock as it is, but not the thread that would release it.
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


class SharedFile(FileManager[Any]):
    """Manager of the one handle of a file in this process; a closed handle is opened again when it is next used.

    The methods take `LOCK` whatever xarray says it needs, as the thread that holds it may take it again.

    Parameters
    ----------
    path : str
    identity : str
        Differs between files that replace one another under the same name.
    """

    def __init__(self, path: str, identity: str) -> None:
        self.key = path, identity
        with LOCK:
            _users[self.key] += 1
        weakref.finalize(self, _drop, self.key).atexit = False

    def __reduce__(self) -> Any:
        """Leave out the handle; another process opens its own."""
        return SharedFile, self.key

    def acquire(self, needs_lock: bool = True) -> Any:  # noqa: ARG002
        """Return the handle, which is to be used under `LOCK`."""
        with LOCK:
            if self.key not in _handles:
                while len(_handles) >= _MAX_HANDLES:
                    _handles.popitem(last=False)[1].close()
                _handles[self.key] = netCDF4.Dataset(self.key[0])
            _handles.move_to_end(self.key)
            return _handles[self.key]

    @contextmanager
    def acquire_context(self, needs_lock: bool = True) -> Iterator[Any]:  # noqa: ARG002
        """Hold `LOCK`, and the handle open."""
        with LOCK:
            yield self.acquire()

    def close(self, needs_lock: bool = True) -> None:  # noqa: ARG002
        """Close the handle."""
        with LOCK:
            if (handle := _handles.pop(self.key, None)) is not None:
                handle.close()


def _drop(key: tuple[str, str]) -> None:
    """Note that a manager is gone, wherever garbage collection finds it: this never waits for the lock."""
    _dropped.append(key)
    LOCK.release_if_free()


def _count_dropped(key: tuple[str, str]) -> None:
    _users[key] -= 1
    if not _users[key]:
        del _users[key]
        if (handle := _handles.pop(key, None)) is not None:
            try:
                handle.close()
            except (OSError, RuntimeError) as error:  # whoever happens to hold the lock has nothing to do with it
                _log.warning("netcdf: %s cannot be closed (%s)", key[0], error)


def shared_file(path: str | PathLike[str]) -> SharedFile:
    """Manager of the one handle of a file in this process."""
    resolved = Path(path).resolve()
    status = resolved.stat()
    return SharedFile(str(resolved), f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}")


def check_file(path: Path, check: Check) -> None:
    """Let a function look at an open file; StoreError if that cannot be read."""
    try:
        with LOCK:
            check(path, shared_file(path).acquire())
    except (OSError, RuntimeError) as error:
        raise StoreError(
            f"{path}: cannot be read ({error}); run the same 'generate' command to write it again"
        ) from error


class SharedFileBackend(BackendEntrypoint):
    """Engine of `xarray.open_dataset` that opens netCDF files by `shared_file`."""

    open_dataset_parameters = ("filename_or_obj", "drop_variables", "check")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        check: Check | None = None,
    ) -> xr.Dataset:
        """Open a file lazily; ``check`` refuses it before anything of it is read."""
        with LOCK:
            file = shared_file(filename_or_obj)
            if check is not None:
                check(Path(filename_or_obj), file.acquire())
            store = NetCDF4DataStore(file, mode="r", lock=LOCK)
            return StoreBackendEntrypoint().open_dataset(store, drop_variables=drop_variables)


def open_side_by_side(files: Sequence[str | PathLike[str]], **options: Any) -> xr.Dataset:
    """Open files of consecutive samples lazily as one dataset, with the coordinates and attributes of the first.

    Comparing them file by file would double the time to open many.
    """
    return xr.open_mfdataset(
        files,
        engine=SharedFileBackend,
        combine="nested",
        concat_dim="sample",
        data_vars="all",
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="override",
        **options,
    )


def load(path: str | PathLike[str], check: Check | None = None) -> xr.Dataset:
    """Read a whole file into memory, unless ``check`` refuses it."""
    with xr.open_dataset(path, engine=SharedFileBackend, check=check) as dataset:
        return dataset.load()


def write_netcdf(dataset: xr.Dataset, path: Path, checksums: bool = False) -> None:
    """Write a dataset as ``to_netcdf`` does, without its lock, which on a Dask worker goes through the network.

    There is no compression: it would save almost nothing of noise, at a hundredth of the speed. With ``checksums``, of
    numbers alone, the library refuses to read what has changed. OSError if it cannot be written.
    """
    dataset = dataset.compute()  # without the lock, which the threads that compute it need
    variables, attributes = xr.conventions.cf_encoder(*xr.conventions.encode_dataset_coordinates(dataset))
    try:
        _write_variables(path, dataset.sizes, variables, attributes, checksums)
    except RuntimeError as error:  # of the HDF5 library, on a full disk among others
        raise OSError(str(error)) from error


def _write_variables(
    path: Path,
    sizes: Mapping[Hashable, int],
    variables: Mapping[Any, xr.Variable],
    attributes: dict[str, Any],
    checksums: bool,
) -> None:
    with LOCK, netCDF4.Dataset(path, "w") as file:
        file.set_fill_off()  # every value is written below
        file.setncatts(attributes)
        for dimension, size in sizes.items():
            file.createDimension(str(dimension), size)
        for name, variable in variables.items():
            kind = str if variable.dtype.kind in "TUO" else variable.dtype
            fill = variable.attrs.pop("_FillValue", None)
            summed = checksums and kind is not str and variable.ndim > 0
            written = file.createVariable(name, kind, variable.dims, fill_value=fill, fletcher32=summed)
            written.setncatts(variable.attrs)
            written.set_auto_maskandscale(False)
            written[...] = variable.values
