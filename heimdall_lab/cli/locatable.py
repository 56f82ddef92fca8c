"""What the command ``locate`` is given, where that is neither a dataset's folder nor named as recordings."""

import csv
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heimdall_lab as hl
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.datasets.manifest import MANIFEST
from heimdall_lab.datasets.recordings.files import ARCHIVE, WAV
from heimdall_lab.datasets.recordings.locards import ROW_FIELDS, SENSOR_FIELDS
from heimdall_lab.datasets.recordings.sigmf_files import COLLECTION, META

if TYPE_CHECKING:
    import xarray as xr

TABLE = ".csv"
_LOCATE = "heimdall-lab locate"
_NETWORK_FIELDS = ("name", "latitude_deg", "longitude_deg")


def is_table(paths: list[Path]) -> bool:
    """Whether any of the paths is a table of measurements."""
    return any(path.suffix.lower() == TABLE for path in paths)


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


def check_kind(path: Path, *, kiwi: bool = False) -> None:
    """Refuse a path that is no dataset, nor a file of ``--kiwi``, but can be located by another command: that one."""
    if (path / MANIFEST).exists() or (kiwi and not path.is_dir()):
        return
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    suffixes = {file.suffix.lower(): file.suffix for file in files}
    where = f"{shlex.quote(str(path))}/*{{}}" if path.is_dir() else shlex.quote(str(path))
    what, command = "", ""
    if sigmf := [suffix for suffix in (META, COLLECTION, ARCHIVE) if suffix in suffixes]:
        what, command = "SigMF recordings", f"{_LOCATE} {where.format(sigmf[0])}"
    elif WAV in suffixes:
        command = f"{_LOCATE} --kiwi --receivers STATIONS.csv {where.format(suffixes[WAV])}"
        what = "WAV files, if of KiwiSDRs"
    elif table := next((file for file in files if file.suffix.lower() == TABLE and _holds(file, ROW_FIELDS)), None):
        sensors = next((file for file in files if file.suffix.lower() == TABLE and _holds(file, SENSOR_FIELDS)), None)
        of_sensors = "SENSORS.csv" if sensors is None else shlex.quote(str(sensors))
        what, command = "a table", f"{_LOCATE} {shlex.quote(str(table))} --receivers {of_sensors}"
    if command:
        raise ConfigError(f"paths: {str(path)!r} is no dataset but holds {what}; locate by: {command}")


def _holds(file: Path, fields: tuple[str, ...]) -> bool:
    return set(fields) <= _columns(file)


def _columns(file: Path) -> set[str]:
    """Names of a table's columns; ConfigError if it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            return {name.strip() for name in next(csv.reader(text), [])}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"paths: {file} cannot be read ({error}); give a CSV file in UTF-8") from error
