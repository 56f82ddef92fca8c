"""Maps of where a method errs."""

import math

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import NumeralTickFormatter

from heimdall_lab.core.text import length_text
from heimdall_lab.plots.labels import label_layers, map_axes, place_labels
from heimdall_lab.plots.style import COLOURS, INK, MAP_OPTIONS, log_ticks, view
from heimdall_lab.signals import link_table

_LEAST_M = 1e-3  # a logarithmic scale has no 0


def error_map(dataset: xr.Dataset, board: xr.Dataset, method: str) -> hv.Overlay:
    """Draw the true positions, coloured by the error of one method on a logarithmic scale.

    Parameters
    ----------
    dataset : xr.Dataset
        With the true positions; receivers are drawn where they are the same in all samples.
    board : xr.Dataset
        Result of `metrics.compare` for it.
    method : str
        On the board.

    Returns
    -------
    hv.Overlay
        Where a fix did not converge there is a cross.

    Raises
    ------
    ValueError
        If the method is not on the board, or no true position is known.
    """
    if method not in board.method.values:
        on_board = ", ".join(str(name) for name in board.method.values)
        raise ValueError(f"method: {method!r} is not on the board; choose one of {on_board}")
    place = np.stack([dataset[f"transmitter_{name}"].values for name in ("longitude", "latitude")], axis=-1)
    known = np.isfinite(place).all(axis=-1)
    if not known.any():
        raise ValueError("transmitter_latitude: is unknown in every sample; an error map needs the true positions")
    each = board[["error", "converged"]].sel({"method": method}).isel(sample=known)
    common = link_table.common_receivers(dataset)
    receivers, names = np.array(list(common.values())).reshape(-1, 2), list(common)
    shown = np.concatenate([place[known], receivers])
    shrink = math.cos(math.radians(float(shown[:, 1].mean())))
    x_range, y_range = view(shown, margin=0.06, shrink=shrink)
    layers = [*_fix_layers(place[known], each), *_receiver_layers(receivers, names, x_range, shrink)]
    median = length_text(float(each.error.median()))
    title = f"{method}: errors at {known.sum()} true positions, median {median}"
    options = MAP_OPTIONS | {"xlim": x_range, "ylim": y_range, "show_legend": False}
    return hv.Overlay(layers).opts(title=title, **options, backend="bokeh")


def _fix_layers(place: np.ndarray, each: xr.Dataset) -> list[hv.Element]:
    """Points at true positions (S, 2) in the colours of their errors."""
    error_m = np.maximum(each.error.values, _LEAST_M)
    low, high = np.percentile(error_m, [1, 99]) * [0.99, 1.01]  # apart, even if all are equal
    bar = {"colorbar": True, "clabel": "error, m", "cmap": COLOURS, "cticks": log_ticks(low, high)}
    bar["cformatter"] = NumeralTickFormatter(format="0,0.[0]")
    axes, error = map_axes(), hv.Dimension("error_m", label="error", unit="m")
    layers = []
    for rows, label, marker in (
        (each.converged.values, "fix", "circle"),
        (~each.converged.values, "failed", "x"),
    ):
        if rows.any():
            columns = (*place[rows].T, error_m[rows], each.sample.values[rows])
            points = hv.Points(columns, axes, [error, "sample"], label=label)
            style = {"color": "error_m", "marker": marker, "size": 7, "line_width": 1.5 if marker == "x" else 0}
            layers.append(points.opts(**style, clim=(low, high), logz=True, tools=["hover"], **bar, backend="bokeh"))
            bar = {"cmap": COLOURS}  # one bar is for both
    return layers


def _receiver_layers(
    place: np.ndarray, names: list[str], x_range: tuple[float, float], shrink: float
) -> list[hv.Element]:
    """Triangles at receivers (P, 2), and their names."""
    if not names:
        return []
    triangles = hv.Points((*place.T, names), map_axes(), "receiver", label="receiver")
    style = {"marker": "triangle", "size": 12, "color": "white", "line_color": INK, "line_width": 1.5}
    scaled = place * [shrink, 1.0]  # equal scales on both axes, as the boxes of names need
    placed = place_labels(scaled, names, (x_range[0] * shrink, x_range[1] * shrink))
    labels = label_layers([(at[0] / shrink, *at[1:]) for at in placed], map_axes())
    return [triangles.opts(**style, backend="bokeh"), *labels]
