"""The served dashboard as a process of its own, for tests of pages and of the interface for scripts."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager


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
