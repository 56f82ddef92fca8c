"""Delays of ground and sky waves, against second implementations by other formulas."""

import numpy as np
import pytest

from heimdall_lab.core import ground_wave, sky_wave
from heimdall_lab.core.units import EARTH_RADIUS_KM, SPEED_OF_LIGHT


@pytest.mark.parametrize("height_m", [90e3, 200e3, 300e3, 400e3])
def test_hop_is_as_long_as_two_chords_between_points_of_a_circle(height_m):
    radius_m, distance_m = EARTH_RADIUS_KM * 1e3, np.array([0.0, 1.0, 50e3, 700e3, 2000e3, 4000e3])
    end = radius_m * np.exp(1j * distance_m / radius_m)
    middle = (radius_m + height_m) * np.exp(0.5j * distance_m / radius_m)
    expected_m = np.abs(middle - radius_m) + np.abs(end - middle)
    length_m, along_distance, along_height = sky_wave.hop(distance_m, height_m)
    np.testing.assert_allclose(length_m, expected_m, rtol=1e-12)
    for found, step in ((along_distance, (1.0, 0.0)), (along_height, (0.0, 1.0))):
        ahead, behind = (sky_wave.hop(distance_m + k * step[0], height_m + k * step[1])[0] for k in (1, -1))
        np.testing.assert_allclose(found, (ahead - behind) / 2, atol=1e-6)


def test_the_delay_of_a_hop_against_the_ground_by_distance():
    """A table that is computed by the theorem of cosines, in µs for 200, 300 and 400 km of height."""
    radius_km, table = EARTH_RADIUS_KM, []
    heights_km = np.array([200, 300, 400])
    for distance_km in (100, 500, 1000, 2000):
        cosine = np.cos(distance_km / 2 / radius_km)
        mirror_km = radius_km + heights_km
        leg_km = np.sqrt(radius_km**2 + mirror_km**2 - 2 * radius_km * mirror_km * cosine)
        table.append((2 * leg_km - distance_km) * 1e9 / SPEED_OF_LIGHT)
    distance_m, height_m = np.array([1e5, 5e5, 1e6, 2e6])[:, None], np.array([200e3, 300e3, 400e3])
    late_us = (sky_wave.hop(distance_m, height_m)[0] - distance_m) / SPEED_OF_LIGHT * 1e6
    np.testing.assert_allclose(late_us, table, rtol=1e-9)
    assert late_us[0, 0] == pytest.approx(1047, abs=15)  # 200 km: nearly straight up and down, 2 · 206 km − 100 km


def norton_series(numerical_distance: complex) -> complex:
    """W = 1 − j √(π p) exp(−p) − 2 p + (2 p)² / (1 · 3) − (2 p)³ / (1 · 3 · 5) + …, as K. A. Norton gives it (1936)."""
    term, total = 1.0 + 0j, 1.0 + 0j
    for n in range(1, 200):
        term *= -2 * numerical_distance / (2 * n - 1)
        total += term
    return total - 1j * np.sqrt(np.pi * numerical_distance) * np.exp(-numerical_distance)


def delay_by_series_s(distance_m: float, frequency_hz: float, ground: tuple[float, float]) -> float:
    """Group delay by flat ground alone, from phases of the series at two frequencies."""
    phases = []
    for frequency in (frequency_hz - 10.0, frequency_hz + 10.0):
        wave_number = 2 * np.pi * frequency / SPEED_OF_LIGHT
        index = ground[1] - 1j * ground[0] * 376.730313 / wave_number  # σ / (ω ε₀) = σ Z₀ / k
        numerical_distance = -0.5j * wave_number * distance_m * (index - 1) / index**2
        phases.append(np.angle(norton_series(numerical_distance)))
    return float(-(phases[1] - phases[0]) / (2 * np.pi * 20.0))


@pytest.mark.parametrize("ground", [ground_wave.SEA, *ground_wave.LAND])
@pytest.mark.parametrize(("distance_m", "frequency_hz"), [(100e3, 60e3), (400e3, 77.5e3), (50e3, 300e3)])
def test_secondary_delay_is_that_of_the_series(ground, distance_m, frequency_hz):
    radius_m = 4 / 3 * EARTH_RADIUS_KM * 1e3
    by_air_s = 315e-6 * distance_m / SPEED_OF_LIGHT
    phase_of_bulge = 0.5094 * (np.pi * frequency_hz / SPEED_OF_LIGHT * radius_m) ** (1 / 3) * distance_m / radius_m
    by_bulge_s = phase_of_bulge / 3 / (2 * np.pi * frequency_hz)
    expected_s = by_air_s + by_bulge_s + delay_by_series_s(distance_m, frequency_hz, ground)
    assert float(ground_wave.group_delay_s(distance_m, frequency_hz, ground)) == pytest.approx(expected_s, abs=5e-9)


def test_poor_ground_makes_long_waves_late_by_some_microseconds():
    """Loran-C charts add up to some 4 µs of secondary factor over land at 100 kHz, and less than 1 µs over sea."""
    late_us = np.array([ground_wave.group_delay_s(400e3, 100e3, each) for each in (ground_wave.SEA, *ground_wave.LAND)])
    late_us = late_us * 1e6
    assert (np.diff(late_us) > 0).all()
    assert late_us[0] < 1 < late_us[-1] < 5
