"""The sandbox as a program: make a catalogue if there is none, and serve it until told to stop."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field

from mmgenre.errors import InputError
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.movies import MOVIES
from mmgenre.sandbox.server import Sandbox, ServerConfig, TrafficConfig
from mmgenre.tables import storage

# Posters are asked for by addresses that an earlier run was given: they should still lead here.
_PORT = "port"


class ServeConfig(TrafficConfig):
    """A generated catalogue behind a server like TMDB and OMDb; the key clients must send is in TMDB_TOKEN."""

    output: str = Field(description="folder of the generated catalogue; made when it holds none")
    data: str | None = Field(None, description="serve this folder instead, which holds movies.parquet")
    catalogue: SandboxConfig = SandboxConfig()


def serve(config: ServeConfig) -> str:
    """Serve until SIGTERM; returns a line about what was served.

    Raises:
        InputError: the data cannot be served, the catalogue not be written, or the port not be had.
        KeyboardInterrupt: Ctrl-C.
    """
    token = os.environ.get("TMDB_TOKEN") or None
    with _told_to_stop() as told, serving(config, token) as sandbox:
        key = "the one in TMDB_TOKEN" if token else f"TMDB_TOKEN={sandbox.token}"
        print(  # noqa: T201
            f"serving {sandbox.num_movies:,} movies of {config.data or config.output}: TMDB at {sandbox.base_url}/3, "
            f"posters at {sandbox.image_url}, OMDb at {sandbox.base_url}/; key: {key}",
            flush=True,
        )
        told.wait()
        requests = sum(sandbox.stats()["requests"].values())
    return f"sandbox: {requests:,} requests"


@contextmanager
def serving(config: ServeConfig, token: str | None = None) -> Iterator[Sandbox]:
    """A running server; errors are those of `serve`."""
    data = prepare(config)
    traffic = {name: getattr(config, name) for name in TrafficConfig.model_fields}
    traffic["port"] = config.port or _port_of_last_time(config.output)
    with Sandbox(ServerConfig(data=data, **traffic), token) as sandbox:
        storage.write_bytes(storage.join(config.output, _PORT), str(sandbox.port).encode())
        yield sandbox


def _port_of_last_time(folder: str) -> int:
    """The port that addresses given out earlier lead to, if it is still free; else 0."""
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
    """The folder to serve, after making the catalogue if there is none."""
    if config.data is not None:
        return config.data
    try:
        if MOVIES not in storage.names_in(config.output):
            generate(config.catalogue, config.output)
    except OSError as error:
        raise InputError(f"{config.output}: no folder to write to ({error}); choose another output") from None
    return config.output


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM sets."""
    told = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, previous)
