"""The hyperbolas of measured time differences on the map of one scene."""

from collections.abc import Callable
from typing import NamedTuple

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.plotting.contour import contour_data

from heimdall_lab.core import geodesy, sky_wave
from heimdall_lab.core.text import microseconds_text
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import paths
from heimdall_lab.plots.ground import ground_layer
from heimdall_lab.plots.labels import label_boxes, label_columns, label_layers, longitude_scale
from heimdall_lab.plots.projections import Projection, degrees
from heimdall_lab.plots.scene_layers import (
    drawn_fixes,
    fix_layers,
    mean_position,
    projected_places,
    receiver_positions,
    scene_receiver_layers,
    truth_layers,
)
from heimdall_lab.plots.style import MAP_OPTIONS, load_measured_scene, map_limits, receiver_names

_LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#999933")
_LINE_DASHES = ("solid", "dashed", "dotted")
_GRID = 240  # points along each side of the grid that hyperbolas are traced on


class Hyperbolas(NamedTuple):
    """Limits of a map in degrees, and by receiver the line (points, 2) of each measured time difference on it."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    lines: dict[int, np.ndarray]


def trace_hyperbolas(dataset: xr.Dataset, sample: int, fixes: xr.Dataset | None = None) -> Hyperbolas:
    """Compute the lines that `hyperbolas` draws of the same arguments, which takes a third of a second of geodesics."""
    scene = load_measured_scene(dataset, sample)
    places = projected_places(scene, drawn_fixes(scene, fixes), _degrees(scene))
    x_range, y_range = map_limits(places, margin=0.25, x_scale=longitude_scale(float(places[:, 1].mean())))
    x, y = (np.linspace(*limits, _GRID) for limits in (x_range, y_range))
    reference = int(scene.reference_receiver)
    range_m = _distance_to(scene, x, y, _reflection_height_m(scene, fixes))
    reference_m = range_m(reference)
    lines = {}
    for index in np.flatnonzero(scene.heard.values & (np.arange(len(scene.heard)) != reference)):
        mismatch_m = range_m(int(index)) - reference_m - float(scene.tdoa_s[index]) * SPEED_OF_LIGHT
        zero = contour_data(x, y, mismatch_m, [0.0], want_fill=False).line_data
        line = np.stack([zero.xs[0], zero.ys[0]], axis=-1) if zero and len(zero.xs) else np.full((1, 2), np.nan)
        lines[int(index)] = line
    return Hyperbolas(x_range, y_range, lines)


def hyperbolas(
    dataset: xr.Dataset,
    sample: int,
    fixes: xr.Dataset | None = None,
    traced: Hyperbolas | None = None,
) -> hv.Overlay:
    """Draw the lines on which a transmitter would cause each measured time difference; they cross where it stands.

    The axes are longitude and latitude, with equal scales at the middle.

    Parameters
    ----------
    dataset : xr.Dataset
        ``propagation`` decides between straight, geodesic and reflected paths; these at the height of the first fix.
    sample : int
        Label of the scene along ``sample``.
    fixes : xr.Dataset, optional
        As `estimators.locate` or `leaderboard.compare` return them.
    traced : Hyperbolas, optional
        Result of `trace_hyperbolas` for the same, if at hand.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    x_range, y_range, lines = traced or trace_hyperbolas(dataset, sample, fixes)
    scene = load_measured_scene(dataset, sample)
    projection = _degrees(scene)
    names, reference = scene.receiver_name.values, int(scene.reference_receiver)
    layers: list[hv.Element] = []
    for index, line in lines.items():
        label = f"{names[index]} − {names[reference]}: {microseconds_text(float(scene.tdoa_s[index]))}"
        style = {
            "color": _LINE_COLOURS[len(layers) % len(_LINE_COLOURS)],
            "line_dash": _LINE_DASHES[len(layers) // len(_LINE_COLOURS)],
        }
        layers.append(hv.Curve(line, *projection.axes, label=label).opts(**style, line_width=1.5, backend="bokeh"))
    place = projection.project(receiver_positions(scene))
    x_scale = longitude_scale(sum(y_range) / 2)
    columns = label_columns(place, receiver_names(scene), projection.axes, x_range, x_scale)
    ground = ground_layer(projection, x_range, y_range, label_boxes(columns, x_range, x_scale))
    layers += scene_receiver_layers(scene, projection)
    layers += label_layers(columns, projection.axes)
    layers += truth_layers(scene, projection)
    for fix in drawn_fixes(scene, fixes):
        layers += fix_layers(fix, projection, ellipse=False)
    title = f"Sample {sample}: lines of constant measured time difference"
    return hv.Overlay([ground, *layers]).opts(title=title, xlim=x_range, ylim=y_range, **MAP_OPTIONS, backend="bokeh")


def _degrees(scene: xr.Dataset) -> Projection:
    """Longitude and latitude around the receivers."""
    return degrees(float(mean_position(scene)[1]))


def _reflection_height_m(scene: xr.Dataset, fixes: xr.Dataset | None) -> float:
    """Height of the ionosphere by the first fix that says it, or as it is known beforehand."""
    if fixes is not None and "reflection_height_m" in fixes:
        found = fixes["reflection_height_m"].sel(sample=scene.sample.item()).values.ravel()
        if np.isfinite(found).any():
            return float(found[np.isfinite(found)][0])
    return paths.reflection_prior(scene.attrs)[0]


def _distance_to(
    scene: xr.Dataset, longitude: np.ndarray, latitude: np.ndarray, reflection_height_m: float
) -> Callable[[int], np.ndarray]:
    """Distance in m from each point of a grid to a receiver, (latitude, longitude), along the links' kind of path."""
    receiver = [scene[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude")]
    if scene.attrs["propagation"] == "line_of_sight":
        position = geodesy.ecef(*receiver)
        grid = geodesy.ecef(latitude[:, None], longitude[None], mean_position(scene)[2])
        return lambda r: np.linalg.norm(grid - position[r], axis=-1)

    def along_ground(r: int) -> np.ndarray:
        return geodesy.geodesic(latitude[:, None], longitude[None], receiver[0][r], receiver[1][r])[0]

    if scene.attrs["propagation"] == "ground_wave":
        return along_ground
    return lambda r: sky_wave.hop(along_ground(r), np.asarray(reflection_height_m))[0]
