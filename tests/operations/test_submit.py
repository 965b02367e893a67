"""Submitting commands to a cluster: their output, their exit code, and what happens when something breaks."""

import os
import signal
import subprocess
import sys

import dumps
import psutil
import pytest
from clusters import TOKEN, free_port, head, node, status, until
from job_runs import ROOT, run_job

from mmgenre.config import parse_args
from mmgenre.errors import InputError
from mmgenre.operations import submit
from mmgenre.operations.submit import SubmitConfig, job_id

pytestmark = pytest.mark.process

CONFIG = str(ROOT / "configs/submit/default.yaml")
# Writes "began" to a file, waits until another file exists, and writes "ended".
WAITS = """
import pathlib, sys, time
log, may_end = map(pathlib.Path, sys.argv[1:])
log.open("a").write("began\\n")
while not may_end.exists():
    time.sleep(0.05)
log.open("a").write("ended\\n")
"""
# Executes the given code in its first run; later runs succeed.
ONCE = """
import os, pathlib, sys, time
log = pathlib.Path(sys.argv[1])
log.open("a").write("began\\n")
if log.read_text().count("began") == 1:
    exec(sys.argv[2])
print("all well")
"""


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, like the one in cluster.yaml."""
    with head(num_cpus=0) as found:
        yield found


@pytest.fixture
def folder(tmp_path):
    """A small working directory."""
    found = tmp_path / "sent"
    found.mkdir()
    (found / "words.txt").write_text("uploaded")
    return found


@pytest.fixture
def words(cluster, folder):
    """The arguments of jobs/submit.py for a Python command."""

    def words(*command, **fields):
        fields = {"address": cluster.dashboard, "working_dir": folder} | fields
        return [CONFIG, *(f"{name}={value}" for name, value in fields.items()), "--", "python", *map(str, command)]

    return words


@pytest.fixture
def submitted(words, monkeypatch):
    """Runs jobs/submit.py in this process; returns its exit code and what a user sees on stdout and stderr."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)

    def submitted(*command, **fields):
        result = run_job("submit.py", *words(*command, **fields))
        return result.returncode, result.stdout, result.stderr

    return submitted


@pytest.fixture
def started(cluster, words):
    """Starts jobs/submit.py as a process of its own."""
    processes = []

    def started(*command, environment=(), **fields):
        given = cluster.environment | dict(environment)
        process = subprocess.Popen(
            [sys.executable, "jobs/submit.py", *words(*command, **fields)],
            cwd=ROOT,
            env={name: value for name, value in given.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def ends_when_followed(monkeypatch):
    """Lets a job end as soon as `submitted` has found it running."""

    def ends_when_followed(may_end):
        def print_and_let_end(line):
            sys.stderr.write(f"{line}\n")
            may_end.touch()

        monkeypatch.setattr(submit, "_print", print_and_let_end)

    return ends_when_followed


def end(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def lines(path):
    return path.read_text().split() if path.exists() else []


def test_a_users_process_prints_the_jobs_output_and_sends_the_token_without_being_told_to(started):
    code, out, err = end(started("-c", "print(open('words.txt').read())", environment={"RAY_AUTH_MODE": None}))

    assert code == 0, err
    assert "uploaded" in out
    assert "succeeded" in out
    assert "INFO" not in err


@pytest.mark.parametrize("exit_code", [3, 255])
def test_a_failed_jobs_exit_code_is_returned_and_it_is_not_retried(submitted, tmp_path, exit_code):
    runs = tmp_path / "runs"

    code, out, err = submitted("-c", ONCE, runs, f"print('a mistake'); sys.exit({exit_code})")

    assert code == exit_code
    assert "a mistake" in out.splitlines()
    assert f"failed: exit code {exit_code}" in err.splitlines()[-1]
    assert lines(runs) == ["began"]


def test_nobody_submits_without_the_token(submitted, cluster, monkeypatch):
    assert status(f"{cluster.dashboard}/api/jobs/") == 401
    assert status(f"{cluster.dashboard}/api/jobs/", "f" * 64) == 403

    def refused():
        code, out, err = submitted("-c", "print()")
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {cluster.dashboard}: the cluster requires its token; set RAY_AUTH_TOKEN")
        assert len(err.splitlines()) == 1

    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    refused()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", "/nonexistent")
    refused()


def test_an_address_without_a_cluster_is_an_error_of_one_line(submitted):
    address = f"http://127.0.0.1:{free_port()}"

    code, _, err = submitted("-c", "print()", address=address)

    assert code == 1
    assert err.startswith(f"error: {address}: no answer from a dashboard")
    assert len(err.splitlines()) == 1


def test_the_same_command_follows_a_running_job_and_restarts_a_finished_one(
    started, submitted, ends_when_followed, tmp_path
):
    log, may_end = tmp_path / "log", tmp_path / "may_end"
    first = started("-c", WAITS, log, may_end)
    until(lambda: lines(log))

    ends_when_followed(may_end)
    second, _, err = submitted("-c", WAITS, log, may_end)

    assert "already running" in err
    assert end(first)[0] == second == 0
    assert lines(log) == ["began", "ended"]

    code, out, _ = submitted("-c", WAITS, log, may_end)
    assert code == 0
    assert "-2: succeeded" in out
    assert lines(log) == ["began", "ended"] * 2


def test_an_id_of_a_job_that_runs_another_command_is_refused(submitted, tmp_path):
    log, may_end = tmp_path / "log", tmp_path / "may_end"
    assert submitted("-c", WAITS, log, may_end, id="nightly", follow="false")[0] == 0
    until(lambda: lines(log))

    code, _, err = submitted("-c", "print()", id="nightly")
    may_end.touch()

    assert code == 1
    assert err.startswith("error: nightly: already running another command, python -c")
    assert err.endswith("use another id\n")


def test_after_ctrl_c_the_job_keeps_running_and_can_be_followed_again(started, submitted, ends_when_followed, tmp_path):
    log, may_end = tmp_path / "log", tmp_path / "may_end"
    process = started("-c", WAITS, log, may_end)
    until(lambda: lines(log))

    process.send_signal(signal.SIGINT)
    code, _, err = end(process)

    assert code == 130
    assert "still running; run the same command again to follow it" in err
    assert "ray job stop" in err
    assert "Traceback" not in err
    ends_when_followed(may_end)
    code, _, err = submitted("-c", WAITS, log, may_end)
    assert code == 0
    assert "already running" in err
    assert lines(log) == ["began", "ended"]


def test_a_killed_driver_is_resubmitted_as_often_as_retries_allow(submitted, tmp_path):
    runs, without_retries = tmp_path / "runs", tmp_path / "without_retries"

    code, out, err = submitted("-c", ONCE, runs, "os.kill(os.getpid(), 9)")

    assert code == 0, err
    assert lines(runs) == ["began"] * 2
    assert "killed by signal 9; resubmitted" in err
    assert "all well" in out.splitlines()

    code, _, err = submitted("-c", ONCE, without_retries, "os.kill(os.getpid(), 9)", retries=0)

    assert code == 137
    assert lines(without_retries) == ["began"]
    assert "failed: killed by signal 9" in err


def test_a_driver_on_a_lost_node_is_resubmitted_to_another(started, cluster, tmp_path):
    runs = tmp_path / "runs"
    with node(cluster, num_cpus=1) as raylet:
        process = started("-c", ONCE, runs, "time.sleep(600)", driver_cpus=1)
        until(lambda: lines(runs))
        psutil.Process(raylet).kill()
    with node(cluster, num_cpus=1):
        code, out, err = end(process)

    assert code == 0, err
    assert "resubmitted" in err
    assert lines(runs) == ["began"] * 2
    assert out.splitlines().count("all well") == 1


def test_a_folder_too_large_to_upload_is_an_error_of_one_line(submitted, folder):
    with (folder / "random.bin").open("wb") as file:
        file.writelines(os.urandom(1 << 20) for _ in range(101))

    code, _, err = submitted("-c", "print()")

    assert code == 1
    assert err.startswith(f"error: {folder}: ")
    assert "100 MiB" in err
    assert ".rayignore" in err
    assert len(err.splitlines()) == 1


def test_an_upload_contains_the_projects_code_and_configs_and_nothing_large(submitted, tmp_path):
    dump = dumps.write(tmp_path / "title.basics.tsv", [dumps.row()])
    job = ["jobs/catalog.py", "configs/catalog/default.yaml", f"input={dump}", f"output={tmp_path / 'catalog'}"]
    # Lists the working directory from inside the job, then runs catalog.py.
    listing = "import mmgenre, os, runpy, sys; print(*sorted(os.listdir()), os.path.relpath(mmgenre.__file__), sep=' ')"
    run = "; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"

    code, out, err = submitted("-c", listing + run, *job, working_dir=".")

    assert code == 0, out + err
    assert (tmp_path / "catalog/_run.json").exists()
    (listed,) = (line.split() for line in out.splitlines() if line.endswith("mmgenre/__init__.py"))
    assert {"jobs", "mmgenre", "configs", "mmgenre/__init__.py"} <= {*listed}
    assert not {".git", ".venv", "runs", "tests", "bench", "docs"} & {*listed}


def test_a_submitted_doctor_passes_and_does_not_print_the_token(submitted, tmp_path):
    dump = dumps.write(tmp_path / "title.basics.tsv", [dumps.row()])
    arguments = ["configs/catalog/default.yaml", f"input={dump}", f"output={tmp_path / 'catalog'}"]
    job = ["jobs/doctor.py", "catalog", *arguments]

    code, out, err = submitted(*job, working_dir=".")

    assert code == 0, out + err
    assert "checks passed" in out
    assert "ok   authentication: 127.0.0.1:" in out
    assert TOKEN not in out + err
    assert not (tmp_path / "catalog").exists()


def test_a_missing_working_dir_is_named(submitted, tmp_path):
    code, _, err = submitted("-c", "print()", working_dir=tmp_path / "nowhere")

    assert code == 1
    assert str(tmp_path / "nowhere") in err
    assert len(err.splitlines()) == 1


def test_a_jobs_id_depends_on_its_command_only():
    def name(*command):
        return job_id(parse_args([SubmitConfig], [CONFIG, "--", *command]))

    train = name("python", "jobs/train.py", "x.yaml", "output=a b")
    assert train.startswith("mmgenre-train-")
    assert train == name("python", "jobs/train.py", "x.yaml", "output=a b")
    assert train != name("python", "jobs/train.py", "x.yaml", "output=a", "b")
    assert name("python", "-c", "print(1) # a/b.py").startswith("mmgenre-b-")


def test_a_command_is_required():
    with pytest.raises(InputError, match="command: missing"):
        parse_args([SubmitConfig], [CONFIG])
    with pytest.raises(InputError, match="id: "):
        parse_args([SubmitConfig], [CONFIG, "id=a/b", "--", "true"])
