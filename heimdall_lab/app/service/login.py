"""Logging in and out, by passwords or by OAuth, on top of Panel's handlers.

Panel's take any text for a password, let everybody try without end, leave cookies valid after a logout, and send them
to other sites.
"""

import hashlib
import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import panel as pn
from panel.auth import (
    BasicAuthProvider,
    BasicLoginHandler,
    LogoutHandler,
    OAuthLoginHandler,
    OAuthProvider,
    _validate_next_url,
)
from tornado.web import HTTPError, RequestHandler

from heimdall_lab.app.service.origins import is_foreign
from heimdall_lab.app.service.passwords import Brake, is_right, read_passwords
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.files import write_text

COOKIES = ("login", "user", "id_token", "access_token", "refresh_token", "oauth_expiry")  # that say who somebody is
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
        known = super().get_user
        return lambda handler: known(handler) if _is_valid(handler, self.ended) else None

    @property
    def login_handler(self) -> type[RequestHandler]:
        """Handler of the page that asks."""
        _ = super().login_handler  # sets the template
        return _PasswordLogin

    @property
    def logout_handler(self) -> type[RequestHandler]:
        """Handler of the page that ends logins."""
        _ = super().logout_handler
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
    def get_user_async(self) -> Any:
        """Function that says who sent a request; None for nobody."""
        known = super().get_user_async

        async def user_of(handler: RequestHandler) -> str | None:
            user = await known(handler) if _is_valid(handler, self.ended) else None
            return user if user is not None and self.admits(user) else None

        return user_of

    @property
    def login_handler(self) -> type[RequestHandler]:
        """Handler of the address to which the provider sends people back."""
        return type("_OAuthLogin", (_OAuthChecks, super().login_handler), {})

    @property
    def logout_handler(self) -> type[RequestHandler]:
        """Handler of the page that ends logins."""
        _ = super().logout_handler
        return _Logout


class _Cookies(RequestHandler):
    """Keeps cookies from scripts, from other sites' forms and, where pages come encrypted, from what is not."""

    def set_cookie(self, name: str, value: str | bytes, *arguments: Any, **options: Any) -> None:
        options |= {"httponly": True, "samesite": "Lax", "secure": self.request.protocol == "https"}
        super().set_cookie(name, value, *arguments, **options)


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
            self.set_current_user(name)
            _begin(self, name)
            self.redirect(_validate_next_url(self.get_cookie("next_url", pn.state.base_url)))
        else:
            count = provider.brake.record_wrong(address)
            _log.warning("login: wrong password for %.80r from %s, the %d. in a row", name, address, count)
            self.redirect(f"{self.request.path}?error=1")

    def _show(self, error: str) -> None:
        self.write(self._login_template.render(login_endpoint=self._login_endpoint, errormessage=error))


class _OAuthChecks(_Cookies, OAuthLoginHandler):
    """Refuses whom the provider knows but nobody named."""

    async def _fetch_access_token(self, *arguments: Any, **options: Any) -> Any:
        result = await super()._fetch_access_token(*arguments, **options)
        provider: ProviderOfOAuth = self.application.auth_provider  # type: ignore[attr-defined]
        user = result[0]
        if user is not None and not provider.admits(user):
            _log.warning("login: %.80r of the provider is refused, from %s", user, self.request.remote_ip)
            raise HTTPError(403, f"{user} may not log in; --allow-user names who may", reason="Forbidden")
        if user is not None:
            _begin(self, user)
        return result


class _Logout(_Cookies, LogoutHandler):
    """The page that ends a login."""

    def get(self) -> None:
        """End the login for whoever has its cookies."""
        if login := _login_of(self):
            self.application.auth_provider.ended.end(login)  # type: ignore[attr-defined]
        self.clear_cookie("login", path=pn.config.cookie_path)
        self.set_header("Cache-Control", "no-store")
        super().get()


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


def _begin(handler: RequestHandler, user: str) -> None:
    """Name a login: the cookie ``user`` is the same for all logins of somebody in one second."""
    login, days = f"{secrets.token_hex(16)}.{user}", pn.config.oauth_expiry
    handler.set_secure_cookie("login", login, expires_days=days, path=pn.config.cookie_path)


def _login_of(handler: RequestHandler) -> str:
    """Name of the login by whose cookies a request came; empty if there is none."""
    return (handler.get_secure_cookie("login", max_age_days=pn.config.oauth_expiry) or b"").decode()


def _is_valid(handler: RequestHandler, ended: EndedLogins) -> bool:
    """Whether a request has the cookies of one login, and nobody ended that."""
    login, user = _login_of(handler), handler.get_secure_cookie("user", max_age_days=pn.config.oauth_expiry)
    return bool(login) and (user or b"").decode() == login.partition(".")[2] and not ended.has_ended(login)


def _checksum(login: str) -> str:
    return hashlib.sha256(login.encode()).hexdigest()
