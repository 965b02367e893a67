"""Doctor finds before a run what would fail during it, and says how to fix it."""

import ipaddress
import os
from dataclasses import replace

import numpy as np
import psutil
import pytest
from clusters import free_port, head
from job_runs import ROOT, run_job

from mmgenre import ray_session
from mmgenre.config import parse_any_job
from mmgenre.errors import InputError
from mmgenre.evaluation.compare import CompareConfig
from mmgenre.evaluation.job import EvaluateConfig
from mmgenre.explain.config import ExplainTableConfig
from mmgenre.export.job import ExportConfig
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card, save
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.operations import node_probe
from mmgenre.operations.doctor import check_output, check_versions, examine
from mmgenre.operations.node_probe import Probe
from mmgenre.operations.requirements import JOBS, requirements_of
from mmgenre.report.job import ReportConfig
from mmgenre.scoring.thresholds import fit_thresholds
from mmgenre.serving.job import ServingConfig
from mmgenre.tagging.job import TagConfig
from mmgenre.topics.job import TopicsConfig


@pytest.fixture
def examined(local_ray, monkeypatch, capsys):
    """Runs doctor; returns the lines it prints, and whether all checks passed."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("TMDB_TOKEN", raising=False)
    monkeypatch.delenv("TMDB_API_KEY", raising=False)

    def examined(*arguments):
        try:
            result = examine(parse_any_job(JOBS, [job_of(arguments[0]), f"configs/{arguments[0]}", *arguments[1:]]))
            passed = result.endswith("checks passed")
        except InputError:
            passed = False
        return capsys.readouterr().out.splitlines(), passed

    return examined


@pytest.fixture
def checkpoint(tmp_path):
    """A small trained model that counts words."""
    config, folder = TfidfConfig(), tmp_path / "checkpoint"
    labels = np.tile(np.eye(len(GENRES), dtype=np.float32), (4, 1))
    model = config.fit(Movies.of_plots([f"word{number % 9} again" for number in range(len(labels))]), labels)
    save(model, Card(model=config, thresholds=fit_thresholds(np.full_like(labels, 0.5), labels)), str(folder))
    return folder


def job_of(config):
    """The job whose folder holds a shipped config."""
    return config.partition("/")[0]


def failures(lines):
    assert all(line.startswith(("ok   ", "FAIL ")) for line in lines)
    return [line for line in lines if line.startswith("FAIL ")]


def files_below(folder):
    return sorted(folder.rglob("*"))


def test_a_good_run_passes_every_check_and_leaves_no_files(examined, generated_movies, checkpoint, tmp_path):
    (tmp_path / "there").mkdir()
    before = files_below(tmp_path)
    runs = {
        "train/tfidf.yaml": [f"dataset={generated_movies}", f"output={tmp_path}/new/below/it"],
        "pipeline/demo.yaml": [f"output={tmp_path}/there"],
        "tag/default.yaml": [f"checkpoint={checkpoint}", f"movies={generated_movies}", f"output={tmp_path}/there/tags"],
    }

    for config, arguments in runs.items():
        lines, passed = examined(config, *arguments)

        assert passed, lines
        assert failures(lines) == []
        checked = [line.removeprefix("ok   ").partition(": ")[0] for line in lines]
        assert checked[:3] == ["nodes", "versions", "resources"]
        assert {*checked[3:-2]} == {argument.partition("=")[2] for argument in arguments}
        assert checked[-2] == "authentication"
        assert checked[-1].startswith("disk of ")
        assert files_below(tmp_path) == before


def test_a_failed_check_says_how_to_fix_it(examined, generated_movies, tmp_path):
    (tmp_path / "file").write_text("in the way")
    output = f"output={tmp_path / 'out'}"

    def only(*arguments):
        lines, passed = examined(*arguments)
        assert not passed
        (line,) = failures(lines)
        return line

    train = "train/tfidf.yaml", f"dataset={generated_movies}"
    assert only(*train, output, "workers=500") == (
        f"FAIL resources: needs 500 CPUs and 0 GPUs at the same time; the cluster has at most {os.cpu_count()} and 0; "
        "ask for fewer, or add nodes"
    )
    assert "needs 1 CPUs and 1 GPUs" in only(*train, output, "accelerator=gpu")
    nowhere = only("train/tfidf.yaml", f"dataset={tmp_path / 'nowhere'}", output)
    assert nowhere.startswith(f"FAIL {tmp_path / 'nowhere'}: on ")
    assert nowhere.endswith(": does not exist; use a location that exists and that every node can read")
    in_the_way = only(*train, f"output={tmp_path / 'file'}")
    assert in_the_way.startswith(f"FAIL {tmp_path / 'file'}: {tmp_path / 'file'}: is a file; expected a folder; use")
    assert str(tmp_path / "file") in only(*train, f"output={tmp_path / 'file' / 'below'}")
    assert files_below(tmp_path) == [tmp_path / "file"]


def test_a_checkpoint_that_the_job_cannot_use_is_found(examined, generated_movies, checkpoint, tmp_path):
    topics = ["topics/default.yaml", f"checkpoint={checkpoint}", f"movies={generated_movies}"]

    lines, passed = examined(*topics, f"output={tmp_path / 'out'}")

    assert not passed
    (line,) = failures(lines)
    assert line.startswith(
        f"FAIL {checkpoint}: {checkpoint}: topics need embeddings of plots, but this tfidf model counts"
    )
    assert [found for found in lines if found.startswith("ok   packages: bertopic, hdbscan, umap, on every node")]


def test_a_missing_package_is_found(examined, generated_movies, checkpoint, tmp_path, monkeypatch):
    # The config is read here, the package is looked up on the nodes.
    monkeypatch.setattr("mmgenre.topics.job.PACKAGES", ("bertopic", "a_package_that_nobody_has"))
    topics = ["topics/default.yaml", f"checkpoint={checkpoint}", f"movies={generated_movies}"]

    lines, _ = examined(*topics, f"output={tmp_path / 'out'}")

    (line,) = [line for line in failures(lines) if line.startswith("FAIL packages")]
    assert "missing on " in line
    assert line.endswith(": a_package_that_nobody_has; pip install 'mmgenre[all]' there")


def test_a_missing_key_and_an_unreachable_host_are_found(examined, generated_movies, tmp_path):
    port = free_port()
    address = f"provider.base_url=http://127.0.0.1:{port}"

    lines, passed = examined(
        "enrich/default.yaml", f"catalog={generated_movies}", f"output={tmp_path / 'out'}", address
    )

    assert not passed
    key, host = failures(lines)
    assert key.startswith("FAIL keys: provider tmdb: no key in the environment; set TMDB_TOKEN")
    assert host.startswith(f"FAIL 127.0.0.1:{port}: on ")
    assert "refused; check the address" in host


def test_the_job_exits_with_1_if_a_check_fails(local_ray, tmp_path):
    arguments = ["train", "configs/train/tfidf.yaml", f"dataset={tmp_path / 'nowhere'}", f"output={tmp_path / 'out'}"]

    result = run_job("doctor.py", *arguments)

    assert result.returncode == 1
    assert len(failures(result.stdout.splitlines())) == 1
    assert result.stderr.startswith("error: 1 of ")


@pytest.mark.process
def test_an_open_dashboard_is_found(examined, generated_movies, monkeypatch, tmp_path):
    arguments = [f"dataset={generated_movies}", f"output={tmp_path / 'out'}"]
    with head(auth="disabled") as cluster:
        monkeypatch.setattr(ray_session, "dashboard", lambda: cluster.dashboard.removeprefix("http://"))
        lines, passed = examined("train/tfidf.yaml", *arguments)

    assert not passed
    (line,) = failures(lines)
    assert line.startswith("FAIL authentication: 127.0.0.1:")
    assert line.endswith("accepts commands from anyone (HTTP 200); start every node with RAY_AUTH_MODE=token")


def test_different_versions_on_nodes_are_named():
    here = node_probe.look(Probe("mark"))
    there = replace(here, versions=here.versions | {"torch": "2.9.0"})

    assert check_versions({"here": here}).passed
    check = check_versions({"here": here, "10.0.0.2/ab12cd": there})
    assert not check.passed
    assert check.detail == (
        f"torch 2.9.0 on 10.0.0.2/ab12cd, {here.versions['torch']} on the driver's; "
        "install with the same constraints.txt on all nodes"
    )


def test_an_output_folder_that_nodes_do_not_share_is_found(tmp_path):
    mine, other = tmp_path / "out", tmp_path / "out2"
    for folder in (mine, other):
        folder.mkdir()
    (mine / "mark").touch()

    report = node_probe.look(Probe("mark", outputs=(str(mine), str(other))))

    assert check_output(str(mine), {"node": report}).passed
    check = check_output(str(other), {"10.0.0.2/ab12cd": report})
    assert not check.passed
    assert check.detail == (
        "on 10.0.0.2/ab12cd: the file that the driver wrote there is missing; "
        "all nodes must use the same storage: a URI such as s3://bucket/folder, or a shared filesystem"
    )
    assert len(files_below(mine)) == 2


def parsed(*arguments):
    return parse_any_job(JOBS, [job_of(arguments[0]), str(ROOT / "configs" / arguments[0]), *arguments[1:]])


def test_inputs_that_another_stage_creates_need_not_exist():
    requirements = requirements_of(parsed("pipeline/default.yaml", "catalog.input=/data/dump.tsv", "output=/runs/x"))
    assert requirements.inputs == ("/data/dump.tsv",)
    assert requirements.outputs == ("/runs/x",)
    assert requirements.hosts == (("api.themoviedb.org", 443),)

    # A stage does not create an input by writing its output into the folder above it.
    train = parsed("train/tfidf.yaml", "dataset=/runs/x/movies", "output=/runs/x")
    assert requirements_of(train).inputs == ("/runs/x/movies",)


def test_the_sandbox_needs_neither_hosts_nor_keys():
    requirements = requirements_of(parsed("pipeline/demo.yaml", "output=/runs/x"))

    assert (requirements.hosts, requirements.keys, requirements.inputs) == ((), {}, ())


def test_a_fusion_needs_the_checkpoints_of_its_towers():
    towers = ["model.text={checkpoint: /text}", "model.image={checkpoint: /image}"]
    config = parsed("train/gated_fusion.yaml", "dataset=/in", "output=/out", *towers)

    assert requirements_of(config).inputs == ("/image", "/in", "/text")


def test_an_export_does_not_take_the_text_about_its_data_for_a_file():
    config = parsed("export/default.yaml", "checkpoint=/model", "output=/out", "data=Plots of TMDB")

    assert requirements_of(config).inputs == ("/model",)


def test_posters_need_the_hosts_that_they_come_from():
    config = parsed("posters/default.yaml", "enriched=/in", "output=/out", "allowed_hosts=[image.tmdb.org,'[::1]:80']")

    assert requirements_of(config).hosts == (("::1", 80), ("image.tmdb.org", 443))


def test_a_service_needs_cpus_and_a_gpu_for_each_replica():
    config = parsed("serve/default.yaml", "checkpoint=/model", "replicas=3", "cpus_per_replica=2", "accelerator=gpu")
    requirements = requirements_of(config)

    assert (requirements.cpus, requirements.gpus) == (6, 3)
    assert (requirements.inputs, requirements.outputs) == (("/model",), ())


def test_a_local_session_listens_on_loopback_only(local_ray):
    import ray

    ray.get(ray.remote(lambda: None).remote())
    session = ray._private.worker._global_node.get_session_dir_path()
    listening = [
        (process.name(), connection.laddr.ip)
        for process in processes_of(session)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert {"gcs_server", "raylet", "ray::DashboardAgent"} <= {name for name, _ in listening}
    assert [address for address in listening if not is_loopback(address[1])] == []


def processes_of(session):
    """This process, and those of its Ray session."""
    pids = {os.getpid()}
    for process in psutil.process_iter(["cmdline"]):
        if any(session in word for word in process.info["cmdline"] or ()):
            pids |= {process.pid, *(child.pid for child in process.children(recursive=True))}
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def is_loopback(address):
    parsed_address = ipaddress.ip_address(address)
    return (getattr(parsed_address, "ipv4_mapped", None) or parsed_address).is_loopback


@pytest.mark.parametrize(
    ("config_type", "arguments"),
    [
        (TopicsConfig, ["topics/default.yaml", "checkpoint=/model", "movies=/in", "output=/out"]),
        (ServingConfig, ["serve/default.yaml", "checkpoint=/model"]),
        (ExportConfig, ["export/default.yaml", "checkpoint=/model", "output=/out"]),
        (ReportConfig, ["report/default.yaml", "movies=/in", "output=/out", "models.one.predictions=/in2"]),
        (EvaluateConfig, ["evaluate/default.yaml", "predictions=/in", "movies=/in2", "output=/out"]),
        (CompareConfig, ["compare/default.yaml", "predictions.one=/in", "movies=/in2", "output=/out"]),
        (TagConfig, ["tag/default.yaml", "checkpoint=/model", "movies=/in", "output=/out"]),
    ],
)
def test_the_folder_of_a_config_says_its_job(config_type, arguments):
    assert type(parsed(*arguments)) is config_type


def test_the_job_is_named_and_an_unknown_one_is_refused(tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    config.write_text("checkpoint: /model\nmovies: /in\noutput: /out\n")

    # The fields alone would fit all of them.
    for job, config_type in {"explain": ExplainTableConfig, "tag": TagConfig, "topics": TopicsConfig}.items():
        assert type(parse_any_job(JOBS, [job, str(config)])) is config_type
    with pytest.raises(SystemExit):
        parse_any_job(JOBS, ["label", str(config)])
    assert "invalid choice: 'label' (choose from" in capsys.readouterr().err
