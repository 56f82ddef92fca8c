"""What does a dataset hold? One of its scenes: where it happened, and what every receiver heard."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param
import xarray as xr
from panel.viewable import Viewer

from heimdall_lab import plots
from heimdall_lab.app.parts.layout import apply_theme, error_alert, show_errors
from heimdall_lab.app.parts.pictures import Draw, PictureTabs
from heimdall_lab.app.parts.texts import Text
from heimdall_lab.app.service import tasks
from heimdall_lab.datasets import store


class Preview(Viewer):
    """One scene of a dataset: where it happened, and what every receiver heard."""

    dataset = param.String("", doc="Folder of a complete dataset below the data folder; empty for none.")
    dark = param.Boolean(False, doc="Whether pictures are drawn for a dark page.")

    def __init__(self, root: Path, **params: Any) -> None:
        super().__init__(**params)
        self._root, self._requests, self._updating_receivers = root, 0, False
        self._opened: xr.Dataset | None = None
        self._scene = pmui.TextInput(label="scene", value="0", size="small", width=140)
        self._receiver = pmui.Select(label="receiver", options=[], size="small", width=240)
        self._about = Text("", variant="body2")
        self._alert = error_alert()
        self._pictures = PictureTabs()
        self._pictures_place = pn.Column(self._pictures, sizing_mode="stretch_width", min_height=560)
        self._scene.param.watch(self._draw, "value")
        self._receiver.param.watch(self._on_receiver, "value")
        self.param.watch(self._draw, "dark")
        self.param.watch(self._open, "dataset")

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the preview out."""
        row = pn.Row(self._scene, self._receiver, self._about, sizing_mode="stretch_width")
        return pn.Column(row, self._alert, self._pictures_place, sizing_mode="stretch_width")

    async def _open(self, _event: Any) -> None:
        self._opened = None
        if not (chosen := self.dataset):
            return
        with show_errors(self._alert):
            opened = await asyncio.to_thread(_open, self._root, chosen)
            if chosen != self.dataset:
                return
            self._opened = opened
            scenes = opened.sizes["sample"]
            self._about.object = f"of {scenes:,} scenes"
            self._scene.param.update(value="0", error_state=False, helper_text="")
            await self._draw(None)

    async def _on_receiver(self, _event: Any) -> None:
        if not self._updating_receivers:
            await self._draw(None)

    async def _draw(self, _event: Any) -> None:
        opened, text = self._opened, self._scene.value.strip()
        if opened is None:
            return
        last = opened.sizes["sample"] - 1
        wrong = not text.isdecimal() or int(text) > last
        self._scene.param.update(error_state=wrong, helper_text=f"give one of 0 … {last}" if wrong else "")
        if wrong:
            return
        self._requests += 1
        request, sample = self._requests, int(opened.sample[int(text)])
        self._pictures_place.loading = True
        try:
            with show_errors(self._alert):
                scene = await asyncio.to_thread(opened.sel(sample=[sample]).load)
                if request == self._requests and opened is self._opened:
                    self._update_receivers(scene)
                    self._pictures.set_pictures(self._drawings(scene, sample))
        finally:
            self._pictures_place.loading = False

    def _update_receivers(self, scene: xr.Dataset) -> None:
        names = [str(n) for n in scene.receiver_name.values[scene.receiver_present.values[0]]]
        if self._receiver.options != names:
            kept = self._receiver.value if self._receiver.value in names else names[0]
            self._updating_receivers = True
            self._receiver.param.update(options=names, value=kept)
            self._updating_receivers = False
        self._receiver.visible = "iq" in scene

    def _drawings(self, scene: xr.Dataset, sample: int) -> dict[str, Draw]:
        receiver = self._receiver.value
        drawings = {"Map": lambda: plots.scene_map(scene, sample)}
        if "iq" in scene:
            drawings |= {
                "Spectrograms": lambda: plots.spectrograms(scene, sample),
                "Constellation": lambda: plots.constellation(scene, sample, receiver),
                "Waterfall": lambda: plots.waterfall(scene, sample, receiver),
            }
        return {title: partial(self._draw_themed, draw) for title, draw in drawings.items()}

    def _draw_themed(self, draw: Draw) -> Any:
        return apply_theme(draw(), self.dark)


def _open(root: Path, name: str) -> xr.Dataset:
    return store.open_dataset(tasks.dataset_folder(root, name))
