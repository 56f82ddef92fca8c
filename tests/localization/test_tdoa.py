"""Fixes of drawn time differences, without IQ: late paths, false delays, and two solutions."""

import numpy as np
import pytest
import xarray as xr
from measured_delays import NOISE_S, measured, ring
from scipy import special, stats

import heimdall_lab as hl
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import hyperbolic, observations
from heimdall_lab.localization.errors import position_errors
from heimdall_lab.signals.measurements import with_measurements
from heimdall_lab.simulation.synthesis import synthesize

pyproj = pytest.importorskip("pyproj")

EXCESS_S = 2e-6
RATIO = 0.3


def late_scenes(seed: int, scenes: int, links: int = 7, ratio: float = RATIO) -> xr.Dataset:
    """Receivers on a ring of about 40 km around the transmitter's surroundings, a share of them late."""
    rng = np.random.Generator(np.random.Philox(seed))
    receivers, transmitter = ring(rng, scenes, links)
    late = rng.uniform(size=(scenes, links)) < ratio
    delay_s = NOISE_S * rng.standard_normal((scenes, links)) + late * rng.exponential(EXCESS_S, (scenes, links))
    return measured(
        receivers,
        transmitter,
        delay_s,
        path_delay_sigma_s=EXCESS_S * np.sqrt(ratio * (2 - ratio)),
        nlos_ratio=ratio,
        nlos_excess_mean_s=EXCESS_S,
    )


@pytest.fixture(scope="module", params=[1, 2, 3])
def late(request):
    return late_scenes(request.param, 400)


@pytest.fixture(scope="module")
def robust_errors(late):
    return position_errors(late, hl.locate(late, "tdoa_robust"))


@pytest.mark.slow
def test_knowing_that_delays_are_late_halves_the_error(late, robust_errors):
    assert robust_errors.error.median() <= position_errors(late, hl.locate(late, "tdoa_ls")).error.median() / 2


@pytest.mark.slow
def test_the_covariance_is_that_of_the_errors(robust_errors):
    """Given its delays, a squared error over its covariance has a mean of 2, whatever the law: four standard errors."""
    squared = robust_errors.mahalanobis_squared.values
    assert abs(squared.mean() - 2) < 4 * squared.std() / np.sqrt(len(squared))


@pytest.mark.parametrize("ratio", [RATIO, pytest.param(1.0, marks=pytest.mark.slow)])
def test_mean_and_covariance_are_those_of_an_integral(ratio):
    """On a grid around the truth, summed over the offset too, with scipy's densities.

    Of 1024 points some 100 count at the least, and a tenth of a standard deviation is their standard error; variances
    of laws with several peaks have half as much again.
    """
    dataset = late_scenes(5, 6, ratio=ratio)
    found = hl.locate(dataset, "tdoa_robust")
    east, north, offset = np.meshgrid(*[np.linspace(-1200, 1200, 97)] * 2, np.linspace(-2500, 1000, 141), indexing="ij")
    noise_m, excess_m = NOISE_S * SPEED_OF_LIGHT, EXCESS_S * SPEED_OF_LIGHT
    late = stats.exponnorm(excess_m / noise_m, scale=noise_m)
    table = np.arange(-40e3, 40e3, 2.0)
    log_density = np.logaddexp(
        special.log1p(-ratio) + stats.norm(scale=noise_m).logpdf(table), np.log(ratio) + late.logpdf(table)
    ).clip(-60)  # odd errors are rare, not impossible
    for scene in range(6):
        row = dataset.isel(sample=scene)
        plane = pyproj.Proj(
            proj="aeqd", lat_0=float(row.transmitter_latitude), lon_0=float(row.transmitter_longitude), ellps="WGS84"
        )
        x, y = plane(row.receiver_longitude.values, row.receiver_latitude.values)
        log_sum = np.zeros(east.shape)
        for link in range(7):
            distance = np.hypot(east - x[link], north - y[link])
            residual = float(row.tdoa_s[link]) * SPEED_OF_LIGHT - distance + np.hypot(x[0], y[0]) - offset
            log_sum += np.interp(residual, table, log_density)
        weight = np.exp(log_sum - log_sum.max())
        weight /= weight.sum()
        mean = np.array([(weight * axis).sum() for axis in (east, north)])
        apart = np.stack([(east - mean[0]).ravel(), (north - mean[1]).ravel()])
        covariance = (apart * weight.ravel()) @ apart.T
        fix = np.array(plane(float(found.longitude[scene]), float(found.latitude[scene])))
        scale = np.sqrt(np.trace(covariance))
        assert np.linalg.norm(fix - mean) < 0.2 * scale
        assert found.covariance[scene].values / scale**2 == pytest.approx(covariance / scale**2, abs=0.3)


def test_a_share_of_links_that_are_late_by_nothing_changes_nothing():
    """As where a recording's reader is told the share, and not how late."""
    dataset = late_scenes(6, 5).assign_attrs(nlos_excess_mean_s=0.0)
    on_time = dataset.assign_attrs(nlos_ratio=0.0)
    xr.testing.assert_equal(hl.locate(dataset, "tdoa_robust"), hl.locate(on_time, "tdoa_robust"))


def one_false(delay_s: float) -> xr.Dataset:
    dataset = late_scenes(7, 40)
    receivers = np.stack([dataset.receiver_latitude, dataset.receiver_longitude], axis=-1)
    transmitter = np.stack([dataset.transmitter_latitude, dataset.transmitter_longitude], axis=-1)
    error_s = NOISE_S * np.random.Generator(np.random.Philox(8)).standard_normal(receivers.shape[:2])
    error_s[:, 2] += delay_s
    return measured(receivers, transmitter, error_s)


@pytest.mark.parametrize("delay_s", [50e-6, -50e-6])
def test_a_false_delay_is_told_or_told_apart(delay_s):
    """Least squares cannot leave it out, and says so; the robust one is as good as without it.

    Noise of 30 m on six receivers around leaves some 30 m of error: 300 m are ten times that.
    """
    dataset = one_false(delay_s)
    plain, robust = (hl.locate(dataset, method) for method in ("tdoa_ls", "tdoa_robust"))
    assert not plain.converged.any()
    assert robust.converged.mean() > 0.9
    assert position_errors(dataset, robust).error.where(robust.converged).max() < 300


@pytest.fixture(scope="module")
def two_solutions():
    """Three receivers, and a transmitter behind one of them: the hyperbolas meet twice, kilometres apart."""
    receivers = np.array([[[45.0, 8.0], [45.3, 8.05], [45.05, 8.4]]])
    return measured(receivers, np.array([[44.93, 7.93]]), np.zeros((1, 3)))


@pytest.mark.parametrize("method", ["tdoa_ls", "tdoa_robust"])
def test_two_solutions_are_no_fix(two_solutions, method):
    assert not hl.locate(two_solutions, method).converged.any()


@pytest.mark.parametrize("method", ["tdoa_ls", "tdoa_robust"])
def test_levels_decide_between_two_solutions(two_solutions, method):
    told = two_solutions.assign_attrs(link_sigma_db=1.0)
    fixes = hl.locate(told, method)
    assert fixes.converged.all()
    assert position_errors(told, fixes).error.max() < 1.0


def test_receivers_that_hear_nothing_change_nothing():
    """But for the last metre-thousandth, at which the iteration ends."""
    dataset = late_scenes(9, 5)
    silent = dataset.isel(receiver=[0, 3, 4]).copy()
    silent["heard"] = silent.heard.copy(data=np.zeros((5, 3), dtype=bool))
    silent["receiver_latitude"] = silent.receiver_latitude + 3
    more = xr.concat([silent, dataset], dim="receiver", data_vars="minimal")
    more["reference_receiver"] = dataset.reference_receiver + 3
    for method in ("tdoa_ls", "tdoa_robust"):
        alone, among = hl.locate(dataset, method), hl.locate(more, method)
        assert position_errors(dataset, among).error.values == pytest.approx(
            position_errors(dataset, alone).error.values, abs=2e-3
        )


def test_starts_do_not_depend_on_a_reference_that_is_left_out():
    """The closed form without the reference is that of the other receivers, however wrong its clock is."""
    rng = np.random.Generator(np.random.Philox(12))
    receivers, transmitter = ring(rng, 50, 6)
    delay_s = np.zeros((50, 6))
    delay_s[:, 0] = 60e-6
    known = observations.from_dataset(measured(receivers, transmitter, delay_s))
    others = np.arange(6) > 0
    start = hyperbolic.closed_form(known._replace(heard=known.heard & others))
    alone = observations.from_dataset(measured(receivers[:, 1:], transmitter, delay_s[:, 1:]))
    assert start == pytest.approx(hyperbolic.closed_form(alone), abs=1e-3)
    place = np.stack([transmitter] * 2, axis=1)
    assert np.abs(start - place).max(axis=2).min(axis=1) == pytest.approx(0, abs=1e-2)


def test_a_place_that_all_but_one_delay_agree_with_far_better_is_preferred():
    """The reference of this scene is 60 µs late: six delays meet by chance, just not refused, 13 km from the truth."""
    scene, _ = synthesize(hl.preset("los_sync", num_samples=300, seed=901), np.array([173]))
    scene = with_measurements(scene)
    others = scene.receiver != scene.reference_receiver
    late = scene.assign(tdoa_s=scene.tdoa_s - 60e-6 * others, heard=scene.heard & (scene.receiver != 3))
    whole = hl.locate(late, "tdoa_ls")
    assert whole.converged.all()
    assert (position_errors(late, whole).error > 10e3).all()
    found = hl.locate(late, "tdoa_robust")
    assert found.converged.all()
    assert (position_errors(late, found).level < 0.95).all()
