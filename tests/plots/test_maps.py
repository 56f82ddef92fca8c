"""Maps of one scene: places, ellipses and hyperbolas are where the truth and the measurements put them."""

import holoviews as hv
import numpy as np
import pyproj
import pytest
import xarray as xr
from path_scenes import hop_m, network, scenes
from pictures import axis_labels, columns, layers, without_truth
from stated_fixes import PLACE, stated, valley

import heimdall_lab as hl
from heimdall_lab import plots
from heimdall_lab.core import geodesy
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import ellipses
from heimdall_lab.localization.observations import STATUS
from heimdall_lab.localization.sentences import SHORT_STATUS
from heimdall_lab.plots.labels import label_sides


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
    np.testing.assert_allclose(bound, ellipses.ellipse(board.crlb_covariance.sel(sample=2).values), atol=1e-6)


def test_fix_map_names_the_laws_of_the_bounds(dataset: xr.Dataset, board: xr.Dataset) -> None:
    late = board.assign(
        crlb_covariance_genie=4 * board.crlb_covariance, crlb_covariance_mixture=9 * board.crlb_covariance
    )
    normal, late_ones = (layers(plots.fix_map(dataset, 2, each), hv.Curve, "Cramér-Rao") for each in (board, late))
    assert [curve.label.split(", 95 %")[0] for curve in normal] == ["Cramér-Rao bound, normal law"]
    expected = ["Cramér-Rao bound, genie's law", "Cramér-Rao bound, mixture's law"]
    assert [curve.label.split(", 95 %")[0] for curve in late_ones] == expected
    assert "rms" in late_ones[0].label
    assert not layers(plots.fix_map(dataset, 2, hl.locate(dataset, "tdoa_ls")), hv.Curve, "Cramér-Rao")


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


@pytest.mark.parametrize("status", [status for status in STATUS if status != "ok"])
def test_candidates_that_are_no_fix_say_why(status: str) -> None:
    picture = plots.scene_map(valley(), 0, stated(status))
    (points,), (outline,) = (layers(picture, kind, "no fix") for kind in (hv.Points, hv.Curve))
    assert points.label == outline.label == f"tdoa_ls: no fix ({SHORT_STATUS[status]})"
    assert outline.opts.get("style").kwargs["line_dash"] == "dotted"
    (found,) = layers(plots.scene_map(valley(), 0, stated()), hv.Curve, "tdoa_ls")
    assert (found.label, found.opts.get("style").kwargs["line_dash"]) == ("tdoa_ls", "solid")


def test_other_places_that_fit_are_small_open_markers_within_the_view() -> None:
    rivals = ((45.05, 8.25), (46.0, 8.0))
    picture = plots.scene_map(valley(), 0, stated("ambiguous", rivals=rivals))
    fix, others = (columns(layers(picture, hv.Points, label)[0]) for label in ("tdoa_ls: no fix", "fits as well"))
    apart_km = [geodesy.geodesic(*PLACE, *rival)[0] / 1e3 for rival in rivals]
    np.testing.assert_allclose(np.hypot(*(others - fix).T), apart_km, rtol=1e-3)
    x_range, y_range = (picture.opts.get("plot").kwargs[name] for name in ("xlim", "ylim"))
    assert all(x_range[0] < x < x_range[1] and y_range[0] < y < y_range[1] for x, y in others)
    style = layers(picture, hv.Points, "fits as well")[0].opts.get("style").kwargs
    assert style["fill_alpha"] == 0
    assert not layers(plots.fix_map(valley(), 0, stated(rivals=rivals)), hv.Points, "fits as well")
    assert layers(plots.hyperbolas(valley(), 0, stated(rivals=rivals)), hv.Points, "fits as well")


@pytest.mark.parametrize("propagation", ["line_of_sight", "ground_wave"])
def test_hyperbolas_are_where_the_time_difference_is_the_measured_one(
    dataset: xr.Dataset, measured: xr.Dataset, propagation: str
) -> None:
    scene = dataset.assign_attrs(propagation=propagation)
    picture = plots.hyperbolas(scene.assign(measured), 0)
    reference = measured.reference_receiver.sel(sample=0).item()
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


def test_hyperbolas_of_sky_waves_are_those_of_the_height_of_the_fix() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    station, height_m = network(rng, 6, 600e3), np.array([340e3])
    scene = scenes(rng, station, 1, 600e3, height_m)
    fixes = hl.locate(scene, "tdoa_ls")
    assert float(fixes.reflection_height_m[0]) == pytest.approx(340e3, rel=0.01)
    lines = plots.trace_hyperbolas(scene, 0, fixes).lines
    assert len(lines) == 5
    for receiver, line in lines.items():
        for longitude, latitude in line[np.isfinite(line).all(axis=1)][::40]:
            ends = (np.full(2, longitude), np.full(2, latitude), station[[receiver, 0], 1], station[[receiver, 0], 0])
            length_m = hop_m(pyproj.Geod(ellps="WGS84").inv(*ends)[2], fixes.reflection_height_m.values)
            # the linear interpolation of the contour on a grid of some 6 km
            assert -np.diff(length_m)[0] / SPEED_OF_LIGHT == pytest.approx(float(scene.tdoa_s[0, receiver]), abs=1e-6)


def test_unknown_sample_is_refused(dataset: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"sample: 99 is not in the dataset; choose one of its labels, 0 … 4"):
        plots.scene_map(dataset, 99)


def test_names_beside_receivers_do_not_overlap() -> None:
    place = np.array([[0.0, 0.0], [0.5, 0.4], [30.0, 0.0]])
    sides = label_sides(place, ["Aquila di Giaveno", "Coazze", "Torino"], (-60.0, 60.0))
    assert sides[0] != sides[1]
    text_height = 14 * 120 / 700  # in map units
    above = np.array([[0.0, 0.0], [0.0, 0.8 * text_height]])
    sides = label_sides(above, ["Torino", "Genova"], (-60.0, 60.0))
    assert sides[0] != sides[1]


def test_axes_of_maps_have_units(dataset: xr.Dataset, measured: xr.Dataset, board: xr.Dataset) -> None:
    assert axis_labels(plots.scene_map(dataset, 0, board)) == {"east (km)", "north (km)"}
    assert axis_labels(plots.fix_map(dataset, 0, board)) in ({"east (m)", "north (m)"}, {"east (km)", "north (km)"})
    assert axis_labels(plots.hyperbolas(dataset.assign(measured), 0)) == {"longitude (°)", "latitude (°)"}
