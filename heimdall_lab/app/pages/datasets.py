"""Datasets: which there are and what they hold; they are generated, verified and deleted here."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param
from panel.viewable import Viewer

from heimdall_lab.app.parts import background
from heimdall_lab.app.parts.job_list import JobList
from heimdall_lab.app.parts.layout import error_alert, section, show_errors, spaced_row
from heimdall_lab.app.parts.new_dataset import NewDatasetDialog
from heimdall_lab.app.parts.preview import Preview
from heimdall_lab.app.parts.tables import make_table, select_row, show_rows
from heimdall_lab.app.parts.texts import Text
from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.app.service.snapshot import list_datasets, take_snapshot
from heimdall_lab.core.files import StoreError, data_folder
from heimdall_lab.core.text import literal, quoted, si_text
from heimdall_lab.datasets import catalogue, store

_BADGES = {"iq_raw": ("IQ", "#1565c0"), "feature_based": ("Features", "#616161")}
_TITLES = {
    "folder": "name",
    "type": "type",
    "scenes": "scenes",
    "receivers": "receivers",
    "size": "on disk",
    "acceptance": "accepted",
    "created": "created",
    "state": "state",
    "checksums": "checksums",
}
_WIDTHS = {
    "type": 95,
    "scenes": 120,
    "receivers": 110,
    "size": 100,
    "acceptance": 115,
    "created": 150,
    "state": 110,
    "checksums": 120,
}
_PAGE_SIZE = 8


class Datasets(Viewer):
    """The catalogue of a data folder."""

    selected = param.String("", doc="Folder of the dataset that is shown in detail, below the data folder.")
    dark = param.Boolean(False, doc="Whether pictures are drawn for a dark page.")

    def __init__(self, root: str | Path | None = None, **params: Any) -> None:
        super().__init__(**params)
        self._root = data_folder(root)
        self._verified: dict[str, tuple[str, str]] = {}  # by folder: checksum of the verified dataset, and the result
        self._checksums: dict[str, str] = {}  # of the verified datasets now, by folder
        self._states: dict[str, str] = {}  # of all datasets, by folder
        self._asked = self._shown = 0  # how often the data folder was looked at, and which time is shown
        self._alert = error_alert()
        self._create = NewDatasetDialog(self._root, self._show_queued)
        self._jobs = JobList(self._root, "generate")
        self._table = make_table(
            _TITLES,
            _PAGE_SIZE,
            widths=_WIDTHS,
            formatters={"type": {"type": "html"}},
            selectable=1,
            layout="fit_columns",
        )
        self._table.param.watch(self._on_selection, "selection")
        self._empty = Text("No dataset yet: make the first with “New dataset”.", variant="body1", visible=False)
        self._new = pmui.Button(label="New dataset", icon="add", color="primary")
        self._new.on_click(self._create.open)
        self._preview = Preview(self._root)
        self._resume = pmui.Button(label="Resume", icon="play_arrow", variant="outlined")
        self._resume.on_click(self._resume_generation)
        self._verify = pmui.Button(label="Verify checksums", icon="fact_check", variant="outlined")
        self._verify.on_click(self._verify_checksums)
        self._delete = pmui.Button(label="Delete", icon="delete", color="error", variant="outlined")
        self._delete.on_click(lambda _: self._open_confirmation())
        self._hint = Text("", visible=False)
        self._preview_place = pn.Column(self._preview, sizing_mode="stretch_width")
        buttons = pn.Row(self._resume, self._verify, self._delete)
        self._detail = section("", buttons, self._hint, self._preview_place, visible=False)
        self._confirmation = self._make_confirmation()
        pn.state.onload(self._begin)

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the page out."""
        heading = spaced_row(Text("Datasets", variant="h5"), self._new)
        return pn.Column(
            heading,
            self._alert,
            self._jobs,
            self._empty,
            self._table,
            self._detail,
            self._create,
            self._confirmation,
            sizing_mode="stretch_width",
        )

    async def _begin(self) -> None:
        """Show the datasets; jobs, whose progress may take seconds, come with the first refresh."""
        listed = await asyncio.to_thread(list_datasets, self._root)
        if not self._shown:
            self._show_datasets(listed)

    async def refresh(self, fresh: bool = False) -> None:
        """Show what has changed in the data folder, ``fresh`` as in `take_snapshot`."""
        if self._verified:
            self._checksums = await asyncio.to_thread(_checksums, self._root, list(self._verified))
        self._asked += 1
        asked, snapshot = self._asked, await asyncio.to_thread(take_snapshot, self._root, fresh)
        if asked > self._shown:  # else a later one is shown already
            self._shown = asked
            self._show_datasets(snapshot.datasets)
            await self._jobs.update(snapshot)

    def _show_datasets(self, listed: pd.DataFrame) -> None:
        before, self._states = self._state(), dict(zip(listed.folder, listed.state, strict=True))
        table = self._rows(listed)
        if not table.equals(self._table.value):
            show_rows(self._table, table)
            self._mark_selected()
        self._empty.visible = table.empty
        self._table.visible = not table.empty
        if self.selected and self.selected not in set(table.folder):
            self.selected = ""
        elif self._state() != before:
            self._show_selected()

    def _rows(self, listed: pd.DataFrame) -> pd.DataFrame:
        """Write a catalogue as a table of texts."""
        rows = {
            "folder": listed.folder,
            "type": [_badge(kind) for kind in listed.data_type],
            "scenes": [
                f"{done:,}" if done == of else f"{done:,} of {of:,}"
                for done, of in zip(listed.samples, listed.of, strict=True)
            ],
            "receivers": listed.receivers.astype(str),
            "size": [f"{si_text(1e6 * size)}B" for size in listed.megabytes],
            "acceptance": ["–" if pd.isna(share) else f"{share:.1%}" for share in listed.acceptance],
            "created": ["–" if pd.isna(at) else f"{at:%Y-%m-%d %H:%M}" for at in listed.created],
            "state": listed.state,
            "checksums": [self._verification(folder) for folder in listed.folder],
        }
        return pd.DataFrame(rows, columns=list(_TITLES), dtype=object).reset_index(drop=True)

    def _verification(self, folder: str) -> str:
        """Result of verifying, if the dataset is still the one that was verified."""
        verified, result = self._verified.get(folder, ("", "not checked"))
        return result if verified == self._checksums.get(folder) else "not checked"

    def _state(self) -> str:
        """State of the selected dataset."""
        return self._states.get(self.selected, "")

    def _mark_selected(self) -> None:
        """Keep the selected row selected, wherever it is now."""
        select_row(self._table, list(self._table.value.folder), self.selected)

    def _on_selection(self, event: Any) -> None:
        if event.new:
            self.selected = str(self._table.value.folder.iloc[event.new[0]])

    @param.depends("selected", watch=True)
    def _show_selected(self) -> None:
        self._detail.visible = self.selected in self._states
        if not self._detail.visible:
            self._preview.dataset = ""
            return
        self._mark_selected()
        state = self._state()
        self._detail.title = literal(self.selected)
        self._resume.visible = state == "unfinished" or "damaged" in self._verification(self.selected)
        whole = state == "complete"
        self._hint.param.update(
            object=f"This dataset is {state}: there is nothing to look into yet.", visible=not whole
        )
        self._preview_place.visible = whole
        self._preview.dataset = self.selected if whole else ""

    @param.depends("dark", watch=True)
    def _redraw(self) -> None:
        self._preview.dark = self.dark

    async def _show_queued(self, job: jobs.Job) -> None:
        await self.refresh(fresh=True)
        self.selected = job.task.folder if job.task.folder in set(self._table.value.folder) else self.selected

    async def _resume_generation(self, _event: Any) -> None:
        with show_errors(self._alert):
            manifest = await asyncio.to_thread(_summary, self._root, self.selected)
            if "/" in self.selected:
                raise ValueError(
                    f"folder: {quoted(self.selected)} is not directly in {quoted(self._root)}; resume it with the "
                    "command 'heimdall-lab generate' that began it"
                )
            task = tasks.Generation(folder=self.selected, config=manifest.config)
            await self._show_queued(await asyncio.to_thread(jobs.submit, self._root, task))

    async def _verify_checksums(self, _event: Any) -> None:
        name, self._verify.loading = self.selected, True
        try:
            with show_errors(self._alert):
                table, checksum = await background.run(_verify, self._root, name)
                faulty = table[~table.state.isin(["ok", "not generated yet"])]
                result = "ok" if faulty.empty else f"{len(faulty)} of {len(table)} shards damaged"
                self._verified[name] = checksum, result
                await self.refresh(fresh=True)
                self._show_selected()
                if len(faulty):
                    first = faulty.iloc[0]
                    raise ValueError(f"{name}/{first.file}: {first.state}; resume the dataset to write it again")
        finally:
            self._verify.loading = False

    def _make_confirmation(self) -> pmui.Dialog:
        keep = pmui.Button(label="Keep it", variant="text")
        delete = pmui.Button(label="Delete for good", icon="delete", color="error")
        self._question = Text("")
        dialog = pmui.Dialog(
            self._question,
            spaced_row(keep, delete),
            title="Delete dataset?",
        )
        keep.on_click(self._close_confirmation)
        delete.on_click(self._delete_selected)
        return dialog

    def _open_confirmation(self) -> None:
        size = self._table.value.set_index("folder").loc[self.selected, "size"]
        self._question.object = f"{self.selected}: {size} are removed from the disk. This cannot be undone."
        self._confirmation.open = True

    def _close_confirmation(self, _event: Any = None) -> None:
        self._confirmation.open = False

    async def _delete_selected(self, _event: Any) -> None:
        self._close_confirmation()
        with show_errors(self._alert):
            await asyncio.to_thread(jobs.delete_dataset, self._root, self.selected)
            await self.refresh(fresh=True)


def _summary(root: Path, name: str) -> catalogue.Summary:
    return catalogue.summary(tasks.dataset_folder(root, name))


def _verify(root: Path, name: str) -> tuple[pd.DataFrame, str]:
    """Verify a dataset; return the state of its shards, and the checksum of what was verified."""
    folder = tasks.dataset_folder(root, name)
    checksum = catalogue.summary(folder).checksum
    return store.verify(folder), checksum


def _checksums(root: Path, names: list[str]) -> dict[str, str]:
    """Checksums of those datasets whose manifests can be read."""
    found = {}
    for name in names:
        with suppress(StoreError):
            found[name] = catalogue.summary(root / name).checksum
    return found


def _badge(data_type: str) -> str:
    text, colour = _BADGES.get(data_type, ("?", "#b71c1c"))
    style = f"background:{colour};color:white;border-radius:9px;padding:1px 9px;font-size:12px"
    return f'<span style="{style}">{text}</span>'
