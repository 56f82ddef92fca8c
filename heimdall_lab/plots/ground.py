"""The ground below every map: coasts, borders, the largest cities, and a bar that says how long a kilometre is.

`ground_layer` is the layer of a map of HoloViews, `draw_ground` puts `ground` into a figure of Bokeh. Only what the
view needs is taken, and half a view more on each side, so that the ground is there when a map is moved a little.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
from bokeh.models import ColumnDataSource, Line, Range1d, Scatter, Text
from bokeh.models.annotations import ScaleBar
from bokeh.models.annotations.dimensional import MetricLength

from heimdall_lab.core import geodesy
from heimdall_lab.plots import ground_data
from heimdall_lab.plots.labels import side_columns
from heimdall_lab.plots.projections import Projection
from heimdall_lab.plots.style import COAST, INK, NARROW_FRAME_PX, PLACE_NAME

GROUP = "Ground"  # of the layer, among those of a map
BEYOND = 0.5  # of the view's width and height, on each side, that have ground too
LEAST_VIEW_M = 10e3  # of the width of a view, below which lines that are off by a kilometre say nothing

_CITIES_INSIDE, _CITIES_OUTSIDE = 12, 30  # of the view, at most
_CITIES_LOOKED_AT = 400
_LETTER_PX, _LINE_PX, _BESIDE_PX, _GAP_PX = 5.2, 12.0, 9.0, 14.0  # of names of cities, to their dots and others
_BAR_PX = np.array([190.0, 40.0])  # of the corner with the scale bar
_TOLERANCE_PX = 0.7
_NO_AXES = [hv.Dimension("x"), hv.Dimension("y")]
_KILOMETRES = "kilometres"  # name of the range that the scale bar reads
_BAR_LENGTHS: list[float] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
_OUTWARD = np.array([-1, -1, 1, 1])  # from a box: to the left, down, to the right, up

_LINES: dict[str, dict[str, Any]] = {
    "borders": {"line_dash": [5, 3], "line_width": 1.0},
    "coasts": {"line_dash": "solid", "line_width": 1.2},
}


class Ground(NamedTuple):
    """What is drawn below a map, in its coordinates."""

    coasts: np.ndarray  # (P, 2), lines with NaN between them
    borders: np.ndarray  # (P, 2)
    cities: np.ndarray  # (C, 2)
    names: list[str]  # of cities
    sides: list[str]  # of the names, at which the cities are
    x_range: tuple[float, float]
    unit_m: float  # length of a step of 1 in x, in the middle of the map


class _Window(NamedTuple):
    """A view, and what has ground around it: boxes in map coordinates, and a ball of the Earth that holds it."""

    view: np.ndarray  # (4,), left, bottom, right, top
    limits: np.ndarray  # (4,)
    centre: np.ndarray  # (3,), ECEF, m
    radius_m: float


class _Cities(NamedTuple):
    """Cities of a map, as `Ground` has them."""

    place: np.ndarray
    names: list[str]
    sides: list[str]


def ground(
    projection: Projection,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    taken: np.ndarray | None = None,
) -> Ground:
    """Ground of a map with these limits; names of cities keep away from boxes (B, 4) that are taken.

    A box has its left, bottom, right and top in the map's coordinates, as `labels.label_boxes` returns them. Lines are
    as fine as the map can show. A view of less than 10 km has nothing, as lines are good to a kilometre or so.
    """
    view = np.array([x_range[0], y_range[0], x_range[1], y_range[1]])
    unit_m = _unit_m(projection, view)
    width_m = (view[2] - view[0]) * unit_m[0]
    if width_m < LEAST_VIEW_M:
        nothing = np.empty((0, 2), np.float32)
        return Ground(nothing, nothing, nothing, [], [], x_range, float(unit_m[0]))
    window, px_m = _window(projection, view), width_m / NARROW_FRAME_PX
    position, joined, border = ground_data.near(window.centre, window.radius_m, _TOLERANCE_PX * px_m)
    place = projection.project(position)
    segments = np.concatenate([np.minimum(place[:-1], place[1:]), np.maximum(place[:-1], place[1:])], axis=1)
    is_leap = np.abs(np.diff(place[:, 0])) > projection.turn / 2
    joined = joined & _cover(segments, window.limits) & ~is_leap & _seen(projection, position)[1:]
    coasts, borders = (_line(place, joined & (border[1:] == kind)) for kind in (False, True))
    cities = _cities(projection, window, px_m / unit_m, np.empty((0, 4)) if taken is None else taken)
    return Ground(coasts, borders, cities.place, cities.names, cities.sides, x_range, float(unit_m[0]))


def ground_layer(
    projection: Projection,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    taken: np.ndarray | None = None,
    *,
    on_colours: bool = False,
) -> hv.Curve:
    """Layer of a map of HoloViews that holds nothing, and by which its figure gets what `ground` finds there.

    It is put below the other layers, or above the colours of a field, which ``on_colours`` says.
    """
    drawn = ground(projection, x_range, y_range, taken)
    # Layers of HoloViews would do the same, and each takes 20 ms.
    empty = hv.Curve(np.empty((0, 2)), *projection.axes, group=GROUP)
    return empty.opts(hooks=[lambda plot, _element: draw_ground(plot.state, drawn, on_colours)], backend="bokeh")


def draw_ground(figure: Any, drawn: Ground, on_colours: bool = False) -> None:
    """Draw the ground into a figure of Bokeh above what it has by now, or replace the ground that it has.

    A scale bar comes with it, whose length is true in the middle of the map, and which follows as the map is zoomed.
    """
    x, y, name, align, baseline = side_columns(drawn.cities, drawn.names, drawn.sides, _NO_AXES).values()
    data: dict[str, dict[str, Any]] = {
        "coasts": {"x": drawn.coasts[:, 0], "y": drawn.coasts[:, 1]},
        "borders": {"x": drawn.borders[:, 0], "y": drawn.borders[:, 1]},
        "cities": {"x": x, "y": y, "name": name, "align": align, "baseline": baseline},
    }
    present = {renderer.name: renderer.data_source for renderer in figure.renderers if renderer.name in data}
    if present:
        for layer, source in present.items():
            source.data = data[layer]
    else:
        _add_glyphs(figure, {layer: ColumnDataSource(columns) for layer, columns in data.items()}, on_colours)
    _set_scale_bar(figure, drawn)


def _add_glyphs(figure: Any, sources: dict[str, ColumnDataSource], on_colours: bool) -> None:
    """Add the glyphs of each layer, of which the one that has its name tells whether it is there."""
    line_colour, colour = (INK, INK) if on_colours else (COAST, PLACE_NAME)
    halo: dict[str, Any] = {"line_color": "white", "line_width": 3, "line_alpha": 0.4}
    for layer in _LINES if on_colours else ():
        figure.add_glyph(sources[layer], Line(x="x", y="y", **halo))
    for layer, look in _LINES.items():
        figure.add_glyph(sources[layer], Line(x="x", y="y", line_color=line_colour, **look), name=layer)
    cities = sources["cities"]
    figure.add_glyph(cities, Scatter(x="x", y="y", size=3, fill_color=colour, line_color=None), name="cities")
    name = Text(x="x", y="y", text="name", text_align="align", text_baseline="baseline", text_color=colour)
    name.text_font_size = "8pt"
    if on_colours:  # an outline covers its own text
        figure.add_glyph(cities, name.clone(text_color="white", text_outline_color="white"))
    figure.add_glyph(cities, name)


def _set_scale_bar(figure: Any, drawn: Ground) -> None:
    """Put a bar of so many kilometres or metres into a figure, or give the one that it has another scale.

    The bar reads a range of its own in km, which Bokeh moves together with that of x.
    """
    if _KILOMETRES in figure.extra_x_ranges:
        start, end = (limit * drawn.unit_m / 1e3 for limit in drawn.x_range)
        figure.extra_x_ranges[_KILOMETRES].update(start=start, end=end, reset_start=start, reset_end=end)
        return
    start, end = (limit * drawn.unit_m / 1e3 for limit in (figure.x_range.start, figure.x_range.end))
    kilometres = Range1d(start, end)
    figure.extra_x_ranges = {**figure.extra_x_ranges, _KILOMETRES: kilometres}
    bar = ScaleBar(
        range=kilometres,
        unit="km",
        dimensional=MetricLength(include=["m", "km"], exclude=[], ticks=_BAR_LENGTHS),
        length_sizing="adaptive",
        bar_length=0.15,  # and up to 2.5 times as long, to be a round number
        location="bottom_left",
        margin=6,
        padding=5,
        label_standoff=2,
        label_text_font_size="8pt",
        label_text_color=INK,
        bar_line_color=INK,
        bar_line_width=2,
        border_line_color=None,
        background_fill_color="white",
        background_fill_alpha=0.7,
    )
    figure.add_layout(bar)


def _unit_m(projection: Projection, view: np.ndarray) -> np.ndarray:
    """Lengths (2,) in m of steps of 1 in x and y, by geodesics over a hundredth of a view (4,) around its middle."""
    middle, width = (view[:2] + view[2:]) / 2, view[2] - view[0]
    half = np.eye(2) * width / 200
    start, end = projection.unproject(middle - half), projection.unproject(middle + half)
    distance_m, _ = geodesy.geodesic(start[:, 1], start[:, 0], end[:, 1], end[:, 0])
    return distance_m / (width / 100)


def _window(projection: Projection, view: np.ndarray) -> _Window:
    """What has ground around a view (4,)."""
    limits = view + BEYOND * np.tile(view[2:] - view[:2], 2) * _OUTWARD
    grid = np.stack(np.meshgrid(*np.linspace(limits[:2], limits[2:], 9).T), axis=-1).reshape(-1, 2)
    longitude, latitude = projection.unproject(np.concatenate([[(view[:2] + view[2:]) / 2], grid])).T
    position = geodesy.ecef(latitude, longitude, np.zeros(len(latitude)))
    return _Window(view, limits, position[0], float(np.linalg.norm(position - position[0], axis=1).max()))


def _seen(projection: Projection, position: np.ndarray) -> np.ndarray:
    """Which ECEF positions (P, 3) are not on the far side of the Earth."""
    if projection.up is None:
        return np.full(len(position), True)
    return np.asarray(position @ projection.up > 0)


def _cover(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Which boxes (B, 4) have a part inside another one (4,); left, bottom, right and top each."""
    return np.asarray(((boxes[:, 2:] >= box[:2]) & (boxes[:, :2] <= box[2:])).all(axis=1))


def _line(place: np.ndarray, joined: np.ndarray) -> np.ndarray:
    """Places (P, 2) of the segments (P − 1,) that are drawn, with a row of NaN behind each run of them."""
    before, after = np.append(False, joined), np.append(joined, False)
    index = np.flatnonzero(before | after)
    ends = np.flatnonzero(~after[index])
    # A metre, by the precision of longitudes, is far below what the source knows.
    return np.insert(place[index].astype(np.float32), ends + 1, np.nan, axis=0)[:-1]


def _cities(projection: Projection, window: _Window, px: np.ndarray, taken: np.ndarray) -> _Cities:
    """The largest cities in and around a view, ``px`` (2,) being the size of a pixel of it."""
    every = ground_data.cities()
    rows = np.flatnonzero(np.linalg.norm(every.position - window.centre, axis=1) <= window.radius_m)
    rows = rows[_seen(projection, every.position[rows])]
    place = projection.project(every.position[rows])
    inside = np.flatnonzero(_cover(np.tile(place, 2), window.limits))[:_CITIES_LOOKED_AT]
    place, names = place[inside], [str(name) for name in every.name[rows[inside]]]
    sides = _name_sides(place / px, names, window.view / np.tile(px, 2), taken / np.tile(px, 2))
    return _Cities(place[list(sides)], [names[index] for index in sides], list(sides.values()))


def _name_sides(place: np.ndarray, names: list[str], view: np.ndarray, taken: np.ndarray) -> dict[int, str]:
    """Side of its name at which each city is that is shown, by its index; all in pixels.

    Cities have places (C, 2), the first being preferred. Names are apart from each other, from boxes (B, 4) that are
    taken and from the scale bar, and no edge of the view (4,) cuts them.
    """
    taken = np.concatenate([taken, [[*view[:2], *(view[:2] + _BAR_PX)]]])
    boxes = np.empty((0, 4))
    sides: dict[int, str] = {}
    room = {"inside": _CITIES_INSIDE, "outside": _CITIES_OUTSIDE}
    for index, (at, name) in enumerate(zip(place, names, strict=True)):
        where = "inside" if _cover(np.tile(at, 2)[None], view)[0] else "outside"
        for side, text in _text_boxes(at, name) if room[where] else ():
            box = np.concatenate([np.minimum(text[:2], at), np.maximum(text[2:], at)])
            is_whole = bool((text[:2] > view[:2]).all() and (text[2:] < view[2:]).all())
            is_cut = bool(_cover(box[None], view)[0]) and not is_whole
            is_free = not _cover(taken, text).any() and not _cover(boxes, box + _GAP_PX * _OUTWARD).any()
            if is_free and not is_cut:
                boxes = np.concatenate([boxes, box[None]])
                sides[index] = side
                room[where] -= 1
                break
    return sides


def _text_boxes(at: np.ndarray, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Sides of a name at which its dot may be, and the box (4,) of the name: left, bottom, right, top, pixels."""
    width, half = _LETTER_PX * len(name), _LINE_PX / 2
    for side, box in {
        "left": (_BESIDE_PX, -half, _BESIDE_PX + width, half),
        "right": (-_BESIDE_PX - width, -half, -_BESIDE_PX, half),
        "bottom": (-width / 2, _BESIDE_PX, width / 2, _BESIDE_PX + _LINE_PX),
        "top": (-width / 2, -_BESIDE_PX - _LINE_PX, width / 2, -_BESIDE_PX),
    }.items():
        yield side, np.tile(at, 2) + np.array(box)
