"""How well does a network learn to locate? Train one on a dataset, watch it, and keep the best."""

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
from heimdall_lab.app.parts import look
from heimdall_lab.app.parts.fields import Fields
from heimdall_lab.app.parts.job_list import JobList
from heimdall_lab.app.service import jobs
from heimdall_lab.app.service.watch import Seen, watch
from heimdall_lab.learning import experiments
from heimdall_lab.learning.options import Options, options_for

_COLUMNS = {
    "run": "run",
    "architecture": "architecture",
    "dataset": "dataset",
    "status": "status",
    "began": "began",
    "median": "median error",
    "registered": "registered",
}
_WIDTHS = {"architecture": 140, "dataset": 130, "status": 105, "began": 150, "median": 130, "registered": 130}
_OF_RUN = ("train_loss", "validation_loss", "validation_median_error_km")
_WIDE = {"sizing_mode": "stretch_width"}
_STATES = {"KILLED": "stopped", "SCHEDULED": "queued"}  # of MLflow, in the words of jobs
_NAMED = "name of its folder in data/runs"
_ROWS = 5  # of the table, on a page of it
_HISTORY_S = 3.0  # between looks into the tracking store while nothing is trained


class Train(Viewer):
    """Choice of dataset and architecture, what is being trained, and what was."""

    dataset = param.String("", doc="The dataset to train on, by its place in the data folder.")
    architecture = param.String("", doc="The architecture to train.")
    run = param.String("", doc="Identity in MLflow of the run whose curves are shown.")
    dark = param.Boolean(False, doc="Whether pictures are drawn for a dark page.")

    def __init__(self, root: str | Path = Path("data"), **params: Any) -> None:
        super().__init__(**params)
        self._root = Path(root)
        self._types: dict[str, str] = {}
        self._runs = pd.DataFrame(columns=experiments.RUNS)
        self._looked_s = 0.0
        self._suggested, self._awaited = "", set[str]()
        self._alert, self._history_alert, self._store_alert = look.failure(), look.failure(), look.failure()
        self._jobs = JobList(self._root, "train")
        self._choice = pmui.Select(label="dataset", options=[], size="small", sizing_mode="stretch_width")
        self._choice.param.watch(self._on_dataset, "value")
        self._cards: dict[str, _Card] = {}
        self._offer = pn.Column(pmui.LinearProgress(variant="indeterminate"), sizing_mode="stretch_width")
        self._name = pmui.TextInput(label="run", size="small", helper_text=_NAMED, width=300)
        self._start = pmui.Button(label="Train", icon="play_arrow", color="primary", disabled=True)
        self._start.on_click(self._ask)
        self._options: Fields | None = None
        self._parameters: Fields | None = None
        self._settings = pmui.Accordion(title_variant="subtitle1", **_WIDE)
        self._tabs = pmui.Tabs(**_WIDE)
        self._curves = Pipe(data=pd.DataFrame(columns=list(_OF_RUN)))
        self._pictures = pn.Row(sizing_mode="stretch_width")
        self._draw()
        self._table = pn.widgets.Tabulator(
            pd.DataFrame(columns=list(_COLUMNS)),
            titles=_COLUMNS,
            widths=_WIDTHS,
            selectable=1,
            disabled=True,
            show_index=False,
            layout="fit_columns",
            page_size=_ROWS,
            sizing_mode="stretch_width",
        )
        self._table.param.watch(self._on_selection, "selection")
        self._export = pmui.FileDownload(
            label="Export ONNX", callback=self._exported, filename="model.onnx", disabled=True
        )
        self._promote = pmui.Button(label="Promote to champion", icon="star", disabled=True, variant="outlined")
        self._promote.on_click(self._promoted)
        self._resume = pmui.Button(label="Resume", icon="play_arrow", disabled=True, variant="outlined")
        self._resume.on_click(self._go_on)
        self._compare = pmui.Button(label="Compare", icon="leaderboard", disabled=True, variant="outlined")
        self._about = pmui.Typography("Select a run to see how it learned.", variant="body2")

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the page out."""
        asked = pn.Column(
            self._choice, self._offer, self._settings, pn.Row(self._name, self._start), self._alert, **_WIDE
        )
        buttons = pn.Row(self._export, self._promote, self._resume, self._compare)
        history = pn.Column(
            self._store_alert, self._history_alert, self._table, self._about, self._pictures, buttons, **_WIDE
        )
        self._tabs[:] = [("New run", asked), ("Runs", history)]
        return pn.Column(self._jobs, self._tabs, **_WIDE)

    async def refresh(self) -> None:
        """Show what has changed in the data folder and in MLflow."""
        seen = await asyncio.to_thread(watch, self._root)
        self._tell(seen)
        if not self._cards:
            await self._offer_architectures()
        await self._look_up_runs(any(job.state == "running" and job.task.kind == "train" for job in seen.jobs))

    def _tell(self, seen: Seen) -> None:
        self._jobs.tell(seen)
        self._awaited = {job.task.folder for job in seen.jobs if job.is_active and job.task.kind == "train"}
        complete = seen.datasets[seen.datasets.state == "complete"]
        types = dict(zip(complete.folder, complete.data_type, strict=True))
        if types != self._types:
            self._types = types
            chosen = self.dataset if self.dataset in types else next(iter(types), "")
            self._choice.param.update(options=list(types), value=chosen or None)
            self._judge()
        self._choice.helper_text = "" if types else "no dataset is complete: make one on the page Datasets first"

    async def _offer_architectures(self) -> None:
        """List the architectures; counting their weights imports torch, which takes seconds."""
        table = await asyncio.to_thread(_architectures)
        self._cards = {str(row.architecture): _Card(row, self._choose) for row in table.itertuples()}
        self._judge()
        self._offer.objects = [card.layout for card in self._cards.values()]

    def _on_dataset(self, event: Any) -> None:
        self.dataset = event.new or ""
        self._judge()

    def _judge(self) -> None:
        """Say of each architecture whether the dataset fits, and how many do."""
        kind = self._types.get(self.dataset)
        for card in self._cards.values():
            card.judge(kind, list(self._types.values()))
        chosen = self._cards.get(self.architecture)
        if chosen is None or not chosen.fits:
            self._choose(next((name for name, card in self._cards.items() if card.fits), ""))
        self._suggest()

    def _choose(self, architecture: str) -> None:
        self.architecture = architecture
        for name, card in self._cards.items():
            card.mark(name == architecture)
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
        self._suggest()

    def _on_fields(self, *_: Any) -> None:
        fields = (self._options, self._parameters)
        self._start.disabled = not self.dataset or any(each is None or each.value is None for each in fields)

    def _suggest(self) -> None:
        """Name the run after what it is, with a number that is free, unless somebody named it."""
        if not self.architecture or not self.dataset or self._name.value != self._suggested:
            return
        plain = f"{self.architecture}-{self.dataset.replace('/', '-')}"
        names = [plain, *(f"{plain}-{number}" for number in range(2, 1000))]
        self._suggested = next((name for name in names if name not in self._taken()), plain)
        self._name.value = self._suggested

    def _taken(self) -> set[str]:
        """Folders of runs that there are, or will be."""
        return {path.name for path in (self._root / "runs").glob("*")} | self._awaited

    async def _ask(self, _event: Any) -> None:
        if self._options is None or self._parameters is None or not self.architecture:
            return
        self._name.param.update(error_state=False, helper_text=_NAMED)
        self._start.loading = True
        try:
            with look.told(self._alert):
                task = jobs.Training(
                    folder=self._name.value,
                    dataset=self.dataset,
                    architecture=self.architecture,
                    parameters=_differing(self._parameters.value, self._cards[self.architecture].parameters()),
                    options=_differing(self._options.value, options_for(self.architecture, {})),
                )
                await asyncio.to_thread(jobs.ask, self._root, task)
                self._tell(await asyncio.to_thread(watch, self._root, fresh=True))
                self._suggested = self._name.value  # the next one needs another name
                self._suggest()
                self._tabs.active = 1
        finally:
            self._start.loading = False
        if self._alert.visible and str(self._alert.object).startswith("folder"):
            self._name.param.update(error_state=True, helper_text=self._alert.object)
            self._alert.visible = False

    async def _look_up_runs(self, training: bool) -> None:
        now_s = asyncio.get_running_loop().time()
        if not training and now_s - self._looked_s < _HISTORY_S and self._looked_s:
            return
        self._looked_s = now_s
        with look.told(self._store_alert):
            runs = await asyncio.to_thread(experiments.runs)
            if not runs.equals(self._runs):
                self._runs = runs
                self._table.param.update(value=_table(runs), pagination="local" if len(runs) > _ROWS else None)
                under_way = runs[runs.status == "RUNNING"].run_id
                if len(under_way) and (not self.run or self.run not in set(under_way)):
                    self.run = under_way.iloc[0]
                self._mark()
                self._about_run()
            if training or not len(self._curves.data):
                await self._look_at_curves()

    def _mark(self) -> None:
        found = list(self._runs.run_id)
        self._table.selection = [found.index(self.run)] if self.run in found else []

    async def _on_selection(self, event: Any) -> None:
        if event.new and (chosen := str(self._runs.run_id.iloc[event.new[0]])) != self.run:
            self.run = chosen
            self._about_run()
            with look.told(self._history_alert):
                await self._look_at_curves()

    async def _look_at_curves(self) -> None:
        if mine := self.run:
            curves = await asyncio.to_thread(experiments.curves, mine)
            if mine == self.run:
                self._curves.send(curves.reindex(columns=list(_OF_RUN)))

    def _about_run(self) -> None:
        row = self._chosen()
        if row is None:
            return
        finished = row.status == "FINISHED" and (Path(row.folder) / "model.onnx").is_file()
        self._export.param.update(disabled=not finished, filename=f"{Path(row.folder).name}.onnx")
        task = self._task_of(row)
        self._compare.param.update(disabled=not finished or task is None, href=_comparison(task))
        self._promote.disabled = not row.version or bool(row.champion)
        self._resume.disabled = row.status not in ("KILLED", "FAILED") or task is None
        best = f", median error {plots.length_text(1e3 * row.median_error_km)} on its test scenes"
        state = _STATES.get(row.status, row.status.lower())
        text = f"{Path(row.folder).name}: {row.architecture} on {row.dataset}, {state}"
        self._about.object = text + (best if pd.notna(row.median_error_km) else "")

    def _chosen(self) -> Any:
        rows = self._runs[self._runs.run_id == self.run]
        return None if rows.empty else rows.iloc[0]

    def _task_of(self, row: Any) -> jobs.Training | None:
        """What was asked for when a run was begun here."""
        for job in jobs.jobs(self._root)[::-1]:
            if isinstance(job.task, jobs.Training) and jobs.target(self._root, job.task).absolute() == Path(row.folder):
                return job.task
        return None

    async def _go_on(self, _event: Any) -> None:
        with look.told(self._history_alert):
            if (row := self._chosen()) is not None and (task := self._task_of(row)) is not None:
                await asyncio.to_thread(jobs.ask, self._root, task)
                self._tell(await asyncio.to_thread(watch, self._root, fresh=True))

    def _exported(self) -> BytesIO:
        return BytesIO((Path(self._chosen().folder) / "model.onnx").read_bytes())

    async def _promoted(self, _event: Any) -> None:
        with look.told(self._history_alert):
            await asyncio.to_thread(experiments.promote, self.run)
            self._looked_s = 0.0
            await self._look_up_runs(False)

    @param.depends("dark", watch=True)
    def _draw(self) -> None:
        """Make the pictures, which then follow the figures of the run in place."""
        self._pictures.objects = [
            pn.pane.HoloViews(look.inked(hv.DynamicMap(draw, streams=[self._curves]), self.dark), linked_axes=False)
            for draw in (plots.learning_curves, plots.error_curve)
        ]


class _Card:
    """One architecture that can be chosen, or why it cannot."""

    def __init__(self, row: Any, choose: Any) -> None:
        self._name, self._types = row.architecture, row.data_types.split(", ")
        self.fits = False
        defaults: dict[str, Any] = {name: (type(value), value) for name, value in row.defaults.items()}
        self.parameters: type[BaseModel] = create_model(row.architecture, **defaults)
        self._button = pmui.Button(label=row.architecture, disabled=True, variant="outlined", width=190)
        self._button.on_click(lambda _: choose(row.architecture))
        self._text = pmui.Typography("", variant="body2", sizing_mode="stretch_width")
        self._about = f"{row.description}; {row.num_parameters:,} weights"
        self.layout = pn.Row(self._button, self._text, sizing_mode="stretch_width")

    def judge(self, kind: str | None, kinds: list[str]) -> None:
        """Say whether a dataset of this type can be learned from, and how many of all can."""
        self.fits = kind in self._types
        fitting = sum(each in self._types for each in kinds)
        reason = "" if kind is None or self.fits else f". Not for this dataset: it takes {' or '.join(self._types)}"
        self._text.object = f"{self._about}. {fitting} of {len(kinds)} datasets compatible{reason}."
        self._button.disabled = not self.fits

    def mark(self, chosen: bool) -> None:
        """Show whether this is the chosen one."""
        self._button.param.update(variant="contained" if chosen else "outlined", color="primary")


def _architectures() -> pd.DataFrame:
    from heimdall_lab.learning import architectures  # imports torch

    return architectures.architectures()


def _comparison(task: jobs.Training | None) -> str:
    """Address of the page that compares methods on what a run learned from."""
    return "" if task is None else f"compare?{urlencode({'dataset': task.dataset})}"


def _differing(value: BaseModel, default: BaseModel) -> dict[str, Any]:
    return {k: v for k, v in value.model_dump().items() if v != getattr(default, k)}


def _table(runs: pd.DataFrame) -> pd.DataFrame:
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
        "median": [plots.length_text(1e3 * error) for error in runs.median_error_km],
        "registered": aliases,
    }
    return pd.DataFrame(rows, columns=list(_COLUMNS), dtype=object).reset_index(drop=True)
