"""The server: pages and the interface for scripts on one port, behind one login."""

import asyncio
import json
import logging
import secrets
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

import httpx
import panel as pn
from bokeh.core.validation import silence
from bokeh.core.validation.warnings import FIXED_SIZING_MODE
from bokeh.server.util import check_allowlist
from bokeh.server.views.auth_request_handler import AuthRequestHandler
from panel.io.resources import COMPONENT_PATH
from panel.io.server import ComponentResourceHandler
from tornado.ioloop import PeriodicCallback
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RedirectHandler
from tornado.websocket import WebSocketClosedError

from heimdall_lab.app.pages.frame import PAGES, page
from heimdall_lab.app.service import jobs
from heimdall_lab.app.service.free_memory import give_back_free_memory
from heimdall_lab.app.service.headers import harden
from heimdall_lab.app.service.login import cookies_of_logins, provider_for
from heimdall_lab.app.service.origins import is_foreign
from heimdall_lab.app.service.rest import API, api
from heimdall_lab.core.files import data_folder
from heimdall_lab.core.text import quoted

_QUEUE_PERIOD_MS = 1000
_MAX_BODY_BYTES = 10_000_000  # of a request; uploads come through the page's own channel
_MAX_MESSAGE_BYTES = 50_000_000  # on that channel; uploads come in pieces
_JSON = "application/json"
_UNUSED_PAGE_MS = 60_000  # that a page waits for its browser, which may be busy; else it is made again
_CLOSED_PAGE_MS = 10_000  # that it waits for a browser whose connection was closed or lost
_CHECK_PAGES_MS = 2_000
_FREE_MEMORY_MS = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """Who may use the server; by default whoever reaches it.

    ``basic_auth`` is a password, or the path of a JSON file of names and passwords; ``oauth`` has options of Panel's
    server: ``oauth_provider``, ``oauth_key``, ``oauth_secret``, ``oauth_redirect_uri``, …, and ``users`` whom of those
    that the provider knows are let in, all where none is named. ``cookie_secret`` signs the cookies of those who are
    logged in; without it every start makes a new one, which ends all logins.
    """

    basic_auth: str = ""
    oauth: dict[str, Any] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    cookie_secret: str = ""


def make_server(
    root: str | Path | None = None,
    *,
    port: int = 5006,
    address: str = "127.0.0.1",
    prefix: str = "",
    origins: tuple[str, ...] = (),
    access: Access | None = None,
) -> Any:
    """Make the Bokeh server; ``start()`` and ``io_loop.start()`` run it.

    ``root`` is the data folder, by default as `data_folder` finds it; it is made if it is missing. The server listens
    for this machine alone by default. ``prefix`` is the path before all others, as a reverse proxy passes it on;
    ``origins`` are hosts, with port unless it is the scheme's, by which browsers reach the server beside its own
    address. OSError if the port cannot be listened at, ConfigError if passwords cannot be read.
    """
    root = data_folder(root)
    root.mkdir(parents=True, exist_ok=True)
    prefix = f"/{prefix.strip('/')}" if prefix.strip("/") else ""
    pn.extension("tabulator", notifications=False)
    silence(FIXED_SIZING_MODE)  # pictures have the size of their frames, which Bokeh takes for none
    allowed = [f"{name}:{port}" for name in (address, "localhost", "127.0.0.1")] + list(origins)
    logins = _login_options(access or Access(), allowed, root)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(api(root, prefix)), base_url="http://api")
    server = pn.io.server.get_server(
        {name: page(name, root, has_logout=bool(logins)) for name in PAGES},
        title={name: f"heimdall_lab: {name}" for name in PAGES},
        port=port,
        address=address,
        prefix=prefix,
        websocket_origin=allowed,
        extra_patterns=[
            (r"/?", RedirectHandler, {"url": f"{prefix}/{next(iter(PAGES))}", "permanent": False}),
            (rf"{API}/.*", _ApiHandler, {"client": client, "allowed": allowed}),
            (rf"/{COMPONENT_PATH}(.*)", _ComponentHandler),
        ],
        websocket_max_message_size=_MAX_MESSAGE_BYTES,
        unused_session_lifetime_milliseconds=_UNUSED_PAGE_MS,
        check_unused_sessions_milliseconds=_CHECK_PAGES_MS,
        http_server_kwargs={"max_body_size": _MAX_BODY_BYTES, "xheaders": bool(prefix or origins)},
        root_path=f"{prefix}/",  # where a login leads to if nothing is said
        exclude_cookies=cookies_of_logins(prefix),  # of the pages' text, where scripts could read them
        exclude_headers=["Cookie"],
        **logins,
    )
    named = [f"{prefix}/{name}{end}" for name in PAGES for end in ("", "/")]
    harden(server._tornado, pages=[*named, f"{prefix}{API}/docs"])
    server.io_loop.asyncio_loop.set_exception_handler(_report_fault)  # type: ignore[attr-defined]
    PeriodicCallback(_queue_step(root), _QUEUE_PERIOD_MS).start()
    PeriodicCallback(_page_step(server), _CHECK_PAGES_MS).start()
    PeriodicCallback(give_back_free_memory, _FREE_MEMORY_MS).start()
    return server


def _report_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody handled, unless it is that a tab was closed while something was sent to it."""
    if not isinstance(context.get("exception"), WebSocketClosedError | StreamClosedError):
        loop.default_exception_handler(context)


def _login_options(access: Access, allowed: list[str], root: Path) -> dict[str, Any]:
    """Options of the server; none where nobody is asked who they are."""
    kept = root if access.cookie_secret else None
    provider = provider_for(access.basic_auth, access.oauth, access.users, allowed, kept)
    if provider is None:
        return {}
    of_panel = {name: value for name, value in access.oauth.items() if name != "oauth_provider"}
    return {**of_panel, "auth_provider": provider, "cookie_secret": access.cookie_secret or secrets.token_hex(32)}


def _queue_step(root: Path) -> Callable[[], Awaitable[None]]:
    async def start_next() -> None:
        try:
            await asyncio.to_thread(jobs.start_next, root)
        except (ValueError, OSError) as error:  # on a full disk the server goes on, and tries again
            _log.warning("jobs: cannot be started (%s)", error)

    return start_next


def _page_step(server: Any) -> Callable[[], None]:
    """Return a function that has pages dropped which browsers had opened and closed."""
    opened: weakref.WeakSet[Any] = weakref.WeakSet()

    def drop_closed() -> None:
        for session in server.get_sessions():
            if session.connection_count:
                opened.add(session)
            elif session in opened and session.milliseconds_since_last_unsubscribe > _CLOSED_PAGE_MS:
                session.request_expiration()

    return drop_closed


class _ComponentHandler(ComponentResourceHandler):
    """Serves files of Panel's components; Panel's own handler imports whatever module anybody names."""

    def parse_url_path(self, url_path: str) -> str:
        if url_path.split("/")[0].split(".")[0] not in ("panel", "panel_material_ui"):
            raise HTTPError(404)
        return super().parse_url_path(url_path)


class _ApiHandler(AuthRequestHandler):
    """Forwards requests to the application for scripts if the user is logged in and the host's name is allowed."""

    def initialize(self, client: httpx.AsyncClient, allowed: list[str]) -> None:
        self._client, self._allowed = client, allowed

    async def prepare(self) -> None:
        await super().prepare()
        if not check_allowlist(self.request.host, self._allowed):
            self._refuse(
                403, f"host: {quoted(self.request.host)} is unknown; start the server with --allow-origin for it"
            )
        elif self.current_user is None:
            self._refuse(401, "user: nobody is logged in; log in and send the cookie of that along")
        elif self.request.method not in ("GET", "HEAD", "OPTIONS"):
            self._check_sender()

    def _check_sender(self) -> None:
        """Refuse what another site's page could have a browser send: forms, plain text, and cookies that it keeps."""
        message = Message()
        message["content-type"] = self.request.headers.get("Content-Type", "")
        is_json = message.get_content_type() == _JSON
        is_empty = not self.request.body and "Content-Type" not in self.request.headers
        if not is_json and not is_empty:
            kind = self.request.headers.get("Content-Type", "")
            self._refuse(422, f"content-type: {quoted(kind)} is refused; send {_JSON}")
        elif is_foreign(self.request, self._allowed) and (is_empty or self.request.cookies):
            origin = self.request.headers["Origin"]
            self._refuse(403, f"origin: {quoted(origin)} is another site; start the server with --allow-origin for it")

    async def _forward(self) -> None:
        headers = {name: value for name, value in self.request.headers.items() if name in ("Content-Type", "Accept")}
        request = self.request
        answer = await self._client.request(
            request.method or "", request.uri or "", content=request.body, headers=headers
        )
        self.set_status(answer.status_code)
        for name in ("content-type", "allow"):
            if name in answer.headers:
                self.set_header(name, answer.headers[name])
        self.finish(answer.content)

    def _refuse(self, status: int, detail: str) -> None:
        self.set_status(status)
        self.set_header("content-type", _JSON)
        self.finish(json.dumps({"detail": detail}))

    get = post = put = patch = delete = head = options = _forward
