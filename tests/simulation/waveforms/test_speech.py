"""Voices from WAV files: what they modulate, which parts are taken, and what is refused."""

import os
import wave
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats
from scipy.io import wavfile
from waveform_signals import streams

from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.transmission import Signal
from heimdall_lab.simulation.waveforms import kinds, speech

RATE_HZ, DEVIATION_HZ = 50e3, 2500.0
TONE_HZ = 1250.0  # its third harmonic, from the limiter, is above the telephone band


def voice(folder: Path, count: int, num_time: int, seed: int = 3) -> np.ndarray:
    signal = Signal(voice_folder=str(folder))
    return kinds.synthesize_waveforms(signal, np.zeros(count, dtype=int), streams(count, seed), num_time)


def frequency_hz(waveform: np.ndarray) -> np.ndarray:
    return np.angle(waveform[:, 1:] * waveform[:, :-1].conj()) * RATE_HZ / (2 * np.pi)


def tone(rate_hz: int, tone_hz: float = TONE_HZ, duration_s: float = 1.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * tone_hz / rate_hz * np.arange(round(rate_hz * duration_s)))


def write_24_bit(path: Path, rate_hz: int, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(rate_hz)
        file.writeframes((samples * 2**31).astype("<i4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes())


WRITERS = {
    "8-bit": lambda path, rate, x: wavfile.write(path, rate, np.round(128 + 127 * x).astype(np.uint8)),
    "16-bit": lambda path, rate, x: wavfile.write(path, rate, np.round(32767 * x).astype(np.int16)),
    "24-bit": write_24_bit,
    "32-bit": lambda path, rate, x: wavfile.write(path, rate, (x * 2**31).astype(np.int32)),
    "float": lambda path, rate, x: wavfile.write(path, rate, x.astype(np.float32)),
    "double": lambda path, rate, x: wavfile.write(path, rate, x),
    "stereo": lambda path, rate, x: wavfile.write(
        path, rate, np.stack([x + 0.3 * np.sin(0.4 * np.arange(len(x))), x - 0.3 * np.sin(0.4 * np.arange(len(x)))], 1)
    ),
}


@pytest.mark.parametrize("rate_hz", [8000, 22_050, 48_000])
@pytest.mark.parametrize("kind", WRITERS)
def test_tone_in_a_file_has_bessel_lines(tmp_path, kind, rate_hz):
    """A tone drives the limiter to full deviation: lines J_n(2500 / 1250) n tones off the carrier."""
    WRITERS[kind](tmp_path / "tone.wav", rate_hz, tone(rate_hz))
    num_time = 10_000  # 250 periods
    lines = np.abs(np.fft.fft(voice(tmp_path, 4, num_time), axis=1)) / num_time
    order = np.arange(-8, 9)
    step = round(TONE_HZ * num_time / RATE_HZ)
    expected = np.abs(special.jv(order, DEVIATION_HZ / TONE_HZ))
    # 8 bits are 64 steps of the tone's amplitude, whose rounding is -41 dB of it; the audio's circular filter adds
    # less than that at the ends, and no line moves by more than the message.
    assert np.abs(lines[:, order * step] - expected).max() < 0.01
    between = np.delete(lines, (order * step) % num_time, axis=1)
    assert between.max() < 0.01


def test_level_of_a_file_and_its_channels_do_not_matter(tmp_path):
    """The limiter's amplifier brings speech to its level, and mono in both channels is mono."""
    noise = np.random.Generator(np.random.Philox(1)).normal(0, 0.1, 16_000)
    for name, samples in (("loud", noise), ("quiet", noise / 64), ("stereo", np.stack([noise, noise], 1))):
        (tmp_path / name).mkdir()
        wavfile.write(tmp_path / name / "noise.wav", 8000, samples.astype(np.float32))
    loud, quiet, stereo = (frequency_hz(voice(tmp_path / name, 4, 5000)) for name in ("loud", "quiet", "stereo"))
    assert np.abs(loud - quiet).max() < 0.05  # 2⁻²³ of the sample rate is 0.006 Hz
    assert np.array_equal(loud, stereo)
    assert np.abs(loud).max() == pytest.approx(DEVIATION_HZ, rel=1e-5)


def test_excerpts_differ_and_come_again(tmp_path):
    """Excerpts of a rising tone tell where they start: uniformly, from the beginning to the last that fits."""
    rate_hz, duration_s = 8000, 60.0
    time = np.arange(int(rate_hz * duration_s)) / rate_hz
    wavfile.write(tmp_path / "rise.wav", rate_hz, (0.5 * np.sin(2 * np.pi * (500 + 15 * time) * time)).astype("f4"))
    waveform = voice(tmp_path, 200, 5000)
    assert np.array_equal(waveform, voice(tmp_path, 200, 5000))
    assert not np.array_equal(waveform, voice(tmp_path, 200, 5000, seed=4))
    one = kinds.synthesize_waveforms(
        Signal(voice_folder=str(tmp_path)), np.zeros(1, dtype=int), streams(200).select(np.array([77])), 5000
    )
    assert np.array_equal(one[0], waveform[77])
    audio = frequency_hz(waveform)
    tone_hz = (np.diff(np.signbit(audio), axis=1) != 0).sum(axis=1) / (2 * 5000 / RATE_HZ)  # ±5 Hz of 500 … 2300
    start = (tone_hz - 500 - 30 * 0.05) / (30 * (duration_s - 0.1))
    assert stats.kstest(start, stats.uniform.cdf).pvalue > 1e-4


def test_files_are_drawn_evenly_by_name_in_whatever_order_the_disk_lists_them(tmp_path, monkeypatch):
    tones_hz = (500, 800, 1300, 2000)
    for index, tone_hz in enumerate(tones_hz):
        suffix = "WAV" if index == 2 else "wav"
        wavfile.write(tmp_path / f"{index}.{suffix}", 16_000, tone(16_000, tone_hz).astype(np.float32))
    (tmp_path / "readme.txt").write_text("no sound")
    waveform = voice(tmp_path, 200, 2500)
    listed = sorted(tmp_path.iterdir())
    for order in (listed, listed[::-1]):
        monkeypatch.setattr(Path, "iterdir", lambda _, order=order: iter(order))
        assert np.array_equal(waveform, voice(tmp_path, 200, 2500))
    found_hz = (np.diff(np.signbit(frequency_hz(waveform)), axis=1) != 0).sum(axis=1) / (2 * 2500 / RATE_HZ)
    which = np.abs(found_hz[:, None] - np.array(tones_hz)).argmin(axis=1)
    assert np.abs(found_hz - np.array(tones_hz)[which]).max() < 60
    assert stats.chisquare(np.bincount(which, minlength=4)).pvalue > 1e-4


def test_short_files_repeat(tmp_path):
    """A burst of 40 ms comes every 40 ms; away from the window's ends its repetitions are equal."""
    burst = np.random.Generator(np.random.Philox(5)).normal(0, 0.1, 320)
    wavfile.write(tmp_path / "burst.wav", 8000, burst.astype(np.float32))
    audio = frequency_hz(voice(tmp_path, 3, 50_000))[:, 5000:45_000]
    period = round(0.04 * RATE_HZ)
    assert np.abs(audio[:, period:] - audio[:, :-period]).max() < 0.01 * DEVIATION_HZ
    assert np.abs(audio[:, period // 2 :] - audio[:, : -period // 2]).max() > 0.2 * DEVIATION_HZ


@pytest.mark.parametrize("samples", [np.zeros(1000, np.float32), np.full(1000, 128, np.uint8)], ids=["float", "8"])
def test_silence_leaves_the_carrier_alone(tmp_path, samples):
    """The middle of 8 bits is 128: as a steady level it would click where a file is resampled and repeats."""
    wavfile.write(tmp_path / "silence.wav", 22_050, samples)
    assert (voice(tmp_path, 3, 5000) == 1).all()


def test_an_offset_without_sound_is_not_amplified(tmp_path):
    wavfile.write(tmp_path / "offset.wav", 8000, np.full(160_000, 0.25, dtype=np.float32))
    excursion_hz = np.abs(frequency_hz(voice(tmp_path, 3, 5000))).max()
    assert excursion_hz < 0.01 * DEVIATION_HZ


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "tone.wav"
    wavfile.write(path, 8000, tone(8000, 500).astype(np.float32))
    before = voice(tmp_path, 2, 2000)
    wavfile.write(path, 8000, tone(8000, 1000).astype(np.float32))
    os.utime(path, ns=(1, 1))
    assert not np.array_equal(before, voice(tmp_path, 2, 2000))


def truncated(path: Path) -> None:
    wavfile.write(path, 8000, np.zeros(8000, dtype=np.int16))
    path.write_bytes(path.read_bytes()[:4000])


BROKEN = {
    "garbage": lambda path: path.write_bytes(b"this is no WAV file"),
    "nothing": lambda path: path.write_bytes(b""),
    "truncated": truncated,
    "no samples": lambda path: wavfile.write(path, 8000, np.zeros(0, dtype=np.int16)),
    "not finite": lambda path: wavfile.write(path, 8000, np.array([0, np.nan, 0], dtype=np.float32)),
    "samples per second": lambda path: wavfile.write(path, 10, np.zeros(100, dtype=np.int16)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named(tmp_path, kind):
    BROKEN[kind](tmp_path / "broken.wav")
    with pytest.raises(
        ConfigError, match=r"signal\.voice_folder: '.*' holds broken\.wav, which .*; replace it"
    ) as error:
        voice(tmp_path, 1, 500)
    assert str(tmp_path) in str(error.value)
    assert kind in str(error.value) or "cannot be read" in str(error.value)


def test_folders_without_voices_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"signal\.voice_folder: '.*absent' is no folder; give one that holds WAV"):
        voice(tmp_path / "absent", 1, 500)
    (tmp_path / "notes.txt").write_text("no sound")
    with pytest.raises(ConfigError, match=r"signal\.voice_folder: '.*' holds no \.wav file; put some there"):
        voice(tmp_path, 1, 500)


def test_recordings_have_the_band_of_synthesised_voices(tmp_path):
    """White noise in a file leaves the chain inside of 300 … 3000 Hz, rising by 6 dB an octave."""
    noise = np.random.Generator(np.random.Philox(6)).normal(0, 0.1, 80_000)
    wavfile.write(tmp_path / "noise.wav", 16_000, noise.astype(np.float32))
    audio = speech.transmitter_audio(str(tmp_path), streams(20), 16_000)
    power = (np.abs(np.fft.rfft(audio * np.blackman(16_000), axis=1)) ** 2).mean(axis=0)
    hz = np.fft.rfftfreq(16_000, 1 / speech.AUDIO_RATE_HZ)
    assert power[hz > 3001].sum() < 1e-8 * power.sum()
    octaves_db = 10 * np.log10([power[(hz > f) & (hz < 1.2 * f)].mean() for f in (600, 1200, 2400)])
    assert np.diff(octaves_db) == pytest.approx([6, 6], abs=1)  # the limiter's products fill in a little below
