"""KiwiSDR recordings with GNSS stamps: the file format, and the receiver's clock."""

import mmap
import struct
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from heimdall_lab.datasets.recordings.stretches import StationError
from heimdall_lab.datasets.recordings.time_axis import Clock, week_wrapped
from heimdall_lab.datasets.recordings.wav_files import MOST_CHUNKS

# Of channels: up to eight, three wide ones, and those of Web-888. Stamps count the delay of each mode's filters to some
# tenth of a microsecond: C. Mayer, github.com/jks-prv/Beagle_SDR_GPS, pull request 187 (2019).
SAMPLE_RATES_HZ = (12_000, 20_250, 48_000)
MIN_FRESH_STAMPS = 4  # a line takes two; two degrees of freedom are left to estimate its scatter

_CONSENSUS_S = 1e-3  # far above oscillator drift over a recording, far below one lost block (43 ms)
_OUTLIER_SIGMAS = 6.0
_CLOCK_SIGMA_FLOOR_S = 100e-9  # good receivers scatter by 10 to 80 ns; few stamps can agree better by chance
_MOST_CANDIDATES = 1000  # lines through two stamps that are tried: of all in forty minutes
_INT16_MAX = 32_767
_RATE_TOLERANCE = 0.01  # of the header's sample rate, which is that of the receiver's own oscillator

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Blocks:
    """One KiwiSDR file as it was written: B blocks of N samples.

    Attributes
    ----------
    samples : (B, N, 2) int16, in-phase and quadrature, as the file holds them.
    fix_age_s : (B,) int64, age of the last GNSS fix in whole seconds.
    stamp_s : (B,) float64, GPS second of week of each block's first sample, 0 where there was no fix yet.
    header_rate_hz : nominal sample rate of the header.
    """

    samples: npt.NDArray[np.int16]
    fix_age_s: npt.NDArray[np.int64]
    stamp_s: FloatArray
    header_rate_hz: int

    @property
    def nominal_rate_hz(self) -> int:
        """Sample rate that the receiver is meant to have."""
        return min(SAMPLE_RATES_HZ, key=lambda rate_hz: abs(self.header_rate_hz - rate_hz))

    @property
    def block_length(self) -> int:
        """N, samples of one block."""
        return self.samples.shape[1]

    def voltage(self, first: int, stop: int) -> ComplexArray:
        """Samples first … stop − 1, complex128, of which the full scale of the WAV is 1."""
        block, length = first // self.block_length, self.block_length
        parts = self.samples[block : -(-stop // length)].astype(np.float64) / (_INT16_MAX + 1)
        values = parts[..., 0] + 1j * parts[..., 1]
        return values.ravel()[first - block * length : stop - block * length]


def parse_wav(content: bytes | mmap.mmap, name: str) -> Blocks:
    """Parse the bytes of one KiwiSDR WAV, which may be a mapped file.

    They are ``fmt``, then pairs of ``kiwi`` (stamp) and ``data`` (samples) chunks.
    """
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
    return Blocks(
        samples=block["iq"],
        fix_age_s=block["fix_age"].astype(np.int64),
        stamp_s=block["second"].astype(np.float64) + 1e-9 * block["ns"],
        header_rate_hz=header_rate_hz,
    )


def _parse_format(content: bytes | mmap.mmap, name: str) -> tuple[int, int]:
    """Return the header's sample rate in Hz and the offset of the first ``kiwi`` chunk."""
    position, header_rate_hz, chunks = 12, 0, 0
    while position + 8 <= len(content) and chunks < MOST_CHUNKS:
        chunks += 1
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
    if all(abs(header_rate_hz / rate_hz - 1.0) > _RATE_TOLERANCE for rate_hz in SAMPLE_RATES_HZ):
        raise ValueError(
            f"{name} has a header sample rate of {header_rate_hz} Hz; channels have one of "
            f"{', '.join(map(str, SAMPLE_RATES_HZ))} Hz"
        )
    return header_rate_hz, position


def _fresh_stamps(fix_age_s: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Return the blocks whose stamp comes from a new fix, (F,).

    The block at which the fix age falls still carries the extrapolation of the fix before; the jump of the stamp to
    the new fix shows one block later.
    """
    renewed = np.flatnonzero(np.diff(fix_age_s) < 0) + 2
    return renewed[renewed < fix_age_s.size]


def fit_clock(blocks: Blocks, name: str) -> Clock:
    """Fit GPS time against the sample number, by least squares on the fresh stamps that agree on one line."""
    index = np.arange(blocks.stamp_s.size, dtype=np.float64) * blocks.block_length  # (B,) sample number of each stamp
    fresh = _fresh_stamps(blocks.fix_age_s)
    fresh = fresh[blocks.stamp_s[fresh] > 0.0]
    fresh = fresh[_consensus(index[fresh], blocks.stamp_s[fresh], blocks.header_rate_hz)]
    _check_fresh(fresh.size, name)
    origin = blocks.stamp_s[fresh[0]]
    elapsed = week_wrapped(blocks.stamp_s - origin)  # (B,)
    fresh = fresh[_inliers(index[fresh], elapsed[fresh])]
    _check_fresh(fresh.size, name)
    slope, intercept = np.polyfit(index[fresh], elapsed[fresh], 1)
    residual = elapsed - (intercept + slope * index)  # (B,)
    # A block lost in transmission shifts every stamp after it, so samples are trusted only between stamps that fit.
    trusted = np.flatnonzero(np.abs(residual) < _CONSENSUS_S)
    return Clock(
        start_s=float(origin + intercept),
        rate_hz=float(1.0 / slope),
        sigma_s=float(np.sqrt(np.sum(residual[fresh] ** 2) / (fresh.size - 2))),
        first=int(trusted[0]) * blocks.block_length,
        stop=(int(trusted[-1]) + 1) * blocks.block_length,
    )


def clocks_between_gaps(blocks: Blocks, clock: Clock) -> list[Clock]:
    """Clocks of all stretches of a recording, in the order of time: that of `fit_clock`, and others of the same rate.

    Where samples were lost, stamps go on at the same rate but later. A stretch needs a fresh stamp of its own.

    Raises
    ------
    StationError
        If stamps leap by whole seconds, as they do when the second is told wrongly: no samples are lost there.
    """
    index = np.arange(blocks.stamp_s.size) * float(blocks.block_length)
    late_s = week_wrapped(blocks.stamp_s - clock.start_s - index / clock.rate_hz)  # (B,)
    fresh = _fresh_stamps(blocks.fix_age_s)
    first, stop = clock.first // blocks.block_length, clock.stop // blocks.block_length
    found = [clock]
    for begin, end in [(0, first), (stop, len(late_s))]:
        for start, after, shift_s in _runs(late_s, fresh, begin, end):
            if abs(shift_s - round(shift_s)) < _CONSENSUS_S:
                raise StationError(f"its stamps leap by {round(shift_s)} s within the recording")
            limits = start * blocks.block_length, after * blocks.block_length
            found.append(replace(clock, start_s=clock.start_s + shift_s, first=limits[0], stop=limits[1]))
    return sorted(found, key=lambda each: each.first)


def _runs(late_s: FloatArray, fresh: npt.NDArray[np.intp], begin: int, end: int) -> list[tuple[int, int, float]]:
    """Runs of blocks between two that are late by the same, (first, stop, how late), by a fresh stamp or more.

    Single stamps that are wrong do not end a run.
    """
    edges = [begin, *(begin + 1 + np.flatnonzero(np.abs(np.diff(late_s[begin:end])) > _CONSENSUS_S)).tolist(), end]
    runs: list[tuple[int, int, float]] = []
    for start, stop in pairwise(edges):
        own = fresh[slice(*np.searchsorted(fresh, (start, stop)))]
        if stop - start < 2 or not own.size:
            continue
        shift_s = float(np.median(late_s[own]))
        if runs and abs(runs[-1][2] - shift_s) < _CONSENSUS_S:
            start = runs.pop()[0]
        runs.append((start, stop, shift_s))
    return runs


def _inliers(index: FloatArray, elapsed_s: FloatArray) -> npt.NDArray[np.bool_]:
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
        raise StationError(
            f"{name} has {count} fresh GPS stamps that agree on one clock, {MIN_FRESH_STAMPS} are needed; "
            "record for longer (a fix comes every 2 to 3 s) and check the receiver's GNSS reception"
        )


def _consensus(index: FloatArray, stamp_s: FloatArray, header_rate_hz: float) -> npt.NDArray[np.intp]:
    """Return the stamps, of (F,), on the line through two of them that most stamps agree with.

    Lines through pairs a quarter of the recording apart, with a rate within 0.1 % of the header's, are candidates; of
    more than `_MOST_CANDIDATES`, every second one and so on.
    """
    lag = max(1, index.size // 4)
    best = np.arange(0)
    for left in range(0, index.size - lag, 1 + max(index.size - lag, 0) // _MOST_CANDIDATES):
        step_s = float(week_wrapped(stamp_s[left + lag : left + lag + 1] - stamp_s[left])[0])
        step = index[left + lag] - index[left]
        if abs(step_s * header_rate_hz / step - 1.0) > 1e-3:
            continue
        residual = week_wrapped(stamp_s - stamp_s[left]) - step_s / step * (index - index[left])  # (F,)
        agreeing = np.flatnonzero(np.abs(residual) < _CONSENSUS_S)
        if agreeing.size > best.size:
            best = agreeing
    return best
