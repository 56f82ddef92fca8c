"""Fixtures that several test files share."""

import functools
import http.server
import os
import resource
import shutil
import signal
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from dashboards import one_loop  # noqa: F401  a fixture
from hypothesis import settings

import heimdall_lab as hl
from heimdall_lab import cli

os.environ.pop("HEIMDALL_LAB_DATA", None)  # no test touches the data of whoever runs it

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests of Ctrl-C pass it on to their processes

# No deadline: the first call of a compiled function takes seconds.
settings.register_profile("quick", deadline=None, max_examples=30)
settings.register_profile("full", deadline=None, max_examples=500)
settings.load_profile("quick")


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


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """Its folder, in three shards of four scenes, without measurements; do not change it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    hl.generate(small, out, progress=False)
    return out


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of that folder, with its times."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


@pytest.fixture(scope="session")
def small_dataset(small):
    """Its dataset, in memory; do not change it."""
    return hl.generate(small, progress=False)


class Done(NamedTuple):
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def attempt(capsys, monkeypatch):
    """Run the command in this process, as a start of its own takes seconds: a function of arguments, to `Done`."""

    def attempt(*arguments):
        monkeypatch.setattr("sys.argv", ["heimdall-lab", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Done(end.value.code or 0, *capsys.readouterr())

    return attempt


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


@pytest.fixture
def read_only():
    """A folder, and a function that takes the right to write to it from this process, root or not, until the end."""
    uid = os.geteuid()

    def forbid(folder):
        folder.chmod(0o555)
        if uid == 0:
            os.seteuid(65534)

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "out"
        Path(parent).chmod(0o755)
        folder.mkdir()
        yield folder, forbid
        if uid == 0:
            os.seteuid(uid)
        folder.chmod(0o755)


@pytest.fixture
def full_disk():
    """Context in which no file of this process can grow beyond some bytes, as where the disk is full."""

    @contextmanager
    def full(most_bytes):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


@pytest.fixture(scope="session")
def trained(small, small_dataset):
    """An untrained triangulation, standardised by those scenes, that claims to have been trained on them."""
    import torch

    from heimdall_lab.learning import architectures
    from heimdall_lab.learning.trained import Trained
    from heimdall_lab.localization import learned

    torch.manual_seed(1)
    about = {
        "dataset": small.name,
        "dataset_checksum": "0f" * 32,
        "dataset_seed": small.seed,
        "sample_rate_hz": small_dataset.attrs["sample_rate_hz"],
        "package_version": "0.0",
    }
    made = Trained("triangulation", {"width": 16}, architectures.build("triangulation", {"width": 16}).eval(), about)
    scenes = learned.arrays(made, small_dataset)
    made.model.fit({name: torch.from_numpy(values) for name, values in scenes.items()})
    made.model.spread.fill_(1.5)
    return made


@pytest.fixture(scope="session")
def onnx_file(trained, tmp_path_factory):
    """The same in a file."""
    from heimdall_lab.learning.export import export_onnx

    return export_onnx(trained, tmp_path_factory.mktemp("onnx") / "small.onnx")
