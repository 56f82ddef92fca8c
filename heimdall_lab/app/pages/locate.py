"""Locate: uploaded recordings of one transmitter, and where it is."""

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
from heimdall_lab.app.parts import background, stated_values
from heimdall_lab.app.parts.layout import apply_theme, error_alert, note, section, show_error, show_errors
from heimdall_lab.app.parts.stated_values import FieldError
from heimdall_lab.app.parts.tables import BUDGET_TITLES, DETAIL_TITLES, FIX_TITLES, make_table, show_rows
from heimdall_lab.app.parts.texts import Note
from heimdall_lab.app.parts.trained_models import trained_models
from heimdall_lab.app.parts.uploads import FileInput, Files, UploadFolder
from heimdall_lab.core.files import data_folder
from heimdall_lab.core.receivers import parse_receivers, receivers_csv
from heimdall_lab.datasets import schema
from heimdall_lab.datasets.recordings import propagation
from heimdall_lab.datasets.recordings.files import read_files
from heimdall_lab.localization import altitude, estimators, stations, tables
from heimdall_lab.localization.geojson import geojson
from heimdall_lab.localization.methods import METHODS
from heimdall_lab.localization.sentences import (
    JOINED,
    clocks_sentence,
    fix_text,
    left_out_sentence,
    noise_sentence,
    paths_sentence,
)
from heimdall_lab.signals.measurements import with_measurements

MAX_UPLOAD_BYTES = 200_000_000
VIEWS = ("Lines", "Network", "Ellipse", "Budget")
PROPAGATION = {"as recorded": ""} | {name.replace("_", " "): name for name in schema.PROPAGATION}

_REMEDY = "use the shell command 'heimdall-lab locate' for larger ones"
_TABLE = "receivers.csv"  # what the table of receivers is called beside them
_FRAME = {"frame_width": 430, "frame_height": 319}
_PICTURE_PX = (760, 415)  # fixed: Bokeh fails where a new picture resizes what holds it
_PAGE_SIZE = 10
_NOT_IN_TABLE = ["correlation", "converged", "misfit"]  # which the sentences and the details tell
_FIELD_LABELS = {
    "window": "Window, s (optional)",
    "position": "True position (optional)",
    "altitude": "Altitude ± σ, m",
    "path_delay": "σ of path delay, µs",
}
_INSTRUCTIONS = """
**1.** Choose recordings of one transmitter, made at the same time by at least three receivers: SigMF (.sigmf-meta with
.sigmf-data or the file that it names, archives as .sigmf or .sigmf.gz, a collection with its files) or IQ recordings of
KiwiSDRs or other SDRs (.wav), whose names hold those of the stations.

**2.** Where they do not tell the receivers' positions, as .wav files do not, add a CSV file with the columns name,
latitude_deg, longitude_deg and, if known, altitude_m.

**3.** Press Locate.
"""


class Locate(Viewer):
    """Recordings in, a fix with its ellipse out."""

    dark = param.Boolean(False, doc="Whether pictures are for a dark page.")
    method: Any = param.Selector(default="tdoa_ls", objects=["tdoa_ls"], doc="How the transmitter is located.")
    window = param.String("", doc="Cut recordings into windows of so many seconds, each with a fix; empty: one window.")
    position = param.String("", doc="True latitude and longitude if known, in degrees, as 50.0152, 9.0112.")
    altitude = param.String(
        "", doc="Altitude of the transmitter above the ellipsoid, m, as 9000+-3000; empty: near the ground."
    )
    propagation: Any = param.Selector(
        default="", objects=PROPAGATION, doc="How signals travel; by default as the files or the frequency say."
    )
    path_delay = param.String(
        "",
        doc="Standard deviation of one path's delay, µs; empty: by the kind of path and how far receivers are apart.",
    )
    view: Any = param.Selector(default="Lines", objects=list(VIEWS), doc="What is drawn.")
    sample: Any = param.Selector(default=0, objects=[0], doc="Window that is drawn.")

    def __init__(self, root: str | Path | None = None, **params: Any) -> None:
        super().__init__(**params)
        self._root = data_folder(root)
        self._uploads = UploadFolder(self._root)
        self._files: list[Path] = []
        self._receivers_csv = ""
        self._recorded: xr.Dataset | None = None  # with what is measured of it
        self._located: xr.Dataset | None = None
        self._read_window_s: float | None = None
        self._fixes: xr.Dataset | None = None
        self._drawn: tuple[Any, hv.streams.RangeXY, Any] | None = None  # what was drawn, its limits now and at first
        self._alert = error_alert()
        self.param.method.objects = list(METHODS)
        self._layout = self._make_layout()
        pn.state.onload(self._offer_methods)
        if pn.state.curdoc is not None:
            pn.state.on_session_destroyed(lambda _context: background.start(self.discard))

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page."""
        return self._layout

    async def _offer_methods(self) -> None:
        self.param.method.objects = await asyncio.to_thread(_methods, self._root)

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
        self._uploads.clear()
        self._files = []

    async def set_recordings(self, files: Files) -> None:
        """Take uploaded recordings in the place of earlier ones, and a table of receivers that is among them."""
        recordings = {name: content for name, content in files.items() if not name.lower().endswith(".csv")}
        with show_errors(self._alert), self._busy():
            self._recorded = self._located = self._fixes = self._drawn = None
            self._set_results_visible(False)
            self._files = await asyncio.to_thread(self._uploads.replace, recordings)
            megabytes = sum(map(len, recordings.values())) / 1e6
            self._files_note.object = f"{len(recordings)} file{'s' * (len(recordings) > 1)}, {megabytes:.1f} MB"
            self._read_receivers({name: content for name, content in files.items() if name not in recordings})

    def set_receivers(self, files: Files) -> None:
        """Take an uploaded table of receivers, for recordings that are not read yet."""
        with show_errors(self._alert):
            self._read_receivers(files)

    def _read_receivers(self, files: Files) -> None:
        for name, content in files.items():
            receivers = parse_receivers(bytes(content), name)
            self._receivers_csv = receivers_csv(receivers)
            again = "; upload the recordings again to use it" if self._recorded else ""
            self._receivers_note.object = f"{name}: {len(receivers)} receivers{again}"
            table = pd.DataFrame([receiver.model_dump() for receiver in receivers])
            self._show_receivers(table.rename(columns={"name": "receiver"}))

    def _show_receivers(self, table: pd.DataFrame) -> None:
        show_rows(self._receiver_rows, table)
        self._receiver_section.visible = True

    async def locate(self, _event: Any = None) -> None:
        """Read what was uploaded, unless that is done, and locate the transmitter."""
        with self._field_errors(), self._busy():
            truth, window_s = stated_values.position(self.position), stated_values.window_s(self.window)
            stated = stated_values.stated_altitude(self.altitude)
            paths = self.propagation or None, stated_values.path_delay_sigma_s(self.path_delay)
            try:
                if self._recorded is None:
                    self._recorded = await background.run(self._read, window_s)
                    self._read_window_s = window_s
                    await asyncio.to_thread(self.discard)
                elif window_s != self._read_window_s:
                    raise FieldError("window", "takes effect as recordings are read; upload them again")
                recorded = self._recorded  # which an upload may take away meanwhile
                recorded = await background.run(with_measurements, propagation.restated(recorded, *paths))
                recorded = recorded if stated is None else altitude.with_altitude(recorded, *stated)
                recorded = await background.run(stations.without_bad_stations, recorded)
                fixes = await background.run(estimators.locate_measured, recorded, self.method)
            except MemoryError as error:
                raise ValueError("memory: there is not enough for these recordings; give shorter ones") from error
            self._located, self._fixes = _with_truth(recorded, truth), fixes
            await self._show_results(self._located, fixes)

    def _read(self, window_s: float | None) -> xr.Dataset:
        """Recordings, and what is measured of them."""
        if not self._files:
            raise ValueError("recordings: none are uploaded; choose SigMF files or WAVs first")
        folder, table = self._files[0].parent, None
        if self._receivers_csv:
            table = folder / _TABLE
            table.write_text(self._receivers_csv, encoding="utf-8")
        try:
            dataset = read_files(self._files, table, window_s=window_s, unpacked_limit_bytes=MAX_UPLOAD_BYTES)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from error
        return with_measurements(dataset)

    @contextmanager
    def _field_errors(self) -> Iterator[None]:
        """Show the error of the block beside its field, or else in the page."""
        for field in self._fields.values():
            field.param.update(error_state=False, helper_text="")
        with show_errors(self._alert):
            try:
                yield
            except FieldError as error:
                self._fields[error.field].param.update(error_state=True, helper_text=str(error))

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Show during the block that the page is busy."""
        self._locate_button.loading = self._right.loading = self._upload.disabled = True
        try:
            yield
        finally:
            self._locate_button.loading = self._right.loading = self._upload.disabled = False

    def _set_results_visible(self, visible: bool) -> None:
        """Show results, or the instructions."""
        self._instructions.visible, self._results.visible = not visible, visible
        self._download.disabled = not visible

    async def _show_results(self, dataset: xr.Dataset, fixes: xr.Dataset) -> None:
        samples = [int(sample) for sample in fixes["sample"].values]
        self.param.sample.objects = samples
        if self.sample not in samples:
            self.sample = samples[0]
        self._window.visible = len(samples) > 1
        self._joined.visible = len(samples) > 1 and "centre_frequency" not in dataset
        rows = tables.fix_table(dataset, fixes).drop(columns=_NOT_IN_TABLE)
        show_rows(self._fix_rows, rows.round({"latitude_deg": 5, "longitude_deg": 5}))
        show_rows(self._difference_rows, tables.difference_table(dataset))
        self._show_receivers(tables.receiver_table(dataset))
        self._set_results_visible(True)
        await self._draw()

    @param.depends("dark", "view", "sample", watch=True)
    async def _draw(self) -> None:
        """Draw the chosen picture; limits that the reader changed are kept."""
        dataset, fixes, sample, view = self.dataset, self._fixes, self.sample, self.view
        if self._recorded is None or dataset is None or fixes is None or sample not in fixes["sample"]:
            return
        about = (left_out_sentence, noise_sentence, clocks_sentence, paths_sentence)
        said = fix_text(dataset, fixes, sample), *(say(dataset) for say in about)
        self._summary.object = "\n\n".join(filter(None, (*said, *schema.position_cautions(dataset))))
        show_rows(self._budget_rows, tables.budget_table(dataset, fixes, sample))
        show_rows(self._detail_rows, tables.detail_table(dataset, fixes, sample))
        if view == "Budget":
            budget = plots.error_budget(fixes, sample).opts(**_FRAME, backend="bokeh")
            self._drawn, self._pane.object = None, apply_theme(budget, self.dark)
            return
        if view == "Lines":
            traced = await asyncio.to_thread(plots.trace_hyperbolas, dataset, sample, fixes)
            picture = plots.hyperbolas(dataset, sample, fixes, traced)
        else:
            picture = (plots.scene_map if view == "Network" else plots.fix_map)(dataset, sample, fixes)
        picture = picture.opts(**_FRAME, title="", backend="bokeh")
        key, first = (view, sample, id(self._recorded)), _limits(picture)
        if self._drawn is not None and self._drawn[0] == key:
            _, now, before = self._drawn
            moved = now.x_range, now.y_range
            if None not in moved and not np.allclose(moved, before, rtol=1e-9):
                picture = picture.opts(xlim=moved[0], ylim=moved[1], backend="bokeh")
        self._drawn = key, hv.streams.RangeXY(source=picture), first
        self._pane.object = apply_theme(picture, self.dark)

    def _geojson_file(self) -> io.StringIO:
        """Write the fixes as GeoJSON."""
        dataset = self.dataset
        if dataset is None or self._fixes is None:
            raise ValueError("fixes: there are none yet; press Locate first")
        return io.StringIO(json.dumps(geojson(dataset, self._fixes), indent=1))

    def _make_layout(self) -> pn.viewable.Viewable:
        wide: dict[str, Any] = {"size": "small", "sizing_mode": "stretch_width"}
        self._fields = {
            name: pmui.TextInput.from_param(self.param[name], label=label, description=self.param[name].doc, **wide)
            for name, label in _FIELD_LABELS.items()
        }
        self._upload = FileInput(
            lambda files: pn.state.execute(partial(self.set_recordings, files)),
            partial(show_error, self._alert),
            MAX_UPLOAD_BYTES,
            _REMEDY,
            label="Choose recordings",
            multiple=True,
            **wide,
        )
        receivers = FileInput(
            self.set_receivers,
            partial(show_error, self._alert),
            1_000_000,
            "a table of receivers is smaller, so check the file",
            label="Choose receivers' CSV",
            accept=".csv",
            variant="outlined",
            **wide,
        )
        self._files_note = _small_note("SigMF or KiwiSDR, at most 200 MB together")
        self._receivers_note = _small_note("Positions, where the recordings have none")
        self._locate_button = pmui.Button(label="Locate", icon="my_location", on_click=self.locate, **wide)
        self._download = pmui.FileDownload(
            callback=self._geojson_file,
            filename="fixes.geojson",
            label="Download GeoJSON",
            disabled=True,
            **wide,
        )
        controls = pmui.Column(
            section(
                "Recordings",
                self._upload,
                self._files_note,
                receivers,
                self._receivers_note,
                self._fields["window"],
            ),
            section(
                "Method",
                pmui.Select.from_param(self.param.method, label="Method", **wide),
                pmui.Select.from_param(
                    self.param.propagation, label="Propagation", description=self.param.propagation.doc, **wide
                ),
                self._fields["path_delay"],
                self._fields["altitude"],
                self._fields["position"],
                self._locate_button,
                self._download,
            ),
            width=270,
        )
        self._make_results()
        return pmui.Row(controls, self._right, sizing_mode="stretch_width")

    def _make_results(self) -> None:
        self._instructions = note(_INSTRUCTIONS)
        self._summary = note()
        self._joined = note(JOINED, visible=False)
        self._pane = pn.pane.HoloViews(linked_axes=False)
        self._window = pmui.Select.from_param(
            self.param.sample, label="Window", size="small", width=110, visible=False, margin=(0, 10)
        )
        self._fix_rows, self._difference_rows, self._receiver_rows = (
            make_table(FIX_TITLES, _PAGE_SIZE, sortable=False, layout="fit_data_stretch") for _ in range(3)
        )
        self._budget_rows, self._detail_rows = (
            make_table(titles, 20, sortable=False, layout="fit_data_stretch")
            for titles in (BUDGET_TITLES, DETAIL_TITLES)
        )
        details = pmui.Accordion(
            ("Error budget", self._budget_rows),
            ("Details of this fix", self._detail_rows),
            toggle=True,
            title_variant="subtitle2",
            sizing_mode="stretch_width",
        )
        self._receiver_section = section("Receivers", self._receiver_rows, visible=False)
        views = pmui.RadioButtonGroup.from_param(self.param.view, label="", size="small", margin=(5, 10))
        self._results = pmui.Column(
            self._summary,
            details,
            pmui.Row(views, self._window, margin=(10, 0, 0, 0)),
            pn.Column(self._pane, width=_PICTURE_PX[0], height=_PICTURE_PX[1]),
            section("Fixes", self._fix_rows, self._joined),
            section("Measured time differences", self._difference_rows),
            visible=False,
            sizing_mode="stretch_width",
        )
        self._right = pmui.Column(
            self._alert,
            self._instructions,
            self._results,
            self._receiver_section,
            sizing_mode="stretch_width",
        )


def _methods(root: Path) -> dict[str, str]:
    """Classical methods and trained localizers, as what `estimators.locate` takes."""
    trained = {name: str(path) for name, path in trained_models(root).items()}
    return {**{name: name for name in METHODS}, **trained}


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


def _small_note(text: str) -> Note:
    return note(text, styles={"font-size": "12px"})
