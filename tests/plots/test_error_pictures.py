"""Pictures of errors: shares, levels and places are those of the leaderboard, each method in its style."""

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from bokeh.models import ColorBar, LogColorMapper
from pictures import axis_labels, columns, layers, without_truth

from heimdall_lab import plots
from heimdall_lab.localization import error_law
from heimdall_lab.plots import errors


def test_error_cdf_is_the_share_of_smaller_errors(board: xr.Dataset) -> None:
    picture = plots.error_cdf(board)
    error, share = columns(layers(picture, hv.Curve, "tdoa_ls")[0]).T
    expected = board.error.sel({"method": "tdoa_ls"}).values
    np.testing.assert_allclose(share, [100 * (expected <= e).mean() for e in error])
    assert len(picture) == board.sizes["method"] + 1


def test_samples_of_unknown_truth_are_not_in_the_shares(board: xr.Dataset) -> None:
    known = board.sample != board.sample[2]
    partly, alone = (
        plots.error_cdf(board.assign(error=board.error.where(known))),
        plots.error_cdf(board.isel(sample=known)),
    )
    for drawn, expected in zip(layers(partly, hv.Curve)[:-1], layers(alone, hv.Curve)[:-1], strict=True):
        np.testing.assert_array_equal(columns(drawn), columns(expected))


def test_bounds_are_drawn_by_the_laws_that_the_board_has(board: xr.Dataset) -> None:
    """The normal one alone; where links are late, the genie's and the mixture's in its place."""
    late = board.assign(
        crlb_covariance_genie=4 * board.crlb_covariance, crlb_covariance_mixture=9 * board.crlb_covariance
    )
    names = [f"at the bound ({law})" for law in ("normal law", "genie's law", "mixture's law")]
    for draw in (plots.error_cdf, lambda each: plots.error_by_bin(each, "receivers")):
        normal, *others = (layers(draw(each), hv.Curve, "bound") for each in (board, late))
        assert [curve.label for curve in normal] == names[:1]
        (others,) = others
        assert [curve.label for curve in others] == names[1:]
    error_m = normal[0].dimension_values("error_m")
    for curve, factor in zip(others, (2, 3), strict=True):
        assert curve.dimension_values("error_m") == pytest.approx(factor * error_m, rel=1e-6)


def test_cdf_at_the_bound_is_that_of_normal_errors() -> None:
    covariance = np.array([[[400.0, 150.0], [150.0, 100.0]], [[9e4, 0.0], [0.0, 100.0]], np.full((2, 2), np.nan)])
    error, share = columns(errors._bound_cdf(covariance, "at the bound")).T
    rng = np.random.Generator(np.random.Philox(1))
    drawn = np.concatenate([np.hypot(*rng.multivariate_normal(np.zeros(2), c, 100_000).T) for c in covariance[:2]])
    np.testing.assert_allclose(share, [100 * (drawn <= e).mean() for e in error], atol=0.5)


def test_calibration_is_the_share_inside_ellipses_of_each_level(board: xr.Dataset) -> None:
    picture = plots.calibration(board)
    level, inside = columns(layers(picture, hv.Curve, "rss_ml")[0]).T
    for percent, column in ((68, "coverage_68"), (95, "coverage_95")):
        assert inside[np.isclose(level, percent)].item() == pytest.approx(
            100 * board[column].sel({"method": "rss_ml"}).item()
        )
    assert len(layers(picture, hv.Curve)) == board.sizes["method"] + 1


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0.95), (2.0, 0.0)])
def test_the_band_holds_honest_ellipses_in_95_of_100_cases(factor: float, expected: float) -> None:
    """100 methods, whose squared errors are χ² of two degrees of freedom, or twice that; within 3 deviations."""
    squared = factor * np.random.Generator(np.random.Philox(6)).chisquare(2, (100, 2000))
    dims, names = ("method", "sample"), [f"method {number}" for number in range(100)]
    many = xr.Dataset({"level": (dims, error_law.level(squared)), "error": (dims, squared)}, {"method": names})
    picture = plots.calibration(many)
    (band,) = layers(picture, hv.Area)
    middle = np.flatnonzero(band.dimension_values("level") == 50).item()
    low, high = band.dimension_values(1)[middle], band.dimension_values(2)[middle]
    inside = np.array([columns(curve)[middle, 1] for curve in layers(picture, hv.Curve, "method")])
    assert ((inside >= low) & (inside <= high)).mean() == pytest.approx(expected, abs=3 * np.sqrt(0.95 * 0.05 / 100))


def test_error_map_has_every_true_position_and_its_error(dataset: xr.Dataset, board: xr.Dataset) -> None:
    failed = board.assign(converged=board.converged & (board.sample != 2))
    picture = plots.error_map(dataset, failed, "tdoa_ls")
    (fixes,), (crosses,) = (
        [points for points in layers(picture, hv.Points) if points.label == label] for label in ("fix", "no fix")
    )
    assert len(fixes) == 4
    assert list(crosses.dimension_values("sample")) == [2]
    for points in (fixes, crosses):
        scenes = dataset.sel(sample=points.dimension_values("sample"))
        truth = np.stack([scenes.transmitter_longitude, scenes.transmitter_latitude], axis=-1)
        np.testing.assert_array_equal(columns(points), truth)
        error = board.error.sel({"method": "tdoa_ls", "sample": scenes.sample})
        np.testing.assert_array_equal(points.dimension_values("error_m"), error)
    (mapper,) = {bar.color_mapper for bar in hv.renderer("bokeh").get_plot(picture).state.select({"type": ColorBar})}
    assert isinstance(mapper, LogColorMapper)
    assert len(layers(picture, hv.Points, "receiver")[0]) == 7


def test_error_map_leaves_out_receivers_that_move(dataset: xr.Dataset, board: xr.Dataset) -> None:
    moved = dataset.assign(receiver_latitude=dataset.receiver_latitude + 0.01 * dataset.sample)
    assert not layers(plots.error_map(moved, board, "tdoa_ls"), hv.Points, "receiver")


def test_error_map_says_what_it_cannot_draw(dataset: xr.Dataset, board: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="method: 'best' is not on the board; choose one of centroid, "):
        plots.error_map(dataset, board, "best")
    with pytest.raises(ValueError, match="transmitter_latitude: is unknown in every sample"):
        plots.error_map(without_truth(dataset), board, "tdoa_ls")


def test_lines_of_trained_methods_are_broken(board: xr.Dataset) -> None:
    renamed = board.isel(method=[0, 1]).assign_coords(method=["tdoa_ls", "triangulation"])
    for draw in (plots.error_cdf, plots.calibration):
        dashes = {
            curve.label: curve.opts.get("style").kwargs.get("line_dash") for curve in layers(draw(renamed), hv.Curve)
        }
        assert (dashes["tdoa_ls"], dashes["triangulation"]) == ("solid", "dotdash")


def test_methods_have_different_and_lasting_colours() -> None:
    names = ["triangulation", "tdoa_ls", "iq_resnet18", "iq_vggnet", "tdoa_unrolled"]
    styles = plots.method_styles(names)
    assert len(set(styles.values())) == len(names)
    assert plots.method_styles(["tdoa_ls"])["tdoa_ls"] == styles["tdoa_ls"]


def test_a_trained_method_has_the_style_of_its_architecture_unless_that_is_on_the_board() -> None:
    of_architecture = plots.method_styles(["triangulation"])["triangulation"]
    assert plots.method_styles(["triangulation_websdr"])["triangulation_websdr"] == of_architecture
    both = plots.method_styles(["triangulation_websdr", "triangulation"])
    assert both["triangulation"] == of_architecture != both["triangulation_websdr"]


def test_axes_of_errors_have_units(dataset: xr.Dataset, board: xr.Dataset) -> None:
    assert axis_labels(plots.calibration(board)) == {"level of the ellipse (%)", "true positions inside (%)"}
    assert axis_labels(plots.error_map(dataset, board, "tdoa_ls")) == {"longitude (°)", "latitude (°)"}
    assert axis_labels(plots.error_cdf(board)) == {"error (m)", "share of samples (%)"}
