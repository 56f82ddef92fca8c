"""Fixtures of the tests of waveforms."""

import pytest
from waveform_signals import VOICE, instantaneous_frequency_hz, synthesize


@pytest.fixture(scope="module")
def voice():
    return synthesize(VOICE, 100, 50_000)


@pytest.fixture(scope="module")
def voice_audio(voice):
    return instantaneous_frequency_hz(voice)
