"""Logging in and out, by passwords or by OAuth, on top of Panel's handlers.

Panel's take any text for a password, let everybody try without end, leave cookies valid after a logout, send them to
other sites, and keep in them what an OAuth provider says, which is more than a reverse proxy or a browser takes.
"""

import hashlib
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import panel as pn
from panel.auth import (
    BasicAuthProvider,
    BasicLoginHandler,
    OAuthLoginHandler,
    OAuthProvider,
    _validate_next_url,
)
from tornado.httpclient import HTTPResponse
from tornado.web import HTTPError, RequestHandler

from heimdall_lab.app.service.origins import is_foreign
from heimdall_lab.app.service.passwords import Brake, is_right, read_passwords
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.files import write_text

_COOKIES = ("login", "next_url", "panel-oauth-state", "panel-oauth-code")
_PAGES = {
    name: str(Path(__file__).with_name(f"{page}.html"))
    for name, page in {"login_template": "login", "logout_template": "notice", "error_template": "notice"}.items()
}
_ENDED = ".ended-logins.json"  # below the data folder
_DAY_S = 86_400
_log = logging.getLogger(__name__)


class EndedLogins:
    """Logins that were ended before they expire, by checksums of what names them; kept in a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._until_s: dict[str, float] = {}
        if file is not None and file.exists():
            self._until_s = dict(json.loads(file.read_text(encoding="utf-8")))

    def end(self, login: str) -> None:
        """End a login."""
        now_s = time.time()
        self._until_s = {key: until_s for key, until_s in self._until_s.items() if until_s > now_s}
        self._until_s[_checksum(login)] = now_s + pn.config.oauth_expiry * _DAY_S
        if self._file is not None:
            write_text(self._file, json.dumps(self._until_s))

    def has_ended(self, login: str) -> bool:
        """Whether a login was ended."""
        return _checksum(login) in self._until_s


class PasswordProvider(BasicAuthProvider):
    """Asks for a password; ``passwords`` is one, or the path of a file, which is read again at each login."""

    def __init__(self, passwords: str, ended: EndedLogins, allowed: Sequence[str]) -> None:
        read_passwords(passwords)
        self.allowed, self.brake, self.ended = allowed, Brake(), ended
        self._passwords = passwords
        super().__init__(**_PAGES)

    def accepts(self, name: str, password: str) -> bool:
        """Whether a name has this password now."""
        try:
            return is_right(read_passwords(self._passwords), name, password)
        except ConfigError as error:
            _log.error("login: nobody can log in: %s", error)
            return False

    @property
    def get_user(self) -> Callable[[Any], Any]:
        """Function that says who sent a request; None for nobody."""
        return lambda handler: _user_of(handler, self.ended)

    @property
    def login_handler(self) -> type[RequestHandler]:
        """Handler of the page that asks."""
        _ = super().login_handler  # sets the template
        return _PasswordLogin

    @property
    def logout_handler(self) -> type[RequestHandler]:
        """Handler of the page that ends logins."""
        return _Logout


class ProviderOfOAuth(OAuthProvider):
    """Asks an OAuth provider who somebody is; lets in the ``users`` that are named, or all where none is."""

    def __init__(self, users: Sequence[str], ended: EndedLogins) -> None:
        self.users, self.ended = frozenset(users), ended
        super().__init__(**_PAGES)

    def admits(self, user: str) -> bool:
        """Whether a user of the provider may do anything here."""
        return not self.users or user in self.users

    @property
    def get_user(self) -> Callable[[Any], Any]:
        """Function that says who sent a request; None for nobody."""

        def admitted(handler: RequestHandler) -> str | None:
            user = _user_of(handler, self.ended)
            return user if user is not None and self.admits(user) else None

        return admitted

    @property
    def get_user_async(self) -> None:
        """There is none beside `get_user`."""
        return

    @property
    def login_handler(self) -> type[RequestHandler]:
        """Handler of the address to which the provider sends people back."""
        return type("_OAuthLogin", (_OAuthChecks, super().login_handler), {})

    @property
    def logout_handler(self) -> type[RequestHandler]:
        """Handler of the page that ends logins."""
        return _Logout


class _Cookies(RequestHandler):
    """Keeps cookies from scripts, from other sites' forms and, where pages come encrypted, from what is not.

    They have the path and the name of this dashboard, as others may be reached by the same host. Panel sets some more,
    of tokens, which nobody reads: they would be larger than a reverse proxy or a browser takes.
    """

    def get_cookie(self, name: str, default: Any = None) -> Any:
        return super().get_cookie(_own_name(_prefix(self), name), default)

    def set_cookie(self, name: str, value: str | bytes, *arguments: Any, **options: Any) -> None:
        if name not in _COOKIES:
            return
        options |= {"httponly": True, "samesite": "Lax", "secure": self.request.protocol == "https"}
        options["path"] = _prefix(self) or "/"
        super().set_cookie(_own_name(_prefix(self), name), value, *arguments, **options)


class _PasswordLogin(_Cookies, BasicLoginHandler):
    """The page that asks for a name and a password."""

    def get(self) -> None:
        """Show the page; an error is always the same, as a link could hold any."""
        if next_url := _validate_next_url(self.get_argument("next", pn.state.base_url)):
            self.set_cookie("next_url", next_url)
        self._show("Invalid username or password!" if self.get_argument("error", "") else "")

    def post(self) -> None:
        """Log somebody in, or say why not."""
        provider: PasswordProvider = self.application.auth_provider  # type: ignore[attr-defined]
        address, name = self.request.remote_ip or "", self.get_body_argument("username", "")
        if is_foreign(self.request, provider.allowed):
            raise HTTPError(403, "login: sent by a page of another site")
        if wait_s := math.ceil(provider.brake.wait_s(address)):
            self.set_status(429)
            self.set_header("Retry-After", str(wait_s))
            self._show(f"Too many wrong passwords: wait {wait_s} s before the next.")
        elif provider.accepts(name, self.get_body_argument("password", "", strip=False)):
            provider.brake.record_right(address)
            _begin(self, name)
            self.redirect(_validate_next_url(self.get_cookie("next_url", pn.state.base_url)))
        else:
            count = provider.brake.record_wrong(address)
            _log.warning("login: wrong password for %.80r from %s, the %d. in a row", name, address, count)
            self.redirect(f"{self.request.path}?error=1")

    def _show(self, error: str) -> None:
        self.write(self._login_template.render(login_endpoint=self._login_endpoint, errormessage=error))


class _OAuthChecks(_Cookies, OAuthLoginHandler):
    """Refuses whom the provider knows but nobody named, and what no provider sends."""

    @property
    def _redirect_uri(self) -> str:
        return _redirect_uri(self)

    def prepare(self) -> None:
        """Refuse what would end up in lines of the log or in headers."""
        for name in self.request.query_arguments:
            if not self.get_query_argument(name).isprintable():
                raise HTTPError(400, "A parameter holds what cannot be printed.")

    def get_state_cookie(self) -> str:
        """Number that must come back; one that cannot if there is none, as an empty one is sent easily."""
        return super().get_state_cookie() or secrets.token_hex()

    async def _fetch_access_token(self, *arguments: Any, **options: Any) -> Any:
        try:
            result = await super()._fetch_access_token(*arguments, **options)
        except (OSError, ValueError) as error:
            _log.error("login: the OAuth provider gives no answer that can be used: %s", error)
            raise HTTPError(502, "The provider of logins gives no answer that can be used.") from error
        provider: ProviderOfOAuth = self.application.auth_provider  # type: ignore[attr-defined]
        user = result[0]
        if user is not None and not provider.admits(user):
            _log.warning("login: %.80r of the provider is refused, from %s", user, self.request.remote_ip)
            raise HTTPError(403, f"{user} may not log in; --allow-user names who may")
        if user is not None:
            _begin(self, user)
        return result

    def _raise_error(self, response: HTTPResponse | None, body: Any = None, status: int = 400) -> None:
        if response is None:
            raise OSError("no answer in time")
        super()._raise_error(response, body, status)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Show what went wrong, and a way to log in as somebody else."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        message = error.log_message if isinstance(error, HTTPError) else None
        page = {"error_type": status_code, "error": self._reason, "error_msg": message or ""}
        self.write(self._error_template.render(**page, provider_logout=_logout_at_provider(self)))


class _Logout(_Cookies):
    """The page that ends a login."""

    def get(self) -> None:
        """End the login for whoever has its cookie."""
        provider = self.application.auth_provider  # type: ignore[attr-defined]
        if login := _login_of(self):
            provider.ended.end(login)
        for name in _COOKIES:
            self.clear_cookie(name)
        self.set_header("Cache-Control", "no-store")
        self.write(provider._logout_template.render(provider_logout=_logout_at_provider(self)))


def provider_for(
    passwords: str, oauth: dict[str, Any], users: Sequence[str], allowed: Sequence[str], kept: Path | None
) -> PasswordProvider | ProviderOfOAuth | None:
    """Provider of logins; None where nobody is asked. ``kept`` is the data folder if logins outlive a restart."""
    if not passwords and not oauth:
        return None
    ended = EndedLogins(None if kept is None else kept / _ENDED)
    if passwords:
        return PasswordProvider(passwords, ended, allowed)
    pn.config.oauth_provider = oauth["oauth_provider"]  # type: ignore[misc]  # as Panel itself does
    return ProviderOfOAuth(users, ended)


def cookies_of_logins(prefix: str) -> list[str]:
    """Names of the cookies that say who somebody is, of a server below a path."""
    return [_own_name(prefix, "login")]


def _begin(handler: RequestHandler, user: str) -> None:
    """Give a login a number beside its name, so that it can be ended by itself."""
    handler.set_secure_cookie("login", f"{secrets.token_hex(16)}.{user}", expires_days=pn.config.oauth_expiry)


def _login_of(handler: RequestHandler) -> str:
    """Number and name of the login by whose cookie a request came; empty if there is none."""
    cookie = handler.request.cookies.get(_own_name(_prefix(handler), "login"))
    kept = handler.get_secure_cookie("login", cookie.value if cookie else "", max_age_days=pn.config.oauth_expiry)
    return (kept or b"").decode()


def _user_of(handler: RequestHandler, ended: EndedLogins) -> str | None:
    """Name of whom a request came from; None if nobody is logged in."""
    login = _login_of(handler)
    return None if ended.has_ended(login) else login.partition(".")[2] or None


def _redirect_uri(handler: RequestHandler) -> str:
    """Where the OAuth provider sends people back to."""
    request = handler.request
    return pn.config.oauth_redirect_uri or f"{request.protocol}://{request.host}{_prefix(handler)}/login"


def _logout_at_provider(handler: RequestHandler) -> str:
    """Where the OAuth provider ends its own login and sends people back; empty where nobody says.

    Source: OpenID Connect RP-Initiated Logout 1.0, section 2.
    """
    address = os.environ.get("PANEL_OAUTH_LOGOUT_URL", "")
    query = {"client_id": pn.config.oauth_key, "post_logout_redirect_uri": _redirect_uri(handler)}
    return f"{address}?{urlencode(query)}" if address else ""


def _prefix(handler: RequestHandler) -> str:
    return handler.application.prefix  # type: ignore[attr-defined]


def _own_name(prefix: str, name: str) -> str:
    """Name of a cookie that no other server has that browsers reach by the same host."""
    return "_".join(["heimdall_lab", *prefix.split("/")[1:], name])


def _checksum(login: str) -> str:
    return hashlib.sha256(login.encode()).hexdigest()
