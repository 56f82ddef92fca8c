"""Jobs that run, wait or failed, with their logs, and buttons that cancel or dismiss them."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewer

from heimdall_lab.app.parts.layout import error_alert, show_errors
from heimdall_lab.app.parts.texts import Lines, Text
from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.app.service.snapshot import Snapshot, take_snapshot
from heimdall_lab.core.text import duration_text

JobAction = Callable[[str], Awaitable[None]]  # takes the job's identity
_MAX_FAILURES = 3
_NO_LOG = "It has printed nothing yet."
_LOG_STYLE = """pre {
  margin: 0; padding: 8px 10px; border-radius: 4px; background: rgba(128, 128, 128, 0.14);
  font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere;
}"""


class JobList(Viewer):
    """Jobs of one kind, ``generate`` or ``train``, that run, wait or failed."""

    def __init__(self, root: Path, kind: Literal["generate", "train"], **params: Any) -> None:
        super().__init__(**params)
        self._root, self._kind = root, kind
        self._rows: dict[str, _Row] = {}
        self._dismissed: set[str] = set()
        self._alert = error_alert()
        self._layout = pn.Column(sizing_mode="stretch_width")

    def __panel__(self) -> pn.viewable.Viewable:
        """Lay the list out."""
        return pn.Column(self._alert, self._layout, sizing_mode="stretch_width")

    async def update(self, snapshot: Snapshot) -> None:
        """Show the jobs of a snapshot and the logs that are open; rows that stay are changed in place."""
        own = [job for job in snapshot.jobs if job.task.kind == self._kind and job.id not in self._dismissed]
        failed = [job for job in own if job.state == "failed" and _is_latest(job, own)][:_MAX_FAILURES]
        shown = [job for job in own if job.is_active][::-1] + failed
        others = [job for job in snapshot.jobs if job.state == "running" and job.task.kind != self._kind]
        for job in shown:
            row = self._rows.setdefault(job.id, _Row(job, self._toggle_log, self._cancel, self._dismiss))
            row.update(job, snapshot.progress.get(job.id), others)
        self._rows = {job.id: self._rows[job.id] for job in shown}
        wanted = [self._rows[job.id].layout for job in shown]
        if self._layout.objects != wanted:
            self._layout.objects = wanted
        await self._read_logs()

    async def _toggle_log(self, identity: str) -> None:
        if row := self._rows.get(identity):
            row.toggle_log()
        await self._read_logs()

    async def _read_logs(self) -> None:
        for identity, row in list(self._rows.items()):
            if row.log.visible:
                with show_errors(self._alert, keep=True):
                    row.log.object = await asyncio.to_thread(jobs.read_log, self._root, identity) or _NO_LOG

    async def _cancel(self, identity: str) -> None:
        with show_errors(self._alert):
            await asyncio.to_thread(jobs.cancel, self._root, identity)
        await self.update(await asyncio.to_thread(take_snapshot, self._root, fresh=True))

    async def _dismiss(self, identity: str) -> None:
        self._dismissed.add(identity)
        await self.update(await asyncio.to_thread(take_snapshot, self._root))


class _Row:
    """One job: its title, its progress, its log, and the button that ends it."""

    def __init__(self, job: jobs.Job, toggle_log: JobAction, cancel: JobAction, dismiss: JobAction) -> None:
        self.title = Text("", variant="body1")
        self.note = Text("", variant="body2")
        self.bar = pmui.LinearProgress(value=0, max=100, variant="determinate", sizing_mode="stretch_width")
        self.alert = error_alert()
        self.log_button = _button("Log", "article", toggle_log, job)
        self.cancel = _button("Cancel", "stop", cancel, job)
        self.dismiss = _button("Dismiss", "close", dismiss, job)
        self.log = Lines(
            _NO_LOG, stylesheets=[_LOG_STYLE], sizing_mode="stretch_width", margin=(5, 10, 10, 10), visible=False
        )
        texts = pn.Column(self.title, self.bar, self.note, self.alert, sizing_mode="stretch_width")
        buttons = pn.Column(self.log_button, self.cancel, self.dismiss, width=130)
        row = pn.Row(texts, buttons, sizing_mode="stretch_width")
        self.layout = pmui.Paper(row, self.log, elevation=2, sizing_mode="stretch_width", margin=(5, 10))

    def update(self, job: jobs.Job, progress: jobs.Progress | None, others: list[jobs.Job]) -> None:
        self.title.object = _title(job)
        failed = job.state == "failed"
        self.alert.param.update(object=job.message, visible=failed)
        self.dismiss.visible, self.cancel.visible, self.bar.visible = failed, not failed, not failed
        self.note.visible = not failed
        if progress is None:
            return
        self.bar.value = round(100 * progress.done / progress.total)
        if job.state == "queued":
            waits = f"waits for {_title(others[0])}" if others else "waits for its turn"
            self.note.object = f"{waits}; {progress.done:,} of {progress.total:,} {progress.unit} are there"
            return
        parts = [f"{progress.done:,} of {progress.total:,} {progress.unit}"]
        if progress.rate_per_s is not None and progress.left_s is not None:
            slow = progress.rate_per_s < 0.5
            rate = f"{60 * progress.rate_per_s:.3g} {progress.unit}/min" if slow else None
            parts += [rate or f"{progress.rate_per_s:,.3g} {progress.unit}/s"]
            parts += [f"{duration_text(progress.left_s)} left{' at most' if progress.unit == 'epochs' else ''}"]
        elif not progress.done:
            parts.append("starting")
        self.note.object = ", ".join(parts)

    def toggle_log(self) -> None:
        """Open the log below the row, or close it."""
        self.log.visible = not self.log.visible
        self.log_button.label = "Hide log" if self.log.visible else "Log"


def _button(label: str, icon: str, action: JobAction, job: jobs.Job) -> pmui.Button:
    button = pmui.Button(label=label, icon=icon, variant="outlined", size="small", width=110)
    button.on_click(partial(_call, action, job.id))
    return button


async def _call(action: JobAction, identity: str, _event: Any) -> None:
    await action(identity)


def _title(job: jobs.Job) -> str:
    if isinstance(job.task, tasks.Generation):
        return f"generating {job.task.folder}"
    return f"training {job.task.architecture} on {job.task.dataset}, run {job.task.folder}"


def _is_latest(job: jobs.Job, newest_first: list[jobs.Job]) -> bool:
    """Whether no later job has the same output folder."""
    return next(each for each in newest_first if each.task.folder == job.task.folder).id == job.id
