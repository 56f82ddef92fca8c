"""Tables of aircraft messages that several sensors time-stamped: LocaRDS."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from heimdall_lab.core.units import linear_to_db
from heimdall_lab.datasets import schema

CENTRE_FREQUENCY_HZ = 1090e6  # ICAO Annex 10, volume IV: Mode S downlink

# Timestamps of Radarcape sensors come from GPS, in steps of 1/64 µs; what other types keep is no common time: Schäfer
# et al., "Bringing up OpenSky", IPSN 2014. How far the sensors of a message disagree about any one position says how
# well they keep it, antennas' positions included: over sets 1 to 4, 65 ns in the median of two degrees of freedom,
# where normal errors have 0.83 standard deviations.
GPS_TYPES = frozenset({"Radarcape"})
CLOCK_SIGMA_S = 80e-9
TIMESTAMP_SIGMA_S = 1 / 64e6
_ATTRIBUTES = {
    "centre_frequency_hz": CENTRE_FREQUENCY_HZ,
    "sample_rate_hz": np.nan,
    "duration_s": np.nan,
    "propagation": "line_of_sight",
    "clock_sigma_s": CLOCK_SIGMA_S,
    "path_delay_sigma_s": 0.0,
    "nlos_ratio": 0.0,
    "nlos_excess_mean_s": 0.0,
    "max_clock_offset_s": 1e-6,
    "max_frequency_offset_hz": np.nan,
    "link_sigma_db": 6.0,  # antennas of sensors and aircraft, unlike in every direction
    "min_snr_db": np.nan,
}

_ROW_FIELDS = ("id", "latitude", "longitude", "baroAltitude", "geoAltitude", "numMeasurements", "measurements")
_SENSOR_FIELDS = ("serial", "latitude", "longitude", "height", "type")
_EXPECTED = "write [[sensor, time of arrival in ns, signal strength], …]"


@dataclass(frozen=True)
class _Sensor:
    """Position of a sensor, and whether its timestamps are of a common time."""

    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    synchronised: bool


@dataclass(frozen=True)
class _Message:
    """One row: what the aircraft reports of itself, and who received it when, by serial: (ns, signal strength)."""

    number: int
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    reported_altitude_m: float
    received: dict[int, tuple[float, float]]


def read_locards(path: str | Path, sensors: str | Path) -> xr.Dataset:
    """Read a table of messages as LocaRDS publishes them, without IQ: arrivals are what the sensors time-stamped.

    The signal strength of a message is an amplitude of arbitrary scale, so levels are comparable, but not calibrated.

    Parameters
    ----------
    path
        CSV file of messages: ``id``, ``latitude``, ``longitude``, ``baroAltitude``, ``geoAltitude`` (m),
        ``numMeasurements``, and ``measurements``, a JSON list of [sensor, time of arrival in ns, signal strength].
    sensors
        CSV file of sensors: ``serial``, ``latitude``, ``longitude``, ``height`` (m), ``type``. Those at (0, 0) have no
        known position and are left out.

    Returns
    -------
    xr.Dataset
        Of the contract, with a ``sample`` for each message (coordinate: its ``id``) and a ``receiver`` for each sensor
        that received any of them. The aircraft's reported position is the truth; ``reported_altitude`` alone, by GNSS
        or else by barometer, is for estimators to use. Reported positions are older than the
        message, by 0.2 s in the median and 1 s at times: the true position is known to some 50 m along the track.

    Raises
    ------
    ValueError
        A file, column or row is missing or malformed; the message names file, row, field and value.

    Source
    ------
    Schäfer, Strohmeier, Leonardi and Lenders, "LocaRDS: A Localization Reference Data Set", Sensors 21 (2021).
    """
    stations = _read_sensors(Path(sensors))
    messages = _read_messages(Path(path), stations)
    return _dataset(Path(path), messages, stations)


def _dataset(file: Path, messages: list[_Message], stations: dict[int, _Sensor]) -> xr.Dataset:
    """Label what was read."""
    serials = sorted({serial for message in messages for serial in message.received if serial in stations})
    variables = _positions(messages, [stations[serial] for serial in serials])
    synchronised = np.array([stations[serial].synchronised for serial in serials])
    variables |= _measured_variables(*_arrivals(messages, serials), synchronised)
    coords = {
        "sample": ("sample", np.array([message.number for message in messages]), {"long_name": "id of the message"}),
        "receiver": np.arange(len(serials)),
        "receiver_name": ("receiver", np.array([str(serial) for serial in serials])),
    }
    about = {"title": f"Aircraft messages of {file.name}", "source": f"LocaRDS: {file.name}"}
    return schema.check(schema.label(variables, coords, about | _ATTRIBUTES))


def _positions(messages: list[_Message], stations: list[_Sensor]) -> dict[str, np.ndarray]:
    """Positions of sensors and aircraft; all other truth is NaN."""
    variables = schema.unknown(len(messages), len(stations))
    for axis in ("latitude_deg", "longitude_deg", "altitude_m"):
        name = axis.rpartition("_")[0]
        here = np.array([getattr(station, axis) for station in stations])
        variables[f"receiver_{name}"] = np.tile(here, (len(messages), 1))
        variables[f"transmitter_{name}"] = np.array([getattr(message, axis) for message in messages])
    variables["reported_altitude"] = np.array([message.reported_altitude_m for message in messages])
    variables["receiver_present"] = np.ones((len(messages), len(stations)), dtype=bool)
    variables["waveform"] = np.full(len(messages), "mode_s")
    return variables


def _arrivals(messages: list[_Message], serials: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Arrivals in ns and signal strengths of the sensors, (S, R) each, NaN where not received."""
    column = {serial: index for index, serial in enumerate(serials)}
    shape = len(messages), len(serials)
    arrival_ns, strength = np.full(shape, np.nan), np.full(shape, np.nan)
    for row, message in enumerate(messages):
        for serial in message.received.keys() & column.keys():
            arrival_ns[row, column[serial]], strength[row, column[serial]] = message.received[serial]
    return arrival_ns, strength


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
        "reference": reference,
    }


def _read_sensors(file: Path) -> dict[int, _Sensor]:
    """Sensors by serial, without those of unknown position."""
    stations = {}
    for line, row in _table_rows(file, _SENSOR_FIELDS):
        serial = int(_number(file, line, row, "serial", whole=True))
        latitude, longitude = _position(file, line, row)
        if serial in stations:
            raise ValueError(f"{file.name}, row {line}: serial {serial} is there twice; keep one row a sensor")
        if (latitude, longitude) != (0.0, 0.0):
            altitude = _number(file, line, row, "height")
            stations[serial] = _Sensor(latitude, longitude, altitude, row["type"] in GPS_TYPES)
    return stations


def _read_messages(file: Path, stations: dict[int, _Sensor]) -> list[_Message]:
    messages = []
    for line, row in _table_rows(file, _ROW_FIELDS):
        altitudes = [
            _number(file, line, row, field) if row[field].strip() else np.nan
            for field in ("geoAltitude", "baroAltitude")
        ]
        number = int(_number(file, line, row, "id", whole=True))
        reported = next((altitude for altitude in altitudes if np.isfinite(altitude)), np.nan)
        messages.append(
            _Message(number, *_position(file, line, row), altitudes[0], reported, _parse_measurements(file, line, row))
        )
    if not any(message.received.keys() & stations.keys() for message in messages):
        raise ValueError(
            f"{file.name}: no message was received by a sensor of known position; give the sensors' table that belongs "
            "to it, and at least one message"
        )
    return messages


def _parse_measurements(file: Path, line: int, row: dict[str, str]) -> dict[int, tuple[float, float]]:
    """Arrival in ns and signal strength (NaN where null) of each sensor."""
    text, where = row["measurements"], f"{file.name}, row {line}: measurements"
    try:
        measurements = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} {text[:60]!r} is no JSON ({error.msg}); {_EXPECTED}") from error
    if not isinstance(measurements, list):
        raise ValueError(f"{where} {text[:60]!r} is no list; {_EXPECTED}")
    received: dict[int, tuple[float, float]] = {}
    for entry in measurements:
        if not (isinstance(entry, list) and len(entry) == 3 and _is_measurement(*entry)):
            raise ValueError(f"{where} holds {json.dumps(entry)[:60]}; {_EXPECTED}")
        serial, arrival_ns, strength = entry
        if serial in received:
            raise ValueError(f"{where} holds sensor {serial} twice; keep one entry a sensor")
        received[serial] = float(arrival_ns), np.nan if strength is None else float(strength)
    announced = _number(file, line, row, "numMeasurements", whole=True)
    if announced != len(received):
        raise ValueError(f"{where} holds {len(received)} entries, numMeasurements is {announced:g}; correct either")
    return received


def _is_measurement(serial: object, arrival_ns: object, strength: object) -> bool:
    numbers = all(
        isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
        for value in (serial, arrival_ns, 0 if strength is None else strength)
    )
    return numbers and isinstance(serial, int)


def _table_rows(file: Path, fields: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with the line that each ends on, once its columns are checked."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); give a CSV file in UTF-8") from error
    table = csv.DictReader(text.splitlines())
    if missing := [field for field in fields if field not in (table.fieldnames or [])]:
        raise ValueError(f"{file.name}: column {missing[0]!r} is missing; give a table with {', '.join(fields)}")
    for row in table:
        if None in row or None in row.values():
            raise ValueError(
                f"{file.name}, row {table.line_num}: has not one value for each of the {len(table.fieldnames or [])} "
                "columns; write as many, in quotes where they hold commas"
            )
        yield table.line_num, row


def _number(file: Path, line: int, row: dict[str, str], field: str, *, whole: bool = False) -> float:
    try:
        value = float(row[field])
    except ValueError:
        value = np.nan
    if not np.isfinite(value) or (whole and value != int(value)):
        kind = "whole" if whole else "finite"
        raise ValueError(f"{file.name}, row {line}: {field} is {row[field]!r}; write a {kind} number")
    return value


def _position(file: Path, line: int, row: dict[str, str]) -> tuple[float, float]:
    latitude, longitude = (_number(file, line, row, field) for field in ("latitude", "longitude"))
    for field, value, limit in (("latitude", latitude, 90), ("longitude", longitude, 180)):
        if abs(value) > limit:
            raise ValueError(f"{file.name}, row {line}: {field} {value:g} is outside ±{limit}; write degrees")
    return latitude, longitude
