"""What does a dataset hold? One of its scenes: where it happened, and what every receiver heard."""

import asyncio
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param
import xarray as xr
from panel.viewable import Viewer

from heimdall_lab import jobs, plots, store
from heimdall_lab.app import look


class Preview(Viewer):
    """One scene of a dataset: where it happened, and what every receiver heard."""

    dataset = param.String("", doc="Folder of a complete dataset below the data folder; empty for none.")
    dark = param.Boolean(False, doc="Whether pictures are drawn for a dark page.")

    def __init__(self, root: Path, **params: Any) -> None:
        super().__init__(**params)
        self._root, self._latest = root, 0
        self._opened: xr.Dataset | None = None
        self._scene = pmui.IntInput(label="scene", value=0, start=0, step=1, size="small", width=140)
        self._receiver = pmui.Select(label="receiver", options=[], size="small", width=240)
        self._about = pmui.Typography("", variant="body2")
        self._alert = look.failure()
        self._pictures = pmui.Tabs(sizing_mode="stretch_width", dynamic=True)
        self._scene.param.watch(self._draw, "value")
        self._receiver.param.watch(self._draw, "value")
        self.param.watch(self._draw, "dark")
        self.param.watch(self._open, "dataset")

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the preview out."""
        row = pn.Row(self._scene, self._receiver, self._about, sizing_mode="stretch_width")
        return pn.Column(row, self._alert, self._pictures, sizing_mode="stretch_width", min_height=520)

    async def _open(self, _event: Any) -> None:
        self._pictures.objects = []
        if not self.dataset:
            return
        folder = jobs.dataset_folder(self._root, self.dataset)
        with look.told(self._alert):
            self._opened = await asyncio.to_thread(store.open_dataset, folder)
            scenes = self._opened.sizes["sample"]
            self._about.object = f"of {scenes:,} scenes"
            self._scene.param.update(end=scenes - 1, value=min(self._scene.value or 0, scenes - 1))
            await self._draw(None)

    async def _draw(self, _event: Any) -> None:
        if self._opened is None or not self.dataset:
            return
        self._latest += 1
        mine, sample = self._latest, int(self._opened.sample[self._scene.value or 0])
        self._pictures.loading = True
        with look.told(self._alert):
            scene = await asyncio.to_thread(self._opened.sel(sample=[sample]).load)
            if mine != self._latest:
                return
            names = [str(n) for n in scene.receiver_name.values[scene.receiver_present.values[0]]]
            if self._receiver.options != names:
                with param.parameterized.discard_events(self._receiver):
                    self._receiver.param.update(options=names, value=names[0])
                self._receiver.param.trigger("options", "value")
                if mine != self._latest:
                    return
            active = self._pictures.active
            self._pictures.objects = [
                (title, pn.pane.HoloViews(look.inked(picture, self.dark), linked_axes=False))
                for title, picture in self._drawn(scene, sample).items()
            ]
            self._pictures.active = active
        self._pictures.loading = False

    def _drawn(self, scene: xr.Dataset, sample: int) -> dict[str, Any]:
        pictures = {"Map": plots.scene_map(scene, sample)}
        if "iq" in scene:
            receiver = self._receiver.value
            pictures["Spectrograms"] = plots.spectrograms(scene, sample)
            pictures["Constellation"] = plots.constellation(scene, sample, receiver)
            pictures["Waterfall"] = plots.waterfall(scene, sample, receiver)
        return pictures
