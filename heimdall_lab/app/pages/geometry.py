"""Geometry: a map of what a network of receivers can locate, and the best place for one more."""

import asyncio
import io
import math
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
from bokeh.events import Tap
from bokeh.models import PointDrawTool
from panel.viewable import Viewer

from heimdall_lab import plots
from heimdall_lab.app.parts import background
from heimdall_lab.app.parts.layout import apply_theme, error_alert, note, section, show_error, show_errors
from heimdall_lab.app.parts.texts import Text
from heimdall_lab.app.parts.uploads import FileInput, Files
from heimdall_lab.core import geodesy
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.config import MAX_RECEIVERS, Config
from heimdall_lab.core.files import data_folder
from heimdall_lab.core.presets import preset
from heimdall_lab.core.receivers import (
    Receiver,
    italian_network,
    load_network,
    network_file,
    parse_receivers,
    receivers_csv,
    save_network,
    saved_networks,
)
from heimdall_lab.simulation import coverage
from heimdall_lab.simulation.coverage import Transmitter

QUANTITIES = {"CRLB": "crlb_rmse", "CEP50": "cep50", "GDOP": "gdop"}
CLICKS = ("Inspect", "Add", "Remove")
ITALY = "Italian network"

_POINTS = 100  # of the map along each side
_COARSE_POINTS = 25  # of the points and of the sites among which the best is sought
_CLICK_RADIUS = 0.02  # of the width of the map, from a click to the receiver that it means
_MAX_CSV_BYTES = 1_000_000
_DEBOUNCE_S = 0.3  # without changes, before the best site is sought

_HINT = "Click a point of the map for its numbers. Drag receivers to move them. Blank: not observable."
_PICTURE_PX = (760, 490)  # fixed: Bokeh fails where a new picture resizes what holds it
_TITLES = {"name": "name", "latitude_deg": "latitude, °", "longitude_deg": "longitude, °", "altitude_m": "altitude, m"}


class Geometry(Viewer):
    """Receivers on a map of what they can locate, to be dragged, added and removed."""

    dark = param.Boolean(False, doc="Whether pictures are for a dark page.")
    quantity: Any = param.Selector(default="crlb_rmse", objects=QUANTITIES, doc="What the colours of the map tell.")
    click: Any = param.Selector(default="Inspect", objects=list(CLICKS), doc="What a click on the map does.")
    clock: Any = param.Selector(
        default="gpsdo",
        objects={"GPSDO, 50 ns": "gpsdo", "NTP, 1 ms": "ntp", "none, ±10 ms": "none"},
        doc="How the receivers' clocks are synchronised.",
    )
    diffraction: Any = param.Selector(
        default="smooth_earth",
        objects={"none": "none", "smooth Earth": "smooth_earth"},
        doc="Loss beyond free space.",
    )
    power_dbm = param.Number(37.0, bounds=(-60, 90), doc="Power of the transmitter, dBm: it makes the SNR.")
    bandwidth_khz = param.Number(5.2, bounds=(0.1, 1000), doc="Bandwidth that the signal occupies, kHz.")
    rms_bandwidth_khz = param.Number(0.95, bounds=(0.01, 500), doc="Bandwidth that times arrivals: its rms, kHz.")
    duration_s = param.Number(0.2, bounds=(0.006, 60), doc="Length of the recorded window, s.")
    min_snr_db = param.Number(3.0, bounds=(-30, 60), doc="SNR from which a receiver has signal, dB.")

    _revision = param.Integer(0, doc="Counts changes of what the best site depends on.")

    def __init__(self, root: str | Path | None = None, **params: Any) -> None:
        super().__init__(**params)
        self._root = data_folder(root)
        self._alert, self._table_alert = error_alert(), error_alert()  # the same, where somebody edits the table
        self._alert.link(self._table_alert, object="object", visible="visible")
        self._pane = pn.pane.Bokeh()
        self._point_note, self._site_note = note(_HINT), note("Looking for the best site …")
        self._make_table()
        self._make_files()
        self._area: tuple[tuple[float, float], ...] = ()
        self._point: xr.Dataset | None = None
        self._site: tuple[float, float] | None = None
        self._closed = False
        if pn.state.curdoc is not None:
            pn.state.on_session_destroyed(lambda _context: setattr(self, "_closed", True))
        self._layout = self._make_layout()
        self.set_receivers([receiver.model_dump() for receiver in italian_network()], fit=True)

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the page."""
        return self._layout

    @property
    def receivers(self) -> tuple[Receiver, ...]:
        """The network on the map."""
        return self._config.geometry.receivers

    @property
    def bound(self) -> xr.Dataset:
        """What the map shows, as `coverage.bound_map` returns it."""
        return self._bound

    def set_receivers(self, rows: list[dict[str, Any]], *, fit: bool = False) -> None:
        """Show another network, with ``fit`` the area around it too; or show the error and keep the one on the map."""
        with show_errors(self._alert):
            config = self._make_config(rows)
            area = plots.network_area(config.geometry.receivers) if fit else self._area
            bound = self._bound_map(config, *_grid(area, _POINTS))
            if self._point is not None:
                self._point = self._bound_map(config, self._point.latitude.values, self._point.longitude.values)
            self._config, self._area, self._bound = config, area, bound
            if fit:
                self._draw()
            self._revision += 1
        self._redraw()
        self._table.value = pd.DataFrame(self._rows(), columns=list(_TITLES))

    def _make_config(self, rows: list[dict[str, Any]]) -> Config:
        if len(rows) > MAX_RECEIVERS:
            raise ConfigError(f"receivers: {len(rows)} are more than {MAX_RECEIVERS}; remove one first")
        return preset(
            "los_sync",
            num_samples=1,
            max_receivers=MAX_RECEIVERS,
            geometry={"receivers": rows},
            signal={"duration_s": self.duration_s},
            channel={"clock": self.clock, "diffraction": self.diffraction},
            gate={"min_receivers": 3, "min_snr_db": self.min_snr_db},
        )

    @property
    def _transmitter(self) -> Transmitter:
        if self.rms_bandwidth_khz > self.bandwidth_khz / 2:
            raise ConfigError(
                f"rms_bandwidth_khz: {self.rms_bandwidth_khz:g} exceeds half of the {self.bandwidth_khz:g} kHz that "
                "the signal occupies; lower it, or widen the signal"
            )
        return Transmitter(
            power_dbm=self.power_dbm,
            rms_bandwidth_hz=self.rms_bandwidth_khz * 1e3,
            occupied_bandwidth_hz=self.bandwidth_khz * 1e3,
        )

    def _bound_map(self, config: Config, latitude_deg: np.ndarray, longitude_deg: np.ndarray) -> xr.Dataset:
        return coverage.bound_map(config, latitude_deg, longitude_deg, self._transmitter)

    @property
    def _map_content(self) -> tuple[Any, ...]:
        """What the map shows."""
        return self._bound, self.quantity, self.receivers, self._area, self._point, self._site

    @param.depends("dark", watch=True)
    def _draw(self) -> None:
        """Make the map, whose sources are then updated in place."""
        picture = apply_theme(plots.network_map(*self._map_content), self.dark)
        self._figure = hv.renderer("bokeh").get_plot(picture).state
        receivers = next(layer for layer in self._figure.renderers if layer.name == "receivers")
        self._figure.sizing_mode = None  # its frame is what has a size
        mover = PointDrawTool(renderers=[receivers], add=False, description="Drag receivers")
        self._figure.add_tools(mover)
        self._figure.toolbar.active_drag = mover
        receivers.data_source.on_change("data", lambda _attr, _old, new: self._on_drag(new))
        self._figure.on_event(Tap, lambda event: self._on_click(event.x, event.y))
        self._pane.object = self._figure

    @param.depends("quantity", watch=True)
    def _redraw(self) -> None:
        """Update the sources of the map in place."""
        with show_errors(self._alert, keep=True):
            plots.redraw_network(self._figure, *self._map_content)
            if self._point is not None:
                self._point_note.object = plots.point_text(self._point, self._area)
            pn.io.push_notebook(self._pane)

    def _rows(self) -> list[dict[str, Any]]:
        return [receiver.model_dump() for receiver in self.receivers]

    def _on_drag(self, data: dict[str, Any]) -> None:
        places = dict(zip(data["receiver"], zip(data["longitude_deg"], data["latitude_deg"], strict=True), strict=True))
        rows = [
            row | {"longitude_deg": float(geodesy.wrapped(place[0])), "latitude_deg": float(place[1])}
            for row in self._rows()
            if (place := places.get(row["name"])) is not None
        ]
        if rows != self._rows():
            self.set_receivers(rows)

    def _on_click(self, x: float, y: float) -> None:
        """Inspect the point, add a receiver there or remove the one that stands there."""
        if self.click == "Add":
            self.add(y, x)
        elif self.click == "Remove":
            self._remove_near(x, y)
        else:
            with show_errors(self._alert):
                self._point = self._bound_map(self._config, np.array([y]), np.array([x]))
                self._redraw()

    def add(self, latitude_deg: float, longitude_deg: float) -> None:
        """Add a receiver at the mean altitude of the others, under a name that is free."""
        rows = self._rows()
        taken = {row["name"] for row in rows}
        name = next(name for number in range(1, MAX_RECEIVERS + 2) if (name := f"R{number}") not in taken)
        altitude_m = round(float(np.mean([row["altitude_m"] for row in rows])))
        east_deg = round(float(geodesy.wrapped(np.asarray(longitude_deg))), 5)
        place = {"latitude_deg": round(latitude_deg, 5), "longitude_deg": east_deg}
        self.set_receivers([*rows, {"name": name, **place, "altitude_m": altitude_m}])

    def remove(self, name: str) -> None:
        """Remove a receiver."""
        self.set_receivers([row for row in self._rows() if row["name"] != name])

    def _remove_near(self, x: float, y: float) -> None:
        west, east = self._area[0]
        longitudes = self._config.geometry.longitudes_deg
        distance = [math.hypot(e - x, r.latitude_deg - y) for e, r in zip(longitudes, self.receivers, strict=True)]
        if min(distance) <= _CLICK_RADIUS * (east - west):
            self.remove(self.receivers[int(np.argmin(distance))].name)

    @param.depends(
        "clock", "diffraction", "power_dbm", "bandwidth_khz", "rms_bandwidth_khz", "duration_s",
        "min_snr_db", watch=True,
    )  # fmt: skip
    def _recompute(self) -> None:
        self.set_receivers(self._rows())

    @param.depends("_revision", watch=True)
    async def _find_best_site(self) -> None:
        """Find the best site in a thread, and show it if nothing has changed meanwhile."""
        revision, config, grid = self._revision, self._config, _grid(self._area, _COARSE_POINTS)
        transmitter = self._transmitter
        await asyncio.sleep(_DEBOUNCE_S)
        if revision != self._revision:
            return
        site, text = None, f"{MAX_RECEIVERS} receivers are the most that a network has here."
        if len(config.geometry.receivers) < MAX_RECEIVERS:
            text = "The best place for one more receiver could not be found."
            with show_errors(self._alert, keep=True):
                found = await background.run(coverage.best_site, config, *grid, transmitter)
                site, text = (float(found.best_longitude), float(found.best_latitude)), plots.site_text(found)
        if revision != self._revision or self._closed:
            return
        self._site = site
        self._site_note.object = text
        self._add_best.disabled = site is None
        pn.state.execute(self._redraw, schedule=True)  # under the lock of the page, which awaiting gave away

    def _add_at_best(self, _event: Any) -> None:
        if self._site is not None:
            self.add(self._site[1], self._site[0])

    def _make_table(self) -> None:
        self._table = pn.widgets.Tabulator(
            pd.DataFrame(columns=list(_TITLES)),
            titles=_TITLES,
            show_index=False,
            buttons={"remove": "✕"},
            editors={
                "name": {"type": "input"},
                "latitude_deg": {"type": "number", "step": 0.001},
                "longitude_deg": {"type": "number", "step": 0.001},
                "altitude_m": {"type": "number", "step": 1},
            },
            widths={"name": 160, "latitude_deg": 110, "longitude_deg": 110, "altitude_m": 110, "remove": 40},
            sortable=False,
            selectable=False,
            layout="fit_columns",
            height=290,
            sizing_mode="stretch_width",
        )
        self._table.on_edit(lambda event: self._on_edit(event.row, event.column, event.value))
        self._table.on_click(lambda event: self.remove(self.receivers[event.row].name), column="remove")

    def _on_edit(self, row: int, column: str, value: Any) -> None:
        rows = self._rows()
        rows[row] = rows[row] | {column: value}
        self.set_receivers(rows)

    def _make_files(self) -> None:
        self._choice = pmui.Select(
            label="Network", options=[ITALY], value=ITALY, size="small", sizing_mode="stretch_width"
        )
        self._choice.param.watch(self._load, "value")
        pn.state.onload(self._offer_networks)
        self._upload = FileInput(
            self._on_upload,
            partial(show_error, self._alert),
            _MAX_CSV_BYTES,
            "a network of 15 receivers is smaller, so check the file",
            label="Load CSV",
            accept=".csv",
            variant="outlined",
            size="small",
            sizing_mode="stretch_width",
        )
        self._name = pmui.TextInput(
            label="Save as", placeholder="letters, digits, - and _", size="small", sizing_mode="stretch_width"
        )
        self._name.param.watch(lambda _: self._name.param.update(error_state=False, helper_text=""), "value_input")
        self._download = pmui.FileDownload(
            callback=lambda: io.StringIO(receivers_csv(self.receivers)),
            filename="network.csv",
            label="Download CSV",
            size="small",
            sizing_mode="stretch_width",
        )
        self._replace_dialog = pmui.Dialog(title="Replace the saved network?", width_option="xs")

    async def _offer_networks(self) -> None:
        """Offer the networks that are saved by now; the choice stays, and loads nothing."""
        saved = await asyncio.to_thread(saved_networks, self._root)
        with param.parameterized.discard_events(self._choice):
            self._choice.options = [ITALY, *saved]
        self._choice.param.trigger("options")

    async def _load(self, event: Any) -> None:
        with show_errors(self._alert):
            saved = event.new != ITALY
            receivers = await asyncio.to_thread(load_network, self._root, event.new) if saved else italian_network()
            if event.new != self._choice.value:
                return  # another one was chosen meanwhile
            rows = [receiver.model_dump() for receiver in receivers]
            # Under the lock of the page, which awaiting gave away.
            pn.state.execute(partial(self.set_receivers, rows, fit=True), schedule=True)

    def _on_upload(self, files: Files) -> None:
        """Show the network of an uploaded CSV file."""
        for name, content in files.items():
            with show_errors(self._alert):
                receivers = parse_receivers(bytes(content), name)
                self.set_receivers([receiver.model_dump() for receiver in receivers], fit=True)

    async def save(self, _event: Any = None, *, replace: bool = False) -> None:
        """Save the network under the name in the field, or show the error beside it; ask before one is replaced."""
        name = self._name.value_input or self._name.value
        self._replace_dialog.open = False
        try:
            if not replace and await asyncio.to_thread(network_file(self._root, name).exists):
                self._replace_dialog.open = True
                return
            await asyncio.to_thread(save_network, self.receivers, self._root, name, replace=replace)
        except (ValueError, OSError) as error:
            self._name.param.update(error_state=True, helper_text=str(error))
            return
        self._name.param.update(error_state=False, helper_text=f"Saved as networks/{name}.csv")
        await self._offer_networks()

    def _make_layout(self) -> pn.viewable.Viewable:
        self._replace_dialog.objects = [
            Text("A network of this name is in the folder; its receivers would be lost."),
            pmui.Row(
                pmui.Button(label="Replace", color="error", on_click=partial(self.save, replace=True)),
                pmui.Button(
                    label="Keep", variant="outlined", on_click=lambda _: self._replace_dialog.param.update(open=False)
                ),
            ),
        ]
        self._add_best = pmui.Button(
            label="Add it", icon="add_location", size="small", disabled=True, on_click=self._add_at_best
        )
        controls = section(
            "Signal and receivers",
            self._field(pmui.Select, "clock", "Clocks"),
            self._field(pmui.FloatInput, "power_dbm", "Transmitter power, dBm"),
            self._field(pmui.FloatInput, "bandwidth_khz", "Occupied bandwidth, kHz"),
            self._field(pmui.FloatInput, "rms_bandwidth_khz", "Rms bandwidth, kHz"),
            self._field(pmui.FloatInput, "duration_s", "Duration, s"),
            self._field(pmui.Select, "diffraction", "Diffraction"),
            self._field(pmui.FloatInput, "min_snr_db", "Least SNR, dB"),
        )
        chosen = pmui.Row(
            pmui.RadioButtonGroup.from_param(self.param.quantity, label="", size="small", margin=(5, 10)),
            Text("Click:", margin=(10, 0, 5, 10)),
            pmui.RadioButtonGroup.from_param(self.param.click, label="", size="small", margin=(5, 10)),
            pmui.Button(
                label="Fit area",
                icon="fit_screen",
                variant="outlined",
                size="small",
                on_click=lambda _: self.set_receivers(self._rows(), fit=True),
            ),
        )
        left = pmui.Column(section("Network", self._choice, self._upload), controls, width=270)
        right = pmui.Column(
            self._alert,
            chosen,
            pn.Column(self._pane, width=_PICTURE_PX[0], height=_PICTURE_PX[1]),
            self._point_note,
            pmui.Row(self._site_note, self._add_best),
            sizing_mode="stretch_width",
        )
        files = section(
            "Keep this network",
            self._name,
            pmui.Button(label="Save", icon="save", size="small", sizing_mode="stretch_width", on_click=self.save),
            self._download,
            self._replace_dialog,
            width=270,
            sizing_mode=None,
        )
        table = section("Receivers", self._table_alert, self._table)
        return pmui.Column(
            pmui.Row(left, right, sizing_mode="stretch_width"),
            pmui.Row(files, table, sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
        )

    def _field(self, widget: Any, name: str, label: str) -> Any:
        return widget.from_param(
            self.param[name], label=label, description=self.param[name].doc, size="small", sizing_mode="stretch_width"
        )


def _grid(area: tuple[tuple[float, float], ...], points: int) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes over an area."""
    longitudes, latitudes = area
    return np.linspace(*latitudes, points), np.linspace(*longitudes, points)
