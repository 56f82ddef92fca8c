"""The server: who may use it, from where, and under which path."""

import asyncio
import base64
import http.server
import json
import re
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qs, quote_plus, urlsplit

import httpx
import pytest
from bokeh.util.token import get_token_payload
from dashboards import close_page, dashboard, free_port, open_page, submitted

import heimdall_lab as hl
from heimdall_lab.app.pages.frame import PAGES
from heimdall_lab.app.service import tasks


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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Folder and address of a server that asks for a password, as behind a reverse proxy."""
    folder = tmp_path_factory.mktemp("guarded")
    options = "--basic-auth", "right", "--prefix", "lab", "--allow-origin", "radio.example.org"
    with dashboard(folder, *options) as (_, url):
        yield folder, f"{url}lab/"


async def is_silent(url, seconds):
    """Whether an open page is told nothing for so long, within half a minute."""
    page = await open_page(url)
    began_s = time.monotonic()
    while time.monotonic() - began_s < 30:
        try:
            await asyncio.wait_for(page.read_message(), seconds)
        except TimeoutError:
            break
    else:
        return False
    await close_page(page)
    return True


@pytest.mark.slow
def test_open_pages_are_told_nothing_while_nothing_changes(plain):
    async def watch():
        return await asyncio.gather(*(is_silent(f"{plain}{name}", 2.5) for name in ("datasets", "train")))

    assert asyncio.run(watch()) == [True, True]


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
def test_wrong_passwords_are_slowed_down_by_address_and_logged(guarded):
    folder, url = guarded
    statuses = []
    while statuses.count(302) < 8:  # which are looked at; the next one is in 8 s
        with httpx.Client(headers={"X-Forwarded-For": f"10.0.0.{len(statuses) % 200}, 192.0.2.7"}) as client:
            statuses.append(log_in(client, url, "ada\nhostile", f"wrong{len(statuses)}").status_code)
        time.sleep(0.1)
    assert statuses[:5] == [302] * 5
    assert statuses.count(429) > 3  # the address that counts is what the proxy saw, not what clients say
    with httpx.Client(headers={"X-Forwarded-For": "192.0.2.7"}) as client:
        refused = log_in(client, url, "ada", "right")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "wait" in refused.text
        assert client.get(f"{url}api/v1/jobs").status_code == 401
    with httpx.Client(headers={"X-Forwarded-For": "192.0.2.8"}) as client:
        log_in(client, url, "ada", "right")
        assert client.get(f"{url}api/v1/jobs").status_code == 200
    log = (folder / "server.log").read_text()
    assert "wrong password for 'ada\\nhostile' from 192.0.2.7, the 5. in a row" in log
    assert "wrong0" not in log


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cookies_stay_here_and_a_logout_ends_them(guarded, scheme):
    _, url = guarded
    with httpx.Client(headers={"X-Forwarded-Proto": scheme}) as client:
        answers = [client.get(f"{url}login"), log_in(client, url, "ada", "right")]
        login = client.cookies["heimdall_lab_lab_login"]
    kept = {"Cookie": f"heimdall_lab_lab_login={login}"}
    assert httpx.get(f"{url}api/v1/jobs", headers=kept).status_code == 200
    page = httpx.get(f"{url}datasets", headers=kept)
    assert page.status_code == 200
    told = get_token_payload(re.search(r'"token":"([\w-]+)', page.text)[1])  # which scripts of the page can read
    assert login not in json.dumps(told)
    answers.append(httpx.get(f"{url}logout", headers=kept | {"X-Forwarded-Proto": scheme}))
    assert "logged out" in answers[-1].text
    cookies = [cookie for answer in answers for cookie in answer.headers.get_list("set-cookie")]
    assert {cookie.partition("=")[0] for cookie in cookies} == {
        f"heimdall_lab_lab_{name}" for name in ("login", "next_url", "panel-oauth-state", "panel-oauth-code")
    }
    for cookie in cookies:
        flags = {"HttpOnly", "Path=/lab", "SameSite=Lax"} | ({"Secure"} if scheme == "https" else set())
        assert {part for part in cookie.split("; ")[1:] if not part.startswith("expires=")} == flags
    assert httpx.get(f"{url}api/v1/jobs", headers=kept).status_code == 401
    assert httpx.get(f"{url}datasets", headers=kept).status_code == 302


def test_a_logout_ends_one_login_of_one_person(guarded):
    _, url = guarded
    logins = []
    for name in ("ada", "ada", "bob"):
        with httpx.Client() as client:
            log_in(client, url, name, "right")
            logins.append({"Cookie": f"heimdall_lab_lab_login={client.cookies['heimdall_lab_lab_login']}"})
    first, second, other = logins
    httpx.get(f"{url}logout", headers=first)
    for kept, status in [(first, 401), (second, 200), (other, 200)]:
        assert httpx.get(f"{url}api/v1/jobs", headers=kept).status_code == status
    forged = {"Cookie": second["Cookie"].rstrip('"')[:-4] + "none"}
    assert httpx.get(f"{url}api/v1/jobs", headers=forged).status_code == 401


def test_cookies_of_others_at_the_same_host_do_no_harm(guarded):
    _, url = guarded
    with httpx.Client(cookies={"user": "x", "login": "x", "heimdall_lab_login": "x"}) as client:
        assert client.get(f"{url}api/v1/jobs").status_code == 401
        log_in(client, url, "ada", "right")
        others = "user=x; login=x; heimdall_lab_login=x; next_url=/elsewhere"
        kept = f"{others}; heimdall_lab_lab_login={client.cookies['heimdall_lab_lab_login']}; {others}"
        assert httpx.get(f"{url}api/v1/jobs", headers={"Cookie": kept}).status_code == 200


def test_a_login_leads_below_the_prefix(guarded):
    _, url = guarded
    for page, next_url in [("login", "/lab/"), ("login?next=/lab/compare", "/lab/compare")]:
        with httpx.Client() as client:
            client.get(f"{url}{page}")
            assert log_in(client, url, "ada", "right").headers["location"] == next_url


def test_a_login_by_another_sites_page_is_refused(guarded):
    _, url = guarded
    form = {"username": "ada", "password": "right"}
    refused = httpx.post(f"{url}login", data=form, headers={"Origin": "https://evil.example"})
    assert refused.status_code == 403
    assert "set-cookie" not in refused.headers
    link = httpx.get(f"{url}login", params={"error": "<img src=x> call 0900"})
    assert "0900" not in link.text
    assert httpx.get(f"{url}login", params={"next": "https://evil.example/"}).status_code == 400


def test_every_answer_has_headers_that_keep_scripts_out(plain, guarded):
    _, behind = guarded
    pages = [*(f"{plain}{name}" for name in PAGES), f"{plain}datasets/", f"{plain}api/v1/docs"]
    others = ["", "nothing", "datasets/autoload.js", "static/js/bokeh.min.js", "favicon.ico", "api/v1/jobs", "api/v1/x"]
    others = [f"{plain}{name}" for name in others]
    others += [f"{behind}{name}" for name in ("datasets", "login", "logout", "api/v1/jobs", "login?next=//x.example")]
    nonces = set()
    for url in pages + others:
        answer = httpx.get(url)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["form-action"] == "'self'"
        if url in others:
            assert "script-src" not in policy, url
            continue
        assert answer.headers["cache-control"] == "no-store"
        assert "unsafe" not in policy["script-src"]
        nonce = re.search("'nonce-([^']+)'", policy["script-src"])[1]
        assert len(re.findall("<script", answer.text)) == answer.text.count(f'<script nonce="{nonce}"') > 0
        assert int(answer.headers["content-length"]) == len(answer.content)
        nonces.add(nonce)
    assert len(nonces) == len(pages)


def test_no_module_is_imported_because_somebody_names_it(plain, here):
    (here / "named.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    for module in ("named", "antigravity", "heimdall_lab.app.service.server", "panelx", "..panel"):
        assert httpx.get(f"{plain}components/{module}/Name/_css/file.css").status_code == 404
    assert not (here / "ran").exists()
    (here / "named.py").unlink()


@pytest.fixture(scope="module")
def jobs_url(plain, here, small):
    """Address that cancels a job of `plain`, which has ended."""
    folder = submitted(here.parent / "elsewhere", tasks.Generation(folder="waits", config=small))
    ended = {"state": "failed", "message": "", "at": "2020-01-01T00:00:02+00:00"}
    (folder / "ended.json").write_text(json.dumps(ended))
    return f"{plain}api/v1/jobs/{folder.name}/cancel"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"", 400),  # it has ended: the request itself is taken
        ({"Content-Type": "application/json"}, b"{}", 400),
        ({"Content-Type": "application/json; charset=utf-8", "Cookie": "a=b"}, b"{}", 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"", 422),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 422),
        ({"Content-Type": "text/plain"}, b"{}", 422),
        ({"Content-Type": "application/jsonp"}, b"{}", 422),
        ({"Origin": "https://evil.example"}, b"", 403),
        ({"Origin": "null"}, b"", 403),
        ({"Origin": "https://evil.example", "Content-Type": "application/json", "Cookie": "a=b"}, b"{}", 403),
        ({"Origin": "null", "Content-Type": "application/json", "Cookie": "a=b"}, b"{}", 403),
        ({"Origin": "https://evil.example", "Content-Type": "application/json"}, b"{}", 400),
        ({"Origin": "here", "Content-Type": "application/json", "Cookie": "a=b"}, b"{}", 400),
        ({"Origin": "here", "Cookie": "a=b"}, b"", 400),
    ],
)
def test_what_changes_something_is_sent_as_json_by_no_other_site(jobs_url, headers, body, status):
    here = {"Origin": jobs_url.partition("/api")[0]} if headers.get("Origin") == "here" else {}
    assert httpx.post(jobs_url, content=body, headers=headers | here).status_code == status


class Identities(http.server.BaseHTTPRequestHandler):
    """An OAuth provider that takes the code for the name of the user, and says more of people than cookies hold."""

    def do_POST(self):
        code = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["code"][0]
        claims = {"email": code, "roles": ["role"] * 1000}
        parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
        token = ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), ""])
        tokens = {"access_token": token, "id_token": token, "refresh_token": token, "expires_in": 300}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<p>Later" if code == "broken" else json.dumps(tokens).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Folder and address of a server that asks such a provider, and the provider."""
    folder = tmp_path_factory.mktemp("known")
    options = ["--prefix", "lab", "--oauth-provider", "generic", "--oauth-key", "lab key", "--oauth-secret", "s"]
    options += ["--allow-user", "ada@example.org", "--allow-user", "bob@example.org"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Identities) as identities:
        threading.Thread(target=identities.serve_forever, daemon=True).start()
        provider = f"http://127.0.0.1:{identities.server_port}"
        names = ("AUTHORIZE", "TOKEN", "USER", "LOGOUT")
        addresses = {f"PANEL_OAUTH_{name}_URL": f"{provider}/{name}" for name in names}
        with dashboard(folder, *options, **addresses) as (_, url):
            yield folder, f"{url}lab/", identities
        identities.shutdown()


def come_back(client, url, user, **changed):
    """What a browser does as the provider sends it back."""
    asked = parse_qs(urlsplit(client.get(f"{url}login").headers["location"]).query)
    return client.get(f"{url}login", params={"code": user, "state": asked["state"][0]} | changed)


def test_oauth_lets_in_whom_it_was_told_to(known):
    _, url, _ = known
    for user, status in [("ada@example.org", 200), ("bob@example.org", 200), ("eve@example.org", 401)]:
        with httpx.Client() as client:
            answer = come_back(client, url, user)
            assert answer.status_code == (302 if status == 200 else 403)
            assert ("may not log in" in answer.text) == (status == 401)
            assert client.get(f"{url}api/v1/jobs").status_code == status
            assert sum(len(name) + len(value) for name, value in answer.headers.raw) < 2048  # of nginx's 4096
            assert set(client.cookies) == ({"heimdall_lab_lab_login"} if status == 200 else set())
            if status == 200:
                kept = {"Cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())}
                answer = client.get(f"{url}logout")
                assert httpx.get(f"{url}api/v1/jobs", headers=kept).status_code == 401
            redirect_uri = quote_plus(f"{url}login")
            assert f'/LOGOUT?client_id=lab+key&amp;post_logout_redirect_uri={redirect_uri}"' in answer.text


def test_oauth_sends_people_back_to_where_the_proxy_got_them(known):
    _, url, _ = known
    headers = {"X-Forwarded-Proto": "https", "Host": "lab.example.org"}
    for asked_for, next_url in [("login", "/lab/"), ("login?next=/lab/compare", "/lab/compare")]:
        with httpx.Client(headers=headers) as client:
            asked = parse_qs(urlsplit(client.get(f"{url}{asked_for}").headers["location"]).query)
            assert asked["redirect_uri"] == ["https://lab.example.org/lab/login"]
            state = json.loads(base64.urlsafe_b64decode(asked["state"][0]))
            assert state["next_url"] == next_url


def test_oauth_refuses_a_state_that_is_not_the_browsers(known):
    _, url, _ = known
    with httpx.Client() as client:
        for state in ("", "forged"):
            assert client.get(f"{url}login", params={"code": "ada@example.org", "state": state}).status_code == 401
            assert come_back(client, url, "ada@example.org", state=state).status_code == 401
        assert client.get(f"{url}login", params={"code": "ada@example.org"}).status_code == 401
        assert client.get(f"{url}api/v1/jobs").status_code == 401


def test_oauth_says_what_went_wrong_and_lets_nobody_write_the_log(known):
    folder, url, identities = known
    with httpx.Client() as client:
        come_back(client, url, "ada@example.org")
        error = client.get(f"{url}login", params={"error": "x", "error_description": "<img src=x>"})
        assert error.status_code == 401
        assert "<img" not in error.text
        assert client.get(f"{url}login", params={"error": "ö<img src=x>"}).status_code in (400, 401)
        for name in ("error", "error_description", "code", "state", "next"):
            forged = client.get(f"{url}login", params={"code": "x", "state": "x", name: "x\r\n2026 forged"})
            assert forged.status_code == 400
        assert client.post(f"{url}login").status_code == 405
        assert client.get(f"{url}api/v1/jobs").status_code == 200  # a link logs nobody out
        client.cookies.clear()
        assert come_back(client, url, "broken").status_code == 502
        identities.shutdown()
        identities.server_close()
        assert "gives no answer that can be used" in come_back(client, url, "ada@example.org").text
    log = (folder / "server.log").read_text()
    assert "Traceback" not in log
    assert "\n2026 forged" not in log


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


@pytest.mark.slow
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
