"""Frequency modulation, and trains of pulses evaluated at any sample rate.

A pulse is kept as one polynomial for each interval of the sequence that it shapes, which makes a train cost the same
whatever the ratio of its rate to the sample rate, and needs no ratio of small integers. Source: Farrow, "A continuously
variable digital delay element", IEEE ISCAS 1988.
"""

from collections.abc import Callable
from functools import cache
from math import factorial

import numpy as np

from heimdall_lab.core.compiled import njit

_COEFFICIENTS = 8  # of a pulse's polynomials; degree 7 follows 0.6 cycle an interval to 3e-5
_BLOCK = 256  # samples whose phase is summed before it is reduced to a turn
_INTERVALS = 64  # of a train, whose polynomials are summed together
_INTERPOLATION_HALF = 12
_INTERPOLATION_PASS, _INTERPOLATION_STOP = 0.375, 0.625  # cycles per interval
_ROOT_HALF = 32
_ROUNDING = 1.5 * 2.0**52
_S1, _S2, _S3, _S4, _S5, _S6, _S7 = ((-1.0) ** n / factorial(2 * n + 1) for n in range(1, 8))
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = ((-1.0) ** n / factorial(2 * n) for n in range(1, 8))


def frequency_modulate(message: np.ndarray, deviation_hz: float, sample_rate_hz: float) -> np.ndarray:
    """Modulate a carrier at 0 Hz by messages (S, N) within ±1: (S, N) complex64, of magnitude 1 to rounding.

    The phase advances by the message times ``deviation_hz`` from the sample before. It is summed and reduced in
    float64, so that long rows lose none of it.
    """
    waveform = np.empty(message.shape, dtype=np.complex64)
    _modulate(message, deviation_hz / sample_rate_hz, waveform.view(np.float32))
    return waveform


def pulse_train(values: np.ndarray, pulse: np.ndarray, first: np.ndarray, step: float, num_time: int) -> np.ndarray:
    """Evaluate a sum of equally spaced pulses, Σ_k values[k] · pulse(first + n · step − k), at n = 0 … num_time − 1.

    Of values (S, K) and a pulse (2 half, 8), as ``interpolation_pulse`` or ``root_raised_cosine_pulse`` return it, the
    sum is (S, num_time) float32. ``first`` (S,) is the position of each row's first sample, in intervals from value 0,
    and ``step`` the intervals per sample. Values are needed from ``half`` − 1 intervals before the first sample to
    ``half`` + 1 after the last one, else a ValueError is raised.
    """
    half = len(pulse) // 2
    if first.min() < half - 1 or first.max() + (num_time - 1) * step >= values.shape[-1] - half - 1:
        raise ValueError(f"values: {values.shape[-1]} do not reach {half} intervals beyond the samples; give more")
    train = np.empty((len(values), num_time), dtype=np.float32)
    _write_train(values, pulse, first, step, train)
    return train


@cache
def interpolation_pulse() -> np.ndarray:
    """Return the (24, 8) polynomials of a low-pass pulse: through it a sequence becomes a continuous signal.

    Frequencies up to 3/8 cycle per interval pass, and their images from 5/8 on are 85 dB down: a sinc in a Kaiser
    window. Source: Kaiser, "Nonrecursive digital filter design using the I0-sinh window function", ISCAS 1974.
    """
    attenuation_db = 2.285 * 2 * np.pi * (_INTERPOLATION_STOP - _INTERPOLATION_PASS) * 2 * _INTERPOLATION_HALF + 8
    beta = 0.1102 * (attenuation_db - 8.7)

    def pulse(time: np.ndarray) -> np.ndarray:
        inside = np.sqrt(np.maximum(1 - (time / _INTERPOLATION_HALF) ** 2, 0))
        return np.sinc(time) * np.i0(beta * inside) / np.i0(beta)

    return _polynomials(pulse, _INTERPOLATION_HALF)


@cache
def root_raised_cosine_pulse(rolloff: float) -> np.ndarray:
    """Return the (64, 8) polynomials of the pulse whose spectrum is the root of a raised cosine.

    A train of it that passes the same filter once more has the values themselves where they stand. The
    pulse is cut 32 intervals from its middle, where what remains of a random train is 0.2 %.
    Source: ETSI TS 102 361-1, 10.2.2.2.
    """
    inner, outer = (1 - rolloff) / 2, (1 + rolloff) / 2  # cycles per interval
    nodes, weights = np.polynomial.legendre.leggauss(400)
    frequency = outer * (nodes + 1) / 2
    edge = np.cos(np.pi / 2 * (frequency - inner) / (outer - inner))
    response = np.where(frequency <= inner, 1.0, edge) * weights * outer  # both signs of frequency

    def pulse(time: np.ndarray) -> np.ndarray:
        return (response * np.cos(2 * np.pi * frequency * time[..., None])).sum(axis=-1)

    return _polynomials(pulse, _ROOT_HALF)


@njit(cache=True)
def _nearest(value: float) -> float:
    """Nearest integer of a float64 below 2⁵¹: the sum has no bits left for a fraction."""
    return (value + _ROUNDING) - _ROUNDING


@njit(cache=True)
def cos_sin(turns: float) -> tuple[float, float]:
    """Cosine and sine of an angle in turns: sums of powers, without a branch, exact to 1e-10."""
    turns = turns - _nearest(turns)
    half = _nearest(2 * turns)
    sign = 1 - 2 * half * half
    angle = 2 * np.pi * (turns - 0.5 * half)  # within a quarter turn
    square = angle * angle
    sine = (((((_S7 * square + _S6) * square + _S5) * square + _S4) * square + _S3) * square + _S2) * square + _S1
    cosine = (((((_C7 * square + _C6) * square + _C5) * square + _C4) * square + _C3) * square + _C2) * square + _C1
    return sign * (1 + square * cosine), sign * angle * (1 + square * sine)


def _polynomials(pulse: Callable[[np.ndarray], np.ndarray], half: int) -> np.ndarray:
    """Fit a pulse of ±half intervals, (2 half, 8): row j belongs to the value j − half + 1 after the interval's start.

    The polynomials interpolate at Chebyshev's nodes; their variable goes from −1 to 1 over the interval.
    """
    nodes = np.cos(np.pi * (np.arange(_COEFFICIENTS) + 0.5) / _COEFFICIENTS)
    offset = np.arange(1 - half, half + 1)
    samples = pulse((nodes + 1) / 2 - offset[:, None])  # (2 half, 8)
    polynomials = np.linalg.solve(np.vander(nodes, increasing=True), samples.T).T
    polynomials = np.ascontiguousarray(polynomials, dtype=np.float32)
    polynomials.setflags(write=False)
    return polynomials


@njit(cache=True)
def _modulate(message: np.ndarray, turns_per_sample: float, waveform: np.ndarray) -> None:
    """Write cosine and sine of the summed phase of messages (S, N) into interleaved waveforms (S, 2 N)."""
    num_rows, num_time = message.shape
    phase = np.empty(_BLOCK)
    for row in range(num_rows):
        total = 0.0
        for first in range(0, num_time, _BLOCK):
            count = min(_BLOCK, num_time - first)
            for i in range(count):
                total += turns_per_sample * message[row, first + i]
                phase[i] = total
            total -= _nearest(total)
            block = waveform[row, 2 * first : 2 * (first + count)]
            for i in range(count):
                block[2 * i], block[2 * i + 1] = cos_sin(phase[i])


@njit(cache=True)
def _write_train(values: np.ndarray, pulse: np.ndarray, first: np.ndarray, step: float, train: np.ndarray) -> None:
    """Write a train of pulses (S, N): the polynomials of a block of intervals, then the samples inside of it."""
    num_rows, num_time = train.shape
    before = len(pulse) // 2 - 1
    polynomials = np.empty((_COEFFICIENTS, _INTERVALS), dtype=np.float32)
    for row in range(num_rows):
        last = int(first[row] + (num_time - 1) * step)
        sample = 0
        while sample < num_time:
            start = int(first[row] + sample * step)
            count = min(_INTERVALS, last + 2 - start)  # one more, for a last position that rounds up
            _sum_polynomials(values[row, start - before :], pulse, count, polynomials)
            offset = first[row] - start
            end = min(num_time, max(sample + 1, int((count - offset) / step)))
            _evaluate(polynomials, offset + sample * step, step, train[row, sample:end])
            sample = end


@njit(cache=True)
def _evaluate(polynomials: np.ndarray, position: float, step: float, train: np.ndarray) -> None:
    """Evaluate the polynomials of consecutive intervals (8, K) at positions a step apart, (N,)."""
    c0, c1, c2, c3, c4, c5, c6, c7 = polynomials
    for i in range(len(train)):
        now = position + i * step
        k = np.uint32(now)
        x = np.float32(2 * (now - k) - 1)
        train[i] = ((((((c7[k] * x + c6[k]) * x + c5[k]) * x + c4[k]) * x + c3[k]) * x + c2[k]) * x + c1[k]) * x + c0[k]


@njit(cache=True)
def _sum_polynomials(values: np.ndarray, pulse: np.ndarray, count: int, polynomials: np.ndarray) -> None:
    """Write the sum of the pulses' polynomials in some intervals (8, K); four pulses at a time stay in registers."""
    for power in range(_COEFFICIENTS):
        total = polynomials[power]
        total[:] = np.float32(0)
        for tap in range(0, len(pulse), 4):
            a, b, c, d = pulse[tap, power], pulse[tap + 1, power], pulse[tap + 2, power], pulse[tap + 3, power]
            part = values[tap : tap + count + 3]
            for i in range(count):
                total[i] += a * part[i] + b * part[i + 1] + c * part[i + 2] + d * part[i + 3]
