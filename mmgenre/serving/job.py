"""The serve job: an HTTP server in front of Ray Serve replicas, until it is told to stop."""

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mmgenre.config import missing_packages
from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.posters.images import reuse_memory
from mmgenre.serving.config import ServingConfig
from mmgenre.tagging.decisions import trained_thresholds

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEALTH_CHECK_S = 2.0


def serve(config: ServingConfig) -> str:
    """Serve until Ctrl-C or SIGTERM; returns a one-line summary.

    Raises:
        InputError: no trained checkpoint, an unavailable port, or too little room for the replicas.
    """
    _require_packages(config)
    from mmgenre.serving.api import build  # noqa: PLC0415 - imports an optional dependency
    from mmgenre.serving.deployment import deployed  # noqa: PLC0415 - the same
    from mmgenre.serving.http_server import HttpServer, listen  # noqa: PLC0415 - the same
    from mmgenre.serving.service import Service  # noqa: PLC0415 - the same

    card = checkpoint.read_card(config.checkpoint)
    trained_thresholds(card, config.checkpoint)
    listener = listen(config.host, config.port)
    if config.host not in _LOOPBACK:
        _log(f"warning: host={config.host}: anyone who can reach this machine can use the service, without a password")
    reuse_memory()
    service = Service(card, config)
    server = HttpServer(build(service), listener)
    _log(f"loading {config.checkpoint}")
    # /health answers 503 while the model loads.
    server.start()
    try:
        with deployed(config) as replicas, _stop_signals() as stop:
            service.attach(replicas.tag, replicas.explain)
            print(f"serving {card.model.family} of {config.checkpoint} at {_url(listener)} until Ctrl-C", flush=True)  # noqa: T201
            while not stop.wait(_HEALTH_CHECK_S):
                service.is_healthy = replicas.are_running()
            _log("stopping")
            server.stop()
    except KeyboardInterrupt:
        # Ctrl-C while loading, or a second one while stopping, is not a failure.
        pass
    finally:
        server.stop()
        service.close()
    return f"served: {server.num_requests:,} requests"


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that they do not interrupt requests in flight."""
    stop = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def _require_packages(config: ServingConfig) -> None:
    """Raise InputError if optional dependencies are missing."""
    if missing := missing_packages(config.packages):
        raise InputError(f"jobs/serve.py needs {', '.join(missing)}; pip install 'mmgenre[serve]'")


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
