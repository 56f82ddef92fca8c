"""Cramér-Rao bounds of whole scenes, against those computed by hand from the truth."""

import numpy as np
import pyproj
import pytest
from measured_delays import measured, ring
from numerical_bounds import bound_by_differences
from scipy import linalg

import heimdall_lab as hl
from heimdall_lab.localization import bounds, errors
from heimdall_lab.simulation.propagation.losses import smooth_earth_loss_db

SPEED_OF_LIGHT = 299_792_458.0


def scene_bound_by_hand(scene) -> tuple[np.ndarray, float]:
    """Covariance (2, 2) of one scene's position, and its GDOP: PROJ for positions, differences for derivatives.

    The unknowns are the transmitter's east and north, the emission time (as a range), the radiated power, and the
    altitude, of which it is known that it is uniform from 100 to 600 m. Dilution has nothing to do with that.
    """
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    used = scene.signal_present.values & scene.receiver_present.values
    receivers = np.stack(
        to_ecef.transform(*(scene[f"receiver_{n}"].values[used] for n in ("latitude", "longitude", "altitude"))), -1
    )
    latitude, longitude, altitude = (float(scene[f"transmitter_{n}"]) for n in ("latitude", "longitude", "altitude"))
    at_zero = np.array(to_ecef.transform(latitude, longitude, altitude))
    # 1e-5 degrees north and east give the directions; metres along them are straight steps on the tangent plane.
    north = np.array(to_ecef.transform(latitude + 1e-5, longitude, altitude)) - at_zero
    east = np.array(to_ecef.transform(latitude, longitude + 1e-5, altitude)) - at_zero
    up = np.array(to_ecef.transform(latitude, longitude, altitude + 1)) - at_zero
    axes = np.stack([east / np.linalg.norm(east), north / np.linalg.norm(north), up])

    def measure(parameters):
        place = np.append(parameters[:2], parameters[4:])
        distance = np.linalg.norm(receivers - (at_zero + place @ axes[: len(place)]), axis=1)
        return np.concatenate([distance + parameters[2], parameters[3] - 20 * np.log10(distance)])

    snr = 10 ** (scene.snr.values[used] / 10)
    energy_over_noise = snr * float(scene.occupied_bandwidth) * scene.sizes["time"] / 50e3
    noise_s = 1 / (np.sqrt(8) * np.pi * float(scene.rms_bandwidth) * np.sqrt(energy_over_noise))
    sigma_m = np.sqrt(noise_s**2 + 50e-9**2) * SPEED_OF_LIGHT  # gpsdo
    number = int(used.sum())
    apart_m = np.linalg.norm(receivers[:, None] - receivers[None], axis=2)
    levels_db2 = 4.0**2 * np.exp(-apart_m / 1e3)  # shadowing, correlated over 1 km
    noise_db = 20 / np.log(10) / np.sqrt(2 * energy_over_noise)
    levels_db2 += np.diag(10.0**2 / 12 + noise_db**2)  # environment, noise
    jacobian = np.stack([(measure(step) - measure(-step)) / 2 for step in np.eye(5)], axis=1)
    errors = linalg.block_diag(np.diag(sigma_m**2), levels_db2)
    prior = np.diag([0, 0, 0, 0, 12 / 500**2])
    covariance = np.linalg.inv(jacobian.T @ np.linalg.solve(errors, jacobian) + prior)
    equal = np.concatenate([np.ones(number), np.full(number, 1e9)])
    unweighted = bound_by_differences(measure, np.zeros(4), equal, np.ones(4))
    return covariance[:2, :2], float(np.trace(unweighted[:2, :2]) ** 0.5)


def test_scene_bound_is_the_one_computed_by_hand(small_dataset):
    found = bounds.scene_crlb(small_dataset)
    assert small_dataset.attrs["clock_sigma_s"] == 50e-9
    for index in range(small_dataset.sizes["sample"]):
        scene = small_dataset.isel(sample=index)
        covariance, gdop = scene_bound_by_hand(scene)
        # Differences of 1 m at 1 km: 2e-7; directions by 1e-5 degrees bend by 1e-7 rad.
        assert np.abs(found.crlb_covariance.values[index] - covariance).max() < 1e-5 * np.linalg.norm(covariance)
        assert float(found.gdop[index]) == pytest.approx(gdop, rel=1e-5)
        rmse = np.trace(covariance) ** 0.5
        assert float(found.crlb_rmse[index]) == pytest.approx(rmse, rel=1e-5)
        assert float(scene.crlb_rmse) == pytest.approx(rmse, rel=1e-5)
        assert float(scene.gdop) == pytest.approx(gdop, rel=1e-5)


def test_laws_that_are_not_known_are_refused(small_dataset):
    """Also where no link is late, and all laws are the same."""
    assert bounds.scene_crlb(small_dataset, "mixture").identical(bounds.scene_crlb(small_dataset))
    with pytest.raises(ValueError, match="law: 'cauchy' is unknown; choose one of normal, genie, mixture"):
        bounds.scene_crlb(small_dataset, "cauchy")


def test_scene_bound_uses_only_receivers_with_signal(small_dataset):
    changed = small_dataset.copy()
    present = changed.signal_present.values.copy()
    present[:, 3:] = False
    present[0, 2:] = False
    changed["signal_present"] = (changed.signal_present.dims, present)
    found = bounds.scene_crlb(changed)
    assert (found.crlb_rmse.values[1:] > small_dataset.crlb_rmse.values[1:]).all()
    for index in range(1, 4):
        covariance, _ = scene_bound_by_hand(changed.isel(sample=index))
        assert np.abs(found.crlb_covariance.values[index] - covariance).max() < 1e-4 * np.linalg.norm(covariance)
    assert np.isnan(found.gdop.values[0])  # two receivers: no dilution of time differences


def test_scenes_without_shadowing_have_a_bound():
    """Their levels err by noise alone."""
    steady = {"shadowing_sigma_db": 0.0, "environment_loss_min_db": 10.0, "environment_loss_max_db": 10.0}
    config = hl.preset("los_sync", num_samples=4, channel=steady, signal={"duration_s": 0.02})
    exact = hl.generate(config, progress=False)
    assert exact.attrs["link_sigma_db"] == 0
    assert (exact.crlb_rmse > 0).all()
    assert (exact.crlb_rmse < bounds.scene_crlb(exact.assign_attrs(link_sigma_db=5.0)).crlb_rmse).all()


def test_the_bound_takes_the_altitude_as_it_is_known_beforehand(small_dataset):
    """Reported exactly, reported roughly, drawn from a range, near the ground; signals along the ground have none."""
    reported = small_dataset.assign(reported_altitude=small_dataset.transmitter_altitude)
    exact = bounds.scene_crlb(reported)
    drawn = bounds.scene_crlb(small_dataset)
    network_m = np.maximum(np.nanstd(small_dataset.receiver_altitude, axis=1), 100.0)
    rough, like_network = (
        bounds.scene_crlb(reported.assign(reported_altitude_std=("sample", np.full(12, std_m))))
        for std_m in (500 / 12**0.5, network_m)
    )
    near_ground = small_dataset.copy()
    for name in ("transmitter_altitude_m", "transmitter_altitude_sigma_m"):
        del near_ground.attrs[name]
    ground = bounds.scene_crlb(near_ground)
    assert rough.crlb_rmse.values == pytest.approx(drawn.crlb_rmse.values, rel=1e-9)
    assert ground.crlb_rmse.values == pytest.approx(like_network.crlb_rmse.values, rel=1e-9)
    assert (exact.crlb_rmse < drawn.crlb_rmse).all()
    assert (exact.crlb_rmse < ground.crlb_rmse).all()
    wave, again = (
        bounds.scene_crlb(scene.assign_attrs(propagation="ground_wave")) for scene in (small_dataset, reported)
    )
    assert wave.identical(again)
    # The geodesic is what a straight line that climbs 500 m in 15 km is, to half of the square of its slope.
    for name in ("crlb_rmse", "gdop"):
        assert wave[name].values == pytest.approx(exact[name].values, rel=1e-3)
    for each in (exact, rough, ground):
        assert each.gdop.equals(drawn.gdop)


@pytest.fixture(scope="module")
def beyond_the_horizon():
    """Scenes whose receivers, 20 m high, tell where a transmitter near 50 m is by levels alone, to 1 dB."""
    rng = np.random.Generator(np.random.Philox(5))
    receivers, transmitter = ring(rng, 25, 7)
    receivers = np.concatenate([receivers, np.full((*receivers.shape[:2], 1), 20.0)], axis=-1)
    altitude_m = 50 + 5 * rng.standard_normal(25)
    transmitter = np.concatenate([transmitter, altitude_m[:, None]], axis=-1)
    known = {"level_law": "smooth_earth", "link_sigma_db": 1.0, "clock_sigma_s": 1.0, "centre_frequency_hz": 145e6}
    known |= {"transmitter_altitude_m": 50.0, "transmitter_altitude_sigma_m": 5.0, "duration_s": 10.0}
    dataset = measured(receivers, transmitter, np.zeros(receivers.shape[:2]), **known)
    ones = np.ones(25)
    known = {"snr": np.full(dataset.snr.shape, 60.0), "occupied_bandwidth": 1e4 * ones, "rms_bandwidth": 3e3 * ones}
    dataset = dataset.assign({name: dataset[name].copy(data=values) for name, values in known.items()})
    offset, place = bounds.transmitter_frame(dataset)
    distance_m = np.linalg.norm(offset - place[:, None], axis=-1)
    loss_db = smooth_earth_loss_db(distance_m, altitude_m[:, None], 20.0, 145e6)
    assert np.median(loss_db) > 3
    level_dbm = dataset.rssi_dbm - loss_db + rng.standard_normal(loss_db.shape)
    return dataset.assign(rssi_dbm=level_dbm.assign_attrs(units="dBm"))


def test_levels_bound_by_the_law_that_they_follow(beyond_the_horizon):
    """Against differences of the simulator's losses, over steps of the transmitter along east, north and up."""
    dataset = beyond_the_horizon
    offset, place = bounds.transmitter_frame(dataset)

    def loss_db(step_m: np.ndarray) -> np.ndarray:
        distance_m = np.linalg.norm(offset - (place + step_m)[:, None], axis=-1)
        altitude_m = dataset.transmitter_altitude.values[:, None] + step_m[2]
        return 20 * np.log10(distance_m) + smooth_earth_loss_db(distance_m, altitude_m, 20.0, 145e6)

    slopes = [(loss_db(step) - loss_db(-step)) / (2 * step.sum()) for step in np.diag([20.0, 20.0, 0.5])]
    columns = np.stack([*slopes, np.ones_like(slopes[0])], axis=-1)
    matrix = columns.swapaxes(1, 2) @ columns
    matrix[:, 2, 2] += 1 / 5.0**2
    expected = np.linalg.inv(matrix)[:, :2, :2]
    found = bounds.scene_crlb(dataset).crlb_covariance.values
    apart = np.abs(found - expected).max(axis=(1, 2)) / np.abs(expected).max(axis=(1, 2))
    assert np.median(apart) < 1e-4
    assert apart.max() < 0.05  # where losses have a kink within the steps, at the end of the line of sight


@pytest.mark.slow
def test_no_level_says_more_than_the_bound_of_its_law(beyond_the_horizon):
    """Of 25 scenes the rms error over the bound is known to 10 %: three standard deviations below 1 is 0.7."""
    dataset = beyond_the_horizon
    error_m = errors.position_errors(dataset, hl.locate(dataset, "rss_ml")).error
    over = {
        law: float(np.sqrt(((error_m / bounds.scene_crlb(dataset.assign_attrs(level_law=law)).crlb_rmse) ** 2).mean()))
        for law in ("free_space", "smooth_earth")
    }
    assert over["smooth_earth"] > 0.7
    assert over["free_space"] < 0.7
