"""ASGI middleware that answers only requests meant for this service.

Without it, a page of another site could use a visitor's browser to reach a service in the visitor's network: by a name
that the site lets point to the service (DNS rebinding), or by a form that it posts there.
"""

import ipaddress
import socket
from collections.abc import Iterable, MutableMapping
from typing import Any

from mmgenre.serving.middleware import App, Receive, Send
from mmgenre.serving.request_error import RequestError, error_body, quoted

_ANY = "*"


class OriginGuard:
    """ASGI middleware.

    Args:
        app: the wrapped app.
        names: host names by which clients may call the service, or "*" for any. IP addresses, localhost and the names
            of this machine always work: none of them can belong to another site.
    """

    def __init__(self, app: App, names: Iterable[str]):
        self._app = app
        own = ("localhost", socket.gethostname(), socket.getfqdn())
        self._names = {name.lower().rstrip(".") for name in (*own, *names)}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        error = self._error(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        body = error_body(error.message)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _error(self, scope: MutableMapping[str, Any]) -> RequestError | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_own(_without_port(host)):
            return RequestError(
                421, f"Host: {quoted(host)}; expected an IP address, localhost or one of the service's allowed_hosts"
            )
        # A link from another site to the page is a navigation, and harmless.
        is_link = scope["method"] == "GET" and headers.get(b"sec-fetch-mode") == "navigate"
        if headers.get(b"sec-fetch-site") == "cross-site" and not is_link:
            return RequestError(403, "Sec-Fetch-Site: cross-site; call the service from its own page or from a program")
        return None

    def _is_own(self, name: str) -> bool:
        if not name or _ANY in self._names or name.lower().rstrip(".") in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
