"""The truth of drawn scenes: distributions of its parts, how they add up, and what is known of absent receivers."""

import numpy as np
import pyproj
import pytest
from drawn_scenes import OPEN, P_VALUE, config
from scipy import signal as signal_processing
from scipy import stats

import heimdall_lab as hl
from heimdall_lab.core.config import MAX_EXPONENTIAL
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.terrain.heights import height_m, profiles
from heimdall_lab.datasets.terrain.tiles import open_terrain
from heimdall_lab.localization import bounds, error_law, errors
from heimdall_lab.simulation import scenes
from heimdall_lab.simulation.propagation import losses

WGS84 = pyproj.Geod(ellps="WGS84")


def test_nuisances_have_their_distributions():
    settings = config(OPEN, channel={"shadowing_sigma_db": 6.0, "frequency_offset_max_hz": 80.0})
    truth = scenes.draw_scenes(settings, np.arange(2000)).variables
    signal, channel, geometry = settings.signal, settings.channel, settings.geometry

    def uniform(values, low, high):
        return stats.kstest(np.ravel(values), stats.uniform(low, high - low).cdf).pvalue > P_VALUE

    assert uniform(truth["transmitter_power"], signal.transmitter_power_min_dbm, signal.transmitter_power_max_dbm)
    assert uniform(
        truth["transmitter_altitude"], geometry.transmitter_altitude_min_m, geometry.transmitter_altitude_max_m
    )
    assert uniform(truth["frequency_offset"], -80, 80)
    assert stats.kstest(truth["clock_offset"].ravel(), stats.norm(scale=50e-9).cdf).pvalue > P_VALUE
    excess_db = truth["path_loss"] - 20 * np.log10(
        4 * np.pi * truth["propagation_delay"] * signal.frequency_hz
    )  # shadowing and environment: a normal and a uniform number
    spread_db = channel.environment_loss_max_db - channel.environment_loss_min_db
    middle_db = (channel.environment_loss_max_db + channel.environment_loss_min_db) / 2
    grid_db = np.linspace(-80, 80, 16_001)
    density = signal_processing.fftconvolve(
        stats.norm(scale=6).pdf(grid_db), stats.uniform(-spread_db / 2, spread_db).pdf(grid_db), mode="same"
    )
    cumulative = density.cumsum() / density.sum()
    assert (
        stats.kstest(excess_db.ravel() - middle_db, lambda level: np.interp(level, grid_db, cumulative)).pvalue
        > P_VALUE
    )
    # Links are independent of each other and of everything else in the scene.
    columns = [excess_db, truth["clock_offset"], truth["frequency_offset"], truth["transmitter_power"][:, None]]
    correlation = np.corrcoef(np.concatenate(columns, axis=1).T)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 5 / 2000**0.5


def stating(std_m: list[float | None]) -> list[dict]:
    """The listed network, whose receivers say how well their positions are known."""
    rows = [receiver.model_dump() for receiver in config(OPEN).geometry.receivers]
    return [row | {"position_std_m": each} for row, each in zip(rows, std_m, strict=True)]


def test_receivers_stand_as_far_off_as_they_state():
    std_m = [200.0, 1000.0, 0.0, None, 50.0, 3000.0, 1.0]
    settings = config(OPEN, max_receivers=8, geometry={"receivers": stating(std_m)})
    truth = scenes.draw_scenes(settings, np.arange(1000)).variables
    plain = scenes.draw_scenes(config(OPEN, max_receivers=8), np.arange(1000)).variables
    assert not set(schema.STATED_POSITIONS) & set(plain)
    known_m = np.array([each or 0.0 for each in std_m])
    np.testing.assert_array_equal(truth["receiver_position_std"][0], [*known_m, np.nan])
    east_m, north_m = (truth[f"receiver_offset_{axis}"][:, :7] for axis in ("east", "north"))
    certain = known_m == 0
    assert (east_m[:, certain] == 0).all()
    assert (north_m[:, certain] == 0).all()
    drawn = np.stack([east_m, north_m])[..., ~certain] / known_m[~certain]
    assert stats.kstest(drawn.ravel(), stats.norm.cdf).pvalue > P_VALUE
    assert np.abs(np.corrcoef(drawn.swapaxes(0, 1).reshape(1000, -1).T) - np.eye(10)).max() < 5 / 1000**0.5
    # What is stated is what datasets hold; delays are from where receivers stand. Other draws are as they were.
    for name in (
        "receiver_latitude",
        "receiver_longitude",
        "receiver_altitude",
        "transmitter_latitude",
        "clock_offset",
    ):
        np.testing.assert_array_equal(truth[name], plain[name])
    ends = [truth[f"receiver_{name}"][:, :7] for name in ("longitude", "latitude")]
    azimuth_deg = np.degrees(np.arctan2(east_m, north_m))
    standing = WGS84.fwd(*(end.ravel() for end in ends), azimuth_deg.ravel(), np.hypot(east_m, north_m).ravel())
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    here = to_ecef.transform(standing[1], standing[0], truth["receiver_altitude"][:, :7].ravel())
    there = to_ecef.transform(*(truth[f"transmitter_{name}"] for name in ("latitude", "longitude", "altitude")))
    apart = np.stack(here, -1).reshape(1000, 7, 3) - np.stack(there, -1)[:, None]
    distance_m = np.linalg.norm(apart, axis=-1)
    # Steps along the axes are those along a geodesic to the square of the step over the Earth's radius.
    np.testing.assert_allclose(truth["propagation_delay"][:, :7] * SPEED_OF_LIGHT, distance_m, rtol=0, atol=25)


def test_fixes_know_how_far_off_receivers_are():
    stated = {"geometry": {"receivers": stating([300.0] * 7)}, "signal": {"duration_s": 0.02}}
    dataset = hl.generate(hl.preset("los_sync", num_samples=100, **stated), progress=False)
    assert hl.Config.model_validate_json(dataset.attrs["config"]).geometry.position_std_m == (300.0,) * 7
    judged = errors.position_errors(dataset, hl.locate(dataset, "tdoa_ls"))
    held = int((judged.mahalanobis_squared < error_law.radius_squared(0.95)).sum())
    assert stats.binomtest(held, 100, 0.95).pvalue > P_VALUE
    ignored = bounds.scene_crlb(dataset.drop_vars("receiver_position_std"))
    assert (dataset.crlb_rmse > ignored.crlb_rmse).all()


FULL = {
    "clock": "ntp",
    "fading": "rician",
    "nlos_ratio": 0.4,
    "nlos_excess_mean_s": 3e-6,
    "multipath_taps_min": 1,
    "multipath_taps_max": 4,
    "shadowing_sigma_db": 6.0,
}


@pytest.fixture(scope="module")
def full():
    """Truth of 8000 scenes with every nuisance, of 5 to 10 of 12 receivers."""
    settings = config(
        OPEN,
        max_receivers=12,
        channel=FULL,
        geometry={"placement": "random", "transmitter_speed_max_m_s": 50.0},
        signal={"duration_s": 0.02},
    )
    return settings, scenes.draw_scenes(settings, np.arange(8000)).variables


def test_links_out_of_sight_and_their_excess_delays(full):
    """A share of the links, each by itself, with exponential excess delays: 24,000 of them, and 10⁵ at 100 %."""
    _, truth = full
    there, sight = truth["receiver_present"], truth["line_of_sight"]
    blocked = there & ~sight
    assert not (sight & ~there).any()
    assert stats.binomtest(int(blocked.sum()), int(there.sum()), 0.4).pvalue > P_VALUE
    number = blocked[:, :5].sum(axis=1)  # of the five that are always there: binomial, if links are independent
    expected = 8000 * stats.binom(5, 0.4).pmf(np.arange(6))
    assert stats.chisquare(np.bincount(number, minlength=6), expected).pvalue > P_VALUE
    assert (truth["excess_delay"][sight] == 0).all()
    assert stats.kstest(truth["excess_delay"][blocked], stats.expon(scale=3e-6).cdf).pvalue > P_VALUE
    everyone = config(OPEN, channel={"nlos_ratio": 1.0, "nlos_excess_mean_s": 50e-6})
    excess_s = scenes.draw_scenes(everyone, np.arange(15_000)).variables["excess_delay"]
    assert stats.kstest(excess_s.ravel(), stats.expon(scale=50e-6).cdf).pvalue > P_VALUE
    assert excess_s.max() < MAX_EXPONENTIAL * 50e-6
    assert np.abs(np.corrcoef(excess_s.T) - np.eye(7)).max() < 5 / 15_000**0.5
    assert scenes.draw_scenes(config(OPEN), np.arange(100)).variables["line_of_sight"].all()


@pytest.mark.parametrize(
    ("clock", "distribution"),
    [
        ("gpsdo", stats.norm(scale=50e-9)),
        ("ntp", stats.norm(scale=1e-3)),
        ("none", stats.uniform(-10e-3, 20e-3)),
    ],
)
def test_clocks_of_scenes_are_those_of_their_class(clock, distribution):
    settings = config(OPEN, channel={"clock": clock})
    offset_s = scenes.draw_scenes(settings, np.arange(15_000)).variables["clock_offset"]
    assert stats.kstest(offset_s.ravel(), distribution.cdf).pvalue > P_VALUE
    assert settings.channel.clock_sigma_s == pytest.approx(distribution.std())
    assert offset_s.std() == pytest.approx(distribution.std(), rel=5 / (2 * offset_s.size) ** 0.5)


def test_powers_and_losses_add_up(full):
    settings, truth = full
    received = truth["transmitter_power"][:, None] - truth["path_loss"] + truth["fading"]
    assert truth["received_power"] == pytest.approx(received, abs=1e-9, nan_ok=True)
    distance_m = truth["propagation_delay"] * 299_792_458
    free_space = 20 * np.log10(distance_m / 1e3) + 20 * np.log10(145) + 32.4478  # ITU-R P.525-4 eq. (4)
    parts = truth["diffraction_loss"] + truth["shadowing"] + truth["environment_loss"]
    assert truth["path_loss"] == pytest.approx(free_space + parts, abs=1e-3, nan_ok=True)
    there = truth["receiver_present"]
    assert stats.kstest(truth["environment_loss"][there], stats.uniform(5, 10).cdf).pvalue > P_VALUE
    assert truth["shadowing"][there].std() == pytest.approx(6.0, rel=0.05)  # neighbours share some of it
    assert truth["shadowing"][there].mean() == pytest.approx(0.0, abs=0.2)
    # Of the mean power of all paths, the ensemble's is 1 for the first and the sum of the echoes beside it.
    power = 1 + np.nansum(10 ** (truth["echo_power"] / 10), axis=-1)[there]
    share = 10 ** (truth["fading"][there] / 10) - power
    assert abs(share.mean()) < 5 * share.std() / there.sum() ** 0.5
    noise_dbm = -173.9752 + settings.channel.noise_figure_db + 10 * np.log10(50e3)
    assert truth["noise_power"][there] == pytest.approx(np.full(there.sum(), noise_dbm), abs=1e-3)


def test_diffraction_is_a_part_of_the_loss():
    settings = config({}, channel={"diffraction": "smooth_earth"}, max_receivers=9)
    truth = scenes.draw_scenes(settings, np.arange(200)).variables
    free_space = 20 * np.log10(4 * np.pi * truth["propagation_delay"] * settings.signal.frequency_hz)
    parts = truth["diffraction_loss"] + truth["shadowing"] + truth["environment_loss"]
    assert truth["path_loss"] == pytest.approx(free_space + parts, abs=1e-6, nan_ok=True)
    assert (truth["diffraction_loss"][:, :7] >= 0).all()
    assert np.isnan(truth["diffraction_loss"][:, 7:]).all()


def test_echoes_are_told_where_there_are_some(full):
    _, truth = full
    delay_s, power_db, there = truth["echo_delay"], truth["echo_power"], truth["receiver_present"]
    assert delay_s.shape == power_db.shape == (8000, 12, 4)
    assert np.array_equal(np.isnan(delay_s), np.isnan(power_db))
    number = np.isfinite(delay_s).sum(axis=-1)
    assert (number[~there] == 0).all()
    counts = np.bincount(number[there], minlength=5)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > P_VALUE
    found = np.isfinite(delay_s)
    assert stats.kstest(delay_s[found], stats.uniform(0.5e-6, 4.5e-6).cdf).pvalue > P_VALUE
    assert stats.kstest(power_db[found], stats.uniform(-25, 15).cdf).pvalue > P_VALUE
    plain = scenes.draw_scenes(config(OPEN), np.arange(3)).variables
    assert not {"echo_delay", "echo_power"} & set(plain)
    assert (plain["fading"] == 0).all()
    assert (plain["fading_doppler"] == 0).all()


def test_oscillators_drift_and_scatterers_turn(full):
    settings, truth = full
    there = truth["receiver_present"]
    assert stats.kstest(truth["frequency_drift"][there], stats.uniform(-0.1, 0.2).cdf).pvalue > P_VALUE
    assert stats.kstest(truth["frequency_offset"][there], stats.uniform(-50, 100).cdf).pvalue > P_VALUE
    coherence_s = (9 / (16 * np.pi)) ** 0.5 / truth["fading_doppler"][there]
    assert stats.kstest(coherence_s, stats.uniform(0.05, 0.15).cdf).pvalue > P_VALUE
    error_hz = truth["frequency_offset"] + truth["doppler"]
    assert np.nanmax(np.abs(error_hz)) <= settings.max_frequency_offset_hz
    always = [
        truth[name][:, 0]
        for name in (
            "frequency_drift",
            "frequency_offset",
            "fading_doppler",
            "excess_delay",
            "clock_offset",
            "shadowing",
            "environment_loss",
            "doppler",
        )
    ]
    assert np.abs(np.corrcoef(always) - np.eye(8)).max() < 5 / 8000**0.5


def test_the_first_arrival_is_the_origin_of_each_scenes_time(full):
    _, truth = full
    arrival = truth["propagation_delay"] + truth["excess_delay"] + truth["clock_offset"]
    assert np.array_equal(np.nanmin(arrival, axis=1), truth["emission_time"])


def test_an_absent_receiver_has_no_truth_at_all(full):
    _, truth = full
    absent = ~truth["receiver_present"]
    assert stats.chisquare(np.bincount((~absent).sum(axis=1))[5:11]).pvalue > P_VALUE
    for name, values in truth.items():
        if values.ndim == 1:
            assert np.isfinite(values).all(), name
        elif name not in ("receiver_present", "line_of_sight"):
            assert np.isnan(values[absent]).all(), name
            if not name.startswith("echo"):
                assert np.isfinite(values[~absent]).all(), name


def test_padding_holds_nothing():
    settings = config({}, max_receivers=10)
    drawn = scenes.draw_scenes(settings, np.arange(20)).variables
    plain = scenes.draw_scenes(config({}), np.arange(20)).variables
    assert drawn["receiver_present"].tolist() == [[True] * 7 + [False] * 3] * 20
    for name, values in drawn.items():
        if values.ndim == 2 and name not in ("receiver_present", "line_of_sight"):
            assert np.isnan(values[:, 7:]).all(), name
            assert np.array_equal(values[:, :7], plain[name]), name
        elif values.ndim == 1:
            assert np.array_equal(values, plain[name]), name
    assert not drawn["line_of_sight"][:, 7:].any()


STATIONS = {"Nice": (43.70, 7.27), "Menton": (43.78, 7.50), "Sospel": (43.88, 7.45), "Tende": (43.98, 7.59)}


def test_scenes_over_terrain_stand_on_it_and_lose_what_its_profiles_take(real):
    """Maritime Alps: antennas on the ground, mountains between them; every loss recomputed link by link."""
    receivers = [
        {"name": name, "latitude_deg": latitude, "longitude_deg": longitude, "altitude_m": 0.0}
        for name, (latitude, longitude) in STATIONS.items()
    ]
    over = {"diffraction": "terrain", "terrain_folder": str(real / "srtm")}
    settings = config(
        {"min_receivers": 3, "min_mean_snr_db": -30.0, "min_snr_db": -30.0, "max_gdop": 1e12},
        geometry={"receivers": receivers, "margin_deg": 0.0},
        channel=over,
    )
    truth = scenes.draw_scenes(settings, np.arange(20)).variables
    tiles = open_terrain(real / "srtm")
    ground = height_m(tiles, truth["receiver_latitude"][0, :4], truth["receiver_longitude"][0, :4])
    assert truth["receiver_altitude"][:, :4] == pytest.approx(np.tile(ground + 10, (20, 1)))
    below = height_m(tiles, truth["transmitter_latitude"], truth["transmitter_longitude"])
    assert truth["transmitter_altitude"] == pytest.approx(below + 2)
    for scene, receiver in [(0, 0), (7, 2), (19, 3)]:
        ends = [truth[f"{who}_{way}"] for who in ("transmitter", "receiver") for way in ("latitude", "longitude")]
        path = [np.array([end[scene] if end.ndim == 1 else end[scene, receiver]]) for end in ends]
        distance_km, profile_m = profiles(tiles, *path)
        expected = losses.delta_bullington(
            distance_km,
            profile_m,
            2.0,
            10.0,
            settings.signal.frequency_hz / 1e6,
            effective_earth_radius_km=4 / 3 * 6371,
        )
        assert truth["diffraction_loss"][scene, receiver] == pytest.approx(expected[0], abs=0.01)
    assert np.nanmedian(truth["diffraction_loss"]) > 20  # mountains
    differing_db = np.sqrt(np.nanvar(truth["diffraction_loss"], axis=1, ddof=1).mean())
    assert scenes.unexplained_diffraction_db(settings) == pytest.approx(differing_db, rel=0.2)
    assert scenes.unexplained_diffraction_db(config({}, channel={"diffraction": "smooth_earth"})) == 0


def test_missing_tiles_are_named_with_the_way_to_get_them(real):
    over = {"diffraction": "terrain", "terrain_folder": str(real / "srtm")}
    with pytest.raises(ValueError, match=r"N44E007.*N45E008.*heimdall_lab\.fetch_terrain"):
        scenes.draw_scenes(config({}, channel=over), np.arange(4))
