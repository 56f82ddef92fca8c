"""Recordings by the files' names: SigMF files, archives and collections, or WAVs of KiwiSDRs or other SDRs."""

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from heimdall_lab.datasets.recordings.kiwisdr import read_kiwi
from heimdall_lab.datasets.recordings.sigmf import read_sigmf
from heimdall_lab.datasets.recordings.sigmf_files import COLLECTION, DATA, META, SigmfError
from heimdall_lab.datasets.recordings.wav import read_wav
from heimdall_lab.datasets.recordings.wav_files import has_gnss_stamps

ARCHIVE, WAV = ".sigmf", ".wav"
SUFFIXES = (META, DATA, ARCHIVE, COLLECTION, WAV)


def read_files(
    files: Sequence[Path],
    receivers: Path | None = None,
    *,
    window_s: float | None = None,
    transmitter: Sequence[float] | None = None,
) -> xr.Dataset:
    """Read the recordings of one network; their kind follows from the files' names.

    Parameters
    ----------
    files : sequence of Path
        All of one kind and in one folder, which archives are unpacked into until they are read.
    receivers : Path, optional
        CSV file of the receivers' positions; WAVs need it.
    window_s : float, optional
        Length of consecutive windows to cut the recordings into, s.
    transmitter : (latitude, longitude), optional
        True position if known, degrees.

    Returns
    -------
    xr.Dataset
        As `read_sigmf`, `read_kiwi` or `read_wav` return it.

    Raises
    ------
    ValueError
        If the files are of no kind or of two, or one is not accepted by its reader.
    """
    suffixes = {file: file.suffix.lower() for file in files}
    for file, suffix in suffixes.items():
        if suffix not in SUFFIXES:
            raise ValueError(f"{file.name}: is no recording; give files that end in {', '.join(SUFFIXES)}")
    if not files:
        raise ValueError("files: none are given; give SigMF files or WAVs")
    waves = [file for file, suffix in suffixes.items() if suffix == WAV]
    if waves and len(waves) < len(files):
        raise ValueError("files: SigMF and WAVs are mixed; give one kind at a time")
    if waves:
        return read_waves(waves, receivers, window_s=window_s, transmitter=transmitter)
    unpacked: list[Path] = []
    try:
        for file in files:
            if file.suffix == ARCHIVE:
                _unpack_archive(file, unpacked)
        sigmf_files = [*(file for file in files if file.suffix != ARCHIVE), *unpacked]
        return _read_sigmf(sigmf_files, receivers, window_s, transmitter)
    finally:  # or the next attempt would find them there
        for file in unpacked:
            file.unlink(missing_ok=True)


def read_waves(files: Sequence[Path], receivers: Path | None, **options: Any) -> xr.Dataset:
    """Read WAVs of KiwiSDRs or of other SDRs, as their first blocks tell; ``options`` are those of their readers.

    Raises
    ------
    ValueError
        If there is no table of receivers, the files are of both kinds, or one is not accepted by its reader.
    """
    if receivers is None:
        raise ValueError("receivers: are missing; give a CSV file with the positions of the stations")
    stamped = [has_gnss_stamps(file) for file in files]
    if any(stamped) and not all(stamped):
        other = files[stamped.index(False)].name
        raise ValueError(f"files: {other} has no GNSS stamps, as others have; give recordings of one kind")
    return (read_kiwi if all(stamped) else read_wav)(files, receivers, **options)


def _read_sigmf(
    files: Sequence[Path], receivers: Path | None, window_s: float | None, transmitter: Sequence[float] | None
) -> xr.Dataset:
    collections = [file for file in files if file.suffix == COLLECTION]
    metas = [file for file in files if file.suffix == META]
    if len(collections) > 1:
        raise ValueError(f"files: {', '.join(file.name for file in collections)} are several collections; give one")
    if not collections and not metas:
        raise ValueError(f"files: none ends in {META}; give it with each {DATA}")
    paths = collections[0] if collections else metas
    return read_sigmf(paths, receivers=receivers, window_s=window_s, transmitter=transmitter)


def _unpack_archive(archive: Path, unpacked: list[Path]) -> None:
    """Unpack the SigMF files of an archive beside it, whatever folders they are in.

    Every file that is made is added to ``unpacked``, also where the archive is refused in the end. Of an archive of
    several recordings, `sigmf.SigMFArchiveReader` joins the samples of one to the metadata of another.

    Raises
    ------
    SigmfError
        If it is no tar file, or it would overwrite a file.
    """
    try:
        with tarfile.open(archive, "r:") as members:
            for member in members:
                file = archive.with_name(Path(member.name).name)
                content = members.extractfile(member) if member.isreg() and not member.issparse() else None
                if content is None or file.suffix not in (META, DATA, COLLECTION):
                    continue
                if file.exists():
                    raise SigmfError(f"{archive.name}: {file.name} is there twice; give every recording once")
                unpacked.append(file)
                with content, file.open("wb") as written:
                    while piece := content.read(2**20):
                        written.write(piece)
    except (tarfile.TarError, EOFError) as error:
        raise SigmfError(f"{archive.name}: is no SigMF archive ({error}); fetch it again") from error
