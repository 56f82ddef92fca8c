"""Transmitters on hills above their receivers, with and without tiles that say so."""

import numpy as np
import pytest
from height_tiles import plane_folder  # noqa: F401  fixture
from measured_delays import NOISE_S, measured, ring

import heimdall_lab as hl
from heimdall_lab.datasets.terrain.tiles import MissingTilesError
from heimdall_lab.localization.errors import position_errors

COUNT = 200
ANTENNA_M = 60.0  # standard deviation of heights above the ground, and of the ground's


@pytest.fixture
def hills(plane_folder):  # noqa: F811
    """A slope from 0 to 3,600 m, receivers in a valley of 300 m, and transmitters on the slope."""
    heights, plane = plane_folder("N45E007")
    rng = np.random.Generator(np.random.Philox(31))
    receivers, transmitter = ring(rng, COUNT, 7)
    receivers, transmitter = ([45.5, 7.5] + (place - [45, 8]) / 2.5 for place in (receivers, transmitter))
    receivers = np.concatenate([receivers, np.full((COUNT, 7, 1), 300.0)], axis=-1)
    altitude_m = plane(*transmitter.T) + ANTENNA_M * rng.standard_normal(COUNT)
    place = np.concatenate([transmitter, altitude_m[:, None]], axis=1)
    dataset = measured(receivers, place, NOISE_S * rng.standard_normal((COUNT, 7)))
    del dataset.attrs["transmitter_altitude_m"], dataset.attrs["transmitter_altitude_sigma_m"]
    return dataset, heights.folder


def test_tiles_say_how_high_the_ground_is_at_the_fix(hills):
    dataset, folder = hills
    without, found = hl.locate(dataset, "tdoa_ls"), hl.locate(dataset, "tdoa_ls", terrain=folder)
    assert (without.converged & (position_errors(dataset, without).level < 0.95)).mean() < 0.8
    assert found.converged.mean() > 0.98
    level = position_errors(dataset, found).level.where(found.converged, drop=True)
    assert (level < 0.68).mean() > 0.68 - 3 * np.sqrt(0.68 * 0.32 / COUNT)
    assert (level < 0.95).mean() > 0.95 - 3 * np.sqrt(0.95 * 0.05 / COUNT)
    error_m = (found.altitude_m - dataset.transmitter_altitude).where(found.converged)
    assert np.abs(error_m).quantile(0.95) < 200
    assert (found.altitude_sigma_m < 150).mean() > 0.95


def test_what_is_known_otherwise_goes_before_the_ground(hills):
    dataset, folder = hills
    told = {"altitude_m": 1800.0, "altitude_sigma_m": 400.0}
    few = dataset.isel(sample=slice(0, 5))
    with_terrain, without = (hl.locate(few, "tdoa_ls", **told, terrain=terrain) for terrain in (folder, None))
    assert with_terrain.identical(without)


def test_a_network_outside_all_tiles_is_refused_by_their_names(hills, tmp_path):
    dataset, folder = hills
    elsewhere = dataset.assign(receiver_latitude=dataset.receiver_latitude + 5)
    with pytest.raises(MissingTilesError, match="N50E007"):
        hl.locate(elsewhere, "tdoa_ls", terrain=folder)
    with pytest.raises(ValueError, match="terrain folder: cannot read"):
        hl.locate(dataset, "tdoa_ls", terrain=tmp_path / "none")


def test_scenes_without_tiles_keep_to_the_receivers_altitudes(hills):
    dataset, folder = hills
    few = dataset.isel(sample=slice(0, 6))
    away = few.receiver_latitude + np.where(np.arange(6) < 3, 0.0, 5.0)[:, None]
    mixed = few.assign(receiver_latitude=away)
    found = hl.locate(mixed, "tdoa_ls", terrain=folder).isel(sample=slice(3, 6))
    np.testing.assert_allclose(found.altitude_m, hl.locate(mixed, "tdoa_ls").altitude_m[3:], atol=1e-3)
