"""Where the bytes of SigMF files are: each in a file of its own, or in an archive.

Tar archives are read in place, compressed ones are unpacked into a temporary folder, up to a stated size. The package
``sigmf`` reads one recording of an archive, and joins the samples of one to the metadata of another where it holds
several.

Source: SigMF specification 1.2.6, sigmf.org, "SigMF File Types", with what programs add to it: archives that are
compressed by gzip, bzip2 or xz, or are zip files.
"""

import bz2
import gzip
import hashlib
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from heimdall_lab.datasets.manifest import MANIFEST

COLLECTION, META, DATA = ".sigmf-collection", ".sigmf-meta", ".sigmf-data"
ARCHIVE = ".sigmf"
_COMPRESSED = (".gz", ".xz", ".bz2")
ARCHIVES = (
    *(f"{kind}{suffix}" for kind in (ARCHIVE, ".tar") for suffix in ("", *_COMPRESSED)),
    *(".tgz", ".sigmf.zip", ".zip"),
)
UNPACKED_LIMIT_BYTES = 16_000_000_000  # of compressed archives, unless the caller says otherwise

_OPENERS: dict[bytes, Callable[[Path], Any]] = {  # by what files of that compression begin with
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_ZIP = b"PK"
_PIECE_BYTES = 2**20
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError)
_UNSUPPORTED = (RuntimeError, NotImplementedError)  # by which zipfile says that a file is encrypted, or how packed


class SigmfError(ValueError):
    """A SigMF file that cannot be used; the message names the file, the field and the remedy."""


@dataclass(frozen=True)
class Stored:
    """Bytes of a file: ``size`` of those of ``file``, from ``offset`` on."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """All of them."""
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            return opened.read(self.size)

    def sha512(self) -> str:
        """Their hash, in hexadecimal."""
        digest, left = hashlib.sha512(), self.size
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            while left and (piece := opened.read(min(left, _PIECE_BYTES))):
                digest.update(piece)
                left -= len(piece)
        return digest.hexdigest()


Archived = Mapping[Path, Stored]  # files in archives, by paths that go on within the archive


def stored(path: Path, archived: Archived) -> Stored:
    """Find the bytes of a file, in an archive or on its own; OSError if there is none."""
    return archived[path] if path in archived else Stored(path, 0, path.stat().st_size)


def is_archive(path: Path) -> bool:
    """Whether a path is named as an archive is, and is no folder."""
    return path.name.lower().endswith(ARCHIVES) and not path.is_dir()


def with_extension(path: Path) -> Path:
    """Complete the name of a recording, collection or archive that is given without its extension.

    Samples stand for their metadata. Other files, datasets and what is no name of SigMF files are returned as they are.
    """
    if path.name.endswith(DATA):
        return path.with_name(f"{path.name.removesuffix(DATA)}{META}")
    if path.name in ("", "..") or path.is_file() or (path / MANIFEST).exists():
        return path
    named = (path.with_name(f"{path.name}{suffix}") for suffix in (META, COLLECTION, *ARCHIVES))
    return next((file for file in named if file.is_file()), path)


def is_sigmf(path: Path) -> bool:
    """Whether a path is named as a SigMF recording, collection or archive, with or without its extension."""
    named = with_extension(path)
    return named.name.endswith((META, COLLECTION)) or is_archive(named)


@contextmanager
def opened_archives(archives: Sequence[Path], limit_bytes: float = UNPACKED_LIMIT_BYTES) -> Iterator[Archived]:
    """Find the files in archives, which those that are compressed are unpacked for as long as the block runs.

    Raises
    ------
    SigmfError
        If one is no archive, cannot be read, or holds more than ``limit_bytes`` unpacked, together with the others.
    """
    if not archives:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="heimdall-lab-", ignore_cleanup_errors=True) as folder:
        archived: dict[Path, Stored] = {}
        used = 0
        for number, archive in enumerate(archives):
            below = Path(folder, str(number))
            below.mkdir()
            archived |= _files_of(archive, below, limit_bytes - used)
            used += sum(file.stat().st_size for file in below.iterdir())
        yield archived


def _files_of(archive: Path, folder: Path, limit_bytes: float) -> dict[Path, Stored]:
    """Files of one archive; what is unpacked is below the folder."""
    try:
        with archive.open("rb") as opened:
            first = opened.read(max(map(len, _OPENERS)))
        if first.startswith(_ZIP):
            return _unzipped(archive, folder, limit_bytes)
        plain = archive
        for begins, opener in _OPENERS.items():
            if first.startswith(begins):
                plain = folder / "tar"
                with opener(archive) as source:
                    _copy(source, plain, limit_bytes, archive)
        return _in_tar(plain, archive)
    except _DAMAGED as error:
        raise SigmfError(f"{archive.name}: is no SigMF archive ({error}); fetch it again") from error
    except _UNSUPPORTED as error:
        raise SigmfError(f"{archive.name}: cannot be unpacked ({error}); pack it anew as .sigmf") from error
    except OSError as error:
        raise SigmfError(
            f"{archive}: is no SigMF file that can be read ({error.strerror}); correct that, or unpack it with tar and "
            "give its files"
        ) from error


def _in_tar(plain: Path, archive: Path) -> dict[Path, Stored]:
    """Files of a tar archive, where they are; of files of one name the last, as when they are unpacked."""
    found: dict[Path, Stored] = {}
    with tarfile.open(plain, "r:") as members:
        for member in members:
            path = _path_within(archive, member.name)
            if path is not None and member.isreg() and not member.issparse():
                found[path] = Stored(plain, member.offset_data, member.size)
    if any(each.offset + each.size > plain.stat().st_size for each in found.values()):
        raise tarfile.ReadError("unexpected end of data")
    return found


def _unzipped(archive: Path, folder: Path, limit_bytes: float) -> dict[Path, Stored]:
    """Files of a zip archive, unpacked."""
    found: dict[Path, Stored] = {}
    with zipfile.ZipFile(archive) as members:
        for number, member in enumerate(members.infolist()):
            path = _path_within(archive, member.filename)
            if path is None or member.is_dir():
                continue
            file = folder / str(number)
            with members.open(member) as source:
                limit_bytes -= _copy(source, file, limit_bytes, archive)
            found[path] = Stored(file, 0, file.stat().st_size)
    return found


def _copy(source: Any, file: Path, limit_bytes: float, archive: Path) -> int:
    """Write what is read to a file; returns its size, which is limited whatever the archive says of it."""
    size = 0
    with file.open("wb") as written:
        while piece := source.read(_PIECE_BYTES):
            size += len(piece)
            if not size <= limit_bytes:
                raise SigmfError(
                    f"{archive.name}: holds more than the {limit_bytes / 1e6:g} MB that are left for what is unpacked; "
                    "unpack it with tar and give its files, or fewer of them"
                )
            written.write(piece)
    return size


def _path_within(archive: Path, name: str) -> Path | None:
    """Path of a file in an archive; None of those that macOS adds to describe the others."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", "//")]
    hidden = any(part.startswith("._") or part == "__MACOSX" for part in parts)
    return None if hidden or not parts else archive.joinpath(*parts)
