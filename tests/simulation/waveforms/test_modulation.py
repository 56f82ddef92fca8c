"""Frequency modulation and trains of pulses against closed forms."""

import numpy as np
import pytest

from heimdall_lab.simulation.waveforms import modulation

TURNS = np.concatenate([np.linspace(-2, 2, 20_001), [1e6 + 0.123, -3e8 - 0.3, 0.25, -0.25, 0.5, 0.75]])


def test_cosine_and_sine():
    cosine, sine = np.array([modulation.cos_sin(turns) for turns in TURNS]).T
    part = TURNS - np.round(TURNS)
    assert np.abs(cosine - np.cos(2 * np.pi * part)).max() < 1e-10
    assert np.abs(sine - np.sin(2 * np.pi * part)).max() < 1e-10


@pytest.mark.parametrize("num_time", [1, 16, 255, 256, 257, 3_000_000])
def test_phase_of_a_steady_message_is_that_of_a_carrier(num_time):
    """A minute at 50 kHz: n turns of 0.0123… each, which float64 holds to 1e-11."""
    deviation_hz, rate_hz, level = 2500.0, 50e3, np.float32(0.2468)
    waveform = modulation.frequency_modulate(np.full((1, num_time), level), deviation_hz, rate_hz)
    assert waveform.dtype == np.complex64
    turns = np.arange(1, num_time + 1) * (float(level) * deviation_hz / rate_hz)
    assert np.abs(waveform[0] - np.exp(2j * np.pi * (turns % 1))).max() < 1e-6


def test_random_messages_are_summed():
    message = np.random.Generator(np.random.Philox(1)).uniform(-1, 1, (5, 5000))
    waveform = modulation.frequency_modulate(message, 5e3, 20e3)
    assert np.abs(waveform - np.exp(2j * np.pi * 0.25 * message.cumsum(axis=1))).max() < 1e-6


@pytest.mark.parametrize("step", [1.6e-4, 0.16, 0.31, 1.0, 2.7])
def test_interpolation_follows_cosines(step):
    """Up to 3/8 cycle, to the -85 dB of its ripple."""
    num_time = min(2000, int(400 / step))
    frequency = np.array([0.0, 0.05, 0.125, 0.3, 0.375])[:, None]
    values = np.cos(2 * np.pi * frequency * np.arange(450) + 0.4).astype(np.float32)
    first = np.array([11.0, 12.25, 19.999, 20.0, 30.5])
    train = modulation.pulse_train(values, modulation.interpolation_pulse(), first, step, num_time)
    expected = np.cos(2 * np.pi * frequency * (first[:, None] + step * np.arange(num_time)) + 0.4)
    assert np.abs(train - expected).max() < 10 ** (-85 / 20)


def test_interpolation_makes_no_images():
    """Noise below 3/8 cycle has nothing above 5/8, where its images would lie."""
    rng = np.random.Generator(np.random.Philox(2))
    spectrum = np.zeros(1025, dtype=complex)
    spectrum[:768] = np.exp(2j * np.pi * rng.random(768))
    values = np.fft.irfft(spectrum)[None].astype(np.float32)
    train = modulation.pulse_train(values, modulation.interpolation_pulse(), np.array([20.0]), 0.1, 20_000)[0]
    power = np.abs(np.fft.rfft(train * np.blackman(20_000))) ** 2
    cycles = np.fft.rfftfreq(20_000, 0.1)
    assert power[cycles > 0.625].sum() < 10**-8.5 * power.sum()


def test_root_raised_cosine_twice_is_nyquist():
    """A train of symbols, filtered once more, has them at their centres: the closed form in a direct sum."""
    rng = np.random.Generator(np.random.Philox(3))
    symbols = rng.choice([-1, -1 / 3, 1 / 3, 1], (1, 400)).astype(np.float32)
    step = 1 / 16
    pulse = modulation.root_raised_cosine_pulse(0.2)
    train = modulation.pulse_train(symbols, pulse, np.array([31.0]), step, 16 * 330)[0]
    time = np.arange(-100 * 16, 100 * 16 + 1) * step + 1e-7
    root = np.sin(0.8 * np.pi * time) + 0.8 * time * np.cos(1.2 * np.pi * time)
    root /= np.pi * time * (1 - (0.8 * time) ** 2)
    matched = np.convolve(train, root * step, mode="valid")[::16]
    assert np.abs(matched - symbols[0, 131 : 131 + len(matched)]).max() < 0.01
    assert np.sqrt(np.mean((matched - symbols[0, 131 : 131 + len(matched)]) ** 2)) < 0.003


@pytest.mark.parametrize(("first", "num_time"), [(10.9, 10), (11.0, 79)])
def test_samples_beyond_the_values_are_refused(first, num_time):
    with pytest.raises(ValueError, match="values: 100 do not reach 12 intervals"):
        modulation.pulse_train(
            np.zeros((1, 100), np.float32), modulation.interpolation_pulse(), np.array([first]), 1.0, num_time
        )
