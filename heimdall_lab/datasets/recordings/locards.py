"""Tables of aircraft messages that several sensors time-stamped: LocaRDS."""

import csv
import json
import logging
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
import pandas as pd
import xarray as xr
from pydantic import FailFast, FiniteFloat, Json, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from heimdall_lab.core.files import check_regular
from heimdall_lab.core.text import listed, quoted, shortened
from heimdall_lab.core.units import linear_to_db
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings import propagation
from heimdall_lab.datasets.recordings.common import (
    check_names,
    contract_numbers,
    warn_of_positions,
    with_position_std,
)

CENTRE_FREQUENCY_HZ = 1090e6  # ICAO Annex 10, volume IV: Mode S downlink

# Timestamps of Radarcape sensors come from GPS, in steps of 1/64 µs; what other types keep is no common time: Schäfer
# et al., "Bringing up OpenSky", IPSN 2014. How far the sensors of a message disagree about any one position says how
# well they keep it, antennas' positions included: over sets 1 to 4, 65 ns in the median of two degrees of freedom,
# where normal errors have 0.83 standard deviations.
GPS_TYPES = frozenset({"Radarcape"})
CLOCK_SIGMA_S = 80e-9
TIMESTAMP_SIGMA_S = 1 / 64e6

# The aircraft fly 215 m/s in the median, and a reported position is older than the message: over sets 1 to 4 fixes lie
# ahead of it by 0.16 s of flight in the median, 1.2 s at the worst twentieth and 0.48 s rms. Those are 100 m along the
# track, or as much as 70 m along each of two axes.
POSITION_STD_M = 70.0
# Geometric altitude comes from GNSS, in steps of 25 ft = 8 m, and is as old; what it counts from, ellipsoid or sea, is
# not always known. Barometric altitude counts from 1,013 hPa: over sets 1 to 4 it is higher by 105 ± 65 m.
GEOMETRIC_ALTITUDE_STD_M = 25.0
BAROMETRIC_ALTITUDE_STD_M = 150.0
_UNKNOWN = frozenset({"", "na", "nan"})  # what stands in the place of a number that is not known, in any case
_ATTRIBUTES = {
    "centre_frequency_hz": CENTRE_FREQUENCY_HZ,
    "sample_rate_hz": np.nan,
    "duration_s": np.nan,
    "clock_sigma_s": CLOCK_SIGMA_S,
    "nlos_ratio": 0.0,
    "nlos_excess_mean_s": 0.0,
    "max_clock_offset_s": 1e-6,
    "max_frequency_offset_hz": np.nan,
    "link_sigma_db": 6.0,  # antennas of sensors and aircraft, unlike in every direction
    "min_snr_db": np.nan,
    # Of aircraft that do not report it: anything up to 12 km, as even.
    "transmitter_altitude_m": 6000.0,
    "transmitter_altitude_sigma_m": 12000 / np.sqrt(12),
}

_TOLD = {"centre_frequency_hz", "sample_rate_hz", "duration_s"}  # attributes that tables of messages tell, or have none

ROW_FIELDS = ("id", "latitude", "longitude", "baroAltitude", "geoAltitude", "numMeasurements", "measurements")
SENSOR_FIELDS = ("serial", "latitude", "longitude", "height", "type")
_MEASUREMENTS = TypeAdapter(
    Annotated[list[Json[Annotated[list[tuple[int, FiniteFloat, FiniteFloat | None]], FailFast()]]], FailFast()]
)
_log = logging.getLogger(__name__)
_MOST_BYTES = 250_000_000  # of a table, which takes some four times as much memory
_MOST_CHARACTERS = 1_000_000  # of a line
_MOST_CELLS = 50_000_000  # messages times sensors
_EXPECTED = "write [[sensor, time of arrival in ns, signal strength], …]"


def read_locards(
    path: str | Path, sensors: str | Path, *, receiver_position_std_m: float | None = None, **attributes: Any
) -> xr.Dataset:
    """Read a table of messages as LocaRDS publishes them, without IQ: arrivals are what the sensors time-stamped.

    The signal strength of a message is an amplitude of arbitrary scale, so levels are comparable, but not calibrated.

    Parameters
    ----------
    path
        CSV file of messages: ``id``, ``latitude``, ``longitude``, ``baroAltitude``, ``geoAltitude`` (m),
        ``numMeasurements``, and ``measurements``, a JSON list of [sensor, time of arrival in ns, signal strength].
        Where the aircraft is may be unknown: empty, ``NA`` or ``nan`` is read as NaN.
    sensors
        CSV file of sensors: ``serial``, ``latitude``, ``longitude``, ``height`` (m), ``type``. Those at (0, 0) have no
        known position and are left out; the log names them, and doubtful positions.
    receiver_position_std_m
        Standard deviation of the sensors' positions along east and along north; 10 m by default.
    **attributes
        Attributes of the contract (`schema.ATTRIBUTES`) in the place of what is assumed, as ``clock_sigma_s``, or
        ``propagation`` and ``path_delay_sigma_s``: straight lines without any delay (`recordings.propagation`).

    Returns
    -------
    xr.Dataset
        Of the contract, with a ``sample`` for each message (coordinate: its ``id``) and a ``receiver`` for each sensor
        that received any of them. The aircraft's reported position is the truth; ``reported_altitude`` alone, by GNSS
        or else by barometer, is for estimators to use, with its standard deviation. Reported positions are older than
        the message, by 0.2 s in the median and 1 s at times: ``transmitter_position_std`` says how far off they are.
        All messages are of one ``recording``, since the sensors keep their clocks: ``recording_time`` counts from the
        first of them, by the first stamp of a sensor of common time, NaN where no such sensor received the message.

    Raises
    ------
    ValueError
        A file, column or row is missing or malformed; the message names file, row, field and value. Or an attribute is
        unknown, or what the table tells.

    Source
    ------
    Schäfer, Strohmeier, Leonardi and Lenders, "LocaRDS: A Localization Reference Data Set", Sensors 21 (2021).
    """
    check_names(attributes, _TOLD)
    stations, rows = _read_sensors(Path(sensors)), _read_table(Path(path), ROW_FIELDS)
    messages, received = _read_messages(Path(path), rows), _read_measurements(Path(path), rows)
    unplaced = sorted(set(received["serial"]) - set(stations.index))
    if unplaced:
        _log.warning(
            f"{listed(unplaced)}: no position in {Path(sensors).name}, or (0, 0), as unknown positions are; left out"
        )
    received = received[received["serial"].isin(stations.index)]
    if received.empty:
        raise ValueError(
            f"{Path(path).name}: no message was received by a sensor of known position; give the sensors' table that "
            "belongs to it, and at least one message"
        )
    sensors_heard = received["serial"].nunique()
    if len(rows) * sensors_heard > _MOST_CELLS:
        raise ValueError(
            f"{Path(path).name}: {len(rows):,} messages of {sensors_heard:,} sensors are more than {_MOST_CELLS:,} "
            "pairs; give fewer rows at a time"
        )
    arrivals = received.pivot(index="line", columns="serial").reindex(rows.index)
    dataset = _dataset(Path(path), messages, stations.loc[arrivals["arrival_ns"].columns], arrivals, attributes)
    return warn_of_positions(schema.check(with_position_std(dataset, receiver_position_std_m)))


def _dataset(
    file: Path, messages: pd.DataFrame, stations: pd.DataFrame, arrivals: pd.DataFrame, stated: dict[str, Any]
) -> xr.Dataset:
    """Label what was read; all truth but the positions is NaN."""
    variables = schema.unknown(len(messages), len(stations))
    for axis in ("latitude", "longitude", "altitude"):
        variables[f"receiver_{axis}"] = np.tile(stations[axis], (len(messages), 1))
        variables[f"transmitter_{axis}"] = messages[axis].to_numpy()
    for name in ("reported_altitude", "reported_altitude_std", "transmitter_position_std"):
        variables[name] = messages[name].to_numpy()
    variables["receiver_present"] = np.ones((len(messages), len(stations)), dtype=bool)
    variables["waveform"] = np.full(len(messages), "mode_s")
    variables["recording"] = np.zeros(len(messages), dtype=int)
    variables["recording_time"] = _times_s(arrivals["arrival_ns"].to_numpy(), stations["synchronised"].to_numpy())
    variables |= _measured_variables(
        arrivals["arrival_ns"].to_numpy(), arrivals["strength"].to_numpy(), stations["synchronised"].to_numpy()
    )
    coords = {
        "sample": ("sample", messages["id"].to_numpy(), {"long_name": "id of the message"}),
        "receiver": np.arange(len(stations)),
        "receiver_name": ("receiver", np.array([str(serial) for serial in stations.index])),
    }
    about = {"title": f"Aircraft messages of {file.name}", "source": f"LocaRDS: {file.name}"}
    attrs = about | _ATTRIBUTES | contract_numbers(stated, len(stations))
    attrs = propagation.with_paths(attrs, variables["receiver_latitude"][0], variables["receiver_longitude"][0])
    return schema.label(variables, coords, attrs)


def _times_s(arrival_ns: np.ndarray, synchronised: np.ndarray) -> np.ndarray:
    """Time (S,) s of each message since the first one, as sensors of common time stamp it first; NaN without them."""
    stamps_ns = np.where(synchronised, arrival_ns, np.nan)
    first_ns = np.fmin.reduce(stamps_ns, axis=1)
    return np.asarray((first_ns - np.fmin.reduce(first_ns)) / 1e9)


def _measured_variables(
    arrival_ns: np.ndarray, strength: np.ndarray, synchronised: np.ndarray
) -> dict[str, np.ndarray]:
    """Differences (S, R) against the strongest sensor of common time, whatever the scale of the strengths."""
    received = np.isfinite(arrival_ns)
    heard = received & synchronised
    level_db = 2 * linear_to_db(np.where(strength > 0, strength, np.nan))
    lowest_db = np.finfo(np.float64).min  # a known level is preferred to an unknown one, and this to silence
    reference = np.where(heard, np.nan_to_num(level_db, nan=lowest_db), -np.inf).argmax(axis=1)
    noise_s = np.where(received, TIMESTAMP_SIGMA_S, np.nan)
    is_reference = np.arange(arrival_ns.shape[1]) == reference[:, None]
    return {
        "signal_present": received,
        "rssi_dbm": level_db,
        "snr_db": np.full(received.shape, np.nan),
        # Differences of nanoseconds before they become seconds: a time of day has no digits left for them.
        "tdoa_s": (arrival_ns - np.take_along_axis(arrival_ns, reference[:, None], axis=1)) / 1e9,
        "fdoa_hz": np.full(received.shape, np.nan),
        "toa_std_s": noise_s,
        "tdoa_std_s": np.where(is_reference, 0.0, np.sqrt(2) * noise_s),
        "coherence": np.full(received.shape, np.nan),
        "heard": heard,
        "reference_receiver": reference,
    }


def _read_sensors(file: Path) -> pd.DataFrame:
    """Positions of sensors by serial, without unknown ones, and whether their timestamps are of a common time."""
    table = _read_table(file, SENSOR_FIELDS)
    serial = _numbers(file, table["serial"], whole=True)
    _check(file, table["serial"], ~serial.duplicated(), "{text} is there twice; keep one row a sensor")
    sensors = _positions(file, table).assign(synchronised=table["type"].isin(GPS_TYPES))
    placed = (sensors[["latitude", "longitude"]] != 0.0).any(axis=1)
    altitude = _numbers(file, table["height"][placed])
    return sensors[placed].assign(altitude=altitude).set_index(serial[placed])


def _read_messages(file: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """What the aircraft report of themselves, a row a message, NaN where it is not known."""
    geometric, barometric = (_known_numbers(file, rows[field]) for field in ("geoAltitude", "baroAltitude"))
    altitude_std_m = np.where(geometric.notna(), GEOMETRIC_ALTITUDE_STD_M, BAROMETRIC_ALTITUDE_STD_M)
    positions = _positions(file, rows, _known_numbers)
    return positions.assign(
        id=_numbers(file, rows["id"], whole=True),
        altitude=geometric,
        reported_altitude=geometric.fillna(barometric),
        reported_altitude_std=np.where(geometric.notna() | barometric.notna(), altitude_std_m, np.nan),
        transmitter_position_std=np.where(positions.notna().all(axis=1), POSITION_STD_M, np.nan),
    )


def _read_measurements(file: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Entries of all rows: line, serial of the sensor, arrival in ns, and signal strength (NaN where null)."""
    texts = rows["measurements"]
    try:
        entries = _MEASUREMENTS.validate_python(texts.tolist(), strict=True)
    except ValidationError as error:
        raise ValueError(_measurements_error(file, texts, error.errors()[0])) from error
    received = pd.DataFrame(chain.from_iterable(entries), columns=["serial", "arrival_ns", "strength"])
    held = pd.Series([len(parsed) for parsed in entries], texts.index, dtype=int)
    received["line"] = np.repeat(texts.index, held)
    serials = received.set_index("line")["serial"].rename("measurements")
    _check(
        file, serials, ~received.duplicated(["line", "serial"]), "holds sensor {text} twice; keep one entry a sensor"
    )
    counts = held.astype(str) + " entries, numMeasurements is " + rows["numMeasurements"]
    announced = _numbers(file, rows["numMeasurements"], whole=True)
    _check(file, counts.rename("measurements"), held == announced, "holds {text}; correct either")
    return received.astype({"arrival_ns": float, "strength": float})


def _measurements_error(file: Path, texts: pd.Series, refused: ErrorDetails) -> str:
    """Say which entry of which row was refused."""
    row, *entry = (int(index) for index in refused["loc"])
    text = texts.iloc[row]
    if refused["type"] == "json_invalid":
        problem = f"{quoted(text)} is no JSON ({shortened(refused['ctx']['error'])})"
    elif entry:
        problem = f"holds {shortened(json.dumps(from_json(text)[entry[0]]))}"
    else:
        problem = f"{quoted(text)} is no list"
    return f"{file.name}, row {texts.index[row]}: measurements {problem}; {_EXPECTED}"


def _read_table(file: Path, fields: tuple[str, ...]) -> pd.DataFrame:
    """Text of a CSV file by the line that each row ends on.

    Not by ``pandas.read_csv``, which completes a row that is too short with empty values.
    """
    try:
        check_regular(file, "table", _MOST_BYTES)
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(_lines(file, text))
            columns = next(lines, [])
            rows = [(lines.line_num, row) for row in lines if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read ({shortened(error)}); give a CSV file in UTF-8") from error
    if unusable := [field for field in fields if columns.count(field) != 1]:
        raise ValueError(
            f"{file.name}: column {quoted(unusable[0])} is missing or there twice; give a table with "
            f"{', '.join(fields)}"
        )
    for line, row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"{file.name}, row {line}: has not one value for each of the {len(columns)} columns; write as many, in "
                "quotes where they hold commas"
            )
    return pd.DataFrame([row for _, row in rows], [line for line, _ in rows], columns)


def _lines(file: Path, text: TextIO) -> Iterator[str]:
    """Lines of a file, of which none may fill the memory."""
    for number in count(1):
        line = text.readline(_MOST_CHARACTERS)
        if len(line) == _MOST_CHARACTERS:
            raise ValueError(
                f"{file.name}, row {number}: is of {_MOST_CHARACTERS:,} characters or more, as no message is; check "
                "that this is a table of messages, with a row for each"
            )
        if not line:
            return
        yield line


def _numbers(file: Path, texts: pd.Series, *, whole: bool = False) -> pd.Series:
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    accepted = numbers.abs() < (2**53 if whole else np.inf)  # beyond, floats are no longer all whole numbers
    if whole:
        accepted &= numbers == numbers.round()
    _check(file, texts, accepted, f"is {{quoted}}; write a {'whole' if whole else 'finite'} number")
    return numbers.astype(np.int64) if whole else numbers


def _known_numbers(file: Path, texts: pd.Series) -> pd.Series:
    """Numbers, NaN where the text says that there is none."""
    return _numbers(file, texts[~texts.str.strip().str.lower().isin(_UNKNOWN)]).reindex(texts.index)


def _positions(
    file: Path, table: pd.DataFrame, numbers: Callable[[Path, pd.Series], pd.Series] = _numbers
) -> pd.DataFrame:
    positions = pd.DataFrame({field: numbers(file, table[field]) for field in ("latitude", "longitude")})
    for field, limit in (("latitude", 90), ("longitude", 180)):
        _check(file, table[field], ~(positions[field].abs() > limit), f"{{text}} is outside ±{limit}; write degrees")
    return positions


def _check(file: Path, column: pd.Series, accepted: pd.Series, message: str) -> None:
    """Refuse the first value of a column that is not accepted."""
    if not accepted.all():
        row = int(accepted.to_numpy().argmin())
        said = message.format(text=shortened(column.iloc[row]), quoted=quoted(column.iloc[row]))
        raise ValueError(f"{file.name}, row {column.index[row]}: {column.name} {said}")
