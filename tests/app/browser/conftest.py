"""A browser, and servers for it."""

import shutil
from contextlib import contextmanager

import panel as pn
import pytest
from dashboards import dashboard, free_port, skip_for_want_of, wait_for
from playwright.sync_api import expect, sync_playwright

import heimdall_lab as hl

MOST_MS = 120_000
expect.set_options(timeout=MOST_MS)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_HARMLESS = (
    "GPU stall due to ReadPixels",  # of Chromium's own drawing without a GPU
    "net::ERR_ABORTED",  # what a page that is left was still loading
    "reading 'rowManager'",  # of Panel's table, told of rows or scrolled in a frame in which it is not drawn
)


@pytest.fixture(scope="session")
def chromium():
    """Path of the browser."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        skip_for_want_of("no Chromium is installed; install it, as by 'apt-get install chromium'")
    return path


@pytest.fixture(scope="module")
def playwright():
    """Ends with its module: as long as it runs, nothing else in this process may start an event loop."""
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(chromium, playwright):
    """A browser that remembers nothing from one page to the next."""
    opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def profile(tmp_path_factory):
    """Folder of a browser that remembers, above all the scripts of all pages, which take seconds to compile."""
    return tmp_path_factory.mktemp("profile")


@pytest.fixture(scope="module")
def as_visitor(chromium, playwright, profile):
    """Opens a browser as people have it, with a cache: a context of options."""

    @contextmanager
    def opened(**options):
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=FLAGS, viewport={"width": 1280, "height": 800}, **options
        )
        yield context
        context.close()

    return opened


@pytest.fixture(scope="module")
def visitor(as_visitor):
    """Such a browser, for all tests of a file."""
    with as_visitor() as opened:
        yield opened


@contextmanager
def faultless_page(visitor):
    """A page that fails its test if anything went wrong in the browser."""
    opened = visitor.new_page()
    faults = []
    opened.on("pageerror", lambda error: faults.append(f"page error: {error}"))
    opened.on("requestfailed", lambda request: faults.append(f"request failed: {request.url} {request.failure}"))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.set_default_timeout(MOST_MS)
    yield opened
    opened.close()
    assert not [fault for fault in faults if not any(harmless in fault for harmless in _HARMLESS)]


@pytest.fixture
def page(visitor):
    """A page that fails its test if anything went wrong in the browser."""
    with faultless_page(visitor) as opened:
        yield opened


@pytest.fixture
def three_pages(visitor):
    """Three of them."""
    with faultless_page(visitor) as first, faultless_page(visitor) as second, faultless_page(visitor) as third:
        yield first, second, third


@pytest.fixture
def served(monkeypatch):
    """Serve a page in a thread, by its name and data folder, and what makes its viewer; returns its address."""
    servers = []

    def serve(name, root, viewer=None):
        from heimdall_lab.app.pages import frame

        port = free_port()
        icon, usual = frame.PAGES[name]
        monkeypatch.setitem(frame.PAGES, name, (icon, viewer or usual))
        pn.extension("tabulator")
        app = {name: frame.page(name, root)}
        loop = pn.serve(app, port=port, address="127.0.0.1", show=False, threaded=True, verbose=False)
        servers.append(loop)
        return f"{wait_for(port)}{name}"

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A data folder with one dataset, ``los``: 24 scenes of 0.05 s; copy it before you change it."""
    root = tmp_path_factory.mktemp("made") / "data"
    config = hl.preset("los_sync", num_samples=24, seed=5, shard_size=8, signal={"duration_s": 0.05}, name="los")
    hl.generate(config, out=root / "los", progress=False)
    return root


@pytest.fixture
def data_folder(made, tmp_path):
    """A data folder of its own with that dataset."""
    return shutil.copytree(made, tmp_path / "data")


@pytest.fixture
def serving(tmp_path):
    """The same as a fixture: a function of options, over a folder of the test's own."""
    return lambda *options, **named: dashboard(tmp_path, *options, **named)
