"""The model's replicas on Ray Serve: started, watched and deleted."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from ray import serve

from mmgenre import ray_session
from mmgenre.errors import InputError
from mmgenre.serving.config import ServingConfig
from mmgenre.serving.replicas import ExplainReplica, TagReplica
from mmgenre.tables import storage
from mmgenre.tables.streams import mistake_in

# Calls in flight per replica: one being computed, the others ready for when it is done.
_MAX_ONGOING_REQUESTS = 3


class Replicas(NamedTuple):
    """Remote calls of the running replicas; `explain` is None if it is turned off."""

    tag: Any
    explain: Any
    application_names: list[str]

    def are_running(self) -> bool:
        """Whether no replica is missing."""
        applications = serve.status().applications
        return all(name in applications and applications[name].status == "RUNNING" for name in self.application_names)


@contextmanager
def deployed(config: ServingConfig) -> Iterator[Replicas]:
    """The running replicas; deletes them at the end of the block.

    Raises:
        InputError: too little room for the replicas, or a broken checkpoint.
    """
    started_ray = not ray.is_initialized()
    ray_session.connect()
    _require_room(config)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # Serve's HTTP proxy is not used: it buffers whole bodies of any size, and never times out on request headers.
    serve.start(proxy_location="Disabled")
    name = f"mmgenre-{uuid.uuid4().hex[:8]}"
    names = [name, f"{name}-explain"] if config.explain else [name]
    try:
        handles = _run(config, names)
        yield Replicas(handles[0].tag.remote, handles[1].explain.remote if config.explain else None, names)
    finally:
        # Delete before Ray shuts down: Serve's threads in this process would start a new session.
        for application_name in names:
            serve.delete(application_name)
        if started_ray and ray_session.is_local():
            ray.shutdown()
        elif not serve.status().applications:
            serve.shutdown()


def _run(config: ServingConfig, names: list[str]) -> list[Any]:
    """Handles of the applications, once all replicas are running."""
    directory, threads = storage.absolute(config.checkpoint), config.cpus_per_replica
    share = ray_session.IO_ACTOR_CPUS
    num_gpus = 1 if ray_session.use_gpu(config.accelerator) else 0
    options: dict[str, Any] = {
        "max_constructor_retry_count": 1,
        "graceful_shutdown_timeout_s": 2,
        "graceful_shutdown_wait_loop_s": 0.1,
        "max_ongoing_requests": _MAX_ONGOING_REQUESTS,
        "logging_config": {"enable_access_log": False},
    }
    tag = serve.deployment(TagReplica).options(
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": threads - share, "num_gpus": num_gpus},
        **options,
    )
    applications = [tag.bind(directory, config.precision, threads, ray_session.is_local())]
    if config.explain:
        explain = serve.deployment(ExplainReplica).options(ray_actor_options={"num_cpus": share}, **options)
        applications.append(explain.bind(directory, threads, ray_session.is_local()))
    targets = [
        serve.RunTarget(application, name=name, route_prefix=None)
        for application, name in zip(applications, names, strict=True)
    ]
    try:
        return serve.run_many(targets)
    except RuntimeError as error:
        reasons = _failure_messages(names)
        raise mistake_in(reasons) or RuntimeError(f"{error}\n{reasons}") from None


def _failure_messages(names: list[str]) -> str:
    """Why replicas failed to start, which Serve's exception leaves out."""
    applications = serve.status().applications
    deployments = [
        deployment for name in names if name in applications for deployment in applications[name].deployments.values()
    ]
    return "\n".join(deployment.message for deployment in deployments)


def _require_room(config: ServingConfig) -> None:
    """Raise InputError if the replicas would wait forever for CPUs or GPUs of a local session."""
    if not ray_session.is_local():
        return
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if config.replicas * config.cpus_per_replica > cpus:
        raise InputError(
            f"replicas={config.replicas} with {config.cpus_per_replica} CPUs each: this machine has {cpus} CPUs; "
            "use fewer replicas"
        )
    if ray_session.use_gpu(config.accelerator) and config.replicas > gpus:
        raise InputError(f"replicas={config.replicas}: this machine has {gpus} GPUs; use fewer replicas")
