"""What one machine of a cluster sees of what a run needs."""

import importlib.metadata
import platform
import shutil
import socket
import tempfile
import uuid
from dataclasses import dataclass

from mmgenre import storage
from mmgenre.errors import InputError

_PACKAGES = ("ray", "torch", "torchvision", "transformers", "pyarrow", "safetensors")
_CONNECT_S = 5


@dataclass(frozen=True)
class Probe:
    """What a machine is asked.

    Args:
        marks: locations of files, and what should stand in them.
        inputs: locations where something should be.
        hosts: names and ports that should answer.
        wants_gpus: whether torch should see GPUs.
    """

    marks: dict[str, str]
    inputs: tuple[str, ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()
    wants_gpus: bool = False


@dataclass(frozen=True)
class Seen:
    """What it answers; errors are by what they are about, and hold nothing where all is well.

    Args:
        versions: of Python and of packages.
        storage: errors by mark.
        inputs: errors by location.
        hosts: errors by name.
        gpus: that torch can use; None where it was not asked.
        used: share of the disk that Ray spills to.
        free_bytes: on that disk.
    """

    versions: dict[str, str]
    storage: dict[str, str]
    inputs: dict[str, str]
    hosts: dict[str, str]
    gpus: int | None
    used: float
    free_bytes: int


def look(probe: Probe) -> Seen:
    """Answer from the machine that this runs on."""
    disk = shutil.disk_usage(tempfile.gettempdir())
    return Seen(
        versions=versions(),
        storage=_errors({location: _compared(location, text) for location, text in probe.marks.items()}),
        inputs=_errors({location: _found(location) for location in probe.inputs}),
        hosts=_errors({name: _reached(name, port) for name, port in probe.hosts}),
        gpus=_gpus() if probe.wants_gpus else None,
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


def _errors(outcomes: dict[str, str | None]) -> dict[str, str]:
    return {about: error for about, error in outcomes.items() if error is not None}


def _compared(location: str, text: str) -> str | None:
    """Read what the driver wrote, and write something beside it."""
    try:
        if storage.read_bytes(location).decode() != text:
            return "another file than the driver's"
        storage.write_bytes(f"{location}-{uuid.uuid4().hex}", b"")
    except FileNotFoundError:
        return "what the driver wrote is not there: not the same storage"
    except (OSError, InputError) as error:
        return _said(error)
    return None


def _found(location: str) -> str | None:
    try:
        return None if storage.exists(location) else "nothing is there"
    except (OSError, InputError) as error:
        return _said(error)


def _reached(name: str, port: int) -> str | None:
    try:
        socket.create_connection((name, port), timeout=_CONNECT_S).close()
    except OSError as error:
        return _said(error)
    return None


def _gpus() -> int:
    import torch  # noqa: PLC0415 - seconds, for those who want GPUs

    return torch.cuda.device_count()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
