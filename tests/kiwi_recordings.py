"""KiwiSDR recordings written by hand: a known signal, stamped by a clock of a known rate."""

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

BLOCK = 512
FIRST_SECOND = 300_000.25
STALE_SECOND = 288_000
RECEIVERS = {"alpha": (45.0, 7.0), "bravo_2": (46.0, 8.0), "charlie": (45.5, 9.0)}
RATES_HZ = {"alpha": 12_001.0834, "bravo_2": 12_001.0256, "charlie": 12_000.9}

Signal = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.complex128]]


def tone(frequency_hz: float, amplitude: float = 0.5, delay_s: float = 0.0) -> Signal:
    return lambda t: amplitude * np.exp(2j * np.pi * frequency_hz * (t - FIRST_SECOND - delay_s))


def noise(delay_s: float) -> Signal:
    """Band-limited noise as a sum of 60 tones within ±4.8 kHz: its value is known at any instant."""
    rng = np.random.Generator(np.random.Philox(7))
    frequency = rng.uniform(-4_800.0, 4_800.0, 60)
    amplitude = (rng.standard_normal(60) + 1j * rng.standard_normal(60)) * 0.02
    return lambda t: np.exp(2j * np.pi * np.multiply.outer(t - FIRST_SECOND - delay_s, frequency)) @ amplitude


def kiwi_bytes(
    signal: Signal,
    rate_hz: float,
    *,
    start_s: float = FIRST_SECOND,
    blocks: int = 240,
    fix_every: int = 23,
    jitter_s: float = 0.0,
    lost: int | None = None,
    header_rate_hz: int = 12_001,
) -> bytes:
    """Write a KiwiSDR file: empty first stamp, stale second one, one outlier, ages that fall one block before a fix."""
    chunks = []
    rng = np.random.Generator(np.random.Philox(3))
    offset_s = 0.0
    for block in range(blocks):
        sent = block + (lost is not None and block >= lost)  # a lost block shifts everything after it
        begin_s = start_s + sent * BLOCK / rate_hz
        since_fix = (block - 5) % fix_every
        if since_fix == 1:
            offset_s = jitter_s * rng.standard_normal()
        stamp_ns = round((begin_s + offset_s) * 1e9) % (604_800 * 10**9)
        age = since_fix * 2 // fix_every if block >= 2 else 0
        if block == 0:
            stamp_ns = 0
        elif block == 1:
            stamp_ns = STALE_SECOND * 10**9
        elif block == 5 + 2 * fix_every + 1:
            stamp_ns += 3 * 3600 * 10**9
        chunks.append(struct.pack("<4sIBBII", b"kiwi", 10, age, 0, stamp_ns // 10**9, stamp_ns % 10**9))
        value = signal(begin_s + np.arange(BLOCK) / rate_hz) * 32_768
        samples = np.stack([np.rint(value.real), np.rint(value.imag)], axis=1).astype("<i2")
        chunks.append(struct.pack("<4sI", b"data", 4 * BLOCK) + samples.tobytes())
    body = b"".join(chunks)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, header_rate_hz, 4 * header_rate_hz, 4, 16)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(body), b"WAVE") + form + body


def file_name(receiver: str, started: str = "20200813T065220Z", frequency_hz: int = 77_500) -> str:
    return f"{started}_{frequency_hz}_{receiver}_iq.wav"
