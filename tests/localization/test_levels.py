"""Positions from levels, against the Cramér-Rao bound, integrals by chance, and the simplest fixes."""

import numpy as np
import pyproj
import pytest
from scipy import stats

import heimdall_lab as hl
from heimdall_lab.localization import baselines, bounds, information, integrity, level_law, levels, observations
from heimdall_lab.simulation import scenes as scene_draws
from heimdall_lab.simulation.propagation import losses

RECEIVERS = 7
GEOD = pyproj.Geod(ellps="WGS84")
SAMPLES = [pytest.param(0.25, id="some"), pytest.param(1.0, id="all", marks=pytest.mark.slow)]  # shares of the scenes


def polar(latitude, longitude, azimuth_deg, distance_m):
    east, north, _ = GEOD.fwd(longitude, latitude, azimuth_deg, distance_m)
    return np.asarray(north), np.asarray(east)


def scenes(count, sigma_db, propagation, *, radius_m=80e3, seed=1, like_receivers=False):
    """Receivers and a transmitter each drawn from a disc, and levels after the law of distance.

    With ``like_receivers`` the transmitter has a round normal distribution about the receivers' middle, of the variance
    that one more of seven receivers has: 8 / 6 of their scatter and of the square kilometre that `centroid` adds to it.
    Distances are PROJ's: chords between positions at sea level, or geodesics.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    shape = (count, RECEIVERS + 1)
    latitude, longitude = polar(
        np.full(shape, 45.0),
        np.full(shape, 8.0),
        rng.uniform(0, 360, shape),
        radius_m * np.sqrt(rng.uniform(0, 1, shape)),
    )
    transmitter = latitude[:, -1:], longitude[:, -1:]
    latitude, longitude = latitude[:, :-1], longitude[:, :-1]
    if like_receivers:
        middle = [np.broadcast_to(d.mean(axis=1, keepdims=True), d.shape) for d in (latitude, longitude)]
        _, _, distance_m = GEOD.inv(middle[1], middle[0], longitude, latitude)
        sigma_m = np.sqrt(8 / 6 * ((distance_m**2).mean(axis=1, keepdims=True) / 2 + 1e6))
        place_m = sigma_m * rng.rayleigh(size=(count, 1))
        transmitter = polar(middle[0][:, :1], middle[1][:, :1], rng.uniform(0, 360, (count, 1)), place_m)
    start = [np.broadcast_to(degrees, latitude.shape) for degrees in transmitter]
    azimuth_deg, _, geodesic_m = GEOD.inv(start[1], start[0], longitude, latitude)
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    ends = [
        np.stack(to_ecef.transform(*degrees, np.zeros_like(latitude)), axis=-1)
        for degrees in (start, (latitude, longitude))
    ]
    distance_m = geodesic_m if propagation == "ground_wave" else np.linalg.norm(ends[1] - ends[0], axis=-1)
    power_dbm = rng.uniform(10, 37, (count, 1))
    known = observations.Observations(
        latitude_deg=latitude,
        longitude_deg=longitude,
        altitude_m=np.zeros_like(latitude),
        transmitter_altitude_m=np.zeros(count),
        transmitter_altitude_sigma_m=np.ones(count),
        height_m=np.zeros(count),
        height_sigma_m=np.ones(count),
        heard=np.ones(latitude.shape, dtype=bool),
        rssi_dbm=power_dbm - 20 * np.log10(distance_m) + sigma_db * rng.standard_normal(latitude.shape),
        silent_dbm=np.full(latitude.shape, np.nan),
        link_sigma_db=sigma_db,
        pseudorange_m=np.zeros_like(latitude),
        sigma_m=np.ones_like(latitude),
        variance_m2=np.ones((*latitude.shape, 4)) / 4,
        sigma_freedom=np.inf,
        reference=np.zeros(count, dtype=int),
        propagation=propagation,
        nlos_ratio=0.0,
        nlos_excess_m=0.0,
    )
    angle = np.radians(azimuth_deg)
    return known, transmitter, geodesic_m[..., None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def error_vectors(fix, transmitter):
    azimuth_deg, _, distance_m = GEOD.inv(
        transmitter[1][:, 0], transmitter[0][:, 0], fix.longitude_deg, fix.latitude_deg
    )
    angle = np.radians(azimuth_deg)
    return distance_m[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)


@pytest.mark.parametrize(
    ("propagation", "radius_m"),
    [("line_of_sight", 80e3), ("ground_wave", 600e3)],
)
@pytest.mark.slow
def test_errors_are_those_of_the_bound_where_levels_say_much(propagation, radius_m):
    """With 0.2 dB of shadowing the weight of the receivers' scatter is nothing.

    Errors lie inside the ellipses of the bound, and of the fixes themselves, as often as these say, within three
    standard errors of a binomial share. Shares, not root mean squares: a few transmitters far outside of the receivers
    have two likely positions even so, of which the bound does not know.
    """
    known, transmitter, offset = scenes(400, 0.2, propagation, radius_m=radius_m)
    fix, _ = levels.rss_ml(known)
    assert fix.converged.all()
    bound = bounds.crlb(offset, np.zeros(2), rss_sigma_db=np.full(known.heard.shape, 0.2))
    vector = error_vectors(fix, transmitter)
    for covariance in (bound, fix.covariance):
        squared = np.einsum("si,sij,sj->s", vector, np.linalg.inv(covariance), vector)
        for level in (0.5, 0.68):
            inside = (squared <= stats.chi2(2).ppf(level)).mean()
            assert abs(inside - level) < 3 * np.sqrt(level * (1 - level) / len(squared))


@pytest.mark.slow
def test_levels_beyond_the_horizon_of_low_antennas_are_taken_as_such():
    """Receivers of 20 m and transmitters of 10 to 90 m over 160 km: beyond 30 to 60 km, tens of decibels are missing.

    The altitudes are drawn from what is said of them, and diffraction by the law that losses are simulated with.
    """
    count = 80
    known, transmitter, offset = scenes(count, 2.0, "line_of_sight", like_receivers=True)
    rng = np.random.Generator(np.random.Philox(8))
    altitude_m = rng.uniform(10.0, 90.0, (count, 1))
    beyond_db = losses.smooth_earth_loss_db(np.linalg.norm(offset, axis=-1), altitude_m, 20.0, 145e6)
    assert np.median(beyond_db) > 10
    known = known._replace(
        rssi_dbm=known.rssi_dbm - beyond_db,
        altitude_m=np.full_like(known.altitude_m, 20.0),
        transmitter_altitude_m=np.full(count, 50.0),
        transmitter_altitude_sigma_m=np.full(count, 80 / 12**0.5),
        frequency_hz=145e6,
    )
    inside, rmse_m = {}, {}
    for law in ("free_space", "smooth_earth"):
        fix, evidence = levels.rss_ml(known._replace(level_law=law))
        vector = error_vectors(fix, transmitter)
        squared = np.einsum("si,sij,sj->s", vector, np.linalg.inv(fix.covariance), vector)
        inside[law] = (squared <= stats.chi2(2).ppf(0.95)).mean()
        rmse_m[law] = np.sqrt((vector**2).sum(axis=-1).mean())
    assert inside["free_space"] < 0.6
    assert inside["smooth_earth"] > 0.95 - 3 * np.sqrt(0.95 * 0.05 / count)
    assert rmse_m["smooth_earth"] < rmse_m["free_space"] / 2
    assert (integrity.assess(fix, evidence).status == "ok").mean() > 0.98


def test_levels_spread_by_what_is_not_known_of_the_altitude():
    """Over distances behind the horizon, against 400 altitudes drawn from what is known of it: to four deviations."""
    count = 40
    known, _, _ = scenes(count, 2.0, "line_of_sight", like_receivers=True)
    known = known._replace(
        level_law="smooth_earth",
        frequency_hz=145e6,
        altitude_m=np.full_like(known.altitude_m, 20.0),
        transmitter_altitude_m=np.full(count, 50.0),
        height_sigma_m=np.full(count, 10.0),
    )
    distance_m = np.broadcast_to(np.linspace(10e3, 150e3, RECEIVERS), known.heard.shape)
    rng = np.random.Generator(np.random.Philox(1))
    drawn = [level_law.loss_db(known, distance_m, 50 + 10 * rng.standard_normal(count)) for _ in range(400)]
    expected = np.std(drawn, axis=0).mean(axis=0)
    assert (expected > 1).all()
    assert level_law.altitude_sigma_db(known, distance_m)[0] == pytest.approx(
        expected, rel=4 / np.sqrt(2 * 400 * count)
    )


@pytest.mark.parametrize(("away_m", "sigma_db"), [(100e3, 6.0), (100e3, 1.0), (500e3, 0.1)])
def test_a_wrong_prior_that_levels_do_not_contradict_is_said(away_m, sigma_db):
    """Transmitters far from receivers within 30 km: the weight of their scatter draws fixes in, which are not checked.

    At 500 km they lie beyond what is searched, and are no fixes.
    """
    count, rng = 100, np.random.Generator(np.random.Philox(9))
    known, _, _ = scenes(count, sigma_db, "line_of_sight", radius_m=30e3)
    place = polar(*(np.full((count, 1), value) for value in (45.0, 8.0, 90.0, away_m)))
    start = (np.broadcast_to(degrees, known.latitude_deg.shape) for degrees in place[::-1])
    _, _, distance_m = GEOD.inv(*start, known.longitude_deg, known.latitude_deg)
    rssi_dbm = -20 * np.log10(distance_m) + sigma_db * rng.standard_normal(distance_m.shape)
    fix, evidence = levels.rss_ml(known._replace(rssi_dbm=rssi_dbm))
    judged = integrity.assess(fix, evidence)
    converged = fix.converged & (judged.status == "ok")
    vector = error_vectors(fix, place)
    squared = np.einsum("si,sij,sj->s", vector, information.inverse(judged.covariance), vector)
    wrong = ~(squared < stats.chi2(2).ppf(0.99))
    if away_m < 200e3:
        assert converged.mean() > 0.9
        assert wrong.mean() > 0.9
        assert np.isinf(judged.undetected_m[converged]).mean() > 0.98
    else:
        assert not converged.any()
    assert (converged & wrong & (judged.checked == "yes")).sum() <= 2


@pytest.mark.parametrize("share", SAMPLES)
def test_shadowed_levels_beat_the_simplest_fixes(share):
    """In median and root mean square, with 8.5 dB of shadowing."""
    known, transmitter, _ = scenes(int(600 * share), 8.5, "line_of_sight")
    errors = {}
    for method in (baselines.centroid, baselines.strongest, levels.rss_ml):
        fix, _ = method(known)
        errors[method.__name__] = np.linalg.norm(error_vectors(fix, transmitter), axis=1)
    for other in ("centroid", "strongest"):
        for statistic in (np.median, lambda error: np.sqrt((error**2).mean())):
            assert statistic(errors["rss_ml"]) < statistic(errors[other])


@pytest.mark.parametrize("share", SAMPLES)
@pytest.mark.parametrize("sigma_db", [3.0, 8.5])
def test_spread_is_that_of_the_errors(sigma_db, share):
    """Where transmitters stand as assumed, the mean squared error over a posterior's covariance is 2, of any shape."""
    known, transmitter, _ = scenes(int(500 * share), sigma_db, "line_of_sight", seed=4, like_receivers=True)
    fix, _ = levels.rss_ml(known)
    vector = error_vectors(fix, transmitter)
    squared = np.einsum("si,sij,sj->s", vector, np.linalg.inv(fix.covariance), vector)
    assert abs(squared.mean() - 2) < 3 * squared.std() / len(squared) ** 0.5


@pytest.mark.slow
def test_posterior_is_that_of_an_integral_by_chance():
    """Importance sampling of position and power, one receiver silent: mean and spread within five standard errors."""
    known, _, _ = scenes(6, 6.0, "line_of_sight", seed=3)
    heard = known.heard.copy()
    heard[:, 2] = False
    silent_dbm = np.where(heard, np.nan, np.median(known.rssi_dbm, axis=1, keepdims=True))
    known = known._replace(heard=heard, silent_dbm=silent_dbm)
    fix, _ = levels.rss_ml(known)
    rng = np.random.Generator(np.random.Philox(2))
    prior = baselines.receivers_centroid(known)
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    for scene in range(6):
        variance = np.trace(prior.covariance[scene]) / 2 * 7 / 5  # of one more draw, where six are known
        draw = np.sqrt(variance) * rng.standard_normal((200_000, 2))
        azimuth, distance = np.degrees(np.arctan2(draw[:, 0], draw[:, 1])), np.hypot(draw[:, 0], draw[:, 1])
        centre = (np.full(len(draw), degrees[scene]) for degrees in (prior.latitude_deg, prior.longitude_deg))
        latitude, longitude = polar(*centre, azimuth, distance)
        place = np.stack(to_ecef.transform(latitude, longitude, np.zeros(len(draw))), axis=-1)
        at = known.latitude_deg[scene], known.longitude_deg[scene]
        receiver = np.stack(to_ecef.transform(*at, np.zeros(RECEIVERS)), axis=-1)
        loss_db = 20 * np.log10(np.linalg.norm(place[:, None] - receiver, axis=-1))
        powers = known.rssi_dbm[scene] + loss_db  # of the transmitter, as each receiver says
        wide = stats.norm(powers[:, heard[scene]].mean(axis=1), 12.0)
        power = wide.rvs(random_state=rng)
        log_weight = stats.norm.logpdf(powers[:, heard[scene]], power[:, None], 6.0).sum(axis=1) - wide.logpdf(power)
        log_weight += stats.norm.logcdf(silent_dbm[scene, 2], power - loss_db[:, 2], 6.0)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        mean = weight @ draw
        covariance = (weight * (draw - mean).T) @ (draw - mean)
        assert 1 / (weight**2).sum() > 1000  # effective draws
        start = prior.longitude_deg[scene], prior.latitude_deg[scene]
        azimuth, _, distance = GEOD.inv(*start, fix.longitude_deg[scene], fix.latitude_deg[scene])
        found = distance * np.array([np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))])
        squares = (draw - mean) ** 2
        assert (np.abs(found - mean) < 5 * np.sqrt(weight**2 @ squares)).all()
        variance = np.diag(covariance)
        assert (
            np.abs(np.diag(fix.covariance[scene]) - variance) < 5 * np.sqrt(weight**2 @ (squares - variance) ** 2)
        ).all()


def test_two_receivers_or_unknown_shadowing_are_no_fix():
    known, _, _ = scenes(3, 6.0, "line_of_sight")
    heard = known.heard.copy()
    heard[1, 2:] = False
    few = known._replace(heard=heard)
    (fix, _), simplest = levels.rss_ml(few), baselines.receivers_centroid(few)
    assert fix.converged.tolist() == [True, False, True]
    assert fix.latitude_deg[1] == simplest.latitude_deg[1]
    unknown, _ = levels.rss_ml(known._replace(link_sigma_db=np.nan))
    assert not unknown.converged.any()
    assert np.array_equal(unknown.latitude_deg, baselines.receivers_centroid(known).latitude_deg)


@pytest.mark.slow
@pytest.mark.parametrize(("placement", "max_receivers"), [("fixed", 7), ("random", 10)])
def test_nothing_finds_much_more_in_levels(placement, max_receivers):
    """Even who knows the simulator's own law of positions and powers has hardly another root mean square error.

    The best fix is then the mean of the posterior distribution, here over draws from that law.
    """
    config = hl.preset("websdr", seed=7, max_receivers=max_receivers, geometry={"placement": placement})
    known, transmitter = simulated(config, 400)
    fix, _ = levels.rss_ml(known)
    longitude, latitude = best_of_levels(config, known, draws=2000)
    rmse_m = []
    for degrees in ((fix.longitude_deg, fix.latitude_deg), (longitude, latitude)):
        _, _, error_m = GEOD.inv(transmitter[1], transmitter[0], *degrees)
        rmse_m.append(np.sqrt((error_m**2).mean()))
    assert rmse_m[1] == pytest.approx(rmse_m[0], rel=0.07)


def simulated(config, count):
    """Scenes of a configuration with levels as they arrive, and where the transmitters are."""
    truth = scene_draws.draw_scenes(config, np.arange(count)).variables
    channel = config.channel
    noise_dbm = losses.noise_power_dbm(config.signal.channel_bandwidth_hz, channel.noise_figure_db)
    environment_db = (channel.environment_loss_max_db - channel.environment_loss_min_db) / 12**0.5
    known = observations.Observations(
        latitude_deg=truth["receiver_latitude"],
        longitude_deg=truth["receiver_longitude"],
        altitude_m=truth["receiver_altitude"],
        transmitter_altitude_m=truth["transmitter_altitude"],
        transmitter_altitude_sigma_m=np.ones(count),
        height_m=truth["transmitter_altitude"],
        height_sigma_m=np.ones(count),
        heard=truth["received_power"] - noise_dbm >= config.gate.min_snr_db,
        rssi_dbm=truth["received_power"],
        silent_dbm=np.full(truth["received_power"].shape, np.nan),
        link_sigma_db=float(np.hypot(channel.shadowing_sigma_db, environment_db)),
        pseudorange_m=np.zeros_like(truth["received_power"]),
        sigma_m=np.ones_like(truth["received_power"]),
        variance_m2=np.ones((*truth["received_power"].shape, 4)) / 4,
        sigma_freedom=np.inf,
        reference=np.zeros(count, dtype=int),
        propagation="line_of_sight",
        nlos_ratio=0.0,
        nlos_excess_m=0.0,
    )
    return known, (truth["transmitter_latitude"], truth["transmitter_longitude"])


def best_of_levels(config, known, draws):
    """Longitudes and latitudes of the posterior means, from draws of the simulator's law."""
    rng = np.random.Generator(np.random.Philox(5))
    geometry, signal, channel = config.geometry, config.signal, config.channel
    radiated_dbm = np.linspace(signal.transmitter_power_min_dbm, signal.transmitter_power_max_dbm, 9)[:, None, None]
    radiated_dbm = radiated_dbm - (channel.environment_loss_min_db + channel.environment_loss_max_db) / 2
    means = []
    for scene, heard in enumerate(known.heard):
        margin = np.where(rng.random(draws) < geometry.inside_ratio, 0.0, geometry.margin_deg)
        place, apart_km = [], []
        for receiver, degree_km in ((known.longitude_deg, 111.3 * np.cos(np.radians(45))), (known.latitude_deg, 111.2)):
            least, most = np.nanmin(receiver[scene]) - margin, np.nanmax(receiver[scene]) + margin
            place.append(least + (most - least) * rng.random(draws))
            apart_km.append(degree_km * (place[-1][:, None] - receiver[scene, heard]))
        loss_db = 32.45 + 20 * np.log10(np.hypot(*apart_km) + 0.1) + 20 * np.log10(signal.frequency_hz / 1e6)
        residual = known.rssi_dbm[scene, heard] - (radiated_dbm - loss_db)  # (powers, draws, receivers)
        log_weight = -((residual / known.link_sigma_db) ** 2).sum(axis=-1) / 2
        weight = np.exp(log_weight - log_weight.max()).sum(axis=0)
        means.append(np.stack(place) @ weight / weight.sum())
    return np.stack(means, axis=1)
