"""Drawn networks and moving transmitters, measured with PROJ's geodesy.

Seeds are fixed; statistical thresholds are those that a correct placement misses for one seed in 10⁴, or 5 standard
errors.
"""

import numpy as np
import pyproj
import pytest
from scipy import stats

import heimdall_lab as hl
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.philox import Stage, Streams
from heimdall_lab.core.presets import build
from heimdall_lab.simulation import coverage, placement, scenes

P_VALUE = 1e-4
SPEED_OF_LIGHT = 299_792_458.0
TO_ECEF = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
GEODESIC = pyproj.Geod(ellps="WGS84")
OPEN = {"min_receivers": 3, "min_snr_db": -30.0, "min_mean_snr_db": -30.0, "max_gdop": 1e12}


def config(place: str, **geometry) -> hl.Config:
    channel = {"channel.diffraction": "none"}
    return hl.preset(
        "los_sync", seed=9, max_receivers=15, gate=OPEN, geometry={"placement": place, **geometry}, **channel
    )


def draw(settings: hl.Config, count: int) -> dict[str, np.ndarray]:
    """Receivers of the first candidates of ``count`` samples."""
    streams = scenes.candidate_streams(settings, np.arange(count), np.zeros(count))
    return placement.draw_receivers(settings, streams)


def offsets_m(settings: hl.Config, network) -> tuple[np.ndarray, np.ndarray]:
    """East and north of the centre: along each receiver's parallel and along the meridian, by their definitions."""
    latitude, longitude = network["receiver_latitude"], network["receiver_longitude"]
    centre = settings.geometry.centre_latitude_deg, settings.geometry.centre_longitude_deg
    there = np.isfinite(latitude)
    on_meridian = np.full(there.sum(), centre[1])
    azimuth, _, north = GEODESIC.inv(on_meridian, np.full_like(on_meridian, centre[0]), on_meridian, latitude[there])
    north = np.where(np.abs(azimuth) < 90, north, -north)
    axis = np.hypot(*TO_ECEF.transform(latitude[there], on_meridian, 0 * on_meridian)[:2])  # radius of the parallel
    east = np.radians(longitude[there] - centre[1]) * axis
    both = np.full((2, *there.shape), np.nan)
    both[:, there] = east, north
    return both[0], both[1]


def ecef(network, rows=...) -> np.ndarray:
    return np.stack(
        TO_ECEF.transform(*(network[f"receiver_{n}"][rows] for n in ("latitude", "longitude", "altitude"))), -1
    )


def test_random_networks_are_uniform_in_the_square():
    settings = config("random", num_receivers_min=5, num_receivers_max=10, extent_km=150.0)
    network = draw(settings, 12_000)
    there = network["receiver_present"]
    number = np.bincount(there.sum(axis=1), minlength=16)
    assert number[:5].sum() == number[11:].sum() == 0
    assert stats.chisquare(number[5:11]).pvalue > P_VALUE
    assert (np.diff(there.astype(int), axis=1) <= 0).all()  # the padding comes last
    east, north = offsets_m(settings, network)
    # The meridian's curvature at the centre is taken for the whole area: 75 km of 6000 km, times e² = 1e-4 in scale.
    uniform = stats.uniform(-75e3, 150e3).cdf
    for axis in (east, north):
        assert np.nanmax(np.abs(axis)) < 75e3 * 1.0002
        assert stats.kstest(axis[there], uniform).pvalue > P_VALUE
    altitude = network["receiver_altitude"]
    assert stats.kstest(altitude[there], stats.uniform(100, 500).cdf).pvalue > P_VALUE
    columns = [axis[:, :5] for axis in (east, north, altitude)]  # always there
    correlation = np.corrcoef(np.concatenate([*columns, there.sum(axis=1)[:, None]], axis=1).T)
    assert np.abs(correlation - np.eye(16)).max() < 5 / 12_000**0.5
    for name in ("latitude", "longitude", "altitude"):
        assert np.array_equal(np.isnan(network[f"receiver_{name}"]), ~there)


@pytest.mark.parametrize("latitude_deg", [-45.0, 0.0, 60.0])
def test_hexagonal_networks_are_lattices(latitude_deg):
    """Every receiver has a neighbour at the spacing, and none is nearer: the parts of a triangular lattice."""
    settings = config(
        "hexagonal", num_receivers_min=5, num_receivers_max=12, extent_km=60.0, centre_latitude_deg=latitude_deg
    )
    network = draw(settings, 3000)
    there = network["receiver_present"]
    number = there.sum(axis=1)
    assert stats.chisquare(np.bincount(number, minlength=13)[5:13]).pvalue > P_VALUE
    east, north = offsets_m(settings, network)
    distance = np.hypot(east[:, :, None] - east[:, None], north[:, :, None] - north[:, None])
    distance[:, np.arange(15), np.arange(15)] = np.nan
    nearest = np.nanmin(np.where(np.isfinite(distance), distance, np.inf), axis=2)[there]
    # As many cells of spacing² √3 / 2 as receivers fill the square.
    spacing = np.broadcast_to((60e3 * np.sqrt(2 / (3**0.5 * number)))[:, None], there.shape)
    assert np.abs(nearest / spacing[there] - 1).max() < 2e-4
    # Squares of lattice distances are the Loeschian numbers: 1, 3, 4, 7, 9, 12, 13, 16, 19, 21 …
    square = (distance / spacing[..., None]) ** 2
    found = np.unique(np.round(square[np.isfinite(square)], 1))
    lattice = {a * a + a * b + b * b for a in range(9) for b in range(9)}
    assert set(found) <= lattice
    assert {1, 3, 4, 7} <= set(found)
    # Orientation: modulo 60 degrees it is that of any pair of neighbours.
    first = np.array([np.argwhere(np.abs(square[s] - 1) < 1e-2)[0] for s in range(3000)])
    rows = np.arange(3000)
    heading = np.arctan2(
        north[rows, first[:, 1]] - north[rows, first[:, 0]], east[rows, first[:, 1]] - east[rows, first[:, 0]]
    )
    turn = heading / (np.pi / 3) % 1
    assert stats.kstest(turn, stats.uniform.cdf).pvalue > P_VALUE
    # Shifted at random: the centre of the area is uniform in the cell of the nearest point, a hexagon, whose mean
    # square distance from its middle is 5 / 36 of the spacing squared.
    closest = np.nanmin(np.where(there, np.hypot(east, north), np.inf), axis=1) / spacing[:, 0]
    assert closest.max() < 3**-0.5 * 1.001
    assert (closest**2).mean() == pytest.approx(5 / 36, abs=5 * (closest**2).std() / 3000**0.5)
    assert stats.pearsonr(turn, closest)[0] == pytest.approx(0, abs=5 / 3000**0.5)
    # They fill a disc of the square's area but for its rim.
    reach = np.nanmax(np.where(there, np.hypot(east, north), 0), axis=1)
    assert (reach < 60e3 / np.pi**0.5 + spacing[:, 0] / 3**0.5).all()
    assert np.median(reach) > 0.7 * 60e3 / np.pi**0.5


def test_a_hexagonal_network_takes_the_points_nearest_to_the_centre():
    """Reflected at a receiver, each neighbour is a point of the lattice: there, or farther than the farthest."""
    settings = config("hexagonal", num_receivers_min=7, num_receivers_max=15, extent_km=30.0)
    network = draw(settings, 300)
    east, north = offsets_m(settings, network)
    for scene in range(300):
        points = (east[scene] + 1j * north[scene])[network["receiver_present"][scene]]
        spacing = np.sort(np.abs(points[1:] - points[0]))[0]
        step = points[:, None] - points[None]
        steps = step[np.abs(np.abs(step) / spacing - 1) < 1e-2]
        lattice = (points[:, None] + steps[None]).ravel()
        missing = np.abs(lattice[:, None] - points).min(axis=1) > 0.1 * spacing
        assert missing.any()
        assert np.abs(lattice[missing]).min() > np.abs(points).max() * (1 - 1e-3)


@pytest.mark.parametrize("place", ["random", "hexagonal"])
def test_more_padding_does_not_move_a_network(place):
    narrow = config(place, num_receivers_min=4, num_receivers_max=8)
    wide = draw(narrow, 200)
    padded = draw(build(narrow.model_dump(), {"max_receivers": 8}), 200)
    for name, values in padded.items():
        assert np.array_equal(values, wide[name][:, :8], equal_nan=True), name


@pytest.mark.parametrize("place", ["random", "hexagonal"])
@pytest.mark.parametrize("extent_km", [1.0, 150.0, 500.0])
@pytest.mark.parametrize("latitude_deg", [-80.0, 0.0, 45.0, 80.0])
def test_longest_delay_spread_bounds_every_pair(place, extent_km, latitude_deg):
    geometry = {"extent_km": extent_km, "centre_latitude_deg": latitude_deg, "centre_longitude_deg": -179.9}
    heights = {"receiver_altitude_min_m": -500.0, "receiver_altitude_max_m": 9000.0}
    for number in (3, 15):
        settings = config(place, num_receivers_min=number, num_receivers_max=15, margin_deg=0.0, **geometry, **heights)
        position = ecef(draw(settings, 4000))
        distance = np.linalg.norm(position[:, :, None] - position[:, None], axis=-1)
        bound_m = placement.longest_delay_spread_s(settings) * SPEED_OF_LIGHT
        assert np.nanmax(distance) < bound_m
    if extent_km > 100:
        assert np.nanmax(distance) > 0.4 * bound_m  # a bound of some use


class Rim(Streams):
    """Streams that put 15 receivers of 8 scenes along the rim of the square, at the highest altitude."""

    def uniform(self, stage, count: int, low: float = 0.0, high: float = 1.0, lane: int = 0) -> np.ndarray:
        assert stage == Stage.PLACEMENT
        if lane > 0:
            return np.full((8, count), high - 1e-9)
        side = np.linspace(0, 1, 30)
        ends = [(along, end) for along in side for end in (0, 1)]
        places = np.array(ends + [place[::-1] for place in ends])
        return low + (high - low) * places.reshape(8, 30)[:, :count]


@pytest.mark.parametrize("extent_km", [1.0, 100.0, 500.0])
def test_longest_delay_spread_bounds_the_rim_of_the_square_at_every_latitude(extent_km):
    for latitude_deg in np.linspace(-80, 80, 33):
        settings = config(
            "random",
            num_receivers_max=15,
            extent_km=extent_km,
            centre_latitude_deg=latitude_deg,
            receiver_altitude_min_m=9000.0,
            receiver_altitude_max_m=9000.0,
            margin_deg=0.0,
        )
        network = placement.draw_receivers(settings, Rim(0, np.arange(8), np.zeros(8)))
        assert network["receiver_present"].all()
        position = ecef(network).reshape(-1, 3)
        longest = np.linalg.norm(position[:, None] - position, axis=-1).max()
        bound_m = placement.longest_delay_spread_s(settings) * SPEED_OF_LIGHT
        assert longest == pytest.approx(bound_m, rel=1e-9)  # the corners are the farthest apart


@pytest.mark.parametrize("place", ["random", "hexagonal"])
def test_areas_may_lie_across_the_180_degrees_meridian(place):
    """Everything is as far to the west: positions of receivers and transmitters, delays and losses."""
    settings, number = [], np.arange(300)
    for longitude_deg in (179.7, 9.7):
        settings.append(config(place, centre_longitude_deg=longitude_deg, centre_latitude_deg=-17.0, margin_deg=0.5))
    across, here = (scenes.draw_scenes(setting, number).variables for setting in settings)
    for who in ("receiver", "transmitter"):
        longitude = across[f"{who}_longitude"]
        assert np.nanmax(np.abs(longitude)) <= 180
        assert np.nanmin(longitude) < -179
        assert np.nanmax(longitude) > 179
        assert longitude % 360 == pytest.approx(here[f"{who}_longitude"] + 170, abs=1e-9, nan_ok=True)
    for name in ("propagation_delay", "path_loss", "received_power", "emission_time"):
        assert across[name] == pytest.approx(here[name], rel=1e-6, nan_ok=True), name
    bounds_s = [placement.longest_delay_spread_s(setting) for setting in settings]
    assert bounds_s[0] == pytest.approx(bounds_s[1], rel=1e-9)


def test_a_listed_network_may_lie_across_the_180_degrees_meridian():
    """As the same network 170 degrees further west: scenes, bounds, areas and maps."""
    places = [(-17.0, -0.3), (-16.5, 0.4), (-17.2, 0.3), (-16.8, -0.5), (-16.9, 0.0)]
    settings = []
    for middle in (180.0, 10.0):
        rows = [
            {"name": f"R{n}", "latitude_deg": north, "longitude_deg": (middle + east + 180) % 360 - 180}
            for n, (north, east) in enumerate(places)
        ]
        settings.append(hl.preset("los_sync", geometry={"receivers": rows, "inside_ratio": 0.5}, max_receivers=5))
    across, here = (scenes.draw_scenes(setting, np.arange(50)).variables for setting in settings)
    for who in ("receiver", "transmitter"):
        longitude = across[f"{who}_longitude"]
        assert -180 <= longitude.min() < -179 < 179 < longitude.max() <= 180
        assert longitude % 360 == pytest.approx(here[f"{who}_longitude"] + 170, abs=1e-9)
    for name in ("propagation_delay", "path_loss", "received_power", "emission_time"):
        assert across[name] == pytest.approx(here[name], rel=1e-6), name
    areas = [np.array(placement.area_deg(setting)) for setting in settings]
    assert areas[0] - [0, 0, 170, 170] == pytest.approx(areas[1], abs=1e-9)
    maps = [coverage.bound_map(setting, *coverage.grid_deg(setting, 5)) for setting in settings]
    assert maps[0].crlb_rmse.values == pytest.approx(maps[1].crlb_rmse.values, rel=1e-6)
    assert maps[0].receiver_longitude.values - 170 == pytest.approx(maps[1].receiver_longitude.values, abs=1e-9)
    with pytest.raises(ConfigError, match="span more than 10 degrees"):
        hl.preset(
            "los_sync", geometry={"receivers": [*rows, {"name": "far", "latitude_deg": 0, "longitude_deg": -160}]}
        )


@pytest.mark.parametrize("place", ["random", "hexagonal"])
@pytest.mark.parametrize("longitude_deg", [8.1, 180.0])
def test_transmitters_are_inside_the_box_of_their_own_receivers(place, longitude_deg):
    count, ratio, margin = 6000, 0.6, 0.2
    settings = config(place, inside_ratio=ratio, margin_deg=margin, centre_longitude_deg=longitude_deg)
    truth = scenes.draw_scenes(settings, np.arange(count)).variables
    latitude = truth["receiver_latitude"]
    longitude = (truth["receiver_longitude"] - longitude_deg + 180) % 360
    south, north = np.nanmin(latitude, axis=1), np.nanmax(latitude, axis=1)
    west, east = np.nanmin(longitude, axis=1), np.nanmax(longitude, axis=1)
    y = truth["transmitter_latitude"] - south
    x = (truth["transmitter_longitude"] - longitude_deg + 180) % 360 - west
    height, width = north - south, east - west
    inside = (y >= 0) & (y <= height) & (x >= 0) & (x <= width)
    assert (np.minimum(x, y) >= -margin - 1e-9).all()
    assert ((x <= width + margin + 1e-9) & (y <= height + margin + 1e-9)).all()
    share = ratio + (1 - ratio) * height * width / ((height + 2 * margin) * (width + 2 * margin))
    # A sum of Bernoulli variables of different shares.
    assert abs(inside.sum() - share.sum()) < 5 * np.sqrt((share * (1 - share)).sum())
    for place_in_box in ((x / width)[inside], (y / height)[inside]):
        assert stats.kstest(place_in_box, stats.uniform.cdf).pvalue > P_VALUE


def test_speeds_and_headings_are_uniform():
    settings = config("fixed", transmitter_speed_max_m_s=40.0)
    truth = scenes.draw_scenes(settings, np.arange(20_000)).variables
    east, north = truth["transmitter_velocity_east"], truth["transmitter_velocity_north"]
    speed, heading = np.hypot(east, north), np.arctan2(east, north)
    assert stats.kstest(speed, stats.uniform(0, 40).cdf).pvalue > P_VALUE
    assert stats.kstest(heading, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > P_VALUE
    columns = [speed, np.cos(heading), np.sin(heading), truth["transmitter_latitude"], truth["transmitter_longitude"]]
    assert np.abs(np.corrcoef(columns) - np.eye(5)).max() < 5 / 20_000**0.5
    still = scenes.draw_scenes(config("fixed"), np.arange(5)).variables
    for name in ("transmitter_velocity_east", "transmitter_velocity_north", "doppler"):
        assert (still[name][..., :7] == 0).all()


@pytest.mark.parametrize("place", ["fixed", "random"])
def test_doppler_is_the_closing_speed(place):
    """Half a second of motion to either side along PROJ's geodesic, at constant altitude."""
    settings = config(
        place, transmitter_speed_max_m_s=300.0, transmitter_altitude_max_m=9000.0, centre_longitude_deg=180.0
    )
    truth = scenes.draw_scenes(settings, np.arange(400)).variables
    east, north = truth["transmitter_velocity_east"], truth["transmitter_velocity_north"]
    latitude, longitude, altitude = (truth[f"transmitter_{n}"] for n in ("latitude", "longitude", "altitude"))
    receivers = ecef(truth)
    distance = []
    for step_s in (-0.5, 0.5):
        # Speeds are over the ground at the transmitter's altitude: a height of 9 km makes the way 1.4e-3 shorter below.
        low = np.stack(TO_ECEF.transform(latitude, longitude, 0 * altitude), -1)
        high = np.stack(TO_ECEF.transform(latitude, longitude, altitude), -1)
        way = np.hypot(east, north) * step_s * np.linalg.norm(low, axis=-1) / np.linalg.norm(high, axis=-1)
        moved_longitude, moved_latitude, _ = GEODESIC.fwd(longitude, latitude, np.degrees(np.arctan2(east, north)), way)
        moved = np.stack(TO_ECEF.transform(moved_latitude, moved_longitude, altitude), -1)
        distance.append(np.linalg.norm(receivers - moved[:, None], axis=-1))
    expected_hz = -(distance[1] - distance[0]) * 145e6 / SPEED_OF_LIGHT
    there = truth["receiver_present"]
    assert np.array_equal(np.isfinite(truth["doppler"]), there)
    # Nearer than 5 km the range bends within half a second: v² t² / (6 d²) of the speed is left out.
    far = there & (truth["propagation_delay"] * SPEED_OF_LIGHT > 5e3)
    assert np.abs(truth["doppler"] - expected_hz)[far].max() < 145.1 * 1e-3
    assert np.nanmax(np.abs(truth["doppler"])) > 140
    assert np.nanmax(np.abs(truth["doppler"])) < settings.max_frequency_offset_hz - 50
