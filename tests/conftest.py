"""Fixtures that several test files share."""

import functools
import http.server
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import settings

import heimdall_lab as hl

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests of Ctrl-C pass it on to their processes

settings.register_profile("compiled", deadline=None)  # the first call of a compiled function takes seconds
settings.load_profile("compiled")


@pytest.fixture(scope="session")
def real():
    """Folder of the real measurements."""
    folder = os.environ.get("HEIMDALL_LAB_REAL")
    if not folder:
        pytest.skip("HEIMDALL_LAB_REAL is not set: the real measurements are not at hand")
    return Path(folder)


@pytest.fixture(scope="session")
def small():
    """A configuration that generates in a moment: 12 short scenes in shards of 4."""
    return hl.preset("los_sync", num_samples=12, seed=3, shard_size=4, signal={"duration_s": 0.02})


@pytest.fixture(scope="session")
def small_dataset(small):
    """Its dataset, in memory; do not change it."""
    return hl.generate(small, progress=False)


@pytest.fixture
def server(tmp_path):
    """A local web server of an empty folder; yields its address and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}/", folder
        web.shutdown()
        thread.join()
