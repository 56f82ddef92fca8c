"""What maps share: axes in degrees, triangles at receivers, and names beside them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np

from heimdall_lab.plots.projections import map_axes
from heimdall_lab.plots.style import INK, MAP_PX, NARROW_FRAME_PX, TRUTH

TRIANGLE: dict[str, Any] = {"marker": "triangle", "size": 11, "line_width": 1.5}
OPEN_TRIANGLE = TRIANGLE | {"color": "white", "line_color": INK}

_PADDED = {"left": "   {}", "right": "{}   ", "top": " \n{}", "bottom": "{}\n "}  # by side of the text at the place
_DIRECTIONS = {"left": (0.5, 0.0), "right": (-0.5, 0.0), "top": (0.0, -0.5), "bottom": (0.0, 0.5)}


def longitude_scale(latitude_deg: float) -> float:
    """Length of a degree of longitude over that of a degree of latitude.

    >>> round(longitude_scale(60.0), 3)
    0.5
    """
    return math.cos(math.radians(latitude_deg))


def receiver_layers(
    place: np.ndarray,
    names: Sequence[str],
    x_range: tuple[float, float],
    x_scale: float,
    *,
    halo: bool = False,
    **style: Any,
) -> list[hv.Element]:
    """Draw white triangles at receivers (P, 2) in degrees, and their names; ``style`` is of the triangles."""
    axes = map_axes()
    triangles = hv.Points((*place.T, names), axes, "receiver", label="receiver")
    columns = label_columns(place, names, axes, x_range, x_scale)
    style = OPEN_TRIANGLE | style
    return [triangles.opts(**style, backend="bokeh"), *label_layers(columns, axes, halo=halo)]


def label_columns(
    place: np.ndarray,
    names: Sequence[str],
    axes: Sequence[hv.Dimension],
    x_range: tuple[float, float],
    x_scale: float = 1.0,
    width_px: int = MAP_PX[0],
) -> dict[str, np.ndarray]:
    """Columns of names beside places (P, 2): blanks of the text make a distance that zooming does not change."""
    return side_columns(place, names, label_sides(place, names, x_range, x_scale, width_px), axes)


def side_columns(
    place: np.ndarray, names: Sequence[str], sides: Sequence[str], axes: Sequence[hv.Dimension]
) -> dict[str, np.ndarray]:
    """Columns of names beside places (P, 2), which are at these sides of theirs."""
    beside = [side in ("left", "right") for side in sides]
    return {
        axes[0].name: place[:, 0],
        axes[1].name: place[:, 1],
        "name": np.array([_PADDED[side].format(name) for name, side in zip(names, sides, strict=True)]),
        "align": np.array([side if level else "center" for side, level in zip(sides, beside, strict=True)]),
        "baseline": np.array(["middle" if level else side for side, level in zip(sides, beside, strict=True)]),
    }


def label_layers(
    columns: Mapping[str, np.ndarray],
    axes: Sequence[hv.Dimension],
    *,
    halo: bool = False,
) -> list[hv.Labels]:
    """Names of `label_columns` as one layer; with a halo, as its layer and that of the names above it."""
    written = hv.Labels(columns, list(axes), ["name", "align", "baseline"])
    text = {"text_align": "align", "text_baseline": "baseline", "text_font_size": "9pt", "backend": "bokeh"}
    if not halo:
        return [written.opts(**text, text_color=INK)]
    outline = {"text_color": "white", "text_outline_color": "white"}  # an outline covers its own text
    return [written.opts(**text, **style, clone=True) for style in (outline, {"text_color": TRUTH})]


def label_boxes(columns: Mapping[str, np.ndarray], x_range: tuple[float, float], x_scale: float = 1.0) -> np.ndarray:
    """Boxes (P, 4) of the names of `label_columns` with their receivers, in a narrow frame: left, bottom, right, top.

    They are in map coordinates; ``x_scale`` is the length of a step in x over that of the same step in y.
    """
    at = np.stack(list(columns.values())[:2], axis=-1)
    letters = np.array([len(text.strip()) for text in columns["name"]])
    per_px = (x_range[1] - x_range[0]) * x_scale / NARROW_FRAME_PX
    boxes = []
    for place, count, align, baseline in zip(at, letters, columns["align"], columns["baseline"], strict=True):
        width = 6.4 * count
        left, right = {"left": (-9, 24 + width), "right": (-24 - width, 9), "center": (-width / 2, width / 2)}[align]
        bottom, top = {"middle": (-9, 9), "top": (-28, 9), "bottom": (-9, 28)}[baseline]
        boxes.append([*place, *place] + np.array([left / x_scale, bottom, right / x_scale, top]) * per_px)
    return np.array(boxes).reshape(-1, 4)


def label_sides(
    place: np.ndarray,
    names: Sequence[str],
    x_range: tuple[float, float],
    x_scale: float = 1.0,
    width_px: int = MAP_PX[0],
) -> list[str]:
    """Choose the side of each name at which its receiver is, so that it covers no other receiver or name.

    Each is left, right, top or bottom. Places (P, 2) and ``x_range`` are in map coordinates; ``x_scale`` is the length
    of a step in x over that of the same step in y, and ``width_px`` the width of the map's frame.
    """
    scaled = place * [x_scale, 1.0]
    left, right = x_range[0] * x_scale, x_range[1] * x_scale
    per_px = (right - left) / width_px
    boxes = [np.array([*(at - 7 * per_px), *(at + 7 * per_px)]) for at in scaled]  # left, bottom, right, top
    sides = []
    for own, (at, name) in enumerate(zip(scaled, names, strict=True)):
        half = np.array([3.2 * len(name), 7.0]) * per_px
        choices = []
        for side, direction in _DIRECTIONS.items():
            middle = at + np.array(direction) * (2 * half + 18 * per_px)
            box = np.array([*(middle - half), *(middle + half)])
            others = [other for i, other in enumerate(boxes) if i != own]
            overlaps = sum(
                max(0.0, min(box[2], o[2]) - max(box[0], o[0])) > 0 < min(box[3], o[3]) - max(box[1], o[1])
                for o in others
            )
            outside = middle[0] - half[0] < left or middle[0] + half[0] > right
            choices.append((overlaps + outside, side, box))
        _, side, box = min(choices, key=lambda choice: choice[0])
        boxes.append(box)
        sides.append(side)
    return sides
