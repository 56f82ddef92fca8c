"""Heights and profiles of the ground, against planes that bilinear interpolation reproduces and the real Riviera."""

import numpy as np
import pyproj
import pytest
from height_tiles import SIZE, grid, points, raw_riviera
from scipy.interpolate import RegularGridInterpolator

from heimdall_lab.datasets.terrain.heights import _great_circle, height_m, profiles
from heimdall_lab.datasets.terrain.tiles import MissingTilesError, tile_name


def test_the_riviera_has_its_mountain_its_sea_and_no_voids(real, riviera):
    latitude, longitude = np.meshgrid(np.linspace(43.76, 43.79, 361), np.linspace(7.41, 7.44, 361))
    assert height_m(riviera, latitude, longitude).max() == pytest.approx(1138)  # Mont Agel, published as 1148
    open_sea = height_m(riviera, np.linspace(43.05, 43.3, 50)[:, None], np.linspace(7.3, 7.9, 50))
    assert (open_sea == 0).all()
    raw = raw_riviera(real)
    assert (raw == -32768).sum() == 1595
    everywhere = height_m(riviera, *np.broadcast_arrays(*grid("N43E007")))
    assert everywhere.min() > -50
    assert everywhere.max() < 3000
    assert np.abs(everywhere - raw)[raw != -32768].max() < 1e-6


def test_interpolation_is_that_of_scipy(real, riviera):
    raw = raw_riviera(real)
    ascending = np.arange(SIZE) / 1200
    samples = np.where(raw == -32768, np.nan, raw.astype(float))
    reference = RegularGridInterpolator((43 + ascending, 7 + ascending), samples[::-1])
    latitude, longitude = points(200_000)
    expected = reference((latitude, longitude))
    known = np.isfinite(expected)
    assert known.mean() > 0.99
    assert height_m(riviera, latitude, longitude)[known] == pytest.approx(expected[known], abs=1e-6)


def test_heights_continue_over_borders_and_at_whole_degrees(plane_folder):
    heights, plane = plane_folder("N43E007", "N43E008", "N44E007", "N44E008")
    latitude, longitude = points(10_000, span=2.0)
    assert height_m(heights, latitude, longitude) == pytest.approx(plane(latitude, longitude), abs=1e-6)
    whole_latitude, whole_longitude = (a.ravel() for a in np.meshgrid([43.0, 44.0, 45.0], [7.0, 8.0, 9.0]))
    assert height_m(heights, whole_latitude, whole_longitude) == pytest.approx(
        plane(whole_latitude, whole_longitude), abs=1e-9
    )
    across = 8 + np.linspace(-1e-3, 1e-3, 41)
    assert height_m(heights, 43.5, across) == pytest.approx(plane(43.5, across), abs=1e-6)


def test_names_south_and_west_of_the_origin(plane_folder):
    heights, plane = plane_folder("S01W001", "S01E000", "N00W001", "N00E000")
    latitude, longitude = points(5000, south=-1, west=-1, span=2.0)
    assert height_m(heights, latitude, longitude) == pytest.approx(plane(latitude, longitude), abs=1e-6)
    assert height_m(heights, np.array([-1.0, 0.0, 1.0]), np.array([-1.0, 0.0, 1.0])) == pytest.approx([0, 3600, 7200])
    assert tile_name(-0.0001, -0.0001) == "S01W001"
    assert tile_name(-33.0, -71.0) == "S33W071"
    assert tile_name(90.0, -180.0) == "N89W180"


@pytest.mark.parametrize("name", ["N10E179", "N10W180"])
def test_the_meridian_of_180_degrees_is_on_both_sides(plane_folder, name):
    heights, plane = plane_folder(name)
    edge = 180.0 if name[3] == "E" else -180.0
    expected = plane(10.25, edge)
    assert height_m(heights, 10.25, np.array([180.0, -180.0, 540.0])) == pytest.approx([expected] * 3)


def test_a_border_needs_one_of_its_tiles_only(plane_folder):
    heights, plane = plane_folder("N43E007")
    latitude, longitude = np.array([44.0, 43.5, 44.0, 43.0]), np.array([7.5, 8.0, 8.0, 7.0])
    assert height_m(heights, latitude, longitude) == pytest.approx(plane(latitude, longitude))


def test_missing_tiles_are_all_named_with_the_remedy(plane_folder, tmp_path):
    heights, _ = plane_folder("N43E007")
    with pytest.raises(MissingTilesError) as caught:
        height_m(heights, np.array([43.5, 44.5, -0.5, 44.5]), np.array([7.5, 8.5, -0.5, 7.5]))
    message = str(caught.value)
    assert "N44E007, N44E008, S01W001 missing from" in message
    assert "N43E007" not in message
    assert str(tmp_path) in message
    assert "heimdall_lab.fetch_terrain(['N44E007', 'N44E008', 'S01W001']" in message
    assert "\n" not in message
    with pytest.raises(MissingTilesError, match="N43E008, N43E009, N43E010 missing"):
        profiles(heights, np.array([43.5]), np.array([7.5]), np.array([43.5]), np.array([10.5]))


def test_unknown_positions_have_no_height(plane_folder):
    heights, _ = plane_folder("N43E007")
    height = height_m(heights, np.array([np.nan, 43.5, 43.5]), np.array([7.5, np.nan, 7.5]))
    assert np.isnan(height).tolist() == [True, True, False]
    assert np.isnan(height_m(heights, np.nan, np.nan))


def test_profiles_follow_the_geodesic():
    """Between stations as far apart as here, the great circle stays within metres of the ellipsoid's geodesic."""
    geod = pyproj.Geod(ellps="WGS84")
    ends = np.array([[43.1, 7.1, 45.9, 9.9], [46.0, 7.0, 46.0, 10.0], [45.0, 9.0, 45.001, 9.001], [-0.5, -0.5, 1, 1]])
    counts = np.array([1000, 500, 3, 100])
    length_m = geod.inv(ends[:, 1], ends[:, 0], ends[:, 3], ends[:, 2])[2]
    distance_km, latitude, longitude = (np.full((4, 1000), np.nan) for _ in range(3))
    _great_circle(*ends.T.copy(), length_m / 1e3, counts, distance_km, latitude, longitude)
    for link, count in enumerate(counts):
        lon_a, lat_a = np.array(geod.npts(*ends[link, [1, 0, 3, 2]], count, initial_idx=0, terminus_idx=0)).T
        offset_m = geod.inv(lon_a, lat_a, longitude[link, :count].copy(), latitude[link, :count].copy())[2]
        assert offset_m.max() < 2e-4 * length_m[link] + 1e-3
        assert distance_km[link, :count] == pytest.approx(np.linspace(0, length_m[link] / 1e3, count))
        assert np.isnan(distance_km[link, count:]).all()
        assert (latitude[link, 0], longitude[link, count - 1]) == (ends[link, 0], ends[link, 3])


def test_profiles_across_two_tiles_are_continuous(plane_folder):
    heights, plane = plane_folder("N43E007", "N43E008")
    tx, rx = (np.array([43.3, 43.9]), np.array([7.6, 7.999])), (np.array([43.7, 43.1]), np.array([8.5, 8.0]))
    distance_km, height = profiles(heights, *tx, *rx)
    count = np.isfinite(distance_km).sum(axis=1)
    assert (np.isfinite(height) == np.isfinite(distance_km)).all()
    for link in range(2):
        profile_km, profile_m = distance_km[link, : count[link]], height[link, : count[link]]
        assert profile_m[[0, -1]] == pytest.approx(
            [plane(tx[0][link], tx[1][link]), plane(rx[0][link], rx[1][link])], abs=1e-6
        )
        assert 80 < np.diff(profile_km).max() * 1e3 <= 90
        assert np.abs(np.diff(profile_m)).max() < 5  # the plane rises by 3 m a sample at most
        assert np.abs(np.diff(profile_m, 2)).max() < 0.01  # and has no step


def test_profiles_have_three_points_to_the_most_allowed(plane_folder):
    heights, _ = plane_folder("N43E007")
    tx, rx_longitude = np.array([43.5] * 4), np.array([7.1, 7.1001, np.nan, 7.9])
    distance_km, height = profiles(heights, tx, np.full(4, 7.1), tx, rx_longitude, max_points=50)
    assert np.isfinite(distance_km).sum(axis=1).tolist() == [3, 3, 0, 50]
    assert distance_km.shape == height.shape == (4, 50)
    assert (distance_km[0, :3] == 0).all()
    absent_km, absent_m = profiles(heights, *(np.full(2, np.nan) for _ in range(4)))
    assert absent_km.shape == absent_m.shape == (2, 0)
