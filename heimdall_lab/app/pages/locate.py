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

from heimdall_lab import plots
from heimdall_lab.app.parts import background
from heimdall_lab.app.parts.look import failure, inked, section, told
from heimdall_lab.app.parts.uploads import FileInput, Files, Shelf
from heimdall_lab.core.receivers import parse_receivers, receivers_csv
from heimdall_lab.datasets.recordings.files import read_files
from heimdall_lab.localization import estimators, learned, tables
from heimdall_lab.localization.geojson import geojson
from heimdall_lab.localization.methods import METHODS
from heimdall_lab.signals import pairs

MAX_UPLOAD_BYTES = 200_000_000
VIEWS = ("Lines", "Network", "Ellipse")

_REMEDY = "use the shell command 'heimdall-lab locate' for larger ones"
_TABLE = "receivers.csv"  # what the table of receivers is called beside them
_FRAME = {"frame_width": 470, "frame_height": 349}
_PICTURE_PX = (760, 445)  # fixed: Bokeh fails where a new picture resizes what holds it
_TIGHT = "p { margin: 2px 0; }"
_PAGE = 10  # rows of a table
_TITLES = {
    "sample": "window",
    "latitude_deg": "latitude, °",
    "longitude_deg": "longitude, °",
    "altitude_m": "altitude, m",
    "sigma_east_m": "σ east, m",
    "sigma_north_m": "σ north, m",
    "error_m": "error, m",
    "crlb_rmse_m": "bound, m",
    "later_than": "later than",
    "tdoa_us": "by, µs",
    "noise_std_us": "σ of noise, µs",
    "total_std_us": "σ in all, µs",
}
_WAITING = """
**1.** Choose recordings of one transmitter, made at the same time by at least three receivers: SigMF (.sigmf-meta with
.sigmf-data, a .sigmf archive, a collection with its files) or KiwiSDR IQ recordings (.wav).

**2.** Where they do not tell the receivers' positions, as KiwiSDR's do not, add a CSV file with the columns name,
latitude_deg, longitude_deg and, if known, altitude_m.

**3.** Press Locate.
"""


class FieldError(ValueError):
    """A value that a field of the page cannot have."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Locate(Viewer):
    """Recordings in, a fix with its ellipse out."""

    dark = param.Boolean(False, doc="Whether pictures are for a dark page.")
    method: Any = param.Selector(default="tdoa_ls", objects=["tdoa_ls"], doc="How the transmitter is located.")
    window = param.String("", doc="Cut recordings into windows of so many seconds, each with a fix; empty: one window.")
    position = param.String("", doc="True latitude and longitude if known, in degrees, as 50.0152, 9.0112.")
    view: Any = param.Selector(default="Lines", objects=list(VIEWS), doc="What is drawn.")
    sample: Any = param.Selector(default=0, objects=[0], doc="Window that is drawn.")

    def __init__(self, root: str | Path = Path("data"), **params: Any) -> None:
        super().__init__(**params)
        self._root = Path(root)
        self._shelf = Shelf(self._root)
        self._files: list[Path] = []
        self._receivers = ""  # CSV
        self._recorded: tuple[xr.Dataset, xr.Dataset] | None = None  # and what `pairs.pair_features` measured
        self._located: xr.Dataset | None = None
        self._read_window_s: float | None = None
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
        return self._located

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
            self._recorded = self._located = self._fixes = self._seen = None
            self._show(False)
            self._files = await asyncio.to_thread(self._shelf.put, recordings)
            megabytes = sum(map(len, recordings.values())) / 1e6
            self._told_files.object = f"{len(recordings)} file{'s' * (len(recordings) > 1)}, {megabytes:.1f} MB"
            self._take_receivers({name: content for name, content in files.items() if name not in recordings})

    def put_receivers(self, files: Files) -> None:
        """Take an uploaded table of receivers, for recordings that are not read yet."""
        with told(self._alert):
            self._take_receivers(files)

    def _take_receivers(self, files: Files) -> None:
        for name, content in files.items():
            receivers = parse_receivers(bytes(content), name)
            self._receivers = receivers_csv(receivers)
            again = "; upload the recordings again to use it" if self._recorded else ""
            self._told_receivers.object = f"{name}: {len(receivers)} receivers{again}"
            table = pd.DataFrame([receiver.model_dump() for receiver in receivers])
            self._show_receivers(table.rename(columns={"name": "receiver"}))

    def _show_receivers(self, table: pd.DataFrame) -> None:
        _fill(self._receiver_rows, table)
        self._receiver_section.visible = True

    async def locate(self, _event: Any = None) -> None:
        """Read what was uploaded, unless that is done, and locate the transmitter."""
        with self._checked(), self._working():
            truth, window_s = self._truth, self._window_s
            try:
                if self._recorded is None:
                    self._recorded = await background.run(self._read, window_s)
                    self._read_window_s = window_s
                    self.discard()
                elif window_s != self._read_window_s:
                    raise FieldError("window", "takes effect as recordings are read; upload them again")
                recorded, measured = self._recorded
                fixes = await background.run(estimators.locate, recorded, self.method, measured)
            except MemoryError as error:
                raise ValueError("memory: there is not enough for these recordings; give shorter ones") from error
            self._located, self._fixes = _with_truth(recorded, truth), fixes
            await self._tell(self._located, measured, fixes)

    def _read(self, window_s: float | None) -> tuple[xr.Dataset, xr.Dataset]:
        """Recordings, and what is measured of them."""
        if not self._files:
            raise ValueError("recordings: none are uploaded; choose SigMF or KiwiSDR files first")
        folder, table = self._files[0].parent, None
        if self._receivers:
            table = folder / _TABLE
            table.write_text(self._receivers, encoding="utf-8")
        try:
            dataset = read_files(self._files, table, window_s=window_s)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from error
        return dataset, pairs.pair_features(dataset)

    @property
    def _truth(self) -> tuple[float, float] | None:
        """True latitude and longitude; a text that is no such thing is told beside the field."""
        if not self.position.strip():
            return None
        try:
            latitude_deg, longitude_deg = (float(part) for part in self.position.split(","))
        except ValueError as error:
            raise FieldError("position", f"{self.position!r} is not latitude, longitude, as 50.0152, 9.0112") from error
        if not (abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180):
            raise FieldError("position", f"{self.position} is refused: latitude is within ±90°, longitude within ±180°")
        return latitude_deg, longitude_deg

    @property
    def _window_s(self) -> float | None:
        """Length of the windows, s; a text that is none is told beside the field."""
        if not self.window.strip():
            return None
        try:
            window_s = float(self.window)
        except ValueError as error:
            raise FieldError("window", f"{self.window!r} is no number of seconds") from error
        if not 1e-3 <= window_s <= 3600:
            raise FieldError("window", f"{self.window} s is refused: give 0.001 to 3600 s, or nothing")
        return window_s

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Tell what is refused inside the block: beside its field, or else in the page."""
        for field in self._fields.values():
            field.param.update(error_state=False, helper_text="")
        with told(self._alert):
            try:
                yield
            except FieldError as error:
                self._fields[error.field].param.update(error_state=True, helper_text=str(error))

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Show that work is under way inside the block."""
        self._go.loading = self._shown.loading = self._upload.disabled = True
        try:
            yield
        finally:
            self._go.loading = self._shown.loading = self._upload.disabled = False

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
        _fill(self._fix_rows, tables.fix_table(dataset, fixes).drop(columns="correlation"))
        _fill(self._difference_rows, tables.difference_table(dataset, measured))
        self._show_receivers(tables.receiver_table(dataset))
        self._show(True)
        await self._draw()

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
        picture = picture.opts(**_FRAME, title="", backend="bokeh")
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
        self._fields = {
            "window": pmui.TextInput.from_param(
                self.param.window, label="Window, s (optional)", description=self.param.window.doc, **wide
            ),
            "position": pmui.TextInput.from_param(
                self.param.position, label="True position (optional)", description=self.param.position.doc, **wide
            ),
        }
        self._upload = FileInput(
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
            disabled=True,
            **wide,
        )
        controls = pmui.Column(
            section(
                "Recordings",
                self._upload,
                self._told_files,
                receivers,
                self._told_receivers,
                self._fields["window"],
            ),
            section(
                "Method",
                pmui.Select.from_param(self.param.method, label="Method", **wide),
                self._fields["position"],
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
        self._receiver_section = section("Receivers", self._receiver_rows, visible=False)
        views = pmui.RadioButtonGroup.from_param(self.param.view, label="", size="small", margin=(5, 10))
        self._results = pmui.Column(
            self._summary,
            pmui.Row(views, self._window),
            pn.Column(self._pane, width=_PICTURE_PX[0], height=_PICTURE_PX[1]),
            section("Fixes", self._fix_rows),
            section("Measured time differences", self._difference_rows),
            visible=False,
            sizing_mode="stretch_width",
        )
        self._shown = pmui.Column(
            self._alert,
            self._waiting,
            self._results,
            self._receiver_section,
            sizing_mode="stretch_width",
        )

    def _refuse(self, message: str) -> None:
        self._alert.param.update(object=message, visible=True)


def _methods(root: Path) -> dict[str, str]:
    """Estimators, the trained localizers of the package and those of runs, as what `estimators.locate` takes."""
    runs = {path.parent.name: path for path in sorted((root / "runs").glob("*/model.onnx"))}
    trained = learned.pretrained() | {f"run {name}": path for name, path in runs.items()}
    return {name: name for name in METHODS} | {name: str(path) for name, path in trained.items()}


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
        sortable=False,
        layout="fit_data_stretch",
        titles=_TITLES,
        page_size=_PAGE,
        sizing_mode="stretch_width",
    )


def _fill(rows: pn.widgets.Tabulator, table: pd.DataFrame) -> None:
    """Show a table, in pages where it is long."""
    rows.param.update(value=table, pagination="local" if len(table) > _PAGE else None)
