"""4-FSK and AFSK against the standards that they follow: DMR, Bell 202, AX.25."""

import binascii
import re

import numpy as np
import pytest
from scipy import interpolate, stats
from scipy import signal as dsp
from waveform_signals import (
    AFSK1200,
    DEVIATION_HZ,
    FSK4,
    P_VALUE,
    RATE_HZ,
    instantaneous_frequency_hz,
    occupied_bandwidth_hz,
    power_outside,
    streams,
    synthesize,
)

from heimdall_lab.simulation.waveforms import packets

SYMBOL_RATE_HZ, OUTER_HZ = 4800.0, 1944.0  # ETSI TS 102 361-1, 10.2.2


def root_raised_cosine(symbols: np.ndarray, rolloff: float = 0.2) -> np.ndarray:
    """Impulse response whose gain at 0 Hz is one per symbol, in closed form (Proakis, Digital Communications)."""
    t = np.where(np.abs(symbols) < 1e-9, 1e-9, symbols)
    t = np.where(np.abs(np.abs(4 * rolloff * t) - 1) < 1e-9, t * (1 + 1e-7), t)
    above = np.sin(np.pi * t * (1 - rolloff)) + 4 * rolloff * t * np.cos(np.pi * t * (1 + rolloff))
    return above / (np.pi * t * (1 - (4 * rolloff * t) ** 2))


def received_symbols_hz(waveform: np.ndarray, rate_hz: float) -> tuple[np.ndarray, float]:
    """Frequency of one scene behind the matched filter at the symbol centres, and the timing that opens the eye."""
    frequency_hz = np.angle(waveform[1:] * waveform[:-1].conj()) * rate_hz / (2 * np.pi)  # of samples 1, 2, …
    step = SYMBOL_RATE_HZ / rate_hz
    reach = int(60 / step)
    matched = root_raised_cosine(np.arange(-reach, reach + 1) * step) * step
    filtered_hz = np.convolve(frequency_hz, matched, mode="valid")
    spline = interpolate.CubicSpline(1 + reach + np.arange(len(filtered_hz)), filtered_hz)
    levels_hz = OUTER_HZ / 3 * np.array([-3, -1, 1, 3])
    found = []
    for timing in np.arange(0, 1, 1 / 100):
        count = int((len(filtered_hz) - 2) * step)
        values = spline(1 + reach + (timing + np.arange(count)) / step)
        miss = np.abs(values[:, None] - levels_hz).min(axis=1)
        found.append((np.sqrt((miss**2).mean()), timing, values))
    _, timing, values = min(found, key=lambda item: item[0])
    return values, (timing + (1 + reach) * step) % 1


@pytest.mark.parametrize("rate_hz", [50e3, 61_234.5])
def test_fsk4_symbols_are_those_of_dmr(rate_hz):
    waveform = synthesize(FSK4, 40, 20_000, sample_rate_hz=rate_hz)
    parts = [received_symbols_hz(row, rate_hz) for row in waveform]
    values_hz = np.concatenate([part[0] for part in parts])
    levels_hz = OUTER_HZ / 3 * np.array([-3, -1, 1, 3])
    which = np.abs(values_hz[:, None] - levels_hz).argmin(axis=1)
    # The pulse is cut at 0.2 % rms of the outer deviation, the timing is found to 1 / 200 of a symbol, where the
    # slope of up to 1.5 outer deviations a symbol adds 0.4 % rms: 2 % holds four times both.
    assert np.abs(values_hz - levels_hz[which]).max() < 0.02 * OUTER_HZ
    mean_hz = [values_hz[which == level].mean() for level in range(4)]
    assert mean_hz == pytest.approx(levels_hz, abs=0.002 * OUTER_HZ)
    assert stats.chisquare(np.bincount(which, minlength=4)).pvalue > P_VALUE
    pairs = np.bincount(4 * which[:-1] + which[1:], minlength=16)  # the next symbol does not know this one
    assert stats.chisquare(pairs).pvalue > P_VALUE
    timing = np.array([part[1] for part in parts])
    assert stats.kstest(timing, stats.uniform.cdf).pvalue > P_VALUE


def test_fsk4_has_the_symbol_rate():
    """The excess bandwidth leaves a line of the symbol rate in the squared frequency, and nothing else nearby."""
    num_time = 50_001
    squared = instantaneous_frequency_hz(synthesize(FSK4, 20, num_time)) ** 2
    lines = np.abs(np.fft.rfft(squared * np.hanning(num_time - 1), axis=1))
    frequency_hz = np.fft.rfftfreq(num_time - 1, 1 / RATE_HZ)
    near = (frequency_hz > 4200) & (frequency_hz < 5400)
    assert frequency_hz[near][lines[:, near].argmax(axis=1)] == pytest.approx(np.full(20, SYMBOL_RATE_HZ), abs=1)
    assert (lines[:, near].max(axis=1) / np.median(lines[:, near], axis=1)).min() > 20


def test_fsk4_occupies_what_dmr_is_licensed_for():
    """The emission designator of DMR is 7K60FXE; the symbols of a second give the bandwidth to a percent."""
    waveform = synthesize(FSK4, 40, 50_000)
    bandwidth_hz = occupied_bandwidth_hz(waveform)
    assert bandwidth_hz.mean() == pytest.approx(7600, rel=0.05)
    assert bandwidth_hz.max() < 12.5e3
    # EN 300 113 allows -60 dB in the 8.5 kHz of either adjacent channel that a receiver lets in.
    assert power_outside(waveform, 12.5e3 - 8.5e3 / 2).mean() / 2 < 1e-6


def x25_check(octets: bytes) -> int:
    """CRC-16/X.25 by way of the CRC of CCITT, which takes the bits of an octet the other way round."""
    mirrored = bytes(int(f"{octet:08b}"[::-1], 2) for octet in octets)
    return int(f"{binascii.crc_hqx(mirrored, 0xFFFF):016b}"[::-1], 2) ^ 0xFFFF


def frames_on(line: np.ndarray) -> list[bytes]:
    """Every whole frame between flags of a sequence of levels: undo NRZI, find flags, unstuff, octets."""
    bits = "".join("1" if same else "0" for same in line[1:] == line[:-1])
    frames = []
    for part in bits.split("01111110")[1:-1]:
        content = re.sub("(1{5})0", r"\1", part)
        if content:
            frames.append(bytes(int(content[i : i + 8][::-1], 2) for i in range(0, len(content), 8)))
    return frames


@pytest.fixture(scope="module")
def afsk_audio():
    return instantaneous_frequency_hz(synthesize(AFSK1200, 12, 100_000)) / DEVIATION_HZ  # 2 s


def tone_energy(audio: np.ndarray, tone_hz: float) -> np.ndarray:
    """Energy of a tone in the bit that starts at each sample, (S, N)."""
    time = np.arange(audio.shape[1])
    sums = (audio * np.exp(-2j * np.pi * tone_hz / RATE_HZ * time)).cumsum(axis=1)
    width = round(RATE_HZ / 1200)
    return np.abs(sums[:, width:] - sums[:, :-width]) ** 2


def test_afsk_decodes_to_ax25_frames(afsk_audio):
    assert x25_check(b"123456789") == 0x906E  # the check value of CRC-16/X.25 in the catalogues
    mark = tone_energy(afsk_audio, 1200) > tone_energy(afsk_audio, 2200)
    texts, stations = [], []
    for row in mark:
        decoded = []
        for offset in range(0, 42, 3):
            at = np.round(offset + np.arange(0, len(row) - 42, RATE_HZ / 1200)).astype(int)
            frames = frames_on(row[at[at < len(row)]])
            good = [
                frame
                for frame in frames
                if len(frame) > 18 and x25_check(frame[:-2]).to_bytes(2, "little") == frame[-2:]
            ]
            decoded = max(decoded, good if len(good) == len(frames) else [], key=len)
        assert len(decoded) >= 2  # in 2 s, whatever the lengths: the longest packet lasts 0.71 s
        for frame in decoded:
            assert bytes(octet >> 1 for octet in frame[:6]) == b"APRS  "
            assert bytes(octet >> 1 for octet in frame[7:13]) == b"N0CALL"
            assert [octet & 1 for octet in frame[:14]] == [0] * 13 + [1]  # the address ends with its last octet
            assert frame[14:16] == b"\x03\xf0"
            assert 20 <= len(frame) - 18 <= 63
            assert frame[16:-2].isascii()
            assert frame[16:-2].decode().isprintable()
            texts.append(frame[16:-2])
            stations.append(frame[13] >> 1 & 15)
    assert len(set(texts)) == len(texts)
    assert len(set(stations)) > 6
    characters = np.frombuffer(b"".join(texts), np.uint8)
    assert stats.chisquare(np.bincount(characters - 0x20, minlength=95)).pvalue > P_VALUE


def test_afsk_has_the_tones_of_bell_202(afsk_audio):
    assert np.abs(afsk_audio).max() == pytest.approx(1, abs=0.01)  # a crest of 2200 Hz is missed by 0.5 %
    analytic = dsp.hilbert(afsk_audio, axis=1)
    tone_hz = np.angle(analytic[:, 1:] * analytic[:, :-1].conj()) * RATE_HZ / (2 * np.pi)
    share, edges_hz = np.histogram(tone_hz, bins=np.arange(600, 2900, 20))
    centre_hz = (edges_hz[1:] + edges_hz[:-1]) / 2
    below = centre_hz < 1700
    assert centre_hz[below][share[below].argmax()] == pytest.approx(1200, abs=20)
    assert centre_hz[~below][share[~below].argmax()] == pytest.approx(2200, abs=20)
    # Phase-continuous: no step larger than the highest tone makes in a sample.
    assert np.abs(np.diff(afsk_audio)).max() < 2 * np.pi * 2200 / RATE_HZ * 1.001


def test_afsk_starts_anywhere_in_the_first_packet():
    """Flags are 64 of some 500 bits, so that most windows open inside of a frame, and with any part of a bit gone."""
    levels, elapsed = packets.line_levels(streams(2000, 4), 64)
    assert stats.kstest(elapsed, stats.uniform.cdf).pvalue > P_VALUE
    flags = [line.tobytes() for line in np.diff(levels.astype(np.int8), axis=1) != 0]
    flag_line = (np.array(list("01111110" * 9), dtype=int) == 0).tobytes()
    inside_flags = np.mean([line[:24] in flag_line for line in flags])
    mean_bits = 64 + 8 * (16 + 41.5 + 2) * (1 + 1 / 62)
    assert inside_flags == pytest.approx((64 - 24) / mean_bits, abs=5 * (0.08 / 2000) ** 0.5)
