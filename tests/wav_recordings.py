"""WAV files of SDR programs written by hand, from the published layouts of their headers.

RIFF and `fmt `: Microsoft & IBM, Multimedia Programming Interface and Data Specifications 1.0, chapter 3. `ds64`: EBU
Tech 3306-2009, annex A.2. `auxi` and `rcvr`: Linrad, z_WAV_FORMATS.txt; SYSTEMTIME: Microsoft, minwinbase.h.
"""

import struct
from datetime import UTC, datetime, timedelta

import numpy as np

STARTED = datetime(2016, 1, 1, 23, 19, 14, 123_000, tzinfo=UTC)


def stored(values, kind):
    """Samples (N, C) of ±1 as the bytes of a kind: u1, i2, i3, i4, f4 or f8."""
    if kind[0] == "f":
        return values.astype(f"<{kind}").tobytes()
    size = int(kind[1])
    whole = np.rint(values * (2 ** (8 * size - 1) - 1)).astype("<i8")
    if kind == "u1":
        return (whole + 128).astype("u1").tobytes()
    return whole.astype("<i8").view("u1").reshape(*values.shape, 8)[..., :size].tobytes()


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def format_chunk(kind, channels, rate_hz, extensible=False):
    size = int(kind[1])
    encoding = 3 if kind[0] == "f" else 1
    head = struct.pack("<HIIHH", channels, rate_hz, rate_hz * channels * size, channels * size, 8 * size)
    if not extensible:
        return chunk(b"fmt ", struct.pack("<H", encoding) + head)
    guid = struct.pack("<HHHH", encoding, 0, 0, 0x10) + bytes([0x80, 0, 0, 0xAA, 0, 0x38, 0x9B, 0x71])
    return chunk(b"fmt ", struct.pack("<H", 0xFFFE) + head + struct.pack("<HHI", 22, 8 * size, 0) + guid)


def system_time(time):
    weekday = time.isoweekday() % 7  # Sunday is 0
    milliseconds = time.microsecond // 1000
    return struct.pack(
        "<8H", time.year, time.month, weekday, time.day, time.hour, time.minute, time.second, milliseconds
    )


def auxi_chunk(start, stop, centre_hz):
    """StartTime, StopTime, CenterFreq, ADFrequency, IFFrequency, Bandwidth, IQOffset, four unused, nextfilename."""
    return chunk(b"auxi", system_time(start) + system_time(stop) + struct.pack("<9I", centre_hz, *[0] * 8) + bytes(96))


def rcvr_chunk(start, centre_hz):
    """Centre frequency, index of the sample rate, start, attenuator, preselector, preamplifier, dither, spare."""
    return chunk(b"rcvr", struct.pack("<iiIHBBBB16x", centre_hz, 0, int(start.timestamp()), 0, 0, 0, 0, 0))


def wav_bytes(values, rate_hz, kind="i2", before=b"", after=b"", riff=b"RIFF", extensible=False):
    """A file of samples (N, C); RF64 and BW64 have their sizes in ds64."""
    samples = stored(values, kind)
    head = format_chunk(kind, values.shape[1], rate_hz, extensible) + before
    if riff == b"RIFF":
        body = b"WAVE" + head + chunk(b"data", samples) + after
        return b"RIFF" + struct.pack("<I", len(body)) + body
    tail = b"data" + struct.pack("<I", 2**32 - 1) + samples + b"\0" * (len(samples) % 2) + after
    size = 4 + 36 + len(head) + len(tail)
    ds64 = chunk(b"ds64", struct.pack("<QQQI", size, len(samples), len(values), 0))
    return riff + struct.pack("<I", 2**32 - 1) + b"WAVE" + ds64 + head + tail


def hdsdr_bytes(signal, rate_hz, start=STARTED, seconds=1.0, centre_hz=14_100_000, told=None, **form):
    """A recording of a signal, a function of seconds since STARTED, with a chunk auxi that may tell another start."""
    since_s = (start - STARTED).total_seconds() + np.arange(round(seconds * rate_hz)) / rate_hz
    value = signal(since_s)
    told = start if told is None else told
    auxi = auxi_chunk(told, told + timedelta(seconds=seconds), centre_hz)
    return wav_bytes(np.stack([value.real, value.imag], axis=1), rate_hz, before=auxi, **form)
