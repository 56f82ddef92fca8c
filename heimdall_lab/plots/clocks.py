"""Clocks of recordings: how they walk from emission to emission, what they do to delays, and what unknown ones cost."""

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import numpy as np
import xarray as xr

from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import schema
from heimdall_lab.plots.errors import bound_median
from heimdall_lab.plots.style import FONT, INK
from heimdall_lab.signals.measurements import with_measurements

_TIME = hv.Dimension("recording_time_s", label="time in the recording", unit="s")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#999933")
_OPTIONS: dict[str, Any] = {
    "frame_width": 340,
    "frame_height": 230,
    "padding": 0.05,
    "show_grid": True,
    "fontsize": FONT,
    "legend_opts": {"border_line_color": None, "background_fill_alpha": 0.6},
}


def clock_walks(dataset: xr.Dataset, recording: int) -> hv.Overlay:
    """Draw how far each receiver's clock has moved since the first emission of a recording, µs; squares are references.

    The legend has the offset in the first emission, ms.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract, with ``recording``, ``recording_time`` and the truth ``clock_offset``.
    recording : int
        One of the values of ``recording``.

    Raises
    ------
    ValueError
        If there is no such recording.
    """
    emissions = _emissions(dataset, recording)
    moved = hv.Dimension("moved_us", label="clock offset since the first emission", unit="µs")
    time_s, offset_s = emissions.recording_time.values, emissions.clock_offset.values
    layers: list[hv.Element] = []
    for number, receiver in enumerate(np.flatnonzero(emissions.receiver_present.values.all(axis=0))):
        name, first_s = emissions.receiver_name.values[receiver], offset_s[0, receiver]
        at = time_s, 1e6 * (offset_s[:, receiver] - first_s)
        style = {"color": _COLOURS[number % len(_COLOURS)]}
        curve = hv.Curve(at, _TIME, moved, label=f"{name}, {1e3 * first_s:+.1f} ms".replace("-", "−"))
        layers.append(curve.opts(**style, line_width=1.5, backend="bokeh"))
        for rows, marker in ((schema.references(emissions), "square"), (~schema.references(emissions), "circle")):
            points = hv.Scatter((at[0][rows], at[1][rows]), _TIME, moved)
            layers.append(points.opts(**style, marker=marker, size=7 if marker == "square" else 4, backend="bokeh"))
    options = _OPTIONS | {"title": f"Clocks of recording {recording}", "legend_position": "right"}
    return hv.Overlay(layers).opts(**options, backend="bokeh")


def pair_delays(dataset: xr.Dataset, recording: int, receivers: tuple[str, str]) -> hv.Layout:
    """Draw how much later the first of two receivers hears each emission of a recording than the second.

    First as measured, with the difference of the clocks, which all emissions share, in ms; then what is left without
    it, with the difference of the paths, in µs. Emissions whose delay was not found have no measured one.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract, with ``recording``, ``recording_time``, the truth, and IQ or what was measured of it.
    recording : int
        One of the values of ``recording``.
    receivers : (str, str)
        Two of ``receiver_name``.

    Raises
    ------
    ValueError
        If there is no such recording or receiver.
    """
    emissions = with_measurements(_emissions(dataset, recording))
    names = emissions.receiver_name.values.astype(str).tolist()
    if unknown := [name for name in receivers if name not in names]:
        raise ValueError(f"receivers: {quoted(unknown[0])} is unknown; choose two of {', '.join(filter(None, names))}")
    one, other = (emissions.isel(receiver=names.index(name)) for name in receivers)
    heard = one.heard.values & other.heard.values
    measured_s = np.where(heard, one.tdoa_s.values - other.tdoa_s.values, np.nan)
    clocks_s = one.clock_offset.values - other.clock_offset.values
    paths_s = (one.propagation_delay + one.excess_delay - other.propagation_delay - other.excess_delay).values
    time_s = emissions.recording_time.values
    first, second = receivers
    in_ms, in_us = (hv.Dimension(f"delay_{unit}", label="delay", unit=unit) for unit in ("ms", "µs"))
    clocks = hv.Curve((time_s, 1e3 * clocks_s), _TIME, in_ms, label="clocks")
    paths = hv.Scatter((time_s, 1e6 * paths_s), _TIME, in_us, label="paths")
    causes = (
        clocks.opts(color=INK, line_width=1.5, backend="bokeh"),
        paths.opts(color="none", line_color=INK, size=12, line_width=1.5, backend="bokeh"),
    )
    delays = (
        hv.Scatter((time_s, 1e3 * measured_s), _TIME, in_ms, label="measured"),
        hv.Scatter((time_s, 1e6 * (measured_s - clocks_s)), _TIME, in_us, label="measured"),
    )
    titles = f"{first} later than {second}", "The same without the clocks"
    panels = [
        (cause * delay.opts(color="#0072B2", size=6, backend="bokeh")).opts(
            title=title, legend_position="top", **_OPTIONS, backend="bokeh"
        )
        for cause, delay, title in zip(causes, delays, titles, strict=True)
    ]
    return hv.Layout(panels).opts(shared_axes=False)


def errors_by_emissions(boards: Mapping[str, Mapping[int, xr.Dataset]]) -> hv.Overlay:
    """Draw median errors, and the bound, over how many unknown transmitters share the clocks.

    Parameters
    ----------
    boards : mapping of a legend to boards by number
        Leaderboards of one method, each of recordings with so many emissions from unknown places. Dashed is the median
        error at the bound, where there is one; circles are median errors of all fixes, whether they converged or not.

    Raises
    ------
    ValueError
        If a board is of several methods.
    """
    number = hv.Dimension("emissions", label="unknown transmitters in a recording")
    error = hv.Dimension("error_m", label="median error", unit="m")
    layers: list[hv.Element] = []
    for (label, by_number), colour in zip(boards.items(), _COLOURS, strict=False):
        counts = np.array(list(by_number))
        for board in by_number.values():
            if board.sizes["method"] != 1:
                raise ValueError(f"boards: one is of {board.sizes['method']} methods; give boards of one method each")
        at_bound = np.array([bound_median(board.crlb_covariance.values) for board in by_number.values()])
        found = np.array([board.error.median().item() for board in by_number.values()])
        known = np.isfinite(at_bound)
        bound = hv.Curve((counts[known], at_bound[known]), number, error, label=f"{label}, at the bound")
        layers.append(bound.opts(color=colour, line_dash="dashed", line_width=1.5, backend="bokeh"))
        points = hv.Scatter((counts, found), number, error, label=label)
        layers.append(points.opts(color=colour, size=8, tools=["hover"], backend="bokeh"))
    ticks = sorted({count for by_number in boards.values() for count in by_number})
    options = _OPTIONS | {"title": "Unknown transmitters calibrate the network", "legend_position": "right"}
    return hv.Overlay(layers).opts(**options, logx=True, logy=True, xticks=ticks, backend="bokeh")


def _emissions(dataset: xr.Dataset, recording: int) -> xr.Dataset:
    """Emissions of one recording."""
    if "recording" not in dataset:
        raise ValueError("recording: is not in the dataset; generate one with recording.emissions above 1")
    rows = np.flatnonzero(dataset["recording"].values == recording)
    if not len(rows):
        last = int(dataset["recording"].values.max())
        raise ValueError(f"recording: {recording} is not in the dataset; choose one of 0 … {last}")
    return dataset.isel(sample=rows)
