"""The served dashboard as a process of its own, for tests of pages and of the interface for scripts."""

import asyncio
import fcntl
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest


def free_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(url, seconds=60):
    """Return an address when it answers, with whatever status."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5)
        except urllib.error.HTTPError:
            return url
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return url


@contextmanager
def dashboard(folder, *options, port=None):
    """Run the command in a folder whose ``data`` it serves; yields its process and the address of its pages."""
    port = port or free_port()
    command = [sys.executable, "-m", "heimdall_lab.cli", "serve", "--port", str(port), *options]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process, wait_for(f"http://127.0.0.1:{port}/")
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def occupied(root, task):
    """Let a job seem to run, so that all others wait; yields its folder."""
    folder = root / "jobs" / "20200101T000000000000-0000"
    folder.mkdir(parents=True)
    text = json.dumps({"asked_at": "2020-01-01T00:00:00+00:00", "task": task.model_dump(mode="json")})
    (folder / "task.json").write_text(text)
    attempt = {"number": 1, "started_at": "2020-01-01T00:00:01+00:00", "samples_before": 0}
    (folder / "attempt.json").write_text(json.dumps(attempt))
    with (folder / ".running").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield folder


@pytest.fixture
def one_loop(monkeypatch):
    """One event loop, which is closed, for all that a page does beside itself: Panel makes one each time."""
    made = asyncio.new_event_loop()
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: made)
    yield
    made.run_until_complete(made.shutdown_default_executor())
    made.close()
    asyncio.set_event_loop(None)
