"""A Ray cluster of several nodes on this machine, each with processes of its own, so that one of them can die."""

import contextlib
import json
import os
import subprocess
import sys

import psutil
from clusters import TOKEN, free_port, start_node, until

_COMMANDS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
_JOINED_S = 120
# Bytes; what is not given takes a third of the memory.
_STORE = 300 * 2**20


class Nodes:
    """A head that computes nothing, and nodes that come and go.

    Args:
        port: of the head.
        options: of the head's `ray start`.
        environment: of the head, beside this process's.
    """

    def __init__(self, port, options=(), **environment):
        self.address = f"127.0.0.1:{port}"
        self.environment = os.environ | {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            # A node that is killed is missed sooner.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }
        # A short path: sockets below it may have 107 characters.
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir=/tmp/mmg-{port}"]
        self._started = []
        self._start(0, *head, *options, **environment)

    def add(self, cpus=1):
        """Another node; returns it when it has joined."""
        known = self.alive()
        node = self._start(cpus, f"--address={self.address}")
        until(lambda: self.alive() - known, _JOINED_S)
        return node

    def kill(self, node):
        """All its processes at once."""
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def kill_one(self):
        """The node that joined last."""
        node = next(node for node in reversed(self._started) if node.poll() is None)
        self.kill(node)
        return node

    def stop(self):
        """End all nodes that are left."""
        for node in reversed(self._started):
            if node.poll() is None:
                self.kill(node)

    def alive(self):
        """Ids of the nodes that are alive; one that was just killed counts for a few seconds more."""
        code = "import ray; ray.init(logging_level='ERROR'); print(*(n['NodeID'] for n in ray.nodes() if n['Alive']))"
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=120)
        return {*found.stdout.split()} if found.returncode == 0 else set()

    def _start(self, cpus, *options, **more):
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"} | more
        node = start_node(environment, cpus, f"--object-store-memory={_STORE}", *options)
        self._started.append(node)
        return node


@contextlib.contextmanager
def cluster(*cpus):
    """A head, and a node with each of these numbers of CPUs."""
    nodes = Nodes(free_port())
    try:
        until(nodes.alive, _JOINED_S)
        yield nodes, [nodes.add(number) for number in cpus]
    finally:
        nodes.stop()


@contextlib.contextmanager
def autoscaled_cluster(folder, max_workers):
    """A head whose autoscaler, Ray's own, starts nodes of one CPU on this machine, and ends them when they are idle."""
    port, head_id = free_port(), "f" * 51 + "00000"
    worker = {"resources": {"CPU": 1, "object_store_memory": _STORE}, "node_config": {}, "max_workers": max_workers}
    config = {
        "cluster_name": "test",
        "max_workers": max_workers,
        "idle_timeout_minutes": 0.25,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": head_id,
            # All nodes have one address, so their ids have to tell them apart.
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": worker | {"min_workers": 0},
        },
        "head_node_type": "ray.head.default",
        # Nothing is copied or run: a node is processes of this machine.
        **{name: {} for name in ("auth", "file_mounts")},
        **dict.fromkeys(_COMMANDS, ()),
    }
    (folder / "autoscaler.json").write_text(json.dumps(config))
    nodes = Nodes(
        port,
        [f"--autoscaling-config={folder / 'autoscaler.json'}"],
        RAY_FAKE_CLUSTER="1",
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        RAY_OVERRIDE_NODE_ID_FOR_TESTING=head_id,
    )
    try:
        until(nodes.alive, _JOINED_S)
        yield nodes
    finally:
        nodes.stop()
