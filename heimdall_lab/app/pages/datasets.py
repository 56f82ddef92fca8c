"""Which datasets are there, and what do they hold? Make, watch, look into, verify and delete them."""

import asyncio
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param
from panel.viewable import Viewer

from heimdall_lab.app.parts import background, look
from heimdall_lab.app.parts.job_list import JobList
from heimdall_lab.app.parts.new_dataset import Creation
from heimdall_lab.app.parts.preview import Preview
from heimdall_lab.app.service import jobs
from heimdall_lab.app.service.watch import Seen, datasets, watch
from heimdall_lab.core.files import StoreError
from heimdall_lab.core.text import si_text
from heimdall_lab.datasets import store
from heimdall_lab.datasets.manifest import dataset_checksum, read_manifest

_BADGES = {"iq_raw": ("IQ", "#1565c0"), "feature_based": ("Features", "#616161")}
_COLUMNS = {
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
_ROWS = 8  # of the table, on a page of it


class Datasets(Viewer):
    """The catalogue of a data folder."""

    selected = param.String("", doc="Folder of the dataset that is looked into, below the data folder.")
    dark = param.Boolean(False, doc="Whether pictures are drawn for a dark page.")

    def __init__(self, root: str | Path = Path("data"), **params: Any) -> None:
        super().__init__(**params)
        self._root = Path(root)
        self._verified: dict[str, tuple[str, str]] = {}  # checksum of what was verified, and what was found
        self._seen: Seen | None = None
        self._alert = look.failure()
        self._create = Creation(self._root, self._asked)
        self._jobs = JobList(self._root, "generate")
        self._table = pn.widgets.Tabulator(
            pd.DataFrame(columns=list(_COLUMNS)),
            titles=_COLUMNS,
            widths=_WIDTHS,
            formatters={"type": {"type": "html"}},
            selectable=1,
            disabled=True,
            show_index=False,
            layout="fit_columns",
            page_size=_ROWS,
            sizing_mode="stretch_width",
        )
        self._table.param.watch(self._on_selection, "selection")
        self._empty = pmui.Typography(
            "No dataset yet: make the first with “New dataset”.", variant="body1", visible=False
        )
        self._new = pmui.Button(label="New dataset", icon="add", color="primary")
        self._new.on_click(lambda _: self._create.open())
        self._preview = Preview(self._root)
        self._resume = pmui.Button(label="Resume", icon="play_arrow", variant="outlined")
        self._resume.on_click(self._go_on)
        self._verify = pmui.Button(label="Verify checksums", icon="fact_check", variant="outlined")
        self._verify.on_click(self._check)
        self._delete = pmui.Button(label="Delete", icon="delete", color="error", variant="outlined")
        self._delete.on_click(lambda _: self._ask_before_deletion())
        self._hint = pmui.Typography("", visible=False)
        self._preview_place = pn.Column(self._preview, sizing_mode="stretch_width")
        buttons = pn.Row(self._resume, self._verify, self._delete)
        self._detail = look.section("", buttons, self._hint, self._preview_place, visible=False)
        self._confirmation = self._confirm()
        self.tell(Seen(datasets(self._root), [], {}))  # jobs come with the first refresh
        if self.selected:
            self._look_into()

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the page out."""
        heading = look.spread(pmui.Typography("Datasets", variant="h5"), self._new)
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

    async def refresh(self) -> None:
        """Show what has changed in the data folder."""
        self.tell(await asyncio.to_thread(watch, self._root))

    def tell(self, seen: Seen) -> None:
        """Show the data folder as it was seen."""
        self._jobs.tell(seen)
        before, self._seen = self._state(), seen
        table = self._rows(seen.datasets)
        if not table.equals(self._table.value):
            self._table.param.update(value=table, pagination="local" if len(table) > _ROWS else None)
            self._mark()
        self._empty.visible = table.empty
        self._table.visible = not table.empty
        if self.selected and self.selected not in set(table.folder):
            self.selected = ""
        elif self._state() != before:
            self._look_into()

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
            "checksums": [self._found(folder) for folder in listed.folder],
        }
        return pd.DataFrame(rows, columns=list(_COLUMNS), dtype=object).reset_index(drop=True)

    def _found(self, folder: str) -> str:
        """What verifying found, if the dataset is still the one that was verified."""
        verified, found = self._verified.get(folder, ("", "not checked"))
        return found if verified == _checksum(self._root / folder) else "not checked"

    def _state(self) -> str:
        """State of the selected dataset."""
        if self._seen is None or self.selected not in set(self._seen.datasets.folder):
            return ""
        return str(self._seen.datasets.set_index("folder").state[self.selected])

    def _mark(self) -> None:
        """Keep the selected row selected, wherever it is now."""
        folders = list(self._table.value.folder)
        self._table.selection = [folders.index(self.selected)] if self.selected in folders else []

    def _on_selection(self, event: Any) -> None:
        if event.new:
            self.selected = str(self._table.value.folder.iloc[event.new[0]])

    @param.depends("selected", watch=True)
    def _look_into(self) -> None:
        self._detail.visible = bool(self.selected)
        if not self.selected or self._seen is None:
            self._preview.dataset = ""
            return
        self._mark()
        state = self._state()
        self._detail.title = self.selected
        self._resume.visible = state == "unfinished" or "damaged" in self._found(self.selected)
        whole = state == "complete"
        self._hint.param.update(
            object=f"This dataset is {state}: there is nothing to look into yet.", visible=not whole
        )
        self._preview_place.visible = whole
        self._preview.dataset = self.selected if whole else ""

    @param.depends("dark", watch=True)
    def _redraw(self) -> None:
        self._preview.dark = self.dark

    async def _asked(self, job: jobs.Job) -> None:
        self.tell(await asyncio.to_thread(watch, self._root, fresh=True))
        self.selected = job.task.folder if job.task.folder in set(self._table.value.folder) else self.selected

    async def _go_on(self, _event: Any) -> None:
        with look.told(self._alert):
            manifest = await asyncio.to_thread(read_manifest, self._root / self.selected)
            if "/" in self.selected:
                raise ValueError(
                    f"folder: {self.selected!r} is not directly in {str(self._root)!r}; resume it with the command "
                    "'heimdall-lab generate' that began it"
                )
            task = jobs.Generation(folder=self.selected, config=manifest.config)
            await self._asked(await asyncio.to_thread(jobs.ask, self._root, task))

    async def _check(self, _event: Any) -> None:
        name, self._verify.loading = self.selected, True
        try:
            with look.told(self._alert):
                table = await background.run(store.verify, jobs.dataset_folder(self._root, name))
                faulty = table[~table.state.isin(["ok", "not generated yet"])]
                found = "ok" if faulty.empty else f"{len(faulty)} of {len(table)} shards damaged"
                self._verified[name] = (_checksum(self._root / name), found)
                self.tell(await asyncio.to_thread(watch, self._root, fresh=True))
                self._look_into()
                if len(faulty):
                    first = faulty.iloc[0]
                    raise ValueError(f"{name}/{first.file}: {first.state}; resume the dataset to write it again")
        finally:
            self._verify.loading = False

    def _confirm(self) -> pmui.Dialog:
        keep = pmui.Button(label="Keep it", variant="text")
        delete = pmui.Button(label="Delete for good", icon="delete", color="error")
        self._question = pmui.Typography("")
        dialog = pmui.Dialog(
            self._question,
            look.spread(keep, delete),
            title="Delete dataset?",
        )
        keep.on_click(self._close)
        delete.on_click(self._do_delete)
        return dialog

    def _ask_before_deletion(self) -> None:
        size = self._table.value.set_index("folder").loc[self.selected, "size"]
        self._question.object = f"{self.selected}: {size} are removed from the disk. This cannot be undone."
        self._confirmation.open = True

    def _close(self, _event: Any = None) -> None:
        self._confirmation.open = False

    async def _do_delete(self, _event: Any) -> None:
        self._close()
        with look.told(self._alert):
            await asyncio.to_thread(jobs.delete_dataset, self._root, self.selected)
            self.tell(await asyncio.to_thread(watch, self._root, fresh=True))


def _checksum(folder: Path) -> str:
    """Checksum of a dataset as its manifest has it; empty where that cannot be read."""
    try:
        return dataset_checksum(folder)
    except StoreError:
        return ""


def _badge(data_type: str) -> str:
    text, colour = _BADGES.get(data_type, ("?", "#b71c1c"))
    style = f"background:{colour};color:white;border-radius:9px;padding:1px 9px;font-size:12px"
    return f'<span style="{style}">{text}</span>'
