"""Headers that every answer of the server has, so that browsers run only what is the server's own."""

import re
import secrets
from collections.abc import Collection

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import Application, OutputTransform

_SCRIPT = re.compile(rb"<script\b", re.IGNORECASE)
_HARDENING = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}
_DIRECTIVES = {
    "default-src": "'none'",
    "connect-src": "'self' blob:",
    "font-src": "'self' data:",
    "img-src": "'self' data: blob:",
    "style-src": "'self' 'unsafe-inline'",  # BokehJS and MUI write the styles of their elements
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
# Of pages with scripts. Panel's loader imports modules from blobs, and BokehJS compiles code that the server sends.
_SCRIPT_SOURCES = "'self' 'nonce-{nonce}' blob:"


def harden(application: Application, pages: Collection[str]) -> None:
    """Add the headers to every answer of an application.

    ``pages`` are the paths of those whose HTML has scripts. These hold nothing that came from outside: their scripts,
    and no others, get a number that is drawn for each answer (``nonce``), so that scripts in attributes and in elements
    that are added later do not run.
    """
    scripted = frozenset(pages)
    application.transforms.append(lambda request: _Headers(request, scripted))  # type: ignore[arg-type]


class _Headers(OutputTransform):
    """Adds the headers to one answer."""

    def __init__(self, request: HTTPServerRequest, pages: frozenset[str]) -> None:
        super().__init__(request)
        self._has_scripts = request.path in pages

    def transform_first_chunk(
        self,
        status_code: int,
        headers: HTTPHeaders,
        chunk: bytes,
        finishing: bool,  # noqa: ARG002
    ) -> tuple[int, HTTPHeaders, bytes]:
        directives = dict(_DIRECTIVES)
        if self._has_scripts and status_code == 200:
            nonce = secrets.token_urlsafe(16)
            directives["script-src"] = _SCRIPT_SOURCES.format(nonce=nonce)
            chunk = _SCRIPT.sub(b'<script nonce="%b"' % nonce.encode(), chunk)
            if "Content-Length" in headers:
                headers["Content-Length"] = str(len(chunk))
            headers["Cache-Control"] = "no-store"
            headers.pop("Etag", None)  # or a browser would keep a page, and its nonce, beside the headers of another
        headers["Content-Security-Policy"] = "; ".join(f"{name} {sources}" for name, sources in directives.items())
        for name, value in _HARDENING.items():
            headers[name] = value
        return status_code, headers, chunk
