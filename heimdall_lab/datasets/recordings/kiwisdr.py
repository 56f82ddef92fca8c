"""GNSS-stamped recordings of KiwiSDR receivers."""

import json
import math
import mmap
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core.arrays import batch_slices
from heimdall_lab.core.interpolation import HALF_WIDTH
from heimdall_lab.core.receivers import Receiver, read_receivers
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings import kiwi_wav, propagation, stretches
from heimdall_lab.datasets.recordings.common import (
    check_names,
    contract_numbers,
    of_kept,
    position_std_m,
    quantise,
    transmitter_position,
    warn_of_positions,
    with_position_std,
)

MIN_RECEIVERS = 3
MIN_OVERLAP_S = 1.0

_TOLD = {"centre_frequency_hz", "sample_rate_hz", "duration_s"}  # attributes that recordings tell
_MAX_CLOCK_OFFSET_S = 1e-6
_MAX_FREQUENCY_OFFSET_HZ = 0.01  # GPS-disciplined

_FILE_NAME = re.compile(r"^(?P<start>\d{8}T\d{6}Z)_(?P<frequency>\d+)_.+\.wav$", re.IGNORECASE)


@dataclass(frozen=True)
class _Recording:
    """One receiver's samples and clock."""

    file: Path
    receiver: Receiver
    started: datetime
    centre_frequency_hz: float
    blocks: kiwi_wav.Blocks
    clock: kiwi_wav.Clock
    clocks: tuple[kiwi_wav.Clock, ...]  # of all stretches between gaps, that one among them


@dataclass(frozen=True)
class _Stretch:
    """Time that all recordings cover: output samples since the beginning of the GPS week, and each one's clock."""

    first: int
    length: int
    clocks: tuple[kiwi_wav.Clock, ...]


def read_kiwi(
    paths: Iterable[str | Path],
    receivers: str | Path,
    *,
    window_s: float | None = None,
    at: float | Sequence[float] | None = None,
    transmitter: Sequence[float] | None = None,
    strict: bool = False,
    receiver_position_std_m: float | None = None,
    **attributes: Any,
) -> xr.Dataset:
    """Read simultaneous GNSS-stamped KiwiSDR recordings of one transmitter onto one time axis.

    Each receiver's sample clock is a line fitted to its fresh GPS stamps; every recording is then interpolated at the
    same GPS instants, 12 000 a second, over the time that all of them cover. Where one has lost samples, that is
    several stretches, and nothing is filled in.

    A station without GNSS fixes, whose stamps leap by whole seconds, which stands at (0, 0), or which takes more than
    half of the time that the others have in common is left out, if three remain: the log and the attribute ``left_out``
    say why.

    Parameters
    ----------
    paths
        WAV files as kiwirecorder names them, ``<start>_<frequency in Hz>_<receiver>_iq.wav``, one a receiver.
    receivers
        CSV file with the columns ``name``, ``latitude_deg``, ``longitude_deg`` and, optionally, ``altitude_m`` (0 where
        missing) and ``position_std_m``, the standard deviation of the position along east and along north. Doubtful
        positions are named in the log. A recording belongs to the receiver whose name stands between underscores in its
        file name.
    window_s
        Length in seconds of consecutive windows to cut the common time into; without it, each stretch of it is one, or
        several if it is longer than 2²² samples.
    at
        Seconds from the beginning of the common time at which windows begin; by default they follow each other.
    transmitter
        True position if known, (latitude, longitude) or (latitude, longitude, altitude) in degrees and metres.
    strict
        Whether a station that cannot be used is an error.
    receiver_position_std_m
        Standard deviation, along east and along north, of positions that the table says nothing of; 10 m by default.
    **attributes
        Attributes of the contract (`schema.ATTRIBUTES`) in the place of what is assumed or measured: ``propagation``
        and ``path_delay_sigma_s`` above all, which otherwise follow from the frequency and from how far the receivers
        are apart (`recordings.propagation`).

    Returns
    -------
    xr.Dataset
        Of the contract, with a ``sample`` for each window and the receivers in the order of `paths`. The full scale of
        the WAV counts as 1 √mW, so levels are uncalibrated and comparable within one receiver only. Unknown truth is
        NaN. The attributes ``clock_sigma_s`` and ``receiver_sample_rate_hz`` hold one measured value a receiver.

    Raises
    ------
    ValueError
        A file is truncated or not a KiwiSDR recording, has too few fresh GPS stamps, or belongs to no receiver, or to
        more than one; an attribute is unknown, or the recordings tell it; fewer than three receivers; different centre
        frequencies; less common time than one window.

    Source
    ------
    KiwiSDR WAV layout: github.com/jks-prv/kiwiclient, ``kiwirecorder.py``, option ``--kiwi-wav``.
    """
    if window_s is not None and not window_s * kiwi_wav.SAMPLE_RATE_HZ >= 1:
        raise ValueError(f"window_s is {window_s}; give a positive length in seconds, at least one sample")
    check_names(attributes, _TOLD)
    position = transmitter_position(transmitter)
    stations = {receiver.name: receiver for receiver in read_receivers(receivers)}
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    owners = [_receiver_of(file, stations) for file in files]
    _check_receivers(files, [owner.name for owner in owners])
    times_s = stretches.checked_at(at, window_s)
    recordings, left_out = _read_recordings(files, owners, strict)
    _check_frequency(recordings)
    recordings = _usable(recordings, left_out, strict)
    stretches.say_left_out(left_out)
    iq, full_scale, start_s = _windows(recordings, window_s, times_s)
    if left_out:
        kept = [index for index, owner in enumerate(owners) if owner.name not in left_out]
        attributes = {**of_kept(attributes, kept, len(owners)), "left_out": json.dumps(left_out)}
    dataset = _dataset(recordings, iq, full_scale, position, start_s, attributes)
    return warn_of_positions(schema.check(with_position_std(dataset, receiver_position_std_m)))


def _windows(
    recordings: Sequence[_Recording], window_s: float | None, times_s: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of common windows, (S, R, 2, N) int16, their full scales (S, R), and GPS seconds (S,) of their starts."""
    rate_hz, common = kiwi_wav.SAMPLE_RATE_HZ, _common_time(recordings, window_s)
    lengths = [stretch.length for stretch in common]
    window = stretches.best_length(lengths) if window_s is None else round(window_s * rate_hz)
    placed = stretches.place_windows([stretch.first / rate_hz for stretch in common], lengths, window, rate_hz, times_s)
    windows = sum(each.count for each in placed)
    iq = np.empty((windows, len(recordings), 2, window), dtype=np.int16)
    full_scale = np.empty((windows, len(recordings)))
    starts = [common[each.stretch].first + each.first + n * window for each in placed for n in range(each.count)]
    row = 0
    for each in placed:
        start_s = starts[row] / rate_hz
        for index, (recording, clock) in enumerate(zip(recordings, common[each.stretch].clocks, strict=True)):
            for some in batch_slices(each.count, stretches.LONGEST_WINDOW // window):
                count = min(some.stop, each.count) - some.start
                found = kiwi_wav.resample(recording.blocks, clock, start_s, some.start * window, count * window)
                rows = slice(row + some.start, row + some.start + count)
                iq[rows, index], full_scale[rows, index] = quantise(found.reshape(count, window))
        row += each.count
    return iq, full_scale, np.array(starts) / rate_hz


def _read_recordings(
    files: Sequence[Path], owners: Sequence[Receiver], strict: bool
) -> tuple[list[_Recording], dict[str, str]]:
    """Recordings that can be used, and why others cannot, by the names of their stations."""
    recordings, faults = [], {}
    for file, owner in zip(files, owners, strict=True):
        try:
            if owner.latitude_deg == 0 == owner.longitude_deg and not strict:
                raise stretches.StationError("it stands at (0, 0), as unknown positions do; correct that")
            recordings.append(_read_recording(file, owner, strict))
        except stretches.StationError as error:
            faults[owner.name] = error
    if faults and (strict or len(recordings) < MIN_RECEIVERS):
        name, fault = next(iter(faults.items()))
        raise stretches.StationError(f"{name}: {fault}") from fault
    return recordings, {name: str(error) for name, error in faults.items()}


def _usable(recordings: Sequence[_Recording], left_out: dict[str, str], strict: bool) -> list[_Recording]:
    """Recordings but those that take most of the common time, which are added to those left out."""
    costly = {} if strict else stretches.costly_reasons(_covered(recordings))
    left_out |= {recordings[index].receiver.name: reason for index, reason in costly.items()}
    return [recording for index, recording in enumerate(recordings) if index not in costly]


def _dataset(
    recordings: Sequence[_Recording],
    iq: np.ndarray,
    full_scale: np.ndarray,
    transmitter: tuple[float, float, float],
    start_s: np.ndarray,
    stated: dict[str, Any],
) -> xr.Dataset:
    """Label what was read; truth that no recording holds is NaN."""
    windows, count, _, length = iq.shape
    variables = schema.unknown(windows, count)
    for axis, name in enumerate(("latitude", "longitude", "altitude")):
        unit = "m" if name == "altitude" else "deg"
        here = np.array([getattr(recording.receiver, f"{name}_{unit}") for recording in recordings])
        variables[f"receiver_{name}"] = np.tile(here, (windows, 1))
        variables[f"transmitter_{name}"] = np.full(windows, transmitter[axis])
    variables |= {
        "iq": iq,
        "iq_full_scale": full_scale,
        "receiver_present": np.ones((windows, count), dtype=bool),
        "waveform": np.full(windows, "unknown"),
    }
    if windows > 1:
        variables |= {"recording": np.zeros(windows, dtype=int), "recording_time": start_s - start_s[0]}
    position_m = position_std_m([recording.receiver for recording in recordings])
    if position_m is not None:
        variables["receiver_position_std"] = np.tile(position_m, (windows, 1))
    coords = {
        "sample": ("sample", np.arange(windows), {"long_name": "index of the window"}),
        "receiver": np.arange(count),
        "receiver_name": ("receiver", np.array([recording.receiver.name for recording in recordings])),
        "component": ["i", "q"],
        "time": np.arange(length) / kiwi_wav.SAMPLE_RATE_HZ,
    }
    attrs = _attributes(recordings, length, float(start_s[0])) | contract_numbers(stated, count)
    attrs = propagation.with_paths(attrs, variables["receiver_latitude"], variables["receiver_longitude"])
    by_paths_hz = propagation.largest_shift_hz(str(attrs["propagation"]))
    attrs = {"max_frequency_offset_hz": _MAX_FREQUENCY_OFFSET_HZ + by_paths_hz} | attrs
    return schema.label(variables, coords, attrs)


def _attributes(recordings: Sequence[_Recording], length: int, start_s: float) -> dict[str, object]:
    """Attributes that recordings tell, and those that all KiwiSDR stations have in common."""
    begun = min(recording.started for recording in recordings)
    frequency_hz = recordings[0].centre_frequency_hz
    return {
        "title": f"KiwiSDR recordings at {frequency_hz / 1e3:g} kHz, {begun:%Y-%m-%dT%H:%M:%SZ}",
        "source": "KiwiSDR: " + ", ".join(recording.file.name for recording in recordings),
        "centre_frequency_hz": frequency_hz,
        "sample_rate_hz": float(kiwi_wav.SAMPLE_RATE_HZ),
        "duration_s": length / kiwi_wav.SAMPLE_RATE_HZ,
        "gps_seconds_of_week": start_s % kiwi_wav.WEEK_S,
        "clock_sigma_s": [recording.clock.sigma_s for recording in recordings],
        "receiver_sample_rate_hz": [recording.clock.rate_hz for recording in recordings],
        "nlos_ratio": 0.0,
        "nlos_excess_mean_s": 0.0,
        "max_clock_offset_s": _MAX_CLOCK_OFFSET_S,
        "link_sigma_db": np.nan,
        "min_snr_db": 0.0,
    }


def _receiver_of(file: Path, stations: dict[str, Receiver]) -> Receiver:
    matches = [name for name in stations if f"_{name}_" in file.name]
    if len(matches) != 1:
        found = f"names {' and '.join(matches)}" if matches else f"names none of {', '.join(stations) or '(empty)'}"
        raise ValueError(
            f"{file.name} {found} from the receivers table; "
            "the file name must hold exactly one receiver's name, between underscores"
        )
    return stations[matches[0]]


def _check_receivers(files: Sequence[Path], names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"paths holds more than one recording of {', '.join(repeated)}; give one a receiver")
    if len(names) < MIN_RECEIVERS:
        raise ValueError(
            f"paths holds {len(names)} recordings ({', '.join(file.name for file in files)}); "
            f"a fix by time differences needs at least {MIN_RECEIVERS} receivers"
        )


def _read_recording(file: Path, receiver: Receiver, strict: bool) -> _Recording:
    matched = _FILE_NAME.match(file.name)
    if matched is None:
        raise ValueError(
            f"{file.name} does not say when and where it was tuned; "
            f"name it like 20200813T065220Z_77500_{receiver.name}_iq.wav"
        )
    try:
        started = datetime.strptime(matched["start"].upper(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{file.name}: {matched['start']} is no date; write YYYYMMDDThhmmssZ") from error
    try:
        with file.open("rb") as opened:  # long recordings are read where they are needed
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if file.stat().st_size else b""
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); give a readable recording") from error
    blocks = kiwi_wav.parse_wav(content, file.name)
    clock = kiwi_wav.fit_clock(blocks, file.name)
    clocks = [clock] if strict else kiwi_wav.clocks_between_gaps(blocks, clock)
    return _Recording(file, receiver, started, float(matched["frequency"]), blocks, clock, tuple(clocks))


def _check_frequency(recordings: Sequence[_Recording]) -> None:
    tuned = {recording.receiver.name: recording.centre_frequency_hz for recording in recordings}
    if len(set(tuned.values())) > 1:
        listed = ", ".join(f"{name} {frequency:.0f} Hz" for name, frequency in tuned.items())
        raise ValueError(f"paths holds different centre frequencies ({listed}); give recordings of one frequency")


def _covered(recordings: Sequence[_Recording]) -> list[list[tuple[float, float]]]:
    """GPS seconds between which each recording can be interpolated, for each of its stretches.

    They count on from the week of the first one.

    Raises
    ------
    ValueError
        If recordings are of different weeks.
    """
    dates = [recording.started for recording in recordings]
    if (max(dates) - min(dates)).total_seconds() > kiwi_wav.WEEK_S / 2:
        raise ValueError(
            f"paths holds recordings from {min(dates):%Y-%m-%d} to {max(dates):%Y-%m-%d}, which do not overlap; "
            "give simultaneous recordings"
        )
    anchor = recordings[0].clock.start_s

    def limits(clock: kiwi_wav.Clock) -> tuple[float, float]:
        start_s = anchor + float(kiwi_wav.week_wrapped(np.array([clock.start_s - anchor]))[0])
        return start_s + (clock.first + HALF_WIDTH) / clock.rate_hz, (
            start_s + (clock.stop - 1 - HALF_WIDTH) / clock.rate_hz
        )

    return [[limits(clock) for clock in recording.clocks] for recording in recordings]


def _common_time(recordings: Sequence[_Recording], window_s: float | None) -> list[_Stretch]:
    """Stretches that all recordings cover, of a window's length or more.

    Starts are multiples of the output's sample interval, so that they do not depend on which receivers take part.
    """
    covered, rate_hz = _covered(recordings), kiwi_wav.SAMPLE_RATE_HZ
    shortest_s = MIN_OVERLAP_S if window_s is None else window_s
    found, longest = [], 0
    for begin_s, end_s, numbers in stretches.common_stretches(covered):
        first, last = math.ceil(begin_s * rate_hz), math.floor(end_s * rate_hz)
        longest = max(longest, last - first + 1)
        if last - first + 1 >= round(shortest_s * rate_hz):
            clocks = (recording.clocks[number] for recording, number in zip(recordings, numbers, strict=True))
            found.append(_Stretch(first, last - first + 1, tuple(clocks)))
    if not found:
        late = int(np.argmax([own[0][0] for own in covered]))
        early = int(np.argmin([own[-1][1] for own in covered]))
        names = [recording.receiver.name for recording in recordings]
        raise ValueError(
            f"the recordings overlap for {longest / rate_hz:.3f} s "
            f"({names[late]} begins last, {names[early]} ends first), {shortest_s:g} s are needed; "
            "give simultaneous recordings or a shorter window_s"
        )
    return found
