"""The map on which a network is laid out, and what it tells in words."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import FixedTicker, NumeralTickFormatter
from bokeh.models.annotations import ColorBar

from heimdall_lab.core import geodesy
from heimdall_lab.core.receivers import Receiver
from heimdall_lab.core.text import length_text, position_text
from heimdall_lab.localization import bounds
from heimdall_lab.localization.error_law import radius_squared
from heimdall_lab.plots.coverage import LABELS
from heimdall_lab.plots.labels import map_axes, place_labels
from heimdall_lab.plots.style import COLOURS, INK, MAP_OPTIONS, TRUTH, log_ticks, view

FRAME_PX = (560, 410)

_MARGIN = 0.15  # of the network's extent, around it
_LEAST_DEG = 0.02  # from the middle of an area to its edges
_METRES_PER_DEGREE = geodesy.SEMI_MAJOR_M * math.pi / 180
_STAR, _POINT = "#D55E00", "#000000"


def network_area(receivers: Sequence[Receiver]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits in longitude and latitude of a map around receivers, in the shape of its frame, degrees."""
    place = _place(receivers)
    middle = (place.min(axis=0) + place.max(axis=0)) / 2
    spread = np.concatenate([place, [middle - _LEAST_DEG, middle + _LEAST_DEG]])
    shrink = math.cos(math.radians(float(middle[1])))
    return view(spread, margin=_MARGIN, shrink=shrink, frame_px=FRAME_PX)


def colour_limits(values: np.ndarray) -> tuple[float, float]:
    """Round numbers (1, 2 or 5 of a decade) around all but the most extreme 1 % of values on either side.

    They stay as they are where values change little, so that a map tells how much a step changes.

    >>> colour_limits(np.array([33.0, 150.0]))
    (20.0, 200.0)
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 1.0, 10.0
    low, high = np.percentile(finite, [1, 99])
    steps = np.multiply.outer(10.0 ** np.arange(-6, 13), [1.0, 2.0, 5.0]).ravel()
    below, above = np.searchsorted(steps, low, side="right") - 1, np.searchsorted(steps, high)
    below = max(below, 0)
    above = min(max(above, below + 1), len(steps) - 1)
    below = min(below, above - 1)
    return float(steps[below]), float(steps[above])


def network_map(
    bound: xr.Dataset,
    variable: str,
    receivers: Sequence[Receiver],
    area: tuple[tuple[float, float], ...],
    point: xr.Dataset | None = None,
    site: tuple[float, float] | None = None,
) -> hv.Overlay:
    """Draw GDOP, Cramér-Rao bound or CEP50 in colours, receivers, an ellipse at a point and the best site.

    What is not observable stays blank. `redraw_network` puts other data into the figure that is made of it.

    Parameters
    ----------
    bound : xr.Dataset
        Result of `coverage.bound_map` over the area.
    variable : str
        ``gdop``, ``crlb_rmse`` or ``cep50``.
    receivers : sequence of Receiver
    area : (low, high) of longitude, (low, high) of latitude, degrees
        As `network_area` returns it.
    point : xr.Dataset, optional
        Result of `coverage.bound_map` for one latitude and one longitude: where the 95 % ellipse is drawn.
    site : (longitude, latitude), optional
        Degrees, of the star.
    """
    axes = map_axes()
    values = bound[variable].transpose("latitude", "longitude")
    image = hv.Image((values.longitude.values, values.latitude.values, _single(values)), axes, "value", rtol=1e-3)
    low, high = colour_limits(values.values)
    bar: dict[str, Any] = {"ticker": FixedTicker(ticks=log_ticks(low, high))}
    bar |= {"formatter": NumeralTickFormatter(format="0,0.[0]")}
    colours: dict[str, Any] = {"colorbar": True, "cmap": COLOURS, "logz": True, "clim": (low, high)}
    colours["clabel"] = _bar_title(values)
    ellipse, cross = _point_columns(point, area)
    star = _site_columns(site)
    written = hv.Labels(_name_columns(receivers, area), axes, ["name", "align", "baseline"])
    text = {"text_align": "align", "text_baseline": "baseline", "text_font_size": "9pt"}
    halo = {"text_color": "white", "text_outline_color": "white"}
    triangle = {"marker": "triangle", "size": 13, "color": "white", "line_color": INK, "line_width": 1.5}
    crossed = {"marker": "cross", "size": 13, "color": _POINT, "line_width": 2}
    starred = {"marker": "star", "size": 18, "color": _STAR, "line_color": "white", "line_width": 1}
    layers = [
        image.opts(**colours, colorbar_opts=bar, hooks=_named("field"), backend="bokeh"),
        hv.Curve(ellipse, *axes).opts(color=_POINT, line_width=2, hooks=_named("ellipse"), backend="bokeh"),
        hv.Points(cross, axes).opts(**crossed, hooks=_named("point"), backend="bokeh"),
        hv.Points(star, axes).opts(**starred, hooks=_named("site"), backend="bokeh"),
        written.opts(**text, **halo, hooks=_named("halo"), clone=True, backend="bokeh"),
        written.opts(**text, text_color=TRUTH, hooks=_named("names"), clone=True, backend="bokeh"),
        hv.Points(_receiver_columns(receivers), axes, "receiver").opts(
            **triangle, nonselection_alpha=1.0, hooks=_named("receivers"), backend="bokeh"
        ),
    ]
    frame = {"frame_width": FRAME_PX[0], "frame_height": FRAME_PX[1], "xlim": area[0], "ylim": area[1]}
    options = MAP_OPTIONS | frame | {"show_legend": False, "show_grid": False}
    return hv.Overlay(layers).opts(**options, backend="bokeh")


def redraw_network(
    figure: Any,
    bound: xr.Dataset,
    variable: str,
    receivers: Sequence[Receiver],
    area: tuple[tuple[float, float], ...],
    point: xr.Dataset | None = None,
    site: tuple[float, float] | None = None,
) -> None:
    """Put other data into the Bokeh figure of a `network_map` of the same area; its view stays as it is.

    Parameters
    ----------
    figure : bokeh.plotting.figure
    bound, variable, receivers, area, point, site
        As `network_map` takes them.
    """
    values = bound[variable].transpose("latitude", "longitude")
    low, high = colour_limits(values.values)
    layers = {renderer.name: renderer for renderer in figure.renderers}  # figure.select takes 6 ms each time
    bar = next(panel for panel in figure.right if isinstance(panel, ColorBar))
    bar.update(title=_bar_title(values), ticker=FixedTicker(ticks=log_ticks(low, high)))
    field = layers["field"]
    field.glyph.color_mapper.update(low=low, high=high)
    ellipse, cross = _point_columns(point, area)
    _put(field, {"image": [_single(values)]})
    _put(layers["ellipse"], ellipse)
    _put(layers["point"], cross)
    _put(layers["site"], _site_columns(site))
    _put(layers["receivers"], _receiver_columns(receivers))
    names = _name_columns(receivers, area)
    styled = {"text_align": names["align"], "text_baseline": names["baseline"]}  # HoloViews' columns of the styles
    for name in ("halo", "names"):
        _put(layers[name], names | styled)


def _named(name: str) -> list[Callable[[Any, Any], None]]:
    """Give the renderer of a layer a name by which it is found again."""
    return [lambda plot, _element: setattr(plot.handles["glyph_renderer"], "name", name)]


def _put(renderer: Any, columns: Mapping[str, Any]) -> None:
    """Replace what has changed of a layer's columns."""
    source = renderer.data_source
    held = {name: source.data.get(name) for name in columns}
    if any(not np.array_equal(held[name], columns[name]) for name in columns):
        source.data = {**source.data, **columns}


def _single(values: xr.DataArray) -> np.ndarray:
    """Values in single precision, which travel in half the time."""
    return values.values.astype(np.float32)


def _bar_title(values: xr.DataArray) -> str:
    unit = "" if values.units == "1" else f", {values.units}"
    return f"{LABELS[str(values.name)]}{unit}"


def _degrees(place: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of longitudes and latitudes (P, 2)."""
    return {"longitude_deg": place[:, 0], "latitude_deg": place[:, 1]}


def _place(receivers: Sequence[Receiver]) -> np.ndarray:
    return np.array([(receiver.longitude_deg, receiver.latitude_deg) for receiver in receivers])


def _receiver_columns(receivers: Sequence[Receiver]) -> dict[str, Any]:
    return _degrees(_place(receivers)) | {"receiver": np.array([receiver.name for receiver in receivers])}


def _name_columns(receivers: Sequence[Receiver], area: tuple[tuple[float, float], ...]) -> dict[str, Any]:
    """Names beside the receivers, at a distance that zooming does not change: blanks of the text make it."""
    shrink = math.cos(math.radians(sum(area[1]) / 2))
    padded = {"left": "   {}", "right": "{}   ", "top": " \n{}", "bottom": "{}\n "}
    names = [receiver.name for receiver in receivers]
    limits = area[0][0] * shrink, area[0][1] * shrink
    placed = place_labels(_place(receivers) * [shrink, 1.0], names, limits, FRAME_PX[0])
    sides = [side for *_, side in placed]
    beside = [side in ("left", "right") for side in sides]
    return _degrees(_place(receivers)) | {
        "name": np.array([padded[side].format(name) for name, side in zip(names, sides, strict=True)]),
        "align": np.array([side if level else "center" for side, level in zip(sides, beside, strict=True)]),
        "baseline": np.array(["middle" if level else side for side, level in zip(sides, beside, strict=True)]),
    }


def _point_columns(
    point: xr.Dataset | None, area: tuple[tuple[float, float], ...]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outline of the ellipse that holds 95 % of the errors at a point, enlarged to be seen, and the point."""
    if point is None:
        return _degrees(np.empty((0, 2))), _degrees(np.empty((0, 2)))
    place = np.array([[float(point.longitude[0]), float(point.latitude[0])]])
    east_m, north_m = bounds.ellipse(point.crlb_covariance.values[0, 0]).T * enlargement(point, area)
    latitude, longitude = geodesy.displace(place[0, 1], place[0, 0], east_m, north_m)
    return _degrees(np.stack([longitude, latitude], axis=-1)), _degrees(place)


def _site_columns(site: tuple[float, float] | None) -> dict[str, np.ndarray]:
    return _degrees(np.empty((0, 2)) if site is None else np.array([site]))


def enlargement(point: xr.Dataset, area: tuple[tuple[float, float], ...]) -> float:
    """Power of ten by which the ellipse at a point is enlarged on the map of an area; 1 where it is large itself."""
    reach_m = 2 * float(bounds.principal_axes(point.crlb_covariance.values[0, 0])[0])
    height_m = (area[1][1] - area[1][0]) * _METRES_PER_DEGREE
    return max(1.0, 10.0 ** math.floor(math.log10(height_m / 4 / reach_m))) if math.isfinite(reach_m) else 1.0


def point_text(bound: xr.Dataset, area: tuple[tuple[float, float], ...]) -> str:
    """Say in words what `coverage.bound_map` found at one point of the map of an area, as Markdown."""
    here = bound.isel(latitude=0, longitude=0)
    place = position_text(float(here.latitude), float(here.longitude))
    heard = f"{int(here.receivers_with_signal)} of {bound.sizes['receiver']} receivers with signal"
    if not np.isfinite(here.crlb_rmse):
        return f"**{place}**: not observable; {heard}."
    major, minor, azimuth_deg = bounds.principal_axes(here.crlb_covariance.values)
    across = 2 * math.sqrt(radius_squared(0.95))
    ellipse = " × ".join(length_text(float(axis) * across) for axis in (major, minor))
    enlarged = enlargement(bound, area)
    drawn = f" (drawn {enlarged:,.0f} times larger)" if enlarged > 1 else ""
    return (
        f"**{place}**: GDOP {float(here.gdop):.2f}; bound {length_text(float(here.crlb_rmse))} rms; CEP50 "
        f"{length_text(float(here.cep50))}; 95 % ellipse {ellipse}, long axis {float(azimuth_deg):.0f}° from north to "
        f"east{drawn}; {heard}."
    )


def site_text(sites: xr.Dataset) -> str:
    """Say in words what `coverage.best_site` found, as Markdown."""
    place = position_text(float(sites.best_latitude), float(sites.best_longitude))
    now_m, then_m = float(sites.mean_rmse_now), float(sites.mean_rmse.min())
    return (
        f"**Best place for one more receiver** (star): {place}. The mean bound over this area falls from "
        f"{length_text(now_m)} to {length_text(then_m)}, by {1 - then_m / now_m:.0%}."
    )
