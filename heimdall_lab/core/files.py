"""Files that are written whole or not at all, and folders that one process at a time writes to."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from heimdall_lab.core.text import quoted, shortened, si_text

Write = Callable[[Path], object]  # makes a file of the given name

LOCK = ".dataset.lock"
_POLL_S = 0.2
_clients_folder: ContextVar[Path | None] = ContextVar("_clients_folder", default=None)


class StoreError(ValueError):
    """A dataset folder that cannot be used; the message names the file and the remedy."""


class UnwritableError(StoreError, OSError):
    """A folder that cannot be written to; the message names the file, what it takes, and the remedy."""

    def __reduce__(self) -> tuple[type["UnwritableError"], tuple[object, ...]]:
        """Make it anew in another process, which what Dask does for errors of two kinds at once fails to do."""
        return UnwritableError, self.args


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
            f"{field}: {quoted(Path(name))} is no path ({shortened(error)}); name one below {quoted(folder)}"
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
        raise ValueError(f"{field}: {quoted(Path(path))} is larger than {si_text(most_bytes)}B; give a smaller file")


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
        raise ValueError(f"{field}: {quoted(Path(path))} is larger than {si_text(most_bytes)}B; give a smaller file")
    return content


def write_atomically(path: Path, write: Write, field: str = "out", needed_bytes: int = 0) -> None:
    """Let ``write`` make a temporary file beside the path, sync it to disk, and rename it into place.

    Raises
    ------
    UnwritableError
        If it cannot be written; the message begins with ``field``, and names the bytes that the file takes if given.
    """
    _write_all({path: write}, field, needed_bytes)


def write_files(writes: Mapping[Path, Write], field: str = "out", needed_bytes: int = 0) -> None:
    """Write files as `write_atomically` does: all of them get their names when the last one is whole, or none does.

    Temporary files of these names that killed processes left behind are removed.

    Parameters
    ----------
    writes : mapping
        The function that makes each file.
    field : str
        What errors name.
    needed_bytes : int
        What they take together, where that is known: it must be free.

    Raises
    ------
    UnwritableError
        If one cannot be written.
    """
    with ExitStack() as stack:
        for folder in {path.parent for path in writes}:
            names = [path.name for path in writes if path.parent == folder]
            check_space(folder / names[0], needed_bytes, field)
            stack.enter_context(_tidied(folder, names, field))
        _write_all(writes, field, needed_bytes)


def write_text(path: Path, text: str, field: str = "out") -> None:
    """Write a text as UTF-8, whole or not at all."""
    write_files({path: lambda temporary: temporary.write_text(text, encoding="utf-8")}, field, len(text.encode()))


@contextmanager
def new_folder(folder: Path, field: str = "out", needed_bytes: int = 0) -> Iterator[Path]:
    """Yield a temporary folder beside one that is missing or empty, which takes its place when the block is done.

    Raises
    ------
    UnwritableError
        If it cannot be written.
    """
    make_folder(folder.parent, field)
    check_space(folder, needed_bytes, field)
    with _tidied(folder.parent, [folder.name], field):
        temporary = _temporary(folder)
        try:
            temporary.mkdir()
            yield temporary
            temporary.rename(folder)
            _sync(folder.parent)
        except UnwritableError:
            raise
        except OSError as error:
            raise unwritable_error(folder, error, field) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_space(path: Path, needed_bytes: int, field: str = "out") -> None:
    """Raise UnwritableError, naming the sizes, unless there is room for so many bytes beside a path."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:  # whoever writes there is told
        return
    if needed_bytes > free:
        raise UnwritableError(
            f"{field}: {quoted(path)} takes {si_text(needed_bytes)}B, and {si_text(free)}B are free there; make room, "
            "or choose a folder on a larger disk"
        )


def _write_all(writes: Mapping[Path, Write], field: str, needed_bytes: int) -> None:
    """Make temporary files, and rename them when all are on disk."""
    temporary_of = {path: _temporary(path) for path in writes}
    path = next(iter(writes))
    try:
        for path, write in writes.items():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            write(temporary_of[path])
            _sync(temporary_of[path])
        _rename_all(temporary_of)
        for folder in {path.parent for path in writes}:
            _sync(folder)
    except ValueError:  # which says what to do, UnwritableError too
        raise
    except OSError as error:
        raise unwritable_error(path.parent, error, field, _need(path, temporary_of[path], needed_bytes)) from error
    finally:
        for temporary in temporary_of.values():
            temporary.unlink(missing_ok=True)


def _rename_all(temporary_of: Mapping[Path, Path]) -> None:
    """Rename files into place; where one cannot be, those before it get their earlier contents back."""
    earlier: dict[Path, Path | None] = {}
    try:
        for path, temporary in temporary_of.items():
            earlier[path] = _second_name(path) if len(temporary_of) > 1 else None
            temporary.replace(path)
    except BaseException:
        for path, kept in earlier.items():
            if kept is not None:
                kept.replace(path)
            elif not temporary_of[path].exists():
                path.unlink(missing_ok=True)
        raise
    finally:
        for kept in earlier.values():
            if kept is not None:
                kept.unlink(missing_ok=True)


def _second_name(path: Path) -> Path | None:
    """Give a file a second name for as long as another may take its place; None if there is no file."""
    kept = _temporary(path)
    try:
        kept.hardlink_to(path)
    except FileNotFoundError:
        return None
    except OSError:  # a file system that has no such names
        shutil.copy2(path, kept)
    return kept


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # hosts may share the folder, and numbers


def _need(path: Path, temporary: Path, needed_bytes: int) -> str:
    """Say what a file takes, as far as that is known, and what is free."""
    free, takes = "", f"{path.name} takes {si_text(needed_bytes)}B" if needed_bytes else path.name
    with suppress(OSError):
        free = f", {si_text(shutil.disk_usage(path.parent).free)}B are free there"
        written = temporary.stat().st_size
        takes = takes if needed_bytes else f"{path.name} takes more than {si_text(written)}B"
    return takes + free


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _tidied(folder: Path, names: Collection[str], field: str) -> Iterator[None]:
    """Hold a folder in which files of these names are written, having removed what killed processes left of them.

    Who writes holds the folder together with others that do; what nobody holds is left behind.
    """
    left = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{16}}\.tmp")
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unwritable_error(folder, error, field) from error
    try:
        with suppress(OSError):  # somebody writes there, or the file system has no such locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in folder.iterdir():
                if left.fullmatch(path.name):
                    _remove(path)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


def make_folder(folder: Path, field: str = "out") -> None:
    """Make a folder, and those above it, if there is none; UnwritableError if that cannot be."""
    with writing(folder, field):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(folder: Path, field: str = "out") -> Iterator[None]:
    """Raise UnwritableError, naming the field, where a folder cannot be written to inside the block."""
    try:
        yield
    except OSError as error:
        raise unwritable_error(folder, error, field) from error


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


def unwritable_error(folder: Path, error: Exception, field: str = "out", need: str = "") -> UnwritableError:
    """Error that says why a folder cannot be written to, what was to be written, and what to do.

    One that says so already is given the field.
    """
    if isinstance(error, UnwritableError):
        return UnwritableError(f"{field}:{str(error).partition(':')[2]}")
    reason = getattr(error, "strerror", None) or error
    return UnwritableError(
        f"{field}: cannot write to {quoted(folder)} ({reason}{f'; {need}' if need else ''}); choose a folder that you "
        "may write to and that has room, or make room and run the same command again"
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
                try:
                    os.truncate(descriptor, 0)
                    os.write(descriptor, holder.encode())
                except OSError:  # the disk is full
                    path.unlink(missing_ok=True)
                    raise
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
