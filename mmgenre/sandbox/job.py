"""Serves a catalogue until it is stopped, and generates one first if there is none."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field

from mmgenre.config import Requirements
from mmgenre.errors import InputError
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.movies import MOVIES
from mmgenre.sandbox.server import Sandbox, ServerConfig, TrafficConfig
from mmgenre.tables import storage

# File with the port of the last run: poster URLs that it gave out should stay valid.
_PORT = "port"


class ServeConfig(TrafficConfig):
    """A generated catalogue behind a server like TMDB and OMDb; clients must send the key in TMDB_TOKEN."""

    output: str = Field(description="folder of the generated catalogue, which is created if missing")
    data: str | None = Field(None, description="serve this folder instead; it must contain movies.parquet")
    catalogue: SandboxConfig = SandboxConfig()

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        return (Requirements(inputs=(self.data,), outputs=(self.output,)),)


def serve(config: ServeConfig) -> str:
    """Serve until SIGTERM; returns a summary line.

    Raises:
        InputError: the data cannot be read, the catalogue cannot be written, or the port is not available.
        KeyboardInterrupt: Ctrl-C.
    """
    token = os.environ.get("TMDB_TOKEN") or None
    with _stop_on_sigterm() as stop, serving(config, token) as sandbox:
        key = "the one in TMDB_TOKEN" if token else f"TMDB_TOKEN={sandbox.token}"
        print(  # noqa: T201
            f"serving {sandbox.num_movies:,} movies of {config.data or config.output}: TMDB at {sandbox.base_url}/3, "
            f"posters at {sandbox.image_url}, OMDb at {sandbox.base_url}/; key: {key}",
            flush=True,
        )
        stop.wait()
        requests = sum(sandbox.stats()["requests"].values())
    return f"sandbox: {requests:,} requests"


@contextmanager
def serving(config: ServeConfig, token: str | None = None) -> Iterator[Sandbox]:
    """A running server; raises the same errors as `serve`."""
    data = prepare(config)
    traffic = {name: getattr(config, name) for name in TrafficConfig.model_fields}
    traffic["port"] = config.port or _last_port(config.output)
    with Sandbox(ServerConfig(data=data, **traffic), token) as sandbox:
        storage.write_bytes(storage.join(config.output, _PORT), str(sandbox.port).encode())
        yield sandbox


def _last_port(folder: str) -> int:
    """The port of the last run if it is still free, else 0."""
    if _PORT not in storage.names_in(folder):
        return 0
    port = int(storage.read_bytes(storage.join(folder, _PORT)))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def prepare(config: ServeConfig) -> str:
    """The folder to serve; generates the catalogue if it is missing."""
    if config.data is not None:
        return config.data
    try:
        if MOVIES not in storage.names_in(config.output):
            generate(config.catalogue, config.output)
    except OSError as error:
        raise InputError(f"{config.output}: cannot write the catalogue ({error}); choose another output") from None
    return config.output


@contextmanager
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets."""
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)
