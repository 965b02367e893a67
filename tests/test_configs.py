"""Every run that is shipped: its YAML is a valid config of its job, and its job is a frame without content."""

import ast
import re
from pathlib import Path

import pytest

from mmgenre.catalog.job import CatalogConfig
from mmgenre.config import Config
from mmgenre.dataset.job import DatasetConfig
from mmgenre.enrich.job import EnrichConfig
from mmgenre.evaluation.compare import CompareConfig
from mmgenre.evaluation.job import EvaluateConfig
from mmgenre.explain.config import ExplainMovieConfig, ExplainTableConfig
from mmgenre.export.job import ExportConfig
from mmgenre.operations.requirements import JOBS as CHECKED_JOBS
from mmgenre.operations.submit import SubmitConfig
from mmgenre.pipeline.dump import BulkConfig
from mmgenre.pipeline.job import PipelineConfig
from mmgenre.posters.job import PostersConfig
from mmgenre.report.job import ReportConfig
from mmgenre.sandbox.job import ServeConfig
from mmgenre.search.config import TuneConfig, preset_of
from mmgenre.search.space import require_valid
from mmgenre.serving.job import ServingConfig
from mmgenre.tagging.job import TagConfig
from mmgenre.topics.job import TopicsConfig
from mmgenre.training.config import TrainConfig

ROOT = Path(__file__).parent.parent
# Each job's config, and what there is to give beside a file of its folder: where things are.
JOBS = {
    "catalog": (CatalogConfig, ("input=IN", "output=OUT")),
    "compare": (CompareConfig, ("predictions.one=IN", "movies=IN", "output=OUT")),
    "dataset": (DatasetConfig, ("catalog=IN", "enriched=IN", "output=OUT")),
    "enrich": (EnrichConfig, ("catalog=IN", "output=OUT")),
    "evaluate": (EvaluateConfig, ("predictions=IN", "movies=IN", "output=OUT")),
    "explain": (ExplainTableConfig, ("checkpoint=IN", "movies=IN", "output=OUT")),
    "export": (ExportConfig, ("checkpoint=IN", "output=OUT")),
    "pipeline": (PipelineConfig, ("output=OUT",)),
    "posters": (PostersConfig, ("enriched=IN", "output=OUT")),
    "report": (ReportConfig, ("movies=IN", "output=OUT")),
    "sandbox": (ServeConfig, ("output=OUT",)),
    "serve": (ServingConfig, ("checkpoint=IN",)),
    "submit": (SubmitConfig, ("command=[python, jobs/train.py]",)),
    "tag": (TagConfig, ("checkpoint=IN", "movies=IN", "output=OUT")),
    "topics": (TopicsConfig, ("checkpoint=IN", "movies=IN", "output=OUT")),
    "train": (TrainConfig, ("dataset=IN", "output=OUT")),
    "tune": (TuneConfig, ("dataset=IN", "output=OUT")),
}
# A job may take more than one kind of config.
KINDS = {"tag/dump.yaml": (BulkConfig, ("checkpoint=IN", "input=IN", "output=OUT"))}
# What single files ask for in their first lines.
ALSO = {
    "enrich/dump.yaml": ("provider.path=IN",),
    "pipeline/default.yaml": ("catalog.input=IN",),
    "pipeline/shared.yaml": ("sandbox.data=IN",),
}
# Of clusters, not of jobs.
CLUSTER = "cluster"
CONFIGS = sorted(
    path.relative_to(ROOT / "configs").as_posix()
    for path in ROOT.glob("configs/*/*.yaml")
    if path.parent.name != CLUSTER
)
# It takes the configs of all others.
DOCTOR = "doctor.py"
SCRIPTS = sorted(path.name for path in ROOT.glob("jobs/*.py"))


def test_every_job_has_a_folder_of_configs_and_the_other_way_round():
    folders = {path.name for path in (ROOT / "configs").iterdir()} - {CLUSTER}

    assert folders == {Path(script).stem for script in SCRIPTS if script != DOCTOR} == set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_a_default(job):
    assert f"{job}/default.yaml" in CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_is_whole_but_for_the_places(name):
    config_type, places = KINDS.get(name) or JOBS[name.partition("/")[0]]

    config = config_type.load(ROOT / "configs" / name, (*places, *ALSO.get(name, ())))

    assert getattr(config, "output", "OUT") == "OUT"
    assert config_type.model_validate(config.to_settings()) == config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_says_in_its_first_line_what_it_is(name):
    text = (ROOT / "configs" / name).read_text()

    assert re.match(r"# \S.{20,}", text)
    for place in ALSO.get(name, ()):
        assert place.partition("=")[0] in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_job_is_fifteen_lines_that_do_nothing_when_imported(script):
    source = (ROOT / "jobs" / script).read_text()
    docstring, *imports, jobs_own, main = ast.parse(source).body

    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(jobs_own.items[0]) == "interruptible()"
    assert all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in (*imports, *jobs_own.body))
    assert re.match(r"if __name__ == '__main__':\n    run(_for_any_job)?\(", ast.unparse(main))


def test_doctor_checks_every_job_that_computes_and_each_has_requirements():
    assert CHECKED_JOBS.keys() == JOBS.keys() - {"submit", "sandbox"}
    for job, config_types in CHECKED_JOBS.items():
        assert JOBS[job][0] in config_types
        assert all(config_type.requirements is not Config.requirements for config_type in config_types)
    assert {BulkConfig, ExplainMovieConfig} <= {kind for kinds in CHECKED_JOBS.values() for kind in kinds}


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != DOCTOR])
def test_a_job_reads_the_config_of_its_folder(script):
    config_type, _ = JOBS[Path(script).stem]

    assert f"    run({config_type.__name__}, " in (ROOT / "jobs" / script).read_text()


@pytest.mark.parametrize("path", [*ROOT.glob("jobs/*.py"), *ROOT.glob("configs/*/*.yaml")], ids=lambda path: path.name)
def test_an_example_in_a_comment_names_files_that_are_there(path):
    named = re.findall(r"\b(?:configs|jobs)/[\w./]+\.(?:yaml|py)\b", path.read_text())

    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("path", ROOT.glob("configs/tune/*.yaml"), ids=lambda path: path.name)
def test_a_shipped_search_changes_what_its_preset_has(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = TuneConfig.load(path, ["dataset=IN", "output=OUT"])

    require_valid(preset_of(config), config.space)
