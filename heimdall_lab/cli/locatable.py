"""What the commands ``locate`` and ``clocks`` are given: datasets, recordings or tables."""

import csv
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import heimdall_lab as hl
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets.manifest import MANIFEST
from heimdall_lab.datasets.recordings.files import WAV
from heimdall_lab.datasets.recordings.locards import ROW_FIELDS, SENSOR_FIELDS
from heimdall_lab.datasets.recordings.sigmf_stored import ARCHIVE, COLLECTION, META, is_sigmf

if TYPE_CHECKING:
    import xarray as xr

Kind = Literal["SigMF", "WAV", "table", "dataset"]
RECORDINGS = ("SigMF", "WAV")
TABLE = ".csv"
_LOCATE = "heimdall-lab locate"
_NETWORK_FIELDS = ("name", "latitude_deg", "longitude_deg")


def kind_of(paths: list[Path], *, kiwi: bool) -> Kind:
    """What the paths are by their names; with ``kiwi`` they are KiwiSDR recordings.

    ConfigError if one holds what another command locates: that one.
    """
    if not kiwi and any(is_sigmf(path) for path in paths):
        return "SigMF"
    if not kiwi and any(path.suffix.lower() == TABLE for path in paths):
        return "table"
    for path in paths:
        _check_kind(path, kiwi=kiwi)
    return "WAV" if kiwi or all(path.suffix.lower() == WAV for path in paths) else "dataset"


def read(
    paths: list[Path],
    kind: Kind,
    receivers: Path | None,
    cut: dict[str, Any],
    references: dict[float, tuple[float, ...]],
    known: dict[str, Any],
    *,
    kiwi: bool = False,
) -> "xr.Dataset":
    """Read what is to be located, as recordings are cut and with what files do not tell; refuse what does not fit."""
    recorded = kind in RECORDINGS
    given = {"set": None if kind == "table" else known, "window": cut.get("window_s"), "at": cut.get("at")}
    for name, value in given.items():
        if value and not recorded:
            raise ConfigError(f"{name}: only recordings take it; leave it out")
    if references and kind != "SigMF":
        raise ConfigError("reference: only SigMF recordings have emissions of several frequencies; leave it out")
    if recorded:
        of_references = {"references": references} if references else {}
        return read_recordings(paths, receivers, cut | of_references | known, kind=kind, kiwi=kiwi)
    if cut.get("transmitter") is not None:
        raise ConfigError(f"transmitter: a {kind} holds its own; leave it out, or give recordings, as by --kiwi")
    return read_table(paths, receivers, known) if kind == "table" else read_dataset(paths, receivers)


def read_dataset(paths: list[Path], receivers: Path | None) -> "xr.Dataset":
    """Open the folder of a dataset, which holds its receivers; ConfigError if more is given."""
    if receivers is not None:
        raise ConfigError("receivers: a dataset holds its own; leave them out, or give recordings")
    if len(paths) != 1:
        raise ConfigError(f"paths: {len(paths)} are given; locate one dataset at a time")
    return hl.open_dataset(paths[0])


def read_recordings(
    paths: list[Path], receivers: Path | None, known: dict[str, Any], *, kind: Kind, kiwi: bool
) -> "xr.Dataset":
    """Read recordings of KiwiSDR stations or other WAVs, or SigMF, with what is known besides."""
    from heimdall_lab.datasets.recordings.files import read_waves

    if kind == "SigMF":
        return hl.read_sigmf(paths, receivers=receivers, **known)
    if receivers is None:
        raise ConfigError("receivers: is missing; give the stations' positions with --receivers FILE.csv")
    return hl.read_kiwi(paths, receivers, **known) if kiwi else read_waves(paths, receivers, **known)


def read_table(paths: list[Path], sensors: Path | None, attributes: dict[str, Any]) -> "xr.Dataset":
    """Read a LocaRDS table, with that of its sensors.

    ConfigError if there are several, the sensors are missing, or it is a table of another kind: the message says which,
    and what reads it.
    """
    if len(paths) != 1:
        raise ConfigError(f"paths: {len(paths)} are given; locate one table at a time")
    file = paths[0]
    columns = _columns(file)
    if set(SENSOR_FIELDS) <= columns or set(_NETWORK_FIELDS) <= columns:
        raise ConfigError(
            f"paths: {file.name} is a table of receivers; give it by --receivers, beside what these received"
        )
    if not set(ROW_FIELDS) <= columns:
        raise ConfigError(
            f"paths: {file.name} is no table that can be located, with the columns {', '.join(sorted(columns))}; give "
            f"a LocaRDS table, with {', '.join(ROW_FIELDS)}, or read it in Python and write a dataset of the contract"
        )
    if sensors is None:
        raise ConfigError(
            f"receivers: are missing; give the table of the sensors, with {', '.join(SENSOR_FIELDS)}: "
            f"{_LOCATE} {shlex.quote(str(file))} --receivers SENSORS.csv"
        )
    return hl.read_locards(file, sensors, **attributes)


def _check_kind(path: Path, *, kiwi: bool) -> None:
    """Refuse a path that is no dataset, nor a WAV, but can be located by another command: that one."""
    if (path / MANIFEST).exists() or (not path.is_dir() and (kiwi or path.suffix.lower() == WAV)):
        return
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    suffixes = {file.suffix.lower(): file.suffix for file in files}
    where = f"{shlex.quote(str(path))}/*{{}}" if path.is_dir() else shlex.quote(str(path))
    what, command = "", ""
    if sigmf := [suffix for suffix in (META, COLLECTION, ARCHIVE) if suffix in suffixes]:
        what, command = "SigMF recordings", f"{_LOCATE} {where.format(sigmf[0])}"
    elif WAV in suffixes:
        what, command = "WAV files", f"{_LOCATE} {where.format(suffixes[WAV])} --receivers STATIONS.csv"
    elif table := next((file for file in files if file.suffix.lower() == TABLE and _holds(file, ROW_FIELDS)), None):
        sensors = next((file for file in files if file.suffix.lower() == TABLE and _holds(file, SENSOR_FIELDS)), None)
        of_sensors = "SENSORS.csv" if sensors is None else shlex.quote(str(sensors))
        what, command = "a table", f"{_LOCATE} {shlex.quote(str(table))} --receivers {of_sensors}"
    if command:
        raise ConfigError(f"paths: {quoted(path)} is no dataset but holds {what}; locate by: {command}")


def _holds(file: Path, fields: tuple[str, ...]) -> bool:
    return set(fields) <= _columns(file)


def _columns(file: Path) -> set[str]:
    """Names of a table's columns; ConfigError if it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            return {name.strip() for name in next(csv.reader(text), [])}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"paths: {file} cannot be read ({error}); give a CSV file in UTF-8") from error
