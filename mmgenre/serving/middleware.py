"""Outermost ASGI middleware: bounds on request bodies as they arrive, response headers, cancellation, error log."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from mmgenre.serving.request_error import RequestError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
# Seconds allowed between two chunks of a body, and for a whole body.
_CHUNK_TIMEOUT_S, _BODY_TIMEOUT_S = 15.0, 120.0
# Bytes of all request bodies in memory together.
_MAX_TOTAL_BYTES = 256_000_000
_log = logging.getLogger(__name__)


class RequestGuard:
    """ASGI middleware.

    Args:
        app: the wrapped app.
        body_bytes: size limit of a request body.
    """

    def __init__(self, app: App, body_bytes: int):
        self._app, self._max_bytes = app, body_bytes
        self._total_bytes = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        body = _BoundedBody(self, scope, receive)
        try:
            await self._answer(scope, body, send_with_headers)
        except ClientDisconnect:
            return
        except Exception:
            # FastAPI has already sent the 500.
            _log.exception("%s %s", scope["method"], scope["path"])
        finally:
            self._total_bytes -= body.num_bytes

    async def _answer(self, scope: MutableMapping[str, Any], body: "_BoundedBody", send: Send) -> None:
        """Answer, but cancel the work if the client disconnects.

        Raises:
            ClientDisconnect: it did.
        """
        answer = asyncio.ensure_future(self._app(scope, body.receive, send))
        disconnect = asyncio.ensure_future(body.wait_for_disconnect())
        try:
            await asyncio.wait((answer, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            answer.result()
        finally:
            answer.cancel()
            disconnect.cancel()

    def check_content_length(self, length: bytes | None) -> None:
        """Raise RequestError if a Content-Length header is over the limit."""
        if length is not None and length.isdigit() and int(length[:20]) > self._max_bytes:
            raise self._too_large(f"{int(length[:20]):,}")

    def count(self, num_bytes: int, body_bytes: int) -> None:
        """Count a chunk; raise RequestError if its body, of body_bytes so far, or all bodies together are too large."""
        self._total_bytes += num_bytes
        if body_bytes > self._max_bytes:
            raise self._too_large(f"more than {self._max_bytes:,}")
        if self._total_bytes > _MAX_TOTAL_BYTES:
            raise RequestError(503, "busy: too many large requests at once; try again in a second")

    def _too_large(self, size: str) -> RequestError:
        return RequestError(413, f"body: {size} bytes; expected at most {self._max_bytes:,}: send less")


class _BoundedBody:
    """Passes a request body on while it stays within its bounds of size and time."""

    def __init__(self, guard: RequestGuard, scope: MutableMapping[str, Any], receive: Receive):
        self._guard, self._receive = guard, receive
        self._content_length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        self._is_complete = asyncio.Event()
        self._deadline = 0.0
        self.num_bytes = 0

    async def receive(self) -> Message:
        """The next ASGI message.

        Raises:
            RequestError: the body is too large or too slow.
        """
        if self._is_complete.is_set():
            return await self._receive()
        now = asyncio.get_running_loop().time()
        if not self._deadline:
            self._guard.check_content_length(self._content_length)
            self._deadline = now + _BODY_TIMEOUT_S
        try:
            async with asyncio.timeout_at(min(self._deadline, now + _CHUNK_TIMEOUT_S)):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(408, "body: arrives too slowly; send it again, or send less") from None
        size = len(message.get("body", b""))
        self.num_bytes += size
        self._guard.count(size, self.num_bytes)
        if not message.get("more_body", False):
            self._is_complete.set()
        return message

    async def wait_for_disconnect(self) -> None:
        """Return when the client disconnects after it has sent the whole body."""
        await self._is_complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
