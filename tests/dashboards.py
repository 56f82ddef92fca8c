"""The served dashboard as a process of its own, for tests of pages and of the interface for scripts."""

import asyncio
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import cache

import dask
import httpx
import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect


def free_port():
    """A port of this machine that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(port, seconds=120):
    """Return the address of a server when it answers; a busy machine may take long to answer once."""
    url, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{url}nothing", timeout=seconds)  # a page would be drawn, for nobody
        except urllib.error.HTTPError:
            return url
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def skip_for_want_of(reason):
    """Skip a test; where all that tests need has to be there, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def dashboard(folder, *options, port=None, **environment):
    """Run the command in a folder whose ``data`` it serves; yields its process and the address of its pages."""
    port = port or free_port()
    command = [sys.executable, "-m", "heimdall_lab.cli", "serve", "--port", str(port), *options]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=os.environ | environment
        )
        try:
            yield process, wait_for(port)
        finally:
            process.terminate()
            process.wait(60)


async def open_page(url):
    """Open a page as a browser does, which draws it elsewhere: returns its websocket."""
    async with httpx.AsyncClient(timeout=120) as client:
        token = re.search(r'"token":"([^"]+)"', (await client.get(url)).text)[1]
    request = HTTPRequest(f"{url.replace('http', 'ws', 1)}/ws")
    socket = await websocket_connect(request, subprotocols=["bokeh", token], max_message_size=10**9)
    for _ in range(3):  # parts of the message that the server is there
        await socket.read_message()
    ready = {"type": "event", "name": "document_ready", "values": {"type": "map", "entries": []}}
    event = {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": ready}
    for part in ({"msgid": "1", "msgtype": "PATCH-DOC"}, {}, {"events": [event]}):
        await socket.write_message(json.dumps(part))
    return socket


async def close_page(socket):
    """Close a page as a browser does."""
    socket.close()
    while await socket.read_message() is not None:
        pass


def submitted(root, task, number=0):
    """Record a job as submitted long ago; returns its folder."""
    folder = root / "jobs" / f"20200101T000000000000-{number:04x}"
    folder.mkdir(parents=True)
    text = json.dumps({"asked_at": "2020-01-01T00:00:00+00:00", "task": task.model_dump(mode="json")})
    (folder / "task.json").write_text(text)
    return folder


@contextmanager
def occupied(root, task):
    """Let a job seem to run, so that all others wait; yields its folder."""
    folder = submitted(root, task)
    attempt = {"number": 1, "started_at": "2020-01-01T00:00:01+00:00", "done_before": 0, "silent_ends": 0}
    (folder / "attempt.json").write_text(json.dumps(attempt))
    with (folder / ".running").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield folder


class _FileWatch:
    """Records what this thread does to files below a folder, from when it is given one."""

    events = (
        "open",
        "os.listdir",
        "os.scandir",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "glob.glob",
        "sqlite3.connect",
        "os.stat",
    )

    def __init__(self):
        self.folder, self.thread, self.touched, self.others = "", None, [], 0
        sys.addaudithook(self.note)  # which cannot be removed

    def note(self, event, arguments):
        if self.folder and event in self.events and str(arguments[0]).startswith(self.folder):
            if threading.current_thread() is self.thread:
                self.touched.append((event, str(arguments[0])))
            else:
                self.others += 1


@cache
def _file_watch():
    return _FileWatch()


@contextmanager
def no_files_here(folder):
    """Fail if this thread, in which an event loop runs, touches a file of a folder or waits for one to be read."""
    watch, read_here = _file_watch(), []

    def compute(graph, keys, **options):
        if threading.current_thread() is watch.thread:
            read_here.append(keys)
        return dask.threaded.get(graph, keys, **options)

    def stat(path, *arguments, **options):
        watch.note("os.stat", [path])  # the one that raises no audit event
        return os_stat(path, *arguments, **options)

    watch.thread, watch.touched, watch.others = threading.current_thread(), [], 0
    watch.folder, os_stat = str(folder), os.stat
    try:
        with dask.config.set(scheduler=compute), pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "stat", stat)
            yield
    finally:
        watch.folder = ""
    assert watch.touched == []
    assert read_here == []
    assert watch.others


async def until(true):
    """Wait until something is true that a page does beside itself."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.fixture
def one_loop(monkeypatch):
    """One event loop, which is closed, for all that a page does beside itself: Panel makes one each time."""
    made = asyncio.new_event_loop()
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: made)
    yield
    made.run_until_complete(made.shutdown_default_executor())
    made.close()
    asyncio.set_event_loop(None)
