"""Shards that workers write side by side, where workers come and go: with futures that end when a test says so."""

import threading
import time
from concurrent.futures import Future

import pytest

from heimdall_lab.core.files import StoreError
from heimdall_lab.datasets.manifest import Shard
from heimdall_lab.simulation import cluster
from heimdall_lab.simulation.cluster import GenerationJob, write_side_by_side


@pytest.fixture
def job(small, tmp_path):
    return GenerationJob(small, tmp_path, "lock", "numpy", "0", {})


def shard(number):
    return Shard(number=number, num_samples=1, num_bytes=1, sha256="0" * 64, rejections={})


def done(_function, _job, number):
    future = Future()
    future.set_result(shard(number))
    return future


def pending(*_task):
    return Future()


def test_a_cluster_that_loses_its_workers_when_all_is_written_is_not_waited_for(job, monkeypatch):
    monkeypatch.setattr(cluster, "_MAX_NO_WORKER_S", 0.1)
    written = []
    for each in write_side_by_side(done, lambda: int(len(written) < 3), job, range(3), threading.Event()):
        written.append(each.number)
        time.sleep(0.2 * (len(written) == 3))
    assert sorted(written) == [0, 1, 2]


def test_a_cluster_without_workers_is_given_up(job, monkeypatch):
    monkeypatch.setattr(cluster, "_MAX_NO_WORKER_S", 0.0)
    with pytest.raises(StoreError, match=r"workers: there has been none for 0 s.*run the same command again"):
        list(write_side_by_side(pending, lambda: 0, job, range(3), threading.Event()))


def test_a_stop_is_heeded_where_a_cluster_has_no_worker(job):
    stop = threading.Event()

    def stop_while_all_wait():
        stop.set()
        return 0

    assert list(write_side_by_side(pending, stop_while_all_wait, job, range(3), stop)) == []


def test_shards_that_are_being_written_are_finished_after_a_stop(job):
    stop = threading.Event()
    futures = []

    def submit(_function, _job, number):
        futures.append((number, Future()))
        return futures[-1][1]

    def end_one_after_the_stop():
        if stop.is_set():
            number, future = futures.pop()
            future.set_result(shard(number))
        elif futures:
            stop.set()
        return 1

    assert len(list(write_side_by_side(submit, end_one_after_the_stop, job, range(9), stop))) == 2
