"""The interface for scripts: what it lists, takes and refuses, by itself and behind the server."""

import asyncio
import json
import os
import re
import subprocess
import sys

import httpx
import pytest
from dashboards import dashboard, occupied

import heimdall_lab as hl
from heimdall_lab.app.service import jobs, tasks
from heimdall_lab.app.service.rest import API, api
from heimdall_lab.core.receivers import italian_network, receivers_csv
from heimdall_lab.learning import registry


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
    assert list(listed) == list(registry.ARCHITECTURES)
    assert all(entry["compatible"] is None for entry in listed.values())
    assert listed["triangulation"]["defaults"] == registry.ARCHITECTURES["triangulation"].parameters
    asked = client.get(f"{API}/training/architectures", params={"dataset": "scenes"}).json()
    fits = {entry["architecture"]: entry["compatible"] for entry in asked}
    assert fits == {name: "iq_raw" in known.data_types for name, known in registry.ARCHITECTURES.items()}
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


def test_a_network_is_read_from_a_file_below_the_data_folder(client, root, small):
    (root / "stations.csv").write_text(receivers_csv(italian_network()))
    config = small.model_dump(mode="json") | {"geometry": {"receivers": "data/stations.csv"}}
    queued = client.post(f"{API}/datasets", json={"folder": "new", "config": config})
    assert queued.status_code == 202, queued.text
    assert jobs.find_job(root, queued.json()["id"]).task.config.geometry.receivers == italian_network()


def test_other_files_than_regular_ones_of_a_size_below_the_data_folder_are_not_opened(client, root, small):
    (root / "link.csv").symlink_to("/etc/passwd")
    (root / "loop").symlink_to("loop")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")  # of which nobody writes: opening it would wait for ever
    with (root / "large.csv").open("wb") as file:
        file.truncate(1_000_001)
    outside = ["/dev/zero", "/etc/passwd", "data/../../x.csv", "data/link.csv", "data/\0", "data/\ud800", "data/loop"]
    for name in [*outside, "data/pipe", "data/folder", "data/missing.csv", "data/large.csv"]:
        config = small.model_dump(mode="json") | {"geometry": {"receivers": name}}
        changes = {"preset": "los_sync", "changes": {"geometry.receivers": name}}
        for path, body in [("datasets", {"config": config}), ("jobs", {"config": config}), ("datasets", changes)]:
            text = json.dumps({"folder": "new"} | ({"kind": "generate"} if path == "jobs" else {}) | body)
            answer = client.post(f"{API}/{path}", content=text, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 422), name
            assert "receivers" in answer.text
            assert "root:" not in answer.text


def test_folders_with_other_files_are_refused(client, root):
    (root / "out").symlink_to("/etc")
    for folder in ("sounds", "pipes", "large"):
        (root / folder).mkdir()
    (root / "sounds" / "a.wav").symlink_to("/dev/zero")
    os.mkfifo(root / "pipes" / "b.wav")
    with (root / "large" / "c.hgt").open("wb") as file:
        file.truncate(2_000_000_001)
    for field, diffraction in [("signal.voice_folder", "none"), ("channel.terrain_folder", "terrain")]:
        for name in ["/etc", "data/../..", "data/out", "data/sounds", "data/pipes", "data/large"]:
            changes = {field: name, "channel.diffraction": diffraction}
            answer = client.post(f"{API}/datasets", json={"folder": "new", "preset": "los_sync", "changes": changes})
            assert answer.status_code == 400
            assert answer.json()["detail"].startswith(f"{field}: ")


WRONG = [
    *["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e308", "-0", "-1", "0.5", "18446744073709551616", "9" * 400],
    *["9" * 5000, "null", "true", "[]", "{}", "[NaN]", "[[[[1]]]]", "[" * 3000 + "]" * 3000, "{", '{"a":NaN}'],
    *['"\\ud800"', '{"\\ud800":1}', '"\\u0000"', '"\x00"', "\xff", '"/dev/zero"', '"../x"', '"<img src=x>"', '""'],
    '"' + "x" * 3000 + '"',
]


def fields_of(value, path=()):
    """Paths of all values inside of one, and its own; of a list the first alone."""
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else []
    return [path, *(each for name, part in inner for each in fields_of(part, (*path, name)))]


def with_text(value, path, text):
    """JSON of a value in which one part is a text, which need not be JSON."""
    if not path:
        return text
    copy = json.loads(json.dumps(value))
    group = copy
    for name in path[:-1]:
        group = group[name]
    group[path[-1]] = "@here"
    return json.dumps(copy).replace('"@here"', text)


@pytest.mark.slow
def test_no_wrong_value_of_any_field_is_a_server_error(root, small):
    config = small.model_dump(mode="json")
    training = {"kind": "train", "folder": "r", "dataset": "scenes", "architecture": "triangulation"}
    training |= {"parameters": {"width": 8}, "options": {"epochs": 2}}
    bodies = [
        ("datasets", {"folder": "x", "preset": "los_sync", "changes": {"num_samples": 3, "signal.duration_s": 0.1}}),
        ("datasets", {"folder": "x", "config": config}),
        ("jobs", {"kind": "generate", "folder": "y", "config": config}),
        ("jobs", training),
    ]
    fields = [(kind, body, path) for kind, body in bodies for path in fields_of(body)]
    requests = [(kind, with_text(body, path, text)) for kind, body, path in fields for text in WRONG]
    requests = requests[:: len(requests) // 2_100]  # each field has more wrong values than this leaves out in a row
    assert len(requests) > 2_000

    async def ask():
        transport = httpx.ASGITransport(api(root), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            client.headers["Content-Type"] = "application/json"
            return [await client.post(f"{API}/{kind}", content=body.encode("latin-1")) for kind, body in requests]

    answers = asyncio.run(ask())
    wrong = [(request, answer) for request, answer in zip(requests, answers, strict=True) if answer.status_code >= 500]
    assert wrong == []
    refused = [answer.json()["detail"] for answer in answers if answer.status_code >= 400]
    assert len(refused) > 2_000
    assert all(detail if isinstance(detail, str) else detail[0]["loc"] for detail in refused)


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
