"""Training: a neural network is trained on a dataset, followed by its curves, and the best one is promoted."""

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import holoviews as hv
import pandas as pd
import panel as pn
import panel_material_ui as pmui
import param
from holoviews.streams import Pipe
from panel.viewable import Viewer
from pydantic import BaseModel, create_model

from heimdall_lab import plots
from heimdall_lab.app.parts.fields import Fields
from heimdall_lab.app.parts.job_list import JobList
from heimdall_lab.app.parts.layout import apply_theme, error_alert, show_errors
from heimdall_lab.app.parts.tables import make_table, select_row, show_rows
from heimdall_lab.app.parts.texts import Text
from heimdall_lab.app.service import jobs, side_process, tasks
from heimdall_lab.app.service.snapshot import Snapshot, take_snapshot
from heimdall_lab.core.files import data_folder
from heimdall_lab.core.text import length_text
from heimdall_lab.learning import experiments, registry
from heimdall_lab.learning.options import Options, options_for

_TITLES = {
    "run": "run",
    "architecture": "architecture",
    "dataset": "dataset",
    "status": "status",
    "began": "began",
    "median": "median error",
    "registered": "registered",
}
_WIDTHS = {"architecture": 140, "dataset": 130, "status": 105, "began": 150, "median": 130, "registered": 130}
_CURVES = ("train_loss", "validation_loss", "validation_median_error_km")
_WIDE = {"sizing_mode": "stretch_width"}
_STATES = {"KILLED": "stopped", "SCHEDULED": "queued"}  # of MLflow, in the words of jobs
_NAME_HINT = "name of its folder in data/runs"
_PAGE_SIZE = 5
_RUNS_PERIOD_S = 3.0  # between queries of the tracking store while nothing is trained


class Train(Viewer):
    """Choice of dataset and architecture, what is being trained, and what was."""

    dataset = param.String("", doc="The dataset to train on, by its place in the data folder.")
    architecture = param.String("", doc="The architecture to train.")
    run = param.String("", doc="Identity in MLflow of the run whose curves are shown.")
    dark = param.Boolean(False, doc="Whether pictures are drawn for a dark page.")

    def __init__(self, root: str | Path | None = None, **params: Any) -> None:
        super().__init__(**params)
        self._root = data_folder(root)
        self._types: dict[str, str] = {}
        self._runs = pd.DataFrame(columns=[*experiments.RUNS, "has_model"])
        self._queried_s = 0.0
        self._store_files: dict[str, int] | None = None  # of the tracking store, as it was queried
        self._suggested, self._taken, self._submitted = "", frozenset[str](), list[jobs.Job]()
        self._alert, self._history_alert, self._store_alert = error_alert(), error_alert(), error_alert()
        self._jobs = JobList(self._root, "train")
        self._choice = pmui.Select(label="dataset", options=[], size="small", sizing_mode="stretch_width")
        self._choice.param.watch(self._on_dataset, "value")
        listed = registry.architectures().itertuples()
        self._cards = {str(row.architecture): _ArchitectureCard(row, self._choose) for row in listed}
        self._architectures = pn.Column(*(card.layout for card in self._cards.values()), sizing_mode="stretch_width")
        self._name = pmui.TextInput(label="run", size="small", helper_text=_NAME_HINT, width=300)
        self._start = pmui.Button(label="Train", icon="play_arrow", color="primary", disabled=True)
        self._start.on_click(self._submit)
        self._options: Fields | None = None
        self._parameters: Fields | None = None
        self._settings = pmui.Accordion(title_variant="subtitle1", **_WIDE)
        self._tabs = pmui.Tabs(**_WIDE)
        self._curves = Pipe(data=pd.DataFrame(columns=list(_CURVES)))
        self._pictures = pn.Row(sizing_mode="stretch_width")
        self._draw_curves()
        self._table = make_table(_TITLES, _PAGE_SIZE, widths=_WIDTHS, selectable=1, layout="fit_columns")
        self._table.param.watch(self._on_selection, "selection")
        self._export = pmui.FileDownload(
            label="Export ONNX", callback=self._onnx_file, filename=experiments.ONNX, disabled=True
        )
        self._promote = pmui.Button(label="Promote to champion", icon="star", disabled=True, variant="outlined")
        self._promote.on_click(self._promote_run)
        self._resume = pmui.Button(label="Resume", icon="play_arrow", disabled=True, variant="outlined")
        self._resume.on_click(self._resume_run)
        self._compare = pmui.Button(label="Compare", icon="leaderboard", disabled=True, variant="outlined")
        self._about = Text("Select a run to see how it learned.", variant="body2")
        self._check_compatibility()

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the page out."""
        new_run = pn.Column(
            self._choice, self._architectures, self._settings, pn.Row(self._name, self._start), self._alert, **_WIDE
        )
        buttons = pn.Row(self._export, self._promote, self._resume, self._compare)
        history = pn.Column(
            self._store_alert, self._history_alert, self._table, self._about, self._pictures, buttons, **_WIDE
        )
        self._tabs[:] = [("New run", new_run), ("Runs", history)]
        return pn.Column(self._jobs, self._tabs, **_WIDE)

    async def refresh(self) -> None:
        """Show what has changed in the data folder and in MLflow."""
        snapshot = await asyncio.to_thread(take_snapshot, self._root)
        await self._update(snapshot)
        await self._update_runs(any(job.state == "running" and job.task.kind == "train" for job in snapshot.jobs))

    async def _update(self, snapshot: Snapshot) -> None:
        self._submitted = [job for job in snapshot.jobs if job.task.kind == "train"]
        self._taken = snapshot.runs | {job.task.folder for job in self._submitted if job.is_active}
        complete = snapshot.datasets[snapshot.datasets.state == "complete"]
        types = dict(zip(complete.folder, complete.data_type, strict=True))
        if types != self._types:
            self._types = types
            chosen = self.dataset if self.dataset in types else next(iter(types), "")
            self._choice.param.update(options=list(types), value=chosen or None)
            self._check_compatibility()
        self._choice.helper_text = "" if types else "no dataset is complete: make one on the page Datasets first"
        await self._jobs.update(snapshot)

    def _on_dataset(self, event: Any) -> None:
        self.dataset = event.new or ""
        self._check_compatibility()

    def _check_compatibility(self) -> None:
        """Show with each architecture whether the dataset fits, and how many do."""
        kind = self._types.get(self.dataset)
        for card in self._cards.values():
            card.set_dataset_type(kind, list(self._types.values()))
        chosen = self._cards.get(self.architecture)
        if chosen is None or not chosen.fits:
            self._choose(next((name for name, card in self._cards.items() if card.fits), ""))
        self._suggest_name()

    def _choose(self, architecture: str) -> None:
        self.architecture = architecture
        for name, card in self._cards.items():
            card.set_chosen(name == architecture)
        if not architecture:
            self._start.disabled = True
            return
        self._options = Fields(Options)
        self._options.load(options_for(architecture, {}))
        card = self._cards[architecture]
        self._parameters = Fields(card.parameters)
        self._parameters.load(card.parameters())
        for fields in (self._options, self._parameters):
            fields.param.watch(self._on_fields, "value")
        self._settings[:] = [("Training", self._options), (f"Parameters of {architecture}", self._parameters)]
        self._on_fields()
        self._suggest_name()

    def _on_fields(self, *_: Any) -> None:
        fields = (self._options, self._parameters)
        self._start.disabled = not self.dataset or any(each is None or each.value is None for each in fields)

    def _suggest_name(self) -> None:
        """Name the run after what it is, with a number that is free, unless somebody named it."""
        if not self.architecture or not self.dataset or self._name.value != self._suggested:
            return
        plain = f"{self.architecture}-{self.dataset.replace('/', '-')}"
        names = [plain, *(f"{plain}-{number}" for number in range(2, 1000))]
        self._suggested = next((name for name in names if name not in self._taken), plain)
        self._name.value = self._suggested

    async def _submit(self, _event: Any) -> None:
        if self._options is None or self._parameters is None or not self.architecture:
            return
        self._name.param.update(error_state=False, helper_text=_NAME_HINT)
        self._start.loading = True
        try:
            with show_errors(self._alert):
                task = tasks.Training(
                    folder=self._name.value,
                    dataset=self.dataset,
                    architecture=self.architecture,
                    parameters=_differing(self._parameters.value, self._cards[self.architecture].parameters()),
                    options=_differing(self._options.value, options_for(self.architecture, {})),
                )
                await asyncio.to_thread(jobs.submit, self._root, task)
                await self._update(await asyncio.to_thread(take_snapshot, self._root, fresh=True))
                self._suggested = self._name.value  # the next one needs another name
                self._suggest_name()
                self._tabs.active = 1
        finally:
            self._start.loading = False
        if self._alert.visible and str(self._alert.object).startswith("folder"):
            self._name.param.update(error_state=True, helper_text=self._alert.object)
            self._alert.visible = False

    async def _update_runs(self, training: bool) -> None:
        now_s = asyncio.get_running_loop().time()
        if not training and now_s - self._queried_s < _RUNS_PERIOD_S and self._queried_s:
            return
        self._queried_s = now_s
        with show_errors(self._store_alert):
            files = await asyncio.to_thread(experiments.store_files, self._root)
            may_end = training or "RUNNING" in set(self._runs.status)  # a run whose process ended changes no file
            if files is not None and files == self._store_files and not may_end:
                return
            runs = await asyncio.to_thread(_runs, self._root) if files != {} else self._runs.iloc[:0]
            self._store_files = files
            if not runs.equals(self._runs):
                self._runs = runs
                show_rows(self._table, _as_texts(runs))
                under_way = runs[runs.status == "RUNNING"].run_id
                if len(under_way) and (not self.run or self.run not in set(under_way)):
                    self.run = under_way.iloc[0]
                select_row(self._table, list(self._runs.run_id), self.run)
                self._describe_run()
            if training or not len(self._curves.data):
                await self._update_curves()

    async def _on_selection(self, event: Any) -> None:
        if event.new and (chosen := str(self._runs.run_id.iloc[event.new[0]])) != self.run:
            self.run = chosen
            self._describe_run()
            with show_errors(self._history_alert):
                await self._update_curves()

    async def _update_curves(self) -> None:
        if run := self.run:
            curves = await asyncio.to_thread(side_process.call, experiments.curves, run, self._root)
            if run == self.run:
                self._curves.send(curves.reindex(columns=list(_CURVES)))

    def _describe_run(self) -> None:
        row = self._selected_run()
        if row is None:
            return
        finished = row.status == "FINISHED" and row.has_model
        self._export.param.update(disabled=not finished, filename=f"{Path(row.folder).name}.onnx")
        task = self._task_of(row)
        self._compare.param.update(disabled=not finished or task is None, href=_compare_address(task))
        self._promote.disabled = not row.version or bool(row.champion)
        self._resume.disabled = row.status not in ("KILLED", "FAILED") or task is None
        best = f", median error {length_text(1e3 * row.median_error_km)} on its test scenes"
        state = _STATES.get(row.status, row.status.lower())
        text = f"{Path(row.folder).name}: {row.architecture} on {row.dataset}, {state}"
        self._about.object = text + (best if pd.notna(row.median_error_km) else "")

    def _selected_run(self) -> Any:
        rows = self._runs[self._runs.run_id == self.run]
        return None if rows.empty else rows.iloc[0]

    def _task_of(self, row: Any) -> tasks.Training | None:
        """The task by which a run was started here."""
        for job in self._submitted:
            if isinstance(job.task, tasks.Training) and tasks.output_folder(self._root, job.task).absolute() == Path(
                row.folder
            ):
                return job.task
        return None

    async def _resume_run(self, _event: Any) -> None:
        with show_errors(self._history_alert):
            if (row := self._selected_run()) is not None and (task := self._task_of(row)) is not None:
                await asyncio.to_thread(jobs.submit, self._root, task)
                await self._update(await asyncio.to_thread(take_snapshot, self._root, fresh=True))

    async def _onnx_file(self) -> BytesIO:
        return BytesIO(await asyncio.to_thread((Path(self._selected_run().folder) / experiments.ONNX).read_bytes))

    async def _promote_run(self, _event: Any) -> None:
        with show_errors(self._history_alert):
            await asyncio.to_thread(side_process.call, experiments.promote, self.run, self._root)
            self._queried_s = 0.0
            await self._update_runs(False)

    @param.depends("dark", watch=True)
    def _draw_curves(self) -> None:
        """Make the pictures, which are then updated in place."""
        self._pictures.objects = [
            pn.pane.HoloViews(apply_theme(hv.DynamicMap(draw, streams=[self._curves]), self.dark), linked_axes=False)
            for draw in (plots.learning_curves, plots.error_curve)
        ]


class _ArchitectureCard:
    """One architecture that can be chosen, or why it cannot."""

    def __init__(self, row: Any, choose: Any) -> None:
        self._name, self._types = row.architecture, row.data_types.split(", ")
        self.fits = False
        defaults: dict[str, Any] = {name: (type(value), value) for name, value in row.defaults.items()}
        self.parameters: type[BaseModel] = create_model(row.architecture, **defaults)
        self._button = pmui.Button(label=row.architecture, disabled=True, variant="outlined", width=190)
        self._button.on_click(lambda _: choose(row.architecture))
        self._text = Text("", variant="body2", sizing_mode="stretch_width")
        self._about = f"{row.description}; {row.num_parameters:,} weights"
        self.layout = pn.Row(self._button, self._text, sizing_mode="stretch_width")

    def set_dataset_type(self, kind: str | None, kinds: list[str]) -> None:
        """Show whether a dataset of this type can be learned from, and how many of all can."""
        self.fits = kind in self._types
        fitting = sum(each in self._types for each in kinds)
        reason = "" if kind is None or self.fits else f". Not for this dataset: it takes {' or '.join(self._types)}"
        self._text.object = f"{self._about}. {fitting} of {len(kinds)} datasets compatible{reason}."
        self._button.disabled = not self.fits

    def set_chosen(self, chosen: bool) -> None:
        """Show whether this is the chosen one."""
        self._button.param.update(variant="contained" if chosen else "outlined", color="primary")


def _runs(root: Path) -> pd.DataFrame:
    """Tracked runs, and whether each one's folder holds a model."""
    runs = side_process.call(experiments.runs, root)
    return runs.assign(has_model=[(Path(folder) / experiments.ONNX).is_file() for folder in runs.folder])


def _compare_address(task: tasks.Training | None) -> str:
    """Address of the page that compares methods on what a run learned from."""
    return "" if task is None else f"compare?{urlencode({'dataset': task.dataset})}"


def _differing(value: BaseModel, default: BaseModel) -> dict[str, Any]:
    return {k: v for k, v in value.model_dump().items() if v != getattr(default, k)}


def _as_texts(runs: pd.DataFrame) -> pd.DataFrame:
    """Write runs as texts."""
    aliases = [
        f"v{version}{', champion' if champion else ''}" if version else "–"
        for version, champion in zip(runs.version, runs.champion, strict=True)
    ]
    rows = {
        "run": [Path(folder).name for folder in runs.folder],
        "architecture": runs.architecture,
        "dataset": runs.dataset,
        "status": [_STATES.get(status, status.lower()) for status in runs.status],
        "began": [f"{at.tz_convert(None):%Y-%m-%d %H:%M}" for at in runs.began],
        "median": [length_text(1e3 * error) for error in runs.median_error_km],
        "registered": aliases,
    }
    return pd.DataFrame(rows, columns=list(_TITLES), dtype=object).reset_index(drop=True)
