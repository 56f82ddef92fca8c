"""Transmitted waveforms at complex baseband: unit mean power, one row a scene.

They are made with NumPy on the CPU whatever the backend, so that the truth is the same on all of them.
"""

import numpy as np
import scipy.fft

from heimdall_lab.core.compiled import njit
from heimdall_lab.core.philox import Stage, Streams
from heimdall_lab.core.transmission import AFSK_HZ, DTMF_HIGH_HZ, DTMF_LOW_HZ, Signal
from heimdall_lab.simulation.waveforms.modulation import (
    cos_sin,
    frequency_modulate,
    interpolation_pulse,
    pulse_train,
    root_raised_cosine_pulse,
)
from heimdall_lab.simulation.waveforms.packets import line_levels
from heimdall_lab.simulation.waveforms.speech import AUDIO_RATE_HZ, transmitter_audio

KINDS = ("voice", "tone", "dual_tone", "noise", "fsk4", "afsk1200")

_GUARD = 64  # values at either end of a sequence, where circular filters and the interpolator reach around
_SHORTEST_SEQUENCE = 512  # values from which noise has a spectrum and speech a level, however short the window
_NOISE_OVERSAMPLING = 4 / 3
_FSK4_SYMBOL_RATE_HZ = 4800.0
_FSK4_DEVIATION_HZ = 1944.0  # of the outer symbols; the inner ones have a third
_FSK4_ROLLOFF = 0.2
_AFSK_BIT_RATE_HZ = 1200.0


def draw_kinds(signal: Signal, streams: Streams) -> np.ndarray:
    """Draw which of ``KINDS`` each scene transmits, (S,) int."""
    ratios = [getattr(signal, f"{name}_ratio") for name in KINDS]
    drawn = np.flatnonzero(ratios)  # rounding of the sum must not draw a kind whose share is 0
    edges = np.cumsum(np.take(ratios, drawn))[:-1]
    return drawn[np.searchsorted(edges, streams.uniform(Stage.WAVEFORM_KIND, 1)[:, 0], side="right")]


def synthesize_waveforms(signal: Signal, kind: np.ndarray, streams: Streams, num_time: int) -> np.ndarray:
    """Synthesize the waveform of each scene's kind, an index into ``KINDS``: (S, num_time) complex64.

    They are at ``signal.waveform_rate_hz``. FM waveforms have magnitude 1 and a continuous phase; voice, tones and AFSK
    deviate by at most ``signal.deviation_hz``, 4-FSK as its standard says. Noise has power 1 in expectation: the mean
    over a row of duration T strays from it by 1 / sqrt(bandwidth · T). ConfigError if ``signal.voice_folder`` is given
    and cannot be used.
    """
    waveform = np.empty((len(kind), num_time), dtype=np.complex64)
    for index, name in enumerate(KINDS):
        rows = np.flatnonzero(kind == index)
        if len(rows):
            waveform[rows] = _SYNTHESIZERS[name](signal, streams.select(rows), num_time)
    return waveform


def _voice(signal: Signal, streams: Streams, num_time: int) -> np.ndarray:
    """NBFM speech; the message is scaled once more, where it peaks between the samples of the audio."""
    step = AUDIO_RATE_HZ / signal.waveform_rate_hz
    audio = transmitter_audio(
        signal.voice_folder,
        streams,
        _sequence_length(num_time * step),
        pause_ratio=signal.pause_ratio,
        limiter_reference=signal.limiter_reference,
    )
    message = pulse_train(audio, interpolation_pulse(), np.full(len(audio), float(_GUARD)), step, num_time)
    message /= np.maximum(np.abs(message).max(axis=-1, keepdims=True), np.float32(1))
    return frequency_modulate(message, signal.deviation_hz, signal.waveform_rate_hz)


def _tone(signal: Signal, streams: Streams, num_time: int) -> np.ndarray:
    """FM by one audio tone of random frequency and phase."""
    draws = streams.uniform(Stage.WAVEFORM, 2)
    tone_hz = signal.tone_min_hz + (signal.tone_max_hz - signal.tone_min_hz) * draws[:, 0]
    message = np.zeros((len(draws), num_time))
    _add_tone(message, 1.0, tone_hz / signal.waveform_rate_hz, draws[:, 1])
    return frequency_modulate(message, signal.deviation_hz, signal.waveform_rate_hz)


def _dual_tone(signal: Signal, streams: Streams, num_time: int) -> np.ndarray:
    """FM by a random DTMF pair; the two tones share the deviation equally."""
    draws = streams.uniform(Stage.WAVEFORM, 4)
    message = np.zeros((len(draws), num_time))
    for tones_hz, which, phase in ((DTMF_LOW_HZ, 0, 2), (DTMF_HIGH_HZ, 1, 3)):
        tone_hz = np.array(tones_hz)[(4 * draws[:, which]).astype(int)]
        _add_tone(message, 0.5, tone_hz / signal.waveform_rate_hz, draws[:, phase])
    return frequency_modulate(message, signal.deviation_hz, signal.waveform_rate_hz)


def _noise(signal: Signal, streams: Streams, num_time: int) -> np.ndarray:
    """Complex Gaussian noise with a flat spectrum inside ``noise_bandwidth_hz``, part of a longer period."""
    rate_hz = _NOISE_OVERSAMPLING * signal.noise_bandwidth_hz
    step = rate_hz / signal.waveform_rate_hz
    length = _sequence_length(num_time * step)
    half = int(length / _NOISE_OVERSAMPLING / 2)  # occupied bins on each side of 0
    bins = streams.complex_normal(Stage.WAVEFORM_NOISE, 2 * half + 1)
    spectrum = np.zeros((len(bins), length), dtype=np.complex64)
    spectrum[:, : half + 1] = bins[:, half:]
    spectrum[:, length - half :] = bins[:, :half]
    noise = scipy.fft.ifft(spectrum, norm="forward") / np.float32((2 * half + 1) ** 0.5)  # power 1 in expectation
    first = np.full(len(noise), float(_GUARD))
    waveform = np.empty((len(noise), num_time), dtype=np.complex64)
    waveform.real = pulse_train(noise.real.copy(), interpolation_pulse(), first, step, num_time)
    waveform.imag = pulse_train(noise.imag.copy(), interpolation_pulse(), first, step, num_time)
    return waveform


def _fsk4(signal: Signal, streams: Streams, num_time: int) -> np.ndarray:
    """4-FSK of random dibits and random symbol timing, as DMR sends; its deviation is its own.

    Source: ETSI TS 102 361-1, 10.2.2 and 10.2.3.
    """
    step = _FSK4_SYMBOL_RATE_HZ / signal.waveform_rate_hz
    draws = streams.uniform(Stage.WAVEFORM, 1 + int(np.ceil(num_time * step)) + 2 * _GUARD)
    symbols = ((2 * np.floor(4 * draws[:, 1:]) - 3) / 3).astype(np.float32)  # -1, -1/3, 1/3, 1
    message = pulse_train(symbols, root_raised_cosine_pulse(_FSK4_ROLLOFF), _GUARD + draws[:, 0], step, num_time)
    return frequency_modulate(message, _FSK4_DEVIATION_HZ, signal.waveform_rate_hz)


def _afsk1200(signal: Signal, streams: Streams, num_time: int) -> np.ndarray:
    """FM by the two tones of Bell 202, whose phase is continuous, keyed by AX.25 packets, as APRS sends."""
    bits_per_sample = _AFSK_BIT_RATE_HZ / signal.waveform_rate_hz
    levels, elapsed = line_levels(streams, int(np.ceil(num_time * bits_per_sample)) + 2)
    message = np.empty((len(levels), num_time))
    mark_hz, space_hz = AFSK_HZ
    _key_tones(levels, elapsed, bits_per_sample, mark_hz / _AFSK_BIT_RATE_HZ, space_hz / _AFSK_BIT_RATE_HZ, message)
    return frequency_modulate(message, signal.deviation_hz, signal.waveform_rate_hz)


def _sequence_length(reach: float) -> int:
    """Length of a sequence that holds a window of so many values, with guards, and is transformed fast."""
    return scipy.fft.next_fast_len(max(_SHORTEST_SEQUENCE, int(np.ceil(reach)) + 2 * _GUARD), real=True)


@njit(cache=True)
def _add_tone(message: np.ndarray, amplitude: float, turns_per_sample: np.ndarray, phase: np.ndarray) -> None:
    """Add a cosine of a frequency and phase (S,), in turns, to each row of messages (S, N)."""
    for row in range(len(message)):
        out, turns, start = message[row], turns_per_sample[row], phase[row]
        for i in range(len(out)):
            cosine, _ = cos_sin(turns * i + start)
            out[i] += amplitude * cosine


@njit(cache=True)
def _key_tones(
    levels: np.ndarray,
    elapsed: np.ndarray,
    bits_per_sample: float,
    mark_turns: float,
    space_turns: float,
    message: np.ndarray,
) -> None:
    """Write a cosine (S, N) that makes so many turns in each mark and in each space, exact where a bit changes."""
    for row in range(len(message)):
        turns, bit = 0.0, 0
        out = message[row]
        for i in range(len(out)):
            position = elapsed[row] + i * bits_per_sample
            while bit < int(position):
                turns += mark_turns if levels[row, bit] else space_turns
                bit += 1
            now = turns + (position - bit) * (mark_turns if levels[row, bit] else space_turns)
            out[i], _ = cos_sin(now)


_SYNTHESIZERS = {
    "voice": _voice,
    "tone": _tone,
    "dual_tone": _dual_tone,
    "noise": _noise,
    "fsk4": _fsk4,
    "afsk1200": _afsk1200,
}
