"""The ground below maps: coasts, borders and cities are where they are, and the scale bar is as long as it says."""

import itertools

import holoviews as hv
import numpy as np
import pyproj
import pytest
import xarray as xr
from bokeh.models import ColumnDataSource
from bokeh.models.annotations import ScaleBar
from pictures import city_places, columns, ground_of, layers

import heimdall_lab as hl
from heimdall_lab import plots
from heimdall_lab.app.parts.layout import apply_theme
from heimdall_lab.core.receivers import italian_network
from heimdall_lab.plots import ground_data
from heimdall_lab.plots.ground import BEYOND, ground, ground_layer
from heimdall_lab.plots.projections import degrees, tangent_plane
from heimdall_lab.plots.style import COAST
from heimdall_lab.simulation import coverage

WGS84 = pyproj.Geod(ellps="WGS84")
CAPES = {  # latitude, longitude
    "Lanterna of Genoa": (44.4045, 8.9049),
    "Land's End": (50.0662, -5.7148),
    "Europa Point": (36.1094, -5.3455),
    "North Cape": (71.1710, 25.7836),
    "Cape of Good Hope": (-34.3583, 18.4719),
    "Cape Byron": (-28.6386, 153.6363),
    "Cape Froward": (-53.8966, -71.2936),
}
SUMMITS = {"Mont Blanc": (45.8327, 6.8651), "Matterhorn": (45.9764, 7.6586), "Zugspitze": (47.4211, 10.9853)}
TOWN_HALLS = {"Milan": (45.4669, 9.1911), "Turin": (45.0733, 7.6822), "Genoa": (44.4112, 8.9322)}


def distance_m(place: np.ndarray, latitude: float, longitude: float) -> float:
    """From a point to lines (P, 2) in degrees that have NaN between them."""
    start, end = place[:-1], place[1:]
    share = np.linspace(0, 1, 20)[:, None, None]
    between = (start + share * (end - start)).reshape(-1, 2)
    between = between[np.isfinite(between).all(axis=1)]
    _, _, away = WGS84.inv(*between.T, np.full(len(between), longitude), np.full(len(between), latitude))
    return float(np.min(away))


def figure_of(picture: hv.Overlay):
    return hv.renderer("bokeh").get_plot(picture).state


def bar_of(figure) -> ScaleBar:
    (bar,) = [each for each in figure.center if isinstance(each, ScaleBar)]
    return bar


def lines_of(picture: hv.Overlay, layer: str) -> np.ndarray:
    found = ground_of(picture)[layer]
    return np.stack([found["x"], found["y"]], axis=-1)


@pytest.fixture(scope="module")
def italy() -> hv.Overlay:
    config = hl.preset("iq_test")
    area = plots.network_area(italian_network())
    bound = coverage.bound_map(config, *(np.linspace(*limits, 5) for limits in reversed(area)))
    return plots.network_map(bound, "gdop", italian_network(), area)


@pytest.mark.parametrize("name", CAPES)
def test_the_coast_passes_the_capes(name: str) -> None:
    latitude, longitude = CAPES[name]
    drawn = ground(degrees(longitude), (longitude - 1, longitude + 1), (latitude - 0.7, latitude + 0.7))
    assert distance_m(drawn.coasts, latitude, longitude) < 3e3


@pytest.mark.parametrize("name", SUMMITS)
def test_borders_pass_the_summits_on_them(name: str) -> None:
    latitude, longitude = SUMMITS[name]
    drawn = ground(degrees(longitude), (longitude - 1, longitude + 1), (latitude - 0.7, latitude + 0.7))
    assert distance_m(drawn.borders, latitude, longitude) < 3e3
    assert not len(drawn.coasts)


def test_the_map_of_the_italian_network_has_its_cities(italy: hv.Overlay) -> None:
    cities = city_places(italy)
    for name, (latitude, longitude) in TOWN_HALLS.items():
        east, north = cities[name]
        assert WGS84.inv(east, north, longitude, latitude)[2] < 3e3
    assert distance_m(lines_of(italy, "coasts"), *CAPES["Lanterna of Genoa"]) < 3e3


def test_a_tangent_plane_has_them_where_another_library_puts_them() -> None:
    to_plane = pyproj.Transformer.from_pipeline(
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=cart +ellps=WGS84 "
        "+step +proj=topocentric +ellps=WGS84 +lon_0=8 +lat_0=45"
    )
    drawn = ground(tangent_plane(45.0, 8.0), (-110.0, 110.0), (-80.0, 80.0))
    cities = dict(zip(drawn.names, drawn.cities, strict=True))
    for name, (latitude, longitude) in TOWN_HALLS.items():
        expected = np.array(to_plane.transform(longitude, latitude, 0.0)[:2]) / 1e3
        assert np.hypot(*(cities[name] - expected)) < 3
    genoa = np.array(to_plane.transform(*reversed(CAPES["Lanterna of Genoa"]), 0.0)[:2]) / 1e3
    assert np.nanmin(np.hypot(*(drawn.coasts - genoa).T)) < 3


def test_the_ocean_has_nothing_but_a_bar() -> None:
    view = (-142.0, -138.0), (-42.0, -39.0)
    drawn = ground(degrees(-140.0), *view)
    assert (len(drawn.coasts), len(drawn.borders), drawn.names) == (0, 0, [])
    for on_colours in (False, True):
        picture = hv.Overlay([ground_layer(degrees(-140.0), *view, on_colours=on_colours)])
        assert bar_of(figure_of(picture.opts(xlim=view[0], ylim=view[1])))


def test_ground_goes_on_across_the_180_degrees_meridian() -> None:
    x_range, y_range = (178.5, 181.5), (-18.5, -15.5)
    drawn = ground(degrees(179.9), x_range, y_range)
    assert {"Suva", "Labasa"} <= set(drawn.names)
    east = drawn.coasts[:, 0]
    assert 177 - 0.1 < np.nanmin(east) < 180 < np.nanmax(east) < 183.1
    assert np.nanmax(np.abs(np.diff(drawn.coasts, axis=0))) < 0.3  # no line leads around the Earth
    cut = np.abs(drawn.coasts[:, 0] - 180) < 1e-3
    assert not (cut[1:] & cut[:-1]).any()
    taveuni = (-16.806, 180.0)  # the meridian crosses this island's coast
    assert distance_m(drawn.coasts, *taveuni) < 5e3


def test_ground_near_the_poles() -> None:
    plane = ground(tangent_plane(89.0, 30.0), (-1500.0, 1500.0), (-1100.0, 1100.0))
    away = np.hypot(
        *(plane.coasts[np.isfinite(plane.coasts).all(axis=1)] - [0, 111.7]).T
    )  # from the pole, which is north of the middle
    assert away.min() == pytest.approx(WGS84.inv(0, 90, -29.9, 83.64)[2] / 1e3, rel=0.02)  # the north of Greenland
    south = ground(degrees(166.0), (150.0, 182.0), (-80.0, -74.0))
    assert distance_m(south.coasts, -77.85, 166.76) < 5e3  # McMurdo Station
    far = ground(tangent_plane(0.0, 0.0), (-6378.0, 6378.0), (-5000.0, 5000.0))
    assert np.hypot(*far.coasts[np.isfinite(far.coasts).all(axis=1)].T).max() <= 6378.2  # nothing of the far side
    assert "Auckland" not in far.names


def test_only_the_view_and_half_of_it_around_has_ground() -> None:
    x_range, y_range = (7.0, 10.0), (43.5, 45.5)
    drawn = ground(degrees(8.5), x_range, y_range)
    longest = 0.15  # degrees, of a segment that crosses the limits
    for place in (drawn.coasts, drawn.borders, drawn.cities):
        assert np.nanmin(place[:, 0]) > x_range[0] - BEYOND * 3 - longest
        assert np.nanmax(place[:, 0]) < x_range[1] + BEYOND * 3 + longest
        assert np.nanmin(place[:, 1]) > y_range[0] - BEYOND * 2 - longest
        assert np.nanmax(place[:, 1]) < y_range[1] + BEYOND * 2 + longest
    assert np.nanmin(drawn.coasts[:, 0]) < x_range[0] - 1
    assert drawn.coasts.nbytes + drawn.borders.nbytes < 20e3


def test_wide_maps_have_fewer_points_and_their_lines_are_off_by_the_tolerance_at_most() -> None:
    centre, radius_m = ecef(44.0, 9.0), 200e3
    fine, joined, _ = ground_data.near(centre, radius_m, 0.0)
    coarse, coarse_joined, _ = ground_data.near(centre, radius_m, 2e3)
    assert len(coarse) < len(fine) / 3
    start, chord = coarse[:-1][coarse_joined], np.diff(coarse, axis=0)[coarse_joined]
    near = fine[np.append(joined, False) & (np.linalg.norm(fine - centre, axis=1) < radius_m)]
    offset = near[:, None] - start
    along = np.clip((offset * chord).sum(axis=-1) / (chord**2).sum(axis=-1), 0, 1)
    away = np.linalg.norm(offset - along[..., None] * chord, axis=-1).min(axis=1)
    # islands of less than the tolerance are left out
    assert np.quantile(away, 0.97) < 2e3
    assert np.median(away) < 600


def ecef(latitude: float, longitude: float) -> np.ndarray:
    to_ecef = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978")
    return np.array(to_ecef.transform(latitude, longitude, 0.0))


def test_names_of_cities_are_apart_and_away_from_receivers(italy: hv.Overlay) -> None:
    options = italy.opts.get("plot").kwargs
    (low, high), (bottom, _) = options["xlim"], options["ylim"]
    px = (high - low) / options["frame_width"]
    px_north = px * np.cos(np.radians(bottom + 0.7))
    boxes = []
    cities = [ground_of(italy)["cities"][name] for name in ("x", "y", "name", "align", "baseline")]
    receivers = layers(italy, hv.Labels)[-1]
    of_receivers = [
        *columns(receivers).T,
        *(receivers.dimension_values(name) for name in ("name", "align", "baseline")),
    ]
    for rows, letter, height in ((cities, 4.8, 9.0), (of_receivers, 5.5, 10.0)):
        for east, north, text, align, baseline in zip(*rows, strict=True):
            width = letter * len(text.strip())
            x = {"left": 9.0, "right": -9.0 - width, "center": -width / 2}[align] + east / px
            y = {"middle": -height / 2, "bottom": 11.0, "top": -11.0 - height}[baseline] + north / px_north
            boxes.append((x, y, x + width, y + height))
    assert len(boxes) > 15
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_maps_of_a_few_hundred_metres_have_no_lines(dataset: xr.Dataset, board: xr.Dataset) -> None:
    picture = plots.fix_map(dataset, 2, board)
    assert not len(lines_of(picture, "coasts"))
    assert not city_places(picture)
    bar = bar_of(figure_of(picture))
    (left, right) = picture.opts.get("plot").kwargs["xlim"]
    step_km = {"m": 1e-3, "km": 1.0}[next(iter(picture)).kdims[0].unit]
    assert (bar.range.end - bar.range.start) == pytest.approx((right - left) * step_km, rel=1e-3)
    assert right * step_km < 5


@pytest.mark.parametrize("name", ["scene_map", "hyperbolas", "error_map", "bound_map", "network_map"])
def test_maps_have_equal_scales_and_a_bar_of_their_length(
    dataset: xr.Dataset, board: xr.Dataset, italy: hv.Overlay, name: str
) -> None:
    config = hl.preset("iq_test")
    draw = {
        "scene_map": lambda: plots.scene_map(dataset, 0, board),
        "hyperbolas": lambda: plots.hyperbolas(dataset, 0, board),
        "error_map": lambda: plots.error_map(dataset, board, "tdoa_ls"),
        "bound_map": lambda: plots.bound_map(coverage.bound_map(config, *coverage.grid_deg(config, 5))),
        "network_map": lambda: italy,
    }
    picture = draw[name]()
    options, bar = picture.opts.get("plot").kwargs, bar_of(figure_of(picture))
    (left, right), (bottom, top) = options["xlim"], options["ylim"]
    width_m, height_m = (right - left) * 1e3, (top - bottom) * 1e3
    if name != "scene_map":
        middle = (bottom + top) / 2
        # In parts: the geodesic between the edges leaves the parallel.
        east = np.linspace(left, right, 101)
        width_m = np.sum(WGS84.inv(east[:-1], np.full(100, middle), east[1:], np.full(100, middle))[2])
        height_m = WGS84.inv(left, bottom, left, top)[2]
    assert (bar.range.end - bar.range.start) * 1e3 == pytest.approx(width_m, rel=0.01)
    assert bar.unit == "km"
    expected = options["frame_width"] / options["frame_height"]
    assert width_m / height_m == pytest.approx(expected, rel=0.02)


def test_a_map_that_is_drawn_anew_in_place_has_one_bar_of_the_new_length() -> None:
    views = [((7.0, 9.0), (44.0, 45.5)), ((8.6, 9.0), (44.2, 44.5))]

    def draw(index: int) -> hv.Overlay:
        x_range, y_range = views[index]
        return hv.Overlay([ground_layer(degrees(8.0), x_range, y_range)]).opts(xlim=x_range, ylim=y_range)

    chosen = hv.streams.Stream.define("Chosen", index=0)()
    plot = hv.renderer("bokeh").get_plot(hv.DynamicMap(draw, streams=[chosen]))
    before = bar_of(plot.state).range
    assert before.end - before.start == pytest.approx(2 * 78.7, rel=0.01)
    chosen.event(index=1)
    assert np.nanmax(ground_of(plot.state)["coasts"]["x"]) < 9.3
    after = bar_of(plot.state).range
    assert after.end - after.start == pytest.approx(0.4 * 80.0, rel=0.01)


def test_the_map_of_links_has_ground_too() -> None:
    place = {"transmitter_longitude": np.array([7.0, 9.0]), "transmitter_latitude": np.array([44.4, 45.6])}
    links = {name: np.array([1.0, 2.0]) for name in ("sample", "snr")} | {
        "receiver": ["A", "B"],
        "waveform": ["tone"] * 2,
    }
    rows = ColumnDataSource(place | links | {"colour_by_snr": ["#000000"] * 2})
    figure = plots.link_map(rows, {}, "snr", (500, 400))
    assert {"Milan", "Turin", "Genoa"} <= set(city_places(figure))
    assert figure.renderers[-1].name == "links"  # above the ground
    assert bar_of(figure).unit == "km"


def test_ground_is_lighter_on_dark_pages(dataset: xr.Dataset) -> None:
    colours = []
    for dark in (False, True):
        figure = figure_of(apply_theme(plots.scene_map(dataset, 0), dark))
        lines = [layer.glyph.line_color for layer in figure.renderers if layer.name in ("coasts", "borders")]
        colours.append({*lines, bar_of(figure).label_text_color})
    assert COAST in colours[0]
    assert not colours[0] & colours[1]


def test_the_file_is_small_and_complete() -> None:
    assert ground_data.ground_file().stat().st_size < 3e6
    lines, cities = ground_data.lines(), ground_data.cities()
    assert lines.border.sum() > 300
    assert (~lines.border).sum() > 4000
    assert len(cities.name) == len(cities.place) == len(cities.population) > 25_000
    assert (np.diff(cities.population) <= 0).all()
    place = lines.place / ground_data.STEPS_PER_DEGREE
    assert np.abs(place).max(axis=0).tolist() == pytest.approx([180.0, 85.22], abs=0.01)
