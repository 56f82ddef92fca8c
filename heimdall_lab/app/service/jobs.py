"""Jobs: generation and training in processes of their own, one at a time, in the order in which they were submitted.

Each job has a folder below ``jobs`` of the data folder, in which each file has one writer at a time: ``task.json``,
what was asked for; ``attempt.json``, when a process was started for it, and how much was done then; ``.running``, which
that process keeps locked while it lives, and its number, ``pid``; ``ended.json``, how it says that it ended;
``cancelled``, that it was cancelled; ``log.txt``, what it printed. The progress of a job is read from the dataset's
manifest, or from MLflow.

A process that ended without writing ``ended.json``, as after a power cut, is started again, and resumes where it was.
After three such ends in a row without progress, as when memory runs out, `start_next` writes ``ended.json`` instead:
the job failed. Where progress cannot be read, as while MLflow is away, an end counts as one without: else a job that
can never succeed would be tried for ever, while one that is given up goes on where it was when it is submitted again.
"""

import codecs
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
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from heimdall_lab.app.service import side_process, tasks
from heimdall_lab.app.service.tasks import Generation, JobError, Task, Training, dataset_folder, output_folder
from heimdall_lab.core.files import make_folder, new_folder, write_text, writing
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import catalogue, store
from heimdall_lab.datasets.manifest import MANIFEST
from heimdall_lab.learning import experiments

_MAX_ENDED = 200  # ended jobs that are kept
_MAX_SILENT_ENDS = 3  # in a row, without a message and without progress, after which a job is given up
_LOG_BYTES = 65_536  # of a log's end that are read; the log of a week may be long
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\n\r\t\x20-\x7e\xa0-\U0010ffff]")  # colours and the like
_log = logging.getLogger(__name__)
_PROCESSES: list[subprocess.Popen[bytes]] = []  # children, which must be collected when they have ended
_TASK: TypeAdapter[Generation | Training] = TypeAdapter(Task)
State = Literal["queued", "running", "finished", "failed", "cancelled"]


class Job(BaseModel):
    """A submitted task and its state."""

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
    """The progress of a job."""

    model_config = ConfigDict(frozen=True)

    done: int
    total: int
    unit: Literal["scenes", "epochs"]
    rate_per_s: float | None = Field(None, description="of this process, once it can be told")
    left_s: float | None = Field(None, description="at that rate; of training at most")


def submit(root: Path, task: Task) -> Job:
    """Queue a task, started when the jobs before it have ended; ValueError names the field if it cannot be done."""
    tasks.check(root, task, earlier=[job.task for job in list_jobs(root)])
    asked_at = datetime.now(UTC)
    identity = f"{asked_at:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"
    folder = root / "jobs" / identity
    with _queue_lock(root):
        listed = list_jobs(root)
        for other in listed:
            if other.is_active and output_folder(root, other.task) == output_folder(root, task):
                raise JobError(
                    f"folder: {quoted(task.folder)} is what job {other.id} makes already; wait for it or cancel it"
                )
        asked = {"asked_at": asked_at.isoformat(), "task": task.model_dump(mode="json")}
        with new_folder(folder, "jobs") as new:
            _write(new / "task.json", asked)
        for old in [job for job in listed if not job.is_active][:-_MAX_ENDED]:
            shutil.rmtree(_folder(root, old.id))
    start_next(root)
    return find_job(root, identity)


def list_jobs(root: Path) -> list[Job]:
    """List all jobs that can be read, the oldest first."""
    found = []
    for folder in sorted((root / "jobs").glob("[0-9]*-*")):
        try:
            found.append(_read_ended(folder) if (folder / "ended.json").exists() else _read(folder))
        except FileNotFoundError:  # it is just being made, or removed
            continue
        except ValueError as error:
            _warn_once(
                f"{folder} cannot be read ({str(error).splitlines()[0]}), as when another version wrote it; finish the "
                "job with that version, or move the folder elsewhere"
            )
    return found


def find_job(root: Path, identity: str) -> Job:
    """Read the state of a job; JobError if there is none of that identity."""
    return _read(_folder(root, identity))


def cancel(root: Path, identity: str) -> Job:
    """Cancel a job: a waiting one at once, a running one after its shard or batch, or at once if cancelled twice.

    What it wrote is kept: the same task, submitted again, resumes from there. JobError if there is no such job, or it
    has ended.
    """
    folder = _folder(root, identity)
    with _queue_lock(root):
        job = _read(folder)
        if not job.is_active and not _is_running(folder):
            raise JobError(f"job: {identity} is {job.state} already; there is nothing to cancel")
        # Before the signal: a process that still ignores signals looks here when it no longer does.
        with writing(folder, "jobs"):
            (folder / "cancelled").touch()
        if (folder / "pid").exists() and _is_running(folder):
            with suppress(ProcessLookupError):
                os.kill(int((folder / "pid").read_text()), signal.SIGINT)
    return _read(folder)


def start_next(root: Path) -> None:
    """Start the next job that waits if none runs, or give it up if its processes end again and again."""
    _PROCESSES[:] = [each for each in _PROCESSES if each.poll() is None]
    if (job := _next(root)) is None:
        return
    done = _done(root, job.task)  # before the lock, as MLflow may take long
    with _queue_lock(root):
        if _next(root) == job:
            _start_or_give_up(root, job, done)


def progress(root: Path, job: Job, wait_s: float | None = None) -> Progress:
    """Read a job's progress from the dataset's manifest or from MLflow.

    ValueError or OSError if these cannot be read, or MLflow has not answered after ``wait_s``.
    """
    if isinstance(job.task, Training):
        at = _epoch_times(root, job.task, wait_s)
        rate = (len(at) - 1) / (at.iloc[-1] - at.iloc[0]) if len(at) > 1 else 0.0
        return _progress(len(at), tasks.training_options(job.task).epochs, "epochs", rate)
    attempt = _json(_folder(root, job.id) / "attempt.json")
    done = _samples(root, job.task)
    spent_s = 0.0
    if job.started_at is not None:
        spent_s = ((job.ended_at or datetime.now(UTC)) - job.started_at).total_seconds()
    rate = (done - attempt.get("done_before", attempt.get("samples_before", 0))) / spent_s if spent_s > 0 else 0.0
    return _progress(done, job.task.config.num_samples, "scenes", rate)


def delete_dataset(root: Path, name: str) -> None:
    """Delete a dataset; ValueError if there is none of that name, or a running or waiting job makes or reads it."""
    folder = dataset_folder(root, name)
    with _queue_lock(root):
        for job in list_jobs(root):
            if (job.is_active or _is_stopping(root, job)) and folder in _folders_in_use(root, job.task):
                raise JobError(
                    f"dataset: {quoted(name)} is what job {job.id} works on; wait for it, or cancel it first"
                )
        store.delete(folder)


def read_log(root: Path, identity: str, lines: int = 20) -> str:
    """Return the last lines that a job printed, at most, of a bar on one line its latest state.

    Only the end of the log is read, 64 KiB of it. JobError if there is no such job.
    """
    try:
        with (_folder(root, identity) / "log.txt").open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES)
            file.seek(start)
            raw = file.read(_LOG_BYTES)
    except FileNotFoundError:
        return ""
    if start and (cut := re.search(rb"[\n\r](?!$)", raw)):
        raw = raw[cut.end() :]  # it began in the midst of a line, and maybe of a character
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(raw)  # without a character that is not whole yet
    shown = [_CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in text.removesuffix("\n").split("\n")]
    return "\n".join(shown[-lines:])


def record_process(root: Path, identity: str) -> None:
    """Record the number of this process, which does a job, so that `cancel` can interrupt it."""
    write_text(_folder(root, identity) / "pid", str(os.getpid()), "jobs")


def record_end(root: Path, identity: str, state: State, message: str = "") -> None:
    """Record how a job ended; its process does so last."""
    at = datetime.now(UTC).isoformat()
    _write(_folder(root, identity) / "ended.json", {"state": state, "message": message, "at": at})


def is_cancelled(root: Path, identity: str) -> bool:
    """Whether a job was cancelled."""
    return (_folder(root, identity) / "cancelled").exists()


def _folders_in_use(root: Path, task: Task) -> list[Path]:
    return [output_folder(root, task), *([root / task.dataset] if isinstance(task, Training) else [])]


def _progress(done: int, total: int, unit: Literal["scenes", "epochs"], rate: float) -> Progress:
    known = {"rate_per_s": rate, "left_s": (total - done) / rate} if rate > 0 else {}
    return Progress(done=done, total=total, unit=unit, **known)


@contextmanager
def _queue_lock(root: Path) -> Iterator[None]:
    """Keep other servers on the same data folder from taking or starting jobs inside the block."""
    make_folder(root / "jobs", "jobs")
    with writing(root / "jobs", "jobs"):
        file = (root / "jobs" / ".lock").open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _next(root: Path) -> Job | None:
    """Return the job whose turn it is; None while another one runs."""
    listed = list_jobs(root)
    if any(job.state == "running" or _is_stopping(root, job) for job in listed):
        return None
    return next((job for job in listed if job.state == "queued"), None)


def _samples(root: Path, task: Generation) -> int:
    """Scenes of a dataset's manifest; 0 where there is none yet."""
    folder = output_folder(root, task)
    return catalogue.summary(folder).num_samples if (folder / MANIFEST).exists() else 0


def _epoch_times(root: Path, task: Training, wait_s: float | None = None) -> pd.Series:
    """When each epoch of a run ended, in seconds since 1970; empty before the first."""
    run_id = experiments.run_id_of(output_folder(root, task), root)
    if run_id is None:
        return pd.Series(dtype=float)
    return side_process.call(experiments.curves, run_id, root, wait_s=wait_s)["at"]


def _done(root: Path, task: Task) -> int | None:
    """Scenes or epochs that are done; None where that cannot be read now."""
    try:
        return _samples(root, task) if isinstance(task, Generation) else len(_epoch_times(root, task))
    except (ValueError, OSError):
        return None


def _start_or_give_up(root: Path, job: Job, done: int | None) -> None:
    """Start a job's process unless its earlier ones ended too often without a message and without progress.

    ``done`` are its scenes or epochs that are done; without it no progress is assumed.
    """
    before = _json(_folder(root, job.id) / "attempt.json")
    number, known = before.get("number", 0), before.get("done_before", done or 0)
    done = known if done is None else done
    silent_ends = before.get("silent_ends", number - 1) + 1 if done <= known else 0
    if silent_ends < _MAX_SILENT_ENDS:
        _start(root, job.id, {"number": number + 1, "done_before": done, "silent_ends": silent_ends})
        return
    unit = "scenes" if isinstance(job.task, Generation) else "epochs"
    message = (
        f"its process ended {silent_ends} times in a row without a message and without progress, {done:,} {unit} being "
        "done, as when memory runs out; ask for less at a time, or submit it again to go on from there"
    )
    record_end(root, job.id, "failed", message)


def _start(root: Path, identity: str, attempt: dict[str, Any]) -> None:
    """Start the process of a job in a session of its own: it goes on when this process ends."""
    folder = _folder(root, identity)
    attempt = {**attempt, "started_at": datetime.now(UTC).isoformat()}
    _write(folder / "attempt.json", attempt)  # before the process: if this fails, none is started unrecorded
    (folder / "pid").unlink(missing_ok=True)
    command = [sys.executable, "-m", "heimdall_lab.app.service.job_process", str(root), identity]
    with (folder / ".running").open("a") as held, (folder / "log.txt").open("ab") as output:
        fcntl.flock(held, fcntl.LOCK_EX)  # handed on to the process, which holds it until it ends, however it does
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HEIMDALL_LAB_DATA": str(root.absolute())},  # where MLflow keeps runs
            start_new_session=True,
            pass_fds=(held.fileno(),),
        )
    _PROCESSES.append(started)


def _is_stopping(root: Path, job: Job) -> bool:
    return job.state == "cancelled" and _is_running(_folder(root, job.id))


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


@lru_cache(maxsize=4 * _MAX_ENDED)
def _read_ended(folder: Path) -> Job:
    """Read a job whose state does not change any more."""
    return _read(folder)


@cache
def _warn_once(text: str) -> None:
    _log.warning("jobs: %s", text)


def _read(folder: Path) -> Job:
    """Derive a job's state from the files of its folder."""
    asked = json.loads((folder / "task.json").read_text())
    running = _is_running(folder)
    attempt = _json(folder / "attempt.json")
    ended = _json(folder / "ended.json")  # after that, as a process may end between these lines
    state: State = "running" if running else "queued"
    if ended:
        state = ended["state"]
    elif (folder / "cancelled").exists():
        state = "cancelled"
    return Job(
        id=folder.name,
        asked_at=asked["asked_at"],
        state=state,
        message=ended.get("message", ""),
        task=_TASK.validate_python(asked["task"]),
        started_at=attempt.get("started_at"),
        ended_at=ended.get("at"),
    )


def _folder(root: Path, identity: str) -> Path:
    folder = root / "jobs" / identity
    if not re.fullmatch(r"[0-9T]+-[0-9a-f]+", identity) or not (folder / "task.json").exists():
        raise JobError(f"job: {quoted(identity)} is unknown; choose one of those that are listed")
    return folder


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}


def _write(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=1) + "\n", "jobs")
