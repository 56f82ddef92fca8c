"""Maps of what a network can locate, and of where one more receiver helps."""

import math
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import NumeralTickFormatter

from heimdall_lab.core.text import length_text
from heimdall_lab.localization import bounds
from heimdall_lab.plots.labels import label_layers, map_axes, place_labels
from heimdall_lab.plots.style import COLOURS, INK, MAP_OPTIONS, MAP_PX, TRUTH, log_ticks

LABELS = {"gdop": "TDOA GDOP", "crlb_rmse": "Cramér-Rao bound, rms", "cep50": "CEP50", "mean_rmse": "mean bound, rms"}
_ACROSS = 7  # ellipses along the longer side of a map
_METRES_PER_DEGREE = 6_371_000 * math.pi / 180


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
    return _area(bound, values, LABELS[variable], limits)


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
    step = max(1, len(bound.longitude) // _ACROSS)
    some = bound.isel(latitude=slice(step // 2, None, step), longitude=slice(step // 2, None, step))
    outline_m = bounds.ellipse(some.crlb_covariance.values)  # (latitude, longitude, points, 2)
    reach_m = np.abs(outline_m).max(axis=(2, 3))
    spacing_m = step * float(bound.latitude[1] - bound.latitude[0]) * _METRES_PER_DEGREE
    typical_m = float(np.nanmedian(reach_m)) if np.isfinite(reach_m).any() else spacing_m
    enlarged = max(1.0, 10.0 ** math.floor(math.log10(spacing_m / 2 / typical_m)))
    shrink = np.cos(np.radians(some.latitude.values))[:, None]
    outline_deg = outline_m * enlarged / _METRES_PER_DEGREE
    outline_deg[..., 0] /= shrink[..., None]
    centre = np.stack(np.meshgrid(some.longitude, some.latitude), axis=-1)[:, :, None]
    paths = list((centre + outline_deg)[reach_m * enlarged < spacing_m])  # false where not observable
    lines = hv.Path(paths, map_axes()).opts(color=TRUTH, line_width=1.5, backend="bokeh")
    title = f"{LABELS['crlb_rmse']}, and 95 % ellipses enlarged {enlarged:g} times"
    return _area(bound, bound.crlb_rmse.transpose("latitude", "longitude"), title, limits, lines)


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
    title = f"Mean bound with one more receiver there: {now} now, {then} with it at the star"
    return _area(sites, values, title, None, star.opts(marker="star", size=17, color=TRUTH, backend="bokeh"))


def _area(
    network: xr.Dataset,
    values: xr.DataArray,
    title: str,
    limits: tuple[float, float] | None,
    *layers: hv.Element,
) -> hv.Overlay:
    """Values (latitude, longitude) as colours, further layers, and the network's receivers with their names."""
    _require_area(values)
    label, unit = LABELS[str(values.name)], "" if values.units == "1" else values.units
    axes, field = map_axes(), hv.Dimension(str(values.name), label=label, unit=unit or None)
    finite = values.values[np.isfinite(values.values)]
    low, high = limits or (np.percentile(finite, [1, 99]) if len(finite) else (1.0, 10.0))
    image = hv.Image((values.longitude.values, values.latitude.values, values.values), axes, field, rtol=1e-3)
    bar: dict[str, Any] = {"colorbar": True, "clabel": f"{label}, {unit}".rstrip(", "), "cmap": COLOURS}
    bar |= {"cticks": log_ticks(low, high), "cformatter": NumeralTickFormatter(format="0,0.[0]")}
    colours = image.opts(logz=True, clim=(float(low), float(high)), tools=["hover"], **bar, backend="bokeh")
    place = np.stack([network.receiver_longitude.values, network.receiver_latitude.values], axis=-1)
    names = [str(name) for name in network.receiver_name.values]
    points = hv.Points((*place.T, names), axes, "receiver", label="receiver")
    triangles = points.opts(marker="triangle", size=11, color="white", line_color=INK, line_width=1.5, backend="bokeh")
    x, y = (values[name].values for name in ("longitude", "latitude"))
    shrink = math.cos(math.radians(float(y.mean())))
    scaled = place * [shrink, 1.0]  # equal scales on both axes, as the boxes of names need
    labels = [(at[0] / shrink, *at[1:]) for at in place_labels(scaled, names, (x[0] * shrink, x[-1] * shrink))]
    halo = {"text_color": "white", "text_outline_color": "white", "backend": "bokeh"}  # an outline covers its own text
    written = [layer.opts(**halo) for layer in label_layers(labels, axes)]
    written += [layer.opts(text_color=TRUTH, backend="bokeh") for layer in label_layers(labels, axes)]
    height = round(MAP_PX[0] * (y[-1] - y[0]) / ((x[-1] - x[0]) * shrink))
    options = MAP_OPTIONS | {"frame_height": height, "show_legend": False, "show_grid": False}
    return hv.Overlay([colours, *layers, triangles, *written]).opts(
        title=title, xlim=_padded(x), ylim=_padded(y), **options, backend="bokeh"
    )


def _require_area(values: xr.DataArray) -> None:
    for axis in ("latitude", "longitude"):
        if values.sizes[axis] < 2:
            raise ValueError(
                f"{axis}: the map has {values.sizes[axis]} value(s); at least 2 are needed to draw an area"
            )


def _padded(values: np.ndarray) -> tuple[float, float]:
    """Limits that leave room for a marker at the edge."""
    margin = (values[-1] - values[0]) / 50
    return float(values[0] - margin), float(values[-1] + margin)
