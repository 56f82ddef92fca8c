"""Curves of a training run over its epochs: the losses, and the error of the validation scenes."""

from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from heimdall_lab.plots.style import FONT

_EPOCH = hv.Dimension("epoch")
_OPTIONS: dict[str, Any] = {
    "frame_width": 390,
    "frame_height": 240,
    "show_grid": True,
    "fontsize": FONT,
    "active_tools": ["pan"],
}


def learning_curves(data: pd.DataFrame) -> hv.Overlay:
    """Draw ``train_loss`` and ``validation_loss`` after each epoch, the index; without rows, axes alone."""
    loss = hv.Dimension("loss", label="negative log likelihood")
    curves = [
        _curve(data, f"{name}_loss", loss).relabel(name).opts(color=colour, backend="bokeh")
        for name, colour in (("train", "#0072B2"), ("validation", "#D55E00"))
    ]
    legend = {"legend_position": "top_right", "legend_opts": {"background_fill_alpha": 0.6, "border_line_color": None}}
    return hv.Overlay(curves).opts(title="Loss", **legend, **_OPTIONS, backend="bokeh")


def error_curve(data: pd.DataFrame) -> hv.Curve:
    """Draw ``validation_median_error_km`` after each epoch, the index; without rows, axes alone."""
    error = hv.Dimension("error_km", label="median error", unit="km")
    curve = _curve(data, "validation_median_error_km", error).opts(color="#D55E00", logy=True, backend="bokeh")
    return curve.opts(title="Error of validation scenes", **_OPTIONS, backend="bokeh")


def _curve(data: pd.DataFrame, column: str, value: hv.Dimension) -> hv.Curve:
    curve = hv.Curve((data.index.to_numpy(float), data[column].to_numpy(np.float64)), _EPOCH, value)
    return curve.opts(framewise=True, backend="bokeh")  # axes follow the data
