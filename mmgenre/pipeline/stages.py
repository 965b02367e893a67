"""The stages at the start of every run from an IMDb dump: dump → catalogue → plots → posters."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from mmgenre.catalog.job import CatalogConfig, catalog
from mmgenre.config import Config, Requirements
from mmgenre.enrich.job import EnrichConfig, enrich
from mmgenre.enrich.providers import TmdbConfig
from mmgenre.posters.job import PostersConfig, posters
from mmgenre.sandbox.catalogue import DUMP
from mmgenre.sandbox.job import ServeConfig, prepare, serving
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, read_manifest
from mmgenre.tables.user_files import remarks


class StagesConfig(Config):
    """Dump to plots and posters; by default, each stage reads what the one before it wrote."""

    output: str = Field(description="folder with one folder per stage")
    allow_damaged: bool = Field(False, description="use the rows before the damage of a truncated or corrupt dump")
    sandbox: ServeConfig | None = Field(None, description="local server in place of TMDB; null: TMDB itself")
    catalog: CatalogConfig
    enrich: EnrichConfig
    posters: PostersConfig | None = Field(None, description="download of the posters; null: no posters")

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        stages = [
            needs
            for config in (self.sandbox, self.catalog, self.enrich, self.posters)
            if config is not None
            for needs in config.requirements()
        ]
        if self.sandbox is not None:
            stages = [replace(needs, urls=(), keys={}) for needs in stages]
        return (Requirements(outputs=(self.output,)), *stages)


def fill(values: dict[str, Any], stage: str, **defaults: str) -> None:
    """Set fields of a stage that are not given."""
    given = values.get(stage)
    if given is None or isinstance(given, dict):
        values[stage] = defaults | (given or {})


def fill_stages(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a StagesConfig, with each stage's input and output set where they are not given."""
    chained, root = dict(values), values["output"]
    if isinstance(chained.get("sandbox"), dict):
        fill(chained, "sandbox", output=storage.join(root, "sandbox"))
        data = chained["sandbox"].get("data") or chained["sandbox"]["output"]
        fill(chained, "catalog", input=storage.join(str(data), DUMP))
    fill(chained, "catalog", output=storage.join(root, "catalog"))
    if isinstance(chained["catalog"], dict):
        chained["catalog"].setdefault("allow_damaged", chained.get("allow_damaged", False))
    fill(chained, "enrich", catalog=storage.join(root, "catalog"), output=storage.join(root, "enriched"))
    if chained.get("posters") is not None:
        fill(chained, "posters", enriched=storage.join(root, "enriched"), output=storage.join(root, "posters"))
    return chained


def run_catalog(config: StagesConfig) -> None:
    """Run the first stage; generates the sandbox's dump before it, if there is a sandbox."""
    if config.sandbox is not None:
        prepare(config.sandbox)
    run_stage("catalog", lambda: catalog(config.catalog), config.catalog.output)


def run_fetching(config: StagesConfig) -> None:
    """Run the stages that send requests, to the sandbox if there is one."""
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


def run_stage(name: str, work: Callable[[], Manifest], output: str) -> None:
    """Run one stage and print a line about its result."""
    before = read_manifest(output)
    start = time.monotonic()
    manifest = work()
    if before is not None and before.fingerprint == manifest.fingerprint:
        print_line(f"{name}: already complete, {manifest.rows:,} rows")
    else:
        print_line(f"{name}: {manifest.account()}, {time.monotonic() - start:.1f} s")
    for line in remarks(manifest.notes):
        print_line(f"{name}: {line}")


def print_line(line: str) -> None:
    """Print a line without buffering."""
    print(line, flush=True)  # noqa: T201 - progress of a run


def _enrich_and_download(titles: EnrichConfig, images: PostersConfig | None, environment: Mapping[str, str]) -> None:
    run_stage("enrich", lambda: enrich(titles, environment), titles.output)
    if images is not None:
        run_stage("posters", lambda: posters(images), images.output)
