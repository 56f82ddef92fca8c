"""Diffraction loss over profiles of the ground, against independent profiles, a smooth Earth and a knife edge."""

import numpy as np
import pyproj
import pytest
from height_tiles import SIZE, grid, points, write_hgt
from scipy.interpolate import RegularGridInterpolator

from heimdall_lab.datasets.terrain.heights import height_m
from heimdall_lab.datasets.terrain.tiles import MissingTilesError, open_terrain
from heimdall_lab.simulation.propagation import losses, terrain


def test_missing_tiles_of_all_links_are_named_at_once(plane_folder):
    heights, _ = plane_folder("N43E007")
    rx_longitude = np.full(terrain._CHUNK_LINKS + 2, 7.6)
    rx_longitude[0], rx_longitude[-1] = 8.5, 6.5
    with pytest.raises(MissingTilesError, match="N43E006, N43E008 missing"):
        terrain.diffraction_loss_db(heights, 43.5, 7.5, 10.0, 43.5, rx_longitude, 10.0, 145e6)


def test_loss_over_the_riviera_is_delta_bullington_over_independent_profiles(riviera):
    samples = height_m(riviera, *np.broadcast_arrays(*grid("N43E007")))
    ascending = np.arange(SIZE) / 1200
    reference = RegularGridInterpolator((43 + ascending, 7 + ascending), samples[::-1])
    geod = pyproj.Geod(ellps="WGS84")
    tx_latitude, tx_longitude = points(30, seed=1)
    rx_latitude, rx_longitude = points(30, seed=2)
    tx_altitude, rx_altitude = 300.0, np.linspace(0, 2500, 30)
    found_db = terrain.diffraction_loss_db(
        riviera, tx_latitude, tx_longitude, tx_altitude, rx_latitude, rx_longitude, rx_altitude, 145e6
    )
    for link in range(30):
        ends = (tx_longitude[link], tx_latitude[link], rx_longitude[link], rx_latitude[link])
        length_m = geod.inv(*ends)[2]
        count = int(np.ceil(length_m / 90)) + 1
        along = np.array(geod.npts(*ends, count - 2))
        along = np.concatenate([[ends[:2]], along, [ends[2:]]])
        ground = reference(along[:, ::-1])
        expected_db = losses.delta_bullington(
            np.linspace(0, length_m / 1e3, count),
            ground,
            max(tx_altitude - ground[0], 1.0),
            max(rx_altitude[link] - ground[-1], 1.0),
            145.0,
            effective_earth_radius_km=4 / 3 * 6371,
        )
        assert found_db[link] == pytest.approx(expected_db, abs=0.3)  # ridges a few metres beside each other
    assert found_db.max() > 30


def test_loss_does_not_depend_on_the_batch(riviera):
    size = (60, 7)
    rx = [angle.reshape(size) for angle in points(420, seed=3)]
    tx = [angle[:, None] for angle in points(60, seed=4)]
    rx[0][5, 2] = np.nan
    rx_altitude = np.random.default_rng(5).uniform(0, 2000, size)
    loss_db = terrain.diffraction_loss_db(riviera, *tx, 200.0, *rx, rx_altitude, 145e6)
    assert loss_db.shape == size
    assert np.argwhere(np.isnan(loss_db)).tolist() == [[5, 2]]
    assert loss_db.size > terrain._CHUNK_LINKS
    for scenes in (slice(3, 4), slice(5, 20), slice(10, 60)):
        part_db = terrain.diffraction_loss_db(
            riviera,
            tx[0][scenes],
            tx[1][scenes],
            200.0,
            rx[0][scenes],
            rx[1][scenes],
            rx_altitude[scenes],
            145e6,
        )
        assert part_db.tobytes() == loss_db[scenes].tobytes()


def test_loss_over_the_open_sea_is_that_of_a_smooth_earth(tmp_path):
    write_hgt(tmp_path, "N43E007", np.zeros((SIZE, SIZE)))
    heights = open_terrain(tmp_path)
    loss_db = terrain.diffraction_loss_db(heights, 43.05, 7.1, 30.0, 43.95, 7.5, np.array([5.0, 20.0, -3.0]), 145e6)
    distance_m = pyproj.Geod(ellps="WGS84").inv(7.1, 43.05, 7.5, 43.95)[2]
    smooth_db = losses.smooth_earth_loss_db(distance_m, 30.0, np.array([5.0, 20.0, 1.0]), 145e6)
    assert loss_db == pytest.approx(smooth_db, abs=1e-6)
    assert (smooth_db > 20).all()


def test_a_ridge_between_stations_costs_what_it_hides(tmp_path):
    samples = np.zeros((SIZE, SIZE))
    samples[:, 600:603] = 800
    write_hgt(tmp_path, "N43E007", samples)
    heights = open_terrain(tmp_path)
    rx_altitude = np.array([10.0, 300.0, 800.0, 3000.0])
    loss_db = terrain.diffraction_loss_db(heights, 43.5, 7.3, 10.0, 43.5, 7.7, rx_altitude, 145e6)
    assert (np.diff(loss_db) < 0).all()
    # A knife edge 800 m high half way on 32 km, J(ν) with ν = h √(2/λ (1/d1 + 1/d2)): ITU-R P.526-15 eqs. (26), (31).
    half_m = pyproj.Geod(ellps="WGS84").inv(7.3, 43.5, 7.7, 43.5)[2] / 2
    nu = (790 + half_m**2 / (2 * 4 / 3 * 6371e3)) * (2 / (299_792_458 / 145e6) * 2 / half_m) ** 0.5
    knife_db = 6.9 + 20 * np.log10(np.hypot(nu - 0.1, 1) + nu - 0.1)
    assert 0 < loss_db[0] - knife_db < 13  # Bullington adds up to 10 + 0.02 d, the spherical Earth some more
