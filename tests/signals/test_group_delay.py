"""Receivers whose filters delay the signal's frequencies unlike."""

import numpy as np
import pytest

from heimdall_lab.signals import group_delay
from heimdall_lab.signals.group_delay import group_delay_sigma

NUM_TIME = 8000
RECEIVERS = 5
RATE_HZ = 50e3
WEIGHT = np.where(np.abs(np.linspace(-0.5, 0.5, 250)) < 0.12, 1.0, 0.0)[None]


def bent_s(odd: int | None, samples: float, snr_db: float = 30.0, late: int = 0) -> np.ndarray:
    """What is found where one receiver's group delay is so many samples more at 0.12 cycles per sample than at 0."""
    rng = np.random.default_rng(11)
    cycles = np.fft.fftfreq(NUM_TIME)
    spectrum = np.fft.fft(rng.standard_normal(NUM_TIME) + 1j * rng.standard_normal(NUM_TIME)) * (np.abs(cycles) < 0.1)
    bend = np.exp(-2j * np.pi * samples / 0.12**2 * cycles**3 / 3)
    each = np.stack([np.fft.ifft(spectrum * (bend if receiver == odd else 1)) for receiver in range(RECEIVERS)])
    level = np.sqrt((np.abs(each[0]) ** 2).mean() * 10 ** (-snr_db / 10) / 2)
    each = each + level * (rng.standard_normal(each.shape) + 1j * rng.standard_normal(each.shape))
    zeros = np.zeros((1, RECEIVERS))
    used = np.full((1, RECEIVERS), True)
    delay = late * (np.arange(RECEIVERS) > 0)
    voltage = np.stack([np.roll(row, shift) for row, shift in zip(each, delay, strict=True)])[None].astype(np.complex64)
    reference = np.zeros(1, dtype=int)
    return group_delay_sigma(lambda receiver: voltage[:, receiver], reference, used, zeros + delay, zeros, WEIGHT)[0]


@pytest.mark.parametrize("odd", [0, 2])
def test_the_odd_receiver_is_told_even_where_it_is_the_reference(odd):
    found = bent_s(odd, samples=2.0)
    # Of a flat band to 0.1, the group delay 2 (f / 0.12)² has a standard deviation of 2 (0.1 / 0.12)² √(4 / 45).
    assert found[odd] == pytest.approx(2 * (0.1 / 0.12) ** 2 * np.sqrt(4 / 45), rel=0.15)
    assert (np.delete(found, odd) == 0).all()


def test_of_long_windows_the_middle_is_taken_where_the_delays_have_it(monkeypatch):
    monkeypatch.setattr(group_delay, "_MOST_SAMPLES", NUM_TIME // 2)
    found = bent_s(2, samples=2.0, late=700)
    assert found[2] == pytest.approx(2 * (0.1 / 0.12) ** 2 * np.sqrt(4 / 45), rel=0.2)
    assert (np.delete(found, 2) == 0).all()


def test_alike_filters_say_nothing():
    assert (bent_s(None, samples=0.0) == 0).all()
