"""Geodesy against PROJ, published coordinates and finite differences."""

import numpy as np
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_lab.core import geodesy

GEODETIC_TO_ECEF = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")  # latitude, longitude, ellipsoidal height
WGS84 = pyproj.Geod(ellps="WGS84")
MICROMETRE = 1e-6

LATITUDE = st.floats(-90, 90)
LONGITUDE = st.floats(-180, 180)
ALTITUDE = st.floats(-11_000, 2_000_000)  # the deepest trench to low orbits


@pytest.fixture(scope="module")
def points():
    """2,000 points everywhere, and the poles, the equator and the date line."""
    rng = np.random.Generator(np.random.Philox(1))
    latitude = np.concatenate([np.degrees(np.arcsin(rng.uniform(-1, 1, 2000))), [90, -90, 0, 0, 45, -45, 89.999]])
    longitude = np.concatenate([rng.uniform(-180, 180, 2000), [0, 120, 0, 90, 180, -180, 77]])
    altitude = np.concatenate([rng.uniform(-11_000, 2_000_000, 2000), [0, 500, 0, 100, -50, 9000, 10]])
    return latitude, longitude, altitude


def test_ecef_agrees_with_proj(points):
    expected = np.stack(GEODETIC_TO_ECEF.transform(*points), axis=-1)
    assert np.abs(geodesy.ecef(*points) - expected).max() < MICROMETRE


def test_geodetic_inverts_proj(points):
    """PROJ's own inverse is one step of Bowring's, centimetres off at 1,000 km: the points themselves are the truth."""
    latitude, longitude, altitude = geodesy.geodetic(np.stack(GEODETIC_TO_ECEF.transform(*points), axis=-1))
    metres_per_degree = 111_700.0 * (1 + 2e6 / 6.35e6)  # more than a degree is anywhere up to 2,000 km
    assert np.abs(altitude - points[2]).max() < MICROMETRE
    assert np.abs(latitude - points[0]).max() * metres_per_degree < MICROMETRE
    turn = (longitude - points[1] + 180) % 360 - 180
    assert np.abs(turn * np.cos(np.radians(latitude))).max() * metres_per_degree < MICROMETRE


@given(LATITUDE, LONGITUDE, ALTITUDE)
def test_round_trip_returns_to_the_same_point(latitude, longitude, altitude):
    position = geodesy.ecef(np.array(latitude), np.array(longitude), np.array(altitude))
    back = geodesy.ecef(*geodesy.geodetic(position))
    assert np.linalg.norm(back - position) < MICROMETRE


@given(LATITUDE, LONGITUDE)
def test_enu_axes_are_a_right_handed_orthonormal_frame(latitude, longitude):
    axes = geodesy.enu_axes(np.array(latitude), np.array(longitude))
    assert np.abs(axes @ axes.T - np.eye(3)).max() < 1e-15  # a few roundings of numbers below 1
    assert np.linalg.det(axes) == pytest.approx(1, abs=1e-15)


@given(st.floats(-89, 89), LONGITUDE)
def test_enu_axes_point_where_position_moves(latitude, longitude):
    """East, north and up are the directions in which longitude, latitude and altitude grow."""
    step = 1e-3  # degrees, or kilometres: central differences are exact to (step / R)² and to rounding / step, 1e-9

    def moved(north, east, up):
        points = ([base + sign * d for sign in (1, -1)] for base, d in ((latitude, north), (longitude, east), (0, up)))
        forward, backward = np.stack(GEODETIC_TO_ECEF.transform(*points), axis=-1)
        return (forward - backward) / np.linalg.norm(forward - backward)

    axes = geodesy.enu_axes(np.array(latitude), np.array(longitude))
    expected = np.stack([moved(0, step, 0), moved(step, 0, 0), moved(0, 0, 1000)])
    # 1e-3 degrees of longitude at 89 degrees are 2 m, positions are rounded to 1e-9 m.
    assert np.abs(axes - expected).max() < 1e-8


@pytest.mark.parametrize("origin", [(45.2, 8.1), (-33.0, 151.2), (0.0, 0.0), (84.9, -179.9), (-90.0, 30.0)])
def test_enu_agrees_with_proj_topocentric(origin, points):
    latitude, longitude = origin
    pipeline = pyproj.Transformer.from_pipeline(
        f"+proj=topocentric +ellps=WGS84 +lat_0={latitude} +lon_0={longitude} +h_0=0"
    )
    position = geodesy.ecef(*points)
    expected = np.stack(pipeline.transform(*position.T), axis=-1)
    found = geodesy.enu(position, np.array(latitude), np.array(longitude))
    # Numbers up to 1.5e7 m, a few roundings of 2e-9 m each.
    assert np.abs(found - expected).max() < MICROMETRE


def test_enu_takes_one_origin_for_each_scene(points):
    latitude, longitude, altitude = (values[:12].reshape(4, 3) for values in points)
    origin = np.array([45.0, 10.0, -20.0, 60.0]), np.array([8.0, 179.0, -70.0, 0.0])
    position = geodesy.ecef(latitude, longitude, altitude)
    together = geodesy.enu(position, *origin)
    for scene in range(4):
        assert np.array_equal(together[scene], geodesy.enu(position[scene], origin[0][scene], origin[1][scene]))
    assert np.abs(np.linalg.norm(together[0, 0] - together[0, 1]) - np.linalg.norm(position[0, 0] - position[0, 1])) < (
        MICROMETRE
    )


def test_radii_of_curvature_at_equator_and_pole():
    """NIMA TR8350.2, table 3.3: polar radius of curvature 6,399,593.6258 m; at the equator a (1 - e²) and a."""
    meridian, prime_vertical = geodesy.radii_of_curvature(np.array([0.0, 90.0, -90.0]))
    assert prime_vertical[0] == pytest.approx(6_378_137.0, abs=1e-4)
    assert meridian[0] == pytest.approx(6_378_137.0 * (1 - 6.69437999014e-3), abs=1e-4)
    assert meridian[1:] == pytest.approx([6_399_593.6258] * 2, abs=1e-4)
    assert prime_vertical[1:] == pytest.approx([6_399_593.6258] * 2, abs=1e-4)


@pytest.mark.parametrize("latitude", [-80.0, -33.3, 10.0, 45.0, 71.7])
def test_radii_of_curvature_agree_with_geodesic_arcs(latitude):
    meridian, prime_vertical = geodesy.radii_of_curvature(np.array(latitude))
    step = 0.01  # degrees: a central difference of the arc, wrong by step²/24 · e² < 1e-10 of itself
    arc = WGS84.inv(10, latitude - step / 2, 10, latitude + step / 2)[2]
    assert meridian == pytest.approx(arc / np.radians(step), rel=1e-8)
    x, y, _ = GEODETIC_TO_ECEF.transform(latitude, 10, 0)
    assert prime_vertical == pytest.approx(np.hypot(x, y) / np.cos(np.radians(latitude)), rel=1e-12)


@given(st.floats(-70, 70), LONGITUDE, st.floats(-3000, 3000), st.floats(-3000, 3000))
def test_displace_agrees_with_the_direct_geodesic(latitude, longitude, east, north):
    distance = np.hypot(east, north)
    found_latitude, found_longitude = geodesy.displace(latitude, longitude, east, north)
    expected = WGS84.fwd(longitude, latitude, np.degrees(np.arctan2(east, north)), distance)
    missed = WGS84.inv(found_longitude, found_latitude, expected[0], expected[1])[2]
    # Second-order terms of the geodesic (Torge, Geodesy, sec. 6.3.2): at most s² (tan φ + 3/4 e²) / N; 1.1 covers
    # the third order, s / R < 7e-4 of it, and the 1 % between N and 6.36e6 m; rounding of 360 degrees is 3e-9 m.
    assert missed <= 1.1 * distance**2 * (np.tan(np.radians(abs(latitude))) + 0.005) / 6.36e6 + MICROMETRE


def test_displace_goes_the_way_its_arguments_say():
    north = geodesy.displace(np.array(45.0), np.array(8.0), np.array(0.0), np.array(111_131.745))
    # A degree of latitude at 45 degrees is 111,131.745 m (meridian arc 44.5 to 45.5); from 45 to 46 it is 10 m more.
    assert north[0] == pytest.approx(46.0, abs=2e-4)
    assert north[1] == 8.0
    east = geodesy.displace(np.array(45.0), np.array(8.0), np.array(78_846.8), np.array(0.0))
    assert east[1] == pytest.approx(9.0, abs=1e-5)  # a degree of longitude at 45 degrees is 78,847 m
    assert east[0] == 45.0


@pytest.mark.parametrize(
    ("start", "end", "distance", "azimuth", "tolerance"),
    [
        # GeographicLib's manual, GeodSolve: JFK to LHR, 5,551,759.400 m at 51.198883 degrees.
        ((40.6, -73.8), (51.6, -0.5), 5_551_759.400, 51.198883, 1e-3),
        # GDA94 technical manual, ch. 4: Flinders Peak to Buninyong (GRS80, which differs by 0.1 mm at the pole).
        (
            (-(37 + 57 / 60 + 3.72030 / 3600), 144 + 25 / 60 + 29.52440 / 3600),
            (-(37 + 39 / 60 + 10.15610 / 3600), 143 + 55 / 60 + 35.38390 / 3600),
            54_972.271,
            306 + 52 / 60 + 5.37 / 3600 - 360,
            1e-3,
        ),
    ],
    ids=["JFK-LHR", "Flinders Peak-Buninyong"],
)
def test_geodesic_reproduces_published_lines(start, end, distance, azimuth, tolerance):
    found_distance, found_azimuth = geodesy.geodesic(*map(np.array, (*start, *end)))
    assert found_distance == pytest.approx(distance, abs=tolerance)
    assert found_azimuth == pytest.approx(azimuth, abs=5e-6)  # the last digit given


@given(st.floats(-80, 80), st.floats(-170, 170), st.floats(0, 360), st.floats(10, 5000))
def test_geodesic_azimuth_is_the_direction_in_the_local_frame(latitude, longitude, bearing, distance):
    direction = np.radians(bearing)
    end = geodesy.displace(latitude, longitude, distance * np.sin(direction), distance * np.cos(direction))
    found_distance, azimuth = geodesy.geodesic(latitude, longitude, *end)
    position = geodesy.ecef(*(np.array([value]) for value in (*end, 0.0)))
    east, north, _ = geodesy.enu(position, np.array(latitude), np.array(longitude))[0]
    turn = (azimuth - np.degrees(np.arctan2(east, north)) + 180) % 360 - 180
    # Normal section and geodesic part by e² s² / 12 N² < 1e-9 rad; 10 m are rounded by 3e-9 m.
    assert abs(turn) < np.degrees(1e-8)
    # Chord and arc differ by s³ / 24 R² < 1.3e-4 m; dropping the depth below the plane, by s³ / 6 R² < 6e-4 m.
    assert found_distance == pytest.approx(np.hypot(east, north), abs=1e-3)


@given(st.floats(-89, 89), LONGITUDE, st.floats(0, 360), st.floats(1, 5e6))
def test_destination_ends_where_the_geodesic_says(latitude, longitude, azimuth, distance):
    end = geodesy.destination(latitude, longitude, azimuth, distance)
    length, direction = geodesy.geodesic(latitude, longitude, *end)
    assert length == pytest.approx(distance, abs=1e-5)
    assert (direction - azimuth + 180) % 360 - 180 == pytest.approx(0, abs=1e-3)


def test_geodesic_broadcasts_scenes_against_receivers():
    latitude, longitude = np.array([45.0, 46.0])[:, None], np.array([8.0, 9.0])[:, None]
    receivers = np.array([[45.1, 45.2, 45.3], [46.1, 46.2, 46.3]]), np.full((2, 3), 8.5)
    distance, azimuth = geodesy.geodesic(latitude, longitude, *receivers)
    assert distance.shape == azimuth.shape == (2, 3)
    alone = geodesy.geodesic(46.0, 9.0, 46.2, 8.5)
    assert (distance[1, 1], azimuth[1, 1]) == alone
