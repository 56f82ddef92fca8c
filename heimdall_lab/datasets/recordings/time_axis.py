"""Recordings by clocks of their own on one time axis: what they have in common, and windows of it at one sample rate.

Times are seconds of a week, GPS or UTC, whichever all recordings of a network count; differences are wrapped into half
a week on either side.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from heimdall_lab.core.arrays import batch_slices
from heimdall_lab.core.interpolation import half_width, resample_many
from heimdall_lab.core.receivers import Receiver
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings import propagation, stretches
from heimdall_lab.datasets.recordings.common import contract_numbers, position_std_m, quantise

MIN_RECEIVERS = 3
WEEK_S = 604_800.0
_LEAST_BAND = 0.5  # of the narrowest recording, that all must have in common
_BATCH_SAMPLES = 2**16  # of a recording, interpolated at a time

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Clock:
    """Sample ``n`` was taken at second of week ``start_s + n / rate_hz``.

    ``first`` and ``stop`` bound the samples that this is true of; ``sigma_s`` is the standard deviation of these times.
    """

    start_s: float
    rate_hz: float
    sigma_s: float
    first: int
    stop: int


@dataclass(frozen=True)
class Recording:
    """One receiver's samples and clock.

    Attributes
    ----------
    file, receiver : where it is from.
    started : UTC of its beginning, to the second at least.
    centre_frequency_hz : of the band; NaN where it is not known.
    nominal_rate_hz : sample rate as it is meant to be.
    voltage : samples first … stop − 1, complex128, of which 1 is the full scale.
    clock : of the longest stretch.
    clocks : of all stretches between gaps, in the order of time, that one among them.
    """

    file: Path
    receiver: Receiver
    started: datetime
    centre_frequency_hz: float
    nominal_rate_hz: float
    voltage: Callable[[int, int], ComplexArray]
    clock: Clock
    clocks: tuple[Clock, ...]


@dataclass(frozen=True)
class Band:
    """What recordings have in common of frequencies: as wide as the sample rate, about a centre; NaN if not known."""

    centre_hz: float
    rate_hz: float

    def shift_hz(self, recording: Recording) -> float:
        """How far a recording's centre is above this one."""
        shift_hz = recording.centre_frequency_hz - self.centre_hz
        return shift_hz if math.isfinite(shift_hz) else 0.0

    def margin(self, recording: Recording) -> int:
        """Samples of a recording that interpolation takes on either side."""
        return half_width(self.rate_hz / recording.nominal_rate_hz)


@dataclass(frozen=True)
class Stretch:
    """Time that all recordings cover: output samples since the beginning of the week, and each one's clock."""

    first: int
    length: int
    clocks: tuple[Clock, ...]


@dataclass(frozen=True)
class Windows:
    """Samples of W common windows of R receivers.

    Attributes
    ----------
    iq, full_scale : (W, R, 2, N) int16 and (W, R).
    start_s : (W,) second of week of each one's first sample.
    band : frequencies and sample rate.
    """

    iq: npt.NDArray[np.int16]
    full_scale: FloatArray
    start_s: FloatArray
    band: Band


def week_wrapped(seconds: FloatArray) -> FloatArray:
    """Wrap a time difference in seconds into half a week on either side of zero."""
    return (seconds + WEEK_S / 2) % WEEK_S - WEEK_S / 2


def common_band(recordings: Sequence[Recording]) -> Band:
    """Frequencies that all recordings cover.

    Raises
    ------
    ValueError
        If that is less than half of the narrowest of them.
    """
    rates_hz = [recording.nominal_rate_hz for recording in recordings]
    tuned = {recording.receiver.name: recording.centre_frequency_hz for recording in recordings}
    centres_hz = list(tuned.values())
    if np.isnan(centres_hz).any() or len(set(centres_hz)) == 1:
        return Band(centres_hz[0] if not np.isnan(centres_hz).any() else math.nan, min(rates_hz))
    low_hz = max(centre - rate / 2 for centre, rate in zip(centres_hz, rates_hz, strict=True))
    high_hz = min(centre + rate / 2 for centre, rate in zip(centres_hz, rates_hz, strict=True))
    if high_hz - low_hz < _LEAST_BAND * min(rates_hz):
        listed = ", ".join(f"{name} {frequency:.0f} Hz" for name, frequency in tuned.items())
        raise ValueError(f"paths holds different centre frequencies ({listed}); give recordings of one frequency")
    return Band((low_hz + high_hz) / 2, high_hz - low_hz)


def usable(recordings: Sequence[Recording], left_out: dict[str, str], strict: bool) -> list[Recording]:
    """Recordings but those that take most of the common time, which are added to those left out."""
    covered = _covered(recordings, common_band(recordings))
    costly = {} if strict else stretches.costly_reasons(covered)
    left_out |= {recordings[index].receiver.name: reason for index, reason in costly.items()}
    return [recording for index, recording in enumerate(recordings) if index not in costly]


def cut_windows(
    recordings: Sequence[Recording], window_s: float | None, times_s: Sequence[float] | None, min_overlap_s: float
) -> Windows:
    """Samples of common windows, at the same instants and frequencies of all recordings.

    Raises
    ------
    ValueError
        If a window has no sample, or recordings leave less common time than one, or without ``window_s`` than
        ``min_overlap_s``.
    """
    band = common_band(recordings)
    if window_s is not None and not window_s * band.rate_hz >= 1:
        raise ValueError(f"window_s is {window_s}; give a positive length in seconds, at least one sample")
    common = _common_time(recordings, band, min_overlap_s if window_s is None else window_s)
    lengths = [stretch.length for stretch in common]
    window = stretches.best_length(lengths) if window_s is None else round(window_s * band.rate_hz)
    begins_s = [stretch.first / band.rate_hz for stretch in common]
    placed = stretches.place_windows(begins_s, lengths, window, band.rate_hz, times_s)
    windows = sum(each.count for each in placed)
    iq = np.empty((windows, len(recordings), 2, window), dtype=np.int16)
    full_scale = np.empty((windows, len(recordings)))
    starts = [common[each.stretch].first + each.first + n * window for each in placed for n in range(each.count)]
    row = 0
    for each in placed:
        start_s = starts[row] / band.rate_hz
        for index, (recording, clock) in enumerate(zip(recordings, common[each.stretch].clocks, strict=True)):
            for some in batch_slices(each.count, stretches.LONGEST_WINDOW // window):
                count = min(some.stop, each.count) - some.start
                found = _resample(recording, clock, band, start_s, some.start * window, count * window)
                rows = slice(row + some.start, row + some.start + count)
                iq[rows, index], full_scale[rows, index] = quantise(found.reshape(count, window))
        row += each.count
    return Windows(iq, full_scale, np.array(starts) / band.rate_hz, band)


def _resample(recording: Recording, clock: Clock, band: Band, start_s: float, first: int, length: int) -> ComplexArray:
    """Interpolate a recording at ``start_s + k / rate_hz`` of the band, k = first … first + length − 1."""
    begin_s = float(week_wrapped(np.array([start_s - clock.start_s]))[0])
    margin, shift_hz, ratio = band.margin(recording), band.shift_hz(recording), band.rate_hz / recording.nominal_rate_hz
    values = np.empty(length, dtype=np.complex128)
    for rows in batch_slices(length, max(1, int(_BATCH_SAMPLES * ratio))):
        count = first + np.arange(rows.start, min(rows.stop, length))
        position = (begin_s + count / band.rate_hz) * clock.rate_hz
        begin = int(position[0]) + 1 - margin
        voltage = recording.voltage(begin, int(position[-1]) + 1 + margin)
        if shift_hz:
            time_s = (begin + np.arange(len(voltage))) / clock.rate_hz - begin_s
            voltage = voltage * np.exp(2j * np.pi * shift_hz * time_s)
        values[rows] = resample_many(voltage, position - begin, ratio)
    return values


def dataset_of(
    recordings: Sequence[Recording],
    windows: Windows,
    transmitter: tuple[float, float, float],
    attributes: dict[str, Any],
    stated: dict[str, Any],
) -> xr.Dataset:
    """Label what was read, with what recordings tell and what is stated of them; truth that nobody tells is NaN.

    ``max_frequency_offset_hz`` is that of the receivers, which what paths add is added to.
    """
    count, _, _, length = windows.iq.shape
    variables = schema.unknown(count, len(recordings))
    for axis, name in enumerate(("latitude", "longitude", "altitude")):
        unit = "m" if name == "altitude" else "deg"
        here = np.array([getattr(recording.receiver, f"{name}_{unit}") for recording in recordings])
        variables[f"receiver_{name}"] = np.tile(here, (count, 1))
        variables[f"transmitter_{name}"] = np.full(count, transmitter[axis])
    variables |= {
        "iq": windows.iq,
        "iq_full_scale": windows.full_scale,
        "receiver_present": np.ones((count, len(recordings)), dtype=bool),
        "waveform": np.full(count, "unknown"),
    }
    if count > 1:
        begin_s = windows.start_s - windows.start_s[0]
        variables |= {"recording": np.zeros(count, dtype=int), "recording_time": begin_s}
    position_m = position_std_m([recording.receiver for recording in recordings])
    if position_m is not None:
        variables["receiver_position_std"] = np.tile(position_m, (count, 1))
    coords = {
        "sample": ("sample", np.arange(count), {"long_name": "index of the window"}),
        "receiver": np.arange(len(recordings)),
        "receiver_name": ("receiver", np.array([recording.receiver.name for recording in recordings])),
        "component": ["i", "q"],
        "time": np.arange(length) / windows.band.rate_hz,
    }
    of_receivers_hz = attributes.pop("max_frequency_offset_hz")
    attrs = attributes | _of_windows(windows) | contract_numbers(stated, len(recordings))
    attrs = propagation.with_paths(attrs, variables["receiver_latitude"], variables["receiver_longitude"])
    by_paths_hz = propagation.largest_shift_hz(str(attrs["propagation"]))
    attrs = {"max_frequency_offset_hz": of_receivers_hz + by_paths_hz} | attrs
    return schema.label(variables, coords, attrs)


def _of_windows(windows: Windows) -> dict[str, float]:
    return {
        "centre_frequency_hz": windows.band.centre_hz,
        "sample_rate_hz": float(windows.band.rate_hz),
        "duration_s": windows.iq.shape[-1] / windows.band.rate_hz,
    }


def check_receivers(files: Sequence[Path], names: Sequence[str]) -> None:
    """Raise ValueError unless recordings are of at least three receivers, one of each."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"paths holds more than one recording of {', '.join(repeated)}; give one a receiver")
    if len(names) < MIN_RECEIVERS:
        raise ValueError(
            f"paths holds {len(names)} recordings ({', '.join(file.name for file in files)}); "
            f"a fix by time differences needs at least {MIN_RECEIVERS} receivers"
        )


def read_usable(
    files: Sequence[Path],
    owners: Sequence[Receiver],
    read: Callable[[Path, Receiver], Recording],
    strict: bool,
) -> tuple[list[Recording], dict[str, str]]:
    """Recordings that can be used, and why others cannot, by the names of their stations."""
    recordings, faults = [], {}
    for file, owner in zip(files, owners, strict=True):
        try:
            if owner.latitude_deg == 0 == owner.longitude_deg and not strict:
                raise stretches.StationError("it stands at (0, 0), as unknown positions do; correct that")
            recordings.append(read(file, owner))
        except stretches.StationError as error:
            faults[owner.name] = error
    if faults and (strict or len(recordings) < MIN_RECEIVERS):
        name, fault = next(iter(faults.items()))
        raise stretches.StationError(f"{name}: {fault}") from fault
    return recordings, {name: str(error) for name, error in faults.items()}


def file_list(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Paths that a caller gives, of which a single one is no list."""
    return [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]


def _covered(recordings: Sequence[Recording], band: Band) -> list[list[tuple[float, float]]]:
    """Seconds between which each recording can be interpolated, for each of its stretches.

    They count on from the week of the first one.

    Raises
    ------
    ValueError
        If recordings are of different weeks.
    """
    dates = [recording.started for recording in recordings]
    if (max(dates) - min(dates)).total_seconds() > WEEK_S / 2:
        raise ValueError(
            f"paths holds recordings from {min(dates):%Y-%m-%d} to {max(dates):%Y-%m-%d}, which do not overlap; "
            "give simultaneous recordings"
        )
    anchor = recordings[0].clock.start_s

    def limits(clock: Clock, margin: int) -> tuple[float, float]:
        start_s = anchor + float(week_wrapped(np.array([clock.start_s - anchor]))[0])
        return start_s + (clock.first + margin) / clock.rate_hz, start_s + (clock.stop - 1 - margin) / clock.rate_hz

    return [[limits(clock, band.margin(recording)) for clock in recording.clocks] for recording in recordings]


def _common_time(recordings: Sequence[Recording], band: Band, shortest_s: float) -> list[Stretch]:
    """Stretches that all recordings cover, of a window's length or more.

    Starts are multiples of the output's sample interval, so that they do not depend on which receivers take part.
    """
    covered, rate_hz = _covered(recordings, band), band.rate_hz
    found, longest = [], 0
    for begin_s, end_s, numbers in stretches.common_stretches(covered):
        first, last = math.ceil(begin_s * rate_hz), math.floor(end_s * rate_hz)
        longest = max(longest, last - first + 1)
        if last - first + 1 >= round(shortest_s * rate_hz):
            clocks = (recording.clocks[number] for recording, number in zip(recordings, numbers, strict=True))
            found.append(Stretch(first, last - first + 1, tuple(clocks)))
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
