"""SigMF recordings of several receivers as one dataset."""

import json
from collections import Counter
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
    transmitter_position,
    warn_of_positions,
    with_position_std,
)
from heimdall_lab.datasets.recordings.references import References, with_references
from heimdall_lab.datasets.recordings.sigmf_bands import channelised
from heimdall_lab.datasets.recordings.sigmf_cutting import cut_windows
from heimdall_lab.datasets.recordings.sigmf_emissions import (
    emission_spans,
    emission_variables,
    emissions_of,
    stated_recordings,
    timed_by_count,
    window_of_emissions,
)
from heimdall_lab.datasets.recordings.sigmf_files import (
    Recording,
    collection_files,
    common_value,
    load_recording,
)
from heimdall_lab.datasets.recordings.sigmf_receivers import (
    annotated_variables,
    channels_of,
    is_nowhere,
    position_std,
    positions,
)
from heimdall_lab.datasets.recordings.sigmf_stored import (
    ARCHIVE,
    COLLECTION,
    META,
    MOST_FILES,
    UNPACKED_LIMIT_BYTES,
    Archived,
    SigmfError,
    distinct_names,
    is_archive,
    opened_archives,
    with_extension,
)
from heimdall_lab.datasets.recordings.sigmf_time import (
    Span,
    Stream,
    common_centre_hz,
    common_rate_hz,
    recordings_of,
    spans_by_capture,
    spans_of,
    unusable,
    usual,
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


def read_sigmf(
    path: str | Path | Iterable[str | Path],
    *,
    receivers: str | Path | None = None,
    window_s: float | None = None,
    at: float | Sequence[float] | None = None,
    transmitter: Sequence[float] | None = None,
    references: References | None = None,
    bands: bool = True,
    strict: bool = False,
    receiver_position_std_m: float | None = None,
    unpacked_limit_bytes: int = UNPACKED_LIMIT_BYTES,
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

    *Alike.* Sample rates that differ by up to 1,000 ppm, as counted ones do, are brought to that which most recordings
    have, and centres that differ by up to 0.4 of the sample rate to that which most captures are tuned to: those others
    are interpolated, or shifted, without what no longer lies in their band, and quantised again. Stating
    ``sample_rate_hz`` or ``centre_frequency_hz`` says that all have these.

    *Faults.* Where samples were lost, captures of the receivers do not begin together: the stretches of time that all
    cover are used, by their stamps, and nothing is filled in. A receiver without stamps where others have them, at
    (0, 0), or which takes more than half of the time that the others have in common is left out, if three remain: the
    log and the attribute ``left_out`` say why.

    *Values.* 8 and 16 bits are kept as they are: unsigned ones of 16 bits minus half their range, bytes as twice their
    difference from 127.5, the middle of such converters. 32 bits and floats are quantised to int16, each window by its
    own peak. Half the range of a fixed-point format, or 1.0 of a float, counts
    as 1 √mW. Real samples have imaginary part 0: nothing is lost, but their spectrum has two sides.

    *Place.* ``core:geolocation`` of the capture, else of the whole recording; altitude is 0 where missing. Positions
    are good to 10 m unless the table of receivers, ``receiver_position_std`` in the files or the argument says it, and
    doubtful ones are named in the log. Channels of one recording stand at one place, unless `receivers` or the field
    ``heimdall:channels`` (a list of objects with ``name`` and ``geolocation``) tells them apart.

    *Emissions.* Where captures are tuned to several frequencies, all recordings alike, they are emissions of one
    recording: ``recording``, ``recording_time`` and ``centre_frequency`` say so. The first captures are aligned as all
    are; later ones by the samples that each receiver has counted since (``core:sample_start``, or
    ``core:global_index`` where samples in between were not kept), never by stamps of their own: the log says where
    these differ by more than 0.1 s. Emissions are cut to the length of the shortest one, or into windows of
    ``window_s``. Frequencies within 0.4 of the sample rate make emissions of several recordings that are all retuned.

    *Bands.* Annotations with ``core:freq_lower_edge`` and ``core:freq_upper_edge`` mark emissions in captures that are
    wider, 0.8 of the sample rate at most: each is filtered (linear phase, stop band 80 dB), shifted to the middle of
    its band and decimated, all to the rate that the widest of them fills to 0.8, and quantised anew. Recordings mark
    the same bands, or one of them does, and the others take its marks at the same time. Edges of all of the capture's
    band, or where it has no ``core:frequency``, are remarks.

    *References.* An annotation's fields ``heimdall:reported_latitude``, ``_longitude`` and, if known, ``_altitude`` say
    where the transmitter of the capture that it lies in, or of the band that it marks, is known to be; `references`
    says it by frequency. Captures of one frequency are emissions, too, where one of them is so marked. Truth is never
    taken for this.

    *Truth.* An annotation's field ``heimdall:variables`` may hold any variable of the contract, such as
    ``transmitter_latitude``, for the capture that it lies in; unknown truth is NaN. All other annotations are in the
    attribute ``annotations``, JSON for ``pandas.DataFrame(json.loads(...))``, where samples count from the beginning of
    the recording's file.

    Parameters
    ----------
    path
        A ``.sigmf-collection``, one recording (``.sigmf-meta`` or ``.sigmf-data``), an archive (``.sigmf`` or any tar
        file, also compressed, or zip), or several; endings may be left out. Only samples of windows are read into
        memory.
    receivers
        CSV file with the columns ``name``, ``latitude_deg``, ``longitude_deg`` and, optionally, ``altitude_m`` and
        ``position_std_m``, the standard deviation of the position along east and along north; goes before the positions
        in the files. Names are those of the recordings' files without extension, with as many folders before as tell
        them apart (``north/day``), for one of several channels with ``-0``, ``-1``, … appended, or those in
        ``heimdall:channels``.
    window_s
        Length in seconds of consecutive windows to cut each capture into; what is left over is dropped. Without it, a
        capture is one window, and all must be equally long; stretches between gaps are cut so that little is left over,
        and windows of more than 2²² samples in equal parts.
    at
        Seconds from the beginning of the first capture at which windows begin; by default they follow each other.
    transmitter
        True position if known, (latitude, longitude) or (latitude, longitude, altitude) in degrees and metres.
    references
        Transmitters at known places: (latitude, longitude) or (latitude, longitude, altitude) in degrees and metres
        above the ellipsoid by frequency in Hz, as ``{98.5e6: (45.03, 7.27)}``. It goes before annotations.
    bands
        Whether bands that annotations mark are emissions, or remarks as all other annotations.
    strict
        Whether a receiver that cannot be used is an error, and so are captures that do not begin together.
    receiver_position_std_m
        Standard deviation, along east and along north, of positions that no table or file says it of; 10 m by default.
    unpacked_limit_bytes
        What compressed archives may hold together; they are unpacked into a temporary folder (``TMPDIR``).
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
        geolocation; recordings differ in sample rate, frequencies or captures, or do not overlap.
    ValueError
        An argument is not accepted, as a frequency of `references` that no emission has, or two, or `references` that
        leave no emission to locate.

    Source
    ------
    SigMF specification 1.2.6, sigmf.org.
    """
    position = transmitter_position(transmitter)
    check_names(attributes)
    stations = {} if receivers is None else {receiver.name: receiver for receiver in read_receivers(receivers)}
    files = [with_extension(Path(file)) for file in ([path] if isinstance(path, str | Path) else path)]
    if not files:
        raise ValueError("path: is empty; give a collection or recordings")
    try:
        times_s = stretches.checked_at(at, window_s)
        (limit_bytes,) = as_numbers("unpacked_limit_bytes", [unpacked_limit_bytes])
        with opened_archives([file for file in files if is_archive(file)], float(limit_bytes)) as archived:
            recordings = _recordings(files, archived)
            dataset = _read(recordings, stations, (window_s, times_s), attributes, strict, bands)
        if transmitter is not None:
            for name, value in zip(("latitude", "longitude", "altitude"), position, strict=True):
                dataset[f"transmitter_{name}"][:] = value
        dataset = with_references(with_position_std(dataset, receiver_position_std_m), references or {})
        return warn_of_positions(schema.check(dataset))
    except SigmfError:
        raise
    except (ValueError, OverflowError) as error:
        raise SigmfError(f"{files[0]}: {error}") from error


def _recordings(files: Sequence[Path], archived: Archived) -> list[Recording]:
    """Read the metadata of all recordings that are given, in collections and archives, too."""
    metas = _meta_files(files, archived)
    return [load_recording(meta, name, archived) for meta, name in zip(metas, distinct_names(metas), strict=True)]


def _meta_files(files: Sequence[Path], archived: Archived) -> list[Path]:
    found: list[Path] = []
    for file in files:
        if is_archive(file):
            found += _meta_files_within(file, archived)
        elif file.name.endswith(COLLECTION):
            found += collection_files(file, archived)
        elif file.name.endswith(META):
            found.append(file)
        else:
            raise SigmfError(
                f"{file}: is no SigMF file; give a {COLLECTION}, a {META} or an archive, as {ARCHIVE}, with or without "
                "these endings"
            )
    if len(found) > MOST_FILES:
        raise SigmfError(f"{files[0]}: is one of {len(found):,} recordings; give {MOST_FILES:,} at most at a time")
    for file, count in Counter(found).items():
        if count > 1:
            raise SigmfError(f"{file}: is given twice; give one recording a receiver")
    return found


def _meta_files_within(archive: Path, archived: Archived) -> list[Path]:
    """List the metadata files of an archive, in the order of its collection or else of their names."""
    own = sorted(path for path in archived if path.is_relative_to(archive))
    collections = [path for path in own if path.name.endswith(COLLECTION)]
    if len(collections) == 1:
        return collection_files(collections[0], archived)
    metas = [path for path in own if path.name.endswith(META)]
    if not metas:
        raise SigmfError(f"{archive}: holds no {META}; give an archive of SigMF recordings")
    return metas


def _read(
    recordings: Sequence[Recording],
    stations: dict[str, Receiver],
    cut: tuple[float | None, list[float] | None],
    attributes: dict[str, Any],
    strict: bool,
    bands: bool,
) -> xr.Dataset:
    """Read the samples of those receivers that can be used, onto one axis."""
    rate_hz, own_rates_hz = common_rate_hz(recordings, attributes)
    in_bands = bands and "centre_frequency_hz" not in attributes
    marking = next((recording for recording in recordings if in_bands and recording.bands), None)
    emissions = None if marking is not None else emissions_of(recordings, rate_hz, attributes)
    if emissions is not None:
        recordings = [timed_by_count(*each, emissions) for each in zip(recordings, own_rates_hz, strict=True)]
    streams = [
        Stream(recording, column, channel, own_rate_hz)
        for recording, own_rate_hz in zip(recordings, own_rates_hz, strict=True)
        for column, channel in enumerate(channels_of(recording))
    ]
    kept, left_out = ([*range(len(streams))], {}) if strict else _usable(streams, stations)
    stretches.say_left_out(left_out)
    streams, count, spans = [streams[index] for index in kept], len(streams), None
    if marking is not None:
        streams, spans, rate_hz = channelised(streams, marking, rate_hz)
    elif emissions is not None:
        spans = emission_spans(streams, emissions, rate_hz)
    given = of_kept(attributes, kept, count) | {"sample_rate_hz": rate_hz}
    dataset = _dataset(streams, stations, cut, given, strict, spans)
    return dataset.assign_attrs(left_out=json.dumps(left_out)) if left_out else dataset


def _usable(streams: Sequence[Stream], stations: dict[str, Receiver]) -> tuple[list[int], dict[str, str]]:
    """Receivers that can be used, by their number, and why others cannot, by name."""
    every = [*range(len(streams))]
    if len(streams) <= stretches.FEWEST:
        return every, {}
    nowhere = [index for index, stream in enumerate(streams) if is_nowhere(stream, stations)]
    left_out = dict.fromkeys(nowhere, "it stands at (0, 0), as unknown positions do; correct that")
    placed = [index for index in every if index not in left_out]
    if len(placed) > stretches.FEWEST:
        late = unusable([streams[index] for index in placed])
        left_out |= {placed[index]: reason for index, reason in late.items()}
    if len(streams) - len(left_out) < stretches.FEWEST:
        return every, {}
    names = {streams[index].channel.name: reason for index, reason in left_out.items()}
    return [index for index in every if index not in left_out], names


def _windows(
    streams: Sequence[Stream],
    rate_hz: float,
    cut: tuple[float | None, list[float] | None],
    strict: bool,
    emissions: Sequence[Span] | None,
) -> tuple[list[Span], int]:
    """Spans that windows of one length, returned with them, are cut out of, of a length and at times that are given."""
    window_s, times_s = cut
    if emissions is not None:
        spans, window = window_of_emissions(emissions, window_s, rate_hz)
        starts_s = [float(span.since_s or 0) for span in spans]
    else:
        spans = spans_by_capture(streams, rate_hz) if strict else spans_of(streams, rate_hz)
        by_best = window_s is None and any(len(set(span.captures)) > 1 for span in spans)
        lengths = [span.length for span in spans]
        window = stretches.best_length(lengths) if by_best else window_length(spans, window_s, rate_hz)
        starts_s = [float((span.start_s or 0) - (spans[0].start_s or 0)) for span in spans]
    placed = stretches.place_windows(starts_s, [span.length for span in spans], window, rate_hz, times_s)
    return [spans[each.stretch].cut(each.first, each.count * window, rate_hz) for each in placed], window


def _dataset(
    streams: Sequence[Stream],
    stations: dict[str, Receiver],
    cut: tuple[float | None, list[float] | None],
    given: dict[str, Any],
    strict: bool,
    emissions: Sequence[Span] | None,
) -> xr.Dataset:
    """Label what was read; spans, K, which those of emissions are, are cut into samples, S."""
    recordings = list({id(stream.recording): stream.recording for stream in streams}.values())
    if strict or any(segment.start_s is None for recording in recordings for segment in recording.segments):
        common_value(recordings, [len(recording.segments) for recording in recordings], "number of captures")
    rate_hz = float(given["sample_rate_hz"])
    one_centre = emissions is None and "centre_frequency_hz" not in given
    centre_hz = common_centre_hz(recordings, rate_hz) if one_centre else None
    tuned = {} if centre_hz is None else {"centre_frequency_hz": centre_hz}
    # Where captures state emissions' own frequencies, the file's attribute is that of all of them.
    by_capture = any("centre_frequency" in s.variables for recording in recordings for s in recording.segments)
    told, assumed = (given, _assumed(emissions) | tuned) if by_capture else (tuned | given, _assumed(emissions))
    attrs = _attributes(recordings, streams, told, assumed)
    spans, window = _windows(streams, rate_hz, cut, strict, emissions)
    attrs["duration_s"] = window / rate_hz
    counts = [span.length // window for span in spans]
    known = annotated_variables([[segment.variables for segment in span.segments(streams)] for span in spans])
    known |= positions(streams, spans, stations) | position_std(streams, len(spans), stations)
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
            to_hz = centre_hz if emissions is None else span.centre_hz
            iq, full_scale = cut_windows(stream, index, span, to_hz, window, count)
            variables["iq"][rows, index], variables["iq_full_scale"][rows, index] = iq, full_scale
    cut_anew = not all(uncut) and sum(counts) > 1
    if emissions is not None and not ("centre_frequency" in known and all(uncut)):
        variables |= emission_variables(spans, counts, window / rate_hz)
    elif emissions is None and cut_anew:
        variables |= recordings_of(spans, counts, window / rate_hz, rate_hz)
    if emissions is not None or cut_anew:
        variables |= stated_recordings(spans, counts, window / rate_hz, rate_hz, known)
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


def _assumed(emissions: Sequence[Span] | None) -> dict[str, Any]:
    """What is assumed where neither a file nor the caller says otherwise: of emissions the most usual frequency."""
    tuned = [span.centre_hz for span in emissions or () if span.centre_hz is not None]
    return DEFAULTS | ({"centre_frequency_hz": usual(tuned)} if tuned else {})


def _attributes(
    recordings: Sequence[Recording], streams: Sequence[Stream], given: dict[str, Any], assumed: dict[str, Any]
) -> dict[str, Any]:
    """Attributes of the dataset: those given go before those of the files, and these before those assumed."""
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
    remarks = [{"recording": r.name, **remark} for r in recordings for remark in r.annotations]
    if remarks:
        held["annotations"] = json.dumps(remarks)
    if not any(stated):
        held["source"] = "SigMF: " + ", ".join(recording.file.name for recording in recordings)
    known = held | given
    attrs = contract_numbers(assumed | known, len(streams))
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
