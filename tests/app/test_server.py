"""The server: who may use it, from where, and under which path."""

import json
import subprocess
import sys
import time

import httpx
import pytest
from dashboards import dashboard, free_port

import heimdall_lab as hl


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The folder in which `plain` runs."""
    folder = tmp_path_factory.mktemp("server") / "here"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def plain(here):
    """Address of a server with defaults; its data folder is ``../elsewhere``."""
    with dashboard(here, "--root", "../elsewhere") as (_, url):
        yield url


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """Address of a server as behind a reverse proxy."""
    options = "--prefix", "lab/radio", "--allow-origin", "radio.example.org"
    with dashboard(tmp_path_factory.mktemp("proxied"), *options) as (_, url):
        yield url


def log_in(client, url, name, password):
    return client.post(f"{url}login", data={"username": name, "password": password})


def test_a_password_is_asked_for(tmp_path):
    users = tmp_path / "users.json"
    users.write_text(json.dumps({"ada": "right"}))
    with dashboard(tmp_path, "--basic-auth", str(users)) as (_, url), httpx.Client() as client:
        page = client.get(f"{url}datasets")
        assert page.status_code == 302
        assert "login" in page.headers["location"]
        assert client.get(f"{url}api/v1/jobs").status_code == 401
        refused = log_in(client, url, "ada", "wrong")
        assert "Invalid username or password" in client.get(httpx.URL(url).join(refused.headers["location"])).text
        assert client.get(f"{url}api/v1/jobs").status_code == 401
        assert client.get(f"{url}datasets").status_code == 302
        log_in(client, url, "ada", "right")
        assert client.get(f"{url}api/v1/jobs").json() == []
        assert client.get(f"{url}datasets").status_code == 200


@pytest.mark.slow
def test_a_login_outlives_a_restart_if_the_cookie_secret_is_kept(tmp_path):
    options, port = ("--basic-auth", "secret", "--cookie-secret", "kept"), free_port()
    with httpx.Client() as client:
        with dashboard(tmp_path, *options, port=port) as (_, url):
            log_in(client, url, "ada", "secret")
        with dashboard(tmp_path, *options, port=port) as (_, url):
            assert client.get(f"{url}api/v1/jobs").status_code == 200


def test_all_is_below_a_prefix(proxied):
    assert httpx.get(f"{proxied}lab/radio/").headers["location"] == "/lab/radio/datasets"
    assert httpx.get(f"{proxied}lab/radio/datasets").status_code == 200
    assert httpx.get(f"{proxied}datasets").status_code == 404
    assert "/lab/radio/api/v1/openapi.json" in httpx.get(f"{proxied}lab/radio/api/v1/docs").text
    assert httpx.get(f"{proxied}lab/radio/api/v1/datasets").json() == []


def test_names_that_nobody_allowed_are_refused(plain, proxied):
    elsewhere = {"Host": "radio.example.org"}
    answer = httpx.get(f"{plain}api/v1/jobs", headers=elsewhere)
    assert answer.status_code == 403
    assert "--allow-origin" in answer.json()["detail"]
    assert httpx.get(f"{proxied}lab/radio/api/v1/jobs", headers=elsewhere).status_code == 200


@pytest.mark.parametrize("body", [b"folder=x&preset=los_sync", b'{"folder": "x", "preset": "los_sync"}'])
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
def test_what_another_site_could_send_from_a_browser_queues_nothing(plain, kind, body):
    """Forms and plain texts are sent to other sites without asking them; JSON is not."""
    before = httpx.get(f"{plain}api/v1/jobs").json()
    answer = httpx.post(f"{plain}api/v1/datasets", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422
    assert httpx.get(f"{plain}api/v1/jobs").json() == before


def test_a_port_that_is_taken_is_refused_by_name(plain, tmp_path):
    port = httpx.URL(plain).port
    command = [sys.executable, "-m", "heimdall_lab.cli", "serve", "--port", str(port)]
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 2
    assert f"port: cannot listen at 127.0.0.1:{port}" in second.stderr
    assert "choose another --port" in second.stderr


@pytest.mark.slow
def test_all_that_training_writes_is_below_the_root(plain, here, small):
    root = here.parent / "elsewhere"
    hl.generate(small.model_copy(update={"num_samples": 60}), out=root / "scenes", progress=False)
    options = {"epochs": 1, "batch_size": 16}
    task = {
        "kind": "train",
        "folder": "quick",
        "dataset": "scenes",
        "architecture": "triangulation",
        "options": options,
    }
    job = httpx.post(f"{plain}api/v1/jobs", json=task, timeout=60).json()
    deadline = time.monotonic() + 240
    while job["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
        job = httpx.get(f"{plain}api/v1/jobs/{job['id']}").json()
    assert job["state"] == "finished", job["message"]
    assert (root / "mlflow.db").is_file()
    assert (root / "mlruns").is_dir()
    assert (root / "runs" / "quick" / "model.onnx").is_file()
    assert [path.name for path in here.iterdir()] == ["server.log"]
