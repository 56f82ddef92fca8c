"""SigMF recordings of several receivers as one dataset."""

import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import hypot, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core.receivers import Receiver, read_receivers
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings import propagation, stretches
from heimdall_lab.datasets.recordings.common import (
    ATTRIBUTES,
    as_numbers,
    check_names,
    contract_numbers,
    of_kept,
    position_std_m,
    transmitter_position,
    warn_of_positions,
    with_position_std,
)
from heimdall_lab.datasets.recordings.sigmf_files import (
    COLLECTION,
    DATA,
    META,
    Channel,
    Recording,
    SigmfError,
    collection_files,
    common_value,
    load_recording,
)
from heimdall_lab.datasets.recordings.sigmf_time import (
    Span,
    Stream,
    cut_windows,
    recordings_of,
    spans_by_capture,
    spans_of,
    unusable,
    window_length,
)

# Where neither a file nor the caller says otherwise: receivers disciplined by GNSS. Of paths see `propagation`.
DEFAULTS: dict[str, Any] = {
    "centre_frequency_hz": np.nan,
    "clock_sigma_s": 50e-9,
    "nlos_ratio": 0.0,
    "nlos_excess_mean_s": 0.0,
    "max_frequency_offset_hz": 50.0,
    "link_sigma_db": np.nan,
    "min_snr_db": 0.0,
}
_CLOCK_SIGMAS = 7.0  # a default max_clock_offset_s is so many times the largest clock_sigma_s
_POSITION = ("longitude", "latitude", "altitude")  # the order of GeoJSON


def read_sigmf(
    path: str | Path | Iterable[str | Path],
    *,
    receivers: str | Path | None = None,
    window_s: float | None = None,
    at: float | Sequence[float] | None = None,
    transmitter: Sequence[float] | None = None,
    strict: bool = False,
    receiver_position_std_m: float | None = None,
    **attributes: Any,
) -> xr.Dataset:
    """Read simultaneous SigMF recordings of one network onto one time axis.

    Every channel of every recording is a receiver, and capture k of all recordings makes sample k of the dataset.

    *Time.* Where captures have ``core:datetime``, they are cut to the time that all of them cover. Starts that differ
    by a whole number of samples, to within the last digit of the stamps, leave the samples as they are; otherwise the
    later samples are interpolated (windowed sinc, −80 dB within ±0.4 of the sample rate) and quantised again. Without
    stamps, the first samples of a capture are taken to be simultaneous. Receivers' clock errors are for the caller to
    state; by default they are 50 ns and, where stamps align several recordings, what the last digit of the coarsest one
    leaves open: with milliseconds, 0.29 ms or 87 km. Give ``clock_sigma_s`` where the stamps are worth more or less.

    *Faults.* Where samples were lost, captures of the receivers do not begin together: the stretches of time that all
    cover are used, by their stamps, and nothing is filled in. A receiver without stamps where others have them, at
    (0, 0), or which takes more than half of the time that the others have in common is left out, if three remain: the
    log and the attribute ``left_out`` say why.

    *Values.* 8 and 16 bits are kept as they are (unsigned ones minus half their range); 32 bits and floats are
    quantised to int16, each window by its own peak. Half the range of a fixed-point format, or 1.0 of a float, counts
    as 1 √mW. Real samples have imaginary part 0: nothing is lost, but their spectrum has two sides.

    *Place.* ``core:geolocation`` of the capture, else of the whole recording; altitude is 0 where missing. Positions
    are good to 10 m unless the table of receivers, ``receiver_position_std`` in the files or the argument says it, and
    doubtful ones are named in the log. Channels of one recording stand at one place, unless `receivers` or the field
    ``heimdall:channels`` (a list of objects with ``name`` and ``geolocation``) tells them apart.

    *Truth.* An annotation's field ``heimdall:variables`` may hold any variable of the contract, such as
    ``transmitter_latitude``, for the capture that it lies in; unknown truth is NaN. All other annotations are in the
    attribute ``annotations``, JSON for ``pandas.DataFrame(json.loads(...))``, where samples count from the beginning of
    the recording's file.

    Parameters
    ----------
    path
        A ``.sigmf-collection``, one recording (``.sigmf-meta`` or ``.sigmf-data``), or several. Only samples of windows
        are read into memory.
    receivers
        CSV file with the columns ``name``, ``latitude_deg``, ``longitude_deg`` and, optionally, ``altitude_m`` and
        ``position_std_m``, the standard deviation of the position along east and along north; goes before the positions
        in the files. Names are those of the recordings' files without extension, for one of several channels with
        ``-0``, ``-1``, … appended, or those in ``heimdall:channels``.
    window_s
        Length in seconds of consecutive windows to cut each capture into; what is left over is dropped. Without it, a
        capture is one window, and all must be equally long; stretches between gaps are cut so that little is left over,
        and windows of more than 2²² samples in equal parts.
    at
        Seconds from the beginning of the first capture at which windows begin; by default they follow each other.
    transmitter
        True position if known, (latitude, longitude) or (latitude, longitude, altitude) in degrees and metres.
    strict
        Whether a receiver that cannot be used is an error, and so are captures that do not begin together.
    receiver_position_std_m
        Standard deviation, along east and along north, of positions that no table or file says it of; 10 m by default.
    **attributes
        Attributes of the contract (`schema.ATTRIBUTES`), in the place of what the files hold or of ``DEFAULTS``;
        ``max_clock_offset_s`` is seven times ``clock_sigma_s`` by default, ``propagation`` and
        ``path_delay_sigma_s`` follow from the frequency and from how far the receivers are apart
        (`recordings.propagation`).

    Returns
    -------
    xr.Dataset
        Of the contract, with the coordinate ``start_time`` (sample), UTC, where captures have stamps.

    Raises
    ------
    SigmfError
        A file is missing, malformed, truncated, empty or not that of its hash, lies outside of the folder, or has no
        geolocation; recordings differ in sample rate, frequency or captures, or do not overlap.
    ValueError
        An argument is not accepted.

    Source
    ------
    SigMF specification 1.2.6, sigmf.org.
    """
    position = transmitter_position(transmitter)
    check_names(attributes)
    stations = {} if receivers is None else {receiver.name: receiver for receiver in read_receivers(receivers)}
    files = [Path(file) for file in ([path] if isinstance(path, str | Path) else path)]
    if not files:
        raise ValueError("path: is empty; give a collection or recordings")
    try:
        times_s = stretches.checked_at(at, window_s)
        recordings = [load_recording(file) for file in _meta_files(files)]
        streams, left_out = _usable_streams(recordings, stations, attributes, strict)
        stretches.say_left_out(left_out)
        given = of_kept(attributes, sorted(streams), sum(len(_channels(recording)) for recording in recordings))
        dataset = _dataset([streams[index] for index in sorted(streams)], stations, (window_s, times_s), given, strict)
        if left_out:
            dataset.attrs["left_out"] = json.dumps(left_out)
        if transmitter is not None:
            for name, value in zip(("latitude", "longitude", "altitude"), position, strict=True):
                dataset[f"transmitter_{name}"][:] = value
        return warn_of_positions(schema.check(with_position_std(dataset, receiver_position_std_m)))
    except SigmfError:
        raise
    except (ValueError, OverflowError) as error:
        raise SigmfError(f"{files[0]}: {error}") from error


def _meta_files(files: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for file in files:
        if file.suffix == COLLECTION:
            found += collection_files(file)
        elif file.suffix in (META, DATA):
            found.append(file.with_suffix(META))
        else:
            raise SigmfError(f"{file}: is no SigMF file; give a {COLLECTION} or {META}, and unpack archives with tar")
    for file in found:
        if found.count(file) > 1:
            raise SigmfError(f"{file}: is given twice; give one recording a receiver")
    return found


def _usable_streams(
    recordings: Sequence[Recording], stations: dict[str, Receiver], given: dict[str, Any], strict: bool
) -> tuple[dict[int, Stream], dict[str, str]]:
    """Receivers that can be used, by their number, and why others cannot, by name."""
    streams = [
        Stream(recording, column, channel)
        for recording in recordings
        for column, channel in enumerate(_channels(recording))
    ]
    if strict or len(streams) <= stretches.FEWEST:
        return dict(enumerate(streams)), {}
    nowhere = [index for index, stream in enumerate(streams) if _is_nowhere(stream, stations)]
    left_out = dict.fromkeys(nowhere, "it stands at (0, 0), as unknown positions do; correct that")
    rates = [recording.about.sample_rate for recording in recordings]
    rate_hz = given.get("sample_rate_hz") or common_value(recordings, rates, "core:sample_rate")
    placed = [index for index in range(len(streams)) if index not in left_out]
    if rate_hz and len(placed) > stretches.FEWEST:
        late = unusable([streams[index] for index in placed], float(rate_hz))
        left_out |= {placed[index]: reason for index, reason in late.items()}
    if len(streams) - len(left_out) < stretches.FEWEST:
        return dict(enumerate(streams)), {}
    kept = {index: stream for index, stream in enumerate(streams) if index not in left_out}
    return kept, {streams[index].channel.name: reason for index, reason in left_out.items()}


def _is_nowhere(stream: Stream, stations: dict[str, Receiver]) -> bool:
    """Whether a receiver is said to stand at (0, 0)."""
    station, capture = _station(stream, stations), stream.segment(0).capture
    point = stream.channel.geolocation or capture.geolocation or stream.recording.about.geolocation
    if station is not None:
        return station.latitude_deg == 0 == station.longitude_deg
    return point is not None and point.coordinates[:2] == [0, 0]


def _windows(
    streams: Sequence[Stream], rate_hz: float, cut: tuple[float | None, list[float] | None], strict: bool
) -> tuple[list[Span], int]:
    """Spans that windows of one length, returned with them, are cut out of, of a length and at times that are given."""
    window_s, times_s = cut
    spans = spans_by_capture(streams, rate_hz) if strict else spans_of(streams, rate_hz)
    by_time = any(len(set(span.captures)) > 1 for span in spans)
    lengths = [span.length for span in spans]
    by_best = window_s is None and by_time
    window = stretches.best_length(lengths) if by_best else window_length(spans, window_s, rate_hz)
    starts_s = [float((span.start_s or 0) - (spans[0].start_s or 0)) for span in spans]
    placed = stretches.place_windows(starts_s, lengths, window, rate_hz, times_s)
    return [spans[each.stretch].cut(each.first, each.count * window, rate_hz) for each in placed], window


def _dataset(
    streams: Sequence[Stream],
    stations: dict[str, Receiver],
    cut: tuple[float | None, list[float] | None],
    given: dict[str, Any],
    strict: bool,
) -> xr.Dataset:
    """Label what was read; spans, K, are cut into samples, S."""
    recordings = list({id(stream.recording): stream.recording for stream in streams}.values())
    if strict or any(segment.start_s is None for recording in recordings for segment in recording.segments):
        common_value(recordings, [len(recording.segments) for recording in recordings], "number of captures")
    attrs = _attributes(recordings, streams, given)
    rate_hz = attrs["sample_rate_hz"]
    spans, window = _windows(streams, rate_hz, cut, strict)
    attrs["duration_s"] = window / rate_hz
    counts = [span.length // window for span in spans]
    known = _annotated_variables([[segment.variables for segment in span.segments(streams)] for span in spans])
    known |= _positions(streams, spans, stations) | _position_std(streams, len(spans), stations)
    attrs = propagation.with_paths(attrs, known["receiver_latitude"], known["receiver_longitude"])
    variables = {name: np.repeat(values, counts, axis=0) for name, values in known.items()}
    uncut = [all(len(segment.samples) == window for segment in span.segments(streams)) for span in spans]
    # The common offset of all arrivals counts from the first sample of the capture.
    variables["emission_time"][~np.repeat(uncut, counts)] = np.nan
    variables["iq"] = np.empty((sum(counts), len(streams), 2, window), dtype=np.int16)
    variables["iq_full_scale"] = np.empty((sum(counts), len(streams)))
    starts = np.cumsum([0, *counts])
    for number, (span, count) in enumerate(zip(spans, counts, strict=True)):
        rows = slice(starts[number], starts[number + 1])
        for index, stream in enumerate(streams):
            iq, full_scale = cut_windows(stream, span.captures[index], span.begin[index], window, count)
            variables["iq"][rows, index], variables["iq_full_scale"][rows, index] = iq, full_scale
    if not all(uncut) and sum(counts) > 1:
        variables |= recordings_of(spans, counts, window / rate_hz, rate_hz)
    labels = [span.segments(streams)[0].capture.sample for span in spans]
    coords = {
        "sample": labels if all(uncut) and None not in labels else np.arange(sum(counts)),
        "receiver": [index if s.channel.label is None else s.channel.label for index, s in enumerate(streams)],
        "receiver_name": ("receiver", np.array([stream.channel.name for stream in streams])),
        "component": ["i", "q"],
        "time": np.arange(window) / rate_hz,
        **_start_times(spans, counts, window / Fraction(rate_hz)),
    }
    dataset = schema.label(variables, coords, attrs)
    dataset["sample"].attrs["long_name"] = "index of the window"
    return dataset


def _start_times(spans: Sequence[Span], counts: Sequence[int], window_s: Fraction) -> dict[str, object]:
    """Return the coordinate of the time of every sample's first value, if all captures have stamps."""
    starts = [
        np.datetime64(round((span.start_s + n * window_s) * 10**9), "ns")
        for span, count in zip(spans, counts, strict=True)
        if span.start_s is not None
        for n in range(count)
    ]
    if len(starts) < sum(counts):
        return {}
    return {"start_time": ("sample", starts, {"long_name": "UTC of the first value in time"})}


def _channels(recording: Recording) -> list[Channel]:
    """One receiver a channel, named as the file says or after it."""
    count, channels = recording.about.num_channels, recording.about.channels
    if channels is None:
        names = [recording.name] if count == 1 else [f"{recording.name}-{column}" for column in range(count)]
        return [Channel(name=name) for name in names]
    if len(channels) != count:
        raise SigmfError(f"{recording.file}: heimdall:channels names {len(channels)} of {count} channels; name each")
    return channels


def _positions(
    streams: Sequence[Stream], spans: Sequence[Span], stations: dict[str, Receiver]
) -> dict[str, np.ndarray]:
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
                    f"{recording.file}: missing geolocation of {channel.name!r} in capture {capture}; give receivers, "
                    "a CSV file with a row of that name, or add core:geolocation"
                )
    return {f"receiver_{name}": place[..., axis] for axis, name in enumerate(_POSITION)}


def _station(stream: Stream, stations: dict[str, Receiver]) -> Receiver | None:
    """Row of the table of receivers that a channel has by its own name or by that of its recording."""
    return stations.get(stream.channel.name, stations.get(stream.recording.name))


def _position_std(streams: Sequence[Stream], captures: int, stations: dict[str, Receiver]) -> dict[str, np.ndarray]:
    """How well positions are known, (K, R), where the table of receivers says it."""
    stated_m = position_std_m([_station(stream, stations) for stream in streams])
    return {} if stated_m is None else {"receiver_position_std": np.tile(stated_m, (captures, 1))}


def _annotated_variables(known: Sequence[Sequence[dict[str, Any]]]) -> dict[str, np.ndarray]:
    """Variables that the annotations state of every capture and receiver, NaN where they state none."""
    captures, receivers = len(known), len(known[0])
    variables = schema.unknown(captures, receivers)
    variables["receiver_present"] = np.ones((captures, receivers), dtype=bool)
    variables["waveform"] = np.full(captures, "unknown")
    for name in sorted({name for row in known for stated in row for name in stated} - {"iq_full_scale"}):
        if name not in schema.VARIABLES or name == "iq" or name in (f"receiver_{axis}" for axis in _POSITION):
            raise ValueError(f"heimdall:variables: {name!r} is no variable of the contract; leave it out")
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


def _attributes(recordings: Sequence[Recording], streams: Sequence[Stream], given: dict[str, Any]) -> dict[str, Any]:
    """Attributes of the dataset: those given go before those of the files, and these before the defaults."""
    stated = [recording.about.attributes for recording in recordings]
    held: dict[str, Any] = {}
    for name in dict.fromkeys(name for attributes in stated for name in attributes):
        values = [attributes.get(name) for attributes in stated]
        if name in ATTRIBUTES:
            common_value(recordings, values, f"heimdall:attributes.{name}")
        if all(value == values[0] for value in values):
            held[name] = _from_json(values[0])
    for name in streams[0].channel.attributes:
        held[name] = [_from_json(stream.channel.attributes.get(name)) for stream in streams]
    tuned = [
        common_value([r] * len(r.segments), [s.capture.frequency for s in r.segments], "core:frequency")
        for r in recordings
    ]
    core = {
        "centre_frequency_hz": common_value(recordings, tuned, "core:frequency"),
        "sample_rate_hz": common_value(recordings, [r.about.sample_rate for r in recordings], "core:sample_rate"),
    }
    held |= {name: value for name, value in core.items() if value is not None}
    remarks = [{"recording": r.name, **remark} for r in recordings for remark in r.annotations]
    if remarks:
        held["annotations"] = json.dumps(remarks)
    if not any(stated):
        held["source"] = "SigMF: " + ", ".join(recording.file.name for recording in recordings)
    known = held | given
    attrs = DEFAULTS | known
    if "sample_rate_hz" not in attrs:
        raise SigmfError(f"{recordings[0].file}: core:sample_rate is missing; give sample_rate_hz")
    attrs = contract_numbers(attrs, len(streams))
    if "clock_sigma_s" not in known and len(recordings) > 1:  # channels of one recording have their clock in common
        attrs["clock_sigma_s"] = hypot(attrs["clock_sigma_s"], _stamp_sigma_s(recordings, attrs["sample_rate_hz"]))
    return {"max_clock_offset_s": _CLOCK_SIGMAS * float(np.max(attrs["clock_sigma_s"]))} | attrs


def _stamp_sigma_s(recordings: Sequence[Recording], rate_hz: float) -> float:
    """Standard deviation of what the coarsest stamp leaves open: any instant within its last digit is as likely.

    To a whole sample, a start moves by the worth of that digit or half a sample at most, as evenly.
    """
    digit_s = max(float(segment.resolution_s) for recording in recordings for segment in recording.segments)
    return hypot(digit_s / sqrt(12), min(digit_s, 0.5 / rate_hz) / sqrt(3))


def _from_json(value: Any) -> Any:
    """Values of JSON, where null is NaN and infinity is text."""
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return {None: np.nan, "Infinity": np.inf, "-Infinity": -np.inf}.get(value, value)
