"""Pages that are closed are forgotten, and what takes much memory is not imported for them."""

import gc
import subprocess
import sys
import weakref
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from bokeh.document import Document
from panel.io.state import set_curdoc

from heimdall_lab.app.pages.frame import page
from heimdall_lab.app.service.server import _CLOSED_PAGE_MS, _page_step


@dataclass(eq=False)
class _Session:
    """What is asked of a session of Bokeh."""

    connection_count: int = 0
    milliseconds_since_last_unsubscribe: float = 2 * _CLOSED_PAGE_MS
    dropped: bool = False

    def request_expiration(self):
        self.dropped = True


@pytest.mark.usefixtures("one_loop")
@pytest.mark.slow
def test_nothing_of_the_server_holds_a_page_that_is_gone(tmp_path):
    document = Document()
    with set_curdoc(document):
        made = page("geometry", tmp_path)()
    gone = weakref.ref(made)
    assert made.busy is False
    del made, document
    gc.collect()
    assert gone() is None


def test_pages_that_were_opened_and_closed_are_dropped_and_others_are_not():
    waiting, opened = _Session(), _Session(connection_count=1)
    step = _page_step(SimpleNamespace(get_sessions=lambda: [waiting, opened]))
    step()
    opened.connection_count, opened.milliseconds_since_last_unsubscribe = 0, _CLOSED_PAGE_MS / 2
    step()
    assert not opened.dropped
    opened.milliseconds_since_last_unsubscribe = 2 * _CLOSED_PAGE_MS
    step()
    assert (opened.dropped, waiting.dropped) == (True, False)


@pytest.mark.slow
def test_pages_and_requests_import_neither_torch_nor_mlflow(tmp_path):
    code = f"""
import asyncio, sys
from pathlib import Path
from fastapi.testclient import TestClient
from heimdall_lab.app.pages.train import Train
from heimdall_lab.app.service.rest import API, api
root = Path({str(tmp_path)!r})
page = Train(root)
asyncio.run(page.refresh())
assert "weights" in page._cards["triangulation"]._text.object
listed = TestClient(api(root)).get(f"{{API}}/training/architectures").json()
assert all(entry["num_parameters"] > 1000 for entry in listed)
assert not {{"torch", "lightning", "mlflow"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
