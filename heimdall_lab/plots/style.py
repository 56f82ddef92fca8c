"""What all pictures share: colours, fonts, and how lengths and times are written."""

import math
import zlib
from collections.abc import Iterable
from typing import Any

import xarray as xr

INK, TRUTH = "#444444", "#000000"

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

FONT = {"title": "11pt", "labels": "10pt", "ticks": "9pt", "legend": "9pt"}
MAP_PX = (700, 520)
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


def microseconds(time_s: float) -> str:
    """Write a time in µs with two decimals."""
    return f"{round(time_s * 1e6, 2) + 0.0:,.2f} µs".replace("-", "−")  # + 0.0: no −0.00


def load_scene(dataset: xr.Dataset, sample: int) -> xr.Dataset:
    """Load one sample."""
    if sample not in dataset.sample.values:
        known = f"{dataset.sample.values.min()} … {dataset.sample.values.max()}"
        raise ValueError(f"sample: {sample} is not in the dataset; choose one of its labels, {known}")
    return dataset.sel(sample=sample).load()


def receiver_names(scene: xr.Dataset) -> list[str]:
    """Names of the present receivers."""
    return [str(name) for name in scene.receiver_name.values[scene.receiver_present.values]]
