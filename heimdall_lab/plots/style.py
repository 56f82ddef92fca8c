"""What all pictures share: colours, fonts, markers of methods, and the limits of maps."""

import math
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from bokeh.models import NumeralTickFormatter
from bokeh.palettes import Viridis256

from heimdall_lab.signals.measurements import with_measurements

INK, TRUTH = "#444444", "#000000"
COAST, PLACE_NAME = "#8ea4b4", "#7a7a7a"  # of the ground, which is quieter than what stands on it
LAW_DASHES = {"normal": "dashed", "genie": "dashed", "mixture": "dotted"}  # of bounds, by the laws of the delays

_STYLES = {  # Okabe and Ito's colours, which the colour-blind tell apart; hollow shapes that overlap without hiding
    "centroid": ("#E69F00", "square"),
    "strongest": ("#CC79A7", "diamond"),
    "rss_ml": ("#56B4E9", "inverted_triangle"),
    "tdoa_ls": ("#0072B2", "x"),
    "tdoa_robust": ("#D55E00", "circle"),
    "dpd": ("#009E73", "hex"),
    "tdoa_joint": ("#661100", "star"),
}

_LEARNED_STYLES = {  # of Tol's muted scheme; lines are broken as well
    "triangulation": ("#332288", "cross"),
    "tdoa_unrolled": ("#882255", "square_pin"),
    "localization_net": ("#999933", "triangle_pin"),
    "iq_resnet18": ("#117733", "square_x"),
    "iq_vggnet": ("#CC6677", "circle_x"),
}

_MORE_STYLES = (  # for several of one architecture
    ("#88CCEE", "diamond_cross"),
    ("#AA4499", "square_cross"),
    ("#44AA99", "circle_cross"),
    ("#DDCC77", "square_dot"),
    ("#332288", "circle_dot"),
    ("#882255", "diamond_dot"),
    ("#117733", "hex_dot"),
    ("#CC6677", "triangle_dot"),
)

COLOURS = list(Viridis256[:60:-1])  # of maps, without the darkest, on which names cannot be read

FONT = {"title": "11pt", "labels": "10pt", "ticks": "9pt", "legend": "9pt"}
MAP_PX = (700, 520)
NARROW_FRAME_PX = 480  # width of the smallest frame that a map has: names that are apart there are so in all
MAP_OPTIONS: dict[str, Any] = {
    "frame_width": MAP_PX[0],
    "frame_height": MAP_PX[1],
    "legend_position": "right",
    "legend_opts": {"border_line_color": None, "background_fill_alpha": 0.0, "spacing": 4, "location": "top_left"},
    "active_tools": ["pan"],
    "toolbar": "above",
    "show_grid": True,
    "gridstyle": {"grid_line_color": "#e8e8e8"},
    "fontsize": FONT,
}


def method_styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Give every method its colour and marker, the same in all pictures of these methods.

    >>> method_styles(["tdoa_ls"])
    {'tdoa_ls': ('#0072B2', 'x')}
    """
    names = list(methods)
    fixed = _STYLES | _LEARNED_STYLES
    styles = {name: fixed[name] for name in names if name in fixed}
    for name in names:
        if name not in styles:
            styles[name] = _free_style(name, list(styles.values()))
    return {name: styles[name] for name in names}


def _free_style(name: str, used: list[tuple[str, str]]) -> tuple[str, str]:
    """Choose the style of a trained localizer: that of its architecture if nothing has it, else one of the others."""
    first, count = zlib.crc32(name.encode()), len(_MORE_STYLES)
    others = [_MORE_STYLES[(first + step) % count] for step in range(count)]
    own = [style for architecture, style in _LEARNED_STYLES.items() if name.startswith(architecture)]
    drawn = {colour for colour, _ in used}
    return min([*own, *others], key=lambda style: (style in used, style[0] in drawn))


def line_dash(method: str) -> str:
    """Whether a method's line is broken, as those of trained ones are.

    >>> line_dash("tdoa_ls"), line_dash("triangulation")
    ('solid', 'dotdash')
    """
    return "solid" if method in _STYLES else "dotdash"


def load_scene(dataset: xr.Dataset, sample: int) -> xr.Dataset:
    """Load one sample."""
    return _scenes(dataset, sample).isel(sample=0).load()


def load_measured_scene(dataset: xr.Dataset, sample: int) -> xr.Dataset:
    """Load one sample, and what is measured of its signals."""
    return with_measurements(_scenes(dataset, sample)).isel(sample=0).load()


def _scenes(dataset: xr.Dataset, sample: int) -> xr.Dataset:
    """Take one sample out of a dataset, of length 1."""
    if sample not in dataset.sample.values:
        known = f"{dataset.sample.values.min()} … {dataset.sample.values.max()}"
        raise ValueError(f"sample: {sample} is not in the dataset; choose one of its labels, {known}")
    row = int(np.flatnonzero(dataset.sample.values == sample)[0])
    return dataset.isel(sample=slice(row, row + 1))


def receiver_names(scene: xr.Dataset) -> list[str]:
    """Names of the present receivers."""
    return [str(name) for name in scene.receiver_name.values[scene.receiver_present.values]]


def plain_title(text: str) -> str:
    """Write a title that may hold names for HoloViews, which fills in what is in braces.

    >>> plain_title("R{1}")
    'R{{1}}'
    """
    return text.replace("{", "{{").replace("}", "}}")


def map_limits(
    place: np.ndarray, *, margin: float = 0.12, x_scale: float = 1.0, frame_px: tuple[int, int] = MAP_PX
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits in x and y of a map that holds all places (P, 2) with a margin, in the shape of its frame.

    ``x_scale`` is the length of a step in x over that of the same step in y.
    """
    low, high = place.min(axis=0), place.max(axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-6) * (1 + 2 * margin)
    frame = np.array(frame_px) / np.array([x_scale, 1.0])
    half = (half / frame).max() * frame
    (left, bottom), (right, top) = middle - half, middle + half
    return (float(left), float(right)), (float(bottom), float(top))


def log_colours(low: float, high: float, title: str) -> dict[str, Any]:
    """Options of a layer whose colours are a map's on a logarithmic scale, with a titled bar."""
    return {
        "colorbar": True,
        "clabel": title,
        "cmap": COLOURS,
        "cticks": log_ticks(low, high),
        "cformatter": NumeralTickFormatter(format="0,0.[0]"),
        "clim": (low, high),
        "logz": True,
    }


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two limits: 1, 2 and 5 of each decade, or more where these are fewer than three."""
    decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ([1, 2, 5], np.arange(1, 10), np.arange(10, 100) / 10):
        if len(ticks) < 3:
            values = np.multiply.outer(decades, digits).ravel()
            ticks = [float(value) for value in values if low <= value <= high]
    return ticks or [low]
