"""Checks before a run for what would fail hours later: versions, CPUs and GPUs, storage, keys, hosts, tokens, disks."""

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import ray
import requests
from pyarrow import fs
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmgenre import ray_session
from mmgenre.config import Config
from mmgenre.errors import InputError, one_line
from mmgenre.operations import node_probe
from mmgenre.operations.node_probe import NodeReport, Probe
from mmgenre.operations.requirements import RunRequirements, requirements_of
from mmgenre.tables import storage

_PROBE_TIMEOUT_S, _DASHBOARD_TIMEOUT_S = 120, 10
# Ray schedules no more work on a node whose disk is fuller than this.
_MAX_DISK_USED = 0.95

Node = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """The result of one check, printed as one line."""

    subject: str
    detail: str
    passed: bool = True

    def __str__(self) -> str:
        """The printed line."""
        return f"{'ok  ' if self.passed else 'FAIL'} {self.subject}: {self.detail}"


def examine(config: Config) -> str:
    """Check everything that a run with this config needs; prints one line per check.

    Raises:
        InputError: at least one check failed.
    """
    ray_session.connect()
    requirements = requirements_of(config)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    with _marker_files(requirements.outputs) as (marker, unwritable):
        outputs = tuple(folder for folder in requirements.outputs if folder not in unwritable)
        answers = _probe_nodes(
            nodes, Probe(marker, outputs, requirements.inputs, requirements.hosts, packages=requirements.packages)
        )
    checks = [*_checks(requirements, nodes, answers, unwritable)]
    print(*checks, sep="\n", flush=True)  # noqa: T201 - the report of this job
    failed = sum(not check.passed for check in checks)
    if failed:
        raise InputError(f"{failed} of {len(checks)} checks failed; see the lines marked FAIL")
    return f"all {len(checks)} checks passed"


def _checks(
    requirements: RunRequirements,
    nodes: Sequence[Node],
    answers: Mapping[str, NodeReport | str],
    unwritable: Mapping[str, str],
) -> Iterator[Check]:
    yield Check("nodes", f"{len(nodes)} with {_total(nodes, 'CPU'):g} CPUs and {_total(nodes, 'GPU'):g} GPUs now")
    reports = {node: answer for node, answer in answers.items() if isinstance(answer, NodeReport)}
    for node, answer in answers.items():
        if isinstance(answer, str):
            yield Check(node, f"{answer}; is mmgenre installed there?", passed=False)
    yield check_versions(reports)
    yield _check_resources(requirements)
    for folder in requirements.outputs:
        yield check_output(folder, reports, unwritable.get(folder))
    for location in requirements.inputs:
        errors = _by_node({node: report.input_errors.get(location) for node, report in reports.items()})
        yield _check(
            location, errors, "use a location that exists and that every node can read", "exists on every node"
        )
        if location in requirements.mistakes:
            yield Check(location, requirements.mistakes[location], passed=False)
    if requirements.packages:
        missing = _by_node({node: ", ".join(report.missing_packages) for node, report in reports.items()})
        found = f"{', '.join(requirements.packages)}, on every node"
        yield _check("packages", missing and f"missing {missing}", "pip install 'mmgenre[all]' there", found)
    for service, error in requirements.keys.items():
        yield Check("keys", error or f"{service}: set in the driver's environment", error is None)
    for host in requirements.hosts:
        errors = _by_node({node: report.host_errors.get(host) for node, report in reports.items()})
        fix = "check the address, and the firewalls and proxies between it and the nodes"
        yield _check(f"{host[0]}:{host[1]}", errors, fix, "reachable from every node")
    yield _check_authentication()
    for node, report in reports.items():
        yield from _check_node(node, report)


def _check(subject: str, error: str, fix: str, success: str) -> Check:
    return Check(subject, f"{error}; {fix}", passed=False) if error else Check(subject, success)


@contextlib.contextmanager
def _marker_files(folders: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Put a marker file into each folder; yields its name, and by folder why none could be written.

    On exit, deletes these files, those that nodes wrote next to them, and the folders created for them.
    """
    marker, unwritable, created = f".doctor-{uuid.uuid4().hex}", {}, []
    try:
        for folder in folders:
            try:
                storage.names_in(folder)
                created += _missing_folders(folder)
                storage.write_bytes(storage.join(folder, marker), b"")
            except (OSError, InputError) as error:
                unwritable[folder] = node_probe.short_error(error)
        yield marker, unwritable
    finally:
        for folder in {*folders} - {*unwritable}:
            for name in storage.names_in(folder):
                if name.startswith(marker):
                    storage.delete(storage.join(folder, name))
        for folder in created:
            if storage.kind(folder) == fs.FileType.Directory and not storage.names_in(folder):
                storage.delete(folder)


def _missing_folders(folder: str) -> list[str]:
    """The folder and its parents, as far as they do not exist; innermost first."""
    scheme, separator, path = folder.rpartition("://")
    paths = [path, *map(str, PurePosixPath(path).parents)]
    folders = [f"{scheme}{separator}{path}" for path in paths if path not in (".", "/")]
    return [folder for folder in folders if not storage.exists(folder)]


def _probe_nodes(nodes: Sequence[Node], probe: Probe) -> dict[str, NodeReport | str]:
    """Each node's report, made by a task on that node; or the reason why there is none."""
    tasks = {f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}": _start_probe(node, probe) for node in nodes}
    ray.wait([*tasks.values()], num_returns=len(tasks), timeout=_PROBE_TIMEOUT_S)
    return {name: _report(task) for name, task in tasks.items()}


def _start_probe(node: Node, probe: Probe) -> ray.ObjectRef:
    on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(node_probe.look).options(num_cpus=0, scheduling_strategy=on_node, max_retries=0)
    return task.remote(replace(probe, gpus=int(_total([node], "GPU"))))


def _report(task: ray.ObjectRef) -> NodeReport | str:
    try:
        return ray.get(task, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {_PROBE_TIMEOUT_S} s"
    except ray.exceptions.RayError as error:
        return one_line(error)[-200:]


def _by_node(errors: Mapping[str, str | None]) -> str:
    """All nodes' errors as one text; empty if there are none."""
    return "; ".join(f"on {node}: {error}" for node, error in errors.items() if error)


def check_output(folder: str, reports: Mapping[str, NodeReport], driver_error: str | None = None) -> Check:
    """Whether all nodes write to the same folder as the driver.

    Args:
        folder: an output folder, absolute.
        reports: by node.
        driver_error: why the driver itself cannot write there.
    """
    if driver_error is not None:
        return Check(folder, f"{driver_error}; use a folder or a bucket's URI that can be written to", passed=False)
    errors = _by_node({node: report.output_errors.get(folder) for node, report in reports.items()})
    fix = "all nodes must use the same storage: a URI such as s3://bucket/folder, or a shared filesystem"
    return _check(folder, errors, fix, "writable, and the same on every node")


def check_versions(reports: Mapping[str, NodeReport]) -> Check:
    """Whether all nodes have the driver's versions of Python and of the packages."""
    own = node_probe.versions()
    differences = [
        f"{package} {report.versions[package]} on {node}, {version} on the driver's"
        for node, report in reports.items()
        for package, version in own.items()
        if report.versions[package] != version
    ]
    fix = "install with the same constraints.txt on all nodes"
    return _check("versions", "; ".join(differences), fix, ", ".join(" ".join(pair) for pair in own.items()))


def _check_resources(requirements: RunRequirements) -> Check:
    available = ray_session.max_resources()
    detail = (
        f"needs {requirements.cpus:g} CPUs and {requirements.gpus:g} GPUs at the same time; "
        f"the cluster has at most {available['CPU']:g} and {available['GPU']:g}"
    )
    is_enough = requirements.cpus <= available["CPU"] and requirements.gpus <= available["GPU"]
    if not is_enough and ray_session.may_grow():
        return Check("resources", f"{detail}, unless an autoscaler adds nodes")
    return _check("resources", "" if is_enough else detail, "ask for fewer, or add nodes", detail)


def _total(nodes: Sequence[Node], resource: str) -> float:
    return sum(node["Resources"].get(resource, 0) for node in nodes)


def _check_node(node: str, report: NodeReport) -> Iterator[Check]:
    """A node's GPUs, if it offers any, and its disk."""
    if report.gpus_offered:
        detail = f"torch can use {report.gpus_usable} of {report.gpus_offered}"
        error = detail if report.gpus_usable < report.gpus_offered else ""
        yield _check(f"GPUs of {node}", error, "check the driver's version there, and torch's CUDA version", detail)
    detail = f"{report.disk_used:.0%} used, {report.disk_free / 1e9:,.0f} GB free"
    yield _check(f"disk of {node}", detail if report.disk_used >= _MAX_DISK_USED else "", "free space there", detail)


def _check_authentication() -> Check:
    """Whether the dashboard refuses to run commands without the token."""
    subject, address = "authentication", ray_session.dashboard()
    if address is None:
        return Check(subject, "no dashboard, so nobody can submit jobs to it")
    try:
        status = requests.get(f"http://{address}/api/jobs/", timeout=_DASHBOARD_TIMEOUT_S).status_code
    except requests.exceptions.RequestException as error:
        detail = f"no answer from {address} ({type(error).__name__})"
        return Check(subject, f"{detail}; run this on the head node, where the dashboard runs", passed=False)
    problem = "" if status in (401, 403) else f"{address} accepts commands from anyone (HTTP {status})"
    return _check(subject, problem, "start every node with RAY_AUTH_MODE=token", f"{address} requires a token")
