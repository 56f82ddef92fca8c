"""Features: what the signals tell, and how that depends on conditions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param
from panel.viewable import Viewable

from heimdall_lab import plots
from heimdall_lab.app.parts.dataset_choice import DatasetViewer
from heimdall_lab.app.parts.layout import note, section, swatch
from heimdall_lab.app.parts.texts import Text
from heimdall_lab.datasets import schema, store
from heimdall_lab.signals import link_table

_MAX_LINKS = 5_000  # that a browser draws and selects among without waiting
_HALF_PX, _HISTOGRAM_PX, _TRUTH_PX = (374, 310), (249, 215), (249, 250)  # width and height of pictures
_COLOUR_NAMES = {"waveform": "waveform", "snr": "SNR", "line_of_sight": "line of sight"}
_Positions = dict[str, tuple[float, float]]  # longitude and latitude of receivers by name


class Features(DatasetViewer):
    """What the features of links look like, by conditions, in space and against the truth."""

    statistic: Any = param.Selector(
        default="mean", objects=list(schema.STATISTICS), doc="Of the five chunks of a window."
    )
    x: Any = param.Selector(default="snr_db", objects=list(schema.FEATURES), doc="Feature along the scatter's x axis.")
    y: Any = param.Selector(default="bandwidth_hz", objects=list(schema.FEATURES), doc="Feature along its y axis.")
    histograms = param.ListSelector(
        default=["rssi_dbm", "frequency_offset_hz", "multipath_delay_spread_us"],
        objects=list(schema.FEATURES),
        doc="Features whose distributions are drawn, at most three.",
    )
    colour_by: Any = param.Selector(default="waveform", objects=list(plots.COLOUR_BY), doc="What the colours tell.")
    selected = param.List([], item_type=int, doc="Rows of `table` that are selected; empty for none.")

    def __init__(self, root: str | Path | None = None, **params: Any) -> None:
        self.table: pd.DataFrame | None = None
        self._source: Any = None
        self._selection_text = note()
        self._key = pn.pane.HTML("", sizing_mode="stretch_width")
        self._note = Text("", variant="body2")
        self._agreement = pn.pane.HTML("", sizing_mode="stretch_width")
        self._scatter, self._map = (pn.pane.Bokeh(None, height=_HALF_PX[1]) for _ in range(2))
        self._histograms = [pn.pane.Bokeh(None, height=_HISTOGRAM_PX[1]) for _ in range(3)]
        self._truths = {name: pn.pane.Bokeh(None, height=_TRUTH_PX[1]) for name in link_table.FEATURE_TRUTH}
        super().__init__(root, **params)

    def _reading(self) -> tuple[Callable[..., Any], *tuple[Any, ...]]:
        return _read_links, Path(self.dataset), self.statistic

    def _make_layout(self) -> tuple[Viewable, Viewable]:
        features = {plots.feature_label(name): name for name in schema.FEATURES}
        controls = [
            pmui.Select.from_param(self.param.dataset, label="Dataset", size="small"),
            pmui.Select.from_param(self.param.statistic, label="Statistic over the window", size="small"),
            pmui.Select.from_param(self.param.x, label="Scatter: x", options=features, size="small"),
            pmui.Select.from_param(self.param.y, label="Scatter: y", options=features, size="small"),
            pmui.MultiChoice.from_param(self.param.histograms, label="Histograms", options=features, max_items=3),
            pmui.Select.from_param(
                self.param.colour_by,
                label="Colour by",
                options={name: by for by, name in _COLOUR_NAMES.items()},
                size="small",
            ),
        ]
        for control in controls:
            control.sizing_mode = "stretch_width"
        self._clear = pmui.Button(label="Clear selection", icon="deselect", variant="outlined", size="small")
        self._clear.on_click(lambda _: self._select([]))
        self._clear.disabled = True
        left = pn.Column(
            section("Links", *controls),
            section("Selection", self._selection_text, self._clear, self._note),
            width=280,
        )
        linked = pn.Column(
            pn.Row(self._scatter, self._map), self._key, pn.Row(*self._histograms), sizing_mode="stretch_width"
        )
        panes = list(self._truths.values())
        truth = pn.Column(pn.Row(*panes[:3]), pn.Row(*panes[3:], self._agreement), sizing_mode="stretch_width")
        pictures = pmui.Tabs(
            ("Features and map", linked), ("Against the truth", truth), sizing_mode="stretch_width", min_height=560
        )
        layout = pn.Column(
            self._alert,
            pn.Row(left, pn.Column(pictures, sizing_mode="stretch_width"), sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
        )
        return pictures, layout

    def _show_dataset(self, read: tuple[_Positions, pd.DataFrame]) -> None:
        receivers, table = read
        self.table, self._source = table, plots.link_rows(table)
        self._source.selected.on_change("indices", lambda _name, _old, new: self.param.update(selected=list(new)))
        pictures = {  # all are made before one is shown: rows that a page shows can be changed under its lock only
            self._scatter: plots.link_scatter(self._source, self.x, self.y, self.colour_by, _HALF_PX),
            self._map: plots.link_map(self._source, receivers, self.colour_by, _HALF_PX),
            **dict(zip(self._histograms, self._distributions(), strict=True)),
        }
        for name, pane in self._truths.items():
            pictures[pane] = plots.link_truth(self._source, name, self.colour_by, _TRUTH_PX)
        for pane, picture in pictures.items():
            pane.object = picture
        self.selected = []
        self._agreement.object = _agreement_text(table)
        self._show_key()
        self._show_selection()
        count = table.attrs["links"]
        drawn = f"Drawn are {len(table):,} of {count:,}, evenly spread." if len(table) < count else ""
        self._note.object = f"A point is a link: one transmission as one receiver with signal heard it. {drawn}"

    @param.depends("dataset", "statistic", watch=True)
    async def _reload(self) -> None:
        await self.load()

    @param.depends("x", "y", watch=True)
    def _draw_scatter(self) -> None:
        if self._source is not None:
            self._scatter.object = plots.link_scatter(self._source, self.x, self.y, self.colour_by, _HALF_PX)

    @param.depends("histograms", watch=True)
    def _draw_histograms(self) -> None:
        if self._source is not None:
            for pane, picture in zip(self._histograms, self._distributions(), strict=True):
                pane.object = picture

    def _distributions(self) -> list[Any]:
        """Histograms, and None for each of the places that are left."""
        drawn = plots.link_histograms(self._source, self.histograms, _HISTOGRAM_PX)
        return [*drawn, *[None] * (len(self._histograms) - len(drawn))]

    @param.depends("colour_by", watch=True)
    def _recolour(self) -> None:
        """Change the colours where they are, so that pictures keep their zoom."""
        for pane in (self._scatter, self._map, *self._truths.values()):
            if pane.object is not None:
                pane.object.select_one({"name": "links"}).glyph.fill_color = f"colour_by_{self.colour_by}"
                _push_to_notebook(pane)
        self._show_key()

    def _select(self, rows: list[int]) -> None:
        if self._source is not None:
            self._source.selected.indices = rows
            _push_to_notebook(self._scatter)

    @param.depends("selected", watch=True)
    def _show_selection(self) -> None:
        if self.table is None:
            return
        rows = self.table.iloc[self.selected]
        self._clear.disabled = rows.empty
        text = f"**{len(rows):,}** of {len(self.table):,} links, of **{rows['sample'].nunique():,}** scenes"
        nothing = "Nothing is selected. Drag a box in any picture: the same links are marked in all of them."
        self._selection_text.object = nothing if rows.empty else text

    def _show_key(self) -> None:
        if self.table is not None:
            key = plots.link_colours(self.table, self.colour_by)
            swatches = "".join(swatch(name, colour) for name, colour in key.items())
            self._key.object = f"<div style='font-size:13px'>{_COLOUR_NAMES[self.colour_by]}: {swatches}</div>"


def _read_links(folder: Path, statistic: str) -> tuple[_Positions, pd.DataFrame]:
    """Read the receivers that scenes share, and the links."""
    dataset = store.open_dataset(folder)
    return link_table.common_receivers(dataset), link_table.links(dataset, statistic, _MAX_LINKS)


def _push_to_notebook(pane: pn.pane.Bokeh) -> None:
    """Show a figure that was changed in place in a notebook; a server's session does so by itself."""
    if pn.state.curdoc is None:
        pane.param.trigger("object")


def _agreement_text(table: pd.DataFrame) -> str:
    """Describe in words how far features are from the truth, as HTML."""
    lines = []
    for name, unit, count, bias, spread in link_table.agreement(table).itertuples(index=False, name=None):
        label = plots.feature_label(name).split(",")[0]
        if not count:
            lines.append(f"<b>{label}</b>: the truth is not known")
            continue
        unit = unit.replace("dBm", "dB")  # of differences
        side = "above" if bias > 0 else "below"
        digits = 0 if spread >= 10 else 2
        lines.append(
            f"<b>{label}</b>: {abs(bias):,.{digits}f} {unit} {side} the truth in the median; "
            f"two links in three within ±{spread:,.{digits}f} {unit} of that"
        )
    items = "".join(f"<li style='margin-bottom:4px'>{line}</li>" for line in lines)
    listed = f"<ul style='padding-left:16px'>{items}</ul>"
    return f"<div style='font-size:13px'>On the dashed line a feature is the truth.{listed}</div>"
