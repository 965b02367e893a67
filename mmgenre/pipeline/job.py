"""The whole pipeline: dump → catalogue → plots → posters → dataset → checkpoint → tags → report."""

import time
from typing import Any, Self

from pydantic import Field, model_validator

from mmgenre.config import Config, Requirements
from mmgenre.dataset.job import DatasetConfig, build_dataset
from mmgenre.evaluation.compare import comparison_rows
from mmgenre.evaluation.job import EvaluateConfig, Report, evaluate
from mmgenre.pipeline.stages import StagesConfig, fill, fill_stages, print_line, run_catalog, run_fetching, run_stage
from mmgenre.report.job import ReportConfig, report
from mmgenre.tables import storage
from mmgenre.tables.table import Table
from mmgenre.tables.user_files import remarks
from mmgenre.tagging.job import TagConfig, tag
from mmgenre.text_tables import aligned
from mmgenre.training.config import TrainConfig
from mmgenre.training.job import train


class ModelRun(Config):
    """One model: it is trained, tags the whole catalogue, and is evaluated on the test split."""

    train: TrainConfig
    tag: TagConfig
    evaluate: EvaluateConfig


class PipelineConfig(StagesConfig):
    """The settings of every stage; by default, each stage reads what the one before it wrote."""

    dataset: DatasetConfig
    models: dict[str, ModelRun] = Field(min_length=1, description="models to compare, by names of your choice")
    report: ReportConfig = Field(description="page about the movies and all models")

    @model_validator(mode="after")
    def _no_dry_run(self) -> Self:
        if self.enrich.dry_run:
            raise ValueError("enrich.dry_run=true: later stages need the table; to see the plan, run jobs/enrich.py")
        return self

    @model_validator(mode="before")
    @classmethod
    def _chain(cls, values: Any) -> Any:
        """Set each stage's inputs and output where they are not given."""
        if not isinstance(values, dict) or not isinstance(values.get("output"), str):
            return values
        chained, root = fill_stages(values), values["output"]
        tables = {name: storage.join(root, name) for name in ("catalog", "enriched", "movies")}
        inputs = {"catalog": tables["catalog"], "enriched": tables["enriched"]}
        if chained.get("posters") is not None:
            inputs["posters"] = storage.join(root, "posters")
        fill(chained, "dataset", **inputs, output=tables["movies"])
        models = chained.get("models")
        if isinstance(models, dict):
            chained["models"] = {
                name: _chain_model(run, tables, inputs, storage.join(root, str(name))) for name, run in models.items()
            }
            fill(chained, "report", movies=tables["movies"], **inputs, output=storage.join(root, "report"))
            _chain_report(chained)
        return chained

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        models = [config for run in self.models.values() for config in (run.train, run.tag, run.evaluate)]
        later = [needs for config in (self.dataset, *models, self.report) for needs in config.requirements()]
        return (*super().requirements(), *later)


def _chain_model(run: Any, tables: dict[str, str], inputs: dict[str, str], root: str) -> Any:
    if not isinstance(run, dict):
        return run
    checkpoint, predictions, report = (storage.join(root, name) for name in ("checkpoint", "predictions", "report"))
    defaults: dict[str, dict[str, str]] = {
        "train": {"dataset": tables["movies"], "output": checkpoint},
        # Tags the whole catalogue, including movies without a plot, which are not in the dataset.
        "tag": {
            "checkpoint": checkpoint,
            "movies": tables["catalog"],
            **{role: inputs[role] for role in ("enriched", "posters") if role in inputs},
            "output": predictions,
        },
        "evaluate": {"predictions": predictions, "movies": tables["movies"], "output": report},
    }
    return run | {stage: paths | (run.get(stage) or {}) for stage, paths in defaults.items()}


def _chain_report(chained: dict[str, Any]) -> None:
    """By default, the report shows all models."""
    runs = [run for run in chained["models"].values() if isinstance(run, dict)]
    if isinstance(chained["report"], dict) and len(runs) == len(chained["models"]):
        shown = {
            name: {"predictions": run["evaluate"].get("predictions"), "checkpoint": run["train"].get("output")}
            for name, run in chained["models"].items()
        }
        chained["report"] = {"models": shown} | chained["report"]


def run_pipeline(config: PipelineConfig) -> str:
    """Run every stage that is not complete; prints a line per stage, and returns the scores and the report's path.

    Raises:
        InputError: a stage failed; the stages before it are complete.
    """
    run_catalog(config)
    run_fetching(config)
    run_stage("dataset", lambda: build_dataset(config.dataset), config.dataset.output)
    scores = {name: _run_model(name, run) for name, run in config.models.items()}
    run_stage("report", lambda: report(config.report), config.report.output)
    parts = [f"{name}: {model_scores}" for name, model_scores in scores.items()]
    if len(scores) > 1:
        parts.append(aligned(comparison_rows(scores)))
    damage = remarks({"warnings": Table(config.dataset.output).manifest.notes.get("warnings", [])})
    return "\n" + "\n\n".join([*parts, f"report: {config.report.page}", *damage])


def _run_model(name: str, run: ModelRun) -> Report:
    run_stage(f"{name}: train", lambda: train(run.train), run.train.output)
    run_stage(f"{name}: tag", lambda: tag(run.tag), run.tag.output)
    start = time.monotonic()
    scores = evaluate(run.evaluate)
    print_line(f"{name}: evaluate: {scores.movies:,} {scores.split} rows in, {time.monotonic() - start:.1f} s")
    return scores
