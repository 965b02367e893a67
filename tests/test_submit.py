"""Commands handed to a cluster as a person hands them: what comes back, and what happens when something breaks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import dumps
import psutil
import pytest
from clusters import TOKEN, free_port, head, node, status, until

from mmgenre.config import parse_args
from mmgenre.errors import InputError
from mmgenre.operations.submit import SubmitConfig, name_of

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs/submit/default.yaml")
# Says in a file that it began, waits for another, and says that it ended.
WAITS = """
import pathlib, sys, time
said, may_end = map(pathlib.Path, sys.argv[1:])
said.open("a").write("began\\n")
while not may_end.exists():
    time.sleep(0.1)
said.open("a").write("ended\\n")
"""
# The first time it does what is given; another time it ends well.
ONCE = """
import os, pathlib, sys, time
said = pathlib.Path(sys.argv[1])
said.open("a").write("began\\n")
if said.read_text().count("began") == 1:
    exec(sys.argv[2])
print("all well")
"""


@pytest.fixture(scope="module")
def cluster():
    """A head that offers no processors, as those in cluster.yaml."""
    with head(num_cpus=0) as found:
        yield found


@pytest.fixture
def folder(tmp_path):
    """A small working directory."""
    found = tmp_path / "sent"
    found.mkdir()
    (found / "words.txt").write_text("sent along")
    return found


@pytest.fixture
def begin(cluster, folder):
    """Starts jobs/submit.py for a Python command; what it prints comes with `end`."""

    started = []

    def begin(*command, environment=(), **fields):
        fields = {"address": cluster.dashboard, "working_dir": folder} | fields
        given = cluster.environment | dict(environment)
        words = [sys.executable, "jobs/submit.py", CONFIG, *(f"{name}={value}" for name, value in fields.items())]
        process = subprocess.Popen(
            [*words, "--", "python", *map(str, command)],
            cwd=ROOT,
            env={name: value for name, value in given.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def end(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def lines(path):
    return path.read_text().split() if path.exists() else []


def test_a_jobs_output_is_printed_and_its_exit_code_returned(begin, tmp_path):
    code, out, err = end(begin("-c", "print(open('words.txt').read())"))
    assert code == 0, err
    assert "sent along" in out
    assert "succeeded" in out

    counted = tmp_path / "counted"
    code, out, err = end(begin("-c", ONCE, counted, "print('a mistake'); sys.exit(3)"))
    assert code == 3
    assert "a mistake" in out.splitlines()
    assert "failed: exit code 3" in err.splitlines()[-1]
    # What a person must mend is not tried again.
    assert lines(counted) == ["began"]


def test_nobody_submits_without_the_token(begin, cluster):
    assert status(f"{cluster.dashboard}/api/jobs/") == 401
    assert status(f"{cluster.dashboard}/api/jobs/", "f" * 64) == 403

    for token in ({"RAY_AUTH_TOKEN": None, "HOME": "/nonexistent"}, {"RAY_AUTH_TOKEN": "f" * 64}):
        code, out, err = end(begin("-c", "print()", environment=token))
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {cluster.dashboard}: the cluster wants its token; set RAY_AUTH_TOKEN")
        assert len(err.splitlines()) == 1


def test_the_token_goes_along_though_nobody_asks_for_it(begin):
    code, _, err = end(begin("-c", "print()", environment={"RAY_AUTH_MODE": None}))

    assert code == 0, err


def test_where_no_cluster_is_one_line_says_so(begin):
    address = f"http://127.0.0.1:{free_port()}"

    code, _, err = end(begin("-c", "print()", address=address))

    assert code == 1
    assert err.startswith(f"error: {address}: no dashboard answers there")
    assert len(err.splitlines()) == 1


def test_the_same_command_follows_while_it_runs_and_begins_anew_afterwards(begin, tmp_path):
    said, may_end = tmp_path / "said", tmp_path / "may_end"
    first = begin("-c", WAITS, said, may_end)
    until(lambda: lines(said))

    second = begin("-c", WAITS, said, may_end)
    assert "under way already" in second.stderr.readline()
    may_end.touch()

    assert end(first)[0] == end(second)[0] == 0
    assert lines(said) == ["began", "ended"]

    code, out, _ = end(begin("-c", WAITS, said, may_end))
    assert code == 0
    assert "-2: succeeded" in out
    assert lines(said) == ["began", "ended"] * 2


def test_an_id_that_another_command_is_under_way_with_is_refused(begin, tmp_path):
    said, may_end = tmp_path / "said", tmp_path / "may_end"
    assert end(begin("-c", WAITS, said, may_end, id="nightly", follow="false"))[0] == 0
    until(lambda: lines(said))

    code, _, err = end(begin("-c", "print()", id="nightly"))
    may_end.touch()

    assert code == 1
    assert err.startswith("error: nightly: under way with another command, python -c")
    assert err.endswith("give another id\n")


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(begin, tmp_path):
    said, may_end = tmp_path / "said", tmp_path / "may_end"
    process = begin("-c", WAITS, said, may_end)
    until(lambda: lines(said))

    process.send_signal(signal.SIGINT)
    code, _, err = end(process)

    assert code == 130
    assert "goes on; the same command follows it again" in err
    assert "ray job stop" in err
    assert "Traceback" not in err
    again = begin("-c", WAITS, said, may_end)
    assert "under way already" in again.stderr.readline()
    may_end.touch()
    assert end(again)[0] == 0
    assert lines(said) == ["began", "ended"]


def test_a_driver_that_is_killed_is_submitted_again(begin, tmp_path):
    counted = tmp_path / "counted"

    code, out, err = end(begin("-c", ONCE, counted, "os.kill(os.getpid(), 9)"))

    assert code == 0, err
    assert lines(counted) == ["began"] * 2
    assert "INFO" not in err
    assert "killed by signal 9; submitted again" in err
    assert "all well" in out.splitlines()


def test_retries_have_an_end(begin, tmp_path):
    counted = tmp_path / "counted"

    code, _, err = end(begin("-c", ONCE, counted, "os.kill(os.getpid(), 9)", retries=0))

    assert code == 137
    assert lines(counted) == ["began"]
    assert "failed: killed by signal 9" in err


def test_a_driver_whose_node_is_lost_goes_on_on_another(begin, cluster, tmp_path):
    counted = tmp_path / "counted"
    with node(cluster, num_cpus=1) as raylet:
        process = begin("-c", ONCE, counted, "time.sleep(600)", driver_cpus=1)
        until(lambda: lines(counted))
        psutil.Process(raylet).kill()
    with node(cluster, num_cpus=1):
        code, out, err = end(process)

    assert code == 0, err
    assert "submitted again" in err
    assert lines(counted) == ["began"] * 2
    assert out.splitlines().count("all well") == 1


def test_more_than_a_cluster_takes_is_refused_in_one_line(begin, folder):
    with (folder / "random.bin").open("wb") as file:
        file.writelines(os.urandom(1 << 20) for _ in range(101))

    code, _, err = end(begin("-c", "print()"))

    assert code == 1
    assert err.startswith(f"error: {folder}: ")
    assert "100 MiB" in err
    assert ".rayignore" in err
    assert len(err.splitlines()) == 1


def test_the_projects_jobs_code_and_configs_get_there_and_nothing_heavy(begin, tmp_path):
    dump = dumps.write(tmp_path / "title.basics.tsv", [dumps.row()])
    job = ["jobs/catalog.py", "configs/catalog/default.yaml", f"input={dump}", f"output={tmp_path / 'catalog'}"]
    # What catalog.py finds beside it is what it runs with.
    listing = "import mmgenre, os, runpy, sys; print(*sorted(os.listdir()), os.path.relpath(mmgenre.__file__), sep=' ')"
    run = "; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"

    code, out, err = end(begin("-c", listing + run, *job, working_dir="."))

    assert code == 0, out + err
    assert (tmp_path / "catalog/_run.json").exists()
    (listed,) = (line.split() for line in out.splitlines() if line.endswith("mmgenre/__init__.py"))
    assert {"jobs", "mmgenre", "configs", "mmgenre/__init__.py"} <= {*listed}
    assert not {".git", ".venv", "runs", "tests", "bench", "docs"} & {*listed}


def test_a_submitted_doctor_finds_all_well(begin, tmp_path):
    dump = dumps.write(tmp_path / "title.basics.tsv", [dumps.row()])
    job = ["jobs/doctor.py", "configs/catalog/default.yaml", f"input={dump}", f"output={tmp_path / 'catalog'}"]

    code, out, err = end(begin(*job, working_dir="."))

    assert code == 0, out + err
    assert "checks, all good" in out
    assert "ok   authentication: 127.0.0.1:" in out
    assert TOKEN not in out + err
    assert not (tmp_path / "catalog").exists()


def test_a_folder_that_is_not_there_is_named(begin, tmp_path):
    code, _, err = end(begin("-c", "print()", working_dir=tmp_path / "nowhere"))

    assert code == 1
    assert str(tmp_path / "nowhere") in err
    assert len(err.splitlines()) == 1


def test_a_jobs_name_is_its_commands():
    def name(*command):
        return name_of(parse_args([SubmitConfig], [CONFIG, "--", *command]))

    train = name("python", "jobs/train.py", "x.yaml", "output=a b")
    assert train.startswith("mmgenre-train-")
    assert train == name("python", "jobs/train.py", "x.yaml", "output=a b")
    assert train != name("python", "jobs/train.py", "x.yaml", "output=a", "b")
    assert name("python", "-c", "print(1) # a/b.py").startswith("mmgenre-b-")


def test_a_command_is_asked_for():
    with pytest.raises(InputError, match="command: missing"):
        parse_args([SubmitConfig], [CONFIG])
    with pytest.raises(InputError, match="id: "):
        parse_args([SubmitConfig], [CONFIG, "id=a/b", "--", "true"])
