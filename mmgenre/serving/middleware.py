"""The outermost layer of the service: bounds on bodies as they come in, headers of every answer, a log of failures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from mmgenre.serving.request_error import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
# Seconds for the next bytes of a body, and for all of it.
_PAUSE_S, _WHOLE_S = 15.0, 120.0
# Of all bodies that are in memory at once.
_BYTES_AT_ONCE = 256_000_000
_log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        body_bytes: that a body may have.
    """

    def __init__(self, app: App, body_bytes: int):
        self._app, self._most = app, body_bytes
        self._held = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        body = _Body(self, scope, receive)
        try:
            await self._answer(scope, body, send_with_headers)
        except ClientDisconnect:
            # Nobody is there to be told anything.
            return
        except Exception:
            # The routes have answered, as far as that was still possible.
            _log.exception("%s %s", scope["method"], scope["path"])
        finally:
            self._held -= body.num_bytes

    async def _answer(self, scope: MutableMapping[str, Any], body: "_Body", send: Send) -> None:
        """Answer as long as the client is there: what nobody waits for is not computed.

        Raises:
            ClientDisconnect: it went away.
        """
        answering = asyncio.ensure_future(self._app(scope, body.receive, send))
        leaving = asyncio.ensure_future(body.left())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise ClientDisconnect
            answering.result()
        finally:
            answering.cancel()
            leaving.cancel()

    def announced(self, length: bytes | None) -> None:
        """Raise Refusal for a length in a header that is too large."""
        if length is not None and length.isdigit() and int(length[:20]) > self._most:
            self._refuse(f"{int(length[:20]):,}")

    def take(self, num_bytes: int, so_far: int) -> None:
        """Count bytes of a body that has had some before; raise Refusal where they are too many."""
        self._held += num_bytes
        if so_far + num_bytes > self._most:
            self._refuse(f"more than {self._most:,}")
        if self._held > _BYTES_AT_ONCE:
            raise Refusal(503, "busy: too many large requests at once; try again in a second")

    def _refuse(self, found: str) -> None:
        raise Refusal(413, f"body: {found} bytes; expected at most {self._most:,}: send less")


class _Body:
    """Hands a body through while it is within its bounds."""

    def __init__(self, guard: Guard, scope: MutableMapping[str, Any], receive: Receive):
        self._guard, self._receive = guard, receive
        self._length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        self._whole = asyncio.Event()
        self._deadline = 0.0
        self.num_bytes = 0

    async def receive(self) -> Message:
        """The next message.

        Raises:
            Refusal: the body is too large, or comes too slowly.
        """
        if self._whole.is_set():
            return await self._receive()
        now = asyncio.get_running_loop().time()
        if not self._deadline:
            self._guard.announced(self._length)
            self._deadline = now + _WHOLE_S
        try:
            async with asyncio.timeout_at(min(self._deadline, now + _PAUSE_S)):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(408, "body: comes too slowly; send it again, or less of it") from None
        size = len(message.get("body", b""))
        self.num_bytes += size
        self._guard.take(size, self.num_bytes - size)
        if not message.get("more_body", False):
            self._whole.set()
        return message

    async def left(self) -> None:
        """Return when the client, who has sent all of it, has gone away."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
