"""Jobs as a person runs them: a mistake is one line on stderr and exit code 1, and nothing looks complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run_job(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TMDB_", "OMDB_"))}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["catalog.py", "configs/catalog/default.yaml", "input=nowhere.tsv.gz"], "nowhere.tsv.gz: no such file"),
        (["dataset.py", "configs/dataset/default.yaml", "catalog=none", "enriched=none"], "none: no table there"),
        (["dataset.py", "configs/dataset/none.yaml"], "beside it: configs/dataset/default.yaml"),
        (["tag.py", "configs/tag/default.yaml", "checkpoint=none", "movies=none"], "none: no checkpoint.json"),
        (
            ["train.py", "configs/train/tiny.yaml", "dataset=none", "epoch=3"],
            "epoch: unknown field; did you mean epochs",
        ),
        (["enrich.py", "configs/enrich/default.yaml", "catalog=none", "provider.kind=imdb"], "'imdb' is none of"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(arguments, message, tmp_path):
    result = run_job(f"jobs/{arguments[0]}", *arguments[1:], f"output={tmp_path / 'output'}")

    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not (tmp_path / "output/_run.json").exists()
