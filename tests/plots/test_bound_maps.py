"""Maps of bounds: colours, ellipses and the best site are those that were computed; redrawn maps are as new ones."""

import re
from collections.abc import Callable

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from bokeh.models import ColorBar, LogColorMapper
from pictures import axis_labels, columns, ground_of, layers

import heimdall_lab as hl
from heimdall_lab import plots
from heimdall_lab.core import geodesy
from heimdall_lab.plots.bound_maps import colour_limits
from heimdall_lab.simulation import coverage


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
    own = [layer for layer in figure.renderers if layer.name and layer.name not in ground_of(figure)]
    return {layer.name: layer.data_source.data for layer in own}


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
    for name, source in expected.items():
        assert {len(values) for values in redrawn[name].values()} == {len(values) for values in source.values()}
        for column, values in source.items():
            np.testing.assert_array_equal(
                np.squeeze(redrawn[name][column]), np.squeeze(values), err_msg=f"{name} {column}"
            )
    mappers = [next(r for r in f.renderers if r.name == "field").glyph.color_mapper for f in (figure, anew)]
    assert (mappers[0].low, mappers[0].high) == (mappers[1].low, mappers[1].high)
    assert figure.right[0].title == "CEP50 (normal law), m"


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
    (ring,) = layers(picture, hv.Curve)
    north_m = np.ptp(ring.dimension_values("latitude_deg")) * 111_132
    sigma_m = float(np.sqrt(point.crlb_covariance[0, 0, 1, 1]))
    enlarged = north_m / (2 * 2.4477 * sigma_m)
    assert enlarged == pytest.approx(1000, rel=0.01) or enlarged == pytest.approx(100, rel=0.01)
    assert f"drawn {round(enlarged, -2):,.0f} times larger" in plots.point_text(point, area)


def test_maps_across_the_180_degrees_meridian_have_no_gap() -> None:
    """Longitudes count on beyond 180, of receivers, ellipses and hyperbolas; texts have those of people."""
    rows = [("A", -17.0, 179.7), ("B", -16.5, -179.6), ("C", -17.2, -179.7), ("D", -16.8, 179.5), ("E", -16.9, -180.0)]
    receivers = [{"name": name, "latitude_deg": north, "longitude_deg": east} for name, north, east in rows]
    config = hl.preset(
        "los_sync", num_samples=2, max_receivers=5, geometry={"receivers": receivers}, signal={"duration_s": 0.02}
    )
    area = plots.network_area(config.geometry.receivers)
    assert 179 < area[0][0] < 180 < area[0][1] < 181
    point = coverage.bound_map(config, np.array([-16.9]), np.array([180.02]))
    bound = coverage.bound_map(config, *coverage.grid_deg(config, 4))
    for picture in (
        plots.network_map(bound, "crlb_rmse", config.geometry.receivers, area, point),
        plots.bound_map(bound, "crlb_rmse"),
    ):
        drawn = np.concatenate([columns(each) for kind in (hv.Points, hv.Curve) for each in layers(picture, kind)])
        assert 179 < np.nanmin(drawn[:, 0].astype(float)) < 180 < np.nanmax(drawn[:, 0].astype(float)) < 181
    assert "179.9800° W" in plots.point_text(point, area)
    dataset = hl.generate(config, progress=False)
    fixes = hl.locate(dataset, "tdoa_ls")
    truth = dataset.transmitter_latitude, dataset.transmitter_longitude
    assert (geodesy.geodesic(*truth, fixes.latitude, fixes.longitude)[0] < 10 * dataset.crlb_rmse).all()
    x_range, _, lines = plots.trace_hyperbolas(dataset, 0, fixes)
    assert 178 < x_range[0] < 180 < x_range[1] < 182
    assert np.isfinite(np.concatenate(list(lines.values()))).any()
