"""From one transmitted waveform to the int16 samples of every receiver: paths, oscillator, noise, AGC and ADC."""

from dataclasses import dataclass, fields

import numpy as np

from heimdall_lab.core.compiled import njit
from heimdall_lab.core.interpolation import LEAD, TABLE, TAPS, kernel, upsample
from heimdall_lab.core.philox import (
    Single,
    Stage,
    Streams,
    Word,
    complex_normal,
    cos_sin_turn,
    lane_word,
    philox4x32,
)
from heimdall_lab.core.units import ADC_MAX

_ADC_MAX = float(ADC_MAX)
_MAX_CODE = np.float32(ADC_MAX)
_LONGEST_BLOCK = 256
_GAIN_STEP = 0.01  # periods of the fastest fading between two values of a path's gain: error of -66 dB
_DRIFT_ERROR = 1e-5  # turns by which a drifting carrier may bend away from a block's straight phase
_ARRIVAL_STEP = 1e-3  # samples by which delays, constant within a block, may differ between two: error of -66 dB

MARGIN = _LONGEST_BLOCK + TAPS  # samples needed of a waveform before and after a receiver's window


@dataclass(frozen=True)
class Links:
    """Delays, gains, oscillators and noise of every link from the transmitters to the receivers.

    Voltages are in √mW, frequencies in cycles per sample, and times those of the receiver's clock. All arrays but the
    gain are float64.
    """

    arrival: np.ndarray  # (S, R, P) of the waveform's time 0 by each path, in samples, at the middle of the window
    arrival_rate: np.ndarray  # (S, R) growth of the arrival by motion and by the clock, samples per sample
    gain: np.ndarray  # (S, R, P, B + 1) complex64, at samples 0, block, 2 · block, …; 0 for a path that is not there
    block: int  # even number of samples, 2 … 256, over which gains are straight lines
    phase: np.ndarray  # (S, R) of the oscillator at the middle of the window, in turns
    frequency: np.ndarray  # (S, R) error at the middle of the window
    drift: np.ndarray  # (S, R) its growth, cycles per sample squared
    noise_amplitude: np.ndarray  # (S, R) root mean square
    full_scale: np.ndarray  # (S, R) of the converter's largest value; not positive where there is no receiver

    def select(self, rows: slice) -> "Links":
        """Links of some scenes."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return Links(**{name: value if name == "block" else value[rows] for name, value in arrays.items()})


def block_length(sample_rate_hz: float, fading_hz: float, drift_hz_per_s: float, clock_rate: float = 0.0) -> int:
    """Even number of samples, 2 … 256, over which gains, oscillators and delays are straight to −66 dB and better.

    Given are the largest Doppler spread of any path, oscillator drift, and rate of a clock, or 0.
    """
    longest = float(_LONGEST_BLOCK)
    if fading_hz > 0:
        longest = min(longest, _GAIN_STEP * sample_rate_hz / fading_hz)
    if drift_hz_per_s > 0:
        longest = min(longest, sample_rate_hz * (8 * _DRIFT_ERROR / drift_hz_per_s) ** 0.5)
    if clock_rate > 0:
        longest = min(longest, _ARRIVAL_STEP / clock_rate)
    return max(2, 2 * int(longest / 2))


def full_scale(signal_power_mw: np.ndarray, noise_power_mw: np.ndarray, headroom_db: float) -> np.ndarray:
    """Amplitude that the AGC maps to the converter's largest value, √mW, shaped like the powers.

    A slow AGC has settled on the mean power of the window, and its gain is constant within it.
    """
    return np.sqrt(signal_power_mw + noise_power_mw) * 10 ** (headroom_db / 20)


def receive(waveform: np.ndarray, links: Links, streams: Streams, iq: np.ndarray, guard: int) -> None:
    """Fill ``iq`` (S, R, 2, N) int16, in-phase and quadrature, with what each receiver's converter delivers.

    ``iq * full_scale / 32767`` is the voltage in √mW; it is 0 where there is no receiver. The waveform (S, 2, M)
    float32 has real and imaginary part, and unit power. Its sample ``guard`` is its time 0: at least the latest arrival
    and MARGIN samples more, with M ≥ guard + N + MARGIN. ``streams`` of the S scenes are for the noise.
    """
    check_waveform_length(links, guard, waveform.shape[-1], iq.shape[-1])
    _receive(
        waveform,
        links.arrival,
        links.arrival_rate,
        links.gain,
        links.block,
        links.phase,
        links.frequency,
        links.drift,
        links.noise_amplitude,
        links.full_scale,
        streams.sample,
        streams.attempt,
        np.uint32(lane_word(Stage.NOISE, 0)),
        np.uint32(lane_word(Stage.NOISE, 1) - lane_word(Stage.NOISE, 0)),
        streams.key,
        guard,
        TABLE,
        iq,
    )


def check_waveform_length(links: Links, guard: int, num_waveform: int, num_time: int) -> None:
    """Raise ValueError if a waveform ends before a receiver's samples do, which compiled kernels would not notice."""
    drift = np.abs(links.arrival_rate)[..., None] * (num_time / 2 + _LONGEST_BLOCK)
    earliest, latest = (links.arrival - drift).min(), (links.arrival + drift).max()
    if not (latest + TAPS <= guard and guard + num_time + MARGIN - earliest <= num_waveform):
        raise ValueError(
            f"arrival: {earliest:g} … {latest:g} samples lie outside of what guard {guard} and a waveform of "
            f"{num_waveform} samples allow; make the waveform longer"
        )


def upsample_and_receive(
    waveform: np.ndarray, factor: int, links: Links, streams: Streams, iq: np.ndarray, guard: int
) -> None:
    """Fill ``iq`` as `receive` does from waveforms (S, M) complex64 that are sampled more slowly by ``factor``."""
    receive(upsample(waveform, factor), links, streams, iq, guard)


@njit(cache=True)
def _receive(
    waveform: np.ndarray,
    arrival: np.ndarray,
    arrival_rate: np.ndarray,
    gain: np.ndarray,
    block: int,
    phase: np.ndarray,
    frequency: np.ndarray,
    drift: np.ndarray,
    noise_amplitude: np.ndarray,
    full_scale: np.ndarray,
    sample: np.ndarray,
    attempt: np.ndarray,
    stage: Word,
    lane_step: Word,
    key: np.ndarray,
    guard: int,
    table: np.ndarray,
    iq: np.ndarray,
) -> None:
    num_time = iq.shape[3]
    taps = np.empty(TAPS, np.float32)
    path = np.empty((2, _LONGEST_BLOCK), np.float32)
    real = np.empty(_LONGEST_BLOCK, np.float32)
    imaginary = np.empty(_LONGEST_BLOCK, np.float32)
    for s in range(iq.shape[0]):
        for r in range(iq.shape[1]):
            if not full_scale[s, r] > 0:
                iq[s, r] = 0
                continue
            scale = np.float32(_ADC_MAX / full_scale[s, r])
            noise_scale = np.float32(_ADC_MAX / full_scale[s, r] * noise_amplitude[s, r])
            last_word = np.uint32(stage + lane_step * np.uint32(r))
            for b in range(-(-num_time // block)):
                first = b * block
                middle = first + 0.5 * block - 0.5 * num_time  # of the block, from the middle of the window
                _sum_paths(
                    waveform[s],
                    first + guard - arrival_rate[s, r] * middle,
                    arrival[s, r],
                    gain[s, r, :, b : b + 2],
                    scale,
                    table,
                    taps,
                    path,
                    real[:block],
                    imaginary[:block],
                )
                start = first - 0.5 * num_time
                turns = phase[s, r] + (frequency[s, r] + 0.5 * drift[s, r] * start) * start
                step = np.float32(frequency[s, r] + drift[s, r] * middle)
                _rotate_phase(real[:block], imaginary[:block], np.float32(turns - np.rint(turns)), step)
                _add_noise(
                    real[:block],
                    imaginary[:block],
                    noise_scale,
                    np.uint32(first // 2),
                    np.uint32(attempt[s]),
                    np.uint32(sample[s]),
                    last_word,
                    key,
                )
                _convert(real, iq[s, r, 0, first : first + block])
                _convert(imaginary, iq[s, r, 1, first : first + block])


@njit(cache=True)
def _sum_paths(
    waveform: np.ndarray,
    position: float,
    arrival: np.ndarray,
    gain: np.ndarray,
    scale: Single,
    table: np.ndarray,
    taps: np.ndarray,
    path: np.ndarray,
    real: np.ndarray,
    imaginary: np.ndarray,
) -> None:
    """Set a block to the sum of its delayed paths, each with a gain that is linear from one end to the other."""
    count = len(real)
    real[:] = 0
    imaginary[:] = 0
    for p in range(len(arrival)):
        if gain[p, 0] == 0 and gain[p, 1] == 0:
            continue
        at = position - arrival[p]
        whole = int(np.floor(at))
        kernel(table, at - whole, taps)
        for component in range(2):
            _filter(waveform[component, whole - LEAD : whole - LEAD + count + TAPS], taps, path[component, :count])
        gain_real, gain_imaginary = scale * np.float32(gain[p, 0].real), scale * np.float32(gain[p, 0].imag)
        slope_real = (scale * np.float32(gain[p, 1].real) - gain_real) / np.float32(count)
        slope_imaginary = (scale * np.float32(gain[p, 1].imag) - gain_imaginary) / np.float32(count)
        for n in range(count):
            a = gain_real + np.float32(n) * slope_real
            c = gain_imaginary + np.float32(n) * slope_imaginary
            real[n] += a * path[0, n] - c * path[1, n]
            imaginary[n] += a * path[1, n] + c * path[0, n]


@njit(cache=True)
def _filter(signal: np.ndarray, taps: np.ndarray, filtered: np.ndarray) -> None:
    """Correlate a signal with the 16 taps, four at a time."""
    for n in range(len(filtered)):
        filtered[n] = taps[0] * signal[n] + taps[1] * signal[n + 1] + taps[2] * signal[n + 2] + taps[3] * signal[n + 3]
    for first in range(4, TAPS, 4):
        t0, t1, t2, t3 = taps[first], taps[first + 1], taps[first + 2], taps[first + 3]
        part = signal[first:]
        for n in range(len(filtered)):
            filtered[n] += t0 * part[n] + t1 * part[n + 1] + t2 * part[n + 2] + t3 * part[n + 3]


@njit(cache=True)
def _rotate_phase(real: np.ndarray, imaginary: np.ndarray, turns: Single, step: Single) -> None:
    """Multiply a block by exp(2πj (turns + step · n))."""
    for n in range(len(real)):
        angle = turns + step * np.float32(n)
        cosine, sine = cos_sin_turn(angle - np.rint(angle))
        x, y = real[n], imaginary[n]
        real[n] = x * cosine - y * sine
        imaginary[n] = x * sine + y * cosine


@njit(cache=True)
def _add_noise(
    real: np.ndarray,
    imaginary: np.ndarray,
    amplitude: Single,
    counter: Word,
    attempt: Word,
    sample: Word,
    last_word: Word,
    key: np.ndarray,
) -> None:
    """Add the numbers 2 · counter … of a stream of complex normals to a block of even length."""
    key0, key1 = key[0], key[1]
    for pair in range(len(real) // 2):
        w0, w1, w2, w3 = philox4x32(np.uint32(counter + pair), attempt, sample, last_word, key0, key1)
        x, y = complex_normal(w0, w1)
        real[2 * pair] += amplitude * x
        imaginary[2 * pair] += amplitude * y
        x, y = complex_normal(w2, w3)
        real[2 * pair + 1] += amplitude * x
        imaginary[2 * pair + 1] += amplitude * y


@njit(cache=True)
def _convert(voltage: np.ndarray, code: np.ndarray) -> None:
    """Round to int16, clipped at ±32767; the last block of a window may be longer than what is left of it."""
    for n in range(len(code)):
        code[n] = np.int16(np.rint(min(max(voltage[n], -_MAX_CODE), _MAX_CODE)))
