"""What a run would fail for later, found before it: nothing where all is well, and a line that says how to mend it."""

import ipaddress
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from clusters import free_port, head

from mmgenre.config import parse_args
from mmgenre.errors import InputError
from mmgenre.export.job import ExportConfig
from mmgenre.operations import node_probe
from mmgenre.operations.doctor import examine, same_storage, same_versions
from mmgenre.operations.node_probe import Probe
from mmgenre.operations.requirements import RUNS, needs_of
from mmgenre.report.job import ReportConfig
from mmgenre.serving.job import ServingConfig
from mmgenre.tagging.job import TagConfig
from mmgenre.topics.job import TopicsConfig

ROOT = Path(__file__).parent.parent


@pytest.fixture
def examined(local_ray, monkeypatch, capsys):
    """The lines of doctor's account of a run, and whether all is well."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("TMDB_TOKEN", raising=False)
    monkeypatch.delenv("TMDB_API_KEY", raising=False)

    def examined(*arguments):
        try:
            is_good = "all good" in examine(parse_args(RUNS, [f"configs/{arguments[0]}", *arguments[1:]]))
        except InputError:
            is_good = False
        return capsys.readouterr().out.splitlines(), is_good

    return examined


@pytest.fixture
def checkpoint(tmp_path):
    """Something where a model should be."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return folder


def failures(lines):
    assert all(line.startswith(("ok   ", "FAIL ")) for line in lines)
    return [line for line in lines if line.startswith("FAIL ")]


def files_below(folder):
    return sorted(folder.rglob("*"))


def test_a_good_run_of_each_kind_has_a_line_for_each_check_and_leaves_nothing(
    examined, generated_movies, checkpoint, tmp_path
):
    (tmp_path / "there").mkdir()
    before = files_below(tmp_path)
    runs = {
        "train/tfidf.yaml": [f"dataset={generated_movies}", f"output={tmp_path}/new/below/it"],
        "pipeline/demo.yaml": [f"output={tmp_path}/there"],
        "tag/default.yaml": [f"checkpoint={checkpoint}", f"movies={generated_movies}", f"output={tmp_path}/there/tags"],
    }

    for config, arguments in runs.items():
        lines, is_good = examined(config, *arguments)

        assert is_good, lines
        assert failures(lines) == []
        checked = [line.removeprefix("ok   ").partition(": ")[0] for line in lines]
        assert checked[:3] == ["nodes", "versions", "processors"]
        assert {*checked[3:-2]} == {argument.partition("=")[2] for argument in arguments}
        assert checked[-2] == "authentication"
        assert checked[-1].startswith("disk of ")
        assert files_below(tmp_path) == before


def test_what_is_wrong_is_said_with_what_to_do_about_it(examined, generated_movies, tmp_path):
    (tmp_path / "file").write_text("in the way")
    output = f"output={tmp_path / 'out'}"

    def only(*arguments):
        lines, is_good = examined(*arguments)
        assert not is_good
        (line,) = failures(lines)
        return line

    train = "train/tfidf.yaml", f"dataset={generated_movies}"
    assert only(*train, output, "workers=500") == (
        f"FAIL processors: waits for 500 CPUs and 0 GPUs, {os.cpu_count()} and 0 are the most there can be; "
        "ask for fewer, or add nodes"
    )
    assert "waits for 1 CPUs and 1 GPUs" in only(*train, output, "accelerator=gpu")
    nowhere = only("train/tfidf.yaml", f"dataset={tmp_path / 'nowhere'}", output)
    assert nowhere.startswith(f"FAIL {tmp_path / 'nowhere'}: from ")
    assert nowhere.endswith(": nothing is there; give what is there, and where every node finds it")
    in_the_way = only(*train, f"output={tmp_path / 'file'}")
    assert in_the_way.startswith(f"FAIL {tmp_path / 'file'}: {tmp_path / 'file'}: is a file; expected a folder; give")
    assert str(tmp_path / "file") in only(*train, f"output={tmp_path / 'file' / 'below'}")
    assert files_below(tmp_path) == [tmp_path / "file"]


def test_a_missing_key_and_a_host_that_does_not_answer_are_said(examined, generated_movies, tmp_path):
    port = free_port()
    address = f"provider.base_url=http://127.0.0.1:{port}"

    lines, is_good = examined(
        "enrich/default.yaml", f"catalog={generated_movies}", f"output={tmp_path / 'out'}", address
    )

    assert not is_good
    key, host = failures(lines)
    assert key.startswith("FAIL keys: provider tmdb: no key in the environment; set TMDB_TOKEN")
    assert host.startswith(f"FAIL 127.0.0.1:{port}: from ")
    assert "refused; look at its address" in host


def test_the_job_ends_with_1_and_a_line_where_something_is_wrong(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "jobs/doctor.py", "configs/train/tfidf.yaml", f"dataset={tmp_path / 'nowhere'}"]

    result = subprocess.run(
        [*command, f"output={tmp_path / 'out'}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert result.returncode == 1
    assert len(failures(result.stdout.splitlines())) == 1
    assert result.stderr.splitlines()[-1].startswith("error: 1 of ")
    assert "Traceback" not in result.stderr


def test_a_dashboard_that_takes_commands_from_anyone_is_found(generated_movies, tmp_path):
    arguments = ["configs/train/tfidf.yaml", f"dataset={generated_movies}", f"output={tmp_path / 'out'}"]
    with head(auth="disabled") as cluster:
        result = subprocess.run(
            [sys.executable, "jobs/doctor.py", *arguments],
            cwd=ROOT,
            env=cluster.environment | {"RAY_ADDRESS": cluster.address},
            capture_output=True,
            text=True,
            check=False,
        )

    assert result.returncode == 1, result.stderr
    (line,) = failures(result.stdout.splitlines())
    assert line.startswith("FAIL authentication: 127.0.0.1:")
    assert line.endswith("takes commands from anyone (HTTP 200); start every node with RAY_AUTH_MODE=token")


def test_versions_that_differ_between_nodes_are_named():
    here = node_probe.look(Probe("mark"))
    there = replace(here, versions=here.versions | {"torch": "2.9.0"})

    assert same_versions({"here": here}).is_good
    finding = same_versions({"here": here, "10.0.0.2/ab12cd": there})
    assert not finding.is_good
    assert finding.detail == (
        f"torch 2.9.0 on 10.0.0.2/ab12cd, {here.versions['torch']} here; "
        "install with the same constraints.txt everywhere"
    )


def test_a_folder_that_is_another_one_on_another_node_is_found(tmp_path):
    mine, other = tmp_path / "out", tmp_path / "out2"
    for folder in (mine, other):
        folder.mkdir()
    (mine / "mark").touch()

    probed = node_probe.look(Probe("mark", outputs=(str(mine), str(other))))

    assert same_storage(str(mine), {"node": probed}).is_good
    finding = same_storage(str(other), {"10.0.0.2/ab12cd": probed})
    assert not finding.is_good
    assert finding.detail == (
        "from 10.0.0.2/ab12cd: what the driver wrote is not there; "
        "every node must reach one storage: a URI such as s3://bucket/folder, or a shared filesystem"
    )
    assert len(files_below(mine)) == 2


def needs(*arguments):
    return needs_of(parse_args(RUNS, [str(ROOT / "configs" / arguments[0]), *arguments[1:]]))


def test_a_stages_input_that_another_stage_makes_needs_not_be_there():
    found = needs("pipeline/default.yaml", "catalog.input=/data/dump.tsv", "output=/runs/x")
    assert found.inputs == ("/data/dump.tsv",)
    assert found.outputs == ("/runs/x",)
    assert found.hosts == (("api.themoviedb.org", 443),)

    # An output is no input of its own.
    assert needs("train/tfidf.yaml", "dataset=/runs/x/movies", "output=/runs/x").inputs == ("/runs/x/movies",)


def test_posters_need_the_hosts_that_they_come_from():
    found = needs("posters/default.yaml", "enriched=/in", "output=/out", "allowed_hosts=[image.tmdb.org,'[::1]:80']")

    assert found.hosts == (("::1", 80), ("image.tmdb.org", 443))


def test_nothing_of_a_local_session_is_reached_from_elsewhere():
    code = """
import ray
from mmgenre import ray_session as cluster
cluster.connect()
ray.get(ray.remote(lambda: None).remote())
print("session", ray._private.worker._global_node.get_session_dir_path(), flush=True)
input()
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        session = next(line.split()[1] for line in process.stdout if line.startswith("session "))
        listening = [
            (one.name(), connection.laddr.ip)
            for one in processes_of(process.pid, session)
            for connection in one.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        process.communicate("\n")

    assert {"gcs_server", "raylet", "ray::DashboardAgent"} <= {name for name, _ in listening}
    assert [found for found in listening if not is_loopback(found[1])] == []


def processes_of(pid, session):
    """A driver, its children, and those of its session that others have taken over."""
    family = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    for one in psutil.process_iter(["cmdline"]):
        if any(session in word for word in one.info["cmdline"] or ()):
            family |= {one.pid, *(child.pid for child in one.children(recursive=True))}
    return [psutil.Process(one) for one in family if psutil.pid_exists(one)]


def is_loopback(address):
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


@pytest.mark.parametrize(
    ("config_type", "arguments"),
    [
        (TopicsConfig, ["topics/default.yaml", "checkpoint=/model", "movies=/in", "output=/out"]),
        (ServingConfig, ["serve/default.yaml", "checkpoint=/model"]),
        (ExportConfig, ["export/default.yaml", "checkpoint=/model", "output=/out"]),
        (ReportConfig, ["report/default.yaml", "movies=/in", "output=/out", "models.one.predictions=/in2"]),
        (TagConfig, ["tag/default.yaml", "checkpoint=/model", "movies=/in", "output=/out"]),
    ],
)
def test_a_job_is_known_by_the_fields_that_its_config_has(config_type, arguments):
    assert type(parse_args(RUNS, [str(ROOT / "configs" / arguments[0]), *arguments[1:]])) is config_type


def test_a_service_needs_a_place_for_each_replica():
    found = needs("serve/default.yaml", "checkpoint=/model", "replicas=3", "cpus_per_replica=2", "accelerator=gpu")

    assert (found.cpus, found.gpus, found.inputs, found.outputs) == (6, 3, ("/model",), ())
