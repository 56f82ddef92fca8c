"""Delays of long windows, in memory that does not grow with what is searched."""

import tracemalloc

import numpy as np
import pytest
from signals.test_correlation import band_limited_noise, flat_weight, peak_of_two
from signals.test_spectra import complex_normal, generator

from heimdall_lab.core.interpolation import interpolate, interpolate_many
from heimdall_lab.signals import correlation, lag_search


@pytest.mark.parametrize(("delay", "offset_cycles"), [(17.3, 0.0), (-612.6, 1.5e-4), (1_498.2, -1.9e-4)])
def test_a_search_in_segments_finds_what_the_grid_finds(delay, offset_cycles, monkeypatch):
    rng, num_time = generator(31), 4000
    first, second = (wave[:1] for wave in band_limited_noise(rng, 1, num_time, [0.0, delay]))
    second = second * np.exp(2j * np.pi * offset_cycles * np.arange(num_time)) + complex_normal(rng, second.shape) / 2
    grid = peak_of_two(first, second, max_delay=1_600.0)
    monkeypatch.setattr(correlation, "_MOST_GRID_POINTS", 1)
    segments = peak_of_two(first, second, max_delay=1_600.0)
    assert segments.delay_samples[0, 1] == pytest.approx(delay, abs=0.3)
    for found, expected in zip(segments, grid, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_receivers_one_by_one_have_the_peaks_of_all_together():
    rng = generator(32)
    waves = np.stack(band_limited_noise(rng, 1, 3000, [0.0, 5.2, -11.7]), axis=1)
    iq = (waves + complex_normal(rng, waves.shape) / 3).astype(np.complex64)
    allowed, weight = np.array([20.0, 30.0, 25.0]), flat_weight(1)
    together = correlation.ambiguity_peak(
        iq, np.array([1]), weight, max_delay_samples=allowed[None], max_frequency_cycles=2e-4
    )
    apart = correlation.ambiguity_peak_one_by_one(
        lambda receiver: iq[0, receiver], 1, weight[0], max_delay_samples=allowed, max_frequency_cycles=2e-4
    )
    others = [0, 2]
    np.testing.assert_allclose(together.delay_samples[0, others], [-5.2, -16.9], atol=0.3)
    for found, expected in zip(apart, together, strict=True):
        np.testing.assert_allclose(found[0, others], expected[0, others], atol=1e-4)
    assert (apart.delay_samples[0, 1], apart.coherence[0, 1]) == (0, 1)


def test_delays_as_long_as_the_window_take_bounded_memory():
    """A grid of all lags and frequencies would have 10⁸ points, 1 GB each time that it is copied."""
    rng, num_time, delay = generator(33), 60_000, 41_234
    wave = np.convolve(complex_normal(rng, (num_time + delay,)), np.hanning(9), mode="same")
    iq = np.stack([wave[delay:], wave[:num_time]]) + complex_normal(rng, (2, num_time))
    weight = flat_weight(1, 0.4)
    tracemalloc.start()
    peak = correlation.ambiguity_peak(
        iq[None].astype(np.complex64),
        np.zeros(1, dtype=int),
        weight,
        max_delay_samples=np.full((1, 2), float(num_time)),
        max_frequency_cycles=1e-3,
    )
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak.delay_samples[0, 1] == pytest.approx(delay, abs=0.3)
    assert most < 100e6


def test_all_lags_of_a_segment_are_searched_and_the_best_comes_first():
    rng = generator(34)
    template = complex_normal(rng, (2**15,)).astype(np.complex64)
    for lag in (-20_000, -1, 0, 12_345):
        received = np.zeros_like(template)
        received[max(lag, 0) : len(template) + min(lag, 0)] = template[max(-lag, 0) : len(template) - max(lag, 0)]
        assert lag_search.likely_lags(received, template, 32, 20_000)[0] == lag


def test_many_samples_are_interpolated_as_few():
    rng = generator(35)
    samples = complex_normal(rng, (500,))
    position = np.concatenate([rng.uniform(20, 480, 2_000), np.arange(20.0, 40.0)])
    np.testing.assert_allclose(interpolate_many(samples, position), interpolate(samples, position), atol=1e-12)
