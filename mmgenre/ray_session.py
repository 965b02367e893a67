"""The job's Ray session: on the cluster it was submitted to, or on a local one that it starts."""

import logging
import os
import shutil
import socket
import warnings
from pathlib import Path
from typing import Any, Literal

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmgenre.errors import InputError, one_line

Accelerator = Literal["auto", "cpu", "gpu"]
# CPUs reserved by an actor that mostly waits for disk or network, so that most remain for actors that compute.
IO_ACTOR_CPUS = 0.25
_CONNECT_TIMEOUT_S = 10
# Length of the longest path of a socket (107 bytes on Linux, 103 on macOS), and what Ray appends to its folder.
_MAX_SOCKET_PATH, _SOCKET_IN_FOLDER = 103, "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
_MIN_FREE_BYTES = 200_000_000


def connect() -> None:
    """Connect to the cluster in RAY_ADDRESS (set for submitted jobs), or start a local one; idempotent.

    Raises:
        InputError: no cluster answers at RAY_ADDRESS, or Ray cannot use its folder for temporary files.
    """
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
        require_session_folder()
    else:
        _require_cluster(os.environ["RAY_ADDRESS"])
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise _no_cluster(one_line(error)[:200]) from None
    _configure_data()


def _require_cluster(address: str) -> None:
    """Raise InputError if nothing listens at the address: Ray itself would try again for many minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        # "auto", or an address that Ray refuses itself.
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise _no_cluster(error.strerror or str(error)) from None


def _no_cluster(reason: str) -> InputError:
    return InputError(
        f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: no Ray cluster there ({reason}); start it, correct the "
        "variable, or unset it to run on this machine"
    )


def session_folder() -> Path:
    """The folder in which Ray puts its sockets, logs and spilled objects on this machine."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - Ray's own choice


def require_session_folder() -> None:
    """Raise InputError if a local cluster cannot use its folder for temporary files."""
    folder = session_folder()
    where = f"{folder}: Ray's folder for temporary files"
    fix = "set RAY_TMPDIR to a short path on another disk"
    excess = len(os.fsencode(f"{folder}{_SOCKET_IN_FOLDER}")) - _MAX_SOCKET_PATH
    if excess > 0:
        raise InputError(
            f"{where} has a path that is {excess} bytes too long for sockets; {fix}, such as RAY_TMPDIR=/tmp"
        )
    try:
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder / "ray").free
    except OSError as error:
        raise InputError(f"{where} cannot be created ({error.strerror}); {fix}") from None
    if not os.access(folder / "ray", os.W_OK):
        raise InputError(f"{where} is not writable; {fix}")
    if free < _MIN_FREE_BYTES:
        raise InputError(f"{where} is on a full disk ({free / 1e6:,.0f} MB free); free space there, or {fix}")


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
    limit, current = autoscaler_limit() or {}, ray.cluster_resources()
    return {name: max(current.get(name, 0), limit.get(name, 0)) for name in ("CPU", "GPU")}


def may_grow() -> bool:
    """Whether the cluster may grow to an unknown size: Ray's autoscaler v1 does not publish its limit."""
    return not is_local() and autoscaler_limit() is None


def autoscaler_limit() -> dict[str, int] | None:
    """Resources to which the autoscaler may grow the cluster; None without one, or if it does not say."""
    return ray._private.state.state.get_max_resources_from_cluster_config()  # has no public API


def dashboard() -> str | None:
    """Host and port of the dashboard, or None if it does not run."""
    return ray._private.worker.get_dashboard_url() or None


def is_local() -> bool:
    """Whether `connect` starts a cluster on this machine, rather than joining one."""
    return os.environ.get("RAY_ADDRESS", "") in ("", "local")


def cpus_per_worker(min_workers: int, max_workers: int, *, with_gpu: bool = False) -> int:
    """CPUs per worker such that `max_workers` fit into the cluster, and each of them fits one node.

    Args:
        min_workers: without so many, the job cannot start.
        max_workers: the most at the same time.
        with_gpu: whether each worker needs a GPU, too; then only nodes with GPUs count.

    Raises:
        InputError: a local cluster has fewer CPUs than `min_workers`, so the job would wait forever.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if with_gpu:
        # Each GPU comes with its share of the node's CPUs.
        shares = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
        return max(1, int(min(shares, default=1)))
    node_cpus = [node.get("CPU", 0) for node in nodes]
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


def may_use_gpu() -> bool:
    """Whether this process may compute on a GPU; a Ray worker sees all GPUs of its node, whatever it was assigned."""
    if not ray.is_initialized():
        return True
    context = ray.get_runtime_context()
    return context.worker.mode != ray.WORKER_MODE or bool(context.get_accelerator_ids().get("GPU"))


def use_gpu(accelerator: Accelerator) -> bool:
    """Whether to request GPUs; `auto` does if a node has one now.

    Raises:
        InputError: accelerator=gpu on a local cluster without GPUs, so the job would wait forever.
    """
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    if accelerator == "gpu" and not has_gpu and is_local():
        raise InputError("accelerator=gpu: this machine has no GPU; use accelerator=cpu or accelerator=auto")
    return accelerator == "gpu" or (accelerator == "auto" and has_gpu)
