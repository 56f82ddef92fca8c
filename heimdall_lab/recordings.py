"""Read real recordings of distributed receivers into the dataset contract."""

import csv
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.special import i0

SAMPLE_RATE_HZ = 12_000
MIN_RECEIVERS = 3
MIN_FRESH_STAMPS = 4  # a line takes two; two degrees of freedom are left to estimate its scatter

_WEEK_S = 604_800.0
_CONSENSUS_S = 1e-3  # far above oscillator drift over a recording, far below one lost block (43 ms)
_OUTLIER_SIGMAS = 6.0
_CLOCK_SIGMA_FLOOR_S = 100e-9  # good receivers scatter by 10 to 80 ns; few stamps can agree better by chance
_INT16_MAX = 32_767

# 32 taps over a transition band of 0.2 of the sample rate: Kaiser's design formula gives 100 dB and beta 10.
# Source: Oppenheim & Schafer, Discrete-Time Signal Processing, 3rd ed., eqs. (7.75) and (7.76)
_HALF_WIDTH = 16
_KAISER_BETA = 10.05

_FILE_NAME = re.compile(r"^(?P<start>\d{8}T\d{6}Z)_(?P<frequency>\d+)_.+\.wav$", re.IGNORECASE)

# (dims, units, long_name) of the truth that no recording holds
_UNKNOWN_TRUTH: dict[str, tuple[tuple[str, ...], str, str]] = {
    "transmitter_power": (("sample",), "dBm", "transmitter power"),
    "emission_time": (("sample",), "s", "common offset subtracted from all arrivals"),
    "propagation_delay": (("sample", "receiver"), "s", "propagation delay"),
    "excess_delay": (("sample", "receiver"), "s", "excess delay of the first path"),
    "clock_offset": (("sample", "receiver"), "s", "receiver clock error"),
    "frequency_offset": (("sample", "receiver"), "Hz", "receiver oscillator error"),
    "doppler": (("sample", "receiver"), "Hz", "Doppler shift"),
    "path_loss": (("sample", "receiver"), "dB", "path loss"),
    "received_power": (("sample", "receiver"), "dBm", "received power"),
    "noise_power": (("sample", "receiver"), "dBm", "noise power over the sample rate"),
    "snr": (("sample", "receiver"), "dB", "signal-to-noise ratio in the occupied bandwidth"),
    "rms_bandwidth": (("sample",), "Hz", "rms bandwidth"),
    "occupied_bandwidth": (("sample",), "Hz", "occupied bandwidth"),
    "gdop": (("sample",), "1", "geometric dilution of precision"),
    "crlb_rmse": (("sample",), "m", "Cramér-Rao bound on the position error"),
}

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class _Blocks:
    """One KiwiSDR file as it was written: B blocks of N samples.

    Attributes
    ----------
    iq : (B * N,) complex128, full scale of the WAV = 1.
    block_length : N, samples of one block.
    fix_age_s : (B,) int64, age of the last GNSS fix in whole seconds.
    stamp_s : (B,) float64, GPS second of week of each block's first sample, 0 where there was no fix yet.
    header_rate_hz : nominal sample rate of the header.
    """

    iq: ComplexArray
    block_length: int
    fix_age_s: npt.NDArray[np.int64]
    stamp_s: FloatArray
    header_rate_hz: int


@dataclass(frozen=True)
class _Clock:
    """Sample ``n`` was taken at GPS second of week ``start_s + n / rate_hz``.

    ``first`` and ``stop`` bound the samples that the stamps vouch for; ``sigma_s`` is the rms residual of the fresh
    stamps.
    """

    start_s: float
    rate_hz: float
    sigma_s: float
    first: int
    stop: int


@dataclass(frozen=True)
class _Recording:
    """One receiver's samples, clock and position."""

    name: str
    position: tuple[float, float, float]
    started: datetime
    centre_frequency_hz: float
    iq: ComplexArray
    clock: _Clock


def read_kiwi(
    paths: Iterable[str | Path],
    receivers: str | Path,
    *,
    window_s: float = 2.0,
    transmitter: Sequence[float] | None = None,
) -> xr.Dataset:
    """Read simultaneous GNSS-stamped KiwiSDR recordings onto one time axis, cut into windows.

    Each receiver's sample clock is a line fitted to its fresh GPS stamps; every recording is then interpolated at the
    same GPS instants, 12 000 a second, and the time that all of them cover is cut into consecutive windows.

    Parameters
    ----------
    paths
        WAV files as kiwirecorder names them, ``<start>_<frequency in Hz>_<receiver>_iq.wav``, one a receiver.
    receivers
        CSV file with the columns ``name``, ``latitude_deg``, ``longitude_deg`` and, optionally, ``altitude_m`` (0 where
        missing). A recording belongs to the receiver whose name stands between underscores in its file name.
    window_s
        Length of one window in seconds.
    transmitter
        Known transmitter, (latitude, longitude) or (latitude, longitude, altitude) in degrees and metres.

    Returns
    -------
    xr.Dataset
        Dimensions ``sample`` (windows), ``receiver`` (in the order of `paths`), ``component`` and ``time``. ``iq`` is
        int16 with ``iq_full_scale`` (sample, receiver); the full scale of the WAV counts as 1 √mW, so levels are
        uncalibrated and comparable within one receiver only. Unknown truth is NaN. The attributes ``clock_sigma_s``
        and ``receiver_sample_rate_hz`` hold one measured value a receiver.

    Raises
    ------
    ValueError
        A file is truncated or not a KiwiSDR recording, has too few fresh GPS stamps, or belongs to no receiver, or to
        more than one; fewer than three receivers; different centre frequencies; less common time than one window.

    Source
    ------
    KiwiSDR WAV layout: github.com/jks-prv/kiwiclient, ``kiwirecorder.py``, option ``--kiwi-wav``.
    """
    window_length = _window_length(window_s)
    latitude, longitude, altitude = _transmitter_position(transmitter)
    positions = _read_receivers(Path(receivers))
    files = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    names = [_receiver_of(file, positions) for file in files]
    _check_receivers(files, names)
    recordings = [_read_recording(file, name, positions[name]) for file, name in zip(files, names, strict=True)]
    centre_frequency_hz = _common_frequency(recordings)
    start_s, length = _common_span(recordings, window_length)
    windows = length // window_length

    iq = np.empty((windows, len(recordings), 2, window_length), dtype=np.int16)
    full_scale = np.empty((windows, len(recordings)))
    for index, recording in enumerate(recordings):
        resampled = _resample(recording.iq, recording.clock, start_s, windows * window_length)
        iq[:, index], full_scale[:, index] = _quantise(resampled.reshape(windows, window_length))

    begun = min(recording.started for recording in recordings)
    time_s = np.arange(window_length) / SAMPLE_RATE_HZ
    dataset = xr.Dataset(
        coords={
            "sample": np.arange(windows),
            "receiver": np.arange(len(recordings)),
            "receiver_name": ("receiver", np.array([recording.name for recording in recordings])),
            "component": ["i", "q"],
            "time": ("time", time_s, {"units": "s", "long_name": "time in the window"}),
        },
        attrs={
            "title": f"KiwiSDR recordings at {centre_frequency_hz / 1e3:g} kHz, {begun:%Y-%m-%dT%H:%M:%SZ}",
            "source": "KiwiSDR: " + ", ".join(file.name for file in files),
            "sample_rate_hz": float(SAMPLE_RATE_HZ),
            "centre_frequency_hz": centre_frequency_hz,
            "gps_seconds_of_week": start_s % _WEEK_S,
            "propagation": "ground_wave",
            "clock_sigma_s": [recording.clock.sigma_s for recording in recordings],
            "receiver_sample_rate_hz": [recording.clock.rate_hz for recording in recordings],
        },
    )
    dataset["iq"] = _variable(("sample", "receiver", "component", "time"), iq, "1", "complex baseband samples")
    dataset["iq_full_scale"] = _variable(
        ("sample", "receiver"), full_scale, "mW^0.5", "full scale of iq, where full scale of the WAV counts as 1"
    )
    dataset["receiver_present"] = _variable(
        ("sample", "receiver"), np.ones((windows, len(recordings)), dtype=bool), "bool", "receiver is present"
    )
    positioned = _position_variables(recordings, windows, (latitude, longitude, altitude))
    return dataset.assign(positioned | _unknown_truth(windows, len(recordings)))


def _variable(dims: tuple[str, ...], values: npt.NDArray[Any], units: str, long_name: str) -> xr.Variable:
    return xr.Variable(dims, values, {"units": units, "long_name": long_name})


def _position_variables(
    recordings: Sequence[_Recording], windows: int, transmitter: tuple[float, float, float]
) -> dict[str, xr.Variable]:
    """Positions of the receivers, (sample, receiver), and of the transmitter, (sample,)."""
    variables = {}
    for axis, (coordinate, units) in enumerate(
        [("latitude", "degrees_north"), ("longitude", "degrees_east"), ("altitude", "m")]
    ):
        per_receiver = np.array([recording.position[axis] for recording in recordings])
        variables[f"receiver_{coordinate}"] = _variable(
            ("sample", "receiver"), np.tile(per_receiver, (windows, 1)), units, f"receiver {coordinate}"
        )
        variables[f"transmitter_{coordinate}"] = _variable(
            ("sample",), np.full(windows, transmitter[axis]), units, f"transmitter {coordinate}"
        )
    return variables


def _unknown_truth(windows: int, receivers: int) -> dict[str, xr.Variable]:
    size = {"sample": windows, "receiver": receivers}
    return {
        name: _variable(dims, np.full([size[dim] for dim in dims], np.nan), units, long_name)
        for name, (dims, units, long_name) in _UNKNOWN_TRUTH.items()
    }


def _window_length(window_s: float) -> int:
    if not np.isfinite(window_s) or round(window_s * SAMPLE_RATE_HZ) < 1:
        raise ValueError(f"window_s is {window_s}; give a positive length in seconds, at least one sample")
    return round(window_s * SAMPLE_RATE_HZ)


def _transmitter_position(transmitter: Sequence[float] | None) -> tuple[float, float, float]:
    if transmitter is None:
        return np.nan, np.nan, np.nan
    if len(transmitter) not in (2, 3):
        raise ValueError(
            f"transmitter is {tuple(transmitter)}; give (latitude, longitude) or (latitude, longitude, altitude)"
        )
    latitude, longitude, altitude = (*map(float, transmitter), 0.0)[:3]
    _check_position("transmitter", latitude, longitude, altitude)
    return latitude, longitude, altitude


def _check_position(owner: str, latitude: float, longitude: float, altitude: float) -> None:
    if not (abs(latitude) <= 90.0 and abs(longitude) <= 180.0 and np.isfinite(altitude)):
        raise ValueError(
            f"{owner} is at ({latitude}, {longitude}, {altitude}); "
            "give latitude within ±90°, longitude within ±180° and a finite altitude in metres"
        )


def _read_receivers(path: Path) -> dict[str, tuple[float, float, float]]:
    """Read name → (latitude in degrees, longitude in degrees, altitude in m)."""
    positions: dict[str, tuple[float, float, float]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        missing = {"name", "latitude_deg", "longitude_deg"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{path.name} has no column {', '.join(sorted(missing))}; add it to the header")
        for row in rows:
            name = (row["name"] or "").strip()
            where = f"{path.name} line {rows.line_num}, receiver {name!r}"
            try:
                latitude, longitude = float(row["latitude_deg"]), float(row["longitude_deg"])
                altitude = float(row.get("altitude_m") or 0.0)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: a coordinate is not a number; write decimal degrees and metres") from error
            if not name or name in positions:
                raise ValueError(f"{where}: the name is {'repeated' if name else 'empty'}; give every receiver its own")
            _check_position(where, latitude, longitude, altitude)
            positions[name] = (latitude, longitude, altitude)
    return positions


def _receiver_of(file: Path, positions: dict[str, tuple[float, float, float]]) -> str:
    matches = [name for name in positions if f"_{name}_" in file.name]
    if len(matches) != 1:
        found = f"names {' and '.join(matches)}" if matches else f"names none of {', '.join(positions) or '(empty)'}"
        raise ValueError(
            f"{file.name} {found} from the receivers table; "
            "the file name must hold exactly one receiver's name, between underscores"
        )
    return matches[0]


def _check_receivers(files: Sequence[Path], names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"paths holds more than one recording of {', '.join(repeated)}; give one a receiver")
    if len(names) < MIN_RECEIVERS:
        raise ValueError(
            f"paths holds {len(names)} recordings ({', '.join(file.name for file in files)}); "
            f"a fix by time differences needs at least {MIN_RECEIVERS} receivers"
        )


def _read_recording(file: Path, name: str, position: tuple[float, float, float]) -> _Recording:
    matched = _FILE_NAME.match(file.name)
    if matched is None:
        raise ValueError(
            f"{file.name} does not say when and where it was tuned; name it like 20200813T065220Z_77500_{name}_iq.wav"
        )
    try:
        started = datetime.strptime(matched["start"].upper(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{file.name}: {matched['start']} is no date; write YYYYMMDDThhmmssZ") from error
    blocks = _parse_blocks(file.read_bytes(), file.name)
    return _Recording(name, position, started, float(matched["frequency"]), blocks.iq, _fit_clock(blocks, file.name))


def _parse_blocks(content: bytes, name: str) -> _Blocks:
    """Parse the bytes of one KiwiSDR WAV: ``fmt``, then pairs of ``kiwi`` (stamp) and ``data`` (samples) chunks."""
    if len(content) < 12 or content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError(f"{name} is not a RIFF/WAVE file; give the WAV that kiwirecorder wrote")
    declared = 8 + int.from_bytes(content[4:8], "little")
    if declared != len(content):
        raise ValueError(f"{name} has {len(content)} bytes, its header says {declared}; fetch the whole file again")
    header_rate_hz, first = _parse_format(content, name)
    data_size = int.from_bytes(content[first + 22 : first + 26], "little")
    if data_size == 0 or data_size % 4 or (len(content) - first) % (26 + data_size):
        raise ValueError(f"{name} ends inside a block of {data_size} bytes of samples; fetch the whole file again")
    layout = np.dtype(
        [
            ("kiwi", "S4"), ("kiwi_size", "<u4"), ("fix_age", "u1"), ("unused", "u1"), ("second", "<u4"), ("ns", "<u4"),
            ("data", "S4"), ("data_size", "<u4"), ("iq", "<i2", (data_size // 4, 2)),
        ]
    )  # fmt: skip
    block = np.frombuffer(content, dtype=layout, offset=first)
    intact = (block["kiwi"] == b"kiwi") & (block["data"] == b"data")
    intact &= (block["kiwi_size"] == 10) & (block["data_size"] == data_size)
    if not intact.all():
        broken = int(np.argmin(intact))
        raise ValueError(
            f"{name} is garbled in block {broken} (byte {first + broken * layout.itemsize}); fetch the file again"
        )
    samples = block["iq"].astype(np.float64) / (_INT16_MAX + 1)  # (B, N, 2)
    return _Blocks(
        iq=(samples[..., 0] + 1j * samples[..., 1]).ravel(),
        block_length=data_size // 4,
        fix_age_s=block["fix_age"].astype(np.int64),
        stamp_s=block["second"].astype(np.float64) + 1e-9 * block["ns"],
        header_rate_hz=header_rate_hz,
    )


def _parse_format(content: bytes, name: str) -> tuple[int, int]:
    """Return the header's sample rate in Hz and the offset of the first ``kiwi`` chunk."""
    position, header_rate_hz = 12, 0
    while position + 8 <= len(content):
        chunk, size = struct.unpack_from("<4sI", content, position)
        if chunk == b"fmt " and size >= 16 and position + 24 <= len(content):
            encoding, channels, header_rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", content, position + 8)
            if (encoding, channels, bits) != (1, 2, 16):
                raise ValueError(
                    f"{name} has encoding {encoding}, {channels} channels and {bits} bits; "
                    "record IQ: two channels of 16-bit PCM"
                )
        if chunk in (b"kiwi", b"data"):
            break
        position += 8 + size + size % 2
    else:
        chunk = b""
    if chunk != b"kiwi" or position + 26 > len(content):
        raise ValueError(f"{name} has no GNSS stamps (no kiwi chunk before the samples); record it with --kiwi-wav")
    if abs(header_rate_hz / SAMPLE_RATE_HZ - 1.0) > 0.01:
        raise ValueError(
            f"{name} has a header sample rate of {header_rate_hz} Hz; only {SAMPLE_RATE_HZ} Hz channels can be read"
        )
    return header_rate_hz, position


def _fresh(fix_age_s: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Return the blocks whose stamp comes from a new fix, (F,).

    The block at which the fix age falls still carries the extrapolation of the fix before; the jump of the stamp to
    the new fix shows one block later.
    """
    renewed = np.flatnonzero(np.diff(fix_age_s) < 0) + 2
    return renewed[renewed < fix_age_s.size]


def _week_wrapped(seconds: FloatArray) -> FloatArray:
    """Wrap a time difference in seconds into half a GPS week on either side of zero."""
    return (seconds + _WEEK_S / 2) % _WEEK_S - _WEEK_S / 2


def _fit_clock(blocks: _Blocks, name: str) -> _Clock:
    """Fit GPS time against the sample number, by least squares on the fresh stamps that agree on one line."""
    index = np.arange(blocks.stamp_s.size, dtype=np.float64) * blocks.block_length  # (B,) sample number of each stamp
    fresh = _fresh(blocks.fix_age_s)
    fresh = fresh[blocks.stamp_s[fresh] > 0.0]
    fresh = fresh[_agreeing(index[fresh], blocks.stamp_s[fresh], blocks.header_rate_hz)]
    _check_fresh(fresh.size, name)
    origin = blocks.stamp_s[fresh[0]]
    elapsed = _week_wrapped(blocks.stamp_s - origin)  # (B,)
    fresh = fresh[_close(index[fresh], elapsed[fresh])]
    _check_fresh(fresh.size, name)
    slope, intercept = np.polyfit(index[fresh], elapsed[fresh], 1)
    residual = elapsed - (intercept + slope * index)  # (B,)
    # A block lost in transmission shifts every stamp after it, so samples are trusted only between stamps that fit.
    trusted = np.flatnonzero(np.abs(residual) < _CONSENSUS_S)
    return _Clock(
        start_s=float(origin + intercept),
        rate_hz=float(1.0 / slope),
        sigma_s=float(np.sqrt(np.sum(residual[fresh] ** 2) / (fresh.size - 2))),
        first=int(trusted[0]) * blocks.block_length,
        stop=(int(trusted[-1]) + 1) * blocks.block_length,
    )


def _close(index: FloatArray, elapsed_s: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which stamps, of (F,), lie within six sigmas of the line of median slope and median offset."""
    # The slopes of pairs half a recording apart: Theil's incomplete method, F / 2 of them instead of F² / 2
    half = index.size // 2
    slope = np.median((elapsed_s[half:] - elapsed_s[:-half]) / (index[half:] - index[:-half]))
    residual = elapsed_s - slope * index
    residual -= np.median(residual)
    spread = max(1.4826 * float(np.median(np.abs(residual))), _CLOCK_SIGMA_FLOOR_S)
    return np.abs(residual) <= _OUTLIER_SIGMAS * spread


def _check_fresh(count: int, name: str) -> None:
    if count < MIN_FRESH_STAMPS:
        raise ValueError(
            f"{name} has {count} fresh GPS stamps that agree on one clock, {MIN_FRESH_STAMPS} are needed; "
            "record for longer (a fix comes every 2 to 3 s) and check the receiver's GNSS reception"
        )


def _agreeing(index: FloatArray, stamp_s: FloatArray, header_rate_hz: float) -> npt.NDArray[np.intp]:
    """Return the stamps, of (F,), on the line through two of them that most stamps agree with.

    Lines through pairs a quarter of the recording apart, with a rate within 0.1 % of the header's, are candidates.
    """
    lag = max(1, index.size // 4)
    best = np.arange(0)
    for left in range(index.size - lag):
        step_s = float(_week_wrapped(stamp_s[left + lag : left + lag + 1] - stamp_s[left])[0])
        step = index[left + lag] - index[left]
        if abs(step_s * header_rate_hz / step - 1.0) > 1e-3:
            continue
        residual = _week_wrapped(stamp_s - stamp_s[left]) - step_s / step * (index - index[left])  # (F,)
        agreeing = np.flatnonzero(np.abs(residual) < _CONSENSUS_S)
        if agreeing.size > best.size:
            best = agreeing
    return best


def _common_frequency(recordings: Sequence[_Recording]) -> float:
    tuned = {recording.name: recording.centre_frequency_hz for recording in recordings}
    if len(set(tuned.values())) > 1:
        listed = ", ".join(f"{name} {frequency:.0f} Hz" for name, frequency in tuned.items())
        raise ValueError(f"paths holds different centre frequencies ({listed}); give recordings of one frequency")
    return next(iter(tuned.values()))


def _common_span(recordings: Sequence[_Recording], window_length: int) -> tuple[float, int]:
    """Return the GPS second of the first common output sample, and the number of them.

    The start is a multiple of the output's sample interval, so that it does not depend on which receivers take part.
    """
    dates = [recording.started for recording in recordings]
    if (max(dates) - min(dates)).total_seconds() > _WEEK_S / 2:
        raise ValueError(
            f"paths holds recordings from {min(dates):%Y-%m-%d} to {max(dates):%Y-%m-%d}, which do not overlap; "
            "give simultaneous recordings"
        )
    clocks = [recording.clock for recording in recordings]
    anchor = clocks[0].start_s
    starts = anchor + _week_wrapped(np.array([clock.start_s for clock in clocks]) - anchor)  # (R,)
    rates = np.array([clock.rate_hz for clock in clocks])
    begin = starts + (np.array([clock.first for clock in clocks]) + _HALF_WIDTH) / rates
    end = starts + (np.array([clock.stop for clock in clocks]) - 1 - _HALF_WIDTH) / rates
    first, last = np.ceil(begin.max() * SAMPLE_RATE_HZ), np.floor(end.min() * SAMPLE_RATE_HZ)
    length = max(0, int(last - first) + 1)
    if length < window_length:
        late, early = recordings[int(begin.argmax())].name, recordings[int(end.argmin())].name
        raise ValueError(
            f"the recordings overlap for {length / SAMPLE_RATE_HZ:.3f} s ({late} begins last, {early} ends first), "
            f"window_s is {window_length / SAMPLE_RATE_HZ:g} s; give simultaneous recordings or a shorter window"
        )
    return float(first) / SAMPLE_RATE_HZ, length


def _resample(iq: ComplexArray, clock: _Clock, start_s: float, length: int) -> ComplexArray:
    """Interpolate a recording at the GPS instants ``start_s + k / 12 000``, k < `length`."""
    begin_s = float(_week_wrapped(np.array([start_s - clock.start_s]))[0])
    return _interpolate(iq, (begin_s + np.arange(length) / SAMPLE_RATE_HZ) * clock.rate_hz)


def _interpolate(samples: ComplexArray, position: FloatArray) -> ComplexArray:
    """Interpolate (N,) uniform samples at (M,) fractional positions by a Kaiser-windowed sinc.

    Positions lie at least 16 samples inside both ends. The error is below −80 dB for frequencies within ±0.4 of the
    sample rate.
    """
    # Source: Smith & Gossett, "A flexible sampling-rate conversion method", ICASSP 1984
    whole = np.floor(position).astype(np.intp)
    fraction = position - whole
    sine = np.sin(np.pi * fraction) / np.pi  # sin(π(f − k)) = (−1)^k sin(πf)
    total = np.zeros(position.shape, dtype=np.complex128)
    for tap in range(1 - _HALF_WIDTH, _HALF_WIDTH + 1):
        distance = fraction - tap
        sinc = np.divide(-sine if tap % 2 else sine, distance, out=np.ones_like(sine), where=distance != 0.0)
        window = i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (distance / _HALF_WIDTH) ** 2))) / i0(_KAISER_BETA)
        total += samples[whole + tap] * (sinc * window)
    return total


def _quantise(windows: ComplexArray) -> tuple[npt.NDArray[np.int16], FloatArray]:
    """Scale each window of (W, N) to the int16 range: (W, 2, N) int16 and (W,) full scale.

    The full scale of the WAV counts as 1 √mW: the absolute level of a KiwiSDR recording is not calibrated.
    """
    parts = np.stack([windows.real, windows.imag], axis=1)  # (W, 2, N)
    peak = np.abs(parts).max(axis=(1, 2))
    full_scale = np.where(peak > 0.0, peak, 1.0)
    return np.rint(parts / full_scale[:, None, None] * _INT16_MAX).astype(np.int16), full_scale
