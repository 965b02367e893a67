"""The whole line, run as a person runs it: directly, again, and submitted to a cluster that wants a token."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import BIN, head, status

from mmgenre.errors import InputError
from mmgenre.pipeline.job import PipelineConfig

ROOT = Path(__file__).parent.parent
SMALL = ["sandbox.catalogue.movies=700", "sandbox.catalogue.other_titles=50", "models.tiny.train.epochs=2"]
# What is measured to be fastest may not be the same twice.
SMALL.append("models.tiny.tag.precision=fp32")


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
    assert list(lines) == ["catalog", "enrich", "posters", "dataset", "tiny", "report"]
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


def test_a_report_knows_which_model_it_is_of(demo):
    output, _ = demo
    report, card = (output / "tiny" / name for name in ("report/report.json", "checkpoint/checkpoint.json"))

    assert json.loads(report.read_text())["weights_sha256"] == json.loads(card.read_text())["weights_sha256"]


def test_the_demo_ends_with_the_path_of_a_report_that_shows_its_movies_and_its_model(demo):
    output, result = demo
    page = output / "report/report.html"

    assert result.stdout.splitlines()[-1] == f"report: {page}"
    text = page.read_text()
    assert "Model tiny" in text
    assert f"{scores(output)['macro']['f1']:.3f} [" in text
    assert re.findall(r"<strong>([^<]+): missing", text) == ["Differences between models"]


def test_a_second_run_finds_everything_done(demo):
    output, first = demo
    again = run_demo(output, *SMALL)

    assert again.returncode == 0, again.stderr
    assert again.stdout.count("complete already") == 7
    assert again.stdout.split("\n\n", 1)[1] == first.stdout.split("\n\n", 1)[1]


def test_a_submitted_pipeline_gives_the_same_result(demo, tmp_path):
    with head() as cluster:
        assert status(f"{cluster.dashboard}/api/jobs/") == 401
        command = [BIN / "ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--"]
        command += ["python", "jobs/pipeline.py", "configs/pipeline/demo.yaml", f"output={tmp_path / 'run'}", *SMALL]
        submitted = subprocess.run(
            command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, check=False, timeout=400
        )

    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert f"report: {tmp_path / 'run/report/report.html'}\n" in submitted.stdout
    assert (tmp_path / "run/report/report.html").is_file()
    # Titles come in another order, so plots are padded beside others: float32 rounds the probabilities differently.
    assert figures(scores(tmp_path / "run")) == pytest.approx(figures(scores(demo[0])), abs=1e-5)


def test_a_stages_paths_follow_from_the_output_unless_given():
    config = PipelineConfig.load(
        ROOT / "configs/pipeline/demo.yaml", ["output=runs/x", "dataset.enriched=elsewhere", "sandbox.data=real"]
    )

    assert config.catalog.input == "real/title.basics.tsv.gz"
    assert config.dataset.enriched == "elsewhere"
    assert config.models["tiny"].tag.checkpoint == config.models["tiny"].train.output == "runs/x/tiny/checkpoint"
    assert config.report.models["tiny"].checkpoint == "runs/x/tiny/checkpoint"
    assert config.report.models["tiny"].predictions == config.models["tiny"].evaluate.predictions
    assert config.report.page == "runs/x/report/report.html"


def test_a_report_shows_the_models_that_it_is_told_to_and_all_of_them_otherwise():
    other = ["output=runs/x", "models.other.train.model.family=tfidf"]
    demo = ROOT / "configs/pipeline/demo.yaml"

    assert [*PipelineConfig.load(demo, other).report.models] == ["tiny", "other"]
    chosen = PipelineConfig.load(demo, [*other, "report.models.other.predictions=elsewhere", "report.site=true"])
    assert {name: model.predictions for name, model in chosen.report.models.items()} == {"other": "elsewhere"}
    assert chosen.report.page == "runs/x/report/index.html"


def test_a_wrong_field_deep_inside_is_named_by_its_path():
    message = r"models\.tiny\.train\.optimizer\.lr: unknown field; fields here: .*lr_backbone, lr_head"
    with pytest.raises(InputError, match=message):
        PipelineConfig.load(ROOT / "configs/pipeline/demo.yaml", ["models.tiny.train.optimizer.lr=1"])
