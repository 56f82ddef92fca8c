"""Receiving stations, and networks of them in CSV files."""

import csv
import io
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from pydantic import Field, ValidationError

from heimdall_lab.core.checked import NAME, CheckedModel, ConfigError, first_error
from heimdall_lab.core.files import read_limited, write_text
from heimdall_lab.core.text import quoted

NETWORKS = "networks"  # folder of saved networks, below that of data
LARGEST_POSITION_STD_M = 1e6  # of a receiver's stated position
_MAX_BYTES = 1_000_000  # of a CSV file


class Receiver(CheckedModel):
    """A receiving station."""

    name: str = Field(min_length=1, description="name of the station")
    latitude_deg: float = Field(ge=-90, le=90, description="WGS84 latitude, degrees north")
    longitude_deg: float = Field(ge=-180, le=180, description="WGS84 longitude, degrees east")
    altitude_m: float = Field(default=0.0, ge=-500, le=9000, description="antenna altitude above the ellipsoid, m")
    position_std_m: float | None = Field(
        default=None,
        ge=0,
        le=LARGEST_POSITION_STD_M,
        exclude_if=lambda stated: stated is None,
        description="standard deviation of the stated position along east and along north, m",
    )


def longitudes_deg(receivers: Iterable[Receiver]) -> tuple[float, ...]:
    """Longitudes of a network, counted on beyond 180 where it lies across that meridian.

    >>> islands = {"Vanua Levu": 179.4, "Taveuni": -179.98}
    >>> longitudes_deg(Receiver(name=name, latitude_deg=-16.8, longitude_deg=east) for name, east in islands.items())
    (179.4, 180.02)
    """
    listed = [receiver.longitude_deg for receiver in receivers]
    across = max(listed) - min(listed) > 180
    return tuple(longitude + 360 if across and longitude < 0 else longitude for longitude in listed)


def read_receivers(path: str | Path) -> tuple[Receiver, ...]:
    """Read a network from a CSV file with the columns name, latitude_deg, longitude_deg and, if known, altitude_m.

    The column position_std_m says how well positions are known; empty where nobody says it.

    ConfigError if the file cannot be read, is larger than 1 MB, lacks a column or holds a value out of bounds.
    """
    try:
        content = read_limited(path, "receivers", _MAX_BYTES)
    except OSError as error:
        raise _unreadable(str(path), error.strerror) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return parse_receivers(content, str(path))


def parse_receivers(content: bytes, source: str) -> tuple[Receiver, ...]:
    """Read a network from the content of such a file, which errors call by the name of its source.

    ConfigError if it is no text in UTF-8, lacks a column or holds a value out of bounds.
    """
    try:
        rows = [*csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), restkey="surplus")]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(source, error) from error
    receivers: dict[str, Receiver] = {}
    for line, row in enumerate(rows, start=2):
        try:
            receiver = Receiver.model_validate({column: text for column, text in row.items() if text})
        except ValidationError as error:
            raise ConfigError(f"receivers: {source} line {line}: {first_error(error, Receiver)}") from error
        if receiver.name in receivers:
            raise ConfigError(
                f"receivers: {source} line {line}: the name {quoted(receiver.name)} is repeated; change it"
            )
        receivers[receiver.name] = receiver
    return tuple(receivers.values())


def receivers_csv(receivers: Iterable[Receiver]) -> str:
    """Write a network as CSV with the columns name, latitude_deg, longitude_deg, altitude_m, if known position_std_m.

    >>> print(receivers_csv([Receiver(name="Genova", latitude_deg=44.395, longitude_deg=8.956, altitude_m=100)]))
    name,latitude_deg,longitude_deg,altitude_m
    Genova,44.395,8.956,100.0
    <BLANKLINE>
    """
    text = io.StringIO()
    stations = list(receivers)
    columns = list(Receiver.model_fields)
    if all(station.position_std_m is None for station in stations):
        columns.remove("position_std_m")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([getattr(station, column) for column in columns] for station in stations)
    return text.getvalue()


def italian_network() -> tuple[Receiver, ...]:
    """Return the seven receivers of north-west Italy in ``receivers.csv``."""
    installed = resources.files("heimdall_lab") / "receivers.csv"
    in_source_tree = Path(__file__).parents[2] / "data" / "receivers.csv"
    file = Path(str(installed)) if installed.is_file() else in_source_tree
    return parse_receivers(file.read_bytes(), str(file))


def saved_networks(root: str | Path) -> list[str]:
    """Names of the networks below a folder of data, in alphabetical order."""
    return sorted(path.stem for path in (Path(root) / NETWORKS).glob("*.csv"))


def network_file(root: str | Path, name: str) -> Path:
    """File of a network below a folder of data, which need not exist.

    ConfigError if the name holds anything but letters, digits, hyphens and underscores.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"name: {quoted(name)} is refused: use letters A-Z, a-z, digits, - and _ only, at least one")
    return Path(root) / NETWORKS / f"{name}.csv"


def load_network(root: str | Path, name: str) -> tuple[Receiver, ...]:
    """Read a saved network; ConfigError if its name is not allowed, or its file as `read_receivers` refuses it."""
    return read_receivers(network_file(root, name))


def save_network(receivers: Iterable[Receiver], root: str | Path, name: str, *, replace: bool = False) -> Path:
    """Write a network below a folder of data, and return its file.

    ConfigError if the name is not allowed, or exists without ``replace``; OSError if the file cannot be written.
    """
    file = network_file(root, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not replace and file.exists():
        raise ConfigError(f"name: {quoted(name)} exists; choose another name, or replace it")
    text = receivers_csv(receivers)
    write_text(file, text)
    return file


def _unreadable(source: str, reason: object) -> ConfigError:
    return ConfigError(f"receivers: cannot read {quoted(source)} ({reason}); give a readable CSV file")
