"""The Ray cluster a job runs on: the one it was submitted to, or a local one it starts."""

import logging
import os

import ray

from mmgenre.errors import InputError


def connect() -> None:
    """Join the cluster named by the environment, or start one on this machine; twice is once."""
    if ray.is_initialized():
        return
    # Ray's own default prints every operator's progress and a banner for each actor; jobs print one line a stage.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    ray.init(include_dashboard=False if _is_local() else None, logging_level=logging.WARNING, log_to_driver=True)
    quieten_data()


def quieten_data() -> None:
    """Ray Data writes its plan and bars to the driver's log; the stages print their own lines."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def _is_local() -> bool:
    return "RAY_ADDRESS" not in os.environ


def cpus_per_worker(num_workers: int) -> int:
    """CPUs for each of several equal workers, so that all fit the cluster and each fits one node.

    Raises:
        InputError: a local cluster has fewer CPUs than workers, and so would wait for ever.
    """
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    if _is_local() and num_workers > sum(nodes):
        raise InputError(
            f"workers={num_workers}: this machine offers {int(sum(nodes))} CPUs; ask for at most that many"
        )
    return max(1, int(min(sum(nodes) // num_workers, max(nodes))))


def has_gpu() -> bool:
    """Whether any node of the cluster offers a GPU."""
    return ray.cluster_resources().get("GPU", 0) > 0
