"""Waveforms of one kind, and what is measured of them with NumPy and SciPy alone."""

import numpy as np
from scipy import signal as dsp

from heimdall_lab.core.philox import Streams
from heimdall_lab.core.transmission import Signal
from heimdall_lab.simulation.waveforms import kinds

RATE_HZ = 50e3
DEVIATION_HZ = 2500.0
VOICE, TONE, DUAL_TONE, NOISE, FSK4, AFSK1200 = range(6)
P_VALUE = 1e-4  # seeds are fixed; a correct synthesizer fails for one seed in 10⁴


def streams(count: int, seed: int = 3) -> Streams:
    samples = np.arange(count, dtype=np.uint64)
    return Streams(seed, samples, np.zeros_like(samples))


def synthesize(kind: int, count: int, num_time: int, seed: int = 3, **fields: float) -> np.ndarray:
    waveform = kinds.synthesize_waveforms(Signal(**fields), np.full(count, kind), streams(count, seed), num_time)
    assert waveform.shape == (count, num_time)
    assert waveform.dtype == np.complex64
    return waveform.astype(complex)


def instantaneous_frequency_hz(waveform: np.ndarray) -> np.ndarray:
    """Phase advance up to each sample but the first, exact for FM by a cumulative sum: (S, N - 1)."""
    return np.angle(waveform[:, 1:] * waveform[:, :-1].conj()) * RATE_HZ / (2 * np.pi)


def power_outside(waveform: np.ndarray, limit_hz: float) -> np.ndarray:
    """Share of power beyond ±limit in each row, through a Blackman-Harris window (side lobes below -92 dB)."""
    power = np.abs(np.fft.fft(waveform * dsp.windows.blackmanharris(waveform.shape[1]), axis=1)) ** 2
    frequency_hz = np.abs(np.fft.fftfreq(waveform.shape[1], 1 / RATE_HZ))
    return power[:, frequency_hz > limit_hz].sum(axis=1) / power.sum(axis=1)


def occupied_bandwidth_hz(waveform: np.ndarray) -> np.ndarray:
    """99 % of the power, by sorting nothing: the 0.5 % and 99.5 % points of the cumulative periodogram."""
    power = np.abs(np.fft.fftshift(np.fft.fft(waveform, axis=1), axes=1)) ** 2
    frequency_hz = np.fft.fftshift(np.fft.fftfreq(waveform.shape[1], 1 / RATE_HZ))
    cumulative = power.cumsum(axis=1) / power.sum(axis=1, keepdims=True)
    edges = [frequency_hz[np.argmax(cumulative >= level, axis=1)] for level in (0.005, 0.995)]
    return edges[1] - edges[0]
