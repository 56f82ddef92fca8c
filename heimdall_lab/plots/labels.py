"""Names beside the places of a map, and its axes in degrees."""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np

from heimdall_lab.plots.style import INK, MAP_PX


def map_axes() -> list[hv.Dimension]:
    """Axes of a map in degrees: longitude, latitude."""
    return [hv.Dimension(f"{name}_deg", label=name, unit="°") for name in ("longitude", "latitude")]


def place_labels(
    place: np.ndarray, names: Sequence[str], x_range: tuple[float, float], width_px: int = MAP_PX[0]
) -> list[tuple[Any, ...]]:
    """Choose a side for every receiver's name on which it covers no other receiver or name.

    Parameters
    ----------
    place : (P, 2)
        Map coordinates, with one scale on both axes.
    names : sequence of str
    x_range : (left, right)
        Of the map.
    width_px : int
        Of the map's frame.

    Returns
    -------
    list of (x, y, text, horizontal alignment, vertical alignment)
    """
    per_px = (x_range[1] - x_range[0]) / width_px
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


def label_layers(labels: Sequence[tuple[Any, ...]], kdims: list[hv.Dimension]) -> list[hv.Element]:
    """Names beside the receivers, at a distance that zooming does not change: blanks of the text make it."""
    padded = {"left": "   {}", "right": "{}   ", "top": " \n{}", "bottom": "{}\n "}
    layers = []
    for side, pattern in padded.items():
        rows = [(x, y, pattern.format(name)) for x, y, name, chosen in labels if chosen == side]
        if rows:
            align = side if side in ("left", "right") else "center"
            baseline = side if side in ("top", "bottom") else "middle"
            style = {"text_align": align, "text_baseline": baseline, "text_font_size": "9pt", "text_color": INK}
            layers.append(hv.Labels(rows, kdims, "name").opts(**style, backend="bokeh"))
    return layers
