"""Many who ask at once: all are answered, others too, and the server's log stays clean."""

import asyncio
import logging
from types import SimpleNamespace

import httpx
import pytest
from bokeh.document import Document
from dashboards import dashboard
from panel.io.state import set_curdoc
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

from heimdall_lab.app.pages.frame import page
from heimdall_lab.app.pages.geometry import Geometry
from heimdall_lab.app.parts import background
from heimdall_lab.app.service.server import _report_fault


def test_only_faults_that_are_no_closed_tab_are_logged(caplog):
    async def report(error):
        _report_fault(asyncio.get_running_loop(), {"message": "nobody handled", "exception": error})

    with caplog.at_level(logging.ERROR):
        for error in (WebSocketClosedError(), StreamClosedError()):
            asyncio.run(report(error))
        assert caplog.records == []
        asyncio.run(report(ValueError("a fault")))
    assert "a fault" in caplog.text


@pytest.mark.usefixtures("one_loop")
def test_pages_know_where_styles_are_before_their_html_is_written(tmp_path):
    """A browser that comes back to a server which forgot its page gets another one, without HTML."""
    document = Document()
    with set_curdoc(document):
        page("geometry", tmp_path)()
    assert document.template_variables["dist_url"] == "static/extensions/panel/"


def test_what_was_computed_for_a_tab_that_is_closed_meanwhile_is_not_shown(tmp_path, monkeypatch):
    async def steps():
        document = Document()
        with set_curdoc(document):
            geometry = Geometry(tmp_path)

        async def found_late(*_arguments):
            for callback in list(document.session_destroyed_callbacks):
                callback(None)
            geometry._figure.right = []  # as Bokeh takes a page apart
            return SimpleNamespace(best_longitude=8.0, best_latitude=45.0)

        monkeypatch.setattr(background, "run", found_late)
        monkeypatch.setattr("heimdall_lab.plots.site_text", lambda _found: "")
        await geometry._find_best_site()
        assert geometry._closed
        assert geometry._site is None

    asyncio.run(steps())


async def ask(url, paths, wrong):
    """Ask for some things in turn, and record what is not answered."""
    async with httpx.AsyncClient(timeout=120) as client:
        for path in paths:
            answer = await client.get(f"{url}{path}")
            if answer.status_code != 200:
                wrong.append((path, answer.status_code))


async def hold_open(port, asked):
    """Send a request a byte at a time until others have been answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /api/v1/jobs HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n")
    while not asked.is_set():
        writer.write(b" ")
        await asyncio.sleep(0.5)
    writer.close()
    del reader


@pytest.mark.slow
def test_many_clients_slow_connections_and_jobs_at_once_are_served(tmp_path):
    lists = ["api/v1/datasets", "api/v1/jobs", "api/v1/openapi.json", "static/js/bokeh-gl.min.js", "api/v1/docs"]

    async def load(url):
        wrong, asked = [], asyncio.Event()
        slow = [asyncio.create_task(hold_open(httpx.URL(url).port, asked)) for _ in range(400)]
        await asyncio.gather(*(ask(url, 2 * lists, wrong) for _ in range(50)))
        async with httpx.AsyncClient(timeout=120) as client:
            queued = []
            for number in range(50):
                new = {"folder": f"queued{number}", "preset": "los_sync", "changes": {"num_samples": 5000}}
                queued.append(await client.post(f"{url}api/v1/datasets", json=new))
            ended = [await client.post(f"{url}api/v1/jobs/{job.json()['id']}/cancel") for job in reversed(queued)]
            await ask(url, ["datasets", "api/v1/jobs"], wrong)
        asked.set()
        await asyncio.gather(*slow)
        wrong += [answer.status_code for answer in queued + ended if answer.status_code not in (200, 202)]
        return wrong

    with dashboard(tmp_path) as (_, url):
        assert asyncio.run(load(url)) == []
    assert "Traceback" not in (tmp_path / "server.log").read_text()
