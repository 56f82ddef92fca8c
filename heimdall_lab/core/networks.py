"""Networks of receivers in a folder: one CSV file each, as `config.read_receivers` takes them."""

import csv
import io
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from heimdall_lab.core.config import NAME, ConfigError, Receiver, read_receivers
from heimdall_lab.datasets import store

FOLDER = "networks"  # below the folder of data


def csv_text(receivers: Iterable[Receiver]) -> str:
    """Write a network as CSV with the columns name, latitude_deg, longitude_deg and altitude_m.

    >>> print(csv_text([Receiver(name="Genova", latitude_deg=44.395, longitude_deg=8.956, altitude_m=100)]))
    name,latitude_deg,longitude_deg,altitude_m
    Genova,44.395,8.956,100.0
    <BLANKLINE>
    """
    text = io.StringIO()
    rows = csv.DictWriter(text, list(Receiver.model_fields), lineterminator="\n")
    rows.writeheader()
    rows.writerows(receiver.model_dump() for receiver in receivers)
    return text.getvalue()


def parse(content: bytes, name: str) -> tuple[Receiver, ...]:
    """Read a network from the content of a CSV file; errors call it by its name.

    Raises
    ------
    ConfigError
        As `config.read_receivers`.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.csv"
        file.write_bytes(content)
        try:
            return read_receivers(file)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(file), name)) from error


def saved(root: str | Path) -> list[str]:
    """Names of the networks below a folder of data, in alphabetical order."""
    return sorted(path.stem for path in (Path(root) / FOLDER).glob("*.csv"))


def location(root: str | Path, name: str) -> Path:
    """File of a network below a folder of data, which need not exist.

    Raises
    ------
    ConfigError
        If the name holds anything but letters, digits, hyphens and underscores.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"name: {name!r} is refused: use letters A-Z, a-z, digits, - and _ only, at least one")
    return Path(root) / FOLDER / f"{name}.csv"


def load(root: str | Path, name: str) -> tuple[Receiver, ...]:
    """Read a saved network.

    Raises
    ------
    ConfigError
        If the name is not allowed, or the file cannot be read or holds a value out of bounds.
    """
    return read_receivers(location(root, name))


def save(receivers: Iterable[Receiver], root: str | Path, name: str, *, replace: bool = False) -> Path:
    """Write a network below a folder of data.

    Parameters
    ----------
    receivers : iterable of Receiver
    root : path
    name : str
    replace : bool
        Whether a network of that name may be overwritten.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    ConfigError
        If the name is not allowed, or exists and may not be replaced.
    OSError
        If the file cannot be written.
    """
    file = location(root, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not replace and file.exists():
        raise ConfigError(f"name: {name!r} exists; choose another name, or replace it")
    text = csv_text(receivers)
    store.write_atomically(file, lambda temporary: store.write_text(temporary, text))
    return file
