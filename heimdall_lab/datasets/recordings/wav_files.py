"""WAV files as SDR programs write them: the chunks of the header, and samples where they are needed.

Sources: Microsoft & IBM, Multimedia Programming Interface and Data Specifications 1.0 (1991), chapter 3, by which 8
bits are unsigned about 128 and more are signed. EBU Tech 3306-2009, RF64, section 3.4 and annex A.2, and ITU-R
BS.2088-1, BW64: chunk ``ds64``. L. Åsbrink, Linrad, ``z_WAV_FORMATS.txt``: chunks ``auxi`` of SpectraVue, which HDSDR,
SDRuno and SDR# write too, and ``rcvr`` of Perseus.
"""

import math
import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_FORMAT = struct.Struct("<HHIIHH")  # encoding, channels, sample rate, bytes a second, bytes a frame, bits
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SUBFORMAT = 24  # place of the encoding in an extensible format
_DTYPES = {(_PCM, 1): "u1", (_PCM, 2): "<i2", (_PCM, 3): "u1", (_PCM, 4): "<i4", (_FLOAT, 4): "<f4", (_FLOAT, 8): "<f8"}
_AUXI = struct.Struct("<8H8HI")  # SYSTEMTIME of start and stop (Microsoft, minwinbase.h), centre frequency in Hz
_RCVR = struct.Struct("<iiI")  # centre frequency in Hz, index of the sample rate, time_t of the start
_DS64 = struct.Struct("<QQQ")  # sizes of the file and of the samples, number of samples
_YEARS = range(1970, 2262)  # that NumPy's datetime64[ns] can hold
_LARGEST_HEADER = 2**16  # bytes of a chunk that are looked at
MOST_CHUNKS = 1000  # of a header
_UNKNOWN_SIZES = (0, 2**32 - 1)  # of samples, that programs leave which end before they know better

# As SDRSharp_20160101_231914Z_12kHz_IQ, HDSDR_20150519_082501Z_14100kHz_RF, 20200813T065220Z_77500_station_iq.
# Without Z nobody knows the time zone.
_FILE_NAME = re.compile(
    r"(?<!\d)(?P<date>\d{8})[_T](?P<time>\d{6})Z(_(?P<frequency>\d+(\.\d+)?)(?P<unit>[kMG]?)(Hz)?(?![^_]))?",
    re.IGNORECASE | re.ASCII,
)
_UNITS_HZ = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Start:
    """When the first sample was taken, UTC, and the worth of the last digit that tells it."""

    time: datetime
    resolution_s: Fraction


@dataclass(frozen=True)
class WavFile:
    """One file's header.

    Attributes
    ----------
    file : its path.
    sample_rate_hz, channels, dtype : of the samples; ``dtype`` is that of the bytes where three make a value.
    value_bytes : bytes of one value.
    offset, frames : place of the first sample in bytes, and number of samples of all channels.
    start, stop : as the header tells them, or the file's name; None where neither does.
    centre_frequency_hz : as those tell it; NaN where neither does.
    """

    file: Path
    sample_rate_hz: int
    channels: int
    dtype: str
    value_bytes: int
    offset: int
    frames: int
    start: Start | None
    stop: datetime | None
    centre_frequency_hz: float

    def values(self, first: int, stop: int) -> np.ndarray:
        """Samples first … stop − 1, (N, C): int8, int16, int32 or floats; 24 bits are the upper ones of 32."""
        place = self.offset + first * self.channels * self.value_bytes
        count = max(min(stop, self.frames) - first, 0) * self.channels
        dtype = np.dtype(self.dtype)
        stored = np.fromfile(self.file, dtype, count * self.value_bytes // dtype.itemsize, offset=place)
        if self.value_bytes == 3:
            padded = np.zeros((count, 4), dtype=np.uint8)
            padded[:, 1:] = stored.reshape(count, 3)
            stored = padded.view("<i4")
        elif self.value_bytes == 1:
            stored = (stored ^ np.uint8(128)).view(np.int8)
        return stored.reshape(-1, self.channels)

    def voltage(self, first: int, stop: int) -> np.ndarray:
        """Samples first … stop − 1, complex128 (N,), of which the full scale is 1; those of one channel are real.

        Raises
        ------
        ValueError
            If samples are not finite.
        """
        values = self.values(first, stop)
        full_scale = 2.0 ** (8 * values.dtype.itemsize - 1) if values.dtype.kind == "i" else 1.0
        parts = values.astype(np.float64) / full_scale
        if not (np.abs(parts) <= np.finfo(np.float32).max).all():
            raise ValueError(f"{self.file.name} has samples that are not finite; correct them or cut them out")
        return parts @ np.array([1, 1j])[: self.channels]


def open_wav(file: Path) -> WavFile:
    """Read the header of a WAV file.

    Raises
    ------
    ValueError
        If it is no RIFF, RF64 or BW64 file of integers of 8 to 32 bits or floats, in one channel or two, or is not
        whole.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            chunks, place = read_chunks(opened, size, file.name)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); give a readable recording") from error
    if place is None or len(chunks.get(b"fmt ", b"")) < _FORMAT.size:
        raise ValueError(f"{file.name} has no samples, or no format of them; give the WAV as it was recorded")
    rate_hz, channels, dtype, value_bytes = _format(chunks[b"fmt "], file.name)
    offset, length, exact = place
    frame = channels * value_bytes
    if exact and length % frame:
        raise ValueError(f"{file.name} has {length} bytes of samples, no multiple of {frame}; fetch the file again")
    if length < frame:
        raise ValueError(f"{file.name} holds no samples; record it again")
    start, stop, centre_hz = _told(chunks, file.stem)
    return WavFile(
        file=file,
        sample_rate_hz=rate_hz,
        channels=channels,
        dtype=dtype,
        value_bytes=value_bytes,
        offset=offset,
        frames=length // frame,
        start=start,
        stop=stop,
        centre_frequency_hz=centre_hz,
    )


def has_gnss_stamps(file: Path) -> bool:
    """Whether a file is a recording of a KiwiSDR, with a chunk ``kiwi`` before its samples."""
    with suppress(OSError), file.open("rb") as opened:
        opened.seek(12)
        for _ in range(MOST_CHUNKS):
            head = opened.read(8)
            if len(head) < 8 or not any(head) or head[:4] == b"data":
                return False
            if head[:4] == b"kiwi":
                return True
            length = int.from_bytes(head[4:], "little")
            opened.seek(length + length % 2, os.SEEK_CUR)
    return False


def told_by_name(stem: str) -> tuple[Start | None, float]:
    """Start and centre frequency that a file's name tells, None and NaN where it does not.

    >>> start, frequency_hz = told_by_name("HDSDR_20150519_082501Z_14100kHz_RF")
    >>> f"{start.time:%Y-%m-%d %H:%M:%S}", frequency_hz
    ('2015-05-19 08:25:01', 14100000.0)
    """
    match = _FILE_NAME.search(stem)
    if match is None:
        return None, math.nan
    centre_hz = float(match["frequency"]) * _UNITS_HZ[match["unit"].lower()] if match["frequency"] else math.nan
    try:
        time = datetime.strptime(match["date"] + match["time"], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None, centre_hz
    return Start(time, Fraction(1)), centre_hz


def is_wave(opened: BinaryIO) -> bool:
    """Whether what comes next of a file is the beginning of a WAV."""
    head = opened.read(12)
    return head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE"


def read_chunks(
    opened: BinaryIO, size: int, name: str, begin: int = 0
) -> tuple[dict[bytes, bytes], tuple[int, int, bool] | None]:
    """Chunks of the header by their names, and where samples are: offset, bytes, and whether a header says how many.

    The WAV is ``size`` bytes from ``begin`` on of a file that may hold others.

    Raises
    ------
    ValueError
        If it is none, one of a KiwiSDR, or not whole.
    """
    opened.seek(begin)
    if not is_wave(opened):
        raise ValueError(f"{name} is not a RIFF/WAVE file; give the WAV as it was recorded")
    chunks: dict[bytes, bytes] = {}
    place, position, count = None, 12, 0
    while position + 8 <= size:
        head = opened.read(8)
        if len(head) < 8 or not any(head):  # zeros are what programs reserved and did not use
            break
        count += 1
        if count > MOST_CHUNKS:
            raise ValueError(f"{name} has more than {MOST_CHUNKS:,} chunks; give the WAV as it was recorded")
        chunk, length = head[:4], int.from_bytes(head[4:], "little")
        position += 8
        if chunk == b"kiwi":
            raise ValueError(
                f"{name} is a KiwiSDR recording with GNSS stamps; read it with read_kiwi, or locate --kiwi"
            )
        if chunk == b"data":
            place = position, *_samples_size(length, size - position, chunks.get(b"ds64"), name)
            length = place[1]
        else:
            chunks.setdefault(chunk, opened.read(min(length, _LARGEST_HEADER)))
        position += length + length % 2
        opened.seek(begin + position)
    return chunks, place


def _samples_size(length: int, rest: int, ds64: bytes | None, name: str) -> tuple[int, bool]:
    """Bytes of samples, of those that the file has from there on, and whether that is what a header says."""
    if ds64 is not None and length == 2**32 - 1:
        if len(ds64) < _DS64.size:
            raise ValueError(f"{name} has a ds64 chunk of {len(ds64)} bytes, which is too short; fetch the file again")
        length = _DS64.unpack_from(ds64)[1]
    elif length in _UNKNOWN_SIZES or (rest > length and (rest - length) % 2**32 == 0):  # or more than 32 bits can say
        return rest, False
    if length > rest:
        raise ValueError(f"{name} has {rest} bytes of samples, its header says {length}; fetch the whole file again")
    return length, True


def _format(content: bytes, name: str) -> tuple[int, int, str, int]:
    """Sample rate, channels, type of the stored values, and bytes of one."""
    encoding, channels, rate_hz, _, frame, bits = _FORMAT.unpack_from(content)
    if encoding == _EXTENSIBLE and len(content) >= _SUBFORMAT + 2:
        encoding = int.from_bytes(content[_SUBFORMAT : _SUBFORMAT + 2], "little")
    value_bytes = frame // channels if channels else 0
    if channels not in (1, 2) or (encoding, value_bytes) not in _DTYPES or rate_hz == 0:
        raise ValueError(
            f"{name} has encoding {encoding}, {channels} channels, {bits} bits and {rate_hz} Hz; give IQ in two "
            "channels, or real samples in one, as integers of 8, 16, 24 or 32 bits or floats of 32 or 64"
        )
    return rate_hz, channels, _DTYPES[encoding, value_bytes], value_bytes


def _told(chunks: dict[bytes, bytes], stem: str) -> tuple[Start | None, datetime | None, float]:
    """Start, stop and centre frequency, of the header where it tells them, else of the file's name."""
    start, centre_hz = told_by_name(stem)
    if len(content := chunks.get(b"auxi", b"")) >= _AUXI.size:
        *times, frequency_hz = _AUXI.unpack_from(content)
        begin, stop = _system_time(times[:8]), _system_time(times[8:])
        if begin is not None or not any(times[:8]):  # else it is a chunk of another kind, as SDR Console's XML
            # A clock that tells milliseconds tells none in one of 1,000 recordings; one that does not, in all.
            resolution_s = Fraction(1, 1000) if times[7] else Fraction(1)
            start = start if begin is None else Start(begin, resolution_s)
            return start, stop, float(frequency_hz) or centre_hz
    if len(content := chunks.get(b"rcvr", b"")) >= _RCVR.size:
        frequency_hz, _, posix_s = _RCVR.unpack_from(content)
        begin = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=posix_s)
        return Start(begin, Fraction(1)) if posix_s else start, None, float(frequency_hz) or centre_hz
    return start, None, centre_hz


def _system_time(fields: Any) -> datetime | None:
    """Time of Windows' SYSTEMTIME: year, month, day of the week, day, hour, minute, second, millisecond."""
    year, month, _, day, hour, minute, second, millisecond = fields
    if year not in _YEARS:
        return None
    try:
        return datetime(year, month, day, hour, minute, second, 1000 * millisecond, tzinfo=UTC)
    except ValueError:
        return None
