"""Whether fixes can be believed: against refits by SciPy, false alarms, and faults of every kind."""

import numpy as np
import pytest
import xarray as xr
from measured_delays import NOISE_S, measured, ring
from scipy import optimize, stats

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import bounds, error_law, integrity
from heimdall_lab.localization.errors import position_errors

NOISE_M = NOISE_S * SPEED_OF_LIGHT


def scenes(seed: int, count: int, links: int = 7, *, late_s: float = 0.0, **attrs: object) -> xr.Dataset:
    """Receivers on a ring, one of each scene late by so much."""
    rng = np.random.Generator(np.random.Philox(seed))
    receivers, transmitter = ring(rng, count, links)
    delay_s = NOISE_S * rng.standard_normal((count, links))
    delay_s[np.arange(count), rng.integers(0, links, count)] += late_s
    return measured(receivers, transmitter, delay_s, **attrs)


def refit(scene: xr.Dataset, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """East and north of the true position, m, their covariance and χ² by SciPy, from the delays that are kept."""
    origin = float(scene.transmitter_latitude), float(scene.transmitter_longitude)
    position = geodesy.ecef(*(scene[f"receiver_{name}"].values[kept] for name in ("latitude", "longitude", "altitude")))
    delay_m = scene.tdoa_s.values[kept] * SPEED_OF_LIGHT
    base, axes = geodesy.ecef(*origin, 0.0), geodesy.enu_axes(*origin)

    def residuals(unknown: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(position - (base + unknown[:3] @ axes), axis=1)
        return np.append((delay_m - distance - unknown[3]) / NOISE_M, unknown[2] / 1.0)

    start = np.array([0.0, 0.0, 0.0, (delay_m - np.linalg.norm(position - base, axis=1)).mean()])
    found = optimize.least_squares(residuals, start, x_scale=[1e3, 1e3, 1.0, 1e3], jac="3-point", diff_step=1e-3)
    return found.x[:2], np.linalg.inv(found.jac.T @ found.jac)[:2, :2], 2 * found.cost


def test_misfit_covariance_and_the_suspect_are_those_of_refits():
    """A fix without one delay moves by what its covariance gains at the most: the ratio tells which one is at fault."""
    dataset = scenes(1, 12, late_s=0.4e-6)
    found = hl.locate(dataset, "tdoa_ls")
    limit = stats.chi2(1).isf(integrity.FALSE_ALARM / 7)
    for scene in range(12):
        row, fix = dataset.isel(sample=scene), found.isel(sample=scene)
        place, covariance, chi_squared = refit(row, np.arange(7))
        assert position_errors(dataset, found).error_vector.values[scene] == pytest.approx(place, abs=0.1)
        assert fix.covariance.values == pytest.approx(covariance, abs=1e-3 * np.trace(covariance))
        assert float(fix.misfit) == pytest.approx(chi_squared / 4, rel=1e-3)
        separation = []
        for link in range(7):
            other, wider, _ = refit(row, np.delete(np.arange(7), link))
            gained, axes = np.linalg.eigh(wider - covariance)  # of rank one: a delay tells one direction
            separation.append(float((axes[:, 1] @ (other - place)) ** 2 / gained[1]))
        assert int(fix.suspect) == int(np.argmax(separation))
        assert (str(fix.status.values) == "link") == (max(separation) > limit)


@pytest.mark.slow
def test_a_fault_just_below_notice_moves_the_fix_as_far_as_is_said():
    """Every delay of scenes without noise is made late until it is noticed: the fix has moved by then."""
    rng = np.random.Generator(np.random.Philox(2))
    receivers, transmitter = ring(rng, 4, 7)
    exact = measured(receivers, transmitter, np.zeros((4, 7)))
    said_m = hl.locate(exact, "tdoa_ls").undetected_m.values
    farthest_m = np.zeros(4)
    for link in range(7):
        low, high = np.zeros(4), np.full(4, 100e-6)
        for _ in range(16):
            late_s = (low + high) / 2
            delay_s = np.zeros((4, 7))
            delay_s[:, link] = late_s
            found = hl.locate(measured(receivers, transmitter, delay_s), "tdoa_ls")
            noticed = (found.status == "link").values
            low, high = np.where(noticed, low, late_s), np.where(noticed, late_s, high)
        farthest_m = np.maximum(farthest_m, position_errors(exact, found).error.values)
    assert said_m == pytest.approx(farthest_m, rel=0.05)


@pytest.mark.parametrize("links", [4, 5, 7, 10])
def test_fixes_without_faults_are_not_refused(links):
    """Two tests of one in 10,000 each: of 5,000 scenes four are more than enough."""
    found = hl.locate(scenes(3, 5000, links), "tdoa_ls")
    assert found.status.isin(["link", "misfit"]).sum() <= 4


@pytest.mark.parametrize("path_s", [0.0, NOISE_S, 5 * NOISE_S])
def test_ellipses_hold_what_they_say_where_the_scale_of_sigmas_is_known_with_four_degrees_of_freedom(path_s):
    """The scale is drawn from that law itself: three binomial standard deviations.

    Where nearly all is known without it, as of paths, the law is nearly a normal one.
    """
    count = 3000
    rng = np.random.Generator(np.random.Philox(4))
    receivers, transmitter = ring(rng, count, 6)
    scale = np.sqrt(4 / rng.chisquare(4, (count, 1)))
    delay_s = scale * NOISE_S * rng.standard_normal((count, 6)) + path_s * rng.standard_normal((count, 6))
    dataset = measured(receivers, transmitter, delay_s, sigma_freedom=4.0, path_delay_sigma_s=path_s)
    dataset["receiver_position_std"] = ("receiver", np.zeros(6), {"units": "m"})
    found = hl.locate(dataset, "tdoa_ls")
    known = found.budget.sel(cause=["paths", "altitude"]) ** 2
    share = (1 - known.sum("cause") / (found.budget**2).sum("cause")).values
    assert found.freedom.values == pytest.approx(error_law.partly_scaled(share, 7.0)[1], rel=1e-6)
    level = position_errors(dataset, found).level.values
    for share in (0.68, 0.95):
        assert abs((level <= share).mean() - share) < 3 * np.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("method", ["tdoa_ls", "tdoa_robust"])
def test_the_budget_adds_up_to_the_covariance(method):
    dataset = scenes(5, 20, clock_sigma_s=50e-9, path_delay_sigma_s=30e-9, transmitter_altitude_sigma_m=500.0)
    dataset["receiver_position_std"] = ("receiver", np.linspace(0, 60, 7), {"units": "m"})
    found = hl.locate(dataset, method)
    total = np.einsum("skk->s", found.covariance.values)
    assert (found.budget**2).sum("cause").values == pytest.approx(total, rel=1e-9)
    assert (found.budget > 0).all()
    ratio = (found.budget.sel(cause="noise") / found.budget.sel(cause="clocks")).values
    assert ratio == pytest.approx(NOISE_S / 50e-9, rel=1e-6)


@pytest.mark.parametrize("late_s", [10e-6, 60e-6])
def test_one_late_clock_of_four_is_no_fix(late_s):
    """Three delays fit any place: which of four is wrong cannot be told."""
    dataset = scenes(6, 200, 4, late_s=late_s)
    for method in ("tdoa_ls", "tdoa_robust"):
        found = hl.locate(dataset, method)
        wrong = position_errors(dataset, found).level.values > 0.99
        assert (found.converged.values & wrong).mean() < 0.02, method


@pytest.mark.parametrize("late_s", [10e-6, 60e-6])
@pytest.mark.slow
def test_one_late_clock_of_seven_is_left_out(late_s):
    """Nine fixes in ten are found, nearly as good as the bound without that receiver."""
    count = 400
    dataset = scenes(7, count, late_s=late_s)
    late = np.random.Generator(np.random.Philox(7))
    receivers, _ = ring(late, count, 7)
    late.standard_normal((count, 7))
    others = np.arange(7) != late.integers(0, 7, count)[:, None]
    plane = geodesy.enu(
        geodesy.ecef(receivers[..., 0], receivers[..., 1], np.zeros((count, 7))),
        dataset.transmitter_latitude.values,
        dataset.transmitter_longitude.values,
    )
    sigma_s = np.where(others, NOISE_S, np.inf)
    bound = bounds.crlb(plane[..., :2], np.zeros((count, 2)), toa_sigma_s=sigma_s)
    found = hl.locate(dataset, "tdoa_robust")
    converged = found.converged.values
    assert converged.mean() >= 0.9
    error = position_errors(dataset, found).error.values / np.sqrt(np.trace(bound, axis1=1, axis2=2))
    assert np.sqrt((error[converged] ** 2).mean()) <= 1.3
    assert not hl.locate(dataset, "tdoa_ls").converged.any()


def test_receivers_on_a_line_have_a_mirror_image():
    """Four on a meridian: either side fits as well, and both are told."""
    rng = np.random.Generator(np.random.Philox(8))
    receivers = np.stack(np.broadcast_arrays(45 + np.linspace(-0.5, 0.5, 4), 7.6), axis=-1)[None].repeat(30, axis=0)
    transmitter = np.stack([rng.uniform(44.6, 45.4, 30), rng.uniform(7.2, 7.5, 30)], axis=-1)
    dataset = measured(receivers, transmitter, NOISE_S * rng.standard_normal((30, 4)), link_sigma_db=6.0)
    for method in ("tdoa_ls", "tdoa_robust"):
        found = hl.locate(dataset, method)
        assert (found.status == "ambiguous").all(), method
        places = np.stack([found.longitude.values, found.rival_longitude.values[:, 0]])
        assert np.abs(places - transmitter[:, 1]).min(axis=0) == pytest.approx(0, abs=0.02)
        assert places.mean(axis=0) == pytest.approx(7.6, abs=0.02)


def valley(sigma_m: float | None) -> xr.Dataset:
    """Two receivers on mountains and two below, the transmitter in the valley; its altitude said, or not."""
    rng = np.random.Generator(np.random.Philox(9))
    place = np.array([[45.3, 7.65, 4000.0], [45.05, 8.0, 4000.0], [44.8, 7.65, 200.0], [45.05, 7.3, 200.0]])
    transmitter = np.array([[45.05, 7.65, 250.0]]).repeat(200, axis=0)
    transmitter[:, :2] += rng.uniform(-0.1, 0.1, (200, 2))
    delay_s = NOISE_S * rng.standard_normal((200, 4))
    dataset = measured(place[None].repeat(200, axis=0), transmitter, delay_s)
    for name in ("transmitter_altitude_m", "transmitter_altitude_sigma_m"):
        del dataset.attrs[name]
    if sigma_m is None:
        return dataset
    said_m = 250.0 + sigma_m * rng.standard_normal(200)
    return dataset.assign(
        reported_altitude=("sample", said_m, {"units": "m"}),
        reported_altitude_std=("sample", np.full(200, sigma_m), {"units": "m"}),
    )


def test_an_altitude_that_nobody_said_is_in_the_covariance():
    dataset = valley(None)
    found = hl.locate(dataset, "tdoa_ls")
    assert (position_errors(dataset, found).level < 0.95).mean() >= 0.95
    assert (found.budget.sel(cause="altitude") > 2 * found.budget.sel(cause="noise")).all()


@pytest.mark.parametrize("sigma_m", [0.0, 300.0])
def test_an_altitude_that_was_said_is_used_as_far_as_it_is_known(sigma_m):
    dataset = valley(sigma_m)
    found = hl.locate(dataset, "tdoa_ls")
    level = position_errors(dataset, found).level.values
    for share in (0.68, 0.95):
        assert abs((level <= share).mean() - share) < 3 * np.sqrt(share * (1 - share) / 200)
    if sigma_m == 0:
        assert found.altitude_m.values == pytest.approx(250, abs=1e-3)
        given = hl.locate(valley(None), "tdoa_ls", altitude_m=250.0)
        np.testing.assert_allclose(given.covariance, found.covariance, rtol=1e-6)


@pytest.mark.parametrize("sigma_m", [300.0, 3000.0])
def test_altitudes_of_flat_networks_are_in_the_covariance_and_found(sigma_m):
    """Drawn from what is said of them, far above receivers of one height: ellipses and altitudes are right."""
    count = 400
    rng = np.random.Generator(np.random.Philox(12))
    receivers, transmitter = ring(rng, count, 8)
    receivers = [45, 8] + (receivers - [45, 8]) / 2.5
    altitude_m = 9000 + sigma_m * rng.standard_normal(count)
    place = np.concatenate([transmitter, altitude_m[:, None]], axis=1)
    law = {"transmitter_altitude_m": 9000.0, "transmitter_altitude_sigma_m": sigma_m}
    dataset = measured(receivers, place, NOISE_S * rng.standard_normal((count, 8)), **law)
    found = hl.locate(dataset, "tdoa_ls")
    assert found.converged.mean() > 0.98
    level = position_errors(dataset, found).level.where(found.converged, drop=True).values
    for share in (0.68, 0.95):
        assert abs((level <= share).mean() - share) < 3 * np.sqrt(share * (1 - share) / len(level))
    squared = ((found.altitude_m - altitude_m) / found.altitude_sigma_m).where(found.converged) ** 2
    assert abs(float(squared.mean()) - 1) < 4 * np.sqrt(2 / count)


@pytest.mark.parametrize(
    ("altitude_m", "sigma_m", "message"),
    [
        (np.nan, 0.0, "altitude_m: nan is no altitude"),
        (9e3, -1.0, r"altitude_sigma_m: -1\.0 is no standard"),
        (None, 5.0, "is given without altitude_m"),
    ],
)
def test_what_is_no_altitude_is_refused(altitude_m, sigma_m, message):
    with pytest.raises(ValueError, match=message):
        hl.locate(scenes(1, 1), "tdoa_ls", altitude_m=altitude_m, altitude_sigma_m=sigma_m)


@pytest.mark.parametrize(("links", "checked"), [(3, "no"), (4, "weakly"), (5, "weakly"), (15, "yes")])
def test_how_far_a_fix_is_checked(links, checked):
    """By surplus, and by what a fault just below notice would do to it."""
    found = hl.locate(scenes(10, 20, links), "tdoa_ls")
    assert (found.checked == checked).mean() > 0.8
    inside = found.undetected_m < np.sqrt(stats.chi2(2).ppf(0.99) * found.covariance.values.max(axis=(1, 2)) * 2)
    assert inside[(found.checked == "yes").values].all()


def test_late_links_are_expected_where_that_is_said():
    """Three links in ten late by 2 µs in the mean: refused are no more than normal ones would be, tenfold."""
    rng = np.random.Generator(np.random.Philox(11))
    count, excess_s = 1000, 2e-6
    receivers, transmitter = ring(rng, count, 7)
    late = rng.uniform(size=(count, 7)) < 0.3
    delay_s = NOISE_S * rng.standard_normal((count, 7)) + late * rng.exponential(excess_s, (count, 7))
    law = {"nlos_ratio": 0.3, "nlos_excess_mean_s": excess_s, "path_delay_sigma_s": excess_s * np.sqrt(0.3 * 1.7)}
    found = hl.locate(measured(receivers, transmitter, delay_s, **law), "tdoa_ls")
    assert found.status.isin(["link", "misfit"]).sum() <= 2
