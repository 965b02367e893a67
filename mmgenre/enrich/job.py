"""CATALOG → ENRICHED: plot, language and poster URL of every movie, from web services or from an enriched file.

Ray Data actors send the requests under one rate limit. The table doubles as the cache: a run fetches only titles that
are new, were unreachable, or are older than `max_age_days`. Rows that a killed run wrote are kept.
"""

import asyncio
import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from mmgenre import ray_session
from mmgenre.config import Config, Requirements
from mmgenre.enrich.actor_pool import FetchPool, fetch_rows
from mmgenre.enrich.client import SourceClient, TitleFetcher
from mmgenre.enrich.http import HttpConfig, QuotaUsedUp, Unpaced
from mmgenre.enrich.providers import DumpConfig, OmdbConfig, ProviderConfig, TmdbConfig, WebServiceConfig
from mmgenre.enrich.providers.source import Source, Title
from mmgenre.errors import InputError
from mmgenre.progress import Progress, duration
from mmgenre.tables import storage
from mmgenre.tables.cache_table import CacheTable
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.schema import CATALOG, ENRICHED, EnrichStatus
from mmgenre.tables.table import Table

# Columns that later stages depend on.
_CONTENT = [name for name in ENRICHED.names if name not in ("fetched_at", "detail")]


class EnrichConfig(Config):
    """Plots, languages and poster URLs for a CATALOG table."""

    catalog: str = Field(description="folder of the CATALOG table")
    output: str = Field(description="folder of the ENRICHED table; its rows are a cache and are not fetched again")
    overwrite: bool = Field(False, description="replace an output that was made with other settings")
    provider: ProviderConfig = TmdbConfig()
    fallback: WebServiceConfig | None = Field(
        None, description="second web service, for what the first one does not have"
    )
    requests_per_second: float = Field(40, gt=0, description="limit per web service, shared by all actors and jobs")
    max_age_days: float | None = Field(
        180, ge=0, le=36_500, description="fetch titles again that were fetched longer ago; null: never"
    )
    dry_run: bool = Field(False, description="only print how many titles would be fetched and how long it would take")
    actors: int = Field(1, ge=1, description="number of processes that send requests")
    http: HttpConfig = HttpConfig()

    @model_validator(mode="after")
    def _check_services(self) -> Self:
        if self.fallback is not None and self.provider.kind in ("dump", self.fallback.kind):
            raise ValueError(
                f"fallback {self.fallback.kind} does not work with provider {self.provider.kind}; "
                "a fallback fills the gaps of another web service"
            )
        if self.dry_run and self.provider.kind == "dump":
            raise ValueError("dry_run=true applies to web services only; provider dump reads a file")
        return self

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        dump = self.provider.path if isinstance(self.provider, DumpConfig) else None
        needs = Requirements(
            inputs=(self.catalog, dump),
            outputs=(self.output,),
            cpus=self.actors,
            urls=tuple(service.base_url for service in self.web_services),
            keys={service.kind: _key_error(service) for service in self.web_services},
        )
        return (needs,)

    @property
    def web_services(self) -> list[TmdbConfig | OmdbConfig]:
        """Provider and fallback, as far as they are web services."""
        return [service for service in (self.provider, self.fallback) if isinstance(service, TmdbConfig | OmdbConfig)]


def _key_error(service: TmdbConfig | OmdbConfig) -> str | None:
    try:
        service.build(os.environ)
    except InputError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class FetchPlan:
    """How many titles a run fetches, by reason, and at which rate."""

    total: int
    new: int
    unreachable: int
    old: int
    requests_per_second: float

    @property
    def due(self) -> int:
        """Titles to fetch."""
        return self.new + self.unreachable + self.old

    def __str__(self) -> str:
        """One line for the terminal."""
        reasons = f"new {self.new:,}, previously unreachable {self.unreachable:,}, too old {self.old:,}"
        time = duration(self.due / self.requests_per_second)
        return (
            f"enrich: {self.due:,} of {self.total:,} titles would be fetched ({reasons}), {time} at "
            f"{self.requests_per_second:g} requests/s"
        )


def plan(config: EnrichConfig) -> FetchPlan:
    """What `enrich` would fetch, without sending or writing anything; raises the same InputErrors."""
    catalog = Table(config.catalog, CATALOG)
    return _select_due(catalog, _open_table(config, catalog), config)[1]


def enrich(config: EnrichConfig, environment: Mapping[str, str] = os.environ) -> Manifest:
    """Write one ENRICHED row per CATALOG row.

    Args:
        config: the job's config.
        environment: contains the keys of the web services.

    Raises:
        InputError: no catalogue, a missing or refused key, an unreadable file, an output made with other settings, a
            service that is down or whose daily quota is used up.
    """
    catalog = Table(config.catalog, CATALOG)
    table = _open_table(config, catalog)
    _, fetch_plan = _select_due(catalog, table, config)
    if table.output.finished is not None and not fetch_plan.due:
        return table.output.finished
    movies = catalog.read(["imdb_id"])["imdb_id"]
    notes = {name: catalog.manifest.notes.get(name, []) for name in ("curation", "warnings")}
    finish = functools.partial(table.finish, movies, content=_CONTENT, notes=notes)
    if isinstance(config.provider, DumpConfig):
        file = config.provider.open()
        # A file that cannot be read, or is about other movies, is refused before the table changes.
        file.require_matches(movies, config.catalog)
        notes["files"] = {"provider": file.facts.notes()}
        with table.output:
            _copy_file(config.provider, file.batches(), movies, table)
            return finish()
    sources = _checked_sources(config, environment) if fetch_plan.due else []
    with table.output:
        try:
            if sources and (notices := _fetch(config, sources, catalog, table)):
                notes["warnings"] = [*notes.get("warnings", []), *notices]
        except InputError:
            # A run that only refreshes older rows leaves a complete table, even if it stops early.
            if table.covers(movies):
                finish()
            raise
        return finish()


def _open_table(config: EnrichConfig, catalog: Table) -> CacheTable:
    inputs = {"catalog": catalog.manifest.fingerprint}
    if isinstance(config.provider, DumpConfig):
        storage.require_file(config.provider.path, "a file with imdb_id and plot")
        inputs["provider"] = storage.fingerprint(config.provider.path)
    recipe = Recipe(job="enrich", settings=_settings(config), inputs=inputs)
    content = ("plot", "poster_url")
    return CacheTable(config.output, recipe, ENRICHED, content=content, overwrite=config.overwrite)


def _settings(config: EnrichConfig) -> dict[str, Any]:
    """The settings that rows depend on; a service's URL is not one of them."""
    services = {"provider": config.provider, "fallback": config.fallback}
    return {
        name: service.to_settings(without=("base_url", "image_url", "on_bad_rows"))
        for name, service in services.items()
        if service is not None
    }


def _select_due(catalog: Table, table: CacheTable, config: EnrichConfig) -> tuple[pa.ChunkedArray, FetchPlan]:
    """The ids to fetch, new ones first, and their counts."""
    movies = catalog.read(["imdb_id"])["imdb_id"]
    cached = table.latest(["imdb_id", "status", "fetched_at"])
    index = pc.index_in(movies, cached["imdb_id"])
    is_new = index.is_null()
    is_unreachable = pc.fill_null(pc.equal(cached["status"].take(index), EnrichStatus.UNREACHABLE), False)
    is_old = pa.chunked_array([pa.repeat(False, len(movies))])
    if config.max_age_days is not None and not isinstance(config.provider, DumpConfig):
        oldest = datetime.now(UTC) - timedelta(days=config.max_age_days)
        is_old = pc.fill_null(
            pc.less(cached["fetched_at"].take(index), pa.scalar(oldest, ENRICHED.field("fetched_at").type)), False
        )
    is_old = pc.and_not(is_old, is_unreachable)
    groups = [movies.filter(mask) for mask in (is_new, is_unreachable, is_old)]
    new, unreachable, old = map(len, groups)
    fetch_plan = FetchPlan(len(movies), new, unreachable, old, config.requests_per_second)
    return pa.chunked_array([chunk for group in groups for chunk in group.chunks], pa.string()), fetch_plan


def _copy_file(
    provider: DumpConfig, batches: Iterable[pa.RecordBatch], movies: pa.ChunkedArray, table: CacheTable
) -> None:
    """Copy the movies' rows from an enriched file; movies that it lacks become `not_found`."""
    written = [pa.chunked_array([], pa.string())]
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(pc.is_in(rows["imdb_id"], movies))
        table.write(_file_rows(provider, EnrichStatus.OK, {name: rows[name] for name in rows.column_names}))
        written.append(rows["imdb_id"])
    # Movies that an earlier file had count as not found, too: each row of the table is of the file in its manifest.
    is_known = pc.is_in(movies, pa.chunked_array([chunk for ids in written for chunk in ids.chunks], pa.string()))
    table.write(_file_rows(provider, EnrichStatus.NOT_FOUND, {"imdb_id": movies.filter(pc.invert(is_known))}))


def _file_rows(provider: DumpConfig, status: EnrichStatus, columns: dict[str, pa.ChunkedArray]) -> pa.Table:
    num_rows = len(columns["imdb_id"])
    columns = columns | {
        "provider": pa.repeat(provider.kind, num_rows),
        "status": pa.repeat(status, num_rows),
        "fetched_at": pa.repeat(datetime.now(UTC).replace(microsecond=0), num_rows),
    }
    return pa.table({field.name: columns.get(field.name, pa.nulls(num_rows, field.type)) for field in ENRICHED})


def _checked_sources(config: EnrichConfig, environment: Mapping[str, str]) -> list[Source]:
    """The web services, after each has accepted its key."""
    sources: list[Source] = [service.build(environment) for service in config.web_services]
    for source in sources:
        try:
            asyncio.run(SourceClient(source, Unpaced(), config.http).check())
        except QuotaUsedUp as error:
            # The first service can go on without a fallback.
            if source is sources[0]:
                raise InputError(str(error)) from None
    ray_session.connect()
    return sources


def _fetch(config: EnrichConfig, sources: list[Source], catalog: Table, table: CacheTable) -> tuple[str, ...]:
    """Fetch the due movies from web services and write their rows; returns why fallback services stopped."""
    # Select again: the actors of a run that was just killed may have written more rows meanwhile.
    due, _ = _select_due(catalog, table, config)
    pool = FetchPool(
        build=lambda: TitleFetcher.in_cluster(sources, config.requests_per_second, config.http),
        actors=config.actors,
        # These actors mostly wait for the network.
        cpus=ray_session.IO_ACTOR_CPUS,
    )
    progress = Progress("enrich", len(due), config.requests_per_second)
    titles = catalog.read(Title._fields)
    due_titles = titles.take(pc.index_in(due, titles["imdb_id"]))
    return fetch_rows(due_titles, pool, table, progress)
