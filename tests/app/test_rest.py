"""The interface for scripts: what it lists, takes and refuses, by itself and behind the server."""

import asyncio
import re
import subprocess
import sys

import httpx
import pytest
from dashboards import dashboard, occupied

import heimdall_lab as hl
from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.app.service.rest import API, api
from heimdall_lab.learning import architectures


@pytest.fixture
def root(tmp_path, monkeypatch, small):
    """A data folder with a dataset, in which a job seems to run, so that all that are asked for wait."""
    monkeypatch.chdir(tmp_path)
    hl.generate(small, out=tmp_path / "data" / "scenes", progress=False)
    with occupied(tmp_path / "data", tasks.Generation(folder="other", config=small)):
        yield tmp_path / "data"


class Client:
    """Asks the application itself, without a server."""

    def __init__(self, app):
        self._transport = httpx.ASGITransport(app)

    def request(self, method, path, **options):
        async def ask():
            async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **options):
        return self.request("POST", path, **options)


@pytest.fixture
def client(root):
    return Client(api(root))


def test_datasets_are_listed_as_the_catalogue_has_them(client, root):
    [entry] = client.get(f"{API}/datasets").json()
    row = hl.datasets(root).iloc[0]
    assert entry["folder"] == "scenes"
    for name in ("name", "data_type", "samples", "of", "receivers", "seed", "megabytes", "acceptance", "state"):
        assert entry[name] == row[name]


def test_architectures_say_what_fits(client):
    listed = {entry["architecture"]: entry for entry in client.get(f"{API}/training/architectures").json()}
    assert list(listed) == list(architectures.ARCHITECTURES)
    assert all(entry["compatible"] is None for entry in listed.values())
    assert listed["triangulation"]["defaults"] == architectures.ARCHITECTURES["triangulation"].parameters
    asked = client.get(f"{API}/training/architectures", params={"dataset": "scenes"}).json()
    fits = {entry["architecture"]: entry["compatible"] for entry in asked}
    assert fits == {name: "iq_raw" in known.data_types for name, known in architectures.ARCHITECTURES.items()}
    assert all((entry["reason"] is None) == entry["compatible"] for entry in asked)
    assert client.get(f"{API}/training/architectures", params={"dataset": "../x"}).status_code == 400


def test_a_dataset_is_queued_by_preset_or_whole(client, root, small):
    by_preset = {"folder": "new", "preset": "los_sync", "changes": {"num_samples": 8, "signal.duration_s": 0.02}}
    answer = client.post(f"{API}/datasets", json=by_preset)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "queued"
    expected = hl.preset("los_sync", name="new", num_samples=8, signal={"duration_s": 0.02})
    assert jobs.find_job(root, answer.json()["id"]).task.config == expected
    whole = client.post(f"{API}/datasets", json={"folder": "more", "config": small.model_dump(mode="json")})
    assert jobs.find_job(root, whole.json()["id"]).task.config == small


def test_training_is_queued_and_cancelled(client):
    task = {"kind": "train", "folder": "run", "dataset": "scenes", "architecture": "triangulation"}
    queued = client.post(f"{API}/jobs", json=task | {"options": {"epochs": 2}})
    assert queued.status_code == 202, queued.text
    identity = queued.json()["id"]
    assert client.get(f"{API}/jobs").json()[0]["id"] == identity
    assert client.post(f"{API}/jobs/{identity}/cancel").json()["state"] == "cancelled"
    assert client.get(f"{API}/jobs/{identity}").json()["state"] == "cancelled"
    assert client.post(f"{API}/jobs/{identity}/cancel").status_code == 400


def test_the_log_of_a_job_is_read_from_its_end(client, root):
    [identity] = [job["id"] for job in client.get(f"{API}/jobs").json()]
    assert client.get(f"{API}/jobs/{identity}/log").text == ""  # it has printed nothing yet
    (root / "jobs" / identity / "log.txt").write_text("".join(f"{number} µs\n" for number in range(20_000)))
    answer = client.get(f"{API}/jobs/{identity}/log")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.splitlines() == [f"{number} µs" for number in range(19_900, 20_000)]
    assert client.get(f"{API}/jobs/{identity}/log", params={"lines": 2}).text == "19998 µs\n19999 µs"
    assert client.get(f"{API}/jobs/{identity}/log", params={"lines": 0}).status_code == 422
    unknown = client.get(f"{API}/jobs/20200101T000000000000-ffff/log")
    assert unknown.status_code == 404
    assert "unknown" in unknown.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("datasets", {"folder": "../x", "preset": "los_sync"}, 422, "folder"),
        ("datasets", {"folder": "x"}, 400, "preset: give either"),
        ("datasets", {"folder": "x", "preset": "nothing"}, 400, "'nothing' is unknown"),
        ("datasets", {"folder": "x", "preset": "los_sync", "changes": {"seed": -1}}, 400, "seed"),
        ("datasets", {"folder": "scenes", "preset": "los_sync"}, 400, "holds a dataset with another"),
        ("jobs", {"kind": "train", "folder": "r", "dataset": "scenes", "architecture": "localization_net"}, 400, "use"),
        ("jobs", {"kind": "train", "folder": "r", "dataset": "/etc", "architecture": "triangulation"}, 400, "/etc"),
        ("jobs", {"kind": "dig"}, 422, "kind"),
        ("jobs/nothing/cancel", None, 404, "unknown"),
    ],
)
def test_what_is_refused_is_told_and_leaves_nothing(client, root, path, body, status, words):
    before = sorted(root.parent.rglob("*"))
    answer = client.post(f"{API}/{path}", json=body)
    assert answer.status_code == status
    assert words in answer.text
    assert [path for path in sorted(root.parent.rglob("*")) if path not in before and path.name != ".lock"] == []


def test_documentation_needs_no_network(client):
    page = client.get(f"{API}/docs").text
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert client.get(f"{API}/static/swagger-ui-bundle.js").status_code == 200


@pytest.mark.slow  # what is wrong with each field by itself: above
def test_random_requests_find_no_server_error(root):
    """Schemathesis derives requests, valid and not, from the served description."""
    with dashboard(root.parent) as (_, url):
        command = ["schemathesis", "run", f"{url}api/v1/openapi.json", "--checks", "not_a_server_error"]
        options = ["--max-examples", "40", "--generation-deterministic", "--phases", "examples,coverage,fuzzing"]
        run = subprocess.run(
            [f"{sys.prefix}/bin/{command[0]}", *command[1:], *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    assert run.returncode == 0, run.stdout[-6000:]
    assert re.search(r"Operations:\s+8 selected / 8 total", run.stdout)
    generated, passed = re.search(r"(\d+) generated, (\d+) passed", run.stdout).groups()
    assert generated == passed
    assert int(generated) > 500
