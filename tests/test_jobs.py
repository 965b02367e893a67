"""Jobs as users run them: a mistake is one line on stderr and exit code 1, and no output looks complete."""

import os
import signal
import subprocess
import sys

import pytest
from job_runs import ROOT, run_job


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["catalog.py", "configs/catalog/default.yaml", "input=nowhere.tsv.gz"], "nowhere.tsv.gz: no such file"),
        (["dataset.py", "configs/dataset/default.yaml", "catalog=none", "enriched=none"], "none: no table there"),
        (["dataset.py", "configs/dataset/none.yaml"], "in that folder: configs/dataset/default.yaml"),
        (["tag.py", "configs/tag/default.yaml", "checkpoint=none", "movies=none"], "none: no checkpoint.json"),
        (
            ["train.py", "configs/train/tiny.yaml", "dataset=none", "epoch=3"],
            "epoch: unknown field; did you mean epochs",
        ),
        (["enrich.py", "configs/enrich/default.yaml", "catalog=none", "provider.kind=imdb"], "'imdb' is not one of"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_output(arguments, message, tmp_path, monkeypatch):
    for name in os.environ:
        if name.startswith(("TMDB_", "OMDB_")):
            monkeypatch.delenv(name)

    result = run_job(*arguments, f"output={tmp_path / 'output'}")

    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not (tmp_path / "output/_run.json").exists()


@pytest.mark.process
def test_a_process_with_a_mistake_exits_with_1_and_prints_only_the_error(tmp_path):
    command = [sys.executable, "jobs/catalog.py", "configs/catalog/default.yaml", "input=nowhere.tsv.gz"]

    result = subprocess.run(
        [*command, f"output={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert result.returncode == 1
    assert result.stderr.startswith("error: nowhere.tsv.gz: no such file")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.process
def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path):
    # The module that the job imports first takes long.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.abc, sys, time\n"
        "class Slow(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'mmgenre.tagging.job':\n"
        "            print('importing', flush=True)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "jobs/tag.py", "configs/tag/default.yaml"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert err == "\ninterrupted; run the same command again to resume\n"
