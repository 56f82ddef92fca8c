"""Where is the transmitter in my recordings?"""

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param
import xarray as xr
from panel.viewable import Viewer

from heimdall_lab import estimators, learned, networks, pairs, plots, tables
from heimdall_lab.app.look import failure, inked, section, told
from heimdall_lab.app.uploads import FileInput, Files, Shelf
from heimdall_lab.geojson import geojson
from heimdall_lab.recordings.files import read_files

MAX_UPLOAD_BYTES = 200_000_000
VIEWS = ("Lines", "Network", "Around the fix")

_REMEDY = "use the shell command 'heimdall-lab locate' for larger ones"
_TABLE = "receivers.csv"  # what the table of receivers is called beside them
_FRAME = {"frame_width": 470, "frame_height": 349}
_TIGHT = "p { margin: 2px 0; }"
_WAITING = """
**1.** Choose recordings of one transmitter, made at the same time by at least three receivers: SigMF (`.sigmf-meta`
with `.sigmf-data`, a `.sigmf` archive, a collection with its files) or KiwiSDR IQ recordings (`.wav`).

**2.** Where they do not tell the receivers' positions, as KiwiSDR's do not, add a CSV file with the columns name,
latitude_deg, longitude_deg and, if known, altitude_m.

**3.** Press Locate.
"""


class Locate(Viewer):
    """Recordings in, a fix with its ellipse out."""

    dark = param.Boolean(False, doc="Whether pictures are for a dark page.")
    method = param.Selector(default="tdoa_ls", objects=["tdoa_ls"], doc="How the transmitter is located.")
    window_s = param.Number(
        None,
        allow_None=True,
        bounds=(1e-3, 3600),
        doc="Cut recordings into windows of this length, s, each with a fix; empty: one window.",
    )
    latitude_deg = param.Number(None, allow_None=True, bounds=(-90, 90), doc="If known, degrees north.")
    longitude_deg = param.Number(None, allow_None=True, bounds=(-180, 180), doc="If known, degrees east.")
    view = param.Selector(default="Lines", objects=list(VIEWS), doc="What is drawn.")
    sample = param.Selector(default=0, objects=[0], doc="Window that is drawn.")

    def __init__(self, root: str | Path = Path("data"), **params: Any) -> None:
        super().__init__(**params)
        self._root = Path(root)
        self._shelf = Shelf(self._root)
        self._files: list[Path] = []
        self._receivers = ""  # CSV
        self._recorded: tuple[xr.Dataset, xr.Dataset] | None = None  # and what `pairs.pair_features` measured
        self._fixes: xr.Dataset | None = None
        self._seen: tuple[Any, hv.streams.RangeXY, Any] | None = None  # what was drawn, its limits now and at first
        self._alert = failure()
        self.param.method.objects = _methods(self._root)
        self._layout = self._laid_out()
        if pn.state.curdoc is not None:
            pn.state.on_session_destroyed(lambda _context: self.discard())

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page."""
        return self._layout

    @property
    def dataset(self) -> xr.Dataset | None:
        """The recordings with the true position, None before they are read."""
        return None if self._recorded is None else _with_truth(self._recorded[0], self._truth)

    @property
    def fixes(self) -> xr.Dataset | None:
        """Result of `estimators.locate` for the recordings, None before."""
        return self._fixes

    def discard(self) -> None:
        """Remove the uploaded files."""
        self._shelf.clear()
        self._files = []

    async def put(self, files: Files) -> None:
        """Take uploaded recordings in the place of earlier ones, and a table of receivers that is among them."""
        recordings = {name: content for name, content in files.items() if not name.lower().endswith(".csv")}
        with told(self._alert), self._working():
            self._recorded = self._fixes = self._seen = None
            self._show(False)
            self._files = await asyncio.to_thread(self._shelf.put, recordings)
            megabytes = sum(map(len, recordings.values())) / 1e6
            self._told_files.object = f"{megabytes:.1f} MB: {', '.join(sorted(recordings))}"
            self._take_receivers({name: content for name, content in files.items() if name not in recordings})

    def put_receivers(self, files: Files) -> None:
        """Take an uploaded table of receivers, for recordings that are not read yet."""
        with told(self._alert):
            self._take_receivers(files)

    def _take_receivers(self, files: Files) -> None:
        for name, content in files.items():
            receivers = networks.parse(bytes(content), name)
            self._receivers = networks.csv_text(receivers)
            again = "; upload the recordings again to use it" if self._recorded else ""
            self._told_receivers.object = f"{name}: {len(receivers)} receivers{again}"
            self._receiver_rows.value = pd.DataFrame([receiver.model_dump() for receiver in receivers])
            self._receiver_rows.visible = True

    async def locate(self, _event: Any = None) -> None:
        """Read what was uploaded, unless that is done, and locate the transmitter."""
        with told(self._alert), self._working():
            try:
                if self._recorded is None:
                    self._recorded = await asyncio.to_thread(self._read)
                    self._shelf.clear()
                    self._files = []
                recorded, measured = self._recorded
                truth = self._truth
                self._fixes = await asyncio.to_thread(estimators.locate, recorded, self.method, measured)
            except MemoryError as error:
                raise ValueError("memory: there is not enough for these recordings; give shorter ones") from error
            await self._tell(_with_truth(recorded, truth), measured, self._fixes)

    def _read(self) -> tuple[xr.Dataset, xr.Dataset]:
        """Recordings, and what is measured of them."""
        if not self._files:
            raise ValueError("recordings: none are uploaded; choose SigMF or KiwiSDR files first")
        folder, table = self._files[0].parent, None
        if self._receivers:
            table = folder / _TABLE
            table.write_text(self._receivers, encoding="utf-8")
        try:
            dataset = read_files(self._files, table, window_s=self.window_s)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from error
        return dataset, pairs.pair_features(dataset)

    @property
    def _truth(self) -> tuple[float, float] | None:
        given = self.latitude_deg, self.longitude_deg
        if given == (None, None):
            return None
        if None in given:
            raise ValueError("true position: only half of it is given; give latitude and longitude, or neither")
        return given

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Show that work is under way inside the block."""
        self._go.loading = self._shown.loading = True
        try:
            yield
        finally:
            self._go.loading = self._shown.loading = False

    def _show(self, results: bool) -> None:
        """Show results, or how to come by them."""
        self._waiting.visible, self._results.visible = not results, results
        self._download.disabled = not results

    async def _tell(self, dataset: xr.Dataset, measured: xr.Dataset, fixes: xr.Dataset) -> None:
        samples = [int(sample) for sample in fixes["sample"].values]
        self.param.sample.objects = samples
        if self.sample not in samples:
            self.sample = samples[0]
        self._window.visible = len(samples) > 1
        self._fix_rows.value = tables.fix_table(dataset, fixes)
        self._difference_rows.value = tables.difference_table(dataset, measured)
        self._receiver_rows.value = tables.receiver_table(dataset)
        self._receiver_rows.visible = True
        await self._draw()
        self._show(True)

    @param.depends("dark", "view", "sample", watch=True)
    async def _draw(self) -> None:
        """Draw what is chosen; what was drawn before keeps the limits that somebody gave it."""
        dataset, fixes, sample, view = self.dataset, self._fixes, self.sample, self.view
        if self._recorded is None or dataset is None or fixes is None or sample not in fixes["sample"]:
            return
        if view == "Lines":
            measured = self._recorded[1]
            traced = await asyncio.to_thread(plots.trace_hyperbolas, dataset, sample, measured, fixes)
            picture = plots.hyperbolas(dataset, sample, measured, fixes, traced)
        else:
            picture = (plots.scene_map if view == "Network" else plots.fix_map)(dataset, sample, fixes)
        picture = picture.opts(**_FRAME, backend="bokeh")
        key, first = (view, sample, id(self._recorded)), _limits(picture)
        if self._seen is not None and self._seen[0] == key:
            _, now, before = self._seen
            moved = now.x_range, now.y_range
            if None not in moved and not np.allclose(moved, before, rtol=1e-9):
                picture = picture.opts(xlim=moved[0], ylim=moved[1], backend="bokeh")
        self._seen = key, hv.streams.RangeXY(source=picture), first
        self._pane.object = inked(picture, self.dark)
        self._summary.object = tables.fix_text(dataset, fixes, sample)

    def _written(self) -> io.StringIO:
        """Write the fixes as GeoJSON."""
        dataset = self.dataset
        if dataset is None or self._fixes is None:
            raise ValueError("fixes: there are none yet; press Locate first")
        return io.StringIO(json.dumps(geojson(dataset, self._fixes), indent=1))

    def _laid_out(self) -> pn.viewable.Viewable:
        wide: dict[str, Any] = {"size": "small", "sizing_mode": "stretch_width"}
        upload = FileInput(
            lambda files: pn.state.execute(partial(self.put, files)),
            self._refuse,
            MAX_UPLOAD_BYTES,
            _REMEDY,
            label="Choose recordings",
            multiple=True,
            **wide,
        )
        receivers = FileInput(
            self.put_receivers,
            self._refuse,
            1_000_000,
            "a table of receivers is smaller, so check the file",
            label="Choose receivers' CSV",
            accept=".csv",
            variant="outlined",
            **wide,
        )
        self._told_files = _note("SigMF or KiwiSDR, at most 200 MB together")
        self._told_receivers = _note("Positions, where the recordings have none")
        self._go = pmui.Button(label="Locate", icon="my_location", on_click=self.locate, **wide)
        self._download = pmui.FileDownload(
            callback=self._written,
            filename="fixes.geojson",
            label="Download GeoJSON",
            variant="outlined",
            disabled=True,
            **wide,
        )
        controls = pmui.Column(
            section(
                "Recordings",
                upload,
                self._told_files,
                receivers,
                self._told_receivers,
                self._field("window_s", "Window, s"),
            ),
            section(
                "Method",
                pmui.Select.from_param(self.param.method, label="Method", **wide),
                self._field("latitude_deg", "True latitude, ° (optional)"),
                self._field("longitude_deg", "True longitude, ° (optional)"),
                self._go,
                self._download,
            ),
            width=270,
        )
        self._make_results()
        return pmui.Row(controls, self._shown, sizing_mode="stretch_width")

    def _make_results(self) -> None:
        self._waiting = pn.pane.Markdown(_WAITING, sizing_mode="stretch_width")
        self._summary = pn.pane.Markdown(sizing_mode="stretch_width", stylesheets=[_TIGHT])
        self._pane = pn.pane.HoloViews(linked_axes=False)
        self._window = pmui.Select.from_param(
            self.param.sample, label="Window", size="small", width=110, visible=False, margin=(0, 10)
        )
        self._fix_rows, self._difference_rows, self._receiver_rows = _rows(), _rows(), _rows()
        self._receiver_rows.visible = False
        views = pmui.RadioButtonGroup.from_param(self.param.view, label="", size="small", margin=(5, 10))
        self._results = pmui.Column(
            self._summary,
            pmui.Row(views, self._window),
            self._pane,
            section("Fixes", self._fix_rows),
            section("Measured time differences", self._difference_rows),
            visible=False,
            sizing_mode="stretch_width",
        )
        self._shown = pmui.Column(
            self._alert,
            self._waiting,
            self._results,
            section("Receivers", self._receiver_rows),
            sizing_mode="stretch_width",
        )

    def _refuse(self, message: str) -> None:
        self._alert.param.update(object=message, visible=True)

    def _field(self, name: str, label: str) -> pmui.FloatInput:
        return pmui.FloatInput.from_param(
            self.param[name], label=label, description=self.param[name].doc, size="small", sizing_mode="stretch_width"
        )


def _methods(root: Path) -> dict[str, str]:
    """Estimators, the trained localizers of the package and those of runs, as what `estimators.locate` takes."""
    runs = {path.parent.name: path for path in sorted((root / "runs").glob("*/model.onnx"))}
    trained = learned.pretrained() | {f"run {name}": path for name, path in runs.items()}
    return {name: name for name in estimators.methods()} | {name: str(path) for name, path in trained.items()}


def _with_truth(dataset: xr.Dataset, truth: tuple[float, float] | None) -> xr.Dataset:
    """Recordings with a true position in all windows, if there is one."""
    if truth is None:
        return dataset
    columns = zip(("latitude", "longitude"), truth, strict=True)
    return dataset.assign(
        {f"transmitter_{name}": dataset[f"transmitter_{name}"].copy(data=np.full(dataset.sizes["sample"], value))
         for name, value in columns}
    )  # fmt: skip


def _limits(picture: hv.Overlay) -> Any:
    options = picture.opts.get("plot", backend="bokeh").kwargs
    return options["xlim"], options["ylim"]


def _note(text: str) -> pn.pane.Markdown:
    return pn.pane.Markdown(text, stylesheets=[_TIGHT], styles={"font-size": "12px"}, sizing_mode="stretch_width")


def _rows() -> pn.widgets.Tabulator:
    return pn.widgets.Tabulator(
        pd.DataFrame(),
        disabled=True,
        show_index=False,
        layout="fit_data_stretch",
        pagination="local",
        page_size=10,
        sizing_mode="stretch_width",
    )
