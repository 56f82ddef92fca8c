"""Errors of fixes against truths with errors of their own, and the statistics of fixes that converged."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import heimdall_lab as hl
from heimdall_lab.localization import errors, leaderboard

TRUTH_STD_M = 50.0


def fixes_about(dataset: xr.Dataset, error_m: np.ndarray, covariance: np.ndarray, converged: np.ndarray) -> xr.Dataset:
    """Fixes (S) of a method that errs by (S, 2) m east and north of the true positions near 45 degrees north."""
    north = np.radians(45.0)
    radius_m = 6_378_137.0 * (1 - 0.00669438 * np.sin(north) ** 2) ** -0.5  # of the ellipsoid, along the parallel
    meridian_m = radius_m * (1 - 0.00669438) / (1 - 0.00669438 * np.sin(north) ** 2)
    axes, sample = ["east", "north"], dataset.sample
    return xr.Dataset(
        {
            "latitude": dataset.transmitter_latitude + np.degrees(error_m[:, 1] / meridian_m),
            "longitude": dataset.transmitter_longitude + np.degrees(error_m[:, 0] / radius_m / np.cos(north)),
            "covariance": (("sample", "axis", "other_axis"), covariance),
            "freedom": ("sample", np.full(len(sample), np.inf)),
            "converged": ("sample", converged),
        },
        coords={"sample": sample, "axis": axes, "other_axis": axes},
    )


def scenes(count: int) -> xr.Dataset:
    """True positions at 45 degrees north, from numbers that are not those of their rows."""
    return xr.Dataset(
        {
            "transmitter_latitude": ("sample", np.full(count, 45.0)),
            "transmitter_longitude": ("sample", np.full(count, 8.0)),
        },
        coords={"sample": 3 + 2 * np.arange(count)},
    )


def with_std(dataset: xr.Dataset, std_m) -> xr.Dataset:
    return dataset.assign(
        transmitter_position_std=("sample", np.broadcast_to(std_m, dataset.sizes["sample"]) * 1.0, {"units": "m"})
    )


def test_a_fix_is_judged_with_the_error_of_the_truth():
    """Both covariances together, known ones alone; what it says of itself stays."""
    covariance = np.array([[400.0, 90.0], [90.0, 900.0]])
    error_m = np.array([[30.0, -40.0]] * 4)
    dataset = scenes(4)
    fixes = fixes_about(dataset, error_m, np.tile(covariance, (4, 1, 1)), np.ones(4, dtype=bool))
    given = fixes.copy(deep=True)
    found = errors.position_errors(with_std(dataset, [0.0, np.nan, 20.0, 1e3]), fixes)
    assert fixes.identical(given)
    for row, std_m in enumerate([0.0, 0.0, 20.0, 1e3]):
        law = stats.multivariate_normal(cov=covariance + std_m**2 * np.eye(2))
        squared = error_m[row] @ np.linalg.solve(law.cov, error_m[row])
        assert float(found.mahalanobis_squared[row]) == pytest.approx(squared, rel=1e-4)
        assert float(found.level[row]) == pytest.approx(1 - np.exp(-squared / 2), rel=1e-4)
        assert float(found.log_density[row]) == pytest.approx(law.logpdf(error_m[row]), rel=1e-4)
    plain = errors.position_errors(dataset, fixes)
    assert plain.isel(sample=[0, 1]).equals(found.isel(sample=[0, 1]))
    assert plain.error.equals(found.error)


def test_ellipses_are_honest_about_labels_that_are_not_exact():
    """Fixes that err by 20 m, against labels that err by 50 m: 95 % of them are inside, where that is said."""
    count = 4000
    rng = np.random.Generator(np.random.Philox(7))
    dataset = scenes(count)
    error_m = rng.normal(0, 20, (count, 2)) - rng.normal(0, TRUTH_STD_M, (count, 2))
    fixes = fixes_about(dataset, error_m, np.tile(400 * np.eye(2), (count, 1, 1)), np.ones(count, dtype=bool))
    bound = xr.DataArray(np.ones(count), {"sample": dataset.sample})

    def statistics(truth):
        return errors.error_statistics(fixes.merge(errors.position_errors(truth, fixes)), bound)

    silent, said = statistics(dataset), statistics(with_std(dataset, TRUTH_STD_M))
    assert silent.coverage_95 < 0.5
    assert silent.silently_wrong > 0.4
    # Standard deviations of these shares of 4,000: 0.0034 and 0.0016; of the mean log density, 1 / sqrt(4000) = 0.016.
    assert float(said.coverage_95) == pytest.approx(0.95, abs=0.014)
    assert float(said.silently_wrong) == pytest.approx(0.01, abs=0.0064)
    assert float(said.nll) == pytest.approx(1 + np.log(2 * np.pi * (400 + TRUTH_STD_M**2)), abs=0.064)


@pytest.mark.parametrize("method", ["centroid", "strongest", "rss_ml", "tdoa_ls", "tdoa_robust", "dpd"])
def test_fixes_know_nothing_of_the_error_of_the_truth(small_dataset, method):
    """The same fixes, bit by bit."""
    few = small_dataset.isel(sample=slice(4))
    assert hl.locate(with_std(few, 500.0), method).identical(hl.locate(few, method))


def converged_and_not() -> tuple[xr.Dataset, xr.DataArray]:
    """Ten fixes of σ = 10 m: six that converged with errors of 5 to 40 m north, four that did not, 1 km off."""
    north_m = np.array([5.0, 10.0, 15.0, 20.0, 31.0, 40.0, *[1e3] * 4])  # 99 % is 30.3 m, 95 % 24.5 m, 68 % 15.1 m
    dataset = scenes(10)
    error_m = np.stack([np.zeros(10), north_m], axis=1)
    fixes = fixes_about(dataset, error_m, np.tile(100 * np.eye(2), (10, 1, 1)), np.arange(10) < 6)
    bound = xr.DataArray(np.full(10, 10.0), {"sample": dataset.sample})
    return fixes.merge(errors.position_errors(dataset, fixes)), bound


def test_statistics_over_those_that_converged():
    found = errors.error_statistics(*converged_and_not())
    expected = {
        "median_error_converged": 17.5,
        "rmse_over_crlb_converged": np.sqrt(np.mean(np.square([0.5, 1.0, 1.5, 2.0, 3.1, 4.0]))),
        "coverage_68_converged": 3 / 6,
        "coverage_95_converged": 4 / 6,
        "silently_wrong": 2 / 6,
        "failures": 0.4,
        "coverage_95": 0.4,
    }
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected, rel=1e-4)
    assert found.median_error > 30
    assert {name: found[name].units for name in expected} == dict.fromkeys(expected, "1") | {
        "median_error_converged": "m"
    }


def test_statistics_of_none_that_converged_are_unknown():
    each, bound = converged_and_not()
    found = errors.error_statistics(each.isel(sample=slice(6, None)), bound[6:])
    names = [name for name in found if str(name).endswith("_converged")]
    assert len(names) == 4
    for name in (*names, "silently_wrong"):
        assert np.isnan(found[name]), name
    assert found.failures == 1
    assert found.median_error == pytest.approx(1e3, rel=1e-4)


def test_the_board_shows_who_is_silently_wrong(small_dataset, tmp_path):
    """In its files, its bins and what people read: against labels 110 km off, unless these are said to be rough."""
    moved = small_dataset.assign(transmitter_latitude=small_dataset.transmitter_latitude + 1.0)
    board = hl.compare(moved, ["tdoa_ls", "centroid"])
    assert float(board.silently_wrong.sel({"method": "tdoa_ls"})) > 0.9
    rough = hl.compare(with_std(moved, 110e3), ["tdoa_ls"])
    assert rough.silently_wrong.item() == 0
    assert board.silently_wrong.dims == ("method",)
    assert board.silently_wrong_by_snr.dims == ("method", "snr_bin")
    leaderboard.save(board, tmp_path)
    header = (tmp_path / "leaderboard.csv").read_text().splitlines()[0].split(",")
    for name in ("silently_wrong", "rmse_over_crlb_converged", "median_error_converged", "coverage_68_converged"):
        assert name in header
    row = leaderboard.leaderboard_table(board).loc["tdoa_ls"]
    chosen = board.sel({"method": "tdoa_ls"})
    assert row.silently_wrong_percent == 100 * float(chosen.silently_wrong)
    assert row.rmse_over_crlb_converged == float(chosen.rmse_over_crlb_converged)
    cells = leaderboard.leaderboard_cells(leaderboard.leaderboard_table(board))
    assert cells["wrong"]["tdoa_ls"] == f"{row.silently_wrong_percent:.0f} %"
    assert {"wrong", "when found"} <= set(leaderboard.MEANINGS)
