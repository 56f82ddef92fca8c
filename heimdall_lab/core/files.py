"""Files that are written whole or not at all, and folders that one process at a time writes to."""

import fcntl
import hashlib
import os
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from heimdall_lab.core.text import quoted

LOCK = ".dataset.lock"
_POLL_S = 0.2
_clients_folder: ContextVar[Path | None] = ContextVar("_clients_folder", default=None)


class StoreError(ValueError):
    """A dataset folder that cannot be used; the message names the file and the remedy."""


class UnwritableError(StoreError):
    """A folder that cannot be written to."""


def data_folder(root: str | Path | None = None) -> Path:
    """Folder of datasets, runs and networks: what is given, else ``HEIMDALL_LAB_DATA``, else ``data`` here."""
    return Path(root or os.environ.get("HEIMDALL_LAB_DATA") or "data")


@contextmanager
def only_below(folder: Path) -> Iterator[None]:
    """Let names of files mean regular ones below a folder inside the block, as where clients of a server give them."""
    token = _clients_folder.set(folder)
    try:
        yield
    finally:
        _clients_folder.reset(token)


def path_below(folder: Path, name: str | Path, field: str) -> Path:
    """Path of what a client named, links followed; ValueError, naming the field, unless it is below the folder.

    Relative names count from where the process runs.
    """
    try:
        path = Path(name).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # zeros, loops of links, halves of characters
        raise ValueError(
            f"{field}: {quoted(Path(name))} is no path ({error}); name one below {quoted(folder)}"
        ) from error
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{field}: {quoted(Path(name))} is outside of {quoted(folder)}; put its files below that")
    return path


def check_regular(path: Path, field: str, most_bytes: int) -> None:
    """Raise ValueError, naming the field, unless it is a regular file of at most so many bytes; OSError if missing."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{field}: {quoted(path)} is no regular file; give one")
    if status.st_size > most_bytes:
        raise ValueError(
            f"{field}: {quoted(Path(path))} is larger than {most_bytes / 1e6:,.0f} MB; give a smaller file"
        )


def read_limited(path: str | Path, field: str, most_bytes: int) -> bytes:
    """Content of a file of at most so many bytes, below the folder of `only_below` where that is in force.

    ValueError, naming the field, if it is larger or elsewhere; OSError if it cannot be read.
    """
    if (folder := _clients_folder.get()) is not None:
        path = path_below(folder, path, field)
        check_regular(path, field, most_bytes)  # before it is opened, which waits at a named pipe
    with Path(path).open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(
            f"{field}: {quoted(Path(path))} is larger than {most_bytes / 1e6:,.0f} MB; give a smaller file"
        )
    return content


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a temporary file beside the path, sync it to disk, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # hosts may share the folder, and numbers
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


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def locked(
    folder: Path, name: str = LOCK, wait: Callable[[str], object] | None = None, field: str = "out"
) -> Iterator[str]:
    """Keep other processes from writing to a folder inside the block.

    The operating system gives the lock back when this process ends, however that happens. Readers are not affected,
    nor is who takes a lock of another name. Yields the text of the lock's file, by which another machine can check that
    it sees this folder. Where another process holds the lock, ``wait`` is called with its name, again and again until
    the lock is free; without ``wait`` that is a StoreError, as is a folder that cannot be written to. They name
    ``field``.
    """
    path = folder / name
    holder = f"{os.getpid()} {socket.gethostname()} {secrets.token_hex(8)}"
    try:
        while (descriptor := _acquire_or_wait(path, holder, wait)) is None:
            pass
    except BlockingIOError as error:
        raise StoreError(
            f"{field}: {quoted(folder)} is being written to by {_holder_text(path)}; wait until it is done, or stop "
            "it, and run the same command again"
        ) from error
    except OSError as error:
        raise unwritable_error(folder, error, field) from error
    try:
        yield holder
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, if there is none; StoreError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable_error(folder, error) from error


def lock_holder(folder: Path) -> str:
    """Text of a folder's lock, as `locked` yields it to the process that writes there; empty where there is none."""
    try:
        return (folder / LOCK).read_text()
    except OSError:
        return ""


def request_stop(folder: Path) -> None:
    """Mark a folder's lock, so that the workers that write there for this process begin nothing more."""
    with suppress(OSError), (folder / LOCK).open("a") as file:  # on a full disk they write all that they were given
        file.write(" stop")


def unwritable_error(folder: Path, error: Exception, field: str = "out") -> "UnwritableError":
    """Error that says why a folder cannot be written to, and what to do."""
    reason = getattr(error, "strerror", None) or error
    return UnwritableError(
        f"{field}: cannot write to {quoted(folder)} ({reason}); choose a folder that you may write to and that has "
        "room, or make room and run the same command again"
    )


def file_checksum(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def check_writable(path: str | Path, option: str) -> None:
    """Raise ValueError, naming the option that asked for it, where no file can be written."""
    try:
        with tempfile.TemporaryFile(dir=Path(path).parent):
            reason = "it is a folder" if Path(path).is_dir() else None
    except OSError as error:
        reason = error.strerror
    if reason:
        raise ValueError(f"{option}: cannot write '{path}' ({reason}); name a file in a folder that you may write to")


def _acquire_or_wait(path: Path, holder: str, wait: Callable[[str], object] | None) -> int | None:
    """Acquire a lock, or tell who holds it and wait a moment."""
    try:
        return _acquire(path, holder)
    except BlockingIOError:
        if wait is None:
            raise
        wait(_holder_text(path))
        time.sleep(_POLL_S)
        return None


def _acquire(path: Path, holder: str) -> int:
    """Open a lock's file, lock it for as long as the returned descriptor is open, and write the holder into it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(path, descriptor):  # else a holder that ended just now removed it between these lines
                os.truncate(descriptor, 0)
                os.write(descriptor, holder.encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder_text(path: Path) -> str:
    """Text that names the process that holds a lock."""
    with suppress(OSError, ValueError):
        number, host, *_ = path.read_text().split()
        return f"process {number} on {host}"
    return "another process"
