"""Ground and sky waves: fixes are as uncertain as they say, by what they say, and as the bound says."""

import numpy as np
import pyproj
import pytest
from path_scenes import network, scenes

import heimdall_lab as hl
from heimdall_lab.core import sky_wave
from heimdall_lab.localization import bounds, error_law, errors, paths, sentences

WGS84 = pyproj.Geod(ellps="WGS84")
NETWORKS = [(3, 500e3), (4, 800e3), (6, 1500e3), (8, 300e3)]


def drawn(kind: str, stations: int, radius_m: float, count: int = 60):
    rng = np.random.Generator(np.random.Philox(stations))
    height_m = rng.normal(sky_wave.MEAN_HEIGHT_M, sky_wave.HEIGHT_SIGMA_M, count) if kind == "sky_wave" else None
    sigma_s = 100e-6 if kind == "sky_wave" else 3e-6
    place = network(rng, stations, radius_m)
    return scenes(rng, place, count, radius_m, height_m, path_delay_sigma_s=sigma_s), height_m


@pytest.mark.parametrize("method", ["tdoa_ls", pytest.param("tdoa_robust", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["ground_wave", "sky_wave"])
def test_ellipses_hold_as_many_fixes_as_they_say(kind, method):
    squared, converged = [], []
    for stations, radius_m in NETWORKS:
        dataset, _ = drawn(kind, stations, radius_m, count=150)
        found = hl.locate(dataset, method)
        converged.append(found.converged.values)
        squared.append(errors.position_errors(dataset, found).mahalanobis_squared.values)
    converged, squared = np.concatenate(converged), np.concatenate(squared)
    assert converged.mean() > 0.9
    # Of 600 fixes 95 % ± 0.9 % are expected: three standard deviations to either side. Ellipses so much smaller that
    # they hold 85 % would be noticed.
    least, most = 0.95 - 3 * 0.0089, 0.95 + 3 * 0.0089
    assert least < (squared[converged] < error_law.radius_squared(0.95)).mean() < most
    assert (squared[converged] < error_law.radius_squared(0.85)).mean() < least


def test_height_of_reflection_is_found_within_what_is_said_of_it():
    dataset, height_m = drawn("sky_wave", 8, 500e3)
    found = hl.locate(dataset, "tdoa_ls")
    off = ((found.reflection_height_m - height_m) / found.reflection_height_sigma_m).values[found.converged.values]
    assert 0.6 < off.std() < 1.4
    assert float(found.reflection_height_sigma_m.max()) < sky_wave.HEIGHT_SIGMA_M
    assert (found.altitude_m == 0).all()
    assert list(found.cause.values)[-1] == "ionosphere"


def test_a_common_height_moves_fixes_as_its_share_of_the_budget_says():
    """Without other errors, fixes at a height one standard deviation off are off by that share of the budget."""
    rng = np.random.Generator(np.random.Philox(2))
    place = network(rng, 3, 600e3)
    height_m = np.full(30, sky_wave.MEAN_HEIGHT_M + 5e3)
    dataset = scenes(rng, place, 30, 600e3, height_m, reflection_height_sigma_m=5e3)
    found = hl.locate(dataset, "tdoa_ls")
    error_m = errors.position_errors(dataset, found).error
    share = (error_m / found.budget.sel(cause="ionosphere")).values[found.converged.values]
    assert np.median(share) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("kind", ["ground_wave", "sky_wave"])
def test_bound_is_what_differences_of_the_paths_give(kind):
    """Against the whole information of east, north, height and offset, by small steps of the transmitter."""
    dataset, _ = drawn(kind, 5, 500e3, count=10)
    ones = np.ones_like(dataset.transmitter_latitude)
    known = {"snr": np.full(dataset.snr.shape, 60.0), "occupied_bandwidth": 1e4 * ones, "rms_bandwidth": 3e3 * ones}
    known = {name: dataset[name].copy(data=values) for name, values in known.items()}
    dataset = dataset.assign(known).assign_attrs(duration_s=10.0)
    receivers = tuple(dataset[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude"))
    place = dataset.transmitter_latitude.values, dataset.transmitter_longitude.values
    height_m, sigma_m = paths.height_prior(dataset)
    height_m = np.full_like(height_m, sky_wave.MEAN_HEIGHT_M if kind == "sky_wave" else 0.0)

    def length(north_m: float = 0.0, east_m: float = 0.0, up_m: float = 0.0) -> np.ndarray:
        latitude = place[0] + north_m / 111.2e3
        longitude = place[1] + east_m / (111.3e3 * np.cos(np.radians(place[0])))
        return paths.lengths(kind, receivers, latitude, longitude, height_m + up_m)[0]

    steps = [{"east_m": 100.0}, {"north_m": 100.0}, {"up_m": 100.0}]
    slopes = [(length(**step) - length(**dict.fromkeys(step, -100.0))) / 200 for step in steps]
    columns = np.stack([*slopes, np.ones_like(slopes[0])], axis=-1)
    information = columns.swapaxes(1, 2) @ columns / (299792458.0 * dataset.attrs["path_delay_sigma_s"]) ** 2
    information[:, 2, 2] += 1 / sigma_m**2
    expected = np.linalg.inv(information)[:, :2, :2]
    found = bounds.scene_crlb(dataset).crlb_covariance.values
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02 * np.abs(expected).max(axis=(1, 2)).min())


def test_ground_waves_are_bounded_along_the_geodesics_that_fixes_take():
    """Over 3,000 km, where chords are another way: against PROJ's lengths, and the covariances of fixes."""
    dataset, _ = drawn("ground_wave", 6, 3000e3, count=20)
    ones = np.ones_like(dataset.transmitter_latitude)
    known = {"snr": np.full(dataset.snr.shape, 90.0), "occupied_bandwidth": 1e4 * ones, "rms_bandwidth": 3e3 * ones}
    known = {name: dataset[name].copy(data=values) for name, values in known.items()}
    dataset = dataset.assign(known).assign_attrs(duration_s=10.0)
    shape = dataset.receiver_latitude.shape
    place = (
        np.broadcast_to(dataset[f"transmitter_{name}"].values[:, None], shape) for name in ("longitude", "latitude")
    )
    place = [degrees.ravel() for degrees in place]
    there = [dataset[f"receiver_{name}"].values.ravel() for name in ("longitude", "latitude")]

    def length_m(azimuth_deg: float, step_m: float) -> np.ndarray:
        moved = WGS84.fwd(*place, np.full_like(place[0], azimuth_deg), np.full_like(place[0], step_m))
        return WGS84.inv(*moved[:2], *there)[2].reshape(shape)

    slopes = [(length_m(azimuth_deg, 100.0) - length_m(azimuth_deg, -100.0)) / 200 for azimuth_deg in (90.0, 0.0)]
    columns = np.stack([*slopes, np.ones(shape)], axis=-1)
    information = columns.swapaxes(1, 2) @ columns / (299792458.0 * dataset.attrs["path_delay_sigma_s"]) ** 2
    expected = np.linalg.inv(information)[:, :2, :2]
    found = bounds.scene_crlb(dataset).crlb_covariance.values
    assert (np.abs(found - expected).max(axis=(1, 2)) < 1e-3 * np.abs(expected).max(axis=(1, 2))).all()
    fixes = hl.locate(dataset.assign(tdoa_s=_exact(dataset)), "tdoa_ls")
    ratio = np.sqrt(np.trace(fixes.covariance.values, axis1=1, axis2=2)) / bounds.scene_crlb(dataset).crlb_rmse.values
    assert ratio[fixes.converged.values] == pytest.approx(1, rel=2e-3)


def _exact(dataset):
    """Time differences without errors."""
    receivers = tuple(dataset[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude"))
    place = dataset.transmitter_latitude.values, dataset.transmitter_longitude.values
    length_m, _ = paths.lengths("ground_wave", receivers, *place, np.zeros(dataset.sizes["sample"]))
    return dataset.tdoa_s.copy(data=(length_m - length_m[:, :1]) / 299792458.0)


def test_positions_of_receivers_are_in_the_bound_and_in_fixes():
    dataset, _ = drawn("ground_wave", 6, 500e3)
    ones = np.ones_like(dataset.transmitter_latitude)
    known = {"snr": np.full(dataset.snr.shape, 60.0), "occupied_bandwidth": 1e4 * ones, "rms_bandwidth": 3e3 * ones}
    known = {name: dataset[name].copy(data=values) for name, values in known.items()}
    exact = dataset.assign(known).assign_attrs(duration_s=10.0)
    blurred = exact.assign(receiver_position_std=("receiver", np.full(6, 3000.0), {"units": "m"}))
    ratio = 3000.0 / (299792458.0 * exact.attrs["path_delay_sigma_s"])
    growth = bounds.scene_crlb(blurred).crlb_rmse / bounds.scene_crlb(exact).crlb_rmse
    np.testing.assert_allclose(growth, np.hypot(1, ratio), rtol=1e-3)
    budget = hl.locate(blurred, "tdoa_ls").budget
    shares = budget.sel(cause="receiver_positions") / budget.sel(cause="paths")
    np.testing.assert_allclose(shares, ratio, rtol=1e-6)


def test_what_cannot_be_done_of_sky_waves_is_refused():
    dataset, _ = drawn("sky_wave", 4, 500e3, count=2)
    assert "dpd" not in hl.methods(dataset)
    with_iq = dataset.assign(
        iq=(("sample", "receiver", "component", "time"), np.zeros((2, 4, 2, 64), dtype=np.int16), {"units": "1"})
    )
    assert "dpd" not in hl.methods(with_iq)
    assert "dpd" in hl.methods(with_iq.assign_attrs(propagation="line_of_sight"))


def test_height_is_said_in_the_sentences():
    dataset, _ = drawn("sky_wave", 3, 500e3, count=1)
    found = hl.locate(dataset, "tdoa_ls")
    assert "; one hop by the ionosphere" in sentences.budget_sentence(dataset, found, 0)
    assert "near the ground" not in sentences.budget_sentence(dataset, found, 0)
    told = dataset.assign_attrs(centre_frequency_hz=9.41e6)
    assert sentences.paths_sentence(told) == (
        "Paths at 9,410 kHz are taken for single hops by the ionosphere, with delays known to 100.00 µs."
    )
