"""Pages about one complete dataset, which the reader chooses and which is read in another thread."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
import param
from panel.viewable import Viewable, Viewer

from heimdall_lab.app.parts.layout import error_alert, show_errors
from heimdall_lab.app.service.snapshot import list_datasets, take_snapshot
from heimdall_lab.core.files import data_folder
from heimdall_lab.core.text import quoted


class DatasetViewer(Viewer):
    """A page about a chosen dataset; each kind of page defines its layout, what it reads and how it shows that."""

    dark = param.Boolean(False, doc="Whether pictures are for a dark page.")
    dataset: Any = param.Selector(doc="Folder of the dataset, below the root.")

    def __init__(self, root: str | Path | None = None, **params: Any) -> None:
        chosen = params.pop("dataset", None)
        super().__init__(**params)
        self.root = data_folder(root)
        self._loads = 0
        self._alert = error_alert()
        if chosen is not None:
            with param.parameterized.discard_events(self):
                self.param.dataset.objects, self.dataset = {_place(self.root, chosen): chosen}, chosen
        self._loading_area, self._layout = self._make_layout()
        pn.state.onload(self._begin)

    def __panel__(self) -> Viewable:
        """Lay the page out."""
        return self._layout

    def _make_layout(self) -> tuple[Viewable, Viewable]:
        """Make the part of the page that shows when a dataset is being read, and the page."""
        raise NotImplementedError

    def _reading(self) -> tuple[Callable[..., Any], *tuple[Any, ...]]:
        """Return the function that reads what is chosen, and its arguments."""
        raise NotImplementedError

    def _show_dataset(self, read: Any) -> None:
        """Show what was read."""
        raise NotImplementedError

    async def load(self) -> None:
        """Read the chosen dataset and show it, unless this is asked for again meanwhile."""
        if self.dataset is None:
            return
        self._loads = load = self._loads + 1
        function, *arguments = self._reading()
        self._loading_area.loading = True
        try:
            with show_errors(self._alert):
                try:
                    read = await asyncio.to_thread(function, *arguments)
                except (ValueError, OSError):
                    if load == self._loads:
                        raise
                else:
                    if load == self._loads:
                        self._show_dataset(read)
        finally:
            if load == self._loads:
                self._loading_area.loading = False

    async def _begin(self) -> None:
        """Show the dataset that was asked for, if any, and offer all that are there."""
        if self.dataset is not None and not self._loads:  # else whoever made the page reads it already
            await self.load()
        with show_errors(self._alert, keep=True):
            self._offer(await asyncio.to_thread(complete_datasets, self.root))

    @param.depends("dataset", watch=True)
    async def _reload(self) -> None:
        await self.load()

    async def refresh(self) -> None:
        """Offer the datasets that are complete by now."""
        self._offer(_folders_by_path(self.root, (await asyncio.to_thread(take_snapshot, self.root)).datasets))

    def _offer(self, folders: dict[str, str]) -> None:
        """Offer datasets; the choice stays, and one is chosen where none was."""
        chosen = self.dataset
        if chosen is not None and chosen not in folders.values():
            folders = {**folders, _place(self.root, chosen): chosen}
        if folders == self.param.dataset.get_range():
            return
        if chosen is None:
            with show_errors(self._alert):
                chosen = requested_dataset(folders)
                # Offered alone at first: a field of many options takes the first of them, which would be read in vain.
                self.param.dataset.objects = {_place(self.root, chosen): chosen}
                self.dataset = chosen
        self.param.dataset.objects = folders


def complete_datasets(root: Path) -> dict[str, str]:
    """Folders of the complete datasets below a folder, by their place in it; ValueError if there is none."""
    listed = list_datasets(root)
    folders = _folders_by_path(root, listed)
    if not folders:
        unfinished = f" ({len(listed)} are unfinished or unreadable)" if len(listed) else ""
        raise ValueError(f"dataset: {quoted(root)} holds no complete one{unfinished}; generate a dataset first")
    return folders


def _folders_by_path(root: Path, listed: pd.DataFrame) -> dict[str, str]:
    """Folders of the complete ones of listed datasets."""
    return {_place(root, folder): folder for folder in listed[listed.state == "complete"].path}


def _place(root: Path, folder: str) -> str:
    """Path of a folder below another one; the whole path where it is elsewhere."""
    return str(Path(folder).relative_to(root) if Path(folder).is_relative_to(root) else folder)


def requested_dataset(folders: dict[str, str]) -> str:
    """Folder of the dataset that the page's address names (``?dataset=NAME``), or the first.

    ValueError if the address names one that is not offered.
    """
    location = pn.state.location
    name = location.query_params.get("dataset") if location else None
    if name is None:
        return next(iter(folders.values()))
    if str(name) not in folders:
        raise ValueError(f"dataset: {quoted(name)} is not a complete one; choose one of {', '.join(folders)}")
    return folders[str(name)]
