"""Generation and training in processes of their own: one at a time, the others wait, and none is lost.

Each job has a folder below ``jobs`` of the data folder, in which each file has one writer: ``task.json``, what was
asked for; ``attempt.json``, when a process was started for it; ``.running``, which that process keeps locked while it
lives, and its number, ``pid``; ``ended.json``, how it says that it ended; ``cancelled``, that nobody wants it any more;
``log.txt``. How far a job is stands in the dataset's manifest, or in MLflow. A process that ended without a word, as by
a power cut, is started again, and goes on where it was.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from heimdall_lab.core.checked import NAME
from heimdall_lab.core.config import Config
from heimdall_lab.core.files import write_text
from heimdall_lab.core.presets import differing_fields
from heimdall_lab.core.text import si_text
from heimdall_lab.datasets import size, store
from heimdall_lab.datasets.manifest import MANIFEST, is_complete, read_manifest, samples_written
from heimdall_lab.learning import experiments, options

RESERVED = ("jobs", "mlruns", "models", "networks", "runs", "screenshots", "uploads")  # folders beside the datasets
_KEPT = 200  # jobs whose end is remembered
_ATTEMPTS = 3  # after which a job whose processes end without a word is given up
_LOG_LINES = 20
_log = logging.getLogger(__name__)
_STARTED: list[subprocess.Popen[bytes]] = []  # that this process must collect when they have ended


class JobError(ValueError):
    """A job that cannot be taken, or is not there; the message names the field and the remedy."""


class Generation(BaseModel):
    """Simulate a dataset, or go on with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["generate"] = "generate"
    folder: str = Field(pattern=NAME, max_length=64, description="name of the dataset's folder in the data folder")
    config: Config = Field(description="what to simulate")
    workers: int = Field(1, ge=1, le=256, description="processes side by side")


class Training(BaseModel):
    """Train a localizer, or go on with it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["train"] = "train"
    folder: str = Field(pattern=NAME, max_length=64, description="name of the run's folder in data/runs")
    dataset: str = Field(description="path of the dataset in the data folder")
    architecture: str = Field(description="as the list of architectures names them")
    parameters: dict[str, bool | int | float | str] = Field({}, description="of the architecture, not its defaults")
    options: dict[str, bool | int | float | str] = Field({}, description="of training, not the defaults")


Task = Annotated[Generation | Training, Field(discriminator="kind")]
_TASK: TypeAdapter[Generation | Training] = TypeAdapter(Task)
State = Literal["queued", "running", "finished", "failed", "cancelled"]


class Job(BaseModel):
    """What was asked for, and how far it is."""

    model_config = ConfigDict(frozen=True)

    id: str
    asked_at: datetime
    state: State
    message: str = Field("", description="why it failed")
    task: Task
    started_at: datetime | None = Field(None, description="when its latest process began")
    ended_at: datetime | None = None

    @property
    def is_active(self) -> bool:
        """Whether it runs or waits."""
        return self.state in ("queued", "running")


class Progress(BaseModel):
    """How far a job is."""

    model_config = ConfigDict(frozen=True)

    done: int
    total: int
    unit: Literal["scenes", "epochs"]
    rate_per_s: float | None = Field(None, description="of this process, once it can be told")
    left_s: float | None = Field(None, description="at that rate; of training at most")


def target(root: Path, task: Generation | Training) -> Path:
    """Folder that a task writes to."""
    return root / task.folder if isinstance(task, Generation) else root / "runs" / task.folder


def dataset_folder(root: Path, name: str) -> Path:
    """Folder of a dataset by its path in the data folder.

    Raises
    ------
    JobError
        If there is none of that path below the data folder.
    """
    parts = Path(name).parts
    inside = bool(parts) and not Path(name).is_absolute() and ".." not in parts
    if not inside or not (root / name / MANIFEST).is_file():
        raise JobError(f"dataset: {name!r} is none of those in {str(root)!r}; choose one that is listed")
    return root / name


def ask(root: Path, task: Generation | Training) -> Job:
    """Take a job: it runs when those before it have ended.

    Raises
    ------
    ValueError
        If it cannot be done, as far as can be told before it starts; the message names the field.
    """
    if isinstance(task, Generation):
        _check_generation(root, task)
    else:
        _check_training(root, task)
    asked_at = datetime.now(UTC)
    identity = f"{asked_at:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
    folder = root / "jobs" / identity
    with _locked(root):
        for other in jobs(root):
            if other.is_active and target(root, other.task) == target(root, task):
                raise JobError(
                    f"folder: {task.folder!r} is what job {other.id} makes already; wait for it or cancel it"
                )
        folder.mkdir(parents=True)
        _write(folder / "task.json", {"asked_at": asked_at.isoformat(), "task": task.model_dump(mode="json")})
        for old in [each for each in jobs(root) if not each.is_active][:-_KEPT]:
            shutil.rmtree(_folder(root, old.id))
    advance(root)
    return job(root, identity)


def jobs(root: Path) -> list[Job]:
    """List all jobs that can be read, the oldest first."""
    found = []
    for folder in sorted((root / "jobs").glob("*-*")):
        try:
            found.append(_read_ended(folder) if (folder / "ended.json").exists() else _read(folder))
        except FileNotFoundError:  # it is just being made, or removed
            continue
        except ValueError as error:
            _warn_once(f"{folder} cannot be read ({str(error).splitlines()[0]}); another version wrote it: delete it")
    return found


def job(root: Path, identity: str) -> Job:
    """Look a job up.

    Raises
    ------
    JobError
        If there is none of that identity.
    """
    return _read(_folder(root, identity))


def cancel(root: Path, identity: str) -> Job:
    """Have a job end: one that waits at once, one that runs when its shard or batch is finished, or when asked twice.

    What it wrote is kept: asked for again, the task goes on from there.

    Raises
    ------
    JobError
        If there is no such job, or it has ended.
    """
    folder = _folder(root, identity)
    with _locked(root):
        found = _read(folder)
        if not found.is_active and not _is_running(folder):
            raise JobError(f"job: {identity} is {found.state} already; there is nothing to cancel")
        (folder / "cancelled").touch()  # before the signal: a process that does not heed it yet looks here when it does
        if (folder / "pid").exists() and _is_running(folder):
            with suppress(ProcessLookupError):
                os.kill(int((folder / "pid").read_text()), signal.SIGINT)
    return _read(folder)


def advance(root: Path) -> None:
    """Start the next job that waits if none runs."""
    _STARTED[:] = [each for each in _STARTED if each.poll() is None]
    if not any(each.state == "queued" for each in jobs(root)):
        return
    with _locked(root):
        found = jobs(root)
        waiting = [each for each in found if each.state == "queued"]
        if waiting and not any(each.state == "running" or _is_stopping(root, each) for each in found):
            _start(root, waiting[0].id)


def progress(root: Path, found: Job) -> Progress:
    """Tell how far a job is, from the dataset's manifest or from MLflow.

    Raises
    ------
    ValueError
        If these cannot be read.
    """
    if isinstance(found.task, Training):
        run_id = experiments.run_id_of(target(root, found.task))
        at = experiments.curves(run_id)["at"] if run_id is not None else pd.Series(dtype=float)
        rate = (len(at) - 1) / (at.iloc[-1] - at.iloc[0]) if len(at) > 1 else 0.0
        return _progress(len(at), _options(found.task).epochs, "epochs", rate)
    attempt = _json(_folder(root, found.id) / "attempt.json")
    done = samples_written(target(root, found.task))
    spent_s = 0.0
    if found.started_at is not None:
        spent_s = ((found.ended_at or datetime.now(UTC)) - found.started_at).total_seconds()
    rate = (done - attempt["samples_before"]) / spent_s if spent_s > 0 else 0.0
    return _progress(done, found.task.config.num_samples, "scenes", rate)


def delete_dataset(root: Path, name: str) -> None:
    """Delete a dataset that no job needs.

    Raises
    ------
    ValueError
        If there is none of that name, or a job that runs or waits makes it or learns from it.
    """
    folder = dataset_folder(root, name)
    with _locked(root):
        for job in jobs(root):
            if (job.is_active or _is_stopping(root, job)) and folder in _needed(root, job.task):
                raise JobError(f"dataset: {name!r} is what job {job.id} works on; wait for it, or cancel it first")
        store.delete(folder)


def log(root: Path, identity: str) -> str:
    """Last lines of what a job printed."""
    path = _folder(root, identity) / "log.txt"
    return "\n".join(path.read_text(errors="replace").splitlines()[-_LOG_LINES:]) if path.exists() else ""


def begin(root: Path, identity: str) -> None:
    """Note the number of this process, which does a job, so that it can be told to stop."""
    write_text(_folder(root, identity) / "pid", str(os.getpid()))


def end(root: Path, identity: str, state: State, message: str = "") -> None:
    """Note how a job ended; its process does so as the last thing."""
    at = datetime.now(UTC).isoformat()
    _write(_folder(root, identity) / "ended.json", {"state": state, "message": message, "at": at})


def is_cancelled(root: Path, identity: str) -> bool:
    """Whether a job is no longer wanted."""
    return (_folder(root, identity) / "cancelled").exists()


def _needed(root: Path, task: Generation | Training) -> list[Path]:
    return [target(root, task), *([root / task.dataset] if isinstance(task, Training) else [])]


def _check_generation(root: Path, task: Generation) -> None:
    for field, name in task.config.folders.items():
        if not Path(name).resolve().is_relative_to(root.resolve()):
            raise JobError(f"{field}: {name!r} is outside of {str(root)!r}; put its files below that")
    if task.folder in RESERVED:
        raise JobError(f"folder: {task.folder!r} is where the dashboard keeps other things; choose another name")
    folder = root / task.folder
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        if fields := differing_fields(manifest.config, task.config):
            raise JobError(
                f"folder: {task.folder!r} holds a dataset with another {', '.join(fields)}; choose another name"
            )
        if is_complete(folder, task.config, version("heimdall_lab")):
            raise JobError(f"folder: {task.folder!r} holds this dataset, whole, already; choose another name")
    elif folder.exists():
        raise JobError(f"folder: {task.folder!r} is there and holds no dataset; choose another name")
    root.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in folder.glob("shard-*.nc"))
    needed, free = size.expected_bytes(task.config) - there, shutil.disk_usage(root).free
    if needed > free:
        raise JobError(
            f"num_samples: {task.config.num_samples} scenes take {si_text(needed)}B and {si_text(free)}B are free; ask "
            "for fewer or shorter ones, or make room"
        )


def _check_training(root: Path, task: Training) -> None:
    from heimdall_lab.learning import architectures  # imports torch, which takes seconds

    manifest = read_manifest(dataset_folder(root, task.dataset))
    if manifest.num_samples < manifest.config.num_samples:
        raise JobError(f"dataset: {task.dataset!r} is unfinished; resume it before training on it")
    if (target(root, task) / "run.json").exists() and not any(job.task == task for job in jobs(root)):
        raise JobError(f"folder: {task.folder!r} holds another run; choose another name")
    architectures.check_compatible(task.architecture, manifest.config.data_type)
    architectures.num_parameters(task.architecture, task.parameters)
    _options(task)


def _options(task: Training) -> options.Options:
    return options.options_for(task.architecture, dict(task.options))


def _progress(done: int, total: int, unit: Literal["scenes", "epochs"], rate: float) -> Progress:
    known = {"rate_per_s": rate, "left_s": (total - done) / rate} if rate > 0 else {}
    return Progress(done=done, total=total, unit=unit, **known)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other servers on the same data folder from taking or starting jobs inside the block."""
    (root / "jobs").mkdir(parents=True, exist_ok=True)
    with (root / "jobs" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(root: Path, identity: str) -> None:
    """Start the process of a job, in a session of its own, so that what ends this process leaves it running."""
    folder = _folder(root, identity)
    attempt = {
        "number": _json(folder / "attempt.json").get("number", 0) + 1,
        "started_at": datetime.now(UTC).isoformat(),
        "samples_before": samples_written(target(root, _read(folder).task)),
    }
    _write(folder / "attempt.json", attempt)  # before the process: if this fails, there is none that nobody knows of
    (folder / "pid").unlink(missing_ok=True)
    command = [sys.executable, "-m", "heimdall_lab.app.service.job_process", str(root), identity]
    with (folder / ".running").open("a") as held, (folder / "log.txt").open("ab") as output:
        fcntl.flock(held, fcntl.LOCK_EX)  # handed on to the process, which holds it until it ends, however it does
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(held.fileno(),),
        )
    _STARTED.append(started)


def _is_stopping(root: Path, found: Job) -> bool:
    return found.state == "cancelled" and _is_running(_folder(root, found.id))


def _is_running(folder: Path) -> bool:
    """Whether a job's process holds its lock."""
    try:
        with (folder / ".running").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@lru_cache(maxsize=4 * _KEPT)
def _read_ended(folder: Path) -> Job:
    """Read a job whose state does not change any more."""
    return _read(folder)


@cache
def _warn_once(text: str) -> None:
    _log.warning("jobs: %s", text)


def _read(folder: Path) -> Job:
    """Tell a job's state from the files of its folder."""
    asked = json.loads((folder / "task.json").read_text())
    running = _is_running(folder)
    attempt = _json(folder / "attempt.json")
    ended = _json(folder / "ended.json")  # after that, as a process may end between these lines
    state: State = "running" if running else "queued"
    message = ""
    if ended:
        state, message = ended["state"], ended["message"]
    elif (folder / "cancelled").exists():
        state = "cancelled"
    elif not running and attempt.get("number", 0) >= _ATTEMPTS:
        state = "failed"
        message = f"its process ended {_ATTEMPTS} times without a word, as when memory runs out; ask for less at a time"
    return Job(
        id=folder.name,
        asked_at=asked["asked_at"],
        state=state,
        message=message,
        task=_TASK.validate_python(asked["task"]),
        started_at=attempt.get("started_at"),
        ended_at=ended.get("at"),
    )


def _folder(root: Path, identity: str) -> Path:
    folder = root / "jobs" / identity
    if not re.fullmatch(r"[0-9T]+-[0-9a-f]+", identity) or not (folder / "task.json").exists():
        raise JobError(f"job: {identity!r} is unknown; choose one of those that are listed")
    return folder


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}


def _write(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=1) + "\n")
