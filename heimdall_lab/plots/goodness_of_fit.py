"""Measured statistics beside the law that they should follow: a distribution, or curves over a parameter."""

from typing import Any

import holoviews as hv
import numpy as np

from heimdall_lab.plots.style import FONT, INK

_SIZE = {"frame_width": 340, "frame_height": 230}


def distribution(values: np.ndarray, law: Any, label: str, title: str = "") -> hv.Overlay:
    """Draw a histogram of values, with the density of the law that they should follow as a line.

    Parameters
    ----------
    law : scipy.stats frozen distribution
        With ``pdf`` and ``ppf``.
    label : str
        What the values are, and their unit.
    """
    low, high = law.ppf([1e-4, 1 - 1e-4])
    edges = np.linspace(low, high, 61)
    counts = np.histogram(values, bins=edges)[0] / (np.size(values) * np.diff(edges))
    x = np.linspace(low, high, 400)
    drawn = hv.Histogram((edges, counts), label="drawn").opts(color="#0072B2", alpha=0.45, line_color=None)
    expected = hv.Curve((x, law.pdf(x)), label="law").opts(color=INK, line_width=1.5)
    return (drawn * expected).opts(
        xlabel=label, ylabel="density", title=title, fontsize=FONT, show_legend=False, **_SIZE
    )


def curves(
    x: np.ndarray,
    lines: dict[str, np.ndarray],
    points: dict[str, np.ndarray],
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> hv.Overlay:
    """Draw laws as lines and measured values as points, over the same x.

    Parameters
    ----------
    x : (N,)
    lines, points : dict of str to (N,)
        By the label in the legend.
    """
    layers = [hv.Curve((x, y), label=name).opts(line_width=1.5) for name, y in lines.items()]
    layers += [hv.Scatter((x, y), label=name).opts(size=5, alpha=0.8) for name, y in points.items()]
    return hv.Overlay(layers).opts(
        xlabel=xlabel, ylabel=ylabel, title=title, fontsize=FONT, legend_position="right", show_grid=True, **_SIZE
    )
