"""The whole line, each stage a table: dump → catalogue → plots → posters → dataset → checkpoint → tags → report."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from mmgenre import storage
from mmgenre.catalog import CatalogConfig, catalog
from mmgenre.compare import side_by_side
from mmgenre.config import Config
from mmgenre.dataset import DatasetConfig, build_dataset
from mmgenre.enrich import EnrichConfig, enrich
from mmgenre.evaluate import EvaluateConfig, Report, evaluate
from mmgenre.layout import aligned
from mmgenre.manifest import Manifest, read_manifest
from mmgenre.posters import PostersConfig, posters
from mmgenre.providers import TmdbConfig
from mmgenre.sandbox.catalogue import DUMP
from mmgenre.sandbox.serve import ServeConfig, prepare, serving
from mmgenre.tag import TagConfig, tag
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
    posters: PostersConfig | None = Field(None, description="posters of the movies; null: none are downloaded")
    dataset: DatasetConfig
    models: dict[str, ModelRun] = Field(min_length=1, description="by a name of your choice")

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
        inputs = {"catalog": tables["catalog"], "enriched": tables["enriched"]}
        if chained.get("posters") is not None:
            inputs["posters"] = storage.join(root, "posters")
            fill("posters", enriched=tables["enriched"], output=inputs["posters"])
        fill("dataset", **inputs, output=tables["movies"])
        models = chained.get("models")
        if isinstance(models, dict):
            chained["models"] = {
                name: _chain_model(run, tables, inputs, storage.join(root, str(name))) for name, run in models.items()
            }
        return chained


def _chain_model(run: Any, tables: dict[str, str], inputs: dict[str, str], root: str) -> Any:
    if not isinstance(run, dict):
        return run
    checkpoint, predictions, report = (storage.join(root, name) for name in ("checkpoint", "predictions", "report"))
    defaults: dict[str, dict[str, str]] = {
        "train": {"dataset": tables["movies"], "output": checkpoint},
        # Every catalogued movie is tagged, with a plot or without: ENRICHED has a row for each.
        "tag": {
            "checkpoint": checkpoint,
            "movies": tables["enriched"],
            **{role: inputs[role] for role in ("catalog", "posters") if role in inputs},
            "output": predictions,
        },
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
    _fetch(config)
    _stage("dataset", lambda: build_dataset(config.dataset), config.dataset.output)
    reports = {name: _run_model(name, run) for name, run in config.models.items()}
    details = "\n\n".join(f"{name}: {report}" for name, report in reports.items())
    return f"\n{details}\n\n{aligned(side_by_side(reports))}" if len(reports) > 1 else f"\n{details}"


def _fetch(config: PipelineConfig) -> None:
    """The stages that ask the outside world, or the sandbox in its place."""
    provider = config.enrich.provider
    if config.sandbox is None or not isinstance(provider, TmdbConfig):
        _enrich_and_download(config.enrich, config.posters, os.environ)
        return
    with serving(config.sandbox) as sandbox:
        urls = {"base_url": sandbox.base_url, "image_url": sandbox.image_url}
        local = config.enrich.model_copy(update={"provider": provider.model_copy(update=urls)})
        hosts = {"allowed_hosts": (sandbox.base_url.removeprefix("http://"),), "allow_private": True}
        images = config.posters and config.posters.model_copy(update=hosts)
        _enrich_and_download(local, images, {"TMDB_TOKEN": sandbox.token})


def _enrich_and_download(titles: EnrichConfig, images: PostersConfig | None, environment: Mapping[str, str]) -> None:
    _stage("enrich", lambda: enrich(titles, environment), titles.output)
    if images is not None:
        _stage("posters", lambda: posters(images), images.output)


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
