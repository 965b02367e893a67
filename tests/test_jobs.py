"""Jobs as users run them: a mistake is one line on stderr and exit code 1, and no output looks complete."""

import os
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
