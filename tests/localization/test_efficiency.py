"""The estimators against the Cramér-Rao bound on 520 scenes, and what they must not depend on."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import heimdall_lab as hl
from heimdall_lab.datasets import schema
from heimdall_lab.localization import bounds, errors, estimators, leaderboard
from heimdall_lab.signals import pairs

METHODS = ("tdoa_ls", "tdoa_robust")
TRUTH = [name for name in schema.VARIABLES if name not in ("iq", "iq_full_scale") and not name.startswith("receiver_")]
FIX = ("latitude", "longitude", "east", "north", "covariance", "converged")


@pytest.fixture(scope="module")
def dataset():
    return hl.generate(hl.preset("los_sync", num_samples=524, seed=31), backend="numpy", progress=False)


@pytest.fixture(scope="module")
def usable(dataset):
    return dataset.isel(sample=np.flatnonzero(dataset.gdop.values < 5))


@pytest.fixture(scope="module")
def measured(usable):
    return pairs.pair_features(usable)


@pytest.fixture(scope="module")
def bound(usable):
    return bounds.scene_crlb(usable)


@pytest.fixture(scope="module", params=METHODS)
def fixes(request, usable, measured):
    return estimators.locate(usable.assign(measured), request.param)


@pytest.fixture(scope="module")
def few(dataset):
    """Six scenes to change."""
    return dataset.isel(sample=slice(0, 6))


@pytest.fixture(scope="module")
def measured_few(few):
    return pairs.pair_features(few)


@pytest.fixture(scope="module")
def fixes_of_few(few, measured_few):
    """Their fixes by every method."""
    return {method: hl.locate(few.assign(measured_few), method) for method in hl.methods()}


def assert_same_fixes(found: xr.Dataset, expected: xr.Dataset, within_m: float) -> None:
    assert np.array_equal(found.converged, expected.converged)
    for name in ("east", "north"):
        assert np.abs(found[name] - expected[name]).max() <= within_m
    scale_m2 = np.abs(expected.covariance).max(("axis", "other_axis"))
    assert (np.abs(found.covariance - expected.covariance) / scale_m2).max() < 1e-4


@pytest.mark.parametrize("statistic", ["each over its own bound", "all over all"])
def test_errors_are_those_of_the_bound(usable, fixes, bound, statistic):
    """At most 30 % above the bound, and below it by chance alone.

    Two statistics: the root mean square of each error over its own scene's bound, and the root mean square error over
    the root mean square bound, in which the worst scenes weigh most. The square of a normal error of covariance C has
    mean tr C and variance 2 tr C², from which the standard error follows; three of them may lie below 1.
    """
    assert usable.sizes["sample"] >= 500
    assert fixes.converged.all()
    squared_error = errors.position_errors(usable, fixes).error.values ** 2
    covariance = bound.crlb_covariance.values
    if statistic == "each over its own bound":
        scale = bound.crlb_rmse.values**2
        squared_error, covariance = squared_error / scale, covariance / scale[:, None, None]
    trace = np.trace(covariance, axis1=1, axis2=2)
    variance = 2 * (covariance**2).sum(axis=(1, 2))
    ratio = np.sqrt(squared_error.sum() / trace.sum())
    standard_error = np.sqrt(variance.sum()) / trace.sum() / 2
    assert standard_error < 0.1  # enough scenes for 30 % to be three of them
    assert 1 - 3 * standard_error < ratio < 1.3


def test_errors_are_measured_on_the_ellipsoid(usable, fixes):
    """Against the straight line between PROJ's ECEF positions: below 1 km the arc is longer by d³ / 24 R² < 1e-6 m."""
    pyproj = pytest.importorskip("pyproj")
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    zero = np.zeros(usable.sizes["sample"])
    fix = np.stack(to_ecef.transform(fixes.latitude.values, fixes.longitude.values, zero), axis=-1)
    truth = to_ecef.transform(usable.transmitter_latitude.values, usable.transmitter_longitude.values, zero)
    distance_m = np.linalg.norm(fix - np.stack(truth, axis=-1), axis=-1)
    found = errors.position_errors(usable, fixes)
    near = distance_m < 1000
    assert near.mean() > 0.9
    assert np.abs(found.error.values - distance_m)[near].max() < 1e-5
    vector = found.error_vector.transpose("sample", "axis").values
    assert np.linalg.norm(vector, axis=1) == pytest.approx(found.error.values)
    covariance = fixes.covariance.values
    squared = np.einsum("si,sij,sj->s", vector, np.linalg.inv(covariance), vector)
    assert found.mahalanobis_squared.values == pytest.approx(squared, rel=1e-6)


@pytest.mark.parametrize("level", [0.68, 0.95])
def test_ellipses_cover_what_they_say(usable, fixes, level):
    """Within three standard errors of a binomial share: 6.2 % at 68 %, 2.9 % at 95 %."""
    squared = errors.position_errors(usable, fixes).mahalanobis_squared
    inside = int((squared <= stats.chi2(2).ppf(level)).sum())
    number = usable.sizes["sample"]
    assert abs(inside - level * number) < 3 * np.sqrt(number * level * (1 - level))


def test_errors_have_no_preferred_direction(usable, fixes, bound):
    """The mean of the normalised errors is zero: each axis has unit variance at most, so 5 / sqrt(n) bounds it."""
    vector = errors.position_errors(usable, fixes).error_vector / bound.crlb_rmse
    assert np.abs(vector.mean("sample")).max() < 5 / usable.sizes["sample"] ** 0.5


@pytest.mark.parametrize("garbage", [np.nan, -12_345.6])
def test_truth_does_not_leak(few, measured_few, fixes_of_few, garbage):
    """Every variable that only the simulator knows is replaced; the fixes stay the same to the last bit."""
    blind = few.copy()
    for name in set(TRUTH) & set(few):
        values = few[name].values
        if values.dtype.kind == "f":
            replacement = np.full_like(values, garbage)
        elif values.dtype.kind == "b":
            replacement = np.logical_not(values)
        else:
            replacement = np.full_like(values, "noise")
        blind[name] = few[name].copy(data=replacement)
    for name in ("config", "seed", "title", "history"):
        blind.attrs[name] = ""
    assert {"transmitter_latitude", "clock_offset", "snr", "propagation_delay", "signal_present"} <= set(TRUTH)
    measured = pairs.pair_features(blind)
    assert measured.identical(measured_few)
    for method, expected in fixes_of_few.items():
        found = hl.locate(blind.assign(measured), method)
        for name in FIX:
            assert np.array_equal(found[name], expected[name]), (method, name)
    assert hl.locate(blind, "tdoa_ls").identical(fixes_of_few["tdoa_ls"])


@pytest.mark.slow
def test_order_and_padding_of_receivers_do_not_matter(few, fixes_of_few):
    """Sums in another order differ by rounding; the iteration ends at steps below 1e-3 m, which fixes may differ by."""
    order = np.array([4, 2, 6, 0, 5, 1, 3])
    permuted = few.isel(receiver=order).assign_coords(receiver=np.arange(7))
    absent = {"iq": 0, "receiver_present": False, "signal_present": False, "line_of_sight": False, "receiver_name": ""}
    fill = {name: absent.get(name, np.nan) for name in [*few.data_vars, "receiver_name"]}
    padded = few.reindex(receiver=np.arange(15), fill_value=fill)
    padded = padded.isel(receiver=[13, 4, 9, 2, 6, 7, 0, 5, 14, 1, 3, 8, 10, 11, 12])
    for scenes in (permuted, padded):
        moved = scenes.assign(pairs.pair_features(scenes))
        for method, expected in fixes_of_few.items():
            assert_same_fixes(hl.locate(moved, method), expected, 1e-3)


def test_fixes_do_not_depend_on_the_other_scenes(few, fixes_of_few):
    """All scenes of a batch iterate until the last one is at rest: again below 1e-3 m."""
    for rows in ([4], [5, 0, 3]):
        part = few.isel(sample=rows)
        alone = part.assign(pairs.pair_features(part))
        for method, expected in fixes_of_few.items():
            assert_same_fixes(hl.locate(alone, method), expected.isel(sample=rows), 1e-3)


def deafened(few: xr.Dataset, heard: list[list[int]]) -> xr.Dataset:
    """Scenes with noise instead of the signal at all receivers but some."""
    rng = np.random.Generator(np.random.Philox(1))
    deaf = few.isel(sample=slice(0, len(heard)))
    iq = deaf.iq.values.copy()
    noise = np.clip(rng.standard_normal(iq.shape) * 5800, -32767, 32767).astype(np.int16)
    for scene, kept in enumerate(heard):
        rest = np.setdiff1d(np.arange(7), kept)
        iq[scene, rest] = noise[scene, rest]
    return deaf.assign(iq=deaf.iq.copy(data=iq))


@pytest.mark.parametrize("heard", [[[2, 5], [3]], [[]]], ids=["two and one", "none"])
def test_fewer_than_three_receivers_are_no_fix(few, heard):
    """The centroid of those that hear the signal stands in, of all where none does, marked as not converged."""
    deaf = deafened(few, heard)
    measured = pairs.pair_features(deaf)
    assert [np.flatnonzero(row).tolist() for row in measured.heard.values] == heard
    centroid = hl.locate(deaf.assign(measured), "centroid")
    for scene, kept in enumerate(heard):
        for name in ("latitude", "longitude"):
            mean = deaf[f"receiver_{name}"].values[scene, kept or slice(None)].mean()
            assert float(centroid[name][scene]) == pytest.approx(mean)
    for method in METHODS:
        found = hl.locate(deaf.assign(measured), method)
        assert not found.converged.any()
        for name in ("latitude", "longitude", "east", "north", "covariance"):
            assert found[name].values == pytest.approx(centroid[name].values, rel=1e-12)


def test_the_strongest_receivers_late_clock_loses_no_delay_and_no_fix(few, measured_few):
    """100 µs, five samples, are more than baselines explain: all delays of its neighbours would be impossible else."""
    reference = measured_few.reference_receiver.values
    late = np.arange(few.sizes["receiver"]) == reference[:, None]
    iq = np.where(late[..., None, None], np.roll(few.iq.values, 5, axis=-1), few.iq.values)
    measured = pairs.pair_features(few.assign(iq=few.iq.copy(data=iq)))
    assert np.array_equal(measured.heard, measured_few.heard)
    shift_s = (measured.tdoa_s - measured_few.tdoa_s).values[(measured_few.heard & ~late).values]
    assert shift_s == pytest.approx(-100e-6, abs=3e-6)
    fixes = hl.locate(few.assign(measured), "tdoa_robust")
    without = bounds.scene_crlb(few.assign(signal_present=few.signal_present & ~late)).crlb_rmse
    assert fixes.converged.all()
    assert (errors.position_errors(few, fixes).error < 4 * without).all()


@pytest.mark.slow
def test_ellipses_and_bounds_know_of_blocked_links():
    """Excess delays are no normal variables, but their variance is known: ellipses hold what they say, or nearly.

    The normal law's bound is one of that variance, which least squares cannot beat; who knows more of the errors can.
    The genie's and the mixture's bounds none of them can, but by chance: within three standard errors of the mean of
    squared errors over bounds, of scenes whose bound is below 1/20 of the network's 120 km.
    """
    dataset = hl.generate(hl.preset("nlos_sync", num_samples=200, seed=11), progress=False)
    board = leaderboard.compare(dataset, METHODS)
    assert ((board.coverage_95 > 0.85) & (board.coverage_95 < 0.99)).all()
    plain, robust = board.rmse_over_crlb.values
    assert 0.8 < plain < 1.3
    assert robust < 0.9 * plain
    for law in ("genie", "mixture"):
        bound = board[f"crlb_rmse_{law}"]
        squared = ((board.error / bound) ** 2).isel(sample=np.flatnonzero(bound < 120e3 / 20))
        assert squared.sizes["sample"] > 150
        standard_error = squared.std("sample") / squared.sizes["sample"] ** 0.5
        assert (squared.mean("sample") > 1 - 3 * standard_error).all()
        ratio = np.sqrt(((board.error / bound) ** 2).mean("sample"))
        assert board[f"rmse_over_crlb_{law}"].values == pytest.approx(ratio.values)
