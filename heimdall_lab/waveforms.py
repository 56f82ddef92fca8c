"""Transmitted waveforms at complex baseband: unit mean power, one row a scene."""

import numpy as np

from heimdall_lab.arrays import Array, array_namespace
from heimdall_lab.config import DTMF_HIGH_HZ, DTMF_LOW_HZ, VOICE_BAND_HZ, Signal
from heimdall_lab.philox import Stage, Streams

KINDS = ("voice", "tone", "dual_tone", "noise")

# Formant frequencies of vowels spoken by adults, Hz: Peterson and Barney, J. Acoust. Soc. Am. 24 (1952), table II, men.
_FORMANTS_HZ = np.array(
    [
        [270, 2290, 3010],  # i, as in heed
        [390, 1990, 2550],  # ɪ, hid
        [530, 1840, 2480],  # ɛ, head
        [660, 1720, 2410],  # æ, had
        [730, 1090, 2440],  # ɑ, hod
        [570, 840, 2410],  # ɔ, hawed
        [440, 1020, 2240],  # ʊ, hood
        [300, 870, 2240],  # u, who'd
    ],
    dtype=float,
)
_FORMANT_BANDWIDTH_HZ = np.array([60.0, 90.0, 150.0])
_PITCH_HZ = (90.0, 220.0)
_SYLLABLE_S = 0.16
_BREATH = 0.05  # aspiration noise relative to the voiced part


def kinds(signal: Signal, streams: Streams) -> Array:
    """Draw which of ``KINDS`` each scene transmits, (S,) int."""
    edges = np.cumsum([signal.voice_ratio, signal.tone_ratio, signal.dual_tone_ratio])
    return np.searchsorted(edges, streams.uniform(Stage.WAVEFORM_KIND, 1)[:, 0], side="right")


def synthesize(signal: Signal, kind: np.ndarray, streams: Streams, num_time: int) -> Array:
    """Synthesize each scene's waveform.

    Parameters
    ----------
    kind : (S,) int
        Index into ``KINDS``, a NumPy array.
    streams : Streams
        Of the S scenes; the result is on their array library.

    Returns
    -------
    (S, num_time) complex64
        Mean power 1. FM waveforms keep their phase continuous and their deviation at most ``signal.deviation_hz``.
    """
    xp = array_namespace(streams.sample)
    waveform = xp.empty((len(kind), num_time), dtype=xp.complex64)
    for index, name in enumerate(KINDS):
        rows = np.flatnonzero(kind == index)
        if len(rows):
            waveform[rows] = _SYNTHESIZERS[name](signal, streams.select(rows), num_time)
    return waveform


def frequency_modulate(message: Array, deviation_hz: float, sample_rate_hz: float) -> Array:
    """Modulate a carrier at 0 Hz by messages (S, N) within ±1; returns (S, N) complex64 of constant envelope."""
    phase = 2 * np.pi * deviation_hz / sample_rate_hz * message.cumsum(axis=-1)
    return np.exp(1j * phase).astype(np.complex64)


def _tone(signal: Signal, streams: Streams, num_time: int) -> Array:
    """FM by one audio tone of random frequency and phase."""
    draws = streams.uniform(Stage.WAVEFORM, 2)
    tone_hz = signal.tone_min_hz + (signal.tone_max_hz - signal.tone_min_hz) * draws[:, :1]
    message = np.cos(2 * np.pi * (tone_hz * _time(signal, streams, num_time) + draws[:, 1:]))
    return frequency_modulate(message, signal.deviation_hz, signal.sample_rate_hz)


def _dual_tone(signal: Signal, streams: Streams, num_time: int) -> Array:
    """FM by a random DTMF pair; the two tones share the deviation equally."""
    xp = array_namespace(streams.sample)
    draws = streams.uniform(Stage.WAVEFORM, 4)
    time = _time(signal, streams, num_time)
    low_hz = xp.asarray(DTMF_LOW_HZ)[(4 * draws[:, 0]).astype(int)][:, None]
    high_hz = xp.asarray(DTMF_HIGH_HZ)[(4 * draws[:, 1]).astype(int)][:, None]
    low = np.cos(2 * np.pi * (low_hz * time + draws[:, 2:3]))
    high = np.cos(2 * np.pi * (high_hz * time + draws[:, 3:4]))
    return frequency_modulate((low + high) / 2, signal.deviation_hz, signal.sample_rate_hz)


def _noise(signal: Signal, streams: Streams, num_time: int) -> Array:
    """Complex Gaussian noise with a flat spectrum inside ``noise_bandwidth_hz``."""
    xp = array_namespace(streams.sample)
    half = int(signal.noise_bandwidth_hz / 2 * num_time / signal.sample_rate_hz)  # occupied bins on each side of 0
    bins = streams.complex_normal(Stage.WAVEFORM_NOISE, 2 * half + 1)
    spectrum = xp.zeros((len(bins), num_time), dtype=xp.complex64)
    spectrum[:, : half + 1] = bins[:, half:]
    spectrum[:, num_time - half :] = bins[:, :half]
    waveform = xp.fft.ifft(spectrum, axis=-1)
    return waveform / xp.sqrt((np.abs(waveform) ** 2).mean(axis=-1, keepdims=True))


def _voice(signal: Signal, streams: Streams, num_time: int) -> Array:
    """NBFM speech: formant synthesis, pre-emphasis, peak limiter, splatter filter, FM.

    The audio is made at about 8 kHz and brought to the sample rate by zero-padding its spectrum, which is exact
    because the audio is band-limited.
    """
    xp = array_namespace(streams.sample)
    duration_s = num_time / signal.sample_rate_hz
    num_audio = min(num_time, max(64, round(8000 * duration_s)))
    spectrum = xp.fft.rfft(_speech(streams, num_audio, num_audio / duration_s), axis=-1)
    frequency_hz = xp.fft.rfftfreq(num_audio, duration_s / num_audio)
    in_band = (frequency_hz >= VOICE_BAND_HZ[0]) & (frequency_hz <= VOICE_BAND_HZ[1])
    emphasised = spectrum * xp.where(in_band, frequency_hz / VOICE_BAND_HZ[0], 0)  # 6 dB an octave
    audio = xp.fft.irfft(emphasised, n=num_audio, axis=-1)
    rms = xp.sqrt((audio**2).mean(axis=-1, keepdims=True))
    limited = xp.fft.rfft(np.tanh(audio / (1.5 * rms)), axis=-1)
    filtered = xp.where(frequency_hz <= VOICE_BAND_HZ[1], limited, 0)  # the splatter filter behind the limiter
    message = xp.fft.irfft(filtered, n=num_time, axis=-1)
    message = message / np.abs(message).max(axis=-1, keepdims=True)
    return frequency_modulate(message, signal.deviation_hz, signal.sample_rate_hz)


def _speech(streams: Streams, num_audio: int, audio_rate_hz: float) -> Array:
    """Voiced syllables with random vowels and gliding pitch: (S, num_audio), arbitrary level.

    The source is a sum of pitch harmonics that fall by 12 dB an octave (glottal flow); each passes the three formant
    resonators of its syllable. Source: Klatt, J. Acoust. Soc. Am. 67 (1980), cascade synthesizer.
    """
    xp = array_namespace(streams.sample)
    syllables = max(2, int(np.ceil(num_audio / audio_rate_hz / _SYLLABLE_S)) + 2)
    draws = streams.uniform(Stage.WAVEFORM, 3 + 3 * syllables)
    base_pitch_hz = _PITCH_HZ[0] * (_PITCH_HZ[1] / _PITCH_HZ[0]) ** draws[:, :1]
    onset, start_phase = draws[:, 1:2], draws[:, 2:3]
    vowel = (len(_FORMANTS_HZ) * draws[:, 3 : 3 + syllables]).astype(int)  # (S, syllables)
    pitch_hz = base_pitch_hz * (0.88 + 0.24 * draws[:, 3 + syllables : 3 + 2 * syllables])
    level = 0.5 + 0.5 * draws[:, 3 + 2 * syllables :]

    # Position of each audio sample in units of syllables: values glide from one syllable's centre to the next one's.
    position = onset + xp.arange(num_audio) / (audio_rate_hz * _SYLLABLE_S)  # (S, num_audio)
    current = position.astype(int)
    glide = (position - current).astype(xp.float32)
    rows = xp.arange(len(draws))[:, None]

    def gliding(values: Array) -> Array:
        return values[rows, current] * (1 - glide) + values[rows, current + 1] * glide

    phase = start_phase + gliding(pitch_hz).cumsum(axis=-1) / audio_rate_hz
    fundamental = np.exp(2j * np.pi * xp.mod(phase, 1.0)).astype(xp.complex64)
    formants_hz = xp.asarray(_FORMANTS_HZ)[vowel]  # (S, syllables, 3)
    harmonic = xp.ones_like(fundamental)
    speech = xp.zeros(position.shape, dtype=xp.float32)
    for number in range(1, int(VOICE_BAND_HZ[1] / _PITCH_HZ[0]) + 1):
        harmonic = harmonic * fundamental
        gain = (level * _formant_gain(number * pitch_hz, formants_hz) / number**2).astype(xp.float32)
        speech += gliding(gain) * harmonic.imag
    envelope = 1.0 - 0.7 * np.sin(np.pi * glide) ** 2  # quieter between syllables
    breath = streams.complex_normal(Stage.WAVEFORM_NOISE, num_audio).real
    rms = xp.sqrt((speech**2).mean(axis=-1, keepdims=True))
    return envelope * (speech + _BREATH * rms * breath)


def _formant_gain(frequency_hz: Array, formants_hz: Array) -> Array:
    """Magnitude of cascaded second-order resonators, shaped like the frequency (formants have one axis more)."""
    ratio = frequency_hz[..., None] / formants_hz
    damping = ratio * array_namespace(ratio).asarray(_FORMANT_BANDWIDTH_HZ) / formants_hz
    return (1 / np.sqrt((1 - ratio**2) ** 2 + damping**2)).prod(axis=-1)


def _time(signal: Signal, streams: Streams, num_time: int) -> Array:
    """Time of each sample in s, (1, num_time)."""
    return array_namespace(streams.sample).arange(num_time)[None, :] / signal.sample_rate_hz


_SYNTHESIZERS = {"voice": _voice, "tone": _tone, "dual_tone": _dual_tone, "noise": _noise}
