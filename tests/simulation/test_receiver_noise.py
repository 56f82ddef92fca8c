"""Noise, AGC and converter of the compiled receiver, against their laws."""

import numpy as np
import pytest
from reception import EDGE, P_VALUE, by_definition, in_codes, lines, links, random_links, receive, streams
from scipy import stats

from heimdall_lab.core.philox import Stage
from heimdall_lab.simulation import receiver


@pytest.fixture(scope="module")
def noise():
    """Noise alone of 3 scenes at 4 receivers, (3, 4, 40 000), of unit power."""
    num_time = 40_000
    link = links(np.zeros((3, 4, 1)), num_time, 254, gain=np.zeros((3, 4, 1, 159), np.complex64))
    link = links(link.arrival, num_time, 254, gain=link.gain, noise_amplitude=np.ones((3, 4)))
    return receive(np.ones((3, 1)), np.zeros(1), link, num_time, seed=31) / in_codes(np.ones((3, 4, 1)), link)


def test_noise_is_white_gaussian_and_independent_between_receivers_and_scenes(noise):
    num_time = noise.shape[-1]
    for component in (noise.real, noise.imag):
        assert stats.kstest(component.ravel(), stats.norm(scale=0.5**0.5).cdf).pvalue > P_VALUE
    # The mean of N exponential powers has the relative standard deviation 1 / √N.
    assert (np.abs(noise) ** 2).mean(axis=-1) == pytest.approx(np.ones((3, 4)), abs=5 / num_time**0.5)
    rows = noise.reshape(12, num_time)
    # Whiteness: periodogram ordinates of white noise are independent and exponential, at every frequency.
    periodogram = np.abs(np.fft.fft(rows, axis=1)) ** 2 / num_time
    assert stats.kstest(periodogram.ravel(), stats.expon.cdf).pvalue > P_VALUE
    for lag in range(1, 21):  # of complex white noise either part has the variance 1 / (2 N); of both signs of the lag
        correlation = (rows[:, lag:] * rows[:, :-lag].conj()).sum(axis=1) / num_time
        assert np.abs([correlation.real, correlation.imag]).max() < 5 / (2 * num_time) ** 0.5
        pseudo = (rows[:, lag:] * rows[:, :-lag]).sum(axis=1) / num_time  # I of one with Q of another sample
        assert np.abs([pseudo.real, pseudo.imag]).max() < 5 / (2 * num_time) ** 0.5
    assert np.abs((rows.real * rows.imag).mean(axis=1)).max() < 5 / (4 * num_time) ** 0.5  # products of variance 1 / 4
    correlation = np.abs(rows @ rows.conj().T) / num_time
    assert (correlation - np.diag(np.diag(correlation))).max() < 5 / num_time**0.5
    powers = np.corrcoef(np.abs(rows) ** 2)
    assert np.abs(powers - np.eye(12)).max() < 5 / num_time**0.5


@pytest.mark.parametrize("block", [2, 58, 254, 256])
@pytest.mark.parametrize("num_time", [1, 255, 1001])
def test_noise_is_the_documented_stream_number_by_number(num_time, block):
    settings = {
        "gain": np.zeros((3, 5, 1, -(-num_time // block) + 1), dtype=np.complex64),
        "noise_amplitude": np.linspace(0.5, 1.5, 15).reshape(3, 5),
    }
    link = links(np.zeros((3, 5, 1)), num_time, block, **settings)
    found = receive(np.ones((3, 1)), np.zeros(1), link, num_time, seed=2**40 + 7)
    for number in range(5):
        drawn = streams(3, 2**40 + 7).complex_normal(Stage.NOISE, num_time, lane=number).astype(complex)
        expected = drawn * (32767 / link.full_scale * link.noise_amplitude)[:, number, None]
        error = found[:, number] - expected
        # Numbers up to 2¹⁵ in float32 are multiples of 2⁻⁹.
        assert max(np.abs(error.real).max(), np.abs(error.imag).max()) <= 0.5 + 2.0**-8


def test_noise_is_not_turned_or_faded_with_the_signal():
    """Every nuisance of the signal leaves the noise as it is."""
    rng, num_time = np.random.Generator(np.random.Philox(3)), 1000
    cycles = rng.uniform(-EDGE, EDGE, 30)
    amplitude = lines(rng, 2, cycles)
    link = random_links(rng, num_time, 32, 2, noise_amplitude=np.full((2, 3), 0.3))
    silent = random_links(
        np.random.Generator(np.random.Philox(3)), num_time, 32, 2, gain=0 * link.gain, noise_amplitude=np.ones((2, 3))
    )
    expected = in_codes(by_definition(amplitude, cycles, link, num_time), link)
    noise_alone = receive(amplitude, cycles, silent, num_time) / in_codes(np.ones((2, 3, 1)), silent)
    error = receive(amplitude, cycles, link, num_time) - expected - in_codes(0.3 * noise_alone, link)
    assert np.abs(error.real).max() < 0.5 + 0.5 + 0.7
    assert np.abs(error.imag).max() < 0.5 + 0.5 + 0.7


def test_gain_sets_from_the_mean_powers():
    signal_mw, noise_mw = np.array([[1.0, 1e-12, 0.0]]), np.array([[3.0, 1e-13, 4.0]])
    found = receiver.full_scale(signal_mw, noise_mw, 20.0)
    assert found == pytest.approx(10 * np.array([[2.0, 1.1e-12**0.5, 2.0]]), rel=1e-14)
    assert np.isnan(receiver.full_scale(np.array([np.nan, 1.0]), np.array([1.0, np.nan]), 12.0)).all()


@pytest.mark.parametrize("level_dbm", [-140.0, -100.0, -60.0, 0.0, 20.0])
def test_codes_decode_to_the_voltage_at_any_level(level_dbm):
    rng, num_time = np.random.Generator(np.random.Philox(7)), 3000
    cycles = rng.uniform(-EDGE, EDGE, 40)
    amplitude, voltage = lines(rng, 1, cycles), 10 ** (level_dbm / 20)
    full_scale = receiver.full_scale(np.full((1, 2), voltage**2), np.zeros((1, 2)), 12.0)
    gain = np.full((1, 2, 1, 48), voltage, dtype=np.complex64)
    link = links(np.array([[[3.3], [77.7]]]), num_time, 64, gain=gain, full_scale=full_scale)
    decoded = receive(amplitude, cycles, link, num_time) * full_scale[..., None] / 32767
    expected = by_definition(amplitude, cycles, link, num_time)
    step = full_scale[0, 0] / 32767
    assert np.abs((decoded - expected).real).max() < step
    assert np.abs((decoded - expected).imag).max() < step
    assert (np.abs(decoded) ** 2).mean() == pytest.approx((np.abs(expected) ** 2).mean(), rel=1e-3)


@pytest.mark.parametrize("headroom_db", [0.0, 9.0])
def test_clipping_is_that_of_a_gaussian(headroom_db):
    num_time = 40_000
    settings = {
        "gain": np.zeros((2, 3, 1, 158), dtype=np.complex64),
        "noise_amplitude": np.ones((2, 3)),
        "full_scale": receiver.full_scale(np.zeros((2, 3)), np.ones((2, 3)), headroom_db),
    }
    link = links(np.zeros((2, 3, 1)), num_time, 256, **settings)
    found = receive(np.ones((2, 1)), np.zeros(1), link, num_time)
    codes = np.stack([found.real, found.imag])
    assert codes.min() == -32767  # never -32768, which has no positive counterpart
    assert codes.max() == 32767
    clipped = int((np.abs(codes) == 32767).sum())
    # Full scale over the standard deviation of one component; values that round to full scale count as well.
    limit = 10 ** (headroom_db / 20) * 2**0.5 * (1 - 0.5 / 32767)
    assert stats.binomtest(clipped, codes.size, 2 * stats.norm.sf(limit)).pvalue > P_VALUE
    drawn = np.stack([streams(2).complex_normal(Stage.NOISE, num_time, lane=r) for r in range(3)], axis=1)
    beyond = drawn.real > link.full_scale[..., None]
    assert beyond.any()
    assert (found.real[beyond] == 32767).all()
