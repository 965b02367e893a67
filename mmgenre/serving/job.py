"""A checkpoint behind HTTP: an API and a page before replicas of Ray Serve, until it is told to stop."""

import importlib.util
import logging
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from pydantic import Field

from mmgenre import ray_session as cluster
from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.models.inference import Precision
from mmgenre.ray_session import Accelerator
from mmgenre.serving.config import ServiceConfig
from mmgenre.tables import storage
from mmgenre.tables.streams import mistake_in
from mmgenre.tagging.decisions import trained_thresholds

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Seconds between looks at whether all replicas are there.
_WATCH_S = 2.0
# What a replica may have at once: what it computes, and what lies ready for when it is done.
_AT_ONCE = 3


class ServingConfig(ServiceConfig):
    """Serve a model over HTTP, with a page to try it on."""

    host: str = Field("127.0.0.1", description="address to listen at; all but this machine's own is open to others")
    port: int = Field(8000, ge=0, le=65535, description="to listen at; 0: any that is free")
    cpus_per_replica: int = Field(1, ge=1, description="and threads")
    accelerator: Accelerator = Field("auto", description="auto: a GPU for each replica where there are any")
    precision: Precision = Field("fp32", description="fp32 says what jobs/tag.py says in fp32, to five decimals")


def serve(config: ServingConfig) -> str:
    """Serve until Ctrl-C or SIGTERM; returns a line about what was served.

    Raises:
        InputError: no trained checkpoint, a port that cannot be had, or a model that this machine has no room for.
    """
    _require_packages(config)
    from mmgenre.serving.api import build  # noqa: PLC0415 - has packages that are an extra
    from mmgenre.serving.http_server import HttpServer, listen  # noqa: PLC0415 - the same
    from mmgenre.serving.service import Service  # noqa: PLC0415 - the same

    card = checkpoint.read_card(config.checkpoint)
    trained_thresholds(card, config.checkpoint)
    listening = listen(config.host, config.port)
    if config.host not in _LOOPBACK:
        _say(f"warning: host={config.host}: whoever reaches this machine can use the service; it asks for no password")
    service = Service(card, config)
    server = HttpServer(build(service), listening)
    _say(f"loading {config.checkpoint}")
    # Meanwhile /health says so.
    server.start()
    try:
        with _deployed(config) as (tag, explain, is_running), _told_to_stop() as told:
            service.attach(tag, explain)
            print(f"serving {card.model.family} of {config.checkpoint} at {_url(listening)} until Ctrl-C", flush=True)  # noqa: T201
            while not told.wait(_WATCH_S):
                service.is_healthy = is_running()
            _say("stopping")
            server.stop()
    except KeyboardInterrupt:
        # Of a person to whom loading, or ending, took too long: no failure.
        pass
    finally:
        server.stop()
        service.close()
    return f"served: {server.num_answers:,} answers"


@contextmanager
def _deployed(config: ServingConfig) -> Iterator[tuple[Any, Any, Any]]:
    """The replicas, running: calls of both kinds, and whether all are there; they are gone at the end of the block."""
    is_ours = not ray.is_initialized()
    cluster.connect()
    _require_room(config)
    from ray import serve as ray_serve  # noqa: PLC0415 - an extra

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # Requests come through a server of our own. Serve's proxy takes whole bodies, without a bound, into memory while
    # they wait for a replica, sends no Retry-After with a 503, and waits for ever for the headers of a request.
    ray_serve.start(proxy_location="Disabled")
    name = f"mmgenre-{uuid.uuid4().hex[:8]}"
    names = [name, f"{name}-explain"] if config.explain else [name]
    try:
        handles = _run(config, names)
        explain = handles[1].explain.remote if config.explain else None
        yield handles[0].tag.remote, explain, lambda: _is_running(names)
    finally:
        # First, as long as there is a Ray: Serve's threads in this process, when told of changes, start another.
        for name in names:
            ray_serve.delete(name)
        if is_ours and cluster.is_local():
            ray.shutdown()
        elif not ray_serve.status().applications:
            ray_serve.shutdown()


def _run(config: ServingConfig, names: list[str]) -> list[Any]:
    """Handles of the replicas, once all are there."""
    from ray import serve as ray_serve  # noqa: PLC0415 - an extra

    from mmgenre.serving.replicas import ExplainReplica, TagReplica  # noqa: PLC0415 - the same

    directory, threads = storage.absolute(config.checkpoint), config.cpus_per_replica
    share = cluster.SHARE_OF_WAITING
    num_gpus = 1 if cluster.use_gpu(config.accelerator) else 0
    common: dict[str, Any] = {
        "max_constructor_retry_count": 1,
        "graceful_shutdown_timeout_s": 2,
        "graceful_shutdown_wait_loop_s": 0.1,
        "max_ongoing_requests": _AT_ONCE,
        "logging_config": {"enable_access_log": False},
    }
    tag = ray_serve.deployment(TagReplica).options(
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": threads - share, "num_gpus": num_gpus},
        **common,
    )
    explain = ray_serve.deployment(ExplainReplica).options(ray_actor_options={"num_cpus": share}, **common)
    applications = [tag.bind(directory, config.precision, threads, cluster.is_local())]
    if config.explain:
        applications.append(explain.bind(directory, threads, cluster.is_local()))
    targets = [
        ray_serve.RunTarget(application, name=name, route_prefix=None)
        for application, name in zip(applications, names, strict=True)
    ]
    try:
        return ray_serve.run_many(targets)
    except RuntimeError as error:
        said = _failures(names)
        raise mistake_in(said) or RuntimeError(f"{error}\n{said}") from None


def _failures(names: list[str]) -> str:
    """What Serve says of replicas that could not be started, of which its error says nothing."""
    from ray import serve as ray_serve  # noqa: PLC0415 - an extra

    found = ray_serve.status().applications
    deployments = [one for name in names if name in found for one in found[name].deployments.values()]
    return "\n".join(one.message for one in deployments)


def _is_running(names: list[str]) -> bool:
    """Whether all replicas are there."""
    from ray import serve as ray_serve  # noqa: PLC0415 - an extra

    found = ray_serve.status().applications
    return all(name in found and found[name].status == "RUNNING" for name in names)


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that what is being answered is not broken off by them."""
    told = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(one, lambda *_: told.set()) for one in signals]
    try:
        yield told
    finally:
        for one, handler in zip(signals, previous, strict=True):
            signal.signal(one, handler)


def _require_packages(config: ServingConfig) -> None:
    """Raise InputError where the extra is not installed."""
    needed = ["fastapi", "python_multipart", "uvicorn", *(["captum"] if config.explain else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"jobs/serve.py needs {', '.join(missing)}; pip install 'mmgenre[serve]'")


def _require_room(config: ServingConfig) -> None:
    """Raise InputError where the replicas would wait for places on this machine for ever."""
    if not cluster.is_local():
        return
    places = ray.cluster_resources()
    cpus, gpus = int(places.get("CPU", 0)), int(places.get("GPU", 0))
    wanted = config.replicas * config.cpus_per_replica
    if wanted > cpus:
        raise InputError(
            f"replicas={config.replicas} of {config.cpus_per_replica} CPUs: this machine offers {cpus}; ask for fewer"
        )
    if cluster.use_gpu(config.accelerator) and config.replicas > gpus:
        raise InputError(f"replicas={config.replicas}: this machine offers {gpus} GPUs; ask for fewer")


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
