"""GNSS-stamped recordings of KiwiSDR receivers."""

import json
import mmap
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from heimdall_lab.core.receivers import Receiver, read_receivers
from heimdall_lab.core.text import listed, shortened
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings import kiwi_wav, stretches
from heimdall_lab.datasets.recordings.common import (
    check_names,
    of_kept,
    transmitter_position,
    warn_of_positions,
    with_position_std,
)
from heimdall_lab.datasets.recordings.time_axis import (
    WEEK_S,
    Recording,
    Windows,
    check_receivers,
    cut_windows,
    dataset_of,
    file_list,
    read_usable,
    usable,
)

MIN_OVERLAP_S = 1.0

_TOLD = {"centre_frequency_hz", "sample_rate_hz", "duration_s"}  # attributes that recordings tell
_MAX_CLOCK_OFFSET_S = 1e-6
_MAX_FREQUENCY_OFFSET_HZ = 0.01  # GPS-disciplined

_FILE_NAME = re.compile(r"^(?P<start>\d{8}T\d{6}Z)_(?P<frequency>\d+)_.+\.wav$", re.IGNORECASE)


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
    same GPS instants over the time that all of them cover. Where one has lost samples, that is several stretches, and
    nothing is filled in.

    Channels have 12,000, 20,250 or 48,000 samples a second. Of several rates, or centre frequencies, the band that all
    recordings cover is what is read, at as many samples a second as it is wide: what the others have beyond it is
    filtered out, without delay.

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
        more than one; an attribute is unknown, or the recordings tell it; fewer than three receivers; centre
        frequencies that leave less than half of a band in common; less common time than one window.

    Source
    ------
    KiwiSDR WAV layout: github.com/jks-prv/kiwiclient, ``kiwirecorder.py``, option ``--kiwi-wav``.
    """
    check_names(attributes, _TOLD)
    position = transmitter_position(transmitter)
    stations = {receiver.name: receiver for receiver in read_receivers(receivers)}
    files = file_list(paths)
    owners = [_receiver_of(file, stations) for file in files]
    check_receivers(files, [owner.name for owner in owners])
    times_s = stretches.checked_at(at, window_s)
    recordings, left_out = read_usable(files, owners, partial(_read_recording, strict=strict), strict)
    recordings = usable(recordings, left_out, strict)
    stretches.say_left_out(left_out)
    windows = cut_windows(recordings, window_s, times_s, MIN_OVERLAP_S)
    if left_out:
        kept = [index for index, owner in enumerate(owners) if owner.name not in left_out]
        attributes = {**of_kept(attributes, kept, len(owners)), "left_out": json.dumps(left_out)}
    dataset = dataset_of(recordings, windows, position, _attributes(recordings, windows), attributes)
    return warn_of_positions(schema.check(with_position_std(dataset, receiver_position_std_m)))


def _attributes(recordings: Sequence[Recording], windows: Windows) -> dict[str, Any]:
    """Attributes that recordings tell, and those that all KiwiSDR stations have in common."""
    begun = min(recording.started for recording in recordings)
    return {
        "title": f"KiwiSDR recordings at {windows.band.centre_hz / 1e3:g} kHz, {begun:%Y-%m-%dT%H:%M:%SZ}",
        "source": "KiwiSDR: " + ", ".join(recording.file.name for recording in recordings),
        "gps_seconds_of_week": float(windows.start_s[0]) % WEEK_S,
        "clock_sigma_s": [recording.clock.sigma_s for recording in recordings],
        "receiver_sample_rate_hz": [recording.clock.rate_hz for recording in recordings],
        "nlos_ratio": 0.0,
        "nlos_excess_mean_s": 0.0,
        "max_clock_offset_s": _MAX_CLOCK_OFFSET_S,
        "max_frequency_offset_hz": _MAX_FREQUENCY_OFFSET_HZ,
        "link_sigma_db": np.nan,
        "min_snr_db": 0.0,
    }


def _receiver_of(file: Path, stations: dict[str, Receiver]) -> Receiver:
    matches = [name for name in stations if f"_{name}_" in file.name]
    if len(matches) != 1:
        found = (
            f"names {shortened(' and '.join(matches))}" if matches else f"names none of {listed(stations) or '(empty)'}"
        )
        raise ValueError(
            f"{file.name} {found} from the receivers table; "
            "the file name must hold exactly one receiver's name, between underscores"
        )
    return stations[matches[0]]


def _read_recording(file: Path, receiver: Receiver, strict: bool) -> Recording:
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
    return Recording(
        file=file,
        receiver=receiver,
        started=started,
        centre_frequency_hz=float(matched["frequency"]),
        nominal_rate_hz=blocks.nominal_rate_hz,
        voltage=blocks.voltage,
        clock=clock,
        clocks=tuple(clocks),
    )
