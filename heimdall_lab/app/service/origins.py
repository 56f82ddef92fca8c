"""Where requests come from: a page of this server, another site's page, or no page at all."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from bokeh.server.util import check_allowlist
from tornado.httputil import HTTPServerRequest


def is_foreign(request: HTTPServerRequest, allowed: Sequence[str]) -> bool:
    """Whether another site's page sent a request that changes something: browsers name the page's origin.

    ``allowed`` are hosts by which browsers reach this server.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    host = urlsplit(origin).netloc.lower()
    return not host or (host != request.host.lower() and not check_allowlist(host, allowed))
