"""What would fail hours later, found before a run: versions, processors, storage, keys, hosts, tokens, room on disk."""

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import ray
import requests
from pyarrow import fs
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmgenre import ray_session as cluster
from mmgenre.config import Config
from mmgenre.errors import InputError, one_line
from mmgenre.operations import node_probe
from mmgenre.operations.node_probe import Probe, Seen
from mmgenre.operations.requirements import Needs, needs_of
from mmgenre.tables import storage

_ANSWER_S, _DASHBOARD_S = 120, 10
# Ray takes no more work where a disk is fuller than this.
_FULLEST = 0.95

Node = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One line of the account."""

    what: str
    detail: str
    is_good: bool = True

    def __str__(self) -> str:
        """Its line."""
        return f"{'ok  ' if self.is_good else 'FAIL'} {self.what}: {self.detail}"


def examine(config: Config) -> str:
    """Check all that a run of a config needs; prints a line for each check.

    Raises:
        InputError: something would fail.
    """
    cluster.connect()
    needs = needs_of(config)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    with _marked(needs.outputs) as (mark, unwritable):
        outputs = tuple(storage.absolute(folder) for folder in needs.outputs if folder not in unwritable)
        answers = _answers(nodes, Probe(mark, outputs, needs.inputs, needs.hosts))
    findings = [*_findings(needs, nodes, answers, unwritable)]
    print(*findings, sep="\n", flush=True)  # noqa: T201 - the account
    failed = sum(not finding.is_good for finding in findings)
    if failed:
        raise InputError(f"{failed} of {len(findings)} checks failed; what is wrong stands behind FAIL")
    return f"{len(findings)} checks, all good"


def _findings(
    needs: Needs, nodes: Sequence[Node], answers: dict[str, Seen | str], unwritable: dict[str, str]
) -> Iterator[Finding]:
    yield Finding("nodes", f"{len(nodes)}, {_total(nodes, 'CPU'):g} CPUs and {_total(nodes, 'GPU'):g} GPUs now")
    seen = {node: answer for node, answer in answers.items() if isinstance(answer, Seen)}
    for node, answer in answers.items():
        if isinstance(answer, str):
            yield Finding(node, f"{answer}; is the project installed there?", False)
    yield same_versions(seen)
    yield _processors(needs)
    for folder in needs.outputs:
        yield same_storage(folder, seen, unwritable.get(folder))
    for location in needs.inputs:
        errors = _from_nodes({node: one.inputs.get(location) for node, one in seen.items()})
        yield _checked(location, errors, "give what is there, and where every node finds it", "there for every node")
    for provider, refusal in needs.keys.items():
        yield Finding("keys", refusal or f"{provider}'s is in the driver's environment", refusal is None)
    for host in needs.hosts:
        errors = _from_nodes({node: one.hosts.get(host) for node, one in seen.items()})
        mend = "look at its address, and at what lies between it and the nodes"
        yield _checked(f"{host[0]}:{host[1]}", errors, mend, "answers every node")
    yield _authentication()
    for node, one in seen.items():
        yield from _machine(node, one)


def _checked(what: str, error: str, mend: str, good: str) -> Finding:
    return Finding(what, f"{error}; {mend}", False) if error else Finding(what, good)


@contextlib.contextmanager
def _marked(folders: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """A file in each folder for as long as this lasts; yields its name, and why a folder has none.

    Nothing is left of it, of what nodes wrote beside it, and of folders that were made for it.
    """
    mark, unwritable, made = f".doctor-{uuid.uuid4().hex}", {}, []
    try:
        for folder in folders:
            try:
                storage.names_in(folder)
                made += _missing(folder)
                storage.write_bytes(storage.join(folder, mark), b"")
            except (OSError, InputError) as error:
                unwritable[folder] = node_probe.said(error)
        yield mark, unwritable
    finally:
        for folder in {*folders} - {*unwritable}:
            for name in storage.names_in(folder):
                if name.startswith(mark):
                    storage.delete(storage.join(folder, name))
        for folder in made:
            if storage.kind(folder) == fs.FileType.Directory and not storage.names_in(folder):
                storage.delete(folder)


def _missing(folder: str) -> list[str]:
    """A folder and those that it is in, as far as they are not there, the innermost first."""
    scheme, separator, path = storage.absolute(folder).rpartition("://")
    places = [path, *map(str, PurePosixPath(path).parents)]
    inside = [f"{scheme}{separator}{place}" for place in places if place not in (".", "/")]
    return [place for place in inside if not storage.exists(place)]


def _answers(nodes: Sequence[Node], probe: Probe) -> dict[str, Seen | str]:
    """What each node sees, asked in a process of its own there; a reason where nothing came."""
    asked = {f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}": _asked(node, probe) for node in nodes}
    ray.wait([*asked.values()], num_returns=len(asked), timeout=_ANSWER_S)
    return {name: _answered(answer) for name, answer in asked.items()}


def _asked(node: Node, probe: Probe) -> ray.ObjectRef:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    ask = ray.remote(node_probe.look).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
    return ask.remote(replace(probe, gpus=int(_total([node], "GPU"))))


def _answered(answer: ray.ObjectRef) -> Seen | str:
    try:
        return ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return f"no answer within {_ANSWER_S} s"
    except ray.exceptions.RayError as error:
        return one_line(error)[-200:]


def _from_nodes(errors: dict[str, str | None]) -> str:
    """What is wrong, and from which nodes; nothing where nothing is."""
    return "; ".join(f"from {node}: {error}" for node, error in errors.items() if error)


def same_storage(folder: str, seen: dict[str, Seen], unwritable: str | None = None) -> Finding:
    """Whether all nodes write where the driver does.

    Args:
        folder: of an output.
        seen: what each node sees.
        unwritable: why the driver itself cannot write there.
    """
    if unwritable is not None:
        return Finding(folder, f"{unwritable}; give a folder, or a URI in a bucket that is there, to write to", False)
    mend = "every node must reach one storage: a URI such as s3://bucket/folder, or a shared filesystem"
    errors = _from_nodes({node: one.outputs.get(storage.absolute(folder)) for node, one in seen.items()})
    return _checked(folder, errors, mend, "writable, and the same from every node")


def same_versions(seen: dict[str, Seen]) -> Finding:
    """Whether all nodes have the driver's Python and packages."""
    mine = node_probe.versions()
    others = [
        f"{package} {one.versions[package]} on {node}, {version} here"
        for node, one in seen.items()
        for package, version in mine.items()
        if one.versions[package] != version
    ]
    mend = "install with the same constraints.txt everywhere"
    return _checked("versions", "; ".join(others), mend, ", ".join(" ".join(pair) for pair in mine.items()))


def _processors(needs: Needs) -> Finding:
    most = cluster.most_resources()
    account = (
        f"waits for {needs.cpus:g} CPUs and {needs.gpus:g} GPUs, "
        f"{most['CPU']:g} and {most['GPU']:g} are the most there can be"
    )
    is_enough = needs.cpus <= most["CPU"] and needs.gpus <= most["GPU"]
    if not is_enough and cluster.may_grow():
        return Finding("processors", f"{account} unless an autoscaler brings more")
    return _checked("processors", "" if is_enough else account, "ask for fewer, or add nodes", account)


def _total(nodes: Sequence[Node], resource: str) -> float:
    return sum(node["Resources"].get(resource, 0) for node in nodes)


def _machine(node: str, one: Seen) -> Iterator[Finding]:
    """Its GPUs, where it offers any, and its disk."""
    if one.gpus_offered:
        account = f"torch can use {one.gpus_usable} of {one.gpus_offered}"
        error = account if one.gpus_usable < one.gpus_offered else ""
        yield _checked(f"GPUs of {node}", error, "look at the driver's version there, and at torch's CUDA", account)
    account = f"{one.used:.0%} used, {one.free_bytes / 1e9:,.0f} GB free"
    yield _checked(f"disk of {node}", account if one.used >= _FULLEST else "", "make room there", account)


def _authentication() -> Finding:
    """Whether the dashboard runs the commands of people without a token."""
    what, address = "authentication", cluster.dashboard()
    if address is None:
        return Finding(what, "no dashboard, so nobody can submit to it")
    try:
        status = requests.get(f"http://{address}/api/jobs/", timeout=_DASHBOARD_S).status_code
    except requests.exceptions.RequestException as error:
        found = f"{address} does not answer from here ({type(error).__name__})"
        return Finding(what, f"{found}; run this on the head, where the dashboard is", False)
    is_open = status not in (401, 403)
    found = f"{address} takes commands from anyone (HTTP {status})"
    mend = "start every node with RAY_AUTH_MODE=token"
    return _checked(what, found if is_open else "", mend, f"{address} wants a token")
