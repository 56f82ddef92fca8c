"""Write shards one after the other in this process, or side by side on Dask workers."""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np

from heimdall_lab.core.arrays import backend_namespace
from heimdall_lab.core.config import Config
from heimdall_lab.core.files import StoreError, lock_holder, request_stop
from heimdall_lab.core.progress import quiet_loggers
from heimdall_lab.datasets import manifest, store
from heimdall_lab.simulation.synthesis import synthesize

_CONNECT_TIMEOUT_S = 5.0
_MAX_NO_WORKER_S = 60.0  # longest time that a cluster may be without a worker
_MAX_FOLDER_DELAY_S = 5.0  # a network file system may show a new file this late
_CONNECTION_LOST = (
    "scheduler: the connection to it is lost; what is written is kept, so run the same command again when it answers"
)
_SHARDS_PER_THREAD = 2  # handed out to each thread of the workers: one being written, one that waits

WriteShards = Callable[[Sequence[int], threading.Event], Iterator[manifest.Shard]]  # shards' numbers, a request to stop


class GenerationJob(NamedTuple):
    """What a worker must know to write any shard of a dataset.

    Attributes
    ----------
    folder : Path
        Absolute.
    lock : str
        What ``files.locked`` yielded.
    backend : str
        ``numpy``, ``cupy`` or ``auto``.
    version : str
        Of this package, where the job comes from.
    input_digests : dict of str to str
        What ``manifest.input_digests`` returned there.
    """

    config: Config
    folder: Path
    lock: str
    backend: str
    version: str
    input_digests: dict[str, str]


def shard_samples(config: Config, shard: int) -> np.ndarray:
    """Indices of the samples of one shard."""
    return np.arange(shard * config.shard_size, min((shard + 1) * config.shard_size, config.num_samples))


def write_shard(job: GenerationJob, number: int) -> manifest.Shard:
    """Write one shard, a pure function of the configuration and its number, and return its manifest entry."""
    dataset, rejections = synthesize(job.config, shard_samples(job.config, number), job.backend)
    return store.write_shard(job.folder, number, dataset, rejections)


@contextmanager
def shard_writer(job: GenerationJob, workers: int, scheduler: str | None) -> Iterator[tuple[str, WriteShards]]:
    """Yield a text that says who writes shards, and the function that writes them and yields their manifest entries.

    Raises
    ------
    StoreError
        If workers cannot be started or used.
    """
    if scheduler is not None:
        with connect_to_cluster(scheduler) as client:
            chosen = common_backend(client, scheduler, job)
            yield (
                f"{describe_backend(job.backend, chosen)}, workers of {scheduler}",
                partial(write_on_cluster, client, job._replace(backend=chosen)),
            )
        return
    chosen = backend_namespace(job.backend).__name__
    about, job = describe_backend(job.backend, chosen), job._replace(backend=chosen)
    if workers == 1:
        yield about, partial(write_in_process, job)
        return
    with start_local_cluster(workers) as client:
        yield f"{about}, {workers} workers", partial(write_on_cluster, client, job)


def describe_backend(asked: str, chosen: str) -> str:
    """Say which backend is used, and where the choice was left to this package, why.

    Examples
    --------
    >>> describe_backend("auto", "numpy")
    'backend numpy (no GPU answers)'
    """
    reason = {"numpy": " (no GPU answers)", "cupy": " (a GPU answers)"}[chosen] if asked == "auto" else ""
    return f"backend {chosen}{reason}"


def write_in_process(job: GenerationJob, numbers: Sequence[int], stop: threading.Event) -> Iterator[manifest.Shard]:
    """Write shards in this process until a stop is requested."""
    for number in numbers:
        if stop.is_set():
            return
        yield write_shard(job, number)


def write_on_cluster(
    client: Any, job: GenerationJob, numbers: Sequence[int], stop: threading.Event
) -> Iterator[manifest.Shard]:
    """Write shards on a Dask cluster until a stop is requested; those that are being written then are finished.

    A shard whose worker is lost is written by another one.

    Raises
    ------
    StoreError
        If workers are lost again and again, the scheduler is, or a worker cannot write.
    """
    waiting = iter(numbers)
    running: set[Any] = set()
    failure: Exception | None = None
    stopping = False
    last_worker_s = time.monotonic()
    while True:
        threads = _num_threads(client)
        last_worker_s = time.monotonic() if threads else last_worker_s
        if time.monotonic() - last_worker_s > _MAX_NO_WORKER_S:
            raise StoreError(
                f"workers: there has been none for {_MAX_NO_WORKER_S:.0f} s, as when memory runs out; what is written "
                "is kept, so run the same command again, with fewer workers"
            )
        if not stopping and (stop.is_set() or failure):
            stopping = True
            request_stop(job.folder)
        while not stopping and len(running) < _SHARDS_PER_THREAD * max(1, threads):
            number = next(waiting, None)
            if number is None:
                break
            running.add(client.submit(_write_on_worker, job, number, pure=False))
        if not running:
            break
        for future in _finished(client, running):
            running.discard(future)
            try:
                shard = _result(future)
            except Exception as error:  # raised below, when those that are being written are finished
                failure = failure or error
            else:
                if shard is not None:
                    yield shard
    if failure:
        raise failure


@contextmanager
def start_local_cluster(workers: int) -> Iterator[Any]:
    """Start worker processes on this machine and yield a client of theirs; they end with the block, or this process.

    Raises
    ------
    StoreError
        If they cannot be started.
    """
    import distributed

    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(_environment_restored())
        stack.enter_context(_script_not_imported())
        stack.enter_context(
            dask.config.set(
                {
                    "distributed.worker.multiprocessing-method": "spawn",
                    # Shards are made in a thread that nothing can pause; a worker beyond its share of memory ends.
                    "distributed.worker.memory.target": False,
                    "distributed.worker.memory.spill": False,
                    "distributed.worker.memory.pause": False,
                    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,  # it costs a third of the speed
                    "distributed.deploy.lost-worker-timeout": "1 hour",  # a worker that died is soon started again
                }
            )
        )
        # Ctrl-C reaches every process of a terminal. Threads and processes inherit what is blocked where they start;
        # the tracker is started before because that unblocks.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            cluster = distributed.LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL + 1,
                memory_limit=distributed.system.MEMORY_LIMIT // workers,
            )
        except (OSError, RuntimeError) as error:
            raise StoreError(f"workers: cannot be started ({error}); use 1") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stack.callback(_kill_workers, cluster)
        cluster.scale(workers)
        yield stack.enter_context(distributed.Client(cluster, set_as_default=False))


@contextmanager
def connect_to_cluster(scheduler: str) -> Iterator[Any]:
    """Connect to a Dask cluster and yield a client of it.

    Raises
    ------
    StoreError
        If the scheduler does not answer, or has no workers.
    """
    import distributed

    if not re.fullmatch(r"\w+://\S+:\d+", scheduler):
        raise StoreError(f"scheduler: {scheduler!r} is no address; give one such as tcp://127.0.0.1:8786")
    with _quiet():
        try:
            client = distributed.Client(scheduler, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
        except Exception as error:  # an unknown host, a closed port, another protocol, another version
            raise StoreError(
                f"scheduler: {scheduler!r} does not answer ({error}); start one with 'dask scheduler' and give its "
                "address, as tcp://host:8786, or use workers"
            ) from error
        with client:
            yield client


def common_backend(client: Any, scheduler: str, job: GenerationJob) -> str:
    """Return the backend that all workers of a cluster can run, having checked that they can write a job's shards.

    Raises
    ------
    StoreError
        If there is no worker, or one has another version of the package or does not see the folder.
    """
    try:
        client.wait_for_workers(1, timeout=_CONNECT_TIMEOUT_S)
    except TimeoutError as error:
        raise StoreError(
            f"scheduler: {scheduler!r} has no workers; start some with 'dask worker {scheduler}'"
        ) from error
    answers = client.run(_check_worker_inputs, job, on_error="return")
    for worker, answer in answers.items():
        if isinstance(answer, StoreError):
            raise answer
        if isinstance(answer, ValueError):
            raise StoreError(f"{answer} (says the worker {worker} of {scheduler!r})") from answer
        if isinstance(answer, Exception):
            raise StoreError(
                f"scheduler: the worker {worker} of {scheduler!r} cannot use heimdall_lab ({answer}); install version "
                f"{job.version} on every worker"
            ) from answer
    return "cupy" if set(answers.values()) == {"cupy"} else "numpy"


def _check_worker_inputs(job: GenerationJob) -> str:
    """Check, on a worker, that a job's input folders hold the same files there; then as `_check_worker`."""
    found = manifest.input_digests(job.config)
    for field, digest in job.input_digests.items():
        if found[field] != digest:
            raise StoreError(
                f"scheduler: on its worker on {os.uname().nodename} {field} {job.config.folders[field]!r} holds other "
                "files than here; give an absolute path on storage that all workers share"
            )
    return _check_worker(job)


def _check_worker(job: GenerationJob) -> str:
    """Check, on a worker, that it has the job's version and sees its folder; return the name of its backend."""
    host = os.uname().nodename
    if version("heimdall_lab") != job.version:
        raise StoreError(
            f"scheduler: its worker on {host} has heimdall_lab {version('heimdall_lab')}, this is {job.version}; "
            "install the same version on every worker"
        )
    deadline_s = time.monotonic() + _MAX_FOLDER_DELAY_S
    while not lock_holder(job.folder).startswith(job.lock):
        if time.monotonic() > deadline_s:
            raise StoreError(
                f"scheduler: its worker on {host} does not see the folder {str(job.folder)!r}; choose one on storage "
                "that all workers share, by the same path"
            )
        time.sleep(0.2)
    return backend_namespace(job.backend).__name__


def _write_on_worker(job: GenerationJob, number: int) -> manifest.Shard | None:
    """Write a shard on a worker, unless a stop was requested before it began."""
    _check_worker(job)
    return write_shard(job, number) if lock_holder(job.folder) == job.lock else None


def _num_threads(client: Any) -> int:
    """Number of threads of all workers that there are now."""
    try:
        return sum(client.nthreads().values())
    except (OSError, TimeoutError) as error:
        raise StoreError(_CONNECTION_LOST) from error


def _finished(client: Any, running: set[Any]) -> set[Any]:
    """Wait a second at most for the first futures to be done, and return those that are."""
    import distributed

    with client.as_current(), suppress(TimeoutError, distributed.CancelledError):
        distributed.wait(list(running), timeout=1.0, return_when="FIRST_COMPLETED")
    return {future for future in running if future.status != "pending"}


def _result(future: Any) -> manifest.Shard | None:
    import distributed

    try:
        return future.result()
    except distributed.KilledWorker as error:
        raise StoreError(
            f"workers: {error.allowed_failures + 1} of them ended while they wrote the same shard, as when memory runs "
            "out; what is written is kept, so run the same command again, with fewer workers or a lower shard_size"
        ) from error
    except distributed.CancelledError as error:
        raise StoreError(_CONNECTION_LOST) from error


def _kill_workers(cluster: Any) -> None:
    """Kill the workers; they hold nothing that is not on disk."""
    for nanny in cluster.workers.values():
        nanny.close_gracefully()  # so that it does not start another worker
        if nanny.pid:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)
    cluster.close()


def _quiet() -> AbstractContextManager[None]:
    """Keep Dask's own log, about workers that come and go, from standard error; what matters is raised."""
    with_own_levels = ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")
    return quiet_loggers(*with_own_levels, level=logging.CRITICAL + 1)


@contextmanager
def _environment_restored() -> Iterator[None]:
    """Undo what starting workers sets in this process's environment, such as the number of threads of its kernels."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _script_not_imported() -> Iterator[None]:
    """Keep workers from importing the script that runs, which would start workers again where it has no main guard."""
    main = sys.modules["__main__"]
    # A package's __main__ is the one that multiprocessing leaves alone.
    before, main.__spec__ = main.__spec__, ModuleSpec("__main__", None)
    try:
        yield
    finally:
        main.__spec__ = before
