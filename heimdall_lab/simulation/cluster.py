"""Write shards one after the other in this process, or side by side in worker processes or on a Dask cluster."""

import logging
import math
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heimdall_lab.core.arrays import backend_namespace
from heimdall_lab.core.config import Config
from heimdall_lab.core.files import StoreError, lock_holder, request_stop
from heimdall_lab.core.processes import process_pool, start_of_workers
from heimdall_lab.core.progress import quiet_loggers
from heimdall_lab.core.text import quoted
from heimdall_lab.datasets import manifest, store
from heimdall_lab.simulation.synthesis import synthesize

_CONNECT_TIMEOUT_S = 5.0
_MAX_NO_WORKER_S = 60.0  # longest time that a cluster may be without a worker
_MAX_FOLDER_DELAY_S = 5.0  # a network file system may show a new file this late
_CONNECTION_LOST = (
    "scheduler: the connection to it is lost; what is written is kept, so run the same command again when it answers"
)
_SHARDS_PER_WORKER = 2  # handed out to each: one being written, one that waits
_MAX_ATTEMPTS = 4  # to write a shard, where workers end meanwhile
_DASK_LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")

WriteShards = Callable[[Sequence[int], threading.Event], Iterator[manifest.Shard]]  # shards' numbers, a request to stop
Submit = Callable[..., "Future[manifest.Shard | None]"]  # a function and its arguments


class GenerationJob(NamedTuple):
    """What a worker must know to write any shard of a dataset."""

    config: Config
    folder: Path  # absolute
    lock: str  # what `files.locked` yielded
    backend: str  # numpy, cupy or auto
    version: str  # of this package, where the job comes from
    input_digests: dict[str, str]  # what `manifest.input_digests` returned there


def shard_samples(config: Config, shard: int) -> np.ndarray:
    """Indices of the samples of one shard."""
    return np.arange(shard * config.scenes_per_shard, min((shard + 1) * config.scenes_per_shard, config.num_samples))


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
            about, job = describe_backend(job.backend, chosen), job._replace(backend=chosen)
            submit = client.get_executor(pure=False).submit
            write = partial(write_side_by_side, submit, partial(_count_threads, client), job)
            yield f"{about}, workers of {scheduler}", write
        return
    chosen = backend_namespace(job.backend).__name__
    about, job = describe_backend(job.backend, chosen), job._replace(backend=chosen)
    if workers == 1:
        yield about, partial(write_in_process, job)
        return
    with worker_processes(workers) as submit:
        yield f"{about}, {workers} workers", partial(write_side_by_side, submit, lambda: workers, job)


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


def write_side_by_side(
    submit: Submit, count_workers: Callable[[], int], job: GenerationJob, numbers: Sequence[int], stop: threading.Event
) -> Iterator[manifest.Shard]:
    """Write shards on workers until a stop is requested; those that are being written then are finished.

    A shard whose worker is lost is written by another one.

    Raises
    ------
    StoreError
        If workers are lost again and again, the scheduler is, or a worker cannot write.
    """
    waiting = deque(numbers)
    running: dict[Future[manifest.Shard | None], int] = {}
    attempts: Counter[int] = Counter()
    failure: Exception | None = None
    stopping = False
    last_worker_s = time.monotonic()
    while running or (waiting and not stopping):
        if not stopping and (stop.is_set() or failure):
            stopping = True
            request_stop(job.folder)
        workers = count_workers()
        if stopping and not workers:  # so that nothing is being written
            break
        last_worker_s = time.monotonic() if workers else last_worker_s
        if time.monotonic() - last_worker_s > _MAX_NO_WORKER_S:
            raise StoreError(
                f"workers: there has been none for {_MAX_NO_WORKER_S:.0f} s, as when memory runs out; what is written "
                "is kept, so run the same command again, with fewer workers"
            )
        while waiting and not stopping and len(running) < _SHARDS_PER_WORKER * max(1, workers):
            number = waiting.popleft()
            running[submit(_write_on_worker, job, number)] = number
        for future in wait(running, timeout=1.0, return_when="FIRST_COMPLETED").done:
            number = running.pop(future)
            attempts[number] += 1
            try:
                shard = future.result()
            except Exception as error:
                if isinstance(error, BrokenProcessPool) and attempts[number] < _MAX_ATTEMPTS:
                    waiting.appendleft(number)
                else:  # raised below, when those that are being written are finished
                    failure = failure or _explained(error)
            else:
                if shard is not None:
                    yield shard
    if failure:
        raise failure


@contextmanager
def worker_processes(workers: int) -> Iterator[Submit]:
    """Yield the function that submits to worker processes of this machine; they end with the block, or this process.

    Where one has ended by itself, so have the others, and what is submitted next starts new ones.
    """
    import dask
    import distributed

    # A worker ends, as those of Dask do, at a part of its share and before the machine is out of memory.
    part = dask.config.get("distributed.worker.memory.terminate") or math.inf
    memory_limit = distributed.system.MEMORY_LIMIT / workers * part
    with ExitStack() as stack:
        pool = stack.enter_context(process_pool(workers, memory_limit))

        def submit(*task: Any) -> Future[manifest.Shard | None]:
            nonlocal pool
            try:
                with start_of_workers():
                    try:
                        return pool.submit(*task)
                    except BrokenProcessPool:
                        stack.close()
                        pool = stack.enter_context(process_pool(workers, memory_limit))
                        return pool.submit(*task)
            except (OSError, RuntimeError) as error:
                raise StoreError(f"workers: cannot be started ({error}); use 1") from error

        yield submit


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
        raise StoreError(f"scheduler: {quoted(scheduler)} is no address; give one such as tcp://127.0.0.1:8786")
    with quiet_loggers(*_DASK_LOGGERS, level=logging.CRITICAL + 1):  # what matters is raised
        try:
            client = distributed.Client(scheduler, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
        except Exception as error:  # an unknown host, a closed port, another protocol, another version
            raise StoreError(
                f"scheduler: {quoted(scheduler)} does not answer ({error}); start one with 'dask scheduler' and give "
                "its address, as tcp://host:8786, or use workers"
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
            f"scheduler: {quoted(scheduler)} has no workers; start some with 'dask worker {scheduler}'"
        ) from error
    answers = client.run(_check_worker_inputs, job, on_error="return")
    for worker, answer in answers.items():
        if isinstance(answer, StoreError):
            raise answer
        if isinstance(answer, ValueError):
            raise StoreError(f"{answer} (says the worker {worker} of {quoted(scheduler)})") from answer
        if isinstance(answer, Exception):
            raise StoreError(
                f"scheduler: the worker {worker} of {quoted(scheduler)} cannot use heimdall_lab ({answer}); install "
                f"version {job.version} on every worker"
            ) from answer
    return "cupy" if set(answers.values()) == {"cupy"} else "numpy"


def _check_worker_inputs(job: GenerationJob) -> str:
    """Check, on a worker, that a job's input folders hold the same files there; then as `_check_worker`."""
    found = manifest.input_digests(job.config)
    for field, digest in job.input_digests.items():
        if found[field] != digest:
            raise StoreError(
                f"scheduler: on its worker on {os.uname().nodename} {field} {quoted(job.config.folders[field])} holds "
                "other files than here; give an absolute path on storage that all workers share"
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
                f"scheduler: its worker on {host} does not see the folder {quoted(job.folder)}; choose one on storage "
                "that all workers share, by the same path"
            )
        time.sleep(0.2)
    return backend_namespace(job.backend).__name__


def _write_on_worker(job: GenerationJob, number: int) -> manifest.Shard | None:
    """Write a shard on a worker, unless a stop was requested before it began."""
    _check_worker(job)
    return write_shard(job, number) if lock_holder(job.folder) == job.lock else None


def _count_threads(client: Any) -> int:
    """Count the threads of all workers that a cluster has now."""
    try:
        return sum(client.nthreads().values())
    except (OSError, TimeoutError) as error:
        raise StoreError(_CONNECTION_LOST) from error


def _explained(error: Exception) -> Exception:
    """Error that says what to do about one that a shard ended with, where that does not say so itself."""
    import distributed

    if isinstance(error, CancelledError):
        return StoreError(_CONNECTION_LOST)
    if isinstance(error, BrokenProcessPool | distributed.KilledWorker):
        ended = getattr(error, "allowed_failures", _MAX_ATTEMPTS - 1) + 1
        return StoreError(
            f"workers: {ended} of them ended while the same shard was written or waited, as when memory runs out; what "
            "is written is kept, so run the same command again, with fewer workers or a lower shard_size"
        )
    return error
