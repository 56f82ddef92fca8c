"""Maps of receivers, transmitter, fixes and hyperbolas."""

import math
from collections.abc import Callable
from typing import NamedTuple

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import NumeralTickFormatter
from bokeh.plotting.contour import contour_data

from heimdall_lab.core import geodesy
from heimdall_lab.core.text import length_text, microseconds_text
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.localization import bounds
from heimdall_lab.plots.labels import label_layers, map_axes, place_labels
from heimdall_lab.plots.style import INK, MAP_OPTIONS, TRUTH, load_scene, method_styles, receiver_names, view

_LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#999933")

_ON_MAGMA = "#56B4E9"  # is seen on the map's colours, and beside it on light and dark pages

_LINE_DASHES = ("solid", "dashed", "dotted")

_LEVEL = 0.95  # of every ellipse

_GRID = 240  # points along each side of the grid that hyperbolas are traced on

Projection = Callable[[np.ndarray], np.ndarray]  # ECEF positions (P, 3) m to map coordinates (P, 2)


class _Map(NamedTuple):
    """Axes of a map and how Earth-centred positions land on them."""

    project: Projection
    kdims: list[hv.Dimension]


class _Drawn(NamedTuple):
    """One method's fix: ECEF position (3,) m, the law of its errors along east and north, and how it is drawn."""

    method: str
    label: str
    position: np.ndarray
    covariance: np.ndarray
    freedom: float
    colour: str
    marker: str
    error_m: float
    converged: bool


def scene_map(dataset: xr.Dataset, sample: int, fixes: xr.Dataset | None = None) -> hv.Overlay:
    """Draw one scene: receivers, true transmitter, and fixes with their 95 % ellipses.

    The axes are km east and north on the tangent plane at the centroid of the present receivers. The view holds
    receivers, transmitter and fixes; ellipses may reach beyond it.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract. Receivers without signal are hollow; an unknown transmitter is left out.
    sample : int
        Label of the scene along ``sample``.
    fixes : xr.Dataset, optional
        As `estimators.locate` or `metrics.compare` return them.

    Returns
    -------
    hv.Overlay

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene = load_scene(dataset, sample)
    receivers, _ = _receivers(scene)
    latitude, longitude, _ = _mean_position(scene)  # the origin that `estimators.locate` takes
    axes = [hv.Dimension(f"{axis}_km", label=axis, unit="km") for axis in ("east", "north")]
    on_map = _Map(lambda ecef: geodesy.enu(ecef, latitude, longitude)[:, :2] / 1e3, axes)
    places = [on_map.project(receivers), *_known(_transmitter(scene), on_map)]
    layers = _receiver_layers(scene, on_map)
    drawn = [] if fixes is None else _fixes(scene, fixes)
    places += [on_map.project(fix.position[None]) for fix in drawn]
    x_range, y_range = view(np.concatenate(places))
    labels = place_labels(places[0], receiver_names(scene), x_range)
    overlay = hv.Overlay([*layers, *label_layers(labels, on_map.kdims), *_truth_layers(scene, on_map)])
    overlay *= hv.Overlay([layer for fix in drawn for layer in _fix_layers(fix, fix.label, on_map)])
    title = f"Sample {sample}: network and fixes" if drawn else f"Sample {sample}: network"
    return overlay.opts(title=title, xlim=x_range, ylim=y_range, **MAP_OPTIONS, backend="bokeh")


def fix_map(dataset: xr.Dataset, sample: int, fixes: xr.Dataset) -> hv.Overlay:
    """Draw the surroundings of the transmitter: fixes, their 95 % ellipses and that of the Cramér-Rao bound.

    The axes are metres or kilometres east and north of the transmitter or, where it is unknown, of the fix with the
    smallest ellipse. Fixes that are many times further away than the best one are left out, and the legend says so.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract.
    sample : int
        Label of the scene along ``sample``.
    fixes : xr.Dataset
        As `estimators.locate` or `metrics.compare` return them; ``crlb_covariance`` is drawn if it is there.

    Returns
    -------
    hv.Overlay

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene = load_scene(dataset, sample)
    drawn = _fixes(scene, fixes)
    truth = _transmitter(scene)
    best = min(drawn, key=lambda fix: np.nan_to_num(np.trace(fix.covariance), nan=np.inf))
    centre = truth if truth is not None else best.position
    latitude, longitude, _ = geodesy.geodetic(centre)

    def metres(ecef: np.ndarray) -> np.ndarray:
        return geodesy.enu(ecef, latitude, longitude)[:, :2]

    bound = None if "crlb_covariance" not in fixes else fixes.crlb_covariance.sel(sample=sample).values
    outline = np.zeros((1, 2)) if bound is None else np.nan_to_num(bounds.ellipse(bound, _LEVEL))
    offsets = np.concatenate([metres(fix.position[None]) for fix in drawn])
    distances = np.hypot(*offsets.T)
    widest = 6 * max(distances.min(), np.abs(outline).max(), 1.0)
    near = distances <= widest
    ellipses = [metres(_ellipse_ecef(fix)) for fix, shown in zip(drawn, near, strict=True) if shown]
    places = [e for e in ellipses if np.hypot(*e.T).max() <= widest]  # false where not finite
    x_range, y_range = view(np.concatenate([offsets[near], outline, np.zeros((1, 2)), *places]), margin=0.1)
    unit, scale = ("km", 1e-3) if x_range[1] - x_range[0] > 4e3 else ("m", 1.0)
    axes = [hv.Dimension(f"{axis}_{unit}", label=axis, unit=unit) for axis in ("east", "north")]
    on_map = _Map(lambda ecef: metres(ecef) * scale, axes)
    layers = _truth_layers(scene, on_map)
    if bound is not None:
        style = {"color": TRUTH, "line_dash": "dashed", "line_width": 1.5}
        label = f"Cramér-Rao bound, 95 % (rms {length_text(np.sqrt(np.trace(bound)))})"
        layers.append(hv.Curve(outline * scale, *axes, label=label).opts(**style, backend="bokeh"))
    for fix, shown in zip(drawn, near, strict=True):
        layers += _fix_layers(fix, fix.label if shown else f"{fix.label} (outside)", on_map)
    around = "transmitter" if truth is not None else f"fix of {best.method}"
    return hv.Overlay(layers).opts(
        title=f"Sample {sample}: fixes around the {around}",
        xlim=tuple(np.multiply(x_range, scale)),
        ylim=tuple(np.multiply(y_range, scale)),
        **MAP_OPTIONS,
        backend="bokeh",
    )


def likelihood_map(
    dataset: xr.Dataset, sample: int, likelihood: xr.DataArray, fixes: xr.Dataset | None = None
) -> hv.Overlay:
    """Draw how likely every position is, given the IQ; the less likely half of the map has one colour.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract.
    sample : int
        Label of the scene along ``sample``.
    likelihood : xr.DataArray
        Result of `dpd.likelihood` for it.
    fixes : xr.Dataset, optional
        As `estimators.locate` or `metrics.compare` return them; drawn without their ellipses.

    Returns
    -------
    hv.Overlay
        On the axes of `scene_map`.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene = load_scene(dataset, sample)
    latitude, longitude, _ = _mean_position(scene)
    axes = [hv.Dimension(f"{axis}_km", label=axis, unit="km") for axis in ("east", "north")]
    on_map = _Map(lambda ecef: geodesy.enu(ecef, latitude, longitude)[:, :2] / 1e3, axes)
    east_km, north_km = (likelihood[name].values / 1e3 for name in ("east", "north"))
    level = hv.Dimension("log_likelihood", label="log likelihood below the best")
    image = hv.Image((east_km, north_km, likelihood.transpose("north", "east").values), axes, level, rtol=1e-3)
    colours = {"cmap": "magma", "clim": (float(likelihood.median()), 0.0), "colorbar": True, "clabel": level.label}
    colours["cformatter"] = NumeralTickFormatter(format="0,0")
    place, names = on_map.project(_receivers(scene)[0]), receiver_names(scene)
    triangles = hv.Points((*place.T, names), axes, "receiver", label="receiver")
    style = {"marker": "triangle", "size": 11, "fill_alpha": 0, "line_width": 1.5, "tools": ["hover"]}
    layers = [
        image.opts(**colours, backend="bokeh"),
        triangles.opts(**style, color=_ON_MAGMA, backend="bokeh"),
    ]
    if (position := _transmitter(scene)) is not None:
        star = hv.Points(on_map.project(position[None]), axes, label="transmitter")
        style = {"marker": "star", "size": 17, "fill_alpha": 0, "line_width": 1.5}
        layers.append(star.opts(**style, color=_ON_MAGMA, backend="bokeh"))
    for fix in [] if fixes is None else _fixes(scene, fixes):
        layers += _fix_layers(fix, fix.label, on_map, ellipse=False)
    options = MAP_OPTIONS | {"frame_width": MAP_OPTIONS["frame_height"], "show_grid": False}  # the map is a square
    limits = {"xlim": (east_km[0], east_km[-1]), "ylim": (north_km[0], north_km[-1])}
    title = f"Sample {sample}: what the IQ of all receivers says together"
    return hv.Overlay(layers).opts(title=title, **limits, **options, backend="bokeh")


class Hyperbolas(NamedTuple):
    """Limits of a map in degrees, and by receiver the line (points, 2) of each measured time difference on it."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    lines: dict[int, np.ndarray]


def trace_hyperbolas(
    dataset: xr.Dataset, sample: int, measured: xr.Dataset, fixes: xr.Dataset | None = None
) -> Hyperbolas:
    """Trace what `hyperbolas` draws: a third of a second of geodesics, which may be computed beside a page.

    Parameters
    ----------
    dataset, sample, measured, fixes
        As `hyperbolas` takes them.

    Returns
    -------
    Hyperbolas
    """
    scene, pairs = load_scene(dataset, sample), measured.sel(sample=sample)
    places = _places(scene, [] if fixes is None else _fixes(scene, fixes))
    shrink = math.cos(math.radians(float(np.concatenate(places)[:, 1].mean())))
    x_range, y_range = view(np.concatenate(places), margin=0.25, shrink=shrink)
    x, y = (np.linspace(*limits, _GRID) for limits in (x_range, y_range))
    reference = int(pairs.reference)
    range_m = _distance_to(scene, x, y)
    reference_m = range_m(reference)
    paths = {}
    for index in np.flatnonzero(pairs.heard.values & (np.arange(len(pairs.heard)) != reference)):
        off_m = range_m(int(index)) - reference_m - float(pairs.tdoa_s[index]) * SPEED_OF_LIGHT
        lines = contour_data(x, y, off_m, [0.0], want_fill=False).line_data
        path = np.stack([lines.xs[0], lines.ys[0]], axis=-1) if lines and len(lines.xs) else np.full((1, 2), np.nan)
        paths[int(index)] = path
    return Hyperbolas(x_range, y_range, paths)


def hyperbolas(
    dataset: xr.Dataset,
    sample: int,
    measured: xr.Dataset,
    fixes: xr.Dataset | None = None,
    traced: Hyperbolas | None = None,
) -> hv.Overlay:
    """Draw the lines on which a transmitter would cause each measured time difference; they cross where it stands.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract; ``propagation`` decides between geodesic and straight distances.
    sample : int
        Label of the scene along ``sample``.
    measured : xr.Dataset
        Result of `pairs.pair_features`; one line for each receiver that hears the signal.
    fixes : xr.Dataset, optional
        As `estimators.locate` or `metrics.compare` return them.
    traced : Hyperbolas, optional
        Result of `trace_hyperbolas` for the same, if at hand.

    Returns
    -------
    hv.Overlay
        On latitude and longitude, with the scale of both made equal at the middle.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    x_range, y_range, paths = traced or trace_hyperbolas(dataset, sample, measured, fixes)
    scene, pairs = load_scene(dataset, sample), measured.sel(sample=sample)
    drawn = [] if fixes is None else _fixes(scene, fixes)
    names, reference = scene.receiver_name.values, int(pairs.reference)
    layers: list[hv.Element] = []
    for index, path in paths.items():
        label = f"{names[index]} − {names[reference]}: {microseconds_text(float(pairs.tdoa_s[index]))}"
        style = {
            "color": _LINE_COLOURS[len(layers) % len(_LINE_COLOURS)],
            "line_dash": _LINE_DASHES[len(layers) // len(_LINE_COLOURS)],
        }
        layers.append(hv.Curve(path, *_DEGREES.kdims, label=label).opts(**style, line_width=1.5, backend="bokeh"))
    labels = place_labels(_places(scene, [])[0], receiver_names(scene), x_range)
    layers += [
        *_receiver_layers(scene, _DEGREES),
        *label_layers(labels, _DEGREES.kdims),
        *_truth_layers(scene, _DEGREES),
    ]
    layers += [layer for fix in drawn for layer in _fix_layers(fix, fix.label, _DEGREES, ellipse=False)]
    title = f"Sample {sample}: lines of constant measured time difference"
    return hv.Overlay(layers).opts(title=title, xlim=x_range, ylim=y_range, **MAP_OPTIONS, backend="bokeh")


_DEGREES = _Map(lambda ecef: np.stack(geodesy.geodetic(ecef)[1::-1], axis=-1), map_axes())


def _places(scene: xr.Dataset, drawn: list[_Drawn]) -> list[np.ndarray]:
    """Longitudes and latitudes (P, 2) of the receivers, of each fix, and of the transmitter if it is known."""
    positions = [_receivers(scene)[0], *(fix.position[None] for fix in drawn)]
    return [*map(_DEGREES.project, positions), *_known(_transmitter(scene), _DEGREES)]


def _receivers(scene: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """ECEF positions (P, 3) m of the present receivers, and which of them have signal (P,)."""
    present = scene.receiver_present.values
    position = [scene[f"receiver_{name}"].values[present] for name in ("latitude", "longitude", "altitude")]
    heard = scene.signal_present.values[present] if "signal_present" in scene else np.ones(present.sum(), dtype=bool)
    return geodesy.ecef(*position), heard


def _mean_position(scene: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean latitude, longitude (degrees) and altitude (m) of the present receivers."""
    present = scene.receiver_present.values
    latitude, longitude, altitude = (
        scene[f"receiver_{name}"].values[present] for name in ("latitude", "longitude", "altitude")
    )
    return *geodesy.tangent_plane_origin(latitude, longitude), altitude.mean()


def _transmitter(scene: xr.Dataset) -> np.ndarray | None:
    """ECEF position (3,) m of the transmitter, None where it is unknown."""
    latitude, longitude, altitude = (
        scene[f"transmitter_{name}"].values for name in ("latitude", "longitude", "altitude")
    )
    return geodesy.ecef(latitude, longitude, np.nan_to_num(altitude)) if np.isfinite(latitude + longitude) else None


def _known(position: np.ndarray | None, on_map: _Map) -> list[np.ndarray]:
    return [] if position is None else [on_map.project(position[None])]


def _fixes(scene: xr.Dataset, fixes: xr.Dataset) -> list[_Drawn]:
    """Read the fixes of one scene, with or without the dim ``method``."""
    each = fixes.sel(sample=scene.sample.item())
    if "method" not in each.dims:
        each = each.expand_dims(method=[each.attrs.get("method", "fix")])
    altitude_m = _mean_position(scene)[2]
    styles = method_styles(str(name) for name in each.method.values)
    drawn = []
    for name, (colour, marker) in styles.items():
        fix = each.sel({"method": name})  # as a keyword, method is the inexact look-up
        distance, _ = geodesy.geodesic(
            fix.latitude.values, fix.longitude.values, scene.transmitter_latitude, scene.transmitter_longitude
        )
        error_m = distance.item() if _transmitter(scene) is not None else math.nan
        label = f"{name}: {length_text(error_m)} off" if math.isfinite(error_m) else name
        converged = bool(fix.converged)
        label += "" if converged else " (failed)"
        position = geodesy.ecef(fix.latitude.values, fix.longitude.values, altitude_m)
        drawn.append(
            _Drawn(
                name,
                label,
                position,
                fix.covariance.values,
                fix.freedom.item(),
                colour,
                marker,
                error_m,
                converged,
            )
        )
    return drawn


def _ellipse_ecef(fix: _Drawn) -> np.ndarray:
    """Outline of the 95 % ellipse on the tangent plane at the fix, ECEF (points, 3) m."""
    latitude, longitude, _ = geodesy.geodetic(fix.position)
    outline = bounds.ellipse(fix.covariance, _LEVEL, freedom=fix.freedom)
    return fix.position + outline @ geodesy.enu_axes(latitude, longitude)[:2]


def _fix_layers(fix: _Drawn, label: str, on_map: _Map, *, ellipse: bool = True) -> list[hv.Element]:
    """Marker and ellipse of one fix, under one legend entry."""
    row = [(*on_map.project(fix.position[None])[0], fix.method, length_text(fix.error_m))]
    marker = hv.Points(row, on_map.kdims, ["method", "error"], label=label).opts(
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
        return [marker]
    outline = hv.Curve(on_map.project(_ellipse_ecef(fix)), *on_map.kdims, label=label)
    dash = "solid" if fix.converged else "dotted"
    return [outline.opts(color=fix.colour, line_width=1.5, line_dash=dash, backend="bokeh"), marker]


def _receiver_layers(scene: xr.Dataset, on_map: _Map) -> list[hv.Element]:
    """Receivers as triangles: filled with signal, hollow without."""
    position, heard = _receivers(scene)
    place, names = on_map.project(position), np.array(receiver_names(scene))
    snr = scene.snr.values[scene.receiver_present.values]
    snr_text = np.array([f"{value:.1f} dB" if math.isfinite(value) else "unknown" for value in snr])
    layers = []
    for chosen, label, alpha in ((heard, "receiver with signal", 1.0), (~heard, "receiver without signal", 0.0)):
        if chosen.any():
            columns = (*place[chosen].T, names[chosen], snr_text[chosen])
            points = hv.Points(columns, on_map.kdims, ["receiver", "snr"], label=label)
            options = {"marker": "triangle", "size": 11, "color": INK, "fill_alpha": alpha, "line_width": 1.5}
            hover = {"tools": ["hover"], "hover_tooltips": ["receiver", ("SNR", "@snr")]}
            layers.append(points.opts(**options, **hover, backend="bokeh"))
    return layers


def _truth_layers(scene: xr.Dataset, on_map: _Map) -> list[hv.Element]:
    """The true transmitter as a black star."""
    position = _transmitter(scene)
    if position is None:
        return []
    star = hv.Points(on_map.project(position[None]), on_map.kdims, label="transmitter")
    return [star.opts(marker="star", size=17, color=TRUTH, backend="bokeh")]


def _distance_to(scene: xr.Dataset, longitude: np.ndarray, latitude: np.ndarray) -> Callable[[int], np.ndarray]:
    """Distance in m from each point of a grid to a receiver, (latitude, longitude), along the links' kind of path."""
    receiver = [scene[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude")]
    if scene.attrs["propagation"] == "ground_wave":
        return lambda r: geodesy.geodesic(latitude[:, None], longitude[None], receiver[0][r], receiver[1][r])[0]
    position, grid = geodesy.ecef(*receiver), geodesy.ecef(latitude[:, None], longitude[None], _mean_position(scene)[2])
    return lambda r: np.linalg.norm(grid - position[r], axis=-1)
