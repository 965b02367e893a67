"""The first stages, which every run from a dump begins with: dump → catalogue → plots → posters."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from mmgenre.catalog.job import CatalogConfig, catalog
from mmgenre.config import Config
from mmgenre.enrich.job import EnrichConfig, enrich
from mmgenre.enrich.providers import TmdbConfig
from mmgenre.posters.job import PostersConfig, posters
from mmgenre.sandbox.catalogue import DUMP
from mmgenre.sandbox.job import ServeConfig, prepare, serving
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, read_manifest


class StagesConfig(Config):
    """From a dump to plots and posters; each stage reads what the one before it wrote, unless told otherwise."""

    output: str = Field(description="folder with a folder for each stage")
    sandbox: ServeConfig | None = Field(None, description="a local stand-in for TMDB; null: the real one")
    catalog: CatalogConfig
    enrich: EnrichConfig
    posters: PostersConfig | None = Field(None, description="posters of the movies; null: none are downloaded")


def fill(values: dict[str, Any], stage: str, **defaults: str) -> None:
    """Give a stage's fields values, where it has none."""
    given = values.get(stage)
    if given is None or isinstance(given, dict):
        values[stage] = defaults | (given or {})


def fill_stages(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a StagesConfig with inputs and outputs filled in, below its output."""
    chained, root = dict(values), values["output"]
    if isinstance(chained.get("sandbox"), dict):
        fill(chained, "sandbox", output=storage.join(root, "sandbox"))
        data = chained["sandbox"].get("data") or chained["sandbox"]["output"]
        fill(chained, "catalog", input=storage.join(str(data), DUMP))
    fill(chained, "catalog", output=storage.join(root, "catalog"))
    fill(chained, "enrich", catalog=storage.join(root, "catalog"), output=storage.join(root, "enriched"))
    if chained.get("posters") is not None:
        fill(chained, "posters", enriched=storage.join(root, "enriched"), output=storage.join(root, "posters"))
    return chained


def catalogue(config: StagesConfig) -> None:
    """The first stage."""
    if config.sandbox is not None:
        prepare(config.sandbox)
    stage("catalog", lambda: catalog(config.catalog), config.catalog.output)


def fetch_all(config: StagesConfig) -> None:
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


def stage(name: str, work: Callable[[], Manifest], output: str) -> None:
    """Run one stage and print its line."""
    before = read_manifest(output)
    began = time.monotonic()
    manifest = work()
    if before is not None and before.fingerprint == manifest.fingerprint:
        say(f"{name}: complete already, {manifest.rows:,} rows")
    else:
        say(f"{name}: {manifest.account()}, {time.monotonic() - began:.1f} s")


def say(line: str) -> None:
    """Print a line of the account at once."""
    print(line, flush=True)  # noqa: T201 - the account of a run


def _enrich_and_download(titles: EnrichConfig, images: PostersConfig | None, environment: Mapping[str, str]) -> None:
    stage("enrich", lambda: enrich(titles, environment), titles.output)
    if images is not None:
        stage("posters", lambda: posters(images), images.output)
