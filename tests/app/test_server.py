"""The server: who may use it, from where, and under which path."""

import json
import subprocess
import sys
import time

import httpx
import pytest
from dashboards import dashboard, free_port

import heimdall_lab as hl


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


def test_a_login_outlives_a_restart_if_the_cookie_secret_is_kept(tmp_path):
    options, port = ("--basic-auth", "secret", "--cookie-secret", "kept"), free_port()
    with httpx.Client() as client:
        with dashboard(tmp_path, *options, port=port) as (_, url):
            log_in(client, url, "ada", "secret")
        with dashboard(tmp_path, *options, port=port) as (_, url):
            assert client.get(f"{url}api/v1/jobs").status_code == 200


def test_all_is_below_a_prefix(tmp_path):
    with dashboard(tmp_path, "--prefix", "lab/radio") as (_, url):
        assert httpx.get(f"{url}lab/radio/").headers["location"] == "/lab/radio/datasets"
        assert httpx.get(f"{url}lab/radio/datasets").status_code == 200
        assert httpx.get(f"{url}datasets").status_code == 404
        assert "/lab/radio/api/v1/openapi.json" in httpx.get(f"{url}lab/radio/api/v1/docs").text
        assert httpx.get(f"{url}lab/radio/api/v1/datasets").json() == []


def test_names_that_nobody_allowed_are_refused(tmp_path):
    elsewhere = {"Host": "radio.example.org"}
    with dashboard(tmp_path) as (_, url):
        answer = httpx.get(f"{url}api/v1/jobs", headers=elsewhere)
        assert answer.status_code == 403
        assert "--allow-origin" in answer.json()["detail"]
    with dashboard(tmp_path, "--allow-origin", "radio.example.org") as (_, url):
        assert httpx.get(f"{url}api/v1/jobs", headers=elsewhere).status_code == 200


@pytest.mark.parametrize("body", [b"folder=x&preset=los_sync", b'{"folder": "x", "preset": "los_sync"}'])
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
def test_what_another_site_could_send_from_a_browser_queues_nothing(tmp_path, kind, body):
    """Forms and plain texts are sent to other sites without asking them; JSON is not."""
    with dashboard(tmp_path) as (_, url):
        answer = httpx.post(f"{url}api/v1/datasets", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 422
        assert httpx.get(f"{url}api/v1/jobs").json() == []


def test_a_port_that_is_taken_is_refused_by_name(tmp_path):
    with dashboard(tmp_path) as (_, url):
        command = [sys.executable, "-m", "heimdall_lab.cli", "serve", "--port", str(httpx.URL(url).port)]
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 2
    assert f"port: cannot listen at 127.0.0.1:{httpx.URL(url).port}" in second.stderr
    assert "choose another --port" in second.stderr


def test_all_that_training_writes_is_below_the_root(tmp_path, small):
    root, here = tmp_path / "elsewhere", tmp_path / "here"
    here.mkdir()
    hl.generate(small.model_copy(update={"num_samples": 60}), out=root / "scenes", progress=False)
    options = {"epochs": 1, "batch_size": 16}
    task = {
        "kind": "train",
        "folder": "quick",
        "dataset": "scenes",
        "architecture": "triangulation",
        "options": options,
    }
    with dashboard(here, "--root", "../elsewhere") as (_, url):
        job = httpx.post(f"{url}api/v1/jobs", json=task, timeout=60).json()
        deadline = time.monotonic() + 240
        while job["state"] in ("queued", "running"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
            job = httpx.get(f"{url}api/v1/jobs/{job['id']}").json()
    assert job["state"] == "finished", job["message"]
    assert (root / "mlflow.db").is_file()
    assert (root / "mlruns").is_dir()
    assert (root / "runs" / "quick" / "model.onnx").is_file()
    assert [path.name for path in here.iterdir()] == ["server.log"]
