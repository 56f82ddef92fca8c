"""The dashboard as others reach it: behind nginx, below a prefix, by https, with passwords or an OpenID provider.

nginx has the configuration of ``docs/dashboard.md``. The provider, which is of another site, is certified by the OpenID
Foundation, and has the paths and tokens of a realm of Keycloak.
"""

import os
import re
import shutil
import ssl
import subprocess
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from dashboards import dashboard, free_port, skip_for_want_of, wait_for
from playwright.sync_api import expect

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
OIDC = Path(__file__).with_name("oidc")
# Of the test's own, so that the machine's nginx and its folders are left alone.
SURROUNDINGS = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    server {{
        listen 127.0.0.1:{lab} ssl http2;
        {locations}
    }}
    server {{
        listen 127.0.0.1:{keycloak} ssl http2;
        location /realms/ {{
            proxy_pass http://127.0.0.1:{provider};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""


def program(name, remedy):
    """Path of a program without which these tests are skipped."""
    if path := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin"):
        return path
    return skip_for_want_of(f"no {name} is installed; install it, as by '{remedy}'")


@contextmanager
def running(command, folder, **environment):
    """A program that runs beside the test, whose output is kept."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def documented_location(prefix, port):
    """What the docs tell nginx of one dashboard, which are of ``/radio/`` at port 5006."""
    location = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "dashboard.md").read_text(), flags=re.DOTALL)[1]
    assert location.count("/radio/") == location.count(":5006") == 1
    return location.replace("/radio/", f"/{prefix}/").replace(":5006", f":{port}")


@pytest.fixture(scope="module")
def ports():
    """A port for each server."""
    return {name: free_port() for name in ("lab", "keycloak", "provider", "radio", "club")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all of them run, with a certificate for both names of this machine."""
    folder = tmp_path_factory.mktemp("proxied")
    openssl = program("openssl", "apt-get install openssl")
    options = "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"
    names = "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"
    files = "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"
    subprocess.run([openssl, *options, *names, *files], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def proxy(folder, ports):
    """Nginx, as documented, before two dashboards and the provider; returns its address and that of the provider."""
    nginx = program("nginx", "apt-get install nginx-light")
    locations = "\n".join(documented_location(prefix, ports[prefix]) for prefix in ("radio", "club"))
    (folder / "nginx.conf").write_text(SURROUNDINGS.format(folder=folder, locations=locations, **ports))
    with running([nginx, "-c", folder / "nginx.conf", "-e", "stderr"], folder):
        yield f"https://localhost:{ports['lab']}", f"https://127.0.0.1:{ports['keycloak']}/realms/radio"


@pytest.fixture(scope="module")
def radio(folder, ports, proxy):
    """Address of a dashboard that asks the provider who somebody is, and lets in Ada."""
    site, realm = proxy
    node = program("node", "apt-get install nodejs")
    if not (OIDC / "node_modules" / "oidc-provider").is_dir():
        install = f"npm ci --ignore-scripts --prefix {OIDC.relative_to(ROOT)}"
        skip_for_want_of(f"no OpenID provider is installed; install it, as by '{install}'")
    redirect_uri, oidc = f"{site}/radio/login", f"{realm}/protocol/openid-connect"
    provider = [node, OIDC / "provider.mjs", str(ports["provider"]), realm, "heimdall", "secret", redirect_uri]
    settings = {
        "PANEL_OAUTH_PROVIDER": "generic",
        "PANEL_OAUTH_KEY": "heimdall",
        "PANEL_OAUTH_SECRET": "secret",
        "PANEL_OAUTH_SCOPE": "openid,email",
        "PANEL_OAUTH_AUTHORIZE_URL": f"{oidc}/auth",
        "PANEL_OAUTH_TOKEN_URL": f"{oidc}/token",
        "PANEL_OAUTH_USER_URL": f"{oidc}/userinfo",
        "PANEL_OAUTH_LOGOUT_URL": f"{oidc}/logout",
        "SSL_CERT_FILE": str(folder / "certificate.pem"),
    }
    (folder / "radio").mkdir()
    options = "--prefix", "radio", "--allow-origin", urlsplit(site).netloc, "--allow-user", "ada@example.org"
    with running(provider, folder), dashboard(folder / "radio", *options, port=ports["radio"], **settings):
        wait_for(ports["provider"])
        yield f"{site}/radio/"


@pytest.fixture(scope="module")
def club(folder, ports, proxy):
    """Address of a dashboard that asks for a password."""
    site, _ = proxy
    (folder / "club").mkdir()
    options = "--prefix", "club", "--allow-origin", urlsplit(site).netloc, "--basic-auth", "right"
    with dashboard(folder / "club", *options, port=ports["club"]):
        yield f"{site}/club/"


@pytest.fixture
def visitor(browser, proxy):
    """A browser of one person, for whom the certificate is good; fonts and icons of the provider's pages are empty."""
    _, realm = proxy
    with browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 800}) as context:
        context.route(f"{realm.partition('/realms')[0]}/favicon.ico", lambda route: route.fulfill())
        context.route("https://fonts.googleapis.com/**", lambda route: route.fulfill())
        yield context


@pytest.fixture
def client(folder):
    """A client with cookies, for which the certificate is good."""
    with httpx.Client(verify=ssl.create_default_context(cafile=folder / "certificate.pem")) as opened:
        yield opened


def sign_in(page, name):
    """Tell the provider in its page who somebody is."""
    page.get_by_placeholder("Enter any login").fill(name)
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()


def sent_back(client, address, name):
    """The way from a dashboard to the provider and almost back, without a browser; returns where it leads to."""
    page = client.get(f"{address}login")
    while page.is_redirect:
        page = client.get(page.next_request.url)
    action = re.search('action="([^"]+)"', page.text)[1]
    page = client.post(action, data={"prompt": "login", "login": name, "password": "any"})
    while not str(page.next_request.url).startswith(address):
        page = client.get(page.next_request.url)
    return page.next_request.url


def status(client, address, **options):
    return client.get(f"{address}api/v1/jobs", **options).status_code


def test_an_account_of_the_provider_logs_in_and_out(page, visitor, client, radio):
    asked, channels = [], []
    page.on("request", lambda request: asked.append(parse_qs(urlsplit(request.url).query)))
    page.on("websocket", lambda socket: channels.append(socket.url))
    page.goto(f"{radio}compare")
    sign_in(page, "ada@example.org")
    expect(page).to_have_url(f"{radio}compare")
    assert [f"{radio}login"] in [query.get("redirect_uri") for query in asked]
    assert client.get(f"{radio}login").status_code == 302
    (cookie,) = visitor.cookies(radio)
    assert (cookie["name"], cookie["path"]) == ("heimdall_lab_radio_login", "/radio")
    assert cookie["secure"]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    kept = {"Cookie": f"{cookie['name']}={cookie['value']}"}
    assert status(client, radio, headers=kept) == 200
    page.get_by_text("Log out").click()  # which came through the page's channel
    assert channels == [f"{radio.replace('https', 'wss')}compare/ws"]
    expect(page.get_by_text("You are logged out.")).to_be_visible()
    assert visitor.cookies(radio) == []
    assert status(client, radio, headers=kept) == 401
    page.get_by_role("link", name="Log out of the provider too").click()
    page.get_by_role("button", name="Yes").click()
    expect(page.get_by_placeholder("Enter any login")).to_be_visible()


def test_an_account_that_nobody_named_is_refused_and_another_may_be_taken(visitor, radio):
    page = visitor.new_page()
    page.goto(f"{radio}login")
    sign_in(page, "eve@example.org")
    expect(page.get_by_text("eve@example.org may not log in")).to_be_visible()
    assert visitor.cookies(radio) == []
    page.get_by_role("link", name="Log out of the provider too").click()
    page.get_by_role("button", name="Yes").click()
    sign_in(page, "ada@example.org")
    expect(page).to_have_url(f"{radio}datasets")


def test_only_the_browser_that_was_sent_to_the_provider_comes_back(client, folder, radio):
    back = sent_back(client, radio, "ada@example.org")
    with httpx.Client(verify=ssl.create_default_context(cafile=folder / "certificate.pem")) as other:
        for state in ("", "forged", back.params["state"]):
            assert other.get(back.copy_set_param("state", state)).status_code == 401
        assert status(other, radio) == 401
    assert client.get(back).headers["location"] == "/radio/"
    assert status(client, radio) == 200
    assert client.get(back).status_code == 401  # once
    log = (folder / "radio" / "server.log").read_text()
    assert "Traceback" not in log


def test_passwords_and_two_dashboards_of_one_host(page, visitor, client, folder, radio, club):
    client.cookies.set("user", "of another program", domain="localhost.local", path="/")
    client.get(sent_back(client, radio, "ada@example.org"))
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Real-IP": "192.0.2.1", "X-Forwarded-Proto": "http"}
    client.post(f"{club}login", data={"username": "bob", "password": "wrong"}, headers=forged)
    assert "wrong password for 'bob' from 127.0.0.1" in (folder / "club" / "server.log").read_text()
    answer = client.post(f"{club}login", data={"username": "bob", "password": "right"}, headers=forged)
    (cookie,) = answer.headers.get_list("set-cookie")
    assert {"HttpOnly", "Path=/club", "SameSite=Lax", "Secure"} < set(cookie.split("; "))
    assert status(client, radio) == status(client, club) == 200
    for origin, expected in [(club.removesuffix("/club/"), 404), ("https://evil.example", 403)]:
        answer = client.post(f"{club}api/v1/jobs/nothing/cancel", json={}, headers={"Origin": origin})
        assert answer.status_code == expected
    page.goto(f"{club}login")
    page.get_by_label("Name").fill("bob")
    page.get_by_label("Password").fill("right")
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{club}datasets")
    assert all(cookie["secure"] and cookie["path"] == "/club" for cookie in visitor.cookies(club))


def test_files_and_requests_of_the_stated_sizes_pass(page, client, folder, club):
    client.post(f"{club}login", data={"username": "bob", "password": "right"})
    answer = client.post(f"{club}api/v1/datasets", json={"folder": "x" * 9_900_000, "preset": "los_sync"})
    assert answer.status_code in (400, 422)
    assert "folder" in str(answer.json()["detail"])
    assert client.post(f"{club}api/v1/datasets", content=b" " * 11_000_000).status_code == 413
    large = folder / "large.wav"
    with large.open("wb") as written:
        written.truncate(199_000_000)
    page.goto(f"{club}login?next=/club/locate")
    page.get_by_label("Name").fill("bob")
    page.get_by_label("Password").fill("right")
    page.get_by_role("button", name="Log in").click()
    page.locator("input[type=file]").first.set_input_files(large)
    expect(page.get_by_text("1 file, 199")).to_be_visible()


def test_the_proxy_leaves_the_headers_that_keep_scripts_out(client, ports, club):
    assert client.get(club.removesuffix("/")).headers["location"] == club

    def hardening(address, path):
        headers = client.get(f"{address}{path}").headers
        names = ("x-content-type-options", "x-frame-options", "referrer-policy", "cache-control")
        policy = re.sub("'nonce-[^']+'", "", headers["content-security-policy"])
        return policy, [headers.get(name) for name in names]

    direct = f"http://127.0.0.1:{ports['club']}/club/"
    for path in ("", "login", "logout", "datasets", "nothing", "api/v1/jobs", "static/js/bokeh.min.js"):
        assert hardening(club, path) == hardening(direct, path)
