"""What one machine of a cluster sees of what a run needs."""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass

from mmgenre.errors import InputError, one_line
from mmgenre.tables import storage

_PACKAGES = ("ray", "torch", "torchvision", "transformers", "pyarrow", "safetensors")
_CONNECT_S, _TORCH_S = 5, 100
_COUNT_GPUS = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


@dataclass(frozen=True)
class Probe:
    """What a machine is asked.

    Args:
        mark: name of a file that the driver wrote into each of `outputs`.
        outputs: folders that should be the driver's, and writable.
        inputs: locations where something should be.
        hosts: names and ports that should answer.
        gpus: that the machine offers, so that torch should see them.
    """

    mark: str
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()
    gpus: int = 0


@dataclass(frozen=True)
class Seen:
    """What it answers; errors are by what they are about, and hold nothing where all is well.

    Args:
        versions: of Python and of packages.
        outputs: errors by folder.
        inputs: errors by location.
        hosts: errors by name and port.
        gpus_offered: by the machine to Ray.
        gpus_usable: by torch; not looked at where none are offered.
        used: share of the disk that Ray spills to.
        free_bytes: on that disk.
    """

    versions: dict[str, str]
    outputs: dict[str, str]
    inputs: dict[str, str]
    hosts: dict[tuple[str, int], str]
    gpus_offered: int
    gpus_usable: int
    used: float
    free_bytes: int


def look(probe: Probe) -> Seen:
    """Answer from the machine that this runs on."""
    disk = shutil.disk_usage(tempfile.gettempdir())
    outputs = {folder: _written(folder, probe.mark) for folder in probe.outputs}
    inputs = {location: _found(location) for location in probe.inputs}
    hosts = {host: _reached(*host) for host in probe.hosts}
    return Seen(
        versions=versions(),
        outputs={folder: error for folder, error in outputs.items() if error},
        inputs={location: error for location, error in inputs.items() if error},
        hosts={host: error for host, error in hosts.items() if error},
        gpus_offered=probe.gpus,
        gpus_usable=_usable_gpus() if probe.gpus else 0,
        used=disk.used / disk.total,
        free_bytes=disk.free,
    )


def versions() -> dict[str, str]:
    """Of Python and of the packages that two machines must have alike."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def _written(folder: str, mark: str) -> str | None:
    """Find what the driver wrote, and write something beside it."""
    try:
        if not storage.exists(storage.join(folder, mark)):
            return "what the driver wrote is not there"
        storage.write_bytes(storage.join(folder, f"{mark}-{uuid.uuid4().hex}"), b"")
    except (OSError, InputError) as error:
        return said(error)
    return None


def _found(location: str) -> str | None:
    try:
        return None if storage.exists(location) else "nothing is there"
    except (OSError, InputError) as error:
        return said(error)


def _reached(name: str, port: int) -> str | None:
    try:
        socket.create_connection((name, port), timeout=_CONNECT_S).close()
    except OSError as error:
        return said(error)
    return None


def _usable_gpus() -> int:
    # Ray hides the GPUs from a task that asks for none, and a process of its own leaves nothing on them.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    counted = subprocess.run(  # noqa: S603 - our own interpreter and words
        [sys.executable, "-c", _COUNT_GPUS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TORCH_S,
    )
    return int(counted.stdout) if counted.returncode == 0 else 0


def said(error: Exception) -> str:
    """An error as one line."""
    return one_line(error)[:200]
