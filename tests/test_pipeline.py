"""The whole line, run as a person runs it: directly, again, and submitted to a cluster that wants a token."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from mmgenre.errors import InputError
from mmgenre.pipeline import PipelineConfig

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SMALL = ["sandbox.catalogue.movies=700", "sandbox.catalogue.other_titles=50", "models.tiny.train.epochs=2"]
# What is measured to be fastest may not be the same twice.
SMALL.append("models.tiny.tag.precision=fp32")
TOKEN = "0123456789abcdef" * 4


def run_demo(output, *overrides):
    command = [sys.executable, "jobs/pipeline.py", "configs/pipeline/demo.yaml", f"output={output}", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)


def scores(output):
    return json.loads((output / "tiny/report/report.json").read_text())["scores"]


def figures(found, name=""):
    """All numbers of nested scores, by their path."""
    if isinstance(found, dict | list):
        parts = found.items() if isinstance(found, dict) else enumerate(found)
        return {path: number for key, part in parts for path, number in figures(part, f"{name}/{key}").items()}
    return {} if isinstance(found, str) or found is None else {name: found}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, smaller."""
    output = tmp_path_factory.mktemp("demo") / "run"
    return output, run_demo(output, *SMALL)


def test_the_demo_tags_every_row_and_prints_scores_of_every_genre(demo):
    output, result = demo

    assert result.returncode == 0, result.stderr
    lines = {line.split(":")[0]: line for line in result.stdout.splitlines() if " rows in" in line}
    assert list(lines) == ["catalog", "enrich", "posters", "dataset", "tiny"]
    assert [line.split(":")[1].strip() for line in result.stdout.splitlines() if line.startswith("tiny: ")][:3] == [
        "train",
        "tag",
        "evaluate",
    ]
    catalogued = json.loads((output / "catalog/_run.json").read_text())["rows"]
    assert json.loads((output / "tiny/predictions/_run.json").read_text())["rows"] == catalogued
    for genre in ("Action", "Drama", "Sci-Fi", "Thriller"):
        assert any(line.startswith(genre) for line in result.stdout.splitlines())
    assert 0.05 < scores(output)["macro"]["f1"] < 1


def test_a_second_run_finds_everything_done(demo):
    output, first = demo
    again = run_demo(output, *SMALL)

    assert again.returncode == 0, again.stderr
    assert again.stdout.count("complete already") == 6
    assert again.stdout.split("\n\n", 1)[1] == first.stdout.split("\n\n", 1)[1]


def test_a_submitted_pipeline_gives_the_same_result(demo, tmp_path):
    with head(tmp_path) as (address, environment):
        assert status(f"{address}/api/jobs/") == 401
        command = [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--"]
        command += ["python", "jobs/pipeline.py", "configs/pipeline/demo.yaml", f"output={tmp_path / 'run'}", *SMALL]
        submitted = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=400
        )

    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    # Titles come in another order, so plots are padded beside others: float32 rounds the probabilities differently.
    assert figures(scores(tmp_path / "run")) == pytest.approx(figures(scores(demo[0])), abs=1e-5)


@contextlib.contextmanager
def head(temporary):
    """A head node that demands a token, on loopback; yields its dashboard's address and an environment for it."""
    ports = [free_port() for _ in range(3)]
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    environment = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", f"--port={ports[0]}", f"--dashboard-port={ports[1]}"]
    # A short path: sockets below it may have 107 characters.
    command += [f"--dashboard-agent-listen-port={ports[2]}", f"--temp-dir=/tmp/mmgenre-{ports[0]}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            address = f"http://127.0.0.1:{ports[1]}"
            wait_for(address)
            yield address, environment
        finally:
            process.send_signal(signal.SIGTERM)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def status(url, token=None):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def wait_for(address, timeout_s=90):
    deadline = time.monotonic() + timeout_s
    while status(f"{address}/api/jobs/", TOKEN) != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_stages_paths_follow_from_the_output_unless_given():
    config = PipelineConfig.load(
        ROOT / "configs/pipeline/demo.yaml", ["output=runs/x", "dataset.enriched=elsewhere", "sandbox.data=real"]
    )

    assert config.catalog.input == "real/title.basics.tsv.gz"
    assert config.dataset.enriched == "elsewhere"
    assert config.models["tiny"].tag.checkpoint == config.models["tiny"].train.output == "runs/x/tiny/checkpoint"


def test_a_wrong_field_deep_inside_is_named_by_its_path():
    message = r"models\.tiny\.train\.optimizer\.lr: unknown field; fields here: .*lr_backbone, lr_head"
    with pytest.raises(InputError, match=message):
        PipelineConfig.load(ROOT / "configs/pipeline/demo.yaml", ["models.tiny.train.optimizer.lr=1"])
