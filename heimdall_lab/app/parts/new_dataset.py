"""A dialog with every field of a configuration; it estimates size and time of the dataset and queues its generation."""

import asyncio
import math
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewer

from heimdall_lab.app.parts import background
from heimdall_lab.app.parts.fields import Fields
from heimdall_lab.app.parts.layout import error_alert, error_text, show_errors, spaced_row
from heimdall_lab.app.parts.texts import Text
from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.core import config
from heimdall_lab.core.presets import PRESETS, preset
from heimdall_lab.core.receivers import italian_network, load_network, saved_networks
from heimdall_lab.core.text import duration_text, si_text
from heimdall_lab.datasets import size
from heimdall_lab.simulation import speed

_DEBOUNCE_S = 0.6  # without a change, before the time is estimated


class NewDatasetDialog(Viewer):
    """The dialog; ``on_queued`` is called with the job that it queued."""

    def __init__(self, root: Path, on_queued: Callable[[jobs.Job], Awaitable[None]], **params: Any) -> None:
        super().__init__(**params)
        self._root, self._on_queued, self._changes = root, on_queued, 0
        self._preset = pmui.Select(label="preset", options=list(PRESETS), value="iq_test", size="small", width=220)
        self._preset.param.watch(lambda event: self._load_preset(event.new), "value")
        self._workers = pmui.IntInput(label="processes side by side", value=1, start=1, end=64, size="small", width=180)
        self._estimate = Text("", variant="body2")
        self._start = pmui.Button(label="Generate", icon="play_arrow", color="primary", disabled=True)
        self._start.on_click(self._submit)
        self._fields: Fields | None = None
        self._body = pn.Column(sizing_mode="stretch_width")
        close = pmui.Button(label="Close", variant="text")
        close.on_click(self._close)
        foot = spaced_row(self._estimate, close, self._start)
        self._alert = error_alert()
        self._dialog = pmui.Dialog(
            pn.Row(self._preset, self._workers), self._body, self._alert, foot, title="New dataset", width_option="lg"
        )

    def __panel__(self) -> pn.viewable.Viewable:
        """Return the dialog, closed."""
        return self._dialog

    async def open(self, _event: Any = None) -> None:
        """Open the dialog; its fields are made the first time."""
        if self._fields is None:
            networks = {"Italian network (7 receivers)": italian_network()}
            self._fields = Fields(config.Config, choices={"geometry.receivers": networks})
            self._fields.param.watch(self._on_change, "value")
            self._load_preset(self._preset.value)
            self._body.objects = [self._fields]
        self._dialog.open = True
        await self._add_networks()

    def _close(self, _event: Any = None) -> None:
        self._dialog.open = False

    async def _add_networks(self) -> None:
        """Offer the networks that are saved by now."""
        if self._fields is None:
            return
        choice = self._fields.widgets["geometry.receivers"]
        for name in await asyncio.to_thread(saved_networks, self._root):
            with show_errors(self._alert):
                receivers = await asyncio.to_thread(load_network, self._root, name)
                choice.options = {**choice.options, f"{name} ({len(receivers)} receivers)": receivers}

    def _load_preset(self, name: str) -> None:
        if self._fields is not None:
            self._fields.load(preset(name))

    async def _on_change(self, event: Any) -> None:
        """Estimate size and time of the dataset when the fields have not changed for a while."""
        self._start.disabled = event.new is None
        self._changes += 1
        change, chosen = self._changes, event.new
        about_size = "" if chosen is None else await asyncio.to_thread(_size_text, self._root, chosen)
        if change != self._changes:
            return
        self._estimate.object = f"{about_size}, estimating the time …" if about_size else ""
        await asyncio.sleep(_DEBOUNCE_S)
        if change != self._changes or chosen is None:
            return
        seconds = float("nan")
        try:
            seconds = await background.run(_estimate_s, self._root, chosen)
        except (ValueError, OSError, MemoryError) as error:
            if change == self._changes and self._fields is not None:
                self._fields.show_error(
                    str(error) or "signal.duration_s: scenes are too large for this machine's memory; shorten it"
                )
        if change == self._changes:
            about = f", about {duration_text(seconds / (self._workers.value or 1))}" if math.isfinite(seconds) else ""
            self._estimate.object = about_size + about

    async def _submit(self, _event: Any) -> None:
        if self._fields is None or self._fields.value is None:
            return
        chosen: config.Config = self._fields.value
        self._start.loading = True
        try:
            task = tasks.Generation(folder=chosen.name, config=chosen, workers=self._workers.value or 1)
            job = await asyncio.to_thread(jobs.submit, self._root, task)
        except (ValueError, OSError) as error:
            self._fields.show_error(error_text(error).replace("folder:", "name:", 1))
            return
        finally:
            self._start.loading = False
        self._close()
        await self._on_queued(job)


def _estimate_s(root: Path, chosen: config.Config) -> float:
    """Estimate the time, which reads of the folders that the configuration names."""
    tasks.check_folders(root, chosen)
    return speed.estimate_generation_s(chosen)


def _size_text(root: Path, chosen: config.Config) -> str:
    free = shutil.disk_usage(root).free
    return f"{si_text(size.expected_bytes(chosen))}B at most, {si_text(free)}B are free"
