"""The job's Ray session: on the cluster it was submitted to, or on a local one that it starts."""

import logging
import os
import warnings
from typing import Any, Literal

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmgenre.errors import InputError

Accelerator = Literal["auto", "cpu", "gpu"]
# CPUs reserved by an actor that mostly waits for disk or network, so that most remain for actors that compute.
IO_ACTOR_CPUS = 0.25


def connect() -> None:
    """Connect to the cluster in RAY_ADDRESS (set for submitted jobs), or start a local one; idempotent."""
    if ray.is_initialized():
        return
    # Actors' output stays in Ray's logs; the terminal shows only what the driver prints.
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if is_local():
        # Silences warnings of the driver's C++ core about an actor that Ray Data itself creates.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        options |= {"address": "local", "include_dashboard": False}
        # Makes Ray listen on loopback only. Ray does so by default on macOS and Windows, has no option for it, and
        # replaces `_node_ip_address="127.0.0.1"` by the machine's own address.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(**options)
    _configure_data()


def _configure_data() -> None:
    # The deprecated argument is still the only way to set an actor's max_restarts.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated", category=RayDeprecationWarning)
    context = ray.data.DataContext.get_current()
    # The stages print their own progress.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # The newer reader lists files in a task that needs a whole CPU, and deadlocks when actors hold all of them.
    context.use_datasource_v2 = False


def max_resources() -> dict[str, float]:
    """CPUs and GPUs of the cluster, or of the size to which its autoscaler may grow it, if known."""
    limit, current = _autoscaler_limit() or {}, ray.cluster_resources()
    return {name: max(current.get(name, 0), limit.get(name, 0)) for name in ("CPU", "GPU")}


def may_grow() -> bool:
    """Whether the cluster may grow to an unknown size: Ray's autoscaler v1 does not publish its limit."""
    return not is_local() and _autoscaler_limit() is None


def _autoscaler_limit() -> dict[str, int] | None:
    return ray._private.state.state.get_max_resources_from_cluster_config()  # has no public API


def dashboard() -> str | None:
    """Host and port of the dashboard, or None if it does not run."""
    return ray._private.worker.get_dashboard_url() or None


def is_local() -> bool:
    """Whether `connect` starts a cluster on this machine, rather than joining one."""
    return "RAY_ADDRESS" not in os.environ


def cpus_per_worker(min_workers: int, max_workers: int) -> int:
    """CPUs per worker such that `max_workers` fit into the cluster, and each of them fits one node.

    Raises:
        InputError: a local cluster has fewer CPUs than `min_workers`, so the job would wait forever.
    """
    node_cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    if is_local() and min_workers > sum(node_cpus):
        raise InputError(f"workers={min_workers}: this machine has {int(sum(node_cpus))} CPUs; use at most that many")
    return max(1, int(min(sum(node_cpus) // max_workers, max(node_cpus))))


def queue() -> Queue:
    """A queue for messages from other processes, on this node: losing another node does not lose the queue."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def assigned_cpus() -> int:
    """CPUs assigned to this worker, at least 1: the number of threads it should use."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def use_gpu(accelerator: Accelerator) -> bool:
    """Whether to request GPUs; `auto` does if a node has one now.

    Raises:
        InputError: accelerator=gpu on a local cluster without GPUs, so the job would wait forever.
    """
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    if accelerator == "gpu" and not has_gpu and is_local():
        raise InputError("accelerator=gpu: this machine has no GPU; use accelerator=cpu or accelerator=auto")
    return accelerator == "gpu" or (accelerator == "auto" and has_gpu)
