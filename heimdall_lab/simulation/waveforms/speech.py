"""The modulating audio of an FM voice transmitter: synthesised or recorded speech, processed."""

import warnings
from functools import lru_cache
from math import gcd
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.io.wavfile

from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.compiled import njit
from heimdall_lab.core.philox import Stage, Streams
from heimdall_lab.core.text import quoted
from heimdall_lab.core.transmission import VOICE_BAND_HZ
from heimdall_lab.simulation.waveforms.modulation import cos_sin
from heimdall_lab.simulation.waveforms.rhythm import active_rms, phrases

AUDIO_RATE_HZ = 8000

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
_HARMONICS = int(VOICE_BAND_HZ[1] / _PITCH_HZ[0])
_BLOCK = 128  # audio samples that are synthesised together

_BAND_EDGE_HZ = 100.0  # over which the audio filters fall off, inside the band
_QUIETEST = 1e-4  # full scale: the level up to which the limiter's amplifier brings speech to its own
_ROOM_NOISE = 10 ** (-50 / 20)  # of a quiet room, relative to speech: a carrier that stands quite still has no band
_RECORDINGS_KEPT = 64
_RECORDED_RATE_HZ = (1_000, 1_000_000)


def transmitter_audio(
    voice_folder: str,
    streams: Streams,
    num_audio: int,
    *,
    pause_ratio: float = 0.0,
    limiter_reference: str = "recording",
) -> np.ndarray:
    """Make the modulator's input: speech, pre-emphasis of 6 dB an octave, peak limiter, splatter filter.

    Speech is excerpts of a folder of WAV files, or synthesised where none is named, with pauses for a share of the
    time. The audio (S, num_audio) float32 at ``AUDIO_RATE_HZ`` lies inside the telephone band. Its largest magnitude is
    1, or less where speech pauses or a recording is quieter than -80 dB of full scale; where it is silent, it is 0. The
    limiter's amplifier goes by how loud phrases are, so that pauses stay quiet; with the reference ``window``, excerpts
    of recordings by whatever they hold. The filters are circular: some milliseconds at either end leak into each
    other. ConfigError if the folder, or a file in it, cannot be used.
    """
    if voice_folder:
        speech, spoken_rms = _recorded_speech(voice_folder, streams, num_audio)
    else:
        speech, spoken_rms = _formant_speech(streams, num_audio), None
    audio = _emphasised(speech)
    rms = np.sqrt((audio**2).mean(axis=-1, keepdims=True))
    if pause_ratio > 0:
        audio = _with_pauses(audio, rms, pause_ratio, streams)
    if spoken_rms is not None and limiter_reference == "recording":
        rms = spoken_rms
    limited = np.tanh(audio / (np.float32(1.5) * np.maximum(rms, np.float32(_QUIETEST))))
    below_top, _ = _audio_band(num_audio)
    audio = scipy.fft.irfft(scipy.fft.rfft(limited) * below_top, n=num_audio)
    return audio / np.maximum(np.abs(audio).max(axis=-1, keepdims=True), np.float32(0.5))


def _emphasised(speech: np.ndarray) -> np.ndarray:
    """Speech (..., N) inside of the telephone band, raised by 6 dB an octave."""
    _, emphasis = _audio_band(speech.shape[-1])
    return scipy.fft.irfft(scipy.fft.rfft(speech) * emphasis, n=speech.shape[-1])


def _audio_band(num_audio: int) -> tuple[np.ndarray, np.ndarray]:
    """Responses of the splatter filter, and of the pre-emphasis inside of the band, (num_audio // 2 + 1,)."""
    frequency_hz = scipy.fft.rfftfreq(num_audio, 1 / AUDIO_RATE_HZ).astype(np.float32)
    low_hz, high_hz = VOICE_BAND_HZ
    below_top, above_bottom = _band_edge(high_hz - frequency_hz), _band_edge(frequency_hz - low_hz)
    return below_top, frequency_hz / np.float32(low_hz) * above_bottom * below_top


def _with_pauses(audio: np.ndarray, rms: np.ndarray, pause_ratio: float, streams: Streams) -> np.ndarray:
    """Speech (S, N) of an rms (S, 1) that pauses for a share of the time, in which the room is heard."""
    count = audio.shape[-1]
    amplitude = phrases(pause_ratio, streams, count, AUDIO_RATE_HZ)
    noise = _emphasised(streams.complex_normal(Stage.SPEECH_PAUSE, -(-count // 2), lane=1).view(np.float32)[:, :count])
    noise *= np.float32(_ROOM_NOISE) * rms / np.sqrt((noise**2).mean(axis=-1, keepdims=True))
    return amplitude * audio + (1 - amplitude) * noise


def _band_edge(inside_hz: np.ndarray) -> np.ndarray:
    """Amplitude of a filter at frequencies inside the edge of its band: half a cosine from 0 to 1."""
    return np.sin(np.pi / 2 * (inside_hz / np.float32(_BAND_EDGE_HZ)).clip(0, 1)) ** 2


def _recorded_speech(voice_folder: str, streams: Streams, num_audio: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a random part out of a random file for each scene, (S, num_audio) float32; short files repeat.

    Beside it, the rms of the whole file's speech with pre-emphasis, (S, 1) float32.
    """
    paths = _wav_files(voice_folder)
    draws = streams.uniform(Stage.WAVEFORM, 2)
    speech, spoken_rms = np.empty((len(draws), num_audio), dtype=np.float32), np.empty((len(draws), 1), np.float32)
    for row, (which, where) in enumerate(draws):
        path = paths[int(which * len(paths))]
        modified_ns = path.stat().st_mtime_ns
        recording, spoken_rms[row] = _recording(path, modified_ns), _spoken_rms(path, modified_ns)
        spare = len(recording) - num_audio
        start = int(where * (spare + 1 if spare >= 0 else len(recording)))
        speech[row] = recording.take(np.arange(start, start + num_audio), mode="wrap")
    return speech, spoken_rms


def _wav_files(voice_folder: str) -> list[Path]:
    """List the WAV files of a folder by name."""
    folder = Path(voice_folder)
    if not folder.is_dir():
        raise ConfigError(
            f"signal.voice_folder: {quoted(voice_folder)} is no folder; give one that holds WAV files, or "
            "'' to synthesise"
        )
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".wav" and path.is_file())
    if not paths:
        raise ConfigError(
            f"signal.voice_folder: {quoted(voice_folder)} holds no .wav file; put some there, or give '' to synthesise"
        )
    return paths


@lru_cache(maxsize=_RECORDINGS_KEPT)
def _recording(path: Path, modified_ns: int) -> np.ndarray:  # noqa: ARG001
    """Read a WAV file as mono at ``AUDIO_RATE_HZ``, full scale 1: (K,) float32; once more when it was modified."""

    def broken(why: str) -> ConfigError:
        return ConfigError(
            f"signal.voice_folder: {quoted(path.parent)} holds {path.name}, which {why}; "
            "replace it by a PCM or float WAV file, or take it out"
        )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", scipy.io.wavfile.WavFileWarning)
            warnings.filterwarnings("ignore", "Chunk", scipy.io.wavfile.WavFileWarning)  # of text, say
            rate_hz, samples = scipy.io.wavfile.read(path)
    except Exception as error:  # whatever a damaged header leads the reader to
        raise broken(f"cannot be read ({error})") from error
    if not _RECORDED_RATE_HZ[0] <= rate_hz <= _RECORDED_RATE_HZ[1]:
        raise broken(f"has {rate_hz} samples per second")
    if samples.size == 0:
        raise broken("holds no samples")
    if not np.isfinite(samples).all():
        raise broken("holds samples that are not finite")
    audio = samples.astype(np.float32)
    if samples.dtype.kind == "u":
        audio = (audio - 128) / 128
    elif samples.dtype.kind == "i":
        audio = audio / -float(np.iinfo(samples.dtype).min)
    mono = audio.reshape(len(audio), -1).mean(axis=1, dtype=np.float32)
    common = gcd(AUDIO_RATE_HZ, int(rate_hz))
    # SciPy loads its folder signal when it is first used: most datasets never do.
    mono = scipy.signal.resample_poly(mono, AUDIO_RATE_HZ // common, int(rate_hz) // common).astype(np.float32)
    mono.setflags(write=False)
    return mono


@lru_cache(maxsize=_RECORDINGS_KEPT)
def _spoken_rms(path: Path, modified_ns: int) -> float:
    """Rms of the speech in a WAV file with pre-emphasis, without its pauses."""
    return active_rms(_emphasised(_recording(path, modified_ns)), AUDIO_RATE_HZ)


def _formant_speech(streams: Streams, num_audio: int) -> np.ndarray:
    """Voiced syllables with random vowels and gliding pitch: (S, num_audio) float32, arbitrary level.

    The source is a sum of pitch harmonics that fall by 12 dB an octave (glottal flow); each passes the three formant
    resonators of its syllable. Source: Klatt, J. Acoust. Soc. Am. 67 (1980), cascade synthesizer.
    """
    syllables = int(np.ceil(num_audio / AUDIO_RATE_HZ / _SYLLABLE_S)) + 2
    draws = streams.uniform(Stage.WAVEFORM, 3 + 3 * syllables)
    base_pitch_hz = _PITCH_HZ[0] * (_PITCH_HZ[1] / _PITCH_HZ[0]) ** draws[:, :1]
    vowel = (len(_FORMANTS_HZ) * draws[:, 3 : 3 + syllables]).astype(int)  # (S, syllables)
    pitch_hz = base_pitch_hz * (0.88 + 0.24 * draws[:, 3 + syllables : 3 + 2 * syllables])
    level = 0.5 + 0.5 * draws[:, 3 + 2 * syllables :]
    breath = streams.complex_normal(Stage.WAVEFORM_NOISE, -(-num_audio // 2)).view(np.float32)
    speech = np.empty((len(draws), num_audio), dtype=np.float32)
    _write_speech(draws[:, 1], draws[:, 2], vowel, pitch_hz, level, breath, speech)
    return speech


@njit(cache=True)
def _write_speech(
    onset: np.ndarray,
    start_phase: np.ndarray,
    vowel: np.ndarray,
    pitch_hz: np.ndarray,
    level: np.ndarray,
    breath: np.ndarray,
    speech: np.ndarray,
) -> None:
    """Write speech (S, N): pitch, harmonics and level glide from one syllable's centre to the next one's.

    onset and start_phase are (S,); vowel, pitch_hz and level (S, syllables); breath is noise (S, N or more).
    """
    num_rows, num_audio = speech.shape
    step = 1 / (AUDIO_RATE_HZ * _SYLLABLE_S)  # syllables per sample
    gain = np.empty(_HARMONICS, dtype=np.float32)
    next_gain = np.empty(_HARMONICS, dtype=np.float32)
    glide = np.empty(_BLOCK, dtype=np.float32)
    fundamental = np.empty((2, _BLOCK), dtype=np.float32)
    for row in range(num_rows):
        phase = start_phase[row]
        first, current = 0, -1
        while first < num_audio:
            if current != int(onset[row] + first * step):
                current = int(onset[row] + first * step)
                _harmonic_gains(pitch_hz[row, current], vowel[row, current], level[row, current], gain)
                _harmonic_gains(pitch_hz[row, current + 1], vowel[row, current + 1], level[row, current + 1], next_gain)
            border = int(np.ceil((current + 1 - onset[row]) / step))
            count = min(_BLOCK, num_audio - first, max(1, border - first))
            for i in range(count):
                glide[i] = onset[row] + (first + i) * step - current
                pitch = pitch_hz[row, current] + (pitch_hz[row, current + 1] - pitch_hz[row, current]) * glide[i]
                phase += pitch / AUDIO_RATE_HZ
                fundamental[0, i], fundamental[1, i] = cos_sin(phase)
            _add_harmonics(fundamental, glide, gain, next_gain, speech[row, first : first + count])
            first += count
        _add_breath_noise(onset[row], step, breath[row], speech[row])


@njit(cache=True)
def _harmonic_gains(pitch_hz: float, vowel: int, level: float, gain: np.ndarray) -> None:
    """Write the amplitude of each harmonic behind the cascaded resonators of a vowel, (harmonics,).

    Harmonics that the audio's sample rate cannot hold are left out.
    """
    for harmonic in range(len(gain)):
        frequency_hz = (harmonic + 1) * pitch_hz
        amplitude = level / (harmonic + 1) ** 2 if 2 * frequency_hz < AUDIO_RATE_HZ else 0.0
        for formant in range(3):
            formant_hz = _FORMANTS_HZ[vowel, formant]
            ratio = frequency_hz / formant_hz
            damping = ratio * _FORMANT_BANDWIDTH_HZ[formant] / formant_hz
            amplitude /= np.sqrt((1 - ratio * ratio) ** 2 + damping * damping)
        gain[harmonic] = amplitude


@njit(cache=True)
def _add_harmonics(
    fundamental: np.ndarray, glide: np.ndarray, gain: np.ndarray, next_gain: np.ndarray, speech: np.ndarray
) -> None:
    """Write the sum of a block's harmonics; each is the one before it, turned by the fundamental (2, N)."""
    turned = np.empty((2, _BLOCK), dtype=np.float32)
    cosine, sine = turned[0], turned[1]
    cosine[:] = np.float32(1)
    sine[:] = np.float32(0)
    speech[:] = np.float32(0)
    turn_cosine, turn_sine = fundamental[0], fundamental[1]
    for harmonic in range(len(gain)):
        amplitude, change = gain[harmonic], next_gain[harmonic] - gain[harmonic]
        for i in range(len(speech)):
            before = cosine[i]
            cosine[i] = before * turn_cosine[i] - sine[i] * turn_sine[i]
            sine[i] = before * turn_sine[i] + sine[i] * turn_cosine[i]
            speech[i] += (amplitude + change * glide[i]) * sine[i]


@njit(cache=True)
def _add_breath_noise(onset: float, step: float, breath: np.ndarray, speech: np.ndarray) -> None:
    """Add aspiration noise to a row of speech, and make it quieter between syllables."""
    power = 0.0
    for i in range(len(speech)):
        power += speech[i] * speech[i]
    noise = np.float32(_BREATH * np.sqrt(power / len(speech)))
    for i in range(len(speech)):
        cosine, _ = cos_sin(onset + i * step)
        speech[i] = (0.65 + 0.35 * cosine) * (speech[i] + noise * breath[i])
