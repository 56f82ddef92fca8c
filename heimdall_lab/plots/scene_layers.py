"""The layers of one scene's map: its receivers, its true transmitter, and the fixes of methods."""

import math
from typing import NamedTuple

import holoviews as hv
import numpy as np
import xarray as xr

from heimdall_lab.core import geodesy
from heimdall_lab.core.text import length_text
from heimdall_lab.datasets import schema
from heimdall_lab.localization import ellipses
from heimdall_lab.localization.sentences import SHORT_STATUS, rivals
from heimdall_lab.plots.labels import TRIANGLE
from heimdall_lab.plots.projections import Projection, tangent_plane
from heimdall_lab.plots.style import INK, TRUTH, method_styles, receiver_names

ELLIPSE_LEVEL = 0.95


class DrawnFix(NamedTuple):
    """One method's fix: ECEF position (3,) m, the law of its errors along east and north, and how it is drawn.

    What is no fix is its best candidate.
    """

    method: str
    label: str
    position: np.ndarray
    covariance: np.ndarray
    freedom: float
    colour: str
    marker: str
    error_m: float
    is_fix: bool
    rivals: np.ndarray  # (K, 3), ECEF positions of other places that fit as well


def receiver_positions(scene: xr.Dataset) -> np.ndarray:
    """ECEF positions (P, 3) m of the present receivers."""
    present = scene.receiver_present.values
    return geodesy.ecef(*(scene[f"receiver_{name}"].values[present] for name in ("latitude", "longitude", "altitude")))


def mean_position(scene: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean latitude, longitude (degrees) and altitude (m) of the present receivers."""
    present = scene.receiver_present.values
    latitude, longitude, altitude = (
        scene[f"receiver_{name}"].values[present] for name in ("latitude", "longitude", "altitude")
    )
    return *geodesy.tangent_plane_origin(latitude, longitude), altitude.mean()


def transmitter_position(scene: xr.Dataset) -> np.ndarray | None:
    """ECEF position (3,) m of the transmitter, None where it is unknown."""
    latitude, longitude, altitude = (
        scene[f"transmitter_{name}"].values for name in ("latitude", "longitude", "altitude")
    )
    return geodesy.ecef(latitude, longitude, np.nan_to_num(altitude)) if np.isfinite(latitude + longitude) else None


def scene_plane(scene: xr.Dataset) -> Projection:
    """Kilometres east and north of the centroid of the present receivers, the origin that `estimators.locate` takes."""
    latitude, longitude, _ = mean_position(scene)
    return tangent_plane(float(latitude), float(longitude))


def projected_places(scene: xr.Dataset, drawn: list[DrawnFix], projection: Projection) -> np.ndarray:
    """Map coordinates (P, 2) of the receivers, of the fixes and their rivals, and of the transmitter if it is known."""
    truth = transmitter_position(scene)
    positions = [receiver_positions(scene), *(np.concatenate([fix.position[None], fix.rivals]) for fix in drawn)]
    return projection.project(np.concatenate(positions if truth is None else [*positions, truth[None]]))


def drawn_fixes(scene: xr.Dataset, fixes: xr.Dataset | None) -> list[DrawnFix]:
    """Read the fixes of one scene, with or without the dim ``method``; of a reference, errors are no test and NaN."""
    if fixes is None:
        return []
    each = fixes.sel(sample=scene.sample.item())
    if "method" not in each.dims:
        each = each.expand_dims(method=[each.attrs.get("method", "fix")])
    altitude_m = mean_position(scene)[2]
    is_tested = transmitter_position(scene) is not None and not schema.references(scene.expand_dims("sample"))[0]
    styles = method_styles(str(name) for name in each.method.values)
    drawn = []
    for name, (colour, marker) in styles.items():
        fix = each.sel({"method": name})  # as a keyword, method is the inexact look-up
        distance, _ = geodesy.geodesic(
            fix.latitude.values, fix.longitude.values, scene.transmitter_latitude, scene.transmitter_longitude
        )
        error_m = distance.item() if is_tested else math.nan
        status = str(fix.status.values)
        label = f"{name}: {length_text(error_m)} off" if math.isfinite(error_m) else name
        label = label if status == "ok" else f"{name}: no fix ({SHORT_STATUS[status]})"
        position = geodesy.ecef(fix.latitude.values, fix.longitude.values, altitude_m)
        law = fix.covariance.values, fix.freedom.item()
        others = np.array([rival[:2] for rival in rivals(fix)]).reshape(-1, 2)
        other_positions = geodesy.ecef(others[:, 0], others[:, 1], np.full(len(others), altitude_m))
        drawn.append(DrawnFix(name, label, position, *law, colour, marker, error_m, status == "ok", other_positions))
    return drawn


def fix_ellipse(fix: DrawnFix) -> np.ndarray:
    """Outline of the 95 % ellipse on the tangent plane at the fix, ECEF (points, 3) m."""
    latitude, longitude, _ = geodesy.geodetic(fix.position)
    outline = ellipses.ellipse(fix.covariance, ELLIPSE_LEVEL, freedom=fix.freedom)
    return fix.position + outline @ geodesy.enu_axes(latitude, longitude)[:2]


def fix_layers(
    fix: DrawnFix, projection: Projection, label: str | None = None, *, ellipse: bool = True
) -> list[hv.Element]:
    """Marker and ellipse of one fix, under one legend entry: its own label unless another is given; and its rivals."""
    label = label or fix.label
    others = _rival_layers(fix, projection)
    row = [(*projection.project(fix.position[None])[0], fix.method, length_text(fix.error_m))]
    marker = hv.Points(row, projection.axes, ["method", "error"], label=label).opts(
        marker=fix.marker,
        size=13,
        color=fix.colour,
        fill_alpha=0,
        line_width=2.5,
        tools=["hover"],
        hover_tooltips=["method", "error"],
        backend="bokeh",
    )
    if not ellipse:
        return [*others, marker]
    outline = hv.Curve(projection.project(fix_ellipse(fix)), *projection.axes, label=label)
    dash = "solid" if fix.is_fix else "dotted"
    return [outline.opts(color=fix.colour, line_width=1.5, line_dash=dash, backend="bokeh"), *others, marker]


def _rival_layers(fix: DrawnFix, projection: Projection) -> list[hv.Element]:
    """Small open circles where a method's measurements fit as well."""
    if not len(fix.rivals):
        return []
    place = projection.project(fix.rivals)
    columns = (*place.T, np.full(len(place), fix.method))
    points = hv.Points(columns, projection.axes, ["method"], label=f"{fix.method}: fits as well")
    style = {"marker": "circle", "size": 7, "color": fix.colour, "fill_alpha": 0, "line_width": 1.5}
    return [points.opts(**style, tools=["hover"], hover_tooltips=["method"], backend="bokeh")]


def scene_receiver_layers(scene: xr.Dataset, projection: Projection) -> list[hv.Element]:
    """Receivers as triangles: filled with signal, hollow without."""
    present = scene.receiver_present.values
    with_signal = scene.signal_present.values[present] if "signal_present" in scene else present[present]
    place, names = projection.project(receiver_positions(scene)), np.array(receiver_names(scene))
    snr = scene.snr.values[present]
    snr_text = np.array([f"{value:.1f} dB" if math.isfinite(value) else "unknown" for value in snr])
    layers = []
    for chosen, label, alpha in (
        (with_signal, "receiver with signal", 1.0),
        (~with_signal, "receiver without signal", 0.0),
    ):
        if chosen.any():
            columns = (*place[chosen].T, names[chosen], snr_text[chosen])
            points = hv.Points(columns, projection.axes, ["receiver", "snr"], label=label)
            options = TRIANGLE | {"color": INK, "fill_alpha": alpha}
            hover = {"tools": ["hover"], "hover_tooltips": ["receiver", ("SNR", "@snr")]}
            layers.append(points.opts(**options, **hover, backend="bokeh"))
    return layers


def truth_layers(scene: xr.Dataset, projection: Projection) -> list[hv.Element]:
    """The true transmitter as a black star."""
    position = transmitter_position(scene)
    if position is None:
        return []
    star = hv.Points(projection.project(position[None]), projection.axes, label="transmitter")
    return [star.opts(marker="star", size=17, color=TRUTH, backend="bokeh")]
