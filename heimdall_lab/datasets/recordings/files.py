"""Recordings by the files' names: SigMF files, archives and collections, or WAVs of KiwiSDRs or other SDRs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from heimdall_lab.datasets.recordings.kiwisdr import read_kiwi
from heimdall_lab.datasets.recordings.sigmf import read_sigmf
from heimdall_lab.datasets.recordings.sigmf_files import named_dataset
from heimdall_lab.datasets.recordings.sigmf_stored import (
    ARCHIVE,
    COLLECTION,
    DATA,
    META,
    UNPACKED_LIMIT_BYTES,
    is_archive,
    is_sigmf,
)
from heimdall_lab.datasets.recordings.wav import read_wav
from heimdall_lab.datasets.recordings.wav_files import has_gnss_stamps

WAV = ".wav"
SUFFIXES = (META, DATA, ARCHIVE, COLLECTION, WAV)


def read_files(
    files: Sequence[Path],
    receivers: Path | None = None,
    *,
    window_s: float | None = None,
    transmitter: Sequence[float] | None = None,
    unpacked_limit_bytes: int = UNPACKED_LIMIT_BYTES,
) -> xr.Dataset:
    """Read the recordings of one network; their kind follows from the files' names.

    Parameters
    ----------
    files : sequence of Path
        All of one kind and in one folder; beside SigMF's metadata any files, of which it says which hold the samples.
    receivers : Path, optional
        CSV file of the receivers' positions; WAVs need it.
    window_s : float, optional
        Length of consecutive windows to cut the recordings into, s.
    transmitter : (latitude, longitude), optional
        True position if known, degrees.
    unpacked_limit_bytes : int
        What compressed archives may hold together.

    Returns
    -------
    xr.Dataset
        As `read_sigmf`, `read_kiwi` or `read_wav` return it.

    Raises
    ------
    ValueError
        If the files are of no kind or of two, or one is not accepted by its reader.
    """
    if not files:
        raise ValueError("files: none are given; give SigMF files or WAVs")
    others = [file for file in files if not is_sigmf(file)]
    if len(others) < len(files):
        sigmf_files = [file for file in files if file not in others]
        _check_named(others, sigmf_files)
        return read_sigmf(
            _sigmf_paths(sigmf_files),
            receivers=receivers,
            window_s=window_s,
            transmitter=transmitter,
            unpacked_limit_bytes=unpacked_limit_bytes,
        )
    for file in others:
        if file.suffix.lower() != WAV:
            raise ValueError(f"{file.name}: is no recording; give files that end in {', '.join(SUFFIXES)}")
    return read_waves(others, receivers, window_s=window_s, transmitter=transmitter)


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


def _check_named(others: Sequence[Path], sigmf_files: Sequence[Path]) -> None:
    """Raise ValueError unless files that are not of SigMF are those that metadata among the others names."""
    if not others:
        return
    named = {named_dataset(file) for file in sigmf_files if file.name.endswith(META)}
    for file in others:
        if file.name in named:
            continue
        if file.suffix.lower() == WAV:
            raise ValueError(
                f"files: SigMF and WAVs are mixed; give one kind at a time, or name {file.name} in a {META} as "
                "core:dataset"
            )
        raise ValueError(f"{file.name}: is no recording, nor core:dataset of any {META}; leave it out or name it there")


def _sigmf_paths(files: Sequence[Path]) -> list[Path]:
    """What to read of SigMF files: a collection, or recordings, and archives."""
    archives = [file for file in files if is_archive(file)]
    collections = [file for file in files if file.name.endswith(COLLECTION)]
    metas = [file for file in files if file.name.endswith(META)]
    if len(collections) > 1:
        raise ValueError(f"files: {', '.join(file.name for file in collections)} are several collections; give one")
    if not (collections or metas or archives):
        raise ValueError(f"files: none ends in {META}; give it with each {DATA}")
    return [*(collections or metas), *archives]
