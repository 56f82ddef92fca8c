"""Pictures and report: what is drawn is what was measured and what is true, and it is labelled."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import bokeh
import holoviews as hv
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from bokeh.models import ColorBar, LogColorMapper, Plot

import heimdall_lab as hl
from heimdall_lab import plots
from heimdall_lab.core import geodesy
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import bounds, error_law
from heimdall_lab.localization.leaderboard import leaderboard_table, leaderboard_text
from heimdall_lab.plots import errors
from heimdall_lab.plots.labels import place_labels
from heimdall_lab.plots.network import colour_limits
from heimdall_lab.report.page import _representative, write_report
from heimdall_lab.signals import pairs
from heimdall_lab.simulation import coverage

UNKNOWN = ("transmitter_latitude", "transmitter_longitude", "propagation_delay", "excess_delay", "clock_offset")


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    return hl.generate(hl.preset("iq_test", num_samples=5, seed=4), progress=False)


@pytest.fixture(scope="module")
def measured(dataset: xr.Dataset) -> xr.Dataset:
    return pairs.pair_features(dataset)


@pytest.fixture(scope="module")
def board(dataset: xr.Dataset) -> xr.Dataset:
    return hl.compare(dataset)


@pytest.fixture(scope="module")
def page(dataset: xr.Dataset, board: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(dataset, board, path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def without_truth(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign({name: dataset[name] * np.nan for name in UNKNOWN})


def layers(overlay: hv.Overlay, kind: type, label: str = "") -> list[hv.Element]:
    return [layer for layer in overlay if type(layer) is kind and label in layer.label]


def columns(element: hv.Element) -> np.ndarray:
    return np.stack([element.dimension_values(d) for d in range(2)], axis=-1)


def axis_labels(picture: hv.Element | hv.Layout) -> set[str]:
    """All axis labels, None and hidden ones left out."""
    root = hv.renderer("bokeh").get_plot(picture).state
    figures = root.select({"type": Plot})
    return {axis.axis_label for figure in figures for axis in [*figure.below, *figure.left] if axis.visible} - {""}


def distances_m(dataset: xr.Dataset, sample: int, latitude: float, longitude: float) -> np.ndarray:
    scene = dataset.sel(sample=sample)
    return geodesy.geodesic(
        np.full(dataset.sizes["receiver"], latitude),
        longitude,
        scene.receiver_latitude.values,
        scene.receiver_longitude.values,
    )[0]


def test_scene_map_distances_are_those_on_the_ellipsoid(dataset: xr.Dataset, board: xr.Dataset) -> None:
    picture = plots.scene_map(dataset, 2, board)
    receivers = np.concatenate([columns(points) for points in layers(picture, hv.Points, "receiver")])
    transmitter = columns(layers(picture, hv.Points, "transmitter")[0])
    scene = dataset.sel(sample=2)
    truth = distances_m(dataset, 2, scene.transmitter_latitude.item(), scene.transmitter_longitude.item())
    drawn = np.hypot(*(receivers - transmitter).T) * 1e3
    # a plane at altitude 0 against geodesics: altitudes stretch by h/R ≤ 1e-4, the tangent foreshortens by d²/6R²
    np.testing.assert_allclose(np.sort(drawn), np.sort(truth), rtol=2e-4)
    for method in board.method.values:
        east_north = board[["east", "north"]].sel({"method": method, "sample": 2}).to_array().values
        np.testing.assert_allclose(columns(layers(picture, hv.Points, f"{method}:")[0])[0], east_north / 1e3, atol=1e-3)


def test_scene_map_shows_who_hears_the_signal(dataset: xr.Dataset) -> None:
    deaf = dataset.assign(signal_present=dataset.signal_present & (dataset.receiver != 3))
    picture = plots.scene_map(deaf, 0)
    (hollow,) = layers(picture, hv.Points, "receiver without signal")
    (filled,) = layers(picture, hv.Points, "receiver with signal")
    assert list(hollow.dimension_values("receiver")) == ["Coazze"]
    assert len(filled) == 6
    names = {name.strip() for labels in layers(picture, hv.Labels) for name in labels.dimension_values("name")}
    assert names == set(dataset.receiver_name.values)


def test_scene_map_leaves_out_what_is_unknown_or_absent(dataset: xr.Dataset) -> None:
    absent = dataset.receiver != 0
    positions = {name: dataset[name].where(absent) for name in dataset if str(name).startswith("receiver_l")}
    fewer = without_truth(dataset).assign(receiver_present=dataset.receiver_present & absent, **positions)
    picture = plots.scene_map(fewer, 0, hl.locate(fewer, "centroid"))
    assert not layers(picture, hv.Points, "transmitter")
    assert len(layers(picture, hv.Points, "receiver with signal")[0]) == 6
    assert len(layers(picture, hv.Points, "centroid")) == 1


def test_scene_map_view_ignores_huge_ellipses(dataset: xr.Dataset, board: xr.Dataset) -> None:
    limits = [
        plots.scene_map(dataset, 1, board.assign(covariance=board.covariance * scale)).opts.get("plot").kwargs["xlim"]
        for scale in (1.0, 1e6)
    ]
    assert limits[0] == limits[1]
    assert limits[0][1] - limits[0][0] < 600


def test_fix_map_ellipse_has_the_covariance_of_the_fix(dataset: xr.Dataset, board: xr.Dataset) -> None:
    picture = plots.fix_map(dataset, 2, board)
    (dimension, _) = layers(picture, hv.Points, "tdoa_ls")[0].kdims
    scale = {"m": 1.0, "km": 1e3}[dimension.unit]
    covariance = board.covariance.sel({"method": "tdoa_ls", "sample": 2}).values
    centre = columns(layers(picture, hv.Points, "tdoa_ls")[0])[0]
    ellipse = (columns(layers(picture, hv.Curve, "tdoa_ls")[0]) - centre) * scale
    squared = (ellipse @ np.linalg.inv(covariance) * ellipse).sum(axis=1)
    np.testing.assert_allclose(squared, -2 * np.log(0.05), rtol=1e-2)
    assert np.hypot(*centre) * scale == pytest.approx(
        board.error.sel({"method": "tdoa_ls", "sample": 2}).item(), rel=2e-4, abs=0.05
    )
    bound = columns(layers(picture, hv.Curve, "Cramér-Rao")[0]) * scale
    np.testing.assert_allclose(bound, bounds.ellipse(board.crlb_covariance.sel(sample=2).values), atol=1e-6)


def test_fix_map_says_which_fixes_lie_outside(dataset: xr.Dataset, board: xr.Dataset) -> None:
    picture = plots.fix_map(dataset, 2, board)
    limits = picture.opts.get("plot").kwargs
    for points in layers(picture, hv.Points, "off"):
        inside = all(
            low < v < high for v, (low, high) in zip(columns(points)[0], (limits["xlim"], limits["ylim"]), strict=True)
        )
        assert inside != ("(outside)" in points.label)
    assert layers(picture, hv.Points, "(outside)")


def test_fix_map_without_truth_is_around_the_surest_fix(dataset: xr.Dataset) -> None:
    fixes = hl.locate(dataset, "tdoa_ls")
    picture = plots.fix_map(without_truth(dataset), 1, fixes)
    np.testing.assert_allclose(columns(layers(picture, hv.Points, "tdoa_ls")[0]), 0, atol=1e-6)
    assert "fix of tdoa_ls" in picture.opts.get("plot").kwargs["title"]


def test_failed_fixes_are_named(dataset: xr.Dataset, board: xr.Dataset) -> None:
    failed = board.assign(converged=board.converged & (board.method != "tdoa_ls"))
    (points,) = layers(plots.scene_map(dataset, 0, failed), hv.Points, "(failed)")
    assert points.label.startswith("tdoa_ls")


def test_correlation_peaks_where_measured_and_truth_is_drawn(dataset: xr.Dataset, measured: xr.Dataset) -> None:
    panels = plots.cross_correlations(dataset, 3, measured)
    scene, pairs = dataset.sel(sample=3), measured.sel(sample=3)
    reference = pairs.reference.item()
    arrival = (scene.propagation_delay + scene.excess_delay + scene.clock_offset).values
    others = [r for r in range(7) if r != reference]
    assert len(panels) == len(others)
    for panel, receiver in zip(panels, others, strict=True):
        lines = {line.label: line.data for line in panel if type(line) is hv.VLine}
        assert lines["true delay"] == pytest.approx((arrival[receiver] - arrival[reference]) * 1e6)
        assert lines["measured delay"] == pytest.approx(pairs.tdoa_s.values[receiver] * 1e6)
        (curve,) = layers(panel, hv.Curve)
        lag, magnitude = columns(curve).T
        step = lag[1] - lag[0]
        assert abs(lag[magnitude.argmax()] - lines["measured delay"]) <= max(step, 1.0)
        assert magnitude.max() == pytest.approx(np.sqrt(pairs.coherence.values[receiver]), abs=0.02)


def test_correlation_without_truth_has_only_the_measured_line(dataset: xr.Dataset, measured: xr.Dataset) -> None:
    for panel in plots.cross_correlations(without_truth(dataset), 0, measured):
        assert [line.label for line in panel if type(line) is hv.VLine] == ["measured delay"]


def test_correlation_without_a_peak_says_so(dataset: xr.Dataset, measured: xr.Dataset) -> None:
    lost = measured.assign(tdoa_s=measured.tdoa_s.where(measured.tdoa_s == 0))
    for panel in plots.cross_correlations(dataset, 0, lost):
        assert [line.label for line in panel if type(line) is hv.VLine] == ["true delay"]
        assert panel.opts.get("plot").kwargs["title"].endswith("no peak")


def test_spectrogram_holds_the_power(dataset: xr.Dataset) -> None:
    panels = plots.spectrograms(dataset, 1)
    power = (np.abs(hl.iq(dataset).sel(sample=1).values) ** 2).mean(axis=-1)
    for image, expected in zip(panels, power, strict=True):
        frequency = image.dimension_values("frequency_khz", expanded=False)
        density = 10 ** (image.dimension_values("density", flat=False) / 10)
        total = density.mean(axis=1).sum() * (frequency[1] - frequency[0]) * 1e3
        assert total == pytest.approx(expected, rel=0.1)


def test_long_recordings_make_small_pictures(dataset: xr.Dataset) -> None:
    scene = dataset.isel(sample=[0], receiver=slice(0, 3))
    long = xr.concat(
        [scene] * 20, dim="time", data_vars="minimal", coords="minimal", compat="override", join="override"
    )
    long = long.assign_coords(time=np.arange(long.sizes["time"]) / long.attrs["sample_rate_hz"])
    assert all(len(image.dimension_values("time_s", expanded=False)) <= 120 for image in plots.spectrograms(long, 0))
    for panel in plots.envelopes(long, 0):
        assert len(panel.Curve.I) <= 400


def test_envelope_is_the_received_power(dataset: xr.Dataset) -> None:
    power = (np.abs(hl.iq(dataset).sel(sample=0).values) ** 2).mean(axis=-1)
    for panel, expected in zip(plots.envelopes(dataset, 0), power, strict=True):
        mean = (10 ** (panel.Curve.I.dimension_values("power") / 10)).mean()
        assert mean == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("propagation", ["line_of_sight", "ground_wave"])
def test_hyperbolas_are_where_the_time_difference_is_the_measured_one(
    dataset: xr.Dataset, measured: xr.Dataset, propagation: str
) -> None:
    scene = dataset.assign_attrs(propagation=propagation)
    picture = plots.hyperbolas(scene, 0, measured)
    reference = measured.reference.sel(sample=0).item()
    lines = layers(picture, hv.Curve)
    assert len(lines) == int(measured.heard.sel(sample=0).sum()) - 1
    names = list(dataset.receiver_name.values)
    for line in lines:
        receiver = names.index(line.label.split(" − ")[0])
        points = columns(line)
        for longitude, latitude in points[np.isfinite(points).all(axis=1)][::40]:
            ranges = distances_m(dataset, 0, latitude, longitude)
            tdoa_s = (ranges[receiver] - ranges[reference]) / SPEED_OF_LIGHT
            # altitudes and the linear interpolation of the contour on a grid of about 1 km
            assert tdoa_s == pytest.approx(measured.tdoa_s.sel(sample=0).values[receiver], abs=1e-6)


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


def test_ideal_cdf_is_that_of_normal_errors() -> None:
    covariance = np.array([[[400.0, 150.0], [150.0, 100.0]], [[9e4, 0.0], [0.0, 100.0]], np.full((2, 2), np.nan)])
    error, share = columns(errors._ideal_cdf(covariance)).T
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
    (fixes,), (crosses,) = layers(picture, hv.Points, "fix"), layers(picture, hv.Points, "failed")
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


def test_axes_have_units(dataset: xr.Dataset, measured: xr.Dataset, board: xr.Dataset) -> None:
    assert axis_labels(plots.scene_map(dataset, 0, board)) == {"east (km)", "north (km)"}
    assert axis_labels(plots.fix_map(dataset, 0, board)) in ({"east (m)", "north (m)"}, {"east (km)", "north (km)"})
    assert axis_labels(plots.hyperbolas(dataset, 0, measured)) == {"longitude (°)", "latitude (°)"}
    assert axis_labels(plots.cross_correlations(dataset, 0, measured)) == {"lag (µs)", "magnitude"}
    assert axis_labels(plots.spectrograms(dataset, 0)) == {"time (ms)", "frequency (kHz)"}
    assert axis_labels(plots.envelopes(dataset, 0)) == {"time (ms)", "power (dBm)"}
    assert axis_labels(plots.calibration(board)) == {"level of the ellipse (%)", "true positions inside (%)"}
    assert axis_labels(plots.error_map(dataset, board, "tdoa_ls")) == {"longitude (°)", "latitude (°)"}
    assert axis_labels(plots.error_cdf(board)) == {"error (m)", "share of samples (%)"}


def test_unknown_sample_is_refused(dataset: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"sample: 99 is not in the dataset; choose one of its labels, 0 … 4"):
        plots.scene_map(dataset, 99)


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


def test_names_beside_receivers_do_not_overlap() -> None:
    place = np.array([[0.0, 0.0], [0.5, 0.4], [30.0, 0.0]])
    labels = place_labels(place, ["Aquila di Giaveno", "Coazze", "Torino"], (-60.0, 60.0))
    assert labels[0][3] != labels[1][3]
    text_height = 14 * 120 / 700  # in map units
    above = np.array([[0.0, 0.0], [0.0, 0.8 * text_height]])
    labels = place_labels(above, ["Torino", "Genova"], (-60.0, 60.0))
    assert labels[0][3] != labels[1][3]


def test_leaderboard_table_holds_the_statistics(board: xr.Dataset) -> None:
    table = leaderboard_table(board)
    assert list(table.median_error_m) == sorted(table.median_error_m)
    row = board.sel({"method": "tdoa_ls"})
    assert table.rmse_m["tdoa_ls"] == row.rmse.item()
    assert table.coverage_68_percent["tdoa_ls"] == 100 * row.coverage_68.item()
    assert table.latency_ms["tdoa_ls"] == 1e3 * row.latency.item()
    assert isinstance(table, pd.DataFrame)


def test_leaderboard_text_is_aligned(board: xr.Dataset) -> None:
    lines = leaderboard_text(board).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 120 - len("tdoa_unrolled_nlos_sync") + len("tdoa_robust")
    assert {line.split()[0] for line in lines[2:]} == set(board.method.values)


def test_leaderboard_text_shows_unknown_as_a_dash(board: xr.Dataset) -> None:
    text = leaderboard_text(board.assign(rmse_over_crlb=board.rmse_over_crlb * np.nan))
    assert all("–" in line for line in text.splitlines()[2:])


class References(HTMLParser):
    """Collects what a page would load, and the text of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]


def test_report_needs_no_network(page: str) -> None:
    references = References()
    references.feed(page)
    assert references.loaded == []
    assert "link" not in references.tags
    assert not re.search(r"@import|url\(", page.split("</style>")[0])
    library = Path(bokeh.__file__).parent / "server" / "static" / "js"
    for name in ("bokeh.min.js", "bokeh-widgets.min.js"):
        assert (library / name).read_text(encoding="utf-8").strip() in page
    assert len(page.encode()) < 6e6


def test_report_shows_every_method_and_picture(page: str, board: xr.Dataset) -> None:
    table = leaderboard_table(board)
    rows = re.findall(r"<tr><td>(.*?)</tr>", page)
    for method, median in table.median_error_m.items():
        assert any(f"{method}</td><td>{plots.length_text(median)}</td>" in row for row in rows)
    figures = re.findall(r'<figure id="figure-([a-z-]+)">', page)
    of_all = ["error-cdf", "calibration", "error-map"]
    assert figures == [*of_all, "scene-map", "fix-map", "cross-correlations", "spectrograms", "envelopes"]
    assert "disciplined by GPS" in page
    assert "Aquila di Giaveno" in page


def test_report_shows_the_median_sample(page: str, board: xr.Dataset) -> None:
    method, sample = _representative(board)
    errors = board.error.sel({"method": method})
    assert errors.sel(sample=sample) == errors.median()
    assert f"sample {sample}</h2>" in page


def test_report_is_the_same_every_time(page: str, dataset: xr.Dataset, board: xr.Dataset, tmp_path: Path) -> None:
    write_report(dataset, board, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_report_that_cannot_be_written_leaves_the_old_file(
    dataset: xr.Dataset, board: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text[:1000].encode(encoding))
        raise OSError("no space left on device")

    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="no space left"):
        write_report(dataset, board, path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("length_m", "text"), [(0.0, "0.00 m"), (999.6, "1.00 km"), (12345.0, "12.3 km"), (1.5e6, "1,500 km")]
)
def test_lengths_have_three_digits(length_m: float, text: str) -> None:
    assert plots.length_text(length_m) == text


@pytest.fixture(scope="module")
def bound() -> xr.Dataset:
    config = hl.preset("iq_test")
    return coverage.bound_map(config, *coverage.grid_deg(config, 14), coverage.Transmitter(power_dbm=0.0))


@pytest.mark.parametrize(("variable", "unit"), [("gdop", ""), ("crlb_rmse", ", m"), ("cep50", ", m")])
def test_bound_map_shows_the_values_on_a_logarithmic_scale(bound: xr.Dataset, variable: str, unit: str) -> None:
    picture = plots.bound_map(bound, variable)
    (image,) = layers(picture, hv.Image)
    drawn = image.dimension_values(variable, flat=False)
    np.testing.assert_array_equal(drawn, bound[variable].values)
    assert np.isnan(drawn).any()
    (bar,) = hv.renderer("bokeh").get_plot(picture).state.select({"type": ColorBar})
    assert isinstance(bar.color_mapper, LogColorMapper)
    assert bar.title.endswith(unit)
    assert len(bar.ticker.ticks) >= 3
    assert axis_labels(picture) == {"longitude (°)", "latitude (°)"}
    (receivers,) = layers(picture, hv.Points)
    place = np.stack([bound.receiver_longitude, bound.receiver_latitude], axis=-1)
    np.testing.assert_array_equal(columns(receivers), place)


def test_bound_ellipses_are_enlarged_as_the_title_says() -> None:
    config = hl.preset("iq_test")
    bound = coverage.bound_map(config, *coverage.grid_deg(config, 14))
    picture = plots.bound_ellipses(bound)
    enlarged = float(re.search(r"enlarged ([\d.]+) times", picture.opts.get("plot").kwargs["title"])[1])
    (paths,) = layers(picture, hv.Path)
    assert 5 < len(paths.split()) < 49
    for path in paths.split():
        outline = path.array()
        centre = (outline.min(axis=0) + outline.max(axis=0)) / 2
        point = bound.sel(longitude=centre[0], latitude=centre[1], method="nearest")
        across = geodesy.geodesic(centre[1], outline[:, 0].min(), centre[1], outline[:, 0].max())[0] / enlarged
        # The outline touches its box at the 95 % quantile of χ²; 64 chords and the sphere's degrees cost 0.1 and 0.4 %.
        expected = 2 * np.sqrt(-2 * np.log(0.05) * point.crlb_covariance.values[0, 0])
        assert across == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("draw", [plots.bound_map, plots.bound_ellipses])
@pytest.mark.parametrize("axis", ["latitude", "longitude"])
def test_a_map_of_one_row_or_column_is_refused(
    bound: xr.Dataset, draw: Callable[[xr.Dataset], hv.Overlay], axis: str
) -> None:
    with pytest.raises(ValueError, match=rf"{axis}: the map has 1 value\(s\); at least 2"):
        draw(bound.isel({axis: [0]}))


def test_site_map_has_its_star_at_the_best_site() -> None:
    config = hl.preset("iq_test")
    sites = coverage.best_site(config, *coverage.grid_deg(config, 6))
    picture = plots.site_map(sites)
    (star,) = layers(picture, hv.Points, "best site")
    (image,) = layers(picture, hv.Image)
    values = image.dimension_values("mean_rmse", flat=False)
    row, column = np.unravel_index(values.argmin(), values.shape)
    best = [image.dimension_values(0, expanded=False)[column], image.dimension_values(1, expanded=False)[row]]
    np.testing.assert_allclose(columns(star)[0], best)


@pytest.fixture(scope="module")
def laid_out():
    """The Italian network, its area and its bound there."""
    config = hl.preset("los_sync")
    area = plots.network_area(config.geometry.receivers)
    (west, east), (south, north) = area
    bound = coverage.bound_map(config, np.linspace(south, north, 30), np.linspace(west, east, 40))
    return config, area, bound


@pytest.mark.parametrize("level", [1e-9, 1e-6, 3.3, 5e12, 1e13, 1e40])
def test_limits_of_colours_are_two_whatever_the_values(level):
    low, high = colour_limits(np.full(9, level))
    assert 0 < low < high


def network_columns(figure):
    return {layer.name: layer.data_source.data for layer in figure.renderers}


def test_a_redrawn_network_is_as_one_drawn_anew(laid_out):
    config, area, bound = laid_out
    receivers = config.geometry.receivers
    point = coverage.bound_map(config, np.array([45.0]), np.array([8.0]))
    before = bound, "gdop", receivers, area
    after = bound * 3, "cep50", receivers[:5], area, point, (8.2, 44.9)
    after[0]["cep50"].attrs = bound.cep50.attrs
    figure = hv.renderer("bokeh").get_plot(plots.network_map(*before)).state
    plots.redraw_network(figure, *after)
    anew = hv.renderer("bokeh").get_plot(plots.network_map(*after)).state
    redrawn, expected = network_columns(figure), network_columns(anew)
    assert set(redrawn) == {"field", "ellipse", "point", "site", "halo", "names", "receivers"}
    for name, columns in expected.items():
        assert {len(values) for values in redrawn[name].values()} == {len(values) for values in columns.values()}
        for column, values in columns.items():
            np.testing.assert_array_equal(
                np.squeeze(redrawn[name][column]), np.squeeze(values), err_msg=f"{name} {column}"
            )
    mappers = [next(r for r in f.renderers if r.name == "field").glyph.color_mapper for f in (figure, anew)]
    assert (mappers[0].low, mappers[0].high) == (mappers[1].low, mappers[1].high)
    assert figure.right[0].title == "CEP50, m"


def test_the_area_of_a_network_holds_it_at_equal_scales(laid_out):
    config, ((west, east), (south, north)), _ = laid_out
    for receiver in config.geometry.receivers:
        assert west < receiver.longitude_deg < east
        assert south < receiver.latitude_deg < north
    width_m = (east - west) * np.cos(np.radians((south + north) / 2))
    assert width_m / (north - south) == pytest.approx(560 / 410, rel=1e-3)


def test_the_ellipse_at_a_point_is_enlarged_as_its_text_says(laid_out):
    config, area, _ = laid_out
    point = coverage.bound_map(config, np.array([45.0]), np.array([8.0]))
    picture = plots.network_map(*laid_out[2:], "gdop", config.geometry.receivers, area, point)
    ring = picture.get(1)
    north_m = np.ptp(ring.dimension_values("latitude_deg")) * 111_132
    sigma_m = float(np.sqrt(point.crlb_covariance[0, 0, 1, 1]))
    enlarged = north_m / (2 * 2.4477 * sigma_m)
    assert enlarged == pytest.approx(1000, rel=0.01) or enlarged == pytest.approx(100, rel=0.01)
    assert f"drawn {round(enlarged, -2):,.0f} times larger" in plots.point_text(point, area)
