"""Calls in a process beside the server, of functions that import what takes more memory than all pages together.

PyTorch and MLflow are such. The process is started when it is first needed, and ended when nothing was called for a
minute, or when it has grown; the next call starts another one, which takes some seconds.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar

import psutil

Result = TypeVar("Result")

_IDLE_S = 60.0  # without calls, after which the process is ended
_MAX_BYTES = 1_200_000_000  # resident, after which another process takes its place


def call(function: Callable[..., Result], *arguments: Any, wait_s: float | None = None) -> Result:
    """Call a function of a module, which pickle finds by its name, in that process; wait for what it returns or raises.

    OSError if the process ends before, as when memory runs out, or if it has not answered after ``wait_s``.
    """
    try:
        return _process.submit(function, *arguments).result(wait_s)[0]
    except BrokenProcessPool as error:
        raise OSError("process: it ended before it answered, as when memory runs out; try again") from error


class _SideProcess:
    """The process, while there is one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pool: ProcessPoolExecutor | None = None
        self._calls = 0  # that are not answered yet
        self._idle: threading.Timer | None = None

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[tuple[Result, int]]:
        """Ask for a call: its result, and how much memory the process holds then."""
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            pool = self._pool or _start()
            try:
                future = pool.submit(_measured, function, *arguments)
            except BrokenProcessPool:  # it was killed since the last call
                pool = _start()
                future = pool.submit(_measured, function, *arguments)
            self._pool = pool
            self._calls += 1
        future.add_done_callback(partial(self._answered, pool))
        return future

    def _answered(self, pool: ProcessPoolExecutor, future: Future[tuple[Any, int]]) -> None:
        error = future.exception()
        with self._lock:
            self._calls -= 1
            if isinstance(error, BrokenProcessPool) and self._pool is pool:
                self._pool = None
            elif error is None and future.result()[1] > _MAX_BYTES:
                self._end(pool)
            if self._pool is not None and not self._calls:
                self._idle = threading.Timer(_IDLE_S, self._end_if_idle)
                self._idle.daemon = True
                self._idle.start()

    def _end_if_idle(self) -> None:
        with self._lock:
            if self._pool is not None and not self._calls:
                self._end(self._pool)

    def _end(self, pool: ProcessPoolExecutor) -> None:
        """Let a process end when it has answered what it was asked; the next call starts another one."""
        pool.shutdown(wait=False)
        if self._pool is pool:
            self._pool = None


def _start() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _measured(function: Callable[..., Result], *arguments: Any) -> tuple[Result, int]:
    """Call a function; return its result, and how much memory this process holds then."""
    return function(*arguments), psutil.Process().memory_info().rss


def _begin() -> None:
    """Leave Ctrl-C to the server, and end when it has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(0)


_process = _SideProcess()
