"""GNSS-stamped recordings of KiwiSDR receivers."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core.interpolation import HALF_WIDTH
from heimdall_lab.core.receivers import Receiver, read_receivers
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings import kiwi_wav, propagation
from heimdall_lab.datasets.recordings.common import (
    check_names,
    contract_numbers,
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

    receiver: Receiver
    started: datetime
    centre_frequency_hz: float
    iq: kiwi_wav.ComplexArray
    clock: kiwi_wav.Clock


def read_kiwi(
    paths: Iterable[str | Path],
    receivers: str | Path,
    *,
    window_s: float | None = None,
    transmitter: Sequence[float] | None = None,
    receiver_position_std_m: float | None = None,
    **attributes: Any,
) -> xr.Dataset:
    """Read simultaneous GNSS-stamped KiwiSDR recordings of one transmitter onto one time axis.

    Each receiver's sample clock is a line fitted to its fresh GPS stamps; every recording is then interpolated at the
    same GPS instants, 12 000 a second, over the time that all of them cover.

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
        Length in seconds of consecutive windows to cut the common time into; without it, all of it is one window.
    transmitter
        True position if known, (latitude, longitude) or (latitude, longitude, altitude) in degrees and metres.
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
    recordings = [_read_recording(file, owner) for file, owner in zip(files, owners, strict=True)]
    _check_frequency(recordings)
    start_s, length = _common_span(recordings, window_s)
    iq, full_scale = _windows(recordings, start_s, length, window_s)
    dataset = _dataset(recordings, files, iq, full_scale, position, start_s, attributes)
    return warn_of_positions(schema.check(with_position_std(dataset, receiver_position_std_m)))


def _windows(
    recordings: Sequence[_Recording], start_s: float, length: int, window_s: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of common windows, (S, R, 2, N) int16, and their full scales (S, R), of ``length`` from a GPS second."""
    window = length if window_s is None else round(window_s * kiwi_wav.SAMPLE_RATE_HZ)
    windows = length // window
    iq = np.empty((windows, len(recordings), 2, window), dtype=np.int16)
    full_scale = np.empty((windows, len(recordings)))
    for index, recording in enumerate(recordings):
        resampled = kiwi_wav.resample(recording.iq, recording.clock, start_s, windows * window)
        iq[:, index], full_scale[:, index] = quantise(resampled.reshape(windows, window))
    return iq, full_scale


def _dataset(
    recordings: Sequence[_Recording],
    files: Sequence[Path],
    iq: np.ndarray,
    full_scale: np.ndarray,
    transmitter: tuple[float, float, float],
    start_s: float,
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
    attrs = _attributes(recordings, files, length, start_s) | contract_numbers(stated, count)
    attrs = propagation.with_paths(attrs, variables["receiver_latitude"], variables["receiver_longitude"])
    by_paths_hz = propagation.largest_shift_hz(str(attrs["propagation"]))
    attrs = {"max_frequency_offset_hz": _MAX_FREQUENCY_OFFSET_HZ + by_paths_hz} | attrs
    return schema.label(variables, coords, attrs)


def _attributes(
    recordings: Sequence[_Recording], files: Sequence[Path], length: int, start_s: float
) -> dict[str, object]:
    """Attributes that recordings tell, and those that all KiwiSDR stations have in common."""
    begun = min(recording.started for recording in recordings)
    frequency_hz = recordings[0].centre_frequency_hz
    return {
        "title": f"KiwiSDR recordings at {frequency_hz / 1e3:g} kHz, {begun:%Y-%m-%dT%H:%M:%SZ}",
        "source": "KiwiSDR: " + ", ".join(file.name for file in files),
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


def _read_recording(file: Path, receiver: Receiver) -> _Recording:
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
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); give a readable recording") from error
    blocks = kiwi_wav.parse_wav(content, file.name)
    clock = kiwi_wav.fit_clock(blocks, file.name)
    return _Recording(receiver, started, float(matched["frequency"]), blocks.iq, clock)


def _check_frequency(recordings: Sequence[_Recording]) -> None:
    tuned = {recording.receiver.name: recording.centre_frequency_hz for recording in recordings}
    if len(set(tuned.values())) > 1:
        listed = ", ".join(f"{name} {frequency:.0f} Hz" for name, frequency in tuned.items())
        raise ValueError(f"paths holds different centre frequencies ({listed}); give recordings of one frequency")


def _common_span(recordings: Sequence[_Recording], window_s: float | None) -> tuple[float, int]:
    """Return the GPS second of the first common output sample, and the number of them.

    The start is a multiple of the output's sample interval, so that it does not depend on which receivers take part.
    """
    dates = [recording.started for recording in recordings]
    if (max(dates) - min(dates)).total_seconds() > kiwi_wav.WEEK_S / 2:
        raise ValueError(
            f"paths holds recordings from {min(dates):%Y-%m-%d} to {max(dates):%Y-%m-%d}, which do not overlap; "
            "give simultaneous recordings"
        )
    clocks = [recording.clock for recording in recordings]
    anchor = clocks[0].start_s
    starts = anchor + kiwi_wav.week_wrapped(np.array([clock.start_s for clock in clocks]) - anchor)  # (R,)
    rates = np.array([clock.rate_hz for clock in clocks])
    begin = starts + (np.array([clock.first for clock in clocks]) + HALF_WIDTH) / rates
    end = starts + (np.array([clock.stop for clock in clocks]) - 1 - HALF_WIDTH) / rates
    first, last = np.ceil(begin.max() * kiwi_wav.SAMPLE_RATE_HZ), np.floor(end.min() * kiwi_wav.SAMPLE_RATE_HZ)
    length = max(0, int(last - first) + 1)
    shortest_s = MIN_OVERLAP_S if window_s is None else window_s
    if length < round(shortest_s * kiwi_wav.SAMPLE_RATE_HZ):
        late, early = recordings[int(begin.argmax())].receiver.name, recordings[int(end.argmin())].receiver.name
        raise ValueError(
            f"the recordings overlap for {length / kiwi_wav.SAMPLE_RATE_HZ:.3f} s "
            f"({late} begins last, {early} ends first), {shortest_s:g} s are needed; "
            "give simultaneous recordings or a shorter window_s"
        )
    return float(first) / kiwi_wav.SAMPLE_RATE_HZ, length
