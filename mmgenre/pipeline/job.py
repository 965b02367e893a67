"""The whole line, each stage a table: dump → catalogue → plots → posters → dataset → checkpoint → tags → report."""

import time
from typing import Any, Self

from pydantic import Field, model_validator

from mmgenre.config import Config
from mmgenre.dataset.job import DatasetConfig, build_dataset
from mmgenre.evaluation.compare import side_by_side
from mmgenre.evaluation.job import EvaluateConfig, Report, evaluate
from mmgenre.pipeline.stages import StagesConfig, catalogue, fetch_all, fill, fill_stages, say, stage
from mmgenre.report.job import ReportConfig, report
from mmgenre.tables import storage
from mmgenre.tagging.job import TagConfig, tag
from mmgenre.text_tables import aligned
from mmgenre.training.job import TrainConfig, train


class ModelRun(Config):
    """One model: trained, used to tag the whole catalogue, and scored on the test split."""

    train: TrainConfig
    tag: TagConfig
    evaluate: EvaluateConfig


class PipelineConfig(StagesConfig):
    """Every stage's settings; each stage reads what the one before it wrote, unless told otherwise."""

    dataset: DatasetConfig
    models: dict[str, ModelRun] = Field(min_length=1, description="by a name of your choice")
    report: ReportConfig = Field(description="one page that shows the movies and all models")

    @model_validator(mode="after")
    def _for_real(self) -> Self:
        if self.enrich.dry_run:
            raise ValueError("enrich.dry_run=true: the later stages need the table; use jobs/enrich.py for the plan")
        return self

    @model_validator(mode="before")
    @classmethod
    def _chain(cls, values: Any) -> Any:
        """Fill in each stage's inputs and output, where they are not given."""
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


def _chain_model(run: Any, tables: dict[str, str], inputs: dict[str, str], root: str) -> Any:
    if not isinstance(run, dict):
        return run
    checkpoint, predictions, report = (storage.join(root, name) for name in ("checkpoint", "predictions", "report"))
    defaults: dict[str, dict[str, str]] = {
        "train": {"dataset": tables["movies"], "output": checkpoint},
        # Every catalogued movie is tagged, with a plot or without.
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
    """The report shows all models, where it is not told which."""
    runs = [run for run in chained["models"].values() if isinstance(run, dict)]
    if isinstance(chained["report"], dict) and len(runs) == len(chained["models"]):
        shown = {
            name: {"predictions": run["evaluate"].get("predictions"), "checkpoint": run["train"].get("output")}
            for name, run in chained["models"].items()
        }
        chained["report"] = {"models": shown} | chained["report"]


def run_pipeline(config: PipelineConfig) -> str:
    """Run every stage that is not complete; prints a line for each, and returns the scores and the report's path.

    Raises:
        InputError: from the stage that met it; the stages before it are complete.
    """
    catalogue(config)
    fetch_all(config)
    stage("dataset", lambda: build_dataset(config.dataset), config.dataset.output)
    reports = {name: _run_model(name, run) for name, run in config.models.items()}
    stage("report", lambda: report(config.report), config.report.output)
    parts = [f"{name}: {scores}" for name, scores in reports.items()]
    if len(reports) > 1:
        parts.append(aligned(side_by_side(reports)))
    return "\n" + "\n\n".join([*parts, f"report: {config.report.page}"])


def _run_model(name: str, run: ModelRun) -> Report:
    stage(f"{name}: train", lambda: train(run.train), run.train.output)
    stage(f"{name}: tag", lambda: tag(run.tag), run.tag.output)
    began = time.monotonic()
    found = evaluate(run.evaluate)
    say(f"{name}: evaluate: {found.movies:,} {found.split} rows in, {time.monotonic() - began:.1f} s")
    return found
