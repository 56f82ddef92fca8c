"""What tests of pictures read of them."""

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import Plot

GROUND = {"Ground"}
UNKNOWN = ("transmitter_latitude", "transmitter_longitude", "propagation_delay", "excess_delay", "clock_offset")


def without_truth(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign({name: dataset[name] * np.nan for name in UNKNOWN})


def layers(overlay: hv.Overlay, kind: type, label: str = "") -> list[hv.Element]:
    """Layers of a picture, without those of the ground below it."""
    return [layer for layer in overlay if type(layer) is kind and label in layer.label and layer.group not in GROUND]


def ground_of(picture: hv.Overlay | Plot) -> dict[str, dict]:
    """Columns of the ground of a map: coasts, borders and cities."""
    figure = picture if isinstance(picture, Plot) else hv.renderer("bokeh").get_plot(picture).state
    names = ("coasts", "borders", "cities")
    return {layer.name: layer.data_source.data for layer in figure.renderers if layer.name in names}


def city_places(picture: hv.Overlay | Plot) -> dict[str, np.ndarray]:
    """Places (2,) of the cities of a map in its coordinates, by their names."""
    cities = ground_of(picture)["cities"]
    return {name.strip(): np.array([x, y]) for name, x, y in zip(cities["name"], cities["x"], cities["y"], strict=True)}


def columns(element: hv.Element) -> np.ndarray:
    return np.stack([element.dimension_values(d) for d in range(2)], axis=-1)


def axis_labels(picture: hv.Element | hv.Layout) -> set[str]:
    """All axis labels, None and hidden ones left out."""
    root = hv.renderer("bokeh").get_plot(picture).state
    figures = root.select({"type": Plot})
    return {axis.axis_label for figure in figures for axis in [*figure.below, *figure.left] if axis.visible} - {""}
