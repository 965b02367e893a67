"""What one node of a cluster sees: package versions, storage, hosts, GPUs and its disk."""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
import uuid
from dataclasses import dataclass

import aiohttp
import ray
from yarl import URL

from mmgenre.config import missing_packages
from mmgenre.enrich.proxies import proxy_for
from mmgenre.errors import InputError, one_line
from mmgenre.ray_session import session_folder
from mmgenre.tables import storage

_PACKAGES = ("ray", "torch", "torchvision", "transformers", "pyarrow", "safetensors")
_CONNECT_TIMEOUT_S, _TORCH_TIMEOUT_S = 5, 100
_COUNT_GPUS = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


@dataclass(frozen=True)
class Probe:
    """What a node is asked to check.

    Args:
        marker: name of the file that the driver wrote into each folder of `outputs`.
        outputs: folders that must be the driver's, and writable.
        inputs: files and folders that must exist.
        hosts: names and ports that must accept connections.
        gpus: number of GPUs that the node offers to Ray; torch must be able to use them.
        packages: modules that must be installed.
    """

    marker: str
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()
    gpus: int = 0
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeReport:
    """What a node found. The error dicts have no entry for what is fine.

    Args:
        versions: of Python and of packages, by name.
        output_errors: by folder.
        input_errors: by location.
        host_errors: by name and port.
        missing_packages: modules that are not installed.
        gpus_offered: number of GPUs that the node offers to Ray.
        gpus_usable: number of GPUs that torch can use; 0, without a look, if none are offered.
        disk_used: used share of the disk that Ray spills objects to.
        disk_free: free bytes of that disk.
    """

    versions: dict[str, str]
    output_errors: dict[str, str]
    input_errors: dict[str, str]
    host_errors: dict[tuple[str, int], str]
    missing_packages: tuple[str, ...]
    gpus_offered: int
    gpus_usable: int
    disk_used: float
    disk_free: int


def look(probe: Probe) -> NodeReport:
    """Run the probe on the node that this process runs on."""
    disk = shutil.disk_usage(_spill_folder())
    output_errors = {folder: _output_error(folder, probe.marker) for folder in probe.outputs}
    input_errors = {location: _input_error(location) for location in probe.inputs}
    host_errors = {host: _host_error(*host) for host in probe.hosts}
    return NodeReport(
        versions=versions(),
        output_errors={folder: error for folder, error in output_errors.items() if error},
        input_errors={location: error for location, error in input_errors.items() if error},
        host_errors={host: error for host, error in host_errors.items() if error},
        missing_packages=missing_packages(probe.packages),
        gpus_offered=probe.gpus,
        gpus_usable=_usable_gpus() if probe.gpus else 0,
        disk_used=disk.used / disk.total,
        disk_free=disk.free,
    )


def _spill_folder() -> str:
    """The folder of this node's Ray session, to which Ray spills objects; outside a session, where it would be."""
    node = ray._private.worker._global_node  # has no public API
    return str(session_folder() if node is None else node.get_session_dir_path())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that must be the same on all nodes."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def short_error(error: Exception) -> str:
    """An error as one line of at most 200 characters."""
    return one_line(error)[:200]


def _output_error(folder: str, marker: str) -> str | None:
    """Look for the driver's marker file, and write a file next to it."""
    try:
        if not storage.exists(storage.join(folder, marker)):
            return "the file that the driver wrote there is missing"
        storage.write_bytes(storage.join(folder, f"{marker}-{uuid.uuid4().hex}"), b"")
    except (OSError, InputError) as error:
        return short_error(error)
    return None


def _input_error(location: str) -> str | None:
    try:
        return None if storage.exists(location) else "does not exist"
    except (OSError, InputError) as error:
        return short_error(error)


def _host_error(name: str, port: int) -> str | None:
    try:
        proxy = proxy_for(URL.build(scheme="https" if port == 443 else "http", host=name, port=port))
        if proxy is not None:
            return _proxy_error(proxy, f"{name}:{port}")
        socket.create_connection((name, port), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, InputError) as error:
        return short_error(error)
    return None


def _proxy_error(proxy: URL, target: str) -> str | None:
    """Why a proxy does not lead to a host and port; None if it does."""
    where = f"proxy {proxy.host_port_subcomponent}"
    try:
        with socket.create_connection((proxy.host or "", proxy.port or 80), timeout=_CONNECT_TIMEOUT_S) as connection:
            authorization = ""
            if proxy.user is not None:
                login = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
                authorization = f"Proxy-Authorization: {login}\r\n"
            connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n".encode())
            answer = connection.recv(1000).split(b"\r\n")[0].decode("latin-1")
    except OSError as error:
        return f"{where}: {short_error(error)}"
    reason = one_line(answer)[:200] or "no answer"
    return None if answer.split()[1:2] == ["200"] else f"{where}: {reason}"


def _usable_gpus() -> int:
    # A subprocess: Ray hides the GPUs from a task that requests none, and a CUDA context would stay in this worker.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    counted = subprocess.run(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", _COUNT_GPUS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TORCH_TIMEOUT_S,
    )
    return int(counted.stdout) if counted.returncode == 0 else 0
