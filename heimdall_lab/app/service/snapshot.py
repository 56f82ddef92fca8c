"""Snapshots of a data folder: one is shared by all pages that ask at the same time."""

import threading
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.datasets import catalogue

_MAX_AGE_S = 0.5
_MAX_WAIT_S = 1.0  # for MLflow, which takes seconds when it is asked first


class Snapshot(NamedTuple):
    """The data folder at one moment."""

    datasets: pd.DataFrame  # as `list_datasets` returns them
    jobs: list[jobs.Job]  # the newest first
    progress: dict[str, jobs.Progress | None]  # of active jobs, by their identity; None where it is not known
    runs: frozenset[str]  # names of the folders of training runs


class _SnapshotCache:
    """The latest snapshot of one data folder; threads that ask at once share it."""

    def __init__(self, root: Path) -> None:
        self._root, self._lock, self._taken_s = root, threading.Lock(), -_MAX_AGE_S
        self._latest: Snapshot | None = None

    def get(self, fresh: bool) -> Snapshot:
        with self._lock:
            if self._latest is None or fresh or time.monotonic() - self._taken_s >= _MAX_AGE_S:
                jobs.start_next(self._root)
                listed = jobs.list_jobs(self._root)[::-1]
                progress = {job.id: progress_or_none(self._root, job) for job in listed if job.is_active}
                runs = frozenset(path.name for path in (self._root / "runs").glob("*"))
                self._latest = Snapshot(list_datasets(self._root), listed, progress, runs)
                self._taken_s = time.monotonic()
            return self._latest


_cache_of = cache(_SnapshotCache)


def take_snapshot(root: Path, fresh: bool = False) -> Snapshot:
    """List what a data folder holds, and start the next job if none runs; takes tens of milliseconds.

    Unless ``fresh``, one that was taken up to half a second ago may be returned.
    """
    return _cache_of(root).get(fresh)


def list_datasets(root: Path) -> pd.DataFrame:
    """List datasets as `catalogue.datasets`, with ``folder``, the path below the data folder, as first column.

    The data folder is made if it is missing.
    """
    root.mkdir(parents=True, exist_ok=True)
    table = catalogue.datasets(root, leave_out=tasks.RESERVED)
    table.insert(0, "folder", [Path(path).relative_to(root).as_posix() for path in table.path])
    return table


def progress_or_none(root: Path, job: jobs.Job) -> jobs.Progress | None:
    """Read the progress of a job; None where neither manifest nor MLflow has it now, or MLflow is just being asked."""
    try:
        return jobs.progress(root, job, wait_s=_MAX_WAIT_S)
    except (ValueError, OSError):
        return None
