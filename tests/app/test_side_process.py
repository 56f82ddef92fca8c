"""The process beside the server: what it returns and raises, and when it ends."""

import math
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from heimdall_lab.app.service import side_process


@pytest.fixture
def beside(monkeypatch):
    """Such a process of this test's own."""
    monkeypatch.setattr(side_process, "_process", side_process._SideProcess())
    yield side_process
    if (pool := side_process._process._pool) is not None:
        pool.shutdown()


def gone(process_id):
    """Whether a process ends within a minute."""
    try:
        psutil.Process(process_id).wait(60)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_calls_share_one_process_which_is_replaced_when_it_was_killed(beside):
    first = beside.call(os.getpid)
    assert first != os.getpid()
    with pytest.raises(ValueError, match="math domain"):
        beside.call(math.sqrt, -1.0)
    assert beside.call(os.getpid) == first
    with pytest.raises(OSError, match="ended before it answered"):
        beside.call(signal.raise_signal, signal.SIGKILL)
    second = beside.call(os.getpid)
    os.kill(second, signal.SIGKILL)  # as the system does when memory runs out
    assert gone(second)
    while not side_process._process._pool._broken:  # what it was to answer in that moment is lost
        time.sleep(0.01)
    assert beside.call(os.getpid) not in (first, second)


def test_it_ends_when_it_is_idle_or_has_grown(beside, monkeypatch):
    monkeypatch.setattr(side_process, "_IDLE_S", 0.2)
    idle = beside.call(os.getpid)
    assert gone(idle)
    monkeypatch.setattr(side_process, "_IDLE_S", 600.0)
    monkeypatch.setattr(side_process, "_MAX_BYTES", 1)
    grown = beside.call(os.getpid)
    assert gone(grown)


def test_it_ends_with_the_server_that_is_killed():
    code = """
import os, signal
from heimdall_lab.app.service import side_process
print(side_process.call(os.getpid), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout))
