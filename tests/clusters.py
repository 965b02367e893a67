"""Ray clusters on loopback, whose nodes come and go as a test wants."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Head:
    """A head node: its dashboard, where nodes and drivers join it, and an environment that holds its token."""

    dashboard: str
    address: str
    environment: dict[str, str]


@contextlib.contextmanager
def head(num_cpus=2, auth="token"):
    """A head node that demands a token, unless told otherwise."""
    port, dashboard_port = free_port(), free_port()
    environment = os.environ | {"RAY_AUTH_MODE": auth, "RAY_AUTH_TOKEN": TOKEN}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    environment = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    found = Head(f"http://127.0.0.1:{dashboard_port}", f"127.0.0.1:{port}", environment)
    # A short path: sockets below it may have 107 characters.
    session = Path(f"/tmp/mmgenre-{port}")  # noqa: S108
    options = ["--head", f"--port={port}", f"--dashboard-port={dashboard_port}", f"--temp-dir={session}"]
    with _started(found, num_cpus, *options):
        wait_for(found.dashboard)
        yield found
    shutil.rmtree(session, ignore_errors=True)


@contextlib.contextmanager
def node(cluster, num_cpus):
    """One more node of a cluster; yields the process id of its raylet, without which it is lost."""
    with _started(cluster, num_cpus, f"--address={cluster.address}") as process:
        yield until(lambda: [one.pid for one in psutil.Process(process.pid).children() if one.name() == "raylet"])[0]


@contextlib.contextmanager
def _started(cluster, num_cpus, *options):
    with start_node(cluster.environment, num_cpus, *options) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def start_node(environment, num_cpus, *options):
    """The process that a node, or a head, is in the hands of."""
    command = [BIN / "ray", "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", *options]
    command += [f"--num-cpus={num_cpus}", f"--dashboard-agent-listen-port={free_port()}"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def status(url, token=None):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def wait_for(dashboard):
    """Until a dashboard takes jobs."""
    until(lambda: status(f"{dashboard}/api/jobs/", TOKEN) == 200)


def until(condition, timeout_s=90):
    """What a condition says once it is true of something."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found
