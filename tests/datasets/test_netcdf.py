"""NetCDF files in threads, in finalizers, in forks and beside plain xarray."""

import gc
import pickle
import subprocess
import sys
import threading

import netcdf_threads
import numpy as np
import pytest
import xarray as xr
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

import heimdall_lab as hl
from heimdall_lab.datasets import netcdf
from heimdall_lab.learning.signals_on_disk import OnDisk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a dataset of IQ, one of features, and a leaderboard."""
    root = tmp_path_factory.mktemp("netcdf")
    netcdf_threads.make_files(root)
    return root


def test_threads_open_read_write_close_and_drop_files_at_once(folder):
    done = netcdf_threads.run(folder, threads=8, acts=3, seed=0)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_sixteen_threads_do_so_twenty_times(folder):
    done = netcdf_threads.run(folder, threads=16, acts=20, seed=1)
    assert done.returncode == 0, done.stderr[-3000:]


def test_nothing_is_opened_read_or_closed_while_plain_xarray_holds_its_lock(folder):
    """Each is begun in a thread, and done only after the lock is released."""
    opened = hl.open_dataset(folder / "iq")
    board = netcdf.load(folder / "leaderboard.nc")
    on_disk = OnDisk(folder / "iq", "iq")
    acts = {
        "open": lambda: hl.open_dataset(folder / "features"),
        "read": opened.snr.load,
        "load": lambda: netcdf.load(folder / "leaderboard.nc"),
        "read on disk": lambda: on_disk.read(np.array([1]), None, None),
        "write": lambda: netcdf.write_netcdf(board, folder / "written.nc"),
        "close": opened.close,
    }
    order = []

    def act(name, do):
        started.release()
        do()
        order.append(name)

    started = threading.Semaphore(0)
    threads = [threading.Thread(target=act, args=each) for each in acts.items()]
    with NETCDF4_PYTHON_LOCK:
        for thread in threads:
            thread.start()
        for _ in threads:
            started.acquire()
        for thread in threads:
            thread.join(0.05)  # whoever does not wait for the lock comes first
        order.append("released")
    for thread in threads:
        thread.join()
    assert order[0] == "released"
    assert set(order[1:]) == set(acts)


def test_a_dropped_file_is_closed_at_once_or_when_the_lock_is_released(folder):
    manager = netcdf.shared_file(folder / "leaderboard.nc")
    handle = manager.acquire()
    held, dropped = threading.Event(), threading.Event()

    def hold():
        with NETCDF4_PYTHON_LOCK:
            held.set()
            dropped.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        del manager
        assert handle.isopen()
    finally:
        dropped.set()
        thread.join()
    with netcdf.LOCK:
        pass
    assert not handle.isopen()

    manager = netcdf.shared_file(folder / "leaderboard.nc")
    handle = manager.acquire()
    del manager
    assert not handle.isopen()


def test_a_file_dropped_under_the_lock_in_its_own_thread_is_closed_at_its_release(folder):
    cycle = [netcdf.shared_file(folder / "leaderboard.nc")]
    cycle.append(cycle)
    handle = cycle[0].acquire()
    with netcdf.LOCK, netcdf.LOCK:
        del cycle
        gc.collect()
        assert handle.isopen()
    assert not handle.isopen()


def test_a_file_is_open_as_long_as_one_of_its_users_is_there(folder):
    first, second = netcdf.shared_file(folder / "leaderboard.nc"), netcdf.shared_file(folder / "leaderboard.nc")
    handle = first.acquire()
    assert second.acquire() is handle
    del first
    assert handle.isopen()
    third = pickle.loads(pickle.dumps(second))
    assert third.acquire() is handle
    del second, third
    assert not handle.isopen()


def test_few_files_are_open_at_once_however_many_are_read(folder, monkeypatch):
    wanted = hl.open_dataset(folder / "iq").iq.values
    monkeypatch.setattr(netcdf, "_MAX_HANDLES", 1)
    on_disk, opened = OnDisk(folder / "iq", "iq"), hl.open_dataset(folder / "features")
    for _ in range(2):
        np.testing.assert_array_equal(on_disk.load().values, wanted)
        opened.snr.compute()
        assert len(netcdf._handles) == 1


def test_a_lazy_dataset_is_written_by_the_threads_that_compute_it(folder, tmp_path):
    dataset = hl.open_dataset(folder / "features")
    netcdf.write_netcdf(dataset, tmp_path / "copy.nc")
    xr.testing.assert_identical(netcdf.load(tmp_path / "copy.nc"), dataset.load())


def test_the_lock_of_another_process_is_its_own(folder):
    assert pickle.loads(pickle.dumps(netcdf.LOCK)) is netcdf.LOCK
    dataset = hl.open_dataset(folder / "iq")
    xr.testing.assert_identical(pickle.loads(pickle.dumps(dataset)).load(), dataset.load())


def test_a_process_forked_while_another_thread_reads_can_read(folder):
    script = f"""
import os, threading
from heimdall_lab.datasets import netcdf
held = threading.Event()
def hold():
    with netcdf.LOCK:
        held.set()
        forking.wait()
forking = threading.Event()
threading.Thread(target=hold).start()
held.wait()
threading.Timer(0.2, forking.set).start()
if (child := os.fork()) == 0:
    netcdf.load({str(folder / "leaderboard.nc")!r})
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
netcdf.load({str(folder / "leaderboard.nc")!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
