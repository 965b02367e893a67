"""The HTTP server: its socket, its thread, and timeouts for clients that are slow or do not speak HTTP."""

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

# Limits on the request line and headers of a request.
_HEAD_TIMEOUT_S, _MAX_HEAD_BYTES = 15.0, 64_000
# Bytes of a rejected body that are read and discarded, so that the client gets to read the response.
_MAX_DRAINED_BYTES = 200_000_000
# Seconds for responses in flight at shutdown, and for idle keep-alive connections.
_SHUTDOWN_S, _KEEP_ALIVE_S = 2, 30
_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        InputError: the port is in use or not permitted, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"host={host}: {error.strerror}; expected an address of this machine") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # With SO_REUSEADDR, another process can bind the port until this one listens.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port={port}: {host}:{port} is already in use; set another port=") from None
        raise InputError(f"host={host} port={port}: {os.strerror(error.errno or 0)}; set others") from None
    return listener


class HttpServer:
    """Serves an ASGI app in its own thread.

    Args:
        app: the ASGI app.
        listener: a listening socket.
    """

    def __init__(self, app: App, listener: socket.socket):
        # uvicorn logs every request that a shutdown interrupts; RequestGuard logs real failures.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_SHUTDOWN_S,
            backlog=_BACKLOG,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="http", daemon=True)

    def start(self) -> None:
        """Start answering requests."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the responses in flight and stop."""
        self._server.should_exit = True
        self._thread.join(_SHUTDOWN_S + 3)

    @property
    def num_requests(self) -> int:
        """Requests answered so far."""
        return self._server.server_state.total_requests


class Connection(HttpToolsProtocol):
    """A client connection. uvicorn itself puts no limit on the time and size of request headers."""

    _head_bytes = _drained_bytes = 0
    _is_between_requests = _has_body = False
    _received = b""
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the header timer."""
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the header timer."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count header bytes."""
        was_between_requests = self._is_between_requests
        self._received, self._has_body = data, False
        super().data_received(data)
        is_between_requests = was_between_requests and self._is_between_requests and self.cycle.response_complete
        if self._head_timer is None and is_between_requests:
            # Blank lines after a response, which uvicorn takes for the start of a request.
            self._start_head_timer()
        # The end of a body can arrive together with the next request, or after the response that rejected it.
        if self._head_timer is not None and not self._has_body and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._reject(b"431 Request Header Fields Too Large", "headers: too large; send fewer or shorter ones")

    def on_message_begin(self) -> None:
        """Restart the header timer for a new request."""
        super().on_message_begin()
        self._is_between_requests = False
        self._drained_bytes = 0
        self._start_head_timer()

    def on_headers_complete(self) -> None:
        """Stop the header timer."""
        self._stop_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Discard the rest of a rejected body, up to a limit."""
        self._has_body = True
        if self.cycle.response_complete:
            self._drained_bytes += len(body)
            if self._drained_bytes > _MAX_DRAINED_BYTES:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request has been received."""
        super().on_message_complete()
        self._is_between_requests = True

    def _should_upgrade(self) -> bool:
        """Handle every upgrade request here: uvicorn's parser skips the body of a request that asks for one."""
        return True

    def handle_websocket_upgrade(self) -> None:
        """Ignore the upgrade and answer in HTTP/1.1, which RFC 9110 permits; Java's HTTP client always asks for h2c."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._reject(b"400 Bad Request", "CONNECT: this is not a proxy; expected GET or POST")
            return
        lines = [method + b" " + self.url + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        # The parser's exception holds the offset at which it stopped.
        error = sys.exception()
        unparsed = self._received[error.args[0] :] if error else b""
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", b""]) + unparsed)

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not HTTP."""
        self._reject(b"400 Bad Request", "not HTTP/1.1; use an HTTP client")

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(_HEAD_TIMEOUT_S, self._time_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_out(self) -> None:
        # Browsers open spare connections: those are closed without a response.
        if self._head_bytes and not self.transport.is_closing():
            self._reject(b"408 Request Timeout", "headers: arrive too slowly; send them again")
        self.transport.close()

    def _reject(self, status: bytes, message: str) -> None:
        body = error_body(message)
        headers = [*HEADERS, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        lines = [b"HTTP/1.1 " + status, *(name + b": " + value for name, value in headers), b"connection: close"]
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.close()
