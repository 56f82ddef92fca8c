"""What several commands share: their arguments, how these are read, and how tables are printed."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.text import json_records, quoted
from heimdall_lab.localization.methods import METHODS

if TYPE_CHECKING:
    import pandas as pd

DATA_FOLDER_HELP = "HEIMDALL_LAB_DATA, else data"
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Check the dataset's shards against their checksums first.")
]
Folder = Annotated[Path, typer.Argument(help="Folder of the dataset.", metavar="DIR")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any field, as path.to.field=value; repeatable.")]


def fail(message: str, status: int) -> NoReturn:
    """Print one line that says what failed, and exit."""
    print(f"heimdall-lab: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def settings_of(settings: list[str], form: str = "path.to.field=value") -> dict[str, Any]:
    """Split ``name=value`` settings, which look like ``form``; a value that is not JSON is text."""
    pairs = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not (path and equals):
            raise ConfigError(f"set: {quoted(setting)} is not of the form {form}")
        try:
            pairs[path] = json.loads(value)
        except (ValueError, RecursionError):  # of numbers without end and nesting, too, which fields refuse as text
            pairs[path] = value
    return pairs


def known_name(option: str, name: str, names: Sequence[str]) -> str:
    """Return a name without its blanks if it is one of those known."""
    if name.strip() not in names:
        raise ConfigError(f"{option}: {quoted(name.strip())} is unknown; choose one of {', '.join(names)}")
    return name.strip()


def method_name(option: str, name: str) -> str:
    """Return a name or a path without its blanks if it can be a method."""
    from heimdall_lab.localization import learned

    if not learned.is_path(name.strip()) and name.strip() not in METHODS:
        known = ", ".join(METHODS)
        raise ConfigError(
            f"{option}: {quoted(name.strip())} is unknown; choose one of {known}, or the path of an .onnx file"
        )
    return name.strip()


def position(text: str | None) -> tuple[float, float] | None:
    """Read a position as LAT,LON in degrees."""
    if text is None:
        return None
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"transmitter: {quoted(text)} is not of the form LAT,LON in degrees") from error
    return latitude, longitude


def references_of(texts: list[str]) -> dict[float, tuple[float, ...]]:
    """Read references, FREQ=LAT,LON or FREQ=LAT,LON,ALT each, in Hz, degrees and metres, by frequency."""
    found: dict[float, tuple[float, ...]] = {}
    for text in texts:
        frequency, equals, place = text.partition("=")
        try:
            frequency_hz, numbers = float(frequency), tuple(float(part) for part in place.split(","))
        except ValueError as error:
            raise _no_reference(text) from error
        if not equals or len(numbers) not in (2, 3):
            raise _no_reference(text)
        if frequency_hz in found:
            raise ConfigError(f"reference: {frequency_hz:.12g} Hz is given twice; give one place a frequency")
        found[frequency_hz] = numbers
    return found


def _no_reference(text: str) -> ConfigError:
    return ConfigError(
        f"reference: {quoted(text)} is not of the form FREQ=LAT,LON or FREQ=LAT,LON,ALT in Hz, degrees, m"
    )


def stated_altitude(text: str | None) -> tuple[float, float] | None:
    """Read an altitude and its standard deviation as METRES+-SIGMA."""
    from heimdall_lab.localization.altitude import parse_altitude

    try:
        return None if text is None else parse_altitude(text)
    except ValueError as error:
        raise ConfigError(f"altitude: {error}") from error


def print_table(table: "pd.DataFrame", as_json: bool) -> None:
    """Print a table, for people or as JSON."""
    if as_json:
        print(json.dumps(json_records(table), indent=1))
    else:
        print(table.to_string(index=False))
