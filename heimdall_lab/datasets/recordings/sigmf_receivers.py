"""Receivers of SigMF recordings: their channels, places, and what annotations say of every capture."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from heimdall_lab.core.receivers import Receiver
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings.common import as_numbers, position_std_m
from heimdall_lab.datasets.recordings.sigmf_files import Channel, Recording
from heimdall_lab.datasets.recordings.sigmf_stored import SigmfError
from heimdall_lab.datasets.recordings.sigmf_time import Span, Stream

_POSITION = ("longitude", "latitude", "altitude")  # the order of GeoJSON


def is_nowhere(stream: Stream, stations: dict[str, Receiver]) -> bool:
    """Whether a receiver is said to stand at (0, 0)."""
    station, capture = _station(stream, stations), stream.segment(0).capture
    point = stream.channel.geolocation or capture.geolocation or stream.recording.about.geolocation
    if station is not None:
        return station.latitude_deg == 0 == station.longitude_deg
    return point is not None and point.coordinates[:2] == [0, 0]


def channels_of(recording: Recording) -> list[Channel]:
    """One receiver a channel, named as the file says or after it."""
    count, channels = recording.about.num_channels, recording.about.channels
    if channels is None:
        names = [recording.name] if count == 1 else [f"{recording.name}-{column}" for column in range(count)]
        return [Channel(name=name) for name in names]
    if len(channels) != count:
        raise SigmfError(f"{recording.file}: heimdall:channels names {len(channels)} of {count} channels; name each")
    return channels


def positions(streams: Sequence[Stream], spans: Sequence[Span], stations: dict[str, Receiver]) -> dict[str, np.ndarray]:
    """Positions of the receivers in every span, (K, R) each."""
    place = np.empty((len(spans), len(streams), 3))
    for index, stream in enumerate(streams):
        channel, recording = stream.channel, stream.recording
        station = _station(stream, stations)
        for number, span in enumerate(spans):
            capture = span.captures[index]
            segment = stream.segment(capture)
            point = channel.geolocation or segment.capture.geolocation or recording.about.geolocation
            if station is not None:
                place[number, index] = station.longitude_deg, station.latitude_deg, station.altitude_m
            elif point is not None:
                place[number, index] = [*point.coordinates, 0.0][:3]
            elif segment.variables.get("receiver_present") is False:
                place[number, index] = np.nan
            else:
                raise SigmfError(
                    f"{recording.file}: missing geolocation of {quoted(channel.name)} in capture {capture}; give "
                    "receivers, a CSV file with a row of that name, or add core:geolocation"
                )
    return {f"receiver_{name}": place[..., axis] for axis, name in enumerate(_POSITION)}


def _station(stream: Stream, stations: dict[str, Receiver]) -> Receiver | None:
    """Row of the table of receivers that a channel has by its own name or by that of its recording."""
    return stations.get(stream.channel.name, stations.get(stream.recording.name))


def position_std(streams: Sequence[Stream], captures: int, stations: dict[str, Receiver]) -> dict[str, np.ndarray]:
    """How well positions are known, (K, R), where the table of receivers says it."""
    stated_m = position_std_m([_station(stream, stations) for stream in streams])
    return {} if stated_m is None else {"receiver_position_std": np.tile(stated_m, (captures, 1))}


def annotated_variables(known: Sequence[Sequence[dict[str, Any]]]) -> dict[str, np.ndarray]:
    """Variables that the annotations state of every capture and receiver, NaN where they state none."""
    captures, receivers = len(known), len(known[0])
    variables = schema.unknown(captures, receivers)
    variables["receiver_present"] = np.ones((captures, receivers), dtype=bool)
    variables["waveform"] = np.full(captures, "unknown")
    for name in sorted({name for row in known for stated in row for name in stated} - {"iq_full_scale"}):
        if name not in schema.VARIABLES or name == "iq" or name in (f"receiver_{axis}" for axis in _POSITION):
            raise ValueError(f"heimdall:variables: {quoted(name)} is no variable of the contract; leave it out")
        variables[name] = _variable_values(name, known)
    return variables


def _variable_values(name: str, known: Sequence[Sequence[dict[str, Any]]]) -> np.ndarray:
    """Values of one variable, (K, R, …) or (K, …)."""
    variable = schema.VARIABLES[name]
    kind = {"f": float, "b": bool, "i": int}.get(variable.kinds, str)
    default = {"receiver_present": True, "waveform": "unknown"}.get(name, np.nan)
    rows = [[stated.get(name, default) for stated in row] for row in known]
    if "receiver" not in variable.dims:
        for row, stated in zip(rows, known, strict=True):
            given = [receiver[name] for receiver in stated if name in receiver]
            if any(value != given[0] for value in given):
                raise ValueError(f"heimdall:variables: {name}: recordings disagree on it; correct them")
            row[:] = given[:1] or [default]
    if kind is not float and any(type(value) is not kind for row in rows for value in row):
        raise ValueError(f"heimdall:variables: {name}: give {kind.__name__} in every capture, or leave it out")
    values = as_numbers(f"heimdall:variables: {name}", rows) if kind is float else np.array(rows)
    return values if "receiver" in variable.dims else values[:, 0]
