"""What goes on in the data folder, looked up once for all pages that want to know at the same time."""

import threading
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from heimdall_lab.app.service import jobs
from heimdall_lab.datasets import catalogue

_FRESH_S = 0.5


class Seen(NamedTuple):
    """The data folder at one moment.

    Attributes
    ----------
    datasets : pandas.DataFrame
        As `store.datasets` lists them, with ``folder``, the path below the data folder, first.
    jobs : list of Job
        The newest first.
    progress : dict of str to Progress or None
        Of active jobs, by their identity; None where it cannot be told.
    """

    datasets: pd.DataFrame
    jobs: list[jobs.Job]
    progress: dict[str, jobs.Progress | None]


class _Watched:
    """One data folder; threads that look at once share one look."""

    def __init__(self, root: Path) -> None:
        self._root, self._lock, self._at_s = root, threading.Lock(), -_FRESH_S
        self._seen: Seen | None = None

    def look(self, fresh: bool) -> Seen:
        with self._lock:
            if self._seen is None or fresh or time.monotonic() - self._at_s >= _FRESH_S:
                jobs.advance(self._root)
                found = jobs.jobs(self._root)[::-1]
                progress = {each.id: known_progress(self._root, each) for each in found if each.is_active}
                self._seen, self._at_s = Seen(datasets(self._root), found, progress), time.monotonic()
            return self._seen


def watch(root: Path, fresh: bool = False) -> Seen:
    """Look at a data folder, and start the next job if its turn has come; takes tens of milliseconds.

    Parameters
    ----------
    root : Path
    fresh : bool
        Do not make do with what was seen half a second ago at most.
    """
    return _watched(root).look(fresh)


def datasets(root: Path) -> pd.DataFrame:
    """List the datasets below a data folder, which need not be there yet, by their place in it."""
    root.mkdir(parents=True, exist_ok=True)
    table = catalogue.datasets(root, leave_out=jobs.RESERVED)
    table.insert(0, "folder", [Path(path).relative_to(root).as_posix() for path in table.path])
    return table


def known_progress(root: Path, job: jobs.Job) -> jobs.Progress | None:
    """How far a job is, None where neither manifest nor MLflow can tell now."""
    try:
        return jobs.progress(root, job)
    except ValueError:
        return None


_watched = cache(_Watched)
