"""The whole line, each stage a table: dump → CATALOG → ENRICHED → MOVIES → checkpoint → PREDICTIONS → report."""

import time
from collections.abc import Callable
from typing import Any

from pydantic import Field, model_validator

from mmgenre import storage
from mmgenre.catalog import CatalogConfig, catalog
from mmgenre.config import Config
from mmgenre.dataset import DatasetConfig, build_dataset
from mmgenre.enrich import EnrichConfig, enrich
from mmgenre.evaluate import EvaluateConfig, Report, compare, evaluate
from mmgenre.manifest import Manifest, read_manifest
from mmgenre.predict import TagConfig, tag
from mmgenre.providers.tmdb import TmdbConfig, TmdbKey
from mmgenre.sandbox.catalogue import DUMP
from mmgenre.sandbox.serve import ServeConfig, prepare, serving
from mmgenre.train import TrainConfig, train


class ModelRun(Config):
    """One model: trained, used to tag the whole catalogue, and scored on the test split."""

    train: TrainConfig
    tag: TagConfig
    evaluate: EvaluateConfig


class PipelineConfig(Config):
    """Every stage's settings; each stage reads what the one before it wrote, unless told otherwise."""

    output: str = Field(description="folder with a folder for each stage")
    sandbox: ServeConfig | None = Field(None, description="a local stand-in for TMDB; null: the real one")
    catalog: CatalogConfig
    enrich: EnrichConfig
    dataset: DatasetConfig
    models: dict[str, ModelRun] = Field(min_length=1, description="by a name of your choice")

    @model_validator(mode="before")
    @classmethod
    def _chain(cls, values: Any) -> Any:
        """Fill in each stage's inputs and output, where they are not given."""
        if not isinstance(values, dict) or not isinstance(values.get("output"), str):
            return values
        chained = dict(values)
        root = chained["output"]

        def fill(stage: str, **defaults: str) -> None:
            given = chained.get(stage)
            if given is None or isinstance(given, dict):
                chained[stage] = defaults | (given or {})

        if isinstance(chained.get("sandbox"), dict):
            fill("sandbox", output=storage.join(root, "sandbox"))
            data = chained["sandbox"].get("data") or chained["sandbox"]["output"]
            fill("catalog", input=storage.join(str(data), DUMP))
        fill("catalog", output=storage.join(root, "catalog"))
        tables = {name: storage.join(root, name) for name in ("catalog", "enriched", "movies")}
        fill("enrich", catalog=tables["catalog"], output=tables["enriched"])
        fill("dataset", catalog=tables["catalog"], enriched=tables["enriched"], output=tables["movies"])
        models = chained.get("models")
        if isinstance(models, dict):
            chained["models"] = {
                name: _chain_model(run, tables, storage.join(root, str(name))) for name, run in models.items()
            }
        return chained


def _chain_model(run: Any, tables: dict[str, str], root: str) -> Any:
    if not isinstance(run, dict):
        return run
    checkpoint, predictions, report = (storage.join(root, name) for name in ("checkpoint", "predictions", "report"))
    defaults = {
        "train": {"dataset": tables["movies"], "output": checkpoint},
        # Every catalogued movie is tagged, with a plot or without: ENRICHED has a row for each.
        "tag": {"checkpoint": checkpoint, "movies": tables["enriched"], "output": predictions},
        "evaluate": {"predictions": predictions, "movies": tables["movies"], "output": report},
    }
    return run | {stage: paths | (run.get(stage) or {}) for stage, paths in defaults.items()}


def run_pipeline(config: PipelineConfig) -> str:
    """Run every stage that is not complete; prints a line for each, and returns the scores as text.

    Raises:
        InputError: from the stage that met it; the stages before it are complete.
    """
    if config.sandbox is not None:
        prepare(config.sandbox)
    _stage("catalog", lambda: catalog(config.catalog), config.catalog.output)
    _stage("enrich", lambda: _enrich(config), config.enrich.output)
    _stage("dataset", lambda: build_dataset(config.dataset), config.dataset.output)
    reports = {name: _run_model(name, run) for name, run in config.models.items()}
    details = "\n\n".join(f"{name}: {report}" for name, report in reports.items())
    return f"\n{details}\n\n{compare(reports)}" if len(reports) > 1 else f"\n{details}"


def _enrich(config: PipelineConfig) -> Manifest:
    provider = config.enrich.provider
    if config.sandbox is None or not isinstance(provider, TmdbConfig):
        return enrich(config.enrich)
    with serving(config.sandbox) as sandbox:
        urls = {"base_url": sandbox.base_url, "image_url": sandbox.image_url}
        local = config.enrich.model_copy(update={"provider": provider.model_copy(update=urls)})
        return enrich(local, TmdbKey.from_token(sandbox.token))


def _run_model(name: str, run: ModelRun) -> Report:
    _stage(f"{name}: train", lambda: train(run.train), run.train.output)
    _stage(f"{name}: tag", lambda: tag(run.tag), run.tag.output)
    began = time.monotonic()
    report = evaluate(run.evaluate)
    _say(f"{name}: evaluate: {report.movies:,} {report.split} rows in, {time.monotonic() - began:.1f} s")
    return report


def _stage(name: str, work: Callable[[], Manifest], output: str) -> None:
    """Run one stage and print its line."""
    before = read_manifest(output)
    began = time.monotonic()
    manifest = work()
    if before is not None and before.fingerprint == manifest.fingerprint:
        _say(f"{name}: complete already, {manifest.rows:,} rows")
    else:
        _say(f"{name}: {manifest.account()}, {time.monotonic() - began:.1f} s")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the pipeline's account
