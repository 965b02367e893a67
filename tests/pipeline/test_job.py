"""The whole pipeline: run directly, run again, and submitted to a cluster that requires a token."""

import json
import re
import subprocess

import pytest
from clusters import BIN, head, status
from job_runs import ROOT, run_job

from mmgenre.errors import InputError
from mmgenre.pipeline.job import PipelineConfig

pytestmark = pytest.mark.process

SMALL = ["sandbox.catalogue.movies=700", "sandbox.catalogue.other_titles=50", "models.tiny.train.epochs=2"]
# `auto` measures, and may choose differently in two runs.
SMALL.append("models.tiny.tag.precision=fp32")


def run_demo(output, *overrides):
    return run_job("pipeline.py", "configs/pipeline/demo.yaml", f"output={output}", *overrides)


def scores(output):
    return json.loads((output / "tiny/report/report.json").read_text())["scores"]


def numbers(values, name=""):
    """All numbers of nested scores, by their path."""
    if isinstance(values, dict | list):
        parts = values.items() if isinstance(values, dict) else enumerate(values)
        return {path: number for key, part in parts for path, number in numbers(part, f"{name}/{key}").items()}
    return {} if isinstance(values, str) or values is None else {name: values}


@pytest.fixture(scope="module")
def demo(local_ray, tmp_path_factory):
    """The output and the printed lines of a smaller demo."""
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


def test_a_report_names_the_weights_of_its_model(demo):
    output, _ = demo
    report, card = (output / "tiny" / name for name in ("report/report.json", "checkpoint/checkpoint.json"))

    assert json.loads(report.read_text())["weights_sha256"] == json.loads(card.read_text())["weights_sha256"]


def test_the_demo_ends_with_the_path_of_a_report_about_its_movies_and_model(demo):
    output, result = demo
    page = output / "report/report.html"

    assert result.stdout.splitlines()[-1] == f"report: {page}"
    text = page.read_text()
    assert "Model tiny" in text
    assert f"{scores(output)['macro']['f1']:.3f} [" in text
    assert re.findall(r"<strong>([^<]+): missing", text) == ["Differences between models"]


def test_a_second_run_finds_every_stage_complete(demo):
    output, first = demo
    again = run_demo(output, *SMALL)

    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already complete") == 7
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
    # Titles come in a different order, so batches are padded differently, which changes how float32 rounds.
    assert numbers(scores(tmp_path / "run")) == pytest.approx(numbers(scores(demo[0])), abs=1e-5)


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


def test_a_report_shows_all_models_unless_some_are_chosen():
    other = ["output=runs/x", "models.other.train.model.family=tfidf"]
    demo = ROOT / "configs/pipeline/demo.yaml"

    assert [*PipelineConfig.load(demo, other).report.models] == ["tiny", "other"]
    chosen = PipelineConfig.load(demo, [*other, "report.models.other.predictions=elsewhere", "report.site=true"])
    assert {name: model.predictions for name, model in chosen.report.models.items()} == {"other": "elsewhere"}
    assert chosen.report.page == "runs/x/report/index.html"


def test_a_wrong_field_deep_inside_is_named_by_its_path():
    message = r"models\.tiny\.train\.optimizer\.lr: unknown field; known fields: .*lr_backbone, lr_head"
    with pytest.raises(InputError, match=message):
        PipelineConfig.load(ROOT / "configs/pipeline/demo.yaml", ["models.tiny.train.optimizer.lr=1"])
