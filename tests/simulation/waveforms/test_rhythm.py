"""Pauses of speech: how many and how long, that the limiter leaves them quiet, and that nothing changes without."""

import numpy as np
import pytest
from scipy import stats
from scipy.io import wavfile
from waveform_signals import P_VALUE, RATE_HZ, VOICE, streams, synthesize

import heimdall_lab as hl
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.config import Config
from heimdall_lab.signals import spectra
from heimdall_lab.simulation.waveforms import rhythm, speech

AUDIO_HZ = 8000
WINDOW = 10_000  # 0.2 s
NARROW_HZ = 200.0
BEFORE = [  # every 300th sample of three voices of 1024
    [0.5549806, 0.1352184, -0.3561971, -0.9491348],
    [0.0725171, -0.0317407, -0.3177088, 0.290162],
    [-0.1542261, -0.0987249, -0.4587578, -0.2486347],
]


def share_narrow(waveform: np.ndarray) -> float:
    """Share of windows whose rms bandwidth is that of a carrier."""
    return float((spectra.rms_bandwidth_hz(*spectra.periodogram(waveform, RATE_HZ)) < NARROW_HZ).mean())


def turns_s(amplitude: np.ndarray, speaking: bool) -> np.ndarray:
    """Lengths of the phrases or pauses that a row holds whole."""
    on = amplitude > 0.5
    edges = np.flatnonzero(np.diff(on)) + 1
    return np.diff(edges)[on[edges[:-1]] == speaking] / AUDIO_HZ


def test_phrases_and_pauses_last_exponential_times_and_a_window_begins_in_either():
    amplitude = rhythm.phrases(0.3, streams(100), 60 * AUDIO_HZ, AUDIO_HZ)
    assert amplitude.min() == 0
    assert amplitude.max() == 1
    begins = int((amplitude[:, 0] == 0).sum())
    assert stats.binomtest(begins, 100, 0.3).pvalue > P_VALUE
    # Of a hundred rows of 60 s the share in pauses strays by √(2 · 0.3 · 0.7 · 0.43 s · 0.7 / 6000 s) = 0.46 %.
    assert (amplitude < 0.5).mean() == pytest.approx(0.3, abs=5 * 0.0046)
    for speaking, mean_s in ((True, rhythm.PHRASE_S), (False, rhythm.PHRASE_S * 3 / 7)):
        lasts_s = np.concatenate([turns_s(row, speaking) for row in amplitude])
        lasts_s = lasts_s[lasts_s > 0.05]  # the edges, of 20 ms, swallow the shortest
        assert stats.kstest(lasts_s[:500] - 0.05, stats.expon(scale=mean_s).cdf).pvalue > P_VALUE


def test_a_scene_pauses_alike_whatever_scenes_are_beside_it():
    one = speech.transmitter_audio("", streams(6).select(np.array([4])), 2000, pause_ratio=0.5)
    assert np.array_equal(one[0], speech.transmitter_audio("", streams(6), 2000, pause_ratio=0.5)[4])


def test_pauses_leave_a_carrier_and_phrases_their_deviation():
    """A window of 0.2 s lies within a pause of mean m as often as the ratio times exp(−0.2 s / m)."""
    pausing, constant = synthesize(VOICE, 300, WINDOW, pause_ratio=0.45), synthesize(VOICE, 300, WINDOW)
    whole = 0.45 * np.exp(-0.2 / (rhythm.PHRASE_S * 0.45 / 0.55))
    assert share_narrow(constant) == 0
    assert whole - 5 * (whole / 300) ** 0.5 < share_narrow(pausing) < 0.45
    assert (spectra.rms_bandwidth_hz(*spectra.periodogram(pausing, RATE_HZ)) > 0).all()  # a room is never quite still
    wide = spectra.rms_bandwidth_hz(*spectra.periodogram(pausing, RATE_HZ)) > 800
    assert wide.mean() > 0.4


def test_the_limiter_leaves_the_pauses_of_recordings_quiet(tmp_path):
    """45 % pauses at −60 dB, of which a window of 0.2 s lies within 25 %."""
    voice = speech._formant_speech(streams(1), 60 * AUDIO_HZ)[0]
    time_s = np.arange(len(voice)) / AUDIO_HZ
    pausing = np.where(time_s % 1.0 < 0.55, voice / np.abs(voice).max(), 1e-3 * voice / np.abs(voice).max())
    wavfile.write(tmp_path / "voice.wav", AUDIO_HZ, pausing.astype(np.float32))
    folder = str(tmp_path)
    within = 0.45 - 0.2
    found = share_narrow(synthesize(VOICE, 400, WINDOW, voice_folder=folder))
    assert within - 5 * (within * (1 - within) / 400) ** 0.5 < found < 0.45
    assert share_narrow(synthesize(VOICE, 400, WINDOW, voice_folder=folder, limiter_reference="window")) < 0.05


def test_the_level_of_speech_is_that_of_its_phrases():
    """Noise in bursts of 2 s, as ITU-T P.56 counts it: the hangover of 0.2 s after each burst is speech."""
    noise = np.random.Generator(np.random.Philox(2)).standard_normal(40 * AUDIO_HZ)
    time_s = np.arange(len(noise)) / AUDIO_HZ
    bursts = np.where(time_s % 4 < 2, noise, 1e-3 * noise)
    expected_db = 10 * np.log10(2 / 2.2)
    # The averages fall by 15.9 dB and more in about 0.1 s, which counts as speech too.
    assert expected_db - 0.5 < 20 * np.log10(rhythm.active_rms(0.1 * bursts, AUDIO_HZ) / 0.1) < expected_db + 0.1
    assert 20 * np.log10(rhythm.active_rms(noise, AUDIO_HZ)) == pytest.approx(0, abs=0.1)
    assert rhythm.active_rms(np.zeros(100), AUDIO_HZ) == 0
    assert np.isfinite(rhythm.active_rms(np.ones(1), AUDIO_HZ))


def test_voices_without_pauses_are_what_they_were():
    """Samples of before there were any; the bytes of datasets depend on them, and on their configuration's text."""
    audio = speech.transmitter_audio("", streams(3), 1024)
    assert audio[:, 100::300] == pytest.approx(np.array(BEFORE), abs=2e-6)
    for name in ("iq_test", "los_sync", "uhf_mixed"):
        fields = hl.preset(name).model_dump()["signal"]
        assert not {"pause_ratio", "limiter_reference"} & set(fields)
    config = hl.preset("los_sync", **{"signal.pause_ratio": 0.3})
    assert config.model_dump()["signal"]["pause_ratio"] == 0.3
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_recordings_have_pauses_of_their_own(tmp_path):
    with pytest.raises(ConfigError, match=r"signal: pause_ratio 0.3 is of synthesised voices.*set it to 0 or voice_f"):
        hl.preset("los_sync", signal={"pause_ratio": 0.3, "voice_folder": str(tmp_path)})
    hl.preset("los_sync", signal={"pause_ratio": 0.3})  # a share of time, which need not add up with those of scenes
