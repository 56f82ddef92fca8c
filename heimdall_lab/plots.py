"""Pictures of scenes, signals, measurements and errors: pure functions that return HoloViews objects (Bokeh)."""

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import holoviews as hv
import holoviews.plotting.bokeh  # registers the renderer
import numpy as np
import scipy.fft
import scipy.signal
import xarray as xr
from bokeh.plotting.contour import contour_data

from heimdall_lab import bounds, geodesy, schema, spectra
from heimdall_lab.units import SPEED_OF_LIGHT, linear_to_db

_INK, _TRUTH = "#444444", "#000000"
_STYLES = {  # Okabe and Ito's colours, which the colour-blind tell apart; hollow shapes that overlap without hiding
    "centroid": ("#E69F00", "square"),
    "strongest": ("#CC79A7", "diamond"),
    "rss_ml": ("#56B4E9", "inverted_triangle"),
    "tdoa_ls": ("#0072B2", "x"),
    "tdoa_robust": ("#D55E00", "circle"),
    "dpd": ("#009E73", "hex"),
}
_MORE_STYLES = (  # Tol's muted scheme, for trained models
    ("#332288", "cross"),
    ("#117733", "square_pin"),
    ("#882255", "triangle_pin"),
    ("#999933", "square_x"),
    ("#88CCEE", "circle_x"),
    ("#AA4499", "diamond_cross"),
    ("#44AA99", "square_cross"),
    ("#CC6677", "circle_cross"),
)
_LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#999933")
_LINE_DASHES = ("solid", "dashed", "dotted")
_LEVEL = 0.95  # of every ellipse
_MAP_PX = (700, 520)
_FONT = {"title": "11pt", "labels": "10pt", "ticks": "9pt", "legend": "9pt"}
_SEGMENT = 256  # IQ samples of one spectrum
_MAX_FRAMES = 120
_MAX_BINS = 400
_LEAST_MW = 1e-30  # digital silence is drawn at the level of this power
_GRID = 240  # points along each side of the grid that hyperbolas are traced on

_MAP_OPTIONS: dict[str, Any] = {
    "frame_width": _MAP_PX[0],
    "frame_height": _MAP_PX[1],
    "legend_position": "right",
    "legend_opts": {"border_line_color": None, "background_fill_alpha": 0.0, "spacing": 4, "location": "top_left"},
    "active_tools": ["pan"],
    "toolbar": "above",
    "show_grid": True,
    "gridstyle": {"grid_line_color": "#e8e8e8"},
    "fontsize": _FONT,
}
_PANEL_OPTIONS: dict[str, Any] = {
    "active_tools": ["pan"],
    "fontsize": _FONT | {"title": "9pt", "labels": "9pt", "ticks": "8pt"},
}

Projection = Callable[[np.ndarray], np.ndarray]  # ECEF positions (P, 3) m to map coordinates (P, 2)


class _Map(NamedTuple):
    """Axes of a map and how Earth-centred positions land on them."""

    project: Projection
    kdims: list[hv.Dimension]


def method_styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Give every method its colour and marker, the same in all pictures of these methods.

    >>> method_styles(["tdoa_ls"])
    {'tdoa_ls': ('#0072B2', 'x')}
    """
    names = list(methods)
    styles = {name: _STYLES[name] for name in names if name in _STYLES}
    count = len(_MORE_STYLES)
    for name in names:
        if name not in styles:
            first = zlib.crc32(name.encode())
            order = [_MORE_STYLES[(first + step) % count] for step in range(count)]
            styles[name] = next((style for style in order if style not in styles.values()), order[0])
    return styles


def length_text(length_m: float) -> str:
    """Write a length with three significant digits in m or km, – where it is unknown.

    >>> length_text(41234.5), length_text(93.21), length_text(float("nan"))
    ('41.2 km', '93.2 m', '–')
    """
    if not math.isfinite(length_m):
        return "–"
    number = float(f"{length_m:.3g}")
    value, unit = (number / 1e3, "km") if number >= 1e3 else (number, "m")
    return f"{value:,.{max(0, 2 - math.floor(math.log10(max(value, 1.0))))}f} {unit}"


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
    scene = _scene(dataset, sample)
    receivers, _ = _receivers(scene)
    latitude, longitude, _ = _mean_position(scene)  # the origin that `estimators.locate` takes
    axes = [hv.Dimension(f"{axis}_km", label=axis, unit="km") for axis in ("east", "north")]
    on_map = _Map(lambda ecef: geodesy.enu(ecef, latitude, longitude)[:, :2] / 1e3, axes)
    places = [on_map.project(receivers), *_known(_transmitter(scene), on_map)]
    layers = _receiver_layers(scene, on_map)
    drawn = [] if fixes is None else _fixes(scene, fixes)
    places += [on_map.project(fix.position[None]) for fix in drawn]
    x_range, y_range = _view(np.concatenate(places))
    labels = _place_labels(places[0], _names(scene), x_range)
    overlay = hv.Overlay([*layers, *_label_layers(labels, on_map), *_truth_layers(scene, on_map)])
    overlay *= hv.Overlay([layer for fix in drawn for layer in _fix_layers(fix, fix.label, on_map)])
    title = f"Sample {sample}: network and fixes" if drawn else f"Sample {sample}: network"
    return overlay.opts(title=title, xlim=x_range, ylim=y_range, **_MAP_OPTIONS, backend="bokeh")


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
    scene = _scene(dataset, sample)
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
    x_range, y_range = _view(np.concatenate([offsets[near], outline, np.zeros((1, 2)), *places]), margin=0.1)
    unit, scale = ("km", 1e-3) if x_range[1] - x_range[0] > 4e3 else ("m", 1.0)
    axes = [hv.Dimension(f"{axis}_{unit}", label=axis, unit=unit) for axis in ("east", "north")]
    on_map = _Map(lambda ecef: metres(ecef) * scale, axes)
    layers = _truth_layers(scene, on_map)
    if bound is not None:
        style = {"color": _TRUTH, "line_dash": "dashed", "line_width": 1.5}
        label = f"Cramér-Rao bound, 95 % (rms {length_text(np.sqrt(np.trace(bound)))})"
        layers.append(hv.Curve(outline * scale, *axes, label=label).opts(**style, backend="bokeh"))
    for fix, shown in zip(drawn, near, strict=True):
        layers += _fix_layers(fix, fix.label if shown else f"{fix.label} (outside)", on_map)
    around = "transmitter" if truth is not None else f"fix of {best.method}"
    return hv.Overlay(layers).opts(
        title=f"Sample {sample}: fixes around the {around}",
        xlim=tuple(np.multiply(x_range, scale)),
        ylim=tuple(np.multiply(y_range, scale)),
        **_MAP_OPTIONS,
        backend="bokeh",
    )


def hyperbolas(dataset: xr.Dataset, sample: int, measured: xr.Dataset, fixes: xr.Dataset | None = None) -> hv.Overlay:
    """Draw the lines on which a transmitter would cause each measured time difference; they cross where it stands.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract; ``propagation`` decides between geodesic and straight distances.
    sample : int
        Label of the scene along ``sample``.
    measured : xr.Dataset
        Result of `features.pair_features`; one line for each receiver that hears the signal.
    fixes : xr.Dataset, optional
        As `estimators.locate` or `metrics.compare` return them.

    Returns
    -------
    hv.Overlay
        On latitude and longitude, with the scale of both made equal at the middle.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene, pairs = _scene(dataset, sample), measured.sel(sample=sample)
    axes = [hv.Dimension(f"{name}_deg", label=name, unit="°") for name in ("longitude", "latitude")]
    on_map = _Map(lambda ecef: np.stack(geodesy.geodetic(ecef)[1::-1], axis=-1), axes)
    drawn = [] if fixes is None else _fixes(scene, fixes)
    positions = [_receivers(scene)[0], *(fix.position[None] for fix in drawn)]
    places = [*map(on_map.project, positions), *_known(_transmitter(scene), on_map)]
    shrink = math.cos(math.radians(float(np.concatenate(places)[:, 1].mean())))
    x_range, y_range = _view(np.concatenate(places), margin=0.25, shrink=shrink)
    x, y = (np.linspace(*limits, _GRID) for limits in (x_range, y_range))
    reference = int(pairs.reference)
    range_m = _distance_to(scene, x, y)
    names = scene.receiver_name.values
    layers: list[hv.Element] = []
    for index in np.flatnonzero(pairs.heard.values & (np.arange(len(names)) != reference)):
        tdoa_s = float(pairs.tdoa_s[index])
        lines = contour_data(
            x, y, range_m(int(index)) - range_m(reference) - tdoa_s * SPEED_OF_LIGHT, [0.0], want_fill=False
        ).line_data
        path = np.stack([lines.xs[0], lines.ys[0]], axis=-1) if lines and len(lines.xs) else np.full((1, 2), np.nan)
        label = f"{names[index]} − {names[reference]}: {_microseconds(tdoa_s)}"
        style = {
            "color": _LINE_COLOURS[len(layers) % len(_LINE_COLOURS)],
            "line_dash": _LINE_DASHES[len(layers) // len(_LINE_COLOURS)],
        }
        layers.append(hv.Curve(path, *axes, label=label).opts(**style, line_width=1.5, backend="bokeh"))
    labels = _place_labels(places[0], _names(scene), x_range)
    layers += [*_receiver_layers(scene, on_map), *_label_layers(labels, on_map), *_truth_layers(scene, on_map)]
    layers += [layer for fix in drawn for layer in _fix_layers(fix, fix.label, on_map, ellipse=False)]
    title = f"Sample {sample}: lines of constant measured time difference"
    return hv.Overlay(layers).opts(title=title, xlim=x_range, ylim=y_range, **_MAP_OPTIONS, backend="bokeh")


def cross_correlations(dataset: xr.Dataset, sample: int, measured: xr.Dataset) -> hv.Layout:
    """Draw the cross-correlation of each receiver with the reference around its peak.

    The measured frequency difference is removed and the estimator's spectral weight applied, so the peak is where the
    measured delay is. Magnitude 1 would be a perfect copy of the reference.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ. Where ``propagation_delay``, ``excess_delay`` and ``clock_offset`` are known, their sum's difference
        against the reference is drawn as the true delay.
    sample : int
        Label of the scene along ``sample``.
    measured : xr.Dataset
        Result of `features.pair_features`.

    Returns
    -------
    hv.Layout
        One panel for each present receiver except the reference.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene, pairs = _scene(dataset, sample), measured.sel(sample=sample)
    reference = int(pairs.reference)
    arrival_s = (scene.propagation_delay + scene.excess_delay + scene.clock_offset).values
    others = [int(r) for r in np.flatnonzero(scene.receiver_present.values) if r != reference]
    voltage, rate_hz = schema.iq(scene).transpose("receiver", "time").values, scene.attrs["sample_rate_hz"]
    spectrum = spectra.power_spectrum(voltage[reference], rate_hz)
    weight = spectra.wiener_weight(spectrum, spectra.noise_density(spectrum))
    lobe_s = 0.5 / spectra.rms_bandwidth_hz(spectrum.frequency_hz, weight * spectrum.density)
    lobe_s = float(lobe_s) if np.isfinite(lobe_s) else 20 / rate_hz
    panels = []
    for index in others:
        measured_s, true_s = float(pairs.tdoa_s[index]), float(arrival_s[index] - arrival_s[reference])
        half_s = max(1.5 * lobe_s, 1.25 * np.nan_to_num(abs(true_s - measured_s)))
        lag_s = measured_s + np.linspace(-half_s, half_s, 401)
        value = _correlation(voltage[[reference, index]], float(pairs.fdoa_hz[index]), weight, rate_hz, lag_s)
        panels.append(_correlation_panel(str(scene.receiver_name.values[index]), lag_s, value, measured_s, true_s))
    legend = "dashed: measured delay" + ("; broad: true delay" if np.isfinite(arrival_s[others]).any() else "")
    title = f"Sample {sample}: cross-correlation with {scene.receiver_name.values[reference]} ({legend})"
    return _layout(panels, 3, title, shared_axes=False)


def spectrograms(dataset: xr.Dataset, sample: int) -> hv.Layout:
    """Draw power density over time and frequency for each present receiver, on one colour scale.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ.
    sample : int
        Label of the scene along ``sample``.

    Returns
    -------
    hv.Layout
        Of images in dBm per Hz, frequencies in kHz from the centre; long recordings are averaged to 120 columns.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene = _scene(dataset, sample)
    voltage, unit, scale = _present_voltage(scene)
    segment = min(_SEGMENT, voltage.shape[-1])
    frequency_hz, time_s, density = scipy.signal.spectrogram(
        voltage,
        scene.attrs["sample_rate_hz"],
        nperseg=segment,
        noverlap=segment // 2,
        detrend=False,
        return_onesided=False,
    )
    group = -(-len(time_s) // _MAX_FRAMES)
    frames = len(time_s) // group
    time_s, density = (a[..., : frames * group].reshape(*a.shape[:-1], frames, group) for a in (time_s, density))
    order = np.argsort(frequency_hz)
    level = linear_to_db(np.maximum(density.mean(axis=-1)[:, order], _LEAST_MW)).astype(np.float32)  # (R, F, frames)
    colours = tuple(float(v) for v in np.percentile(level, [2, 99.9]))
    time = hv.Dimension(f"time_{unit}", label="time", unit=unit)
    axes = [time, hv.Dimension("frequency_khz", label="frequency", unit="kHz")]
    panels, columns = [], min(4, len(level))
    for row, name in enumerate(_names(scene)):
        values = (time_s.mean(axis=-1) * scale, frequency_hz[order] / 1e3, level[row])
        image = hv.Image(values, axes, hv.Dimension("density", label="power density", unit="dBm/Hz"), rtol=1e-3)
        options = _panel_axes(row, len(level), columns) | {"frame_width": 205, "frame_height": 150, "title": name}
        bar = {"colorbar": row == columns - 1, "clabel": "dBm/Hz"}  # one for all: the scale is shared
        panels.append(image.opts(cmap="viridis", clim=colours, **bar, **options, **_PANEL_OPTIONS, backend="bokeh"))
    return _layout(panels, columns, f"Sample {sample}: spectrograms")


def envelopes(dataset: xr.Dataset, sample: int) -> hv.Layout:
    """Draw the power in each present receiver over time: its mean, and the band that holds 90 % of the IQ samples.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ.
    sample : int
        Label of the scene along ``sample``.

    Returns
    -------
    hv.Layout
        Panels below each other, in dBm, reduced to at most 400 points in time.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene = _scene(dataset, sample)
    voltage, unit, scale = _present_voltage(scene)
    group = -(-voltage.shape[-1] // _MAX_BINS)
    bins = voltage.shape[-1] // group
    power = np.abs(voltage[:, : bins * group].reshape(len(voltage), bins, group)) ** 2
    decibels = [np.percentile(power, 5, axis=-1), power.mean(axis=-1), np.percentile(power, 95, axis=-1)]
    low, middle, high = (linear_to_db(np.maximum(values, _LEAST_MW)) for values in decibels)
    time = hv.Dimension(f"time_{unit}", label="time", unit=unit)
    level = hv.Dimension("power", label="power", unit="dBm")
    at = (np.arange(bins) + 0.5) * group / scene.attrs["sample_rate_hz"] * scale
    panels = []
    for row, name in enumerate(_names(scene)):
        band = hv.Area((at, low[row], high[row]), time, [level, hv.Dimension("power_95", unit="dBm")])
        curve = hv.Curve((at, middle[row]), time, level)
        band, curve = (
            band.opts(color="#9ecae1", line_alpha=0, backend="bokeh"),
            curve.opts(color="#08306b", line_width=1, backend="bokeh"),
        )
        options = _panel_axes(row, len(power), 1) | {"frame_width": 920, "frame_height": 70, "title": name, "yticks": 4}
        panels.append((band * curve).opts(**options, **_PANEL_OPTIONS, show_grid=True, backend="bokeh"))
    return _layout(panels, 1, f"Sample {sample}: received power over time")


def error_cdf(board: xr.Dataset) -> hv.Overlay:
    """Draw the share of fixes with at most a given error for each method, and the same for an ideal method.

    The ideal method's errors are normal with the Cramér-Rao bound of each scene as their covariance.

    Parameters
    ----------
    board : xr.Dataset
        Result of `metrics.compare`.

    Returns
    -------
    hv.Overlay
        Steps over a logarithmic axis in m.
    """
    styles = method_styles(board.method.values)
    curves = [
        _steps(board.error.sel({"method": method}).values, method).opts(color=styles[method][0], backend="bokeh")
        for method in board.method.values
    ]
    ideal = _ideal_cdf(board.crlb_covariance.values)
    curves.append(ideal.opts(color=_TRUTH, line_dash="dashed", line_width=2, backend="bokeh"))
    errors_m = np.concatenate([curve.dimension_values("error_m") for curve in curves])
    x_range = (errors_m.min() / 1.5, errors_m.max() * 1.5) if len(errors_m) else (1.0, 1e3)
    options = _MAP_OPTIONS | {"frame_height": 300, "xlim": x_range, "ylim": (0, 101), "logx": True}
    title = f"Share of {board.sizes['sample']} samples located within an error"
    return hv.Overlay(curves).opts(title=title, **options, backend="bokeh")


class _Drawn(NamedTuple):
    """One method's fix: ECEF position (3,) m, covariance (2, 2) m² along east and north there, and how it is drawn."""

    method: str
    label: str
    position: np.ndarray
    covariance: np.ndarray
    colour: str
    marker: str
    error_m: float
    converged: bool


def _scene(dataset: xr.Dataset, sample: int) -> xr.Dataset:
    """Load one sample."""
    if sample not in dataset.sample.values:
        known = f"{dataset.sample.values.min()} … {dataset.sample.values.max()}"
        raise ValueError(f"sample: {sample} is not in the dataset; choose one of its labels, {known}")
    return dataset.sel(sample=sample).load()


def _names(scene: xr.Dataset) -> list[str]:
    """Names of the present receivers."""
    return [str(name) for name in scene.receiver_name.values[scene.receiver_present.values]]


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
        np.asarray(scene[f"receiver_{name}"].values[present].mean()) for name in ("latitude", "longitude", "altitude")
    )
    return latitude, longitude, altitude


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
        drawn.append(_Drawn(name, label, position, fix.covariance.values, colour, marker, error_m, converged))
    return drawn


def _ellipse_ecef(fix: _Drawn) -> np.ndarray:
    """Outline of the 95 % ellipse on the tangent plane at the fix, ECEF (points, 3) m."""
    latitude, longitude, _ = geodesy.geodetic(fix.position)
    return fix.position + bounds.ellipse(fix.covariance, _LEVEL) @ geodesy.enu_axes(latitude, longitude)[:2]


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
    place, names = on_map.project(position), np.array(_names(scene))
    snr = scene.snr.values[scene.receiver_present.values]
    snr_text = np.array([f"{value:.1f} dB" if math.isfinite(value) else "unknown" for value in snr])
    layers = []
    for chosen, label, alpha in ((heard, "receiver with signal", 1.0), (~heard, "receiver without signal", 0.0)):
        if chosen.any():
            columns = (*place[chosen].T, names[chosen], snr_text[chosen])
            points = hv.Points(columns, on_map.kdims, ["receiver", "snr"], label=label)
            options = {"marker": "triangle", "size": 11, "color": _INK, "fill_alpha": alpha, "line_width": 1.5}
            hover = {"tools": ["hover"], "hover_tooltips": ["receiver", ("SNR", "@snr")]}
            layers.append(points.opts(**options, **hover, backend="bokeh"))
    return layers


def _truth_layers(scene: xr.Dataset, on_map: _Map) -> list[hv.Element]:
    """The true transmitter as a black star."""
    position = _transmitter(scene)
    if position is None:
        return []
    star = hv.Points(on_map.project(position[None]), on_map.kdims, label="transmitter")
    return [star.opts(marker="star", size=17, color=_TRUTH, backend="bokeh")]


def _place_labels(place: np.ndarray, names: Sequence[str], x_range: tuple[float, float]) -> list[tuple[Any, ...]]:
    """Choose a side for every receiver's name on which it covers no other receiver or name.

    Parameters
    ----------
    place : (P, 2)
        Map coordinates, with one scale on both axes.

    Returns
    -------
    list of (x, y, text, horizontal alignment, vertical alignment)
    """
    per_px = (x_range[1] - x_range[0]) / _MAP_PX[0]
    boxes = [np.array([*(at - 7 * per_px), *(at + 7 * per_px)]) for at in place]  # left, bottom, right, top
    labels = []
    sides = {"left": (0.5, 0.0), "right": (-0.5, 0.0), "top": (0.0, -0.5), "bottom": (0.0, 0.5)}  # text's own side
    for own, (at, name) in enumerate(zip(place, names, strict=True)):
        half = np.array([3.2 * len(name), 7.0]) * per_px
        crowded = []
        for side, (right, up) in sides.items():
            middle = at + np.array([right, up]) * (2 * half + 18 * per_px)
            box = np.array([*(middle - half), *(middle + half)])
            others = [other for i, other in enumerate(boxes) if i != own]
            overlap = sum(
                max(0.0, min(box[2], o[2]) - max(box[0], o[0])) > 0 < min(box[3], o[3]) - max(box[1], o[1])
                for o in others
            )
            outside = middle[0] - half[0] < x_range[0] or middle[0] + half[0] > x_range[1]
            crowded.append((overlap + outside, side, box))
        _, side, box = min(crowded, key=lambda choice: choice[0])
        boxes.append(box)
        labels.append((*at, name, side))
    return labels


def _label_layers(labels: Sequence[tuple[Any, ...]], on_map: _Map) -> list[hv.Element]:
    """Names beside the receivers, at a distance that zooming does not change: blanks of the text make it."""
    padded = {"left": "   {}", "right": "{}   ", "top": " \n{}", "bottom": "{}\n "}
    layers = []
    for side, pattern in padded.items():
        rows = [(x, y, pattern.format(name)) for x, y, name, chosen in labels if chosen == side]
        if rows:
            align = side if side in ("left", "right") else "center"
            baseline = side if side in ("top", "bottom") else "middle"
            style = {"text_align": align, "text_baseline": baseline, "text_font_size": "9pt", "text_color": _INK}
            layers.append(hv.Labels(rows, on_map.kdims, "name").opts(**style, backend="bokeh"))
    return layers


def _view(
    place: np.ndarray, *, margin: float = 0.12, shrink: float = 1.0
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of a map that holds all places (P, 2) with a margin, in the shape of its frame.

    ``shrink`` is the length of a step in x over that of the same step in y.
    """
    low, high = place.min(axis=0), place.max(axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-6) * (1 + 2 * margin)
    frame = np.array(_MAP_PX) / np.array([shrink, 1.0])
    half = (half / frame).max() * frame
    (left, bottom), (right, top) = middle - half, middle + half
    return (float(left), float(right)), (float(bottom), float(top))


def _distance_to(scene: xr.Dataset, longitude: np.ndarray, latitude: np.ndarray) -> Callable[[int], np.ndarray]:
    """Distance in m from each point of a grid to a receiver, (latitude, longitude), along the links' kind of path."""
    receiver = [scene[f"receiver_{name}"].values for name in ("latitude", "longitude", "altitude")]
    if scene.attrs["propagation"] == "ground_wave":
        return lambda r: geodesy.geodesic(latitude[:, None], longitude[None], receiver[0][r], receiver[1][r])[0]
    position, grid = geodesy.ecef(*receiver), geodesy.ecef(latitude[:, None], longitude[None], _mean_position(scene)[2])
    return lambda r: np.linalg.norm(grid - position[r], axis=-1)


def _correlation(pair: np.ndarray, fdoa_hz: float, weight: np.ndarray, rate_hz: float, lag_s: np.ndarray) -> np.ndarray:
    """Magnitude of the weighted cross-correlation at equally spaced lags (L,), over the root of both energies.

    Parameters
    ----------
    pair : (2, N)
        Reference and receiver.
    weight : (F,)
        Spectral weight on F equal frequency steps that span the band, ascending.

    Source: Knapp and Carter, IEEE Trans. ASSP 24 (1976), eq. (6), evaluated by the chirp z transform.
    """
    num_time = pair.shape[-1]
    length = scipy.fft.next_fast_len(2 * num_time)
    turn = np.exp(-2j * np.pi * fdoa_hz / rate_hz * np.arange(num_time))
    spectrum = np.fft.fftshift(scipy.fft.fft(pair * np.stack([np.ones_like(turn), turn]), length, axis=-1), axes=-1)
    frequency = np.fft.fftshift(np.fft.fftfreq(length))
    band = np.abs(frequency) < 0.25  # the inner half, where the estimator looks
    share = weight[((frequency[band] + 0.5) * len(weight)).astype(int)]
    reference, received = spectrum[:, band]
    energy = np.sqrt((share * np.abs(reference) ** 2).sum() * (share * np.abs(received) ** 2).sum())
    step_hz = rate_hz / length
    correlation = scipy.signal.czt(
        share * received * reference.conj(),
        m=len(lag_s),
        w=np.exp(2j * np.pi * step_hz * (lag_s[1] - lag_s[0])),
        a=np.exp(-2j * np.pi * step_hz * lag_s[0]),
    )
    return np.abs(correlation) / energy if energy > 0 else np.zeros(len(lag_s))


def _correlation_panel(name: str, lag_s: np.ndarray, value: np.ndarray, measured_s: float, true_s: float) -> hv.Overlay:
    """One receiver's correlation with its delays as vertical lines; the true one is broad, so that both show."""
    lag, magnitude = hv.Dimension("lag_us", label="lag", unit="µs"), hv.Dimension("magnitude", label="magnitude")
    layers = [hv.Curve((lag_s * 1e6, value), lag, magnitude).opts(color=_INK, backend="bokeh")]
    text = f"{name}: {_microseconds(measured_s)}"
    if math.isfinite(true_s):
        truth = hv.VLine(true_s * 1e6, label="true delay")
        layers.append(truth.opts(color="#E69F00", line_width=5, alpha=0.7, backend="bokeh"))
        text += f", off by {_microseconds(measured_s - true_s)}"
    measured = hv.VLine(measured_s * 1e6, label="measured delay")
    layers.append(measured.opts(color="#0072B2", line_width=1.5, line_dash="dashed", backend="bokeh"))
    options = {
        "frame_width": 300,
        "frame_height": 150,
        "title": text,
        "ylim": (0, 1.05),
        "show_legend": False,
    }
    return hv.Overlay(layers).opts(**options, **_PANEL_OPTIONS, show_grid=True, backend="bokeh")


def _microseconds(time_s: float) -> str:
    return f"{time_s * 1e6:,.2f} µs".replace("-", "−")


def _present_voltage(scene: xr.Dataset) -> tuple[np.ndarray, str, float]:
    """IQ of the present receivers (P, N) in √mW, and the unit of time to show it in with its number per second."""
    voltage = schema.iq(scene).transpose("receiver", "time").values[scene.receiver_present.values]
    duration_s = voltage.shape[-1] / scene.attrs["sample_rate_hz"]
    return voltage, *(("s", 1.0) if duration_s >= 1 else ("ms", 1e3))


def _panel_axes(index: int, count: int, columns: int) -> dict[str, Any]:
    """Draw the axes, which all panels share, at the left and at the bottom of the grid only."""
    left = {} if index % columns == 0 else {"yaxis": None}
    return left if index + columns >= count else left | {"xaxis": None}


def _layout(panels: list[hv.Element], columns: int, title: str, *, shared_axes: bool = True) -> hv.Layout:
    return (
        hv.Layout(panels)
        .cols(columns)
        .opts(title=title, shared_axes=shared_axes, fontsize={"title": "11pt"}, backend="bokeh")
    )


_ERROR_AXES = (
    hv.Dimension("error_m", label="error", unit="m"),
    hv.Dimension("share", label="share of samples", unit="%"),
)


def _steps(error_m: np.ndarray, label: str) -> hv.Curve:
    """Cumulative distribution of errors (S,); unknown ones count as larger than any."""
    ordered = np.maximum(np.sort(error_m[np.isfinite(error_m)]), 1e-3)  # a logarithmic axis has no 0
    share = 100 * np.arange(1, len(ordered) + 1) / max(1, error_m.size)
    curve = hv.Curve((ordered, share), *_ERROR_AXES, label=label)
    return curve.opts(interpolation="steps-post", line_width=2, tools=["hover"], backend="bokeh")


def _ideal_cdf(covariance: np.ndarray) -> hv.Curve:
    """Distribution of the length of normal errors with covariances (S, 2, 2) m², scenes without a bound left out.

    Along the direction φ of the whitened error z, |error|² = |z|² (a² cos² φ + b² sin² φ) with a and b the standard
    deviations along the axes of the ellipse, and |z|² exceeds x with probability exp(−x/2).
    """
    label = "ideal method (Cramér-Rao bound)"
    known = covariance[np.isfinite(covariance).all(axis=(1, 2))]
    a_squared, b_squared = np.linalg.eigvalsh(known).T[..., None]  # (S, 1)
    angle = (np.arange(360) + 0.5) * np.pi / 360
    stretch = a_squared * np.cos(angle) ** 2 + b_squared * np.sin(angle) ** 2  # (S, angles)
    if not len(known):
        return hv.Curve([], *_ERROR_AXES, label=label)
    error = np.geomspace(np.sqrt(stretch.min()) / 30, 4 * np.sqrt(stretch.max()), 400)
    share = 100 * np.array([1 - np.exp(-(e**2) / 2 / stretch).mean() for e in error])
    shown = (share > 0.3) & (share < 99.9)
    return hv.Curve((error[shown], share[shown]), *_ERROR_AXES, label=label)
