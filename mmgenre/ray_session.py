"""The Ray cluster a job runs on: the one it was submitted to, or a local one it starts."""

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
# CPUs of a process that mostly waits for disk or network; the rest is for those that compute.
SHARE_OF_WAITING = 0.25


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (submitted jobs have it), or start one on this machine; twice is once."""
    if ray.is_initialized():
        return
    # What actors print stays in Ray's logs: people read the lines that the driver prints, and its errors.
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if is_local():
        # The driver's own C++ core complains of an actor that Ray Data itself makes.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        options |= {"address": "local", "include_dashboard": False}
        # Else Ray listens at every address of this machine. Of itself it does this on macOS and Windows only; it has
        # no option for it, and takes `_node_ip_address="127.0.0.1"` for the machine's own address.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(**options)
    _configure_data()


def _configure_data() -> None:
    # How often an actor may be started again can be said in no other way yet than the one that will go.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated", category=RayDeprecationWarning)
    context = ray.data.DataContext.get_current()
    # Ray Data writes its plan and bars to the driver's log; the stages print their own lines.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # The newer reader lists files in a task that wants a whole CPU: with an actor on each, it never gets one.
    context.use_datasource_v2 = False


def most_resources() -> dict[str, float]:
    """What the cluster offers, or can grow to where it has an autoscaler that says so."""
    limit, now = _limit() or {}, ray.cluster_resources()
    return {name: max(now.get(name, 0), limit.get(name, 0)) for name in ("CPU", "GPU")}


def may_grow() -> bool:
    """Whether nodes may come of which nothing is known: Ray's first autoscaler does not say what it could start."""
    return not is_local() and _limit() is None


def _limit() -> dict[str, int] | None:
    return ray._private.state.state.get_max_resources_from_cluster_config()  # no public name for it


def dashboard() -> str | None:
    """Host and port of the dashboard; None where there is none."""
    return ray._private.worker.get_dashboard_url() or None


def is_local() -> bool:
    """Whether `connect` starts a cluster of this machine alone."""
    return "RAY_ADDRESS" not in os.environ


def cpus_per_worker(fewest: int, most: int) -> int:
    """CPUs for each of several equal workers, so that all fit the cluster and each fits one node.

    Raises:
        InputError: a local cluster has fewer CPUs than there must be workers, and so would wait for ever.
    """
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    if is_local() and fewest > sum(nodes):
        raise InputError(f"workers={fewest}: this machine offers {int(sum(nodes))} CPUs; ask for at most that many")
    return max(1, int(min(sum(nodes) // most, max(nodes))))


def queue() -> Queue:
    """A queue that other processes put into; it dies with this node, and with no other one."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def assigned_cpus() -> int:
    """Whole CPUs that this worker may use, at least one: as many threads it should have."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def use_gpu(accelerator: Accelerator) -> bool:
    """Whether to ask for GPUs; `auto` takes them where a node has one now.

    Raises:
        InputError: GPUs are wanted of a local cluster that has none, and so would be waited for for ever.
    """
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    if accelerator == "gpu" and not has_gpu and is_local():
        raise InputError("accelerator=gpu: this machine offers no GPU; take accelerator=cpu, or auto")
    return accelerator == "gpu" or (accelerator == "auto" and has_gpu)
