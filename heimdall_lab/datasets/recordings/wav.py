"""WAV recordings of ordinary SDR programs, whose clocks are those of PCs."""

import json
import logging
import math
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
from heimdall_lab.datasets.recordings import stretches
from heimdall_lab.datasets.recordings.common import (
    check_names,
    contract_numbers,
    of_kept,
    transmitter_position,
    warn_of_positions,
    with_position_std,
)
from heimdall_lab.datasets.recordings.time_axis import (
    Clock,
    Recording,
    Windows,
    check_receivers,
    cut_windows,
    dataset_of,
    file_list,
    read_usable,
    usable,
)
from heimdall_lab.datasets.recordings.wav_files import Start, WavFile, open_wav

# What a start by a PC's clock is off besides its last digit: samples come in blocks, as of 2^17 at 2.048 MS/s from
# librtlsdr (DEFAULT_BUF_LENGTH in rtl-sdr.h), 64 ms, at any instant of which programs may read a clock: 18 ms. Clocks
# that follow NTP add milliseconds.
PC_CLOCK_SIGMA_S = 20e-3
MIN_OVERLAP_S = 0.01
_CLOCK_SIGMAS = 7.0  # max_clock_offset_s is so many times the largest clock_sigma_s
_OSCILLATOR = 2e-6  # frequency error of a receiver's crystal, as temperature-compensated ones have at most
_LEAST_OFFSET_HZ = 50.0
_LOST_S = 2.0  # by which a recording may last longer than its samples
_TOLD = {"sample_rate_hz", "duration_s"}  # attributes that recordings tell
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_log = logging.getLogger(__name__)


def read_wav(
    paths: str | Path | Iterable[str | Path],
    receivers: str | Path,
    *,
    window_s: float | None = None,
    at: float | Sequence[float] | None = None,
    transmitter: Sequence[float] | None = None,
    strict: bool = False,
    receiver_position_std_m: float | None = None,
    **attributes: Any,
) -> xr.Dataset:
    """Read simultaneous WAV recordings of SDR programs, as SDRuno, SDR# and HDSDR, onto one time axis.

    *Time.* A recording begins when its chunk ``auxi`` or ``rcvr`` says, else its file's name, as in
    ``HDSDR_20150519_082501Z_14100kHz_RF.wav``. These are times of PCs: the last digit alone leaves 0.29 s of a second
    and 0.29 ms of a millisecond, and blocks of samples and the PC's clock 20 ms, or 6,000 km of path. That is
    ``clock_sigma_s`` unless it is stated, and no time difference is worth more. Where receivers keep a better time, as
    by one common trigger, state ``clock_sigma_s``; recordings without any times are then taken to begin together.

    *Values.* RIFF, RF64 and BW64 files of 8, 16, 24 or 32 bits or floats, of two channels, I and Q, or of one, which is
    real. The full scale counts as 1 √mW.

    *Frequencies.* Where sample rates or centre frequencies differ, the band that all recordings cover is what is read.
    The centre is that of the header or the file's name, or the attribute ``centre_frequency_hz``.

    *Faults.* As of `read_kiwi`: a station that cannot be used is left out, if three remain.

    Parameters
    ----------
    paths
        WAV files, one a receiver.
    receivers
        CSV file of positions, as `read_kiwi` takes it. A recording belongs to the receiver whose name stands in its
        file's name, apart from other letters and digits, or is that of the folder that it is in.
    window_s, at, transmitter, strict, receiver_position_std_m
        As of `read_kiwi`.
    **attributes
        Attributes of the contract (`schema.ATTRIBUTES`) in the place of what is assumed.

    Returns
    -------
    xr.Dataset
        Of the contract, with a ``sample`` for each window, the coordinate ``start_time`` (sample), UTC, and the
        attribute ``clock_source``, which says what tells the time of each receiver.

    Raises
    ------
    ValueError
        A file is truncated or no such recording, tells no time or frequency though others do, or belongs to no
        receiver, or to more than one; fewer than three receivers; bands or times with too little in common.

    Source
    ------
    `recordings.wav_files` names the layouts.
    """
    check_names(attributes, _TOLD)
    position = transmitter_position(transmitter)
    stations = {receiver.name: receiver for receiver in read_receivers(receivers)}
    files = file_list(paths)
    owners = [_receiver_of(file, stations) for file in files]
    check_receivers(files, [owner.name for owner in owners])
    attributes = contract_numbers(attributes, len(files))
    times_s = stretches.checked_at(at, window_s)
    opened = {file: open_wav(file) for file in files}
    any_start = any(wav.start is not None for wav in opened.values())
    if not any_start and "clock_sigma_s" not in attributes:
        raise ValueError(
            f"{files[0].name}: neither its header nor its name says when it begins; name it like "
            "station_20150519_082501Z_14100kHz.wav, or state clock_sigma_s if all recordings begin together"
        )
    centre_hz = attributes.get("centre_frequency_hz")
    read = partial(_recording, opened=opened, any_start=any_start, centre_hz=centre_hz)
    recordings, left_out = read_usable(files, owners, read, strict)
    _check_centres(recordings)
    recordings = usable(recordings, left_out, strict)
    stretches.say_left_out(left_out)
    windows = cut_windows(recordings, window_s, times_s, MIN_OVERLAP_S)
    kept = [index for index, owner in enumerate(owners) if owner.name not in left_out]
    stated = of_kept(attributes, kept, len(owners)) | ({"left_out": json.dumps(left_out)} if left_out else {})
    known = _attributes(recordings, windows, [opened[recording.file] for recording in recordings], stated)
    dataset = dataset_of(recordings, windows, position, known, stated)
    dataset = dataset.assign_coords(_start_time(recordings, windows)) if any_start else dataset
    return warn_of_positions(schema.check(with_position_std(dataset, receiver_position_std_m)))


def _receiver_of(file: Path, stations: dict[str, Receiver]) -> Receiver:
    matches = [name for name in stations if re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", file.stem)]
    matches = matches or [name for name in stations if name == file.absolute().parent.name]
    if len(matches) != 1:
        found = (
            f"names {shortened(' and '.join(matches))}" if matches else f"names none of {listed(stations) or '(empty)'}"
        )
        raise ValueError(
            f"{file.name} {found} from the receivers table; the name of the file, or of its folder, must hold exactly "
            f"one receiver's name, as in {next(iter(stations), 'station')}_{file.name}"
        )
    return stations[matches[0]]


def _recording(
    file: Path, receiver: Receiver, opened: dict[Path, WavFile], any_start: bool, centre_hz: float | None
) -> Recording:
    wav = opened[file]
    if wav.start is None and any_start:
        raise stretches.StationError(f"{file.name} does not say when it begins, but others do")
    started = _EPOCH if wav.start is None else wav.start.time
    _warn_of_lost_samples(wav)
    since = started - _EPOCH
    start_s = since.days % 7 * 86_400 + since.seconds + since.microseconds / 1e6  # exact to 0.1 ns
    sigma_s = start_sigma_s(wav.start)
    clock = Clock(start_s=start_s, rate_hz=float(wav.sample_rate_hz), sigma_s=sigma_s, first=0, stop=wav.frames)
    return Recording(
        file=file,
        receiver=receiver,
        started=started,
        centre_frequency_hz=wav.centre_frequency_hz if centre_hz is None else centre_hz,
        nominal_rate_hz=float(wav.sample_rate_hz),
        voltage=wav.voltage,
        clock=clock,
        clocks=(clock,),
    )


def start_sigma_s(start: Start | None) -> float:
    """Standard deviation of a start: any instant within its last digit is as likely, and the PC adds its own."""
    return math.hypot(float(start.resolution_s) / math.sqrt(12), PC_CLOCK_SIGMA_S) if start else math.nan


def clock_source(start: Start | None) -> str:
    """What tells when a recording begins, for the attribute ``clock_source``."""
    return f"start time by a PC, to {float(start.resolution_s):g} s" if start else "unknown"


def _warn_of_lost_samples(wav: WavFile) -> None:
    """Say so where a header's stop tells that the recording lasted longer than its samples."""
    if wav.start is None or wav.stop is None:
        return
    lost_s = (wav.stop - wav.start.time).total_seconds() - wav.frames / wav.sample_rate_hz
    if lost_s > _LOST_S:
        _log.warning(
            "%s: lasted %.1f s longer than its samples do; some were lost, after which its times are wrong",
            wav.file.name,
            lost_s,
        )


def _check_centres(recordings: Sequence[Recording]) -> None:
    unknown = [each.file.name for each in recordings if math.isnan(each.centre_frequency_hz)]
    if unknown and len(unknown) < len(recordings):
        raise ValueError(
            f"{unknown[0]}: neither its header nor its name tells its centre frequency, but others do; name it like "
            "station_20150519_082501Z_14100kHz.wav, or state centre_frequency_hz"
        )


def _attributes(
    recordings: Sequence[Recording], windows: Windows, files: Sequence[WavFile], stated: dict[str, Any]
) -> dict[str, Any]:
    """Attributes that recordings tell, and what is assumed of SDRs at PCs."""
    frequency_hz = windows.band.centre_hz
    at = f" at {frequency_hz / 1e3:g} kHz" if math.isfinite(frequency_hz) else ""
    sigma_s = stated.get("clock_sigma_s", [each.clock.sigma_s for each in recordings])
    return {
        "title": f"WAV recordings{at}, {min(each.started for each in recordings):%Y-%m-%dT%H:%M:%SZ}",
        "source": "WAV: " + ", ".join(each.file.name for each in recordings),
        "clock_source": "stated" if "clock_sigma_s" in stated else [clock_source(wav.start) for wav in files],
        "clock_sigma_s": sigma_s,
        "max_clock_offset_s": _CLOCK_SIGMAS * float(np.max(sigma_s)),
        "max_frequency_offset_hz": float(np.nanmax([_LEAST_OFFSET_HZ, _OSCILLATOR * frequency_hz])),
        "nlos_ratio": 0.0,
        "nlos_excess_mean_s": 0.0,
        "link_sigma_db": np.nan,
        "min_snr_db": 0.0,
    }


def _start_time(recordings: Sequence[Recording], windows: Windows) -> dict[str, Any]:
    """Coordinate of the UTC of every window's first sample."""
    first = recordings[0]
    begun = np.datetime64(first.started.replace(tzinfo=None), "ns")
    since_s = windows.start_s - first.clock.start_s
    times = begun + np.round(since_s * 1e9).astype("timedelta64[ns]")
    return {"start_time": ("sample", times, {"long_name": "UTC of the first value in time"})}
