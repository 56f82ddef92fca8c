"""Maps of bounds against the bounds of simulated scenes, and the best site against trying them all."""

import numpy as np
import pytest

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.core.receivers import Receiver
from heimdall_lab.localization import bounds, ellipses, information
from heimdall_lab.simulation import coverage

STEADY = {"shadowing_sigma_db": 0.0, "environment_loss_min_db": 10.0, "environment_loss_max_db": 10.0}
ECHO = {
    "multipath_taps_min": 1,
    "multipath_taps_max": 1,
    "multipath_delay_min_s": 8e-6,
    "multipath_delay_max_s": 8e-6,
    "multipath_power_min_db": -30.0,
    "multipath_power_max_db": -30.0,
}


@pytest.fixture(scope="module")
def config():
    return hl.preset("iq_test", num_samples=8, signal={"duration_s": 0.02})


def at_scene(config, scene, name, law=None):
    """A variable of the map at one scene's transmitter."""
    transmitter = coverage.Transmitter(
        *(float(scene[f"transmitter_{what}"]) for what in ("power", "altitude")),
        float(scene.rms_bandwidth),
        float(scene.occupied_bandwidth),
    )
    place = (np.array([float(scene[f"transmitter_{axis}"])]) for axis in ("latitude", "longitude"))
    return float(coverage.bound_map(config, *place, transmitter, law)[name][0, 0])


@pytest.mark.parametrize(
    ("clock", "diffraction", "echoes", "tolerance"),
    [
        ("gpsdo", "none", {}, 1e-6),
        ("gpsdo", "smooth_earth", {}, 1e-6),
        ("ntp", "none", {}, 1e-6),
        ("ntp", "smooth_earth", {}, 1e-6),
        ("gpsdo", "none", ECHO, 10 ** (-30 / 20)),
    ],
)
def test_map_agrees_with_the_bounds_of_simulated_scenes(clock, diffraction, echoes, tolerance):
    """Where no loss is random, a scene's SNR is that of the map.

    An echo of −30 dB changes amplitudes, and with them bounds, by 3 % at the most, but delays by more than the clock.
    """
    channel = {"clock": clock, "diffraction": diffraction, **STEADY, **echoes}
    config = hl.preset("iq_test", num_samples=8, signal={"duration_s": 0.02}, channel=channel)
    dataset = hl.generate(config, progress=False)
    assert dataset.signal_present.all() == (diffraction == "none")
    for index in range(8):
        scene = dataset.isel(sample=index)
        for name in ("gdop", "crlb_rmse"):
            assert at_scene(config, scene, name) == pytest.approx(float(scene[name]), rel=tolerance)
        assert at_scene(config, scene, "receivers_with_signal") == scene.signal_present.sum()


@pytest.mark.parametrize("law", ["normal", "genie", "mixture"])
def test_maps_take_late_links_by_the_law_that_is_asked_for(law):
    """As the bounds of simulated scenes do, of a genie who is told of no link but how likely it is late."""
    late = {"nlos_ratio": 0.4, "nlos_excess_mean_s": 3e-6, "diffraction": "none", **STEADY}
    config = hl.preset("iq_test", num_samples=4, signal={"duration_s": 0.02}, channel=late)
    dataset = hl.generate(config, progress=False)
    untold = dataset.assign(excess_delay=dataset.excess_delay * np.nan)
    expected = bounds.scene_crlb(untold, law).crlb_rmse.values
    found = [at_scene(config, dataset.isel(sample=index), "crlb_rmse", law) for index in range(4)]
    assert found == pytest.approx(expected, rel=1e-6)
    drawn = coverage.bound_map(config, *coverage.grid_deg(config, 3), law=law)
    assert drawn.crlb_rmse.law == drawn.cep50.law == law
    by_default = coverage.bound_map(config, *coverage.grid_deg(config, 3))
    assert by_default.crlb_rmse.law == coverage.best_site(config, *coverage.grid_deg(config, 3)).mean_rmse.law
    assert by_default.crlb_rmse.equals(drawn.crlb_rmse) == (law == "mixture")


def test_map_is_labelled_and_its_parts_agree(config):
    latitude, longitude = coverage.grid_deg(config, 6)
    found = coverage.bound_map(config, latitude, longitude[:4])
    assert dict(found.gdop.sizes) == {"latitude": 6, "longitude": 4}
    assert {name: found[name].units for name in ("gdop", "crlb_rmse", "cep50", "latitude", "longitude")} == {
        "gdop": "1",
        "crlb_rmse": "m",
        "cep50": "m",
        "latitude": "degrees_north",
        "longitude": "degrees_east",
    }
    covariance = found.crlb_covariance.values
    np.testing.assert_allclose(found.crlb_rmse, np.sqrt(np.trace(covariance, axis1=2, axis2=3)))
    np.testing.assert_allclose(found.cep50, ellipses.cep50(covariance))
    assert list(found.receiver_name.values) == [receiver.name for receiver in config.geometry.receivers]
    one = coverage.bound_map(config, latitude[2:3], longitude[1:2])
    np.testing.assert_allclose(one.crlb_rmse[0, 0], found.crlb_rmse[2, 1], rtol=1e-12)


def test_less_power_better_clocks_and_fewer_receivers_show_in_the_map(config):
    grid = coverage.grid_deg(config, 12)
    strong, weak, faint = (
        coverage.bound_map(config, *grid, coverage.Transmitter(power_dbm=power)) for power in (60.0, 20.0, -30.0)
    )
    assert (strong.crlb_rmse <= weak.crlb_rmse).where(weak.crlb_rmse.notnull(), True).all()
    assert faint.crlb_rmse.isnull().all()
    assert (faint.receivers_with_signal < 2).all()
    coarse = config.model_copy(update={"channel": config.channel.model_copy(update={"clock": "ntp"})})
    assert (coverage.bound_map(coarse, *grid).crlb_rmse > coverage.bound_map(config, *grid).crlb_rmse).all()
    geometry = config.geometry.model_copy(update={"receivers": config.geometry.receivers[:5]})
    fewer = coverage.bound_map(config.model_copy(update={"geometry": geometry}), *grid)
    all_seven = coverage.bound_map(config, *grid)
    lost = all_seven.receivers_with_signal > fewer.receivers_with_signal
    assert ((fewer.crlb_rmse > all_seven.crlb_rmse) == lost).all()
    assert lost.any()


def test_maps_know_how_far_off_receivers_are(config):
    """Where that is most of a delay's error, the bound is its dilution, levels being of no use."""
    rows = [receiver.model_dump() | {"position_std_m": 3000.0} for receiver in config.geometry.receivers]
    known = {"transmitter_altitude_min_m": 300.0, "transmitter_altitude_max_m": 300.0, "receivers": rows}
    stated = hl.preset("los_sync", geometry=known, channel={"shadowing_sigma_db": 20.0, "diffraction": "none"})
    area = np.linspace(45.0, 45.2, 3), np.linspace(7.8, 8.4, 3)
    found = coverage.bound_map(stated, *area, coverage.Transmitter(power_dbm=60.0))
    np.testing.assert_allclose(found.crlb_rmse, 3000.0 * found.gdop, rtol=0.02)
    better = coverage.best_site(stated, *area, coverage.Transmitter(power_dbm=60.0))
    assert better.mean_rmse.min() < 0.9 * better.mean_rmse_now


def test_default_bandwidths_are_those_of_the_voices():
    voices = hl.generate(hl.preset("iq_test", num_samples=48, seed=5), progress=False)
    voices = voices.sel(sample=voices.waveform == "voice")
    usual = coverage.Transmitter()
    assert float(voices.rms_bandwidth.median()) == pytest.approx(usual.rms_bandwidth_hz, rel=0.1)
    assert float(voices.occupied_bandwidth.median()) == pytest.approx(usual.occupied_bandwidth_hz, rel=0.1)


def with_one_more(config, latitude, longitude, altitude_m):
    """The network and a receiver at one more place."""
    more = Receiver(name="new", latitude_deg=latitude, longitude_deg=longitude, altitude_m=altitude_m)
    geometry = config.geometry.model_copy(update={"receivers": (*config.geometry.receivers, more)})
    return config.model_copy(update={"geometry": geometry})


def spread_m2(latitude, longitude) -> np.ndarray:
    """Variances of the points of a grid east and north of its middle, by distances on the ellipsoid."""
    middle = latitude.mean(), longitude.mean()
    east = geodesy.geodesic(*middle, middle[0], longitude)[0]
    north = geodesy.geodesic(*middle, latitude, middle[1])[0]
    return np.array([np.mean(east**2), np.mean(north**2)])


def plane_spread_m2(latitude, longitude) -> np.ndarray:
    """The same of all points, on the plane at their middle."""
    points = [a.ravel() for a in np.meshgrid(latitude, longitude, indexing="ij")]
    plane = geodesy.enu(geodesy.ecef(*points, np.zeros(points[0].shape)), *(a.mean() for a in points))
    return plane[:, :2].var(axis=0)


@pytest.mark.parametrize("power_dbm", [10.0, 37.0])
def test_best_site_is_the_best_of_all_tried(config, power_dbm):
    """Each site by a network of its own; where nothing is observable, all that is left is the spread of the area."""
    latitude, longitude = coverage.grid_deg(config, 9)
    sites = np.linspace(latitude[0], latitude[-1], 4), np.linspace(longitude[0] + 0.01, longitude[-1], 5)
    transmitter = coverage.Transmitter(power_dbm=power_dbm)
    options = {"site_latitude_deg": sites[0], "site_longitude_deg": sites[1], "site_altitude_m": 400.0}
    found = coverage.best_site(config, latitude, longitude, transmitter, **options)
    spread = spread_m2(latitude, longitude)
    tried = np.empty((4, 5))
    for i, j in np.ndindex(4, 5):
        network = with_one_more(config, sites[0][i], sites[1][j], 400.0)
        bound = coverage.bound_map(network, latitude, longitude, transmitter)
        seen = bound.crlb_rmse.values > 0
        assert seen.mean() > 0.9
        total = np.linalg.inv(bound.crlb_covariance.values[seen]) + np.diag(1 / spread)
        rmse = np.sqrt(np.trace(np.linalg.inv(total), axis1=1, axis2=2))
        least, most = rmse.sum() / seen.size, (rmse.sum() + (~seen).sum() * np.sqrt(spread.sum())) / seen.size
        # The grid's spread on the parallel of its middle is that on the plane to 2 %, of what it contributes.
        assert least * 0.98 <= found.mean_rmse[i, j] <= most * 1.02
        tried[i, j] = rmse.mean()
        if seen.all():
            assert found.mean_rmse[i, j] == pytest.approx(tried[i, j], rel=1e-3)
    assert (found.mean_rmse < found.mean_rmse_now).all()
    i, j = np.unravel_index(found.mean_rmse.values.argmin(), (4, 5))
    assert (found.best_latitude, found.best_longitude) == (sites[0][i], sites[1][j])
    if power_dbm == 37:
        assert np.unravel_index(tried.argmin(), (4, 5)) == (i, j)


def test_rank_one_gains_are_those_of_the_information_anew(config):
    """With everything unobservable too: the information of the larger network, and the prior's."""
    latitude, longitude = (axis[1:] for axis in coverage.grid_deg(config, 5))
    faint = coverage.Transmitter(power_dbm=-5.0)
    site = np.array([44.7]), np.array([7.9])
    options = {"site_latitude_deg": site[0], "site_longitude_deg": site[1], "site_altitude_m": 400.0}
    found = coverage.best_site(config, latitude, longitude, faint, **options)
    network = with_one_more(config, 44.7, 7.9, 400.0)
    rmse = []
    for point in np.stack(np.meshgrid(latitude, longitude, indexing="ij"), axis=-1).reshape(-1, 2):
        links = coverage._link_errors(network, faint, point[:1], point[1:], coverage._network(network))
        seen = information.lines_of_sight(links.receivers[0], links.transmitter[0])
        kinds = information.times(seen, links.toa_sigma_s[0]), information.levels(seen, links.rss_sigma_db[0])
        altitude = np.diag([0.0, 0.0, 12 / 500**2])  # between 100 and 600 m
        total = sum(information.fisher(kind, altitude=True) for kind in kinds) + altitude
        total[:2, :2] += np.diag(1 / plane_spread_m2(latitude, longitude))
        rmse.append(np.trace(np.linalg.inv(total)[:2, :2]) ** 0.5)
    assert found.mean_rmse[0, 0] == pytest.approx(np.mean(rmse), rel=1e-9)
    heard = coverage.bound_map(config, latitude, longitude, faint).receivers_with_signal
    assert (heard < 2).any()
    assert (heard >= 3).any()


def test_maps_take_the_altitude_as_the_configuration_spreads_it(config):
    """What it does not spread is known; what it spreads is in the bound of every point and site."""
    grid = coverage.grid_deg(config, 5)
    bound, mean_rmse = {}, {}
    for spread_m in (0.0, 500.0, 5000.0):
        altitudes = {"transmitter_altitude_min_m": 100.0, "transmitter_altitude_max_m": 100.0 + spread_m}
        spread = hl.preset("iq_test", geometry=altitudes, signal={"duration_s": 0.02})
        bound[spread_m] = coverage.bound_map(spread, *grid)
        mean_rmse[spread_m] = float(coverage.best_site(spread, *grid).mean_rmse_now)
    links = coverage._link_errors(
        config,
        coverage.Transmitter(),
        *(a.ravel() for a in np.meshgrid(*grid, indexing="ij")),
        coverage._network(config),
    )
    known = bounds.crlb(
        links.receivers,
        links.transmitter,
        toa_sigma_s=links.toa_sigma_s,
        rss_sigma_db=links.rss_sigma_db,
        rss_slopes_db_per_m=links.level_slopes_db_per_m,
    )
    np.testing.assert_allclose(bound[0.0].crlb_covariance.values.reshape(-1, 2, 2), known, rtol=1e-12)
    assert (bound[0.0].crlb_rmse < bound[500.0].crlb_rmse).all()
    assert (bound[500.0].crlb_rmse < bound[5000.0].crlb_rmse).all()
    assert bound[0.0].gdop.equals(bound[5000.0].gdop)
    assert mean_rmse[0.0] < mean_rmse[500.0] < mean_rmse[5000.0]


def test_a_site_that_makes_points_observable_wins():
    """Two receivers in the west, one in the east: the fourth belongs where the third one's signals become fixes."""
    places = {"a": (45.0, 7.0), "b": (45.3, 7.0), "c": (44.8, 7.1), "d": (45.1, 12.0)}
    receivers = [
        {"name": n, "latitude_deg": a, "longitude_deg": o, "altitude_m": 200.0} for n, (a, o) in places.items()
    ]
    network = hl.preset("iq_test", geometry={"receivers": receivers}, max_receivers=7)
    weak = coverage.Transmitter(power_dbm=0.0, altitude_m=100.0)
    latitude, longitude = np.array([45.0, 45.1]), np.array([7.3, 7.4, 12.2, 12.3])
    now = coverage.bound_map(network, latitude, longitude, weak).crlb_rmse
    assert now[:, :2].notnull().all()
    assert now[:, 2:].isnull().all()
    sites = {"site_latitude_deg": np.array([45.25]), "site_longitude_deg": np.array([7.5, 12.4])}
    found = coverage.best_site(network, latitude, longitude, weak, **sites)
    assert found.best_longitude == 12.4
    # Two receivers that hear it give a time and a level difference: the east was worth half of the area's spread.
    assert found.mean_rmse[0, 1] < 0.5 * found.mean_rmse[0, 0]
    assert found.mean_rmse[0, 0] < found.mean_rmse_now


def test_a_transmitter_on_the_site_itself_is_located_without_it(config):
    grid = coverage.grid_deg(config, 5)
    found = coverage.best_site(config, *grid, coverage.Transmitter(altitude_m=250.0), site_altitude_m=250.0)
    assert np.isfinite(found.mean_rmse).all()


@pytest.mark.parametrize("axis", ["latitude_deg", "longitude_deg"])
def test_an_area_without_width_is_refused(config, axis):
    grid = dict(zip(("latitude_deg", "longitude_deg"), coverage.grid_deg(config, 3), strict=True))
    with pytest.raises(ValueError, match=rf"{axis}: holds 1 value\(s\), .*; give at least 2"):
        coverage.best_site(config, **grid | {axis: grid[axis][:1]})


def test_networks_that_cannot_be_mapped_are_refused():
    grid = np.array([45.0]), np.array([8.0])
    with pytest.raises(ValueError, match=r"geometry.placement: 'random' has another network .* set it to 'fixed'"):
        coverage.bound_map(hl.preset("iq_test", geometry={"placement": "random"}, max_receivers=10), *grid)
    with pytest.raises(ValueError, match=r"channel.diffraction: 'terrain' is not mapped.*'smooth_earth'"):
        coverage.best_site(hl.preset("realistic_srtm"), *grid)
