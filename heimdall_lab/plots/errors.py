"""Pictures of errors: how large, where, against the Cramér-Rao bound, and against the ellipses of the fixes."""

import holoviews as hv
import numpy as np
import xarray as xr
from scipy.optimize import brentq

from heimdall_lab.core.text import length_text, quoted
from heimdall_lab.localization.delay_law import LAW_NAMES, laws_of
from heimdall_lab.localization.errors import bin_of
from heimdall_lab.plots.ground import ground_layer
from heimdall_lab.plots.labels import label_boxes, label_columns, longitude_scale, receiver_layers
from heimdall_lab.plots.projections import degrees, map_axes
from heimdall_lab.plots.style import (
    LAW_DASHES,
    MAP_OPTIONS,
    TRUTH,
    line_dash,
    log_colours,
    map_limits,
    method_styles,
    plain_title,
)
from heimdall_lab.signals import link_table

_ERROR_AXES = (
    hv.Dimension("error_m", label="error", unit="m"),
    hv.Dimension("share", label="share of samples", unit="%"),
)

_LEVEL_AXES = (
    hv.Dimension("level", label="level of the ellipse", unit="%"),
    hv.Dimension("inside", label="true positions inside", unit="%"),
)
_CONDITIONS = {"snr": "mean SNR, dB", "gdop": "TDOA GDOP", "receivers": "receivers with signal"}
_BAND_SIGMAS = 1.96  # of a normal distribution, that hold 95 %
_LEAST_M = 1e-3  # a logarithmic scale has no 0


def error_cdf(board: xr.Dataset) -> hv.Overlay:
    """Draw the share of fixes with at most a given error for each method, and the same for errors at the bound.

    These are normal with the Cramér-Rao bound of each scene as their covariance, one curve for each law of delays that
    the board has a bound of; none where no scene has a bound. The axis of errors is logarithmic, in m.

    Parameters
    ----------
    board : xr.Dataset
        Result of `leaderboard.compare`.
    """
    board = _tested(board)
    curves = [
        _error_steps(board.error.sel({"method": method}).values, method).opts(
            color=colour, line_dash=line_dash(method), backend="bokeh"
        )
        for method, (colour, _) in method_styles(board.method.values).items()
    ]
    for law, suffix in laws_of(board).items():
        covariance = board[f"crlb_covariance{suffix}"].values
        if not np.isfinite(covariance).all(axis=(1, 2)).any():
            continue
        curve = _bound_cdf(covariance, _bound_label(law))
        curves.append(curve.opts(color=TRUTH, line_dash=LAW_DASHES[law], line_width=2, backend="bokeh"))
    errors_m = np.concatenate([curve.dimension_values("error_m") for curve in curves])
    x_range = (errors_m.min() / 1.5, errors_m.max() * 1.5) if len(errors_m) else (1.0, 1e3)
    options = MAP_OPTIONS | {"frame_height": 300, "xlim": x_range, "ylim": (0, 101), "logx": True}
    title = f"Share of {board.sizes['sample']} samples located within an error"
    return hv.Overlay(curves).opts(title=title, **options, backend="bokeh")


def calibration(board: xr.Dataset) -> hv.Overlay:
    """Draw how often ellipses of each level hold the true position: honest covariances are on the diagonal.

    Above it they are too wide, below too narrow. The grey band holds 95 % of what honest ones would show with as few
    samples.

    Parameters
    ----------
    board : xr.Dataset
        Result of `leaderboard.compare`.
    """
    board = _tested(board)
    level = np.linspace(0, 1, 201)
    half = _BAND_SIGMAS * np.sqrt(level * (1 - level) / max(1, board.sizes["sample"]))
    limits = np.clip([level - half, level + half], 0, 1)
    band = hv.Area((100 * level, *(100 * limits)), _LEVEL_AXES[0], [_LEVEL_AXES[1], "upper"], label="honest")
    diagonal = hv.Curve(([0, 100], [0, 100]), *_LEVEL_AXES, label="honest")
    layers = [
        band.opts(color="#dddddd", line_color=None, backend="bokeh"),
        diagonal.opts(color=TRUTH, line_dash="dashed", line_width=2, backend="bokeh"),
    ]
    for method, (colour, _) in method_styles(board.method.values).items():
        least = board["level"].sel({"method": method}).values
        inside = (least[:, None] <= level).mean(axis=0) if len(least) else np.full(level.shape, np.nan)
        curve = hv.Curve((100 * level, 100 * inside), *_LEVEL_AXES, label=method)
        style = {"color": colour, "line_dash": line_dash(method), "line_width": 2}
        layers.append(curve.opts(**style, tools=["hover"], backend="bokeh"))
    options = MAP_OPTIONS | {"frame_height": 420, "frame_width": 420, "xlim": (0, 100), "ylim": (0, 100)}
    title = f"Ellipses against {board.sizes['sample']} true positions"
    return hv.Overlay(layers).opts(title=title, **options, backend="bokeh")


def error_by_bin(board: xr.Dataset, by: str) -> hv.Overlay:
    """Draw the median error of each method, and at the bound, over a condition of `localization.errors.BINS`.

    The board is a result of `leaderboard.compare`. Each bin that holds samples is drawn, with their number below it;
    bounds are, where some scene has one.
    ValueError if the condition is unknown.
    """
    if by not in _CONDITIONS:
        raise ValueError(f"by: {quoted(by)} is unknown; choose one of {', '.join(_CONDITIONS)}")
    count = board[f"samples_by_{by}"].values
    shown = np.flatnonzero(count)
    names = [f"{board[f'{by}_bin'].values[place]}\n({count[place]} samples)" for place in shown]
    axes = (
        hv.Dimension(by, label=_CONDITIONS[by], values=names),
        hv.Dimension("error_m", label="median error", unit="m"),
    )
    median_m = board[f"median_error_by_{by}"].isel({f"{by}_bin": shown})
    tested = board.error.notnull().any("method").values
    member = np.where(tested, bin_of(board[f"scene_{by}"].values, by), -1)
    lines = [
        (method, median_m.sel({"method": method}).values, colour, marker, line_dash(method), 1.5)
        for method, (colour, marker) in method_styles(board.method.values).items()
    ]
    for law, suffix in laws_of(board).items():
        covariance = board[f"crlb_covariance{suffix}"].values
        at_bound_m = np.array([bound_median(covariance[member == place]) for place in shown])
        if np.isnan(at_bound_m).all():
            continue
        lines.append((_bound_label(law), at_bound_m, TRUTH, "dash", LAW_DASHES[law], 2.0))
    layers = []
    for label, error_m, colour, marker, dash, width in lines:
        at = (names, np.maximum(error_m, _LEAST_M))
        line = {"color": colour, "line_dash": dash, "line_width": width}
        points = {"color": colour, "marker": marker, "size": 11, "fill_alpha": 0, "line_width": 2, "tools": ["hover"]}
        layers.append(hv.Curve(at, *axes, label=label).opts(**line, backend="bokeh"))
        layers.append(hv.Scatter(at, *axes, label=label).opts(**points, backend="bokeh"))
    options = MAP_OPTIONS | {"frame_height": 300, "logy": True}
    title = f"Median error over {tested.sum()} samples, by {_CONDITIONS[by].split(',')[0]}"
    return hv.Overlay(layers).opts(title=title, **options, backend="bokeh")


def error_map(dataset: xr.Dataset, board: xr.Dataset, method: str) -> hv.Overlay:
    """Draw the true positions, coloured by the error of one method on a logarithmic scale; a cross is no fix.

    References are left out, as of all errors. Receivers are drawn where they are the same in all samples.

    Parameters
    ----------
    dataset : xr.Dataset
        With the true positions.
    board : xr.Dataset
        Result of `leaderboard.compare` for it.

    Raises
    ------
    ValueError
        If the method is not on the board, or no true position is known.
    """
    if method not in board.method.values:
        on_board = ", ".join(str(name) for name in board.method.values)
        raise ValueError(f"method: {quoted(method)} is not on the board; choose one of {on_board}")
    place = np.stack([dataset[f"transmitter_{name}"].values for name in ("longitude", "latitude")], axis=-1)
    known = np.isfinite(place).all(axis=-1) & board.error.notnull().any("method").values
    if not known.any():
        raise ValueError("transmitter_latitude: is unknown in every sample; an error map needs the true positions")
    each = board[["error", "converged"]].sel({"method": method}).isel(sample=known)
    common = link_table.common_receivers(dataset)
    receivers = np.array(list(common.values())).reshape(-1, 2)
    shown = np.concatenate([place[known], receivers])
    x_scale = longitude_scale(float(shown[:, 1].mean()))
    x_range, y_range = map_limits(shown, margin=0.06, x_scale=x_scale)
    names = list(common)
    taken = label_boxes(label_columns(receivers, names, map_axes(), x_range, x_scale), x_range, x_scale)
    layers = [ground_layer(degrees(sum(x_range) / 2), x_range, y_range, taken)]
    layers += _error_layers(place[known], each)
    if common:
        layers += receiver_layers(receivers, names, x_range, x_scale, size=12)
    median = length_text(float(each.error.median()))
    title = plain_title(f"{method}: errors at {known.sum()} true positions, median {median}")
    options = MAP_OPTIONS | {"xlim": x_range, "ylim": y_range, "show_legend": False}
    return hv.Overlay(layers).opts(title=title, **options, backend="bokeh")


def _tested(board: xr.Dataset) -> xr.Dataset:
    """Keep the samples that have errors: whose true position is known, and that are no references."""
    return board.isel(sample=board.error.notnull().any("method").values)


def _error_steps(error_m: np.ndarray, label: str) -> hv.Curve:
    """Cumulative distribution of errors (S,); unknown ones count as larger than any."""
    ordered = np.maximum(np.sort(error_m[np.isfinite(error_m)]), _LEAST_M)
    share = 100 * np.arange(1, len(ordered) + 1) / max(1, error_m.size)
    curve = hv.Curve((ordered, share), *_ERROR_AXES, label=label)
    return curve.opts(interpolation="steps-post", line_width=2, tools=["hover"], backend="bokeh")


def _bound_label(law: str) -> str:
    """Legend of errors at the bound."""
    return f"at the bound ({LAW_NAMES[law]})"


def _bound_cdf(covariance: np.ndarray, label: str) -> hv.Curve:
    """Distribution of the length of normal errors with covariances (S, 2, 2) m², scenes without a bound left out.

    At least one has a bound. The squared length of the whitened error exceeds x with probability exp(−x/2).
    """
    stretch = _squared_stretch(covariance)
    error = np.geomspace(np.sqrt(stretch.min()) / 30, 4 * np.sqrt(stretch.max()), 400)
    share = 100 * np.array([1 - np.exp(-(e**2) / 2 / stretch).mean() for e in error])
    shown = (share > 0.3) & (share < 99.9)
    return hv.Curve((error[shown], share[shown]), *_ERROR_AXES, label=label)


def bound_median(covariance: np.ndarray) -> float:
    """Median length of normal errors with covariances (S, 2, 2) m², m; NaN if no scene has a bound."""
    stretch = _squared_stretch(covariance)
    if not len(stretch):
        return np.nan
    limits = np.sqrt(2 * np.log(2) * np.array([stretch.min(), stretch.max()])) * [0.99, 1.01]
    return float(brentq(lambda error: np.exp(-(error**2) / 2 / stretch).mean() - 0.5, *limits))


def _squared_stretch(covariance: np.ndarray) -> np.ndarray:
    """Squared length of errors over that of whitened ones, by direction (S, angles) m²; only of scenes with a bound.

    Along the direction φ of the whitened error z, |error|² = |z|² (a² cos² φ + b² sin² φ) with a and b the standard
    deviations along the axes of the ellipse.
    """
    known = covariance[np.isfinite(covariance).all(axis=(1, 2))]
    a_squared, b_squared = np.linalg.eigvalsh(known).T[..., None]  # (S, 1)
    angle = (np.arange(360) + 0.5) * np.pi / 360
    return a_squared * np.cos(angle) ** 2 + b_squared * np.sin(angle) ** 2


def _error_layers(place: np.ndarray, each: xr.Dataset) -> list[hv.Element]:
    """Points at true positions (S, 2) in the colours of their errors."""
    error_m = np.maximum(each.error.values, _LEAST_M)
    low, high = np.percentile(error_m, [1, 99]) * [0.99, 1.01]  # apart, even if all are equal
    colours = log_colours(low, high, "error, m")
    axes, error = map_axes(), hv.Dimension("error_m", label="error", unit="m")
    layers = []
    converged = each.converged.values
    for rows, label, marker in ((converged, "fix", "circle"), (~converged, "no fix", "x")):
        if rows.any():
            columns = (*place[rows].T, error_m[rows], each.sample.values[rows])
            points = hv.Points(columns, axes, [error, "sample"], label=label)
            style = {"color": "error_m", "marker": marker, "size": 7, "line_width": 1.5 if marker == "x" else 0}
            layers.append(points.opts(**style, **colours, tools=["hover"], backend="bokeh"))
            colours = {name: colours[name] for name in ("cmap", "clim", "logz")}  # one bar is for both
    return layers
