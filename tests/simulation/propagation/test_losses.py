"""Loss, noise and delay against the Recommendations' own formulas and constants."""

import csv
import math

import numpy as np
import pyproj
import pytest
import scipy.special

import heimdall_lab as hl
from heimdall_lab.simulation import scenes
from heimdall_lab.simulation.propagation import losses


@pytest.mark.parametrize("frequency_mhz", [30.0, 145.0, 432.0, 3000.0])
@pytest.mark.parametrize("distance_km", [0.1, 1.0, 27.3, 400.0])
def test_free_space_loss_is_that_of_p525(frequency_mhz, distance_km):
    loss_db = float(losses.free_space_loss_db(np.array(distance_km * 1e3), frequency_mhz * 1e6))
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
    loss_db = losses.free_space_loss_db(distance_m, frequency_hz)
    assert loss_db == pytest.approx(-10 * np.log10(share), abs=1e-9)
    assert np.diff(losses.free_space_loss_db(np.array([1e3, 2e3, 1e4]), 1e8)) == pytest.approx(
        [6.0206, 13.9794], abs=1e-4
    )


def test_path_loss_adds_its_parts():
    distance_m, shadowing_db = np.array([1e3, 2e3]), np.array([-3.0, 4.0])
    loss_db = losses.path_loss_db(distance_m, 145e6, shadowing_db, np.array([5.0, 15.0]))
    # 32.4478 + 43.2274 for 145 MHz at 1 km, by hand.
    assert loss_db == pytest.approx([75.6752 - 3 + 5, 75.6752 + 6.0206 + 4 + 15], abs=2e-4)
    diffracted_db = losses.path_loss_db(distance_m, 145e6, shadowing_db, np.array([5.0, 15.0]), np.array([0, 7.0]))
    assert diffracted_db - loss_db == pytest.approx([0, 7])


@pytest.mark.parametrize(
    ("bandwidth_hz", "noise_figure_db", "expected_dbm"),
    [(1.0, 0.0, -173.9752), (12_500.0, 0.0, -133.0061), (50_000.0, 12.0, -114.9855), (1e6, 3.0, -110.9752)],
)
def test_noise_power_is_kt0b(bandwidth_hz, noise_figure_db, expected_dbm):
    """k T0 = 1.380649e-23 · 290 W/Hz = -203.9752 dBW/Hz; ITU-R P.372 eq. (4) rounds it to -204."""
    found_dbm = losses.noise_power_dbm(bandwidth_hz, noise_figure_db)
    assert found_dbm == pytest.approx(expected_dbm, abs=1e-4)
    assert found_dbm - 30 == pytest.approx(noise_figure_db + 10 * np.log10(bandwidth_hz) - 204, abs=0.03)


def test_delay_and_level_of_drawn_links():
    """Delay is the straight line over c (PROJ's ECEF); the median loss is free space plus the mean environment loss."""
    config = hl.preset("los_sync", num_samples=400, seed=11, gate={"min_receivers": 3, "min_mean_snr_db": -30.0})
    truth = scenes.draw_scenes(config, np.arange(400)).variables
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


ITU_PATHS = ("b2iseac", "b2iseac_rural_land_100km", "b2iseac_rural_land_10km", "b2iseac_rural_land_1km")
ITU_PATHS += ("b2iseac_vertical",)
ITU_RESULTS = [f"{path}_{case}_log.csv" for path in ITU_PATHS for case in range(3)]
ITU_BETA_RADIUS_KM = 3 * 6371.0  # ITU-R P.1812-6 eq. (7b)
ITU_VALUES = ("Lbulla", "Lbulls", "Ldsph", "Ld50", "Ldb")


@pytest.fixture(scope="module", params=ITU_RESULTS)
def itu_case(request, real):
    """Published and computed losses (dB) of one validation example of ITU-R P.1812."""
    folder = real / "itu_p1812"
    with (folder / "results" / request.param).open(newline="") as file:
        published = {row[0].split(" (")[0].strip(): row[3] for row in reversed(list(csv.reader(file))) if len(row) > 3}
    lines = (folder / "profiles" / f"{request.param.rsplit('_', 2)[0]}.csv").read_text().splitlines()
    rows = lines[lines.index("{Begin of Profile}") + 2 : lines.index("{End of Profile}")]
    distance_km, terrain_m, _, clutter_m, _ = np.loadtxt(rows, delimiter=",").T
    link = (distance_km, terrain_m, float(published["htg"]), float(published["hrg"]), float(published["f"]) * 1e3)
    ground = {
        "clutter_m": clutter_m,
        "sea_fraction": float(published["w"]),
        "polarization": {"1": "horizontal", "2": "vertical"}[published["pol"]],
    }
    parts = losses._delta_bullington_parts(*link, effective_earth_radius_km=ITU_BETA_RADIUS_KM, **ground)
    computed = dict(zip(ITU_VALUES[:3], parts, strict=True))
    for name, radius_km in (("Ld50", float(published["ae"])), ("Ldb", ITU_BETA_RADIUS_KM)):
        computed[name] = losses.delta_bullington(*link, effective_earth_radius_km=radius_km, **ground)
    return {name: float(published[name]) for name in ITU_VALUES}, computed


@pytest.mark.parametrize("name", ITU_VALUES)
def test_delta_bullington_meets_the_validation_examples_of_the_itu(itu_case, name):
    published, computed = itu_case
    assert computed[name] == pytest.approx(published[name], abs=5e-4)


def test_every_validation_example_is_compared(real):
    assert sorted(file.name for file in (real / "itu_p1812" / "results").iterdir()) == sorted(ITU_RESULTS)


def _residue_series_loss_db(distance_m, tx_m, rx_m, frequency_hz, radius_m=4 / 3 * 6371e3):
    """Fock's residue series for a perfect conductor and horizontal polarization, from Airy functions.

    Source: Fock, Electromagnetic Diffraction and Propagation Problems (1965), chapter 10; w = √π (Bi + jAi).
    """
    wavenumber = 2 * np.pi * frequency_hz / 299_792_458
    scale = (wavenumber * radius_m / 2) ** (1 / 3)
    x, y1, y2 = scale * distance_m / radius_m, wavenumber * tx_m / scale, wavenumber * rx_m / scale

    def w(t):
        ai, ai_slope, bi, bi_slope = scipy.special.airy(t)
        return bi + 1j * ai, bi_slope + 1j * ai_slope

    t = -scipy.special.ai_zeros(60)[0] * np.exp(1j * np.pi / 3)
    terms = np.exp(1j * x * t) * w(t - y1)[0] * w(t - y2)[0] / w(t)[1] ** 2
    return float(-20 * np.log10(2 * np.sqrt(np.pi * x) * np.abs(terms.sum())))


@pytest.mark.parametrize("frequency_hz", [145e6, 432e6])
@pytest.mark.parametrize(
    ("distance_m", "tx_m", "rx_m"), [(150e3, 100.0, 200.0), (120e3, 30.0, 10.0), (200e3, 300.0, 600.0)]
)
def test_smooth_earth_beyond_the_horizon_follows_the_residue_series(frequency_hz, distance_m, tx_m, rx_m):
    """The Recommendation fits the first term of the series to half a decibel here."""
    loss_db = losses.smooth_earth_loss_db(distance_m, tx_m, rx_m, frequency_hz, polarization="horizontal")
    assert loss_db == pytest.approx(_residue_series_loss_db(distance_m, tx_m, rx_m, frequency_hz), abs=0.6)


def test_smooth_earth_between_low_antennas_follows_the_residue_series():
    """Normalised distances on both sides of 1.6, where the fit changes its form without a step."""
    distance_m = np.linspace(40e3, 80e3, 401)
    loss_db = losses.smooth_earth_loss_db(distance_m, 10.0, 10.0, 145e6, polarization="horizontal")
    expected_db = [_residue_series_loss_db(d, 10.0, 10.0, 145e6) for d in distance_m]
    assert loss_db == pytest.approx(expected_db, abs=0.5)
    steps_db = np.diff(loss_db)
    assert np.abs(np.diff(steps_db)).max() < 3e-3


def test_smooth_earth_is_clear_of_loss_with_clearance_of_the_first_fresnel_zone():
    """At the middle of a level path the clearance is h − d²/8a; 0.6 of the Fresnel radius √(λd)/2 frees it."""
    radius_m, frequency_hz, distance_m = 4 / 3 * 6371e3, 145e6, 40e3
    zone_m = math.sqrt(299_792_458 / frequency_hz * distance_m) / 2
    grazing_m = distance_m**2 / 8 / radius_m
    # 17.456 √(d1 d2 λ / d) with d in km is 0.552 of the radius of the zone: ITU-R P.526-15 section 3.2.
    height_m = grazing_m + np.array([0.55, 0.56]) * zone_m
    loss_db = losses.smooth_earth_loss_db(distance_m, height_m, height_m, frequency_hz)
    assert 0 < loss_db[0] < 0.5
    assert loss_db[1] == 0


def test_smooth_earth_loss_is_continuous_monotonic_and_reciprocal():
    distance_m = np.linspace(1e3, 200e3, 2000)
    loss_db = losses.smooth_earth_loss_db(distance_m, 250.0, 120.0, 145e6)
    assert loss_db[0] == 0
    steps_db = np.diff(loss_db)
    assert (steps_db >= 0).all()
    assert steps_db.max() < 0.1  # over the horizon, and where clearance ends
    assert loss_db == pytest.approx(losses.smooth_earth_loss_db(distance_m, 120.0, 250.0, 145e6), abs=1e-9)
    height_m = np.linspace(1, 1000, 2000)
    assert (np.diff(losses.smooth_earth_loss_db(100e3, height_m, 120.0, 145e6)) <= 0).all()
    frequency_hz = np.linspace(30e6, 3e9, 100)
    beyond_db = [float(losses.smooth_earth_loss_db(150e3, 50.0, 50.0, f)) for f in frequency_hz]
    assert (np.diff(beyond_db) > 0).all()


def test_smooth_earth_takes_low_antennas_at_one_metre_and_keeps_absent_ones():
    low_db = losses.smooth_earth_loss_db(30e3, np.array([-50.0, 0.0, 1.0, 2.0, np.nan]), 20.0, 145e6)
    assert low_db[0] == low_db[1] == low_db[2] > low_db[3]
    assert np.isnan(low_db[4])
    assert losses.smooth_earth_loss_db(np.array([0.0, np.nan]), 1.0, 1.0, 145e6) == pytest.approx(
        [0, np.nan], nan_ok=True
    )


def test_smooth_earth_polarization():
    losses_db = [losses.smooth_earth_loss_db(60e3, 5.0, 5.0, 30e6, polarization=p) for p in ("vertical", "horizontal")]
    assert losses_db[0] < losses_db[1] - 1  # low vertical antennas gain from the ground wave at 30 MHz
    with pytest.raises(ValueError, match="polarization: 'circular' is unknown; choose one of horizontal, vertical"):
        losses.smooth_earth_loss_db(60e3, 5.0, 5.0, 30e6, polarization="circular")


def test_smooth_earth_is_the_same_in_any_batch():
    generator = np.random.default_rng(1)
    distance_m, rx_m = generator.uniform(1e3, 150e3, (300, 7)), generator.uniform(1, 600, (300, 7))
    tx_m = generator.uniform(1, 600, (300, 1))
    loss_db = losses.smooth_earth_loss_db(distance_m, tx_m, rx_m, 145e6)
    assert loss_db.shape == (300, 7)
    assert (loss_db > 0).any()
    assert (loss_db == 0).any()
    for start, stop in ((0, 1), (17, 20), (100, 300)):
        again_db = losses.smooth_earth_loss_db(distance_m[start:stop], tx_m[start:stop], rx_m[start:stop], 145e6)
        assert again_db.tobytes() == loss_db[start:stop].tobytes()
    single_db = losses.smooth_earth_loss_db(distance_m[5, 3], tx_m[5, 0], rx_m[5, 3], 145e6)
    assert single_db.shape == ()
    assert single_db == loss_db[5, 3]


@pytest.mark.slow
def test_delta_bullington_of_one_edge_at_grazing_incidence():
    """J(0) = 6.03 dB (ITU-R P.526), raised by (1 − e^(−J/6)) (10 + 0.02 d), on an Earth that is all but flat."""
    distance_km, terrain_m = np.array([0.0, 10.0, 20.0]), np.array([0.0, 50.0, 0.0])
    parts = losses._delta_bullington_parts(distance_km, terrain_m, 50.0, 50.0, 145.0, 0.0, 1e12, 0.0, "vertical")
    assert parts[0] == pytest.approx(6.033 + (1 - math.exp(-6.033 / 6)) * 10.4, abs=2e-3)


def test_delta_bullington_over_a_sphere_is_the_spherical_earth():
    distance_km = np.linspace(0, [40.0, 100.0, 150.0], 500, axis=-1)
    tx_m, rx_m = np.array([30.0, 100.0, 250.0]), np.array([10.0, 50.0, 100.0])
    loss_db = losses.delta_bullington(
        distance_km, np.zeros(500), tx_m, rx_m, 145.0, effective_earth_radius_km=4 / 3 * 6371
    )
    smooth_db = losses.smooth_earth_loss_db(distance_km[:, -1] * 1e3, tx_m, rx_m, 145e6)
    assert (smooth_db > 5).all()
    assert loss_db == pytest.approx(smooth_db, abs=1e-9)


def _mountains(count=40, points=200, seed=2):
    generator = np.random.default_rng(seed)
    distance_km = np.linspace(0, generator.uniform(2, 120, count), points, axis=-1)
    terrain_m = 300 + np.cumsum(generator.normal(0, 15, (count, points)), axis=-1)
    return distance_km, terrain_m, generator.uniform(1, 60, count), generator.uniform(1, 60, count)


def test_delta_bullington_is_reciprocal():
    distance_km, terrain_m, tx_m, rx_m = _mountains()
    there_db = losses.delta_bullington(distance_km, terrain_m, tx_m, rx_m, 432.0, effective_earth_radius_km=8495.0)
    back_km = distance_km[:, -1:] - distance_km[:, ::-1]
    back_db = losses.delta_bullington(back_km, terrain_m[:, ::-1], rx_m, tx_m, 432.0, effective_earth_radius_km=8495.0)
    assert there_db.max() > 40
    assert there_db == pytest.approx(back_db, abs=1e-6)


def test_delta_bullington_grows_with_frequency_and_obstacles():
    distance_km, terrain_m, tx_m, rx_m = _mountains()
    profile = (distance_km, terrain_m, tx_m, rx_m)
    frequency_mhz = np.array([50.0, 145.0, 432.0, 3000.0])[:, None]
    # The spherical Earth's part may fall, as low antennas gain height in wavelengths.
    actual_db = losses._delta_bullington_parts(*profile, frequency_mhz, 0.0, 8495.0, 0.0, "vertical")[..., 0]
    shadowed = actual_db[0] > 6.1
    assert shadowed.sum() > 20
    assert (np.diff(actual_db[:, shadowed], axis=0) > 0).all()
    loss_db = losses.delta_bullington(*profile, 145.0, effective_earth_radius_km=8495.0)
    clear_db = losses.delta_bullington(*profile[:2], 1e4, 1e4, 145.0, effective_earth_radius_km=8495.0)
    assert (clear_db == 0).all()
    cluttered_db = losses.delta_bullington(*profile, 145.0, clutter_m=20.0, effective_earth_radius_km=8495.0)
    assert (cluttered_db >= loss_db).all()
    assert (cluttered_db > loss_db + 1).any()
    # Clutter at the two ends is no obstacle: the antennas stand in the open.
    ends_m = np.zeros(terrain_m.shape)
    ends_m[:, [0, -1]] = 20.0
    ends_db = losses.delta_bullington(*profile, 145.0, clutter_m=ends_m, effective_earth_radius_km=8495.0)
    assert (ends_db == loss_db).all()


@pytest.mark.slow
def test_delta_bullington_of_profiles_of_different_lengths_in_any_batch():
    distance_km, terrain_m, tx_m, rx_m = _mountains()
    count = np.arange(160, 200)
    padded_km, padded_m = distance_km.copy(), terrain_m.copy()
    beyond = np.arange(200) >= count[:, None]
    padded_km[beyond] = padded_m[beyond] = np.nan
    loss_db = losses.delta_bullington(padded_km, padded_m, tx_m, rx_m, 145.0, effective_earth_radius_km=8495.0)
    for link, points in enumerate(count):
        alone_db = losses.delta_bullington(
            distance_km[link, :points],
            terrain_m[link, :points],
            tx_m[link],
            rx_m[link],
            145.0,
            effective_earth_radius_km=8495.0,
        )
        assert alone_db.shape == ()
        assert alone_db == loss_db[link]


def test_delta_bullington_leaves_the_unknown_unknown():
    distance_km, terrain_m, tx_m, rx_m = _mountains(count=4)
    distance_km[0], terrain_m[1, 50], tx_m[2] = np.nan, np.nan, np.nan
    loss_db = losses.delta_bullington(distance_km, terrain_m, tx_m, rx_m, 145.0, effective_earth_radius_km=8495.0)
    assert np.isnan(loss_db).tolist() == [True, True, True, False]
    at_one_place = losses.delta_bullington(
        np.zeros(3), np.full(3, 7.0), 5.0, 5.0, 145.0, effective_earth_radius_km=8495.0
    )
    assert at_one_place == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance_km": np.array([1.0, 2.0, 3.0])}, "distance_km: that of link 0 does not ascend from 0"),
        ({"distance_km": np.array([0.0, 3.0, 2.0])}, "distance_km: that of link 0"),
        ({"distance_km": np.array([0.0, np.nan, 2.0])}, "distance_km: that of link 0"),
        ({"distance_km": np.array([0.0, 1.0, np.inf])}, "distance_km: that of link 0"),
        ({"tx_height_m": -1.0}, "tx_height_m: -1 is refused; give 0 or more"),
        ({"rx_height_m": -2.0}, "rx_height_m: -2 is refused"),
        ({"frequency_mhz": 0.0}, "frequency_mhz: 0 is refused; give more than 0"),
        ({"effective_earth_radius_km": np.nan}, "effective_earth_radius_km: nan is refused"),
        ({"sea_fraction": 1.5}, "sea_fraction: 1.5 is refused; give 0 … 1"),
        ({"polarization": "v"}, "polarization: 'v' is unknown"),
    ],
)
def test_delta_bullington_refuses(changes, message):
    link = {
        "distance_km": np.array([0.0, 1.0, 2.0]),
        "terrain_m": np.zeros(3),
        "tx_height_m": 10.0,
        "rx_height_m": 10.0,
        "frequency_mhz": 145.0,
        "effective_earth_radius_km": 8495.0,
    }
    with pytest.raises(ValueError, match=message):
        losses.delta_bullington(**(link | changes))


def _scene_distances(count, size, seed=3):
    position_m = np.random.default_rng(seed).uniform(0, 3e3, (count, size, 3))
    return np.linalg.norm(position_m[:, :, None] - position_m[:, None], axis=-1)


def test_shadowing_has_gudmundsons_correlation():
    distance_m, count = _scene_distances(1, 5)[0], 200_000
    normals = np.random.default_rng(4).standard_normal((count, 5))
    correlated = losses.correlated_shadowing(normals, distance_m, 1e3)
    expected = np.exp(-distance_m / 1e3)
    assert np.cov(correlated.T) == pytest.approx(expected, abs=5 * 2**0.5 / count**0.5)
    assert expected[np.triu_indices(5, 1)].max() > 0.2


def test_shadowing_is_the_cholesky_factor_times_the_normals_in_any_batch():
    distance_m = _scene_distances(50, 7)
    normals = np.random.default_rng(5).standard_normal((50, 7))
    correlated = losses.correlated_shadowing(normals, distance_m, 2e3)
    expected = np.linalg.cholesky(np.exp(-distance_m / 2e3)) @ normals[..., None]
    assert correlated == pytest.approx(expected[..., 0], abs=1e-12)
    part = losses.correlated_shadowing(normals[13:15], distance_m[13:15], 2e3)
    assert part.tobytes() == correlated[13:15].tobytes()
    shared = losses.correlated_shadowing(normals, distance_m[13], 2e3)
    assert shared[13].tobytes() == correlated[13].tobytes()


def test_absent_receivers_change_no_other():
    distance_m, normals = _scene_distances(6, 5), np.random.default_rng(6).standard_normal((6, 5))
    present = [0, 2, 4]
    with_absent, without = (
        normals.copy(),
        losses.correlated_shadowing(normals[:, present], distance_m[:, present][:, :, present], 1e3),
    )
    with_absent[:, 3] = np.nan
    gaps = distance_m.copy()
    gaps[:, [1, 3]] = gaps[:, :, [1, 3]] = np.nan
    correlated = losses.correlated_shadowing(with_absent, gaps, 1e3)
    assert correlated[:, present].tobytes() == without.tobytes()
    assert (correlated[:, 1] == normals[:, 1]).all()
    assert np.isnan(correlated[:, 3]).all()


def test_receivers_at_one_place_are_shadowed_alike():
    distance_m = _scene_distances(1, 3)[0][[0, 1, 0, 2, 1]][:, [0, 1, 0, 2, 1]]
    normals = np.random.default_rng(7).standard_normal((2000, 5))
    correlated = losses.correlated_shadowing(normals, distance_m, 1e3)
    assert correlated[:, 2] == pytest.approx(correlated[:, 0], abs=1e-6)
    assert correlated[:, 4] == pytest.approx(correlated[:, 1], abs=1e-6)
    assert correlated.std(axis=0) == pytest.approx(np.ones(5), abs=0.1)
    together = losses.correlated_shadowing(normals, np.zeros((5, 5)), 1e3)
    assert (together == normals[:, :1]).all()


def test_shadowing_without_a_distance_is_independent():
    normals = np.random.default_rng(8).standard_normal((4, 3))
    independent = losses.correlated_shadowing(normals, np.zeros((3, 3)), 0.0)
    assert (independent == normals).all()
    assert independent is not normals
    with pytest.raises(ValueError, match=r"correlation_distance_m: -1.0 is not a distance"):
        losses.correlated_shadowing(normals, np.zeros((3, 3)), -1.0)
    with pytest.raises(ValueError, match=r"distance_m: has the shape \(2, 3, 3\), which is neither \(3, 3\) nor"):
        losses.correlated_shadowing(normals, np.zeros((2, 3, 3)), 1.0)
