"""Windowed sincs against band-limited signals that are known in closed form."""

import numpy as np
import pytest
from reception import EDGE, evaluate, lines

from heimdall_lab.core import interpolation


@pytest.mark.parametrize("frequency_hz", [-4_800.0, -1_234.5, 0.0, 3_000.0, 4_800.0])
def test_interpolation_error_of_a_tone_is_below_minus_80_db(frequency_hz):
    rng = np.random.Generator(np.random.Philox(11))
    position = rng.uniform(20.0, 980.0, 2_000)
    samples = np.exp(2j * np.pi * frequency_hz / 12_000 * np.arange(1_000))
    error = interpolation.interpolate(samples, position) - np.exp(2j * np.pi * frequency_hz / 12_000 * position)
    assert 20 * np.log10(np.abs(error).max()) < -80.0


def test_interpolation_at_whole_positions_returns_the_samples():
    samples = np.exp(1j * np.arange(100.0))
    np.testing.assert_allclose(interpolation.interpolate(samples, np.arange(20.0, 80.0)), samples[20:80], atol=1e-12)


def test_interpolation_between_samples_is_that_at_their_positions():
    rng = np.random.Generator(np.random.Philox(12))
    samples = rng.standard_normal(200) + 1j * rng.standard_normal(200)
    first = interpolation.HALF_WIDTH - 1  # the first sample that has enough before it
    for fraction in (1e-6, 0.25, 0.999):
        found = interpolation.interpolate_between(samples, fraction)
        position = first + fraction + np.arange(200 - 2 * interpolation.HALF_WIDTH + 1)
        np.testing.assert_allclose(found, interpolation.interpolate(samples, position), atol=1e-12)


RATIOS = [12_000 / 20_250, 12_000 / 48_000, 0.99]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("share", [-0.4, -0.1, 0.0, 0.25, 0.4])
def test_a_lower_rate_keeps_what_is_in_its_band(ratio, share):
    position = interpolation.half_width(ratio) + np.arange(1_000) / ratio + 0.3
    samples = np.exp(2j * np.pi * share * ratio * np.arange(int(position[-1]) + 100))
    found = interpolation.resample_many(samples, position, ratio)
    error = found - np.exp(2j * np.pi * share * ratio * position)
    assert 20 * np.log10(np.abs(error).max()) < -80.0


@pytest.mark.parametrize("ratio", RATIOS[:2])
@pytest.mark.parametrize("share", [-0.8, 0.6, 0.75])
def test_a_lower_rate_takes_out_what_is_outside_of_its_band(ratio, share):
    position = interpolation.half_width(ratio) + np.arange(1_000) / ratio
    samples = np.exp(2j * np.pi * share * ratio * np.arange(int(position[-1]) + 100))
    assert 20 * np.log10(np.abs(interpolation.resample_many(samples, position, ratio)).max()) < -80.0


def test_a_lower_rate_needs_the_samples_within_its_half_width_alone():
    ratio, position = 12_000 / 20_250, np.array([100.4])
    half = interpolation.half_width(ratio)
    samples = np.full(201, np.nan, dtype=complex)
    samples[101 - half : 101 + half] = 1
    assert interpolation.resample_many(samples, position, ratio) == pytest.approx([1], abs=1e-4)


def test_kernels_add_up_to_one_and_mirror_each_other():
    table = interpolation.kernel_table()
    assert table.shape == (interpolation.PHASES + 1, interpolation.TAPS)
    assert table.dtype == np.float32
    assert np.abs(table.astype(float).sum(axis=1) - 1).max() < 16 * 2.0**-25  # each entry rounded to 24 bits
    assert np.abs(table - table[::-1, ::-1]).max() < 2.0**-24
    whole = np.zeros(interpolation.TAPS)
    whole[interpolation.LEAD] = 1
    assert np.abs(table[0] - whole).max() < 1e-12
    assert np.abs(table[-1] - np.roll(whole, 1)).max() < 1e-12


@pytest.mark.parametrize("factor", range(1, 9))
def test_upsampling_gives_the_values_between_the_samples(factor):
    rng, count = np.random.Generator(np.random.Philox(factor)), 1500
    cycles = np.append(rng.uniform(-EDGE, EDGE, 48), [-EDGE, EDGE])
    amplitude = lines(rng, 3, cycles)
    found = interpolation.upsample(evaluate(amplitude, cycles, np.arange(count)).astype(np.complex64), factor)
    assert found.shape == (3, 2, (count - interpolation.TAPS) * factor)
    assert found.dtype == np.float32
    time = interpolation.LEAD + np.arange(found.shape[2]) / factor
    error = found[:, 0] + 1j * found[:, 1] - evaluate(amplitude, cycles, time)
    assert np.sqrt((np.abs(error) ** 2).mean(axis=1)).max() < 10 ** (-95 / 20)
    # The worst frequency is the highest.
    edge = interpolation.upsample(np.exp(2j * np.pi * EDGE * np.arange(count))[None].astype(np.complex64), factor)
    expected = np.exp(2j * np.pi * EDGE * time)
    assert np.abs(edge[0, 0] + 1j * edge[0, 1] - expected).max() < 10 ** (-95 / 20)


@pytest.mark.parametrize("factor", [1, 3, 8])
def test_upsampled_values_depend_on_the_sixteen_samples_around_them_alone(factor):
    rng, count = np.random.Generator(np.random.Philox(1)), 100
    waveform = (rng.standard_normal((1, count)) + 1j * rng.standard_normal((1, count))).astype(np.complex64)
    clean = interpolation.upsample(waveform, factor)[0]
    for place in (0, 15, 50, count - 2, count - 1):
        dirty = waveform.copy()
        dirty[0, place] = complex(np.nan, np.nan)
        changed = np.isnan(interpolation.upsample(dirty, factor)[0])
        first = np.arange(clean.shape[1]) // factor  # the first sample that each value needs
        needs = (first <= place) & (place < first + interpolation.TAPS)
        assert np.array_equal(changed, np.stack([needs, needs]))


def test_upsampled_rows_do_not_depend_on_each_other():
    rng = np.random.Generator(np.random.Philox(2))
    waveform = (rng.standard_normal((4, 200)) + 1j * rng.standard_normal((4, 200))).astype(np.complex64)
    together = interpolation.upsample(waveform, 5)
    for row in range(4):
        assert np.array_equal(interpolation.upsample(waveform[row : row + 1], 5)[0], together[row])
