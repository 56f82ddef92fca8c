"""The interface for scripts: datasets, architectures and jobs as JSON, described by OpenAPI."""

import math
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from heimdall_lab.app.service import jobs, snapshot, tasks
from heimdall_lab.core.checked import NAME
from heimdall_lab.core.config import Config
from heimdall_lab.core.files import only_below
from heimdall_lab.core.presets import PRESETS, preset
from heimdall_lab.datasets.manifest import read_manifest
from heimdall_lab.learning import registry
from heimdall_lab.learning.options import options_for

API = "/api/v1"
_HALVES = re.compile("[\ud800-\udfff]")  # of characters, which JSON can name and UTF-8 cannot write


class DatasetEntry(BaseModel):
    """One dataset of the catalogue."""

    folder: str = Field(description="its place in the data folder")
    name: str
    data_type: str = Field(description="iq_raw or feature_based; empty where the manifest cannot be read")
    samples: int = Field(description="scenes that are there")
    of: int = Field(description="scenes wanted")
    receivers: int
    seed: int
    megabytes: float
    acceptance: float | None = Field(description="share of the drawn scenes that were kept")
    created: datetime | None
    state: Literal["complete", "unfinished", "unreadable"]


class ArchitectureEntry(BaseModel):
    """One architecture, and whether a dataset fits it."""

    architecture: str
    description: str
    data_types: list[str]
    num_parameters: int = Field(description="weights, with the defaults")
    defaults: dict[str, bool | int | float | str]
    options: dict[str, bool | int | float | str] = Field(description="of training, as suits it")
    compatible: bool | None = Field(None, description="with the dataset that was asked about")
    reason: str | None = Field(None, description="why not")


class JobEntry(jobs.Job):
    """A job, and how far it is."""

    progress: jobs.Progress | None = Field(None, description="of a job that runs or waits")


class NewDataset(BaseModel):
    """What to simulate: a preset with changes, or a whole configuration."""

    model_config = ConfigDict(extra="forbid")

    folder: str = Field(pattern=NAME, max_length=64, description="name of the dataset's folder in the data folder")
    preset: str | None = Field(None, description=f"one of {', '.join(PRESETS)}")
    changes: dict[str, Any] = Field({}, description="fields by dotted path, in the place of the preset's")
    config: Config | None = Field(None, description="all fields, without a preset")
    workers: int = Field(1, ge=1, le=256, description="processes side by side")


def api(root: Path, prefix: str = "") -> FastAPI:
    """Make the application over a data folder; ``prefix`` is the path that a reverse proxy puts before all of it."""
    app = FastAPIOffline(
        title="heimdall_lab",
        summary="Simulate, train and watch both, from scripts.",
        version="1",
        openapi_url=f"{API}/openapi.json",
        docs_url=f"{API}/docs",
        redoc_url=None,
        static_url=f"{API}/static",
        swagger_ui_oauth2_redirect_url=f"{API}/docs/oauth2-redirect",
        root_path=prefix,
        responses={400: {"description": "refused; detail names the field, its value and the remedy"}},
    )

    app.add_middleware(_Confined, root=root)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_refused)

    @app.get(f"{API}/datasets", tags=["datasets"])
    def list_datasets() -> list[DatasetEntry]:
        """List the datasets in the data folder."""
        return [
            DatasetEntry.model_validate(_without_nan(row)) for row in snapshot.list_datasets(root).to_dict("records")
        ]

    @app.post(f"{API}/datasets", tags=["datasets"], status_code=202)
    def simulate(new: NewDataset) -> JobEntry:
        """Queue the simulation of a dataset."""
        return _submit(root, lambda: tasks.Generation(folder=new.folder, config=_config(new), workers=new.workers))

    @app.get(f"{API}/training/architectures", tags=["training"])
    def list_architectures(
        dataset: Annotated[str | None, Query(description="say which of them fit this dataset")] = None,
    ) -> list[ArchitectureEntry]:
        """List the architectures with their defaults."""
        return _errors_as_400(lambda: _architectures(root, dataset))

    @app.get(f"{API}/jobs", tags=["jobs"])
    def list_jobs() -> list[JobEntry]:
        """List the jobs, the newest first."""
        return [_entry(root, job) for job in jobs.list_jobs(root)[::-1]]

    @app.post(f"{API}/jobs", tags=["jobs"], status_code=202)
    def queue(task: tasks.Task) -> JobEntry:
        """Queue a job: the simulation of a dataset, or training on one."""
        return _submit(root, lambda: task)

    @app.get(f"{API}/jobs/{{identity}}", tags=["jobs"], responses={404: {"description": "unknown"}})
    def look_at(identity: str) -> JobEntry:
        """Look at one job."""
        return _entry(root, _job(root, identity))

    @app.get(
        f"{API}/jobs/{{identity}}/log",
        tags=["jobs"],
        response_class=PlainTextResponse,
        responses={404: {"description": "unknown"}},
    )
    def read_log(
        identity: str,
        lines: Annotated[int, Query(ge=1, le=1000, description="as many of the last lines, at most")] = 100,
    ) -> str:
        """Read the last lines that a job printed, from the last 64 KiB; of a bar on one line its latest state."""
        _job(root, identity)
        return jobs.read_log(root, identity, lines)

    @app.post(f"{API}/jobs/{{identity}}/cancel", tags=["jobs"], responses={404: {"description": "unknown"}})
    def cancel(identity: str) -> JobEntry:
        """Have a job end, when its shard or batch is finished; what it wrote is kept."""
        _job(root, identity)
        return _entry(root, _errors_as_400(lambda: jobs.cancel(root, identity)))

    return app


class _Confined:
    """Lets requests name files below the data folder only."""

    def __init__(self, app: ASGIApp, root: Path) -> None:
        self._app, self._root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with only_below(self._root):
            await self._app(scope, receive, send)


async def _answer_invalid(_request: Request, error: Exception) -> JSONResponse:
    """Name the fields that are refused, with their values, which JSON may be unable to write."""
    detail = error.errors() if isinstance(error, RequestValidationError) else str(error)
    return JSONResponse({"detail": _writable(detail)}, status_code=422)


async def _answer_refused(_request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 400
    detail = error.detail if isinstance(error, HTTPException) else str(error)
    return JSONResponse({"detail": _writable(detail)}, status_code=status)


def _writable(value: Any) -> Any:
    """A value as JSON in UTF-8 can hold it: what it cannot becomes text."""
    if isinstance(value, dict):
        return {_writable(str(name)): _writable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(inner) for inner in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _HALVES.sub("\ufffd", str(value))


def _submit(root: Path, make_task: Callable[[], tasks.Task]) -> JobEntry:
    return _entry(root, _errors_as_400(lambda: jobs.submit(root, make_task())))


def _config(new: NewDataset) -> Config:
    if new.preset is not None and new.config is None:
        return preset(new.preset, **{"name": new.folder, **new.changes})
    if new.config is not None and new.preset is None and not new.changes:
        return new.config
    raise ValueError("preset: give either preset, with changes or without, or config")


def _architectures(root: Path, dataset: str | None) -> list[ArchitectureEntry]:
    kind = None if dataset is None else read_manifest(tasks.dataset_folder(root, dataset)).config.data_type
    entries = []
    for name, known in registry.ARCHITECTURES.items():
        reason = None
        if kind is not None:
            try:
                registry.check_compatible(name, kind)
            except ValueError as error:
                reason = str(error)
        entries.append(
            ArchitectureEntry(
                architecture=name,
                description=known.description,
                data_types=list(known.data_types),
                num_parameters=known.num_parameters,
                defaults=known.parameters,
                options=options_for(name, {}).model_dump(),
                compatible=None if kind is None else reason is None,
                reason=reason,
            )
        )
    return entries


def _job(root: Path, identity: str) -> jobs.Job:
    try:
        return jobs.find_job(root, identity)
    except tasks.JobError as error:
        raise HTTPException(404, str(error)) from error


def _entry(root: Path, job: jobs.Job) -> JobEntry:
    return JobEntry(**job.model_dump(), progress=snapshot.progress_or_none(root, job) if job.is_active else None)


def _errors_as_400(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (ValueError, OSError) as error:
        raise HTTPException(400, str(error)) from error


def _without_nan(row: dict[Any, Any]) -> dict[str, Any]:
    """A row with None in the place of NaN, which JSON lacks."""
    return {str(name): None if pd.isna(value) else value for name, value in row.items()}
