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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from heimdall_lab.core.sparing import OversizedError, SparingFile
from heimdall_lab.core.text import shortened
from heimdall_lab.datasets.manifest import MANIFEST

COLLECTION, META, DATA = ".sigmf-collection", ".sigmf-meta", ".sigmf-data"
ARCHIVE = ".sigmf"
_COMPRESSED = (".gz", ".xz", ".bz2")
ARCHIVES = (
    *(f"{kind}{suffix}" for kind in (ARCHIVE, ".tar") for suffix in ("", *_COMPRESSED)),
    *(".tgz", ".sigmf.zip", ".zip"),
)
UNPACKED_LIMIT_BYTES = 16_000_000_000  # of compressed archives, unless the caller says otherwise
MOST_FILES = 1000  # in an archive, or recordings that are read together
_MOST_PACKED_TIGHTLY_BYTES = 200_000_000  # that an archive may hold unpacked beside _TIGHTEST times its own size
_TIGHTEST = 50  # samples with any noise are not packed to half of their size
LONGEST_NAME = 200  # characters of a file's name, with the folders within the archive

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

    def read(self, most_bytes: int) -> bytes:
        """All of them; ValueError if they are more than so many."""
        if self.size > most_bytes:
            raise ValueError(f"holds {self.size / 1e6:,.0f} MB, more than {most_bytes / 1e6:,.0f} MB")
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


def distinct_names(files: Sequence[Path]) -> list[str]:
    """Names of metadata files without extension; those of one name with as many folders as tell them apart.

    >>> distinct_names([Path("a/day.sigmf/rec.sigmf-meta"), Path("b.sigmf/rec.sigmf-meta"), Path("c.sigmf-meta")])
    ['day/rec', 'b/rec', 'c']
    """
    parts = [[*(part.removesuffix(ARCHIVE) for part in file.parent.parts), file.name.removesuffix(META)]
             for file in files]  # fmt: skip
    names = [own[-1] for own in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        counts = Counter(names)
        names = ["/".join(own[-depth:]) if counts[name] > 1 else name for own, name in zip(parts, names, strict=True)]
    return names


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
        limit_bytes = min(limit_bytes, _MOST_PACKED_TIGHTLY_BYTES + _TIGHTEST * archive.stat().st_size)
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
        raise SigmfError(f"{archive.name}: is no SigMF archive ({shortened(error)}); fetch it again") from error
    except OversizedError as error:
        raise SigmfError(f"{archive.name}: {error}; pack the recordings anew, without other files") from error
    except _UNSUPPORTED as error:
        raise SigmfError(f"{archive.name}: cannot be unpacked ({shortened(error)}); pack it anew as .sigmf") from error
    except OSError as error:
        raise SigmfError(
            f"{archive}: is no SigMF file that can be read ({error.strerror}); correct that, or unpack it with tar and "
            "give its files"
        ) from error


def _in_tar(plain: Path, archive: Path) -> dict[Path, Stored]:
    """Files of a tar archive, where they are; of files of one name the last, as when they are unpacked."""
    found: dict[Path, Stored] = {}
    with SparingFile(plain) as opened, tarfile.open(fileobj=opened, mode="r:") as members:
        for number, member in enumerate(members):
            _check_count(number + 1, archive)
            path = _path_within(archive, member.name)
            if path is not None and member.isreg() and not member.issparse():
                found[path] = Stored(plain, member.offset_data, member.size)
    if any(each.offset + each.size > plain.stat().st_size for each in found.values()):
        raise tarfile.ReadError("unexpected end of data")
    return found


def _unzipped(archive: Path, folder: Path, limit_bytes: float) -> dict[Path, Stored]:
    """Files of a zip archive, unpacked."""
    found: dict[Path, Stored] = {}
    with SparingFile(archive) as opened, zipfile.ZipFile(opened) as members:
        _check_count(len(members.infolist()), archive)
        if not sum(member.file_size for member in members.infolist()) <= limit_bytes:
            raise _too_large(archive, limit_bytes)
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
                raise _too_large(archive, limit_bytes)
            written.write(piece)
    return size


def _too_large(archive: Path, limit_bytes: float) -> SigmfError:
    return SigmfError(
        f"{archive.name}: holds more than the {limit_bytes / 1e6:g} MB that are left for what is unpacked, or that "
        f"samples of its size can hold; unpack it with tar and give its files, or fewer of them"
    )


def _check_count(count: int, archive: Path) -> None:
    if count > MOST_FILES:
        raise SigmfError(
            f"{archive.name}: holds more than {MOST_FILES:,} files; pack the recordings that belong together, alone"
        )


def _path_within(archive: Path, name: str) -> Path | None:
    """Path of a file in an archive; None of those that macOS adds to describe the others."""
    if len(name) > LONGEST_NAME:
        raise SigmfError(
            f"{archive.name}: names a file with {len(name)} characters, more than {LONGEST_NAME}; shorten its name"
        )
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", "//")]
    hidden = any(part.startswith("._") or part == "__MACOSX" for part in parts)
    return None if hidden or not parts else archive.joinpath(*parts)
