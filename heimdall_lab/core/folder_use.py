"""Folders that several processes use, and one may only delete while nobody does."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heimdall_lab.core.files import StoreError
from heimdall_lab.core.text import quoted


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep processes that ask for `unused` from a folder inside the block; several may use it at once.

    Nothing is written, so that the folder may be one that can only be read. The operating system ends it with this
    process.
    """
    with _folder_lock(folder, fcntl.LOCK_SH):
        yield


@contextmanager
def unused(folder: Path) -> Iterator[None]:
    """Have a folder that nobody uses inside the block; StoreError if a process does, by `in_use`."""
    try:
        with _folder_lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError as error:
        raise StoreError(
            f"{quoted(folder)} is being used, as by training or comparing on it in another process; wait until that is "
            "done, or stop it"
        ) from error


@contextmanager
def _folder_lock(folder: Path, kind: int) -> Iterator[None]:
    """Lock a folder itself; not where its file system has no such locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, kind)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise
        yield
    finally:
        os.close(descriptor)
