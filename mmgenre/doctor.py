"""What would fail hours later, found before a run: versions, processors, storage, keys, hosts, tokens, room on disk."""

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import requests
from pyarrow import fs
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmgenre import cluster, node_probe, storage
from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.needs import Needs, needs_of
from mmgenre.node_probe import Probe, Seen

_ANSWER_S, _DASHBOARD_S = 120, 10
# Ray takes no more work where a disk is fuller than this.
_FULLEST = 0.95


@dataclass(frozen=True)
class Finding:
    """One line of the account."""

    is_good: bool
    what: str
    detail: str

    def __str__(self) -> str:
        """Its line."""
        return f"{'ok  ' if self.is_good else 'FAIL'} {self.what}: {self.detail}"


def examine(config: Config) -> str:
    """Check all that a run of a config needs; prints a line for each check.

    Raises:
        InputError: something would fail.
    """
    cluster.connect()
    findings = []
    for finding in _findings(needs_of(config)):
        print(finding, flush=True)  # noqa: T201 - the account, while it is made
        findings.append(finding)
    failed = sum(not finding.is_good for finding in findings)
    if failed:
        raise InputError(f"{failed} of {len(findings)} checks failed; what is wrong stands behind FAIL")
    return f"{len(findings)} checks, all good"


def _findings(needs: Needs) -> Iterator[Finding]:
    with _marks_in(needs.outputs) as (marks, errors):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        yield Finding(True, "nodes", f"{len(nodes)}, {_total(nodes, 'CPU')} CPUs and {_total(nodes, 'GPU')} GPUs now")
        seen = {}
        for name, answer in _answers(nodes, Probe(marks, needs.inputs, needs.hosts, needs.gpus > 0)).items():
            if isinstance(answer, Seen):
                seen[name] = answer
            else:
                yield Finding(False, name, f"{answer}; is the project installed there?")
        yield _versions(seen)
        yield _processors(needs)
        for folder in needs.outputs:
            yield _storage(
                folder, errors.get(folder) or _from_nodes({node: _at(one, folder) for node, one in seen.items()})
            )
    for location in needs.inputs:
        error = _from_nodes({node: one.inputs.get(location) for node, one in seen.items()})
        yield Finding(not error, location, error or "readable from every node")
    for provider, refusal in needs.keys.items():
        yield Finding(refusal is None, "keys", refusal or f"{provider}'s is in the driver's environment")
    for host, port in needs.hosts:
        error = _from_nodes({node: one.hosts.get(host) for node, one in seen.items()})
        yield Finding(not error, host, error or f"port {port} answers every node")
    yield _authentication()
    for name, one in seen.items():
        detail = f"{one.used:.0%} used, {one.free_bytes / 1e9:,.0f} GB free"
        yield Finding(one.used < _FULLEST, f"disk of {name}", detail)


@contextlib.contextmanager
def _marks_in(folders: tuple[str, ...]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """A file in each folder for as long as this lasts: what is in each file, and why a folder has none."""
    marks, errors, name = {}, {}, f".doctor-{uuid.uuid4().hex}"
    new = []
    for folder in folders:
        try:
            if not storage.names_in(folder):
                new.append(folder)
            location = storage.absolute(storage.join(folder, name))
            storage.write_bytes(location, uuid.uuid4().hex.encode())
            marks[location] = storage.read_bytes(location).decode()
        except (OSError, InputError) as error:
            errors[folder] = " ".join(str(error).split())[:200]
    try:
        yield marks, errors
    finally:
        for folder in {*folders} - {*errors}:
            for found in storage.names_in(folder):
                if found.startswith(name):
                    storage.delete(storage.join(folder, found))
            if folder in new and storage.kind(folder) == fs.FileType.Directory:
                storage.delete(folder)


def _answers(nodes: list[dict[str, Any]], probe: Probe) -> dict[str, Seen | str]:
    """What each node sees, asked in a process of its own there; a reason where nothing came."""
    ask = ray.remote(node_probe.look)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answer = ask.options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote(probe)
        asked[f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}"] = answer
    ray.wait([*asked.values()], num_returns=len(asked), timeout=_ANSWER_S)
    return {name: _answered(answer) for name, answer in asked.items()}


def _answered(answer: ray.ObjectRef) -> Seen | str:
    try:
        return ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {_ANSWER_S} s"
    except ray.exceptions.RayError as error:
        return " ".join(str(error).split())[-200:]


def _from_nodes(errors: dict[str, str | None]) -> str:
    """What is wrong, and from which nodes; nothing where nothing is."""
    return "; ".join(f"from {name}: {error}" for name, error in errors.items() if error)


def _at(one: Seen, folder: str) -> str | None:
    return next((error for place, error in one.storage.items() if place.startswith(storage.absolute(folder))), None)


def _storage(folder: str, error: str) -> Finding:
    mend = "every node must reach one storage: a URI such as s3://bucket/folder, or a shared filesystem"
    return Finding(not error, folder, f"{error}; {mend}" if error else "writable, and the same from every node")


def _versions(seen: dict[str, Seen]) -> Finding:
    mine = node_probe.versions()
    others = [
        f"{package} {one.versions[package]} on {name}, {version} here"
        for name, one in seen.items()
        for package, version in mine.items()
        if one.versions[package] != version
    ]
    if others:
        return Finding(False, "versions", f"{'; '.join(others)}; install with the same constraints.txt everywhere")
    return Finding(True, "versions", ", ".join(f"{package} {version}" for package, version in mine.items()))


def _processors(needs: Needs) -> Finding:
    most = cluster.most_resources()
    cpus, gpus = most.get("CPU", 0), most.get("GPU", 0)
    account = f"waits for {needs.cpus:g} CPUs and {needs.gpus:g} GPUs, {cpus:g} and {gpus:g} are the most there can be"
    is_enough = needs.cpus <= cpus and needs.gpus <= gpus
    return Finding(is_enough, "processors", account if is_enough else f"{account}; ask for fewer, or add nodes")


def _total(nodes: list[dict[str, Any]], resource: str) -> str:
    return f"{sum(node['Resources'].get(resource, 0) for node in nodes):g}"


def _authentication() -> Finding:
    """Whether the dashboard runs the commands of people without a token."""
    what, address = "authentication", cluster.dashboard()
    if address is None:
        return Finding(True, what, "no dashboard, so nobody can submit to it")
    try:
        status = requests.get(f"http://{address}/api/jobs/", timeout=_DASHBOARD_S).status_code
    except requests.exceptions.RequestException as error:
        return Finding(False, what, f"{address} does not answer ({type(error).__name__})")
    if status in (401, 403):
        return Finding(True, what, f"{address} wants a token")
    return Finding(
        False, what, f"{address} takes commands from anyone (HTTP {status}); start every node with RAY_AUTH_MODE=token"
    )
