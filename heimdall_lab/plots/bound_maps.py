"""Maps of the error bound over an area: GDOP, Cramér-Rao bound and CEP50, the best site, and a network being laid out.

`bound_map`, `bound_ellipses` and `site_map` are finished pictures. `network_map` is redrawn in place while a network is
laid out; `point_text` and `site_text` say in words what it shows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import FixedTicker
from bokeh.models.annotations import ColorBar

from heimdall_lab.core import geodesy
from heimdall_lab.core.receivers import Receiver, longitudes_deg
from heimdall_lab.core.text import length_text, position_text
from heimdall_lab.core.units import METRES_PER_DEGREE
from heimdall_lab.localization import ellipses
from heimdall_lab.localization.delay_law import LAW_NAMES
from heimdall_lab.localization.error_law import radius_squared
from heimdall_lab.plots.ground import ground_layer
from heimdall_lab.plots.labels import (
    OPEN_TRIANGLE,
    label_boxes,
    label_columns,
    label_layers,
    longitude_scale,
    receiver_layers,
)
from heimdall_lab.plots.projections import degrees, map_axes
from heimdall_lab.plots.style import MAP_OPTIONS, MAP_PX, TRUTH, log_colours, log_ticks, map_limits

LABELS = {"gdop": "TDOA GDOP", "crlb_rmse": "Cramér-Rao bound, rms", "cep50": "CEP50", "mean_rmse": "mean bound, rms"}
FRAME_PX = (560, 410)  # of a network's map

Area = tuple[tuple[float, float], ...]  # (low, high) of longitude and of latitude, degrees

_ELLIPSES_ACROSS = 7  # along the longer side of a map
_MARGIN = 0.15  # of the network's extent, around it
_LEAST_DEG = 0.02  # from the middle of an area to its edges
_SITE_COLOUR, _POINT_COLOUR = "#D55E00", "#000000"


def bound_map(bound: xr.Dataset, variable: str = "crlb_rmse", limits: tuple[float, float] | None = None) -> hv.Overlay:
    """Draw GDOP, Cramér-Rao bound or CEP50 over an area on a logarithmic colour scale, and the receivers.

    Parameters
    ----------
    bound : xr.Dataset
        Result of `coverage.bound_map`. What is not observable stays white.
    variable : str
        ``gdop``, ``crlb_rmse`` or ``cep50``.
    limits : (low, high), optional
        Of the colours; by default what holds all but the most extreme 1 % on either side.

    Raises
    ------
    ValueError
        If the map has but one row or column.
    """
    values = bound[variable].transpose("latitude", "longitude")
    return _area_map(bound, values, _label(values), limits)


def bound_ellipses(bound: xr.Dataset, limits: tuple[float, float] | None = None) -> hv.Overlay:
    """Draw the Cramér-Rao bound with ellipses that hold 95 % of the errors at some points, all enlarged alike.

    Those that would cover their neighbours are left out; the colours tell where.

    Parameters
    ----------
    bound : xr.Dataset
        Result of `coverage.bound_map`.
    limits : (low, high), optional
        Of the colours, m.

    Raises
    ------
    ValueError
        If the map has but one row or column.
    """
    _require_area(bound.crlb_rmse)
    step = max(1, len(bound.longitude) // _ELLIPSES_ACROSS)
    centres = bound.isel(latitude=slice(step // 2, None, step), longitude=slice(step // 2, None, step))
    outline_m = ellipses.ellipse(centres.crlb_covariance.values)  # (latitude, longitude, points, 2)
    reach_m = np.abs(outline_m).max(axis=(2, 3))
    spacing_m = step * float(bound.latitude[1] - bound.latitude[0]) * METRES_PER_DEGREE
    typical_m = float(np.nanmedian(reach_m)) if np.isfinite(reach_m).any() else spacing_m
    factor = _enlargement(spacing_m / 2, typical_m)
    outline_deg = outline_m * factor / METRES_PER_DEGREE
    outline_deg[..., 0] /= np.cos(np.radians(centres.latitude.values))[:, None, None]
    centre_deg = np.stack(np.meshgrid(centres.longitude, centres.latitude), axis=-1)[:, :, None]
    paths = list((centre_deg + outline_deg)[reach_m * factor < spacing_m])  # false where not observable
    lines = hv.Path(paths, map_axes()).opts(color=TRUTH, line_width=1.5, backend="bokeh")
    title = f"{_label(bound.crlb_rmse)}, and 95 % ellipses enlarged {factor:g} times"
    return _area_map(bound, bound.crlb_rmse.transpose("latitude", "longitude"), title, limits, lines)


def site_map(sites: xr.Dataset) -> hv.Overlay:
    """Draw the mean bound over an area that one more receiver at each site would leave, and the best site as a star.

    Parameters
    ----------
    sites : xr.Dataset
        Result of `coverage.best_site`.

    Raises
    ------
    ValueError
        If the map has but one row or column of sites.
    """
    names = {"site_latitude": "latitude", "site_longitude": "longitude"}
    values = sites.mean_rmse.rename(names).transpose("latitude", "longitude")
    place = (float(sites.best_longitude), float(sites.best_latitude))
    star = hv.Points([place], map_axes(), label="best site")
    now, then = (length_text(float(value)) for value in (sites.mean_rmse_now, sites.mean_rmse.min()))
    law = LAW_NAMES[sites.mean_rmse.law]
    title = f"Mean bound ({law}) with one more receiver there: {now} now, {then} with it at the star"
    return _area_map(sites, values, title, None, star.opts(marker="star", size=17, color=TRUTH, backend="bokeh"))


def network_area(receivers: Sequence[Receiver]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits in longitude and latitude of a map around receivers, in the shape of its frame, degrees."""
    place = _place(receivers)
    middle = (place.min(axis=0) + place.max(axis=0)) / 2
    spread = np.concatenate([place, [middle - _LEAST_DEG, middle + _LEAST_DEG]])
    return map_limits(spread, margin=_MARGIN, x_scale=longitude_scale(float(middle[1])), frame_px=FRAME_PX)


def network_map(
    bound: xr.Dataset,
    variable: str,
    receivers: Sequence[Receiver],
    area: Area,
    point: xr.Dataset | None = None,
    site: tuple[float, float] | None = None,
) -> hv.Overlay:
    """Draw GDOP, Cramér-Rao bound or CEP50 in colours, receivers, an ellipse at a point and the best site.

    ``bound`` is the result of `coverage.bound_map` over the area, ``variable`` its ``gdop``, ``crlb_rmse`` or
    ``cep50``. The area, of longitudes and latitudes, is as `network_area` returns it. ``point`` is the result of
    `coverage.bound_map` at the place of the 95 % ellipse; ``site``, where the star is, has longitude and latitude. All
    angles are in degrees. What is not observable stays blank. `redraw_network` puts other data into the figure that is
    made of it.
    """
    axes = map_axes()
    values = bound[variable].transpose("latitude", "longitude")
    image = hv.Image((values.longitude.values, values.latitude.values, _float32(values)), axes, "value", rtol=1e-3)
    columns = _layer_columns(receivers, area, point, site)
    halo, names = label_layers(columns["names"], axes, halo=True)
    triangles = hv.Points(columns["receivers"], axes, "receiver")
    cross = {"marker": "cross", "size": 13, "color": _POINT_COLOUR, "line_width": 2}
    star = {"marker": "star", "size": 18, "color": _SITE_COLOUR, "line_color": "white", "line_width": 1}
    layers = {
        "field": image.opts(**log_colours(*colour_limits(values.values), _bar_title(values)), backend="bokeh"),
        "ellipse": hv.Curve(columns["ellipse"], *axes).opts(color=_POINT_COLOUR, line_width=2, backend="bokeh"),
        "point": hv.Points(columns["point"], axes).opts(**cross, backend="bokeh"),
        "site": hv.Points(columns["site"], axes).opts(**star, backend="bokeh"),
        "halo": halo,
        "names": names,
        "receivers": triangles.opts(**OPEN_TRIANGLE | {"size": 13}, nonselection_alpha=1.0, backend="bokeh"),
    }
    field, *others = [layer.opts(hooks=[_renderer_name(name)], backend="bokeh") for name, layer in layers.items()]
    taken = label_boxes(columns["names"], area[0], longitude_scale(sum(area[1]) / 2))
    ground = ground_layer(degrees(sum(area[0]) / 2), area[0], area[1], taken, on_colours=True)
    frame = {"frame_width": FRAME_PX[0], "frame_height": FRAME_PX[1], "xlim": area[0], "ylim": area[1]}
    options = MAP_OPTIONS | frame | {"show_legend": False, "show_grid": False}
    return hv.Overlay([field, ground, *others]).opts(**options, backend="bokeh")


def redraw_network(
    figure: Any,
    bound: xr.Dataset,
    variable: str,
    receivers: Sequence[Receiver],
    area: Area,
    point: xr.Dataset | None = None,
    site: tuple[float, float] | None = None,
) -> None:
    """Put other data into the Bokeh figure of a `network_map` of the same area; its view stays as it is."""
    values = bound[variable].transpose("latitude", "longitude")
    low, high = colour_limits(values.values)
    renderers = {renderer.name: renderer for renderer in figure.renderers}  # figure.select takes 6 ms each time
    bar = next(panel for panel in figure.right if isinstance(panel, ColorBar))
    bar.update(title=_bar_title(values), ticker=FixedTicker(ticks=log_ticks(low, high)))
    renderers["field"].glyph.color_mapper.update(low=low, high=high)
    columns = _layer_columns(receivers, area, point, site)
    names = columns["names"]
    styles = {"text_align": names["align"], "text_baseline": names["baseline"]}  # HoloViews' columns of the styles
    columns |= {"field": {"image": [_float32(values)]}, "names": names | styles, "halo": names | styles}
    for layer, new in columns.items():
        _update_columns(renderers[layer], new)


def point_text(bound: xr.Dataset, area: Area) -> str:
    """Say in words what `coverage.bound_map` found at one point of the map of an area, as Markdown."""
    here = bound.isel(latitude=0, longitude=0)
    place = position_text(float(here.latitude), float(geodesy.wrapped(here.longitude.values)))
    receivers = f"{int(here.receivers_with_signal)} of {bound.sizes['receiver']} receivers with signal"
    if not np.isfinite(here.crlb_rmse):
        return f"**{place}**: not observable; {receivers}."
    major, minor, azimuth_deg = ellipses.principal_axes(here.crlb_covariance.values)
    across = 2 * math.sqrt(radius_squared(0.95))
    ellipse = " × ".join(length_text(float(axis) * across) for axis in (major, minor))
    factor = _point_enlargement(bound, area)
    drawn = f" (drawn {factor:,.0f} times larger)" if factor > 1 else ""
    return (
        f"**{place}**: GDOP {float(here.gdop):.2f}; bound ({LAW_NAMES[here.crlb_rmse.law]}) "
        f"{length_text(float(here.crlb_rmse))} rms; CEP50 {length_text(float(here.cep50))}; "
        f"95 % ellipse {ellipse}, long axis {float(azimuth_deg):.0f}° from north to "
        f"east{drawn}; {receivers}."
    )


def site_text(sites: xr.Dataset) -> str:
    """Say in words what `coverage.best_site` found, as Markdown."""
    place = position_text(float(sites.best_latitude), float(geodesy.wrapped(sites.best_longitude.values)))
    now_m, then_m = float(sites.mean_rmse_now), float(sites.mean_rmse.min())
    return (
        f"**Best place for one more receiver** (star): {place}. The mean bound ({LAW_NAMES[sites.mean_rmse.law]}) over "
        f"this area falls from {length_text(now_m)} to {length_text(then_m)}, by {1 - then_m / now_m:.0%}."
    )


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


def _area_map(
    network: xr.Dataset,
    values: xr.DataArray,
    title: str,
    limits: tuple[float, float] | None,
    *layers: hv.Element,
) -> hv.Overlay:
    """Values (latitude, longitude) as colours, further layers, and the network's receivers with their names."""
    _require_area(values)
    quantity = hv.Dimension(str(values.name), label=_label(values), unit=_unit(values) or None)
    finite = values.values[np.isfinite(values.values)]
    low, high = limits or (np.percentile(finite, [1, 99]) if len(finite) else (1.0, 10.0))
    x, y = values.longitude.values, values.latitude.values
    image = hv.Image((x, y, values.values), map_axes(), quantity, rtol=1e-3)
    colours = log_colours(float(low), float(high), _bar_title(values))
    place = np.stack([network.receiver_longitude.values, network.receiver_latitude.values], axis=-1)
    names = [str(name) for name in network.receiver_name.values]
    x_scale = longitude_scale(float(y.mean()))
    receivers = receiver_layers(place, names, (x[0], x[-1]), x_scale, halo=True)
    x_range, y_range = _with_margin(x), _with_margin(y)
    taken = label_boxes(label_columns(place, names, map_axes(), (x[0], x[-1]), x_scale), x_range, x_scale)
    ground = ground_layer(degrees(sum(x_range) / 2), x_range, y_range, taken, on_colours=True)
    field = image.opts(**colours, tools=["hover"], backend="bokeh")
    height = round(MAP_PX[0] * (y[-1] - y[0]) / ((x[-1] - x[0]) * x_scale))
    options = MAP_OPTIONS | {"frame_height": height, "show_legend": False, "show_grid": False}
    return hv.Overlay([field, ground, *layers, *receivers]).opts(
        title=title, xlim=x_range, ylim=y_range, **options, backend="bokeh"
    )


def _require_area(values: xr.DataArray) -> None:
    for axis in ("latitude", "longitude"):
        if values.sizes[axis] < 2:
            raise ValueError(
                f"{axis}: the map has {values.sizes[axis]} value(s); at least 2 are needed to draw an area"
            )


def _with_margin(values: np.ndarray) -> tuple[float, float]:
    """Limits that leave room for a marker at the edge."""
    margin = (values[-1] - values[0]) / 50
    return float(values[0] - margin), float(values[-1] + margin)


def _unit(values: xr.DataArray) -> str:
    return "" if values.units == "1" else str(values.units)


def _label(values: xr.DataArray) -> str:
    """What the values are, and of what follows from a bound its law."""
    label = LABELS[str(values.name)]
    return f"{label} ({LAW_NAMES[values.law]})" if "law" in values.attrs else label


def _bar_title(values: xr.DataArray) -> str:
    return f"{_label(values)}, {_unit(values)}".rstrip(", ")


def _enlargement(room_m: float, reach_m: float) -> float:
    """Largest power of ten by which an ellipse of this reach still fits the room; 1 where it does not fit itself."""
    return max(1.0, 10.0 ** math.floor(math.log10(room_m / reach_m)))


def _point_enlargement(point: xr.Dataset, area: Area) -> float:
    """Factor by which the ellipse at a point is enlarged on the map of an area."""
    reach_m = 2 * float(ellipses.principal_axes(point.crlb_covariance.values[0, 0])[0])
    height_m = (area[1][1] - area[1][0]) * METRES_PER_DEGREE
    return _enlargement(height_m / 4, reach_m) if math.isfinite(reach_m) else 1.0


def _renderer_name(name: str) -> Callable[[Any, Any], None]:
    """Hook that names the renderer of a layer, so that it is found in the figure."""
    return lambda plot, _element: setattr(plot.handles["glyph_renderer"], "name", name)


def _update_columns(renderer: Any, columns: Mapping[str, Any]) -> None:
    """Replace the columns of a layer if any of them differs."""
    source = renderer.data_source
    if any(not np.array_equal(source.data.get(name), column) for name, column in columns.items()):
        source.data = {**source.data, **columns}


def _float32(values: xr.DataArray) -> np.ndarray:
    """Values in single precision, which travel in half the time."""
    return values.values.astype(np.float32)


def _place(receivers: Sequence[Receiver]) -> np.ndarray:
    return np.stack([longitudes_deg(receivers), [receiver.latitude_deg for receiver in receivers]], axis=-1)


def _degrees(place: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of longitudes and latitudes (P, 2)."""
    return {"longitude_deg": place[:, 0], "latitude_deg": place[:, 1]}


def _layer_columns(
    receivers: Sequence[Receiver], area: Area, point: xr.Dataset | None, site: tuple[float, float] | None
) -> dict[str, dict[str, Any]]:
    """Columns of the layers of a network's map except for its colours, by the layers' names."""
    place, names = _place(receivers), [receiver.name for receiver in receivers]
    x_scale = longitude_scale(sum(area[1]) / 2)
    return {
        "ellipse": _degrees(_point_ellipse(point, area)),
        "point": _degrees(_point_place(point)),
        "site": _degrees(np.empty((0, 2)) if site is None else np.array([site])),
        "names": label_columns(place, names, map_axes(), area[0], x_scale, FRAME_PX[0]),
        "receivers": _degrees(place) | {"receiver": np.array(names)},
    }


def _point_place(point: xr.Dataset | None) -> np.ndarray:
    """Longitude and latitude of a point (1, 2), or none (0, 2)."""
    return np.empty((0, 2)) if point is None else np.array([[float(point.longitude[0]), float(point.latitude[0])]])


def _point_ellipse(point: xr.Dataset | None, area: Area) -> np.ndarray:
    """Outline (points, 2) in degrees of the enlarged ellipse that holds 95 % of the errors at a point."""
    if point is None:
        return np.empty((0, 2))
    ((longitude_deg, latitude_deg),) = _point_place(point)
    east_m, north_m = ellipses.ellipse(point.crlb_covariance.values[0, 0]).T * _point_enlargement(point, area)
    latitude, longitude = geodesy.displace(latitude_deg, longitude_deg, east_m, north_m)
    return np.stack([longitude_deg + geodesy.wrapped(longitude - longitude_deg), latitude], axis=-1)
