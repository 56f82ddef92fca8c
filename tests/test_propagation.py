"""Loss, noise and delay against the Recommendations' own formulas and constants."""

import numpy as np
import pyproj
import pytest

import heimdall_lab as hl
from heimdall_lab import propagation, scenes


@pytest.mark.parametrize("frequency_mhz", [30.0, 145.0, 432.0, 3000.0])
@pytest.mark.parametrize("distance_km", [0.1, 1.0, 27.3, 400.0])
def test_free_space_loss_is_that_of_p525(frequency_mhz, distance_km):
    loss_db = float(propagation.free_space_loss_db(np.array(distance_km * 1e3), frequency_mhz * 1e6))
    # ITU-R P.525-4 eq. (4), whose constant is rounded to 0.1 dB: 20 log(4π 10⁹ / c) = 32.4478.
    assert loss_db == pytest.approx(32.4 + 20 * np.log10(frequency_mhz) + 20 * np.log10(distance_km), abs=0.05)
    # Through the field strength: eqs. (6) and (7) for 0 dBW, E = 74.8 - 20 log d and Pr = E - 20 log f_GHz - 167.2.
    field_db = 74.8 - 20 * np.log10(distance_km)
    assert loss_db == pytest.approx(-(field_db - 20 * np.log10(frequency_mhz / 1e3) - 167.2), abs=0.1)


def test_free_space_loss_is_the_spreading_over_a_sphere():
    """An isotropic antenna collects λ²/4π of the sphere 4πd²."""
    distance_m, frequency_hz = np.array([10.0, 5e3, 1.2e5]), 145e6
    aperture_m2 = (299_792_458 / frequency_hz) ** 2 / (4 * np.pi)
    share = aperture_m2 / (4 * np.pi * distance_m**2)
    loss_db = propagation.free_space_loss_db(distance_m, frequency_hz)
    assert loss_db == pytest.approx(-10 * np.log10(share), abs=1e-9)
    assert np.diff(propagation.free_space_loss_db(np.array([1e3, 2e3, 1e4]), 1e8)) == pytest.approx(
        [6.0206, 13.9794], abs=1e-4
    )


def test_path_loss_adds_its_parts():
    distance_m, shadowing_db = np.array([1e3, 2e3]), np.array([-3.0, 4.0])
    loss_db = propagation.path_loss_db(distance_m, 145e6, shadowing_db, np.array([5.0, 15.0]))
    # 32.4478 + 43.2274 for 145 MHz at 1 km, by hand.
    assert loss_db == pytest.approx([75.6752 - 3 + 5, 75.6752 + 6.0206 + 4 + 15], abs=2e-4)


@pytest.mark.parametrize(
    ("bandwidth_hz", "noise_figure_db", "expected_dbm"),
    [(1.0, 0.0, -173.9752), (12_500.0, 0.0, -133.0061), (50_000.0, 12.0, -114.9855), (1e6, 3.0, -110.9752)],
)
def test_noise_power_is_kt0b(bandwidth_hz, noise_figure_db, expected_dbm):
    """k T0 = 1.380649e-23 · 290 W/Hz = -203.9752 dBW/Hz; ITU-R P.372 eq. (4) rounds it to -204."""
    found_dbm = propagation.noise_power_dbm(bandwidth_hz, noise_figure_db)
    assert found_dbm == pytest.approx(expected_dbm, abs=1e-4)
    assert found_dbm - 30 == pytest.approx(noise_figure_db + 10 * np.log10(bandwidth_hz) - 204, abs=0.03)


def test_delay_and_level_of_drawn_links():
    """Delay is the straight line over c (PROJ's ECEF); the median loss is free space plus the mean environment loss."""
    config = hl.preset("los_sync", num_samples=400, seed=11, gate={"min_receivers": 3, "min_mean_snr_db": -30.0})
    truth = scenes.draw(config, np.arange(400)).variables
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    receivers = np.stack(
        to_ecef.transform(*(truth[f"receiver_{n}"] for n in ("latitude", "longitude", "altitude"))), -1
    )
    transmitter = np.stack(
        to_ecef.transform(*(truth[f"transmitter_{n}"] for n in ("latitude", "longitude", "altitude"))), -1
    )
    distance_m = np.linalg.norm(receivers - transmitter[:, None], axis=-1)
    assert np.abs(truth["propagation_delay"] - distance_m / 299_792_458).max() < 1e-14  # rounding of 1e-9 m / c
    assert truth["received_power"] == pytest.approx(truth["transmitter_power"][:, None] - truth["path_loss"])
    excess_db = truth["path_loss"] - 20 * np.log10(4 * np.pi * distance_m * config.signal.frequency_hz / 299_792_458)
    channel = config.channel
    spread_db = channel.environment_loss_max_db - channel.environment_loss_min_db
    sigma_db = np.hypot(channel.shadowing_sigma_db, spread_db / 12**0.5)
    mean_db = (channel.environment_loss_min_db + channel.environment_loss_max_db) / 2
    count = excess_db.size
    assert excess_db.mean() == pytest.approx(mean_db, abs=5 * sigma_db / count**0.5)
    assert excess_db.std() == pytest.approx(sigma_db, rel=5 / (2 * count) ** 0.5)
    assert channel.link_sigma_db == pytest.approx(sigma_db)
