"""The HTTP server: its socket, its patience with clients that are slow or send no HTTP, and its thread."""

import asyncio
import errno
import logging
import os
import socket
import sys
import threading
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mmgenre.errors import InputError
from mmgenre.serving.middleware import HEADERS, App
from mmgenre.serving.request_error import error_body

# Seconds and bytes for the first line and the headers of a request.
_HEAD_S, _HEAD_BYTES = 15.0, 64_000
# Bytes of a body that was refused, read away so that its client gets to read why.
_MOST_DRAINED = 200_000_000
# Seconds for the answers that are under way when the server is stopped, and that a connection may be idle.
_GRACE_S, _IDLE_S = 2, 30
_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, and to nothing else: the port is ours.

    Raises:
        InputError: the port is taken, may not be had, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"host={host}: {error.strerror}; expected an address of this machine") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        # Else another server could still bind the port until this one listens.
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port={port}: something listens at {host}:{port} already; give another port=") from None
        raise InputError(f"host={host} port={port}: {os.strerror(error.errno or 0)}; give others") from None
    return found


class HttpServer:
    """Serves an ASGI app in a thread of its own.

    Args:
        app: what answers.
        listening: its socket.
    """

    def __init__(self, app: App, listening: socket.socket):
        # It tells of every request that a stop breaks off; what fails is logged by the guard.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_GRACE_S,
            backlog=_BACKLOG,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Return when nothing is answered any more."""
        self._server.should_exit = True
        self._thread.join(_GRACE_S + 3)

    @property
    def num_answers(self) -> int:
        """So far."""
        return self._server.server_state.total_requests


class Connection(HttpToolsProtocol):
    """A client's connection: uvicorn itself waits for ever for the headers of a request, however long they are."""

    _head_bytes = _drained = 0
    _is_between = False
    _received = b""
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Expect a request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._stop_expecting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to no body."""
        self._received = data
        super().data_received(data)
        if self._patience is None and self._is_between and self.cycle.response_complete:
            # Blank lines behind an answer, which uvicorn takes for the beginning of a request.
            self._expect_head()
        if self._patience is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large", "headers: too many bytes; send fewer")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_between = False
        self._expect_head()

    def on_headers_complete(self) -> None:
        """A request's headers are there."""
        self._stop_expecting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Read what nobody wants any more, within reason."""
        if self.cycle.response_complete:
            self._drained += len(body)
            if self._drained > _MOST_DRAINED:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request is there."""
        super().on_message_complete()
        self._is_between = True

    def _should_upgrade(self) -> bool:
        """Read nothing with a parser that hands over to another protocol: it leaves bodies out."""
        return True

    def handle_websocket_upgrade(self) -> None:
        """Answer as if no other protocol had been asked for, which a server may; Java's clients ask by default."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(b"400 Bad Request", "CONNECT: this is no proxy; expected GET or POST")
            return
        lines = [method + b" " + self.url + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        error = sys.exception()
        behind = self._received[error.args[0] :] if error else b""
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", b""]) + behind)

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP."""
        self._refuse(b"400 Bad Request", "not HTTP/1.1; expected a request of an HTTP client")

    def _expect_head(self) -> None:
        self._stop_expecting()
        self._head_bytes = 0
        self._patience = self.loop.call_later(_HEAD_S, self._give_up)

    def _stop_expecting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        if self._head_bytes and not self.transport.is_closing():
            self._refuse(b"408 Request Timeout", "headers: come too slowly; send them again")
        # Browsers open connections that they may never need.
        self.transport.close()

    def _refuse(self, status: bytes, message: str) -> None:
        body = error_body(message)
        headers = [*HEADERS, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        lines = [b"HTTP/1.1 " + status, *(name + b": " + value for name, value in headers), b"connection: close"]
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.close()
