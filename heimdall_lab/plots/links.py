"""Features of links, in Bokeh figures that share their rows: what is selected in one is selected in all."""

from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import BoxSelectTool, ColumnDataSource, CustomJS, HoverTool, LassoSelectTool, Range1d
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import schema
from heimdall_lab.plots.ground import draw_ground, ground
from heimdall_lab.plots.labels import OPEN_TRIANGLE, longitude_scale
from heimdall_lab.plots.projections import degrees
from heimdall_lab.plots.style import map_limits

COLOUR_BY = ("waveform", "snr", "line_of_sight")

_BLUE, _GREY = "#0072B2", "#9AA7B4"
_CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")  # Okabe and Ito's
_SNR_STEPS = 5
_BINS = 30
# A module, which browsers run where pages may not compile text.
_COUNT_SELECTED = """
export default ({rows, bins, names}) => {
  for (const [place, name] of names.entries()) {
    const {left, right, all} = bins[place].data
    const count = all.length, low = left[0], high = right[count - 1]
    const selected = new Array(count).fill(0)
    for (const row of rows.selected.indices) {
      const bin = Math.floor((rows.data[name][row] - low) / (high - low) * count)
      if (!Number.isNaN(bin)) selected[Math.max(0, Math.min(count - 1, bin))] += 1
    }
    bins[place].data = {...bins[place].data, selected: rows.selected.indices.length ? selected : Array.from(all)}
  }
}
"""


def feature_label(feature: str) -> str:
    """Name a feature with its unit, as axes do.

    >>> feature_label("snr_db"), feature_label("zero_crossing_rate")
    ('SNR, dB', 'zero crossing rate')
    """
    unit = schema.FEATURES[feature][0]
    suffixes = ("_dbm_per_hz", "_dbm", "_db", "_khz", "_hz", "_us")
    name = next((feature.removesuffix(suffix) for suffix in suffixes if feature.endswith(suffix)), feature)
    words = [word.upper() if word in ("snr", "rssi", "psd") else word for word in name.split("_")]
    written = {"1": "", "us": "µs", "dBm Hz-1": "dBm/Hz", "mW^0.5": "√mW"}.get(unit, unit)
    return ", ".join(filter(None, (" ".join(words), written)))


def link_rows(table: pd.DataFrame) -> ColumnDataSource:
    """Put links of `link_table.links` where figures take them from, with ``colour_by_…`` of each of ``COLOUR_BY``."""
    colours = {f"colour_by_{by}": _colours(table, by)[0] for by in COLOUR_BY}
    return ColumnDataSource({str(name): table[name].to_numpy() for name in table} | colours)


def link_colours(table: pd.DataFrame, by: str) -> dict[str, str]:
    """Colours of links by waveform, snr or line_of_sight, and what each stands for."""
    return _colours(table, by)[1]


def link_scatter(rows: ColumnDataSource, x: str, y: str, colour_by: str, size: tuple[int, int]) -> figure:
    """Draw one of `schema.FEATURES` over another, of `link_rows`, in the colours of one of ``COLOUR_BY``.

    The size, (width, height) in pixels, includes the axes.
    """
    x_range, y_range = (_range(rows.data[name]) for name in (x, y))
    picture = _figure(size, x_range, y_range, feature_label(x), feature_label(y))
    _points(picture, rows, x, y, colour_by, [(feature_label(name), f"@{name}") for name in dict.fromkeys((x, y))])
    return picture


def link_truth(rows: ColumnDataSource, feature: str, colour_by: str, size: tuple[int, int]) -> figure:
    """Draw a feature over its truth as `link_scatter` does, with the diagonal on which both agree."""
    truth = f"true_{feature}"
    limits = _range([rows.data[name] for name in (truth, feature)])
    label = feature_label(feature)
    picture = _figure(size, limits, limits, f"true {label}", f"measured {label}")
    picture.line(limits, limits, line_color="#888888", line_dash="dashed", line_width=1.5)
    _points(picture, rows, truth, feature, colour_by, [("measured", f"@{feature}"), ("true", f"@{truth}")])
    return picture


def link_map(
    rows: ColumnDataSource, receivers: dict[str, tuple[float, float]], colour_by: str, size: tuple[int, int]
) -> figure:
    """Draw the transmitters of links, and receivers as triangles; otherwise as `link_scatter`.

    Receivers have longitude and latitude in degrees, by name; none where they stand elsewhere in each scene.
    """
    place = np.stack([rows.data[f"transmitter_{name}"] for name in ("longitude", "latitude")], axis=-1)
    shown = np.concatenate([place, np.array(list(receivers.values())).reshape(-1, 2)])
    shown = shown[np.isfinite(shown).all(axis=1)]
    shown = shown if len(shown) else np.zeros((1, 2))
    frame = (size[0] - 70, size[1] - 90)
    x_scale = longitude_scale(float(shown[:, 1].mean()))
    limits = map_limits(shown, margin=0.06, x_scale=x_scale, frame_px=frame)
    picture = _figure(size, *limits, "longitude, °", "latitude, °")
    picture.frame_width, picture.frame_height = frame
    draw_ground(picture, ground(degrees(sum(limits[0]) / 2), *limits))
    tips = [("SNR", "@snr{0.0} dB"), ("waveform", "@waveform")]
    _points(picture, rows, "transmitter_longitude", "transmitter_latitude", colour_by, tips)
    if receivers:
        longitude, latitude = zip(*receivers.values(), strict=True)
        stations = ColumnDataSource({"longitude": longitude, "latitude": latitude, "name": list(receivers)})
        drawn = picture.scatter("longitude", "latitude", source=stations, **OPEN_TRIANGLE)
        picture.add_tools(HoverTool(renderers=[drawn], tooltips=[("receiver", "@name")]))
    return picture


def link_histograms(rows: ColumnDataSource, features: list[str], size: tuple[int, int]) -> list[figure]:
    """Draw how features are distributed: all links, and over these the selected ones, as soon as they are selected.

    A range that is selected across a histogram selects its links. Histograms that were drawn of these rows before are
    no longer kept up. The size of each, (width, height) in pixels, includes the axes.
    """
    pictures, bins = [], []
    for feature in features:
        values = np.asarray(rows.data[feature])
        chosen = np.zeros(len(values), dtype=bool)
        chosen[rows.selected.indices] = True
        low, high = _range(values)
        finite = np.isfinite(values)
        everything, edges = np.histogram(values[finite], bins=_BINS, range=(low, high))
        selected = np.histogram(values[finite & chosen], bins=edges)[0] if chosen.any() else everything
        bins.append(ColumnDataSource({"left": edges[:-1], "right": edges[1:], "all": everything, "selected": selected}))
        picture = _figure(size, (low, high), (0, 1.08 * max(1, everything.max())), feature_label(feature), "links")
        for column, colour in (("all", _GREY), ("selected", _BLUE)):
            picture.quad(
                left="left", right="right", bottom=0, top=column, source=bins[-1], color=colour, line_color=None
            )
        # What the tool selects: the links themselves, unseen, at half of the height.
        picture.extra_y_ranges = {"height": Range1d(start=0, end=1)}
        marks = picture.scatter(feature, 0.5, source=rows, alpha=0, y_range_name="height")
        marks.nonselection_glyph = marks.glyph
        across = BoxSelectTool(dimensions="width", renderers=[marks])
        picture.toolbar.tools = [across, *(tool for tool in picture.tools if not _selects(tool))]
        picture.toolbar.active_drag = across
        pictures.append(picture)
    count = CustomJS(args={"rows": rows, "bins": bins, "names": features}, code=_COUNT_SELECTED)
    rows.selected.js_property_callbacks = {"change:indices": [count]}
    return pictures


def _colours(table: pd.DataFrame, by: str) -> tuple[np.ndarray, dict[str, str]]:
    """Colour of each link, and the colours' key."""
    if by not in COLOUR_BY:
        raise ValueError(f"colour_by: {quoted(by)} is unknown; choose one of {', '.join(COLOUR_BY)}")
    if by != "snr":
        names = sorted(set(table[by]))
        key = {name: _CATEGORIES[place % len(_CATEGORIES)] for place, name in enumerate(names)}
        return table[by].map(key).to_numpy(), key
    snr_db = table["snr"].to_numpy()
    finite = snr_db[np.isfinite(snr_db)]
    low, high = np.percentile(finite, [2, 98]) if len(finite) else (0.0, 1.0)
    palette = np.array(Viridis256[:240])  # without the brightest, which vanish on white
    share = np.nan_to_num((snr_db - low) / max(high - low, 1e-9)).clip(0, 1)
    colours = palette[np.rint(share * (len(palette) - 1)).astype(int)]
    steps = np.linspace(0, 1, _SNR_STEPS)
    key = {f"{low + s * (high - low):.0f} dB": str(palette[round(s * (len(palette) - 1))]) for s in steps}
    return np.where(np.isfinite(snr_db), colours, _GREY), key


def _figure(
    size: tuple[int, int], x_range: tuple[float, float], y_range: tuple[float, float], x_label: str, y_label: str
) -> Any:
    """Make an empty figure in which a box selects and the wheel zooms."""
    options: dict[str, Any] = {
        "x_range": x_range,
        "y_range": y_range,
        "x_axis_label": x_label,
        "y_axis_label": y_label,
        "tools": "box_select,lasso_select,tap,pan,wheel_zoom,reset",
        "active_drag": "box_select",
    }
    picture: Any = figure(width=size[0], height=size[1], toolbar_location="above", **options)
    picture.toolbar.logo = None
    picture.xaxis.ticker.desired_num_ticks = max(3, size[0] // 75)
    picture.yaxis.ticker.desired_num_ticks = max(3, size[1] // 55)
    for axis in (*picture.xaxis, *picture.yaxis):
        axis.axis_label_text_font_style, axis.axis_label_text_font_size = "normal", "9pt"
        axis.major_label_text_font_size = "8pt"
    return picture


def _points(picture: Any, rows: ColumnDataSource, x: str, y: str, colour_by: str, tips: list[tuple[str, str]]) -> None:
    """Draw a point for each link, named ``links`` in the figure."""
    style: dict[str, Any] = {"size": 5, "fill_color": f"colour_by_{colour_by}", "line_color": None, "fill_alpha": 0.75}
    points = picture.scatter(
        x, y, source=rows, name="links", **style, nonselection_fill_color=_GREY, nonselection_fill_alpha=0.15
    )
    points.selection_glyph = points.glyph  # so that a change of its colour is seen on what is selected, too
    tooltips = [("sample", "@sample"), ("receiver", "@receiver"), *tips]
    picture.add_tools(HoverTool(renderers=[points], tooltips=tooltips, attachment="left", limit=1))


def _selects(tool: Any) -> bool:
    return isinstance(tool, BoxSelectTool | LassoSelectTool)


def _range(values: Any) -> tuple[float, float]:
    """Limits that hold all finite values, with a margin."""
    finite = np.asarray(values)[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = (high - low) * 0.03 or max(abs(high) * 0.03, 0.5)
    return low - margin, high + margin
