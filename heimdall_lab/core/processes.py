"""Worker processes: how they are started, and that none outlives its parent."""

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

import psutil

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def start_of_workers() -> Iterator[None]:
    """Have processes that start inside the block ignore Ctrl-C, and leave the script alone.

    They compute in one thread each, unless the environment says otherwise.
    """
    # Ctrl-C reaches every process of a terminal. Threads and processes inherit what is blocked where they start; the
    # tracker is started before because that unblocks.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # Workers import the script that runs, which would start workers again where it has no main guard; a package's
    # __main__ is the one that multiprocessing leaves alone.
    main = sys.modules["__main__"]
    spec, main.__spec__ = main.__spec__, ModuleSpec("__main__", None)
    unset = [name for name in _THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        yield
    finally:
        for name in unset:
            del os.environ[name]
        main.__spec__ = spec
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def process_pool(workers: int, memory_limit: float = math.inf) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that end with the block or this process, and each where it takes more bytes than its limit."""
    spawn = multiprocessing.get_context("spawn")
    kept_by_workers, kept_here = spawn.Pipe(duplex=False)
    with (
        kept_by_workers,
        ProcessPoolExecutor(workers, spawn, _watch_worker, (kept_by_workers, memory_limit)) as pool,
        kept_here,  # is closed first, so that nobody waits for what is being written
    ):
        yield pool


def _watch_worker(pipe: Connection, memory_limit: float) -> None:
    """In a worker, end it when the pipe's other end is closed or its process dead, or it takes too much memory."""

    def watch() -> None:
        while not pipe.poll(0.1) and psutil.Process().memory_info().rss < memory_limit:
            pass
        os._exit(1)  # what it holds that is not on disk is written again

    threading.Thread(target=watch, daemon=True).start()
