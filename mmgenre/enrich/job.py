"""CATALOG → ENRICHED: plot, language and poster address of every movie, from web services or an enriched file.

Web services are asked by Ray Data actors under one rate limit. The table is the cache: a run asks only for titles
that are new, could not be had before, or are older than one may keep them; what a killed run wrote is kept.
"""

import asyncio
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from mmgenre import ray_session as cluster
from mmgenre.config import Config
from mmgenre.enrich.actor_pool import Crew, fetch
from mmgenre.enrich.client import Titles, check
from mmgenre.enrich.http import HttpConfig
from mmgenre.enrich.providers import DumpConfig, OmdbConfig, ProviderConfig, TmdbConfig, WebServiceConfig
from mmgenre.enrich.providers.source import Source
from mmgenre.errors import InputError
from mmgenre.progress import Progress, duration
from mmgenre.tables import storage
from mmgenre.tables.cache_table import GrowingTable
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.schema import CATALOG, ENRICHED, EnrichStatus
from mmgenre.tables.table import Table

_WEB_SERVICES = (TmdbConfig, OmdbConfig)
# Later stages do not care when a title was asked for.
_CONTENT = [name for name in ENRICHED.names if name not in ("fetched_at", "detail")]


class EnrichConfig(Config):
    """Plots, languages and poster addresses for a CATALOG table."""

    catalog: str = Field(description="folder of the CATALOG table")
    output: str = Field(description="folder of the ENRICHED table; what it holds already is not asked for again")
    overwrite: bool = Field(False, description="replace what another configuration left in output")
    provider: ProviderConfig = TmdbConfig()
    fallback: WebServiceConfig | None = Field(None, description="fills in what the provider, a web service, lacks")
    requests_per_second: float = Field(40, gt=0, description="of all actors and jobs together, at each web service")
    max_age_days: float | None = Field(
        180, ge=0, le=36_500, description="older answers are asked for again; null: never"
    )
    dry_run: bool = Field(False, description="only say how many titles would be asked for, and how long it would take")
    actors: int = Field(1, ge=1, description="processes that send requests")
    http: HttpConfig = HttpConfig()

    @model_validator(mode="after")
    def _two_services(self) -> Self:
        if self.fallback is not None and self.provider.kind in ("dump", self.fallback.kind):
            raise ValueError(
                f"fallback {self.fallback.kind} cannot stand beside provider {self.provider.kind}; "
                "it fills in what another web service lacks"
            )
        if self.dry_run and self.provider.kind == "dump":
            raise ValueError("dry_run=true: is for web services; a file is read at once")
        return self


@dataclass(frozen=True)
class Plan:
    """Which titles a run asks for, by why, and how fast."""

    total: int
    new: int
    unreachable: int
    old: int
    requests_per_second: float

    @property
    def due(self) -> int:
        """Titles in all."""
        return self.new + self.unreachable + self.old

    def __str__(self) -> str:
        """One line for a person."""
        reasons = f"new {self.new:,}, unreachable before {self.unreachable:,}, too old {self.old:,}"
        time = duration(self.due / self.requests_per_second)
        return (
            f"enrich: {self.due:,} of {self.total:,} titles would be fetched ({reasons}), {time} at "
            f"{self.requests_per_second:g} requests/s"
        )


def plan(config: EnrichConfig) -> Plan:
    """What `enrich` would ask for; nothing is asked or written. Raises InputError like it."""
    catalog = Table(config.catalog, CATALOG)
    return _due(catalog, _table(config, catalog), config)[1]


def enrich(config: EnrichConfig, environment: Mapping[str, str] = os.environ) -> Manifest:
    """One ENRICHED row for each CATALOG row.

    Args:
        config: from where to where.
        environment: holds the keys of the web services.

    Raises:
        InputError: no catalogue, no key or a refused one, a service or a file that cannot be read, a used output,
            a service that has given what it gives in a day.
    """
    catalog = Table(config.catalog, CATALOG)
    table = _table(config, catalog)
    _, planned = _due(catalog, table, config)
    found = table.finished()
    if found is not None and not planned.due:
        return found
    movies = catalog.read(["imdb_id"])["imdb_id"]
    finish = functools.partial(
        table.finish, movies, content=_CONTENT, notes={"curation": catalog.manifest.notes.get("curation", [])}
    )
    if isinstance(config.provider, DumpConfig):
        _copy(config.provider, movies, table)
    elif planned.due:
        try:
            _ask(config, catalog, table, environment)
        except InputError:
            # Where answers were only to be renewed, the older ones are a whole table still.
            if table.is_started and table.covers(movies):
                finish()
            raise
    else:
        table.start()
    return finish()


def _table(config: EnrichConfig, catalog: Table) -> GrowingTable:
    inputs = {"catalog": catalog.manifest.fingerprint}
    if isinstance(config.provider, DumpConfig):
        storage.require_file(config.provider.path, "a file with imdb_id and plot")
        inputs["provider"] = storage.fingerprint(config.provider.path)
    recipe = Recipe(job="enrich", settings=_settings(config), inputs=inputs)
    return GrowingTable(config.output, ENRICHED, recipe, overwrite=config.overwrite)


def _settings(config: EnrichConfig) -> dict[str, Any]:
    """What the rows depend on: where a service is reached does not change what it says."""
    services = {"provider": config.provider, "fallback": config.fallback}
    return {
        name: service.to_settings(without=("base_url", "image_url"))
        for name, service in services.items()
        if service is not None
    }


def _due(catalog: Table, table: GrowingTable, config: EnrichConfig) -> tuple[pa.ChunkedArray, Plan]:
    """The ids to be asked for, the new ones first."""
    movies = catalog.read(["imdb_id"])["imdb_id"]
    cached = table.latest(["imdb_id", "status", "fetched_at"])
    place = pc.index_in(movies, cached["imdb_id"])
    is_new = place.is_null()
    unreachable = pc.fill_null(pc.equal(cached["status"].take(place), EnrichStatus.UNREACHABLE), False)
    old = pa.chunked_array([pa.repeat(False, len(movies))])
    if config.max_age_days is not None and not isinstance(config.provider, DumpConfig):
        oldest = datetime.now(UTC) - timedelta(days=config.max_age_days)
        old = pc.fill_null(
            pc.less(cached["fetched_at"].take(place), pa.scalar(oldest, ENRICHED.field("fetched_at").type)), False
        )
    old = pc.and_not(old, unreachable)
    groups = [movies.filter(group) for group in (is_new, unreachable, old)]
    planned = Plan(len(movies), len(groups[0]), len(groups[1]), len(groups[2]), config.requests_per_second)
    return pa.chunked_array([chunk for group in groups for chunk in group.chunks], pa.string()), planned


def _copy(provider: DumpConfig, movies: pa.ChunkedArray, table: GrowingTable) -> None:
    """Rows of an enriched file for the movies; those it does not have are `not_found`."""
    for batch in provider.batches():
        if not table.is_started:
            table.start()
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(pc.is_in(rows["imdb_id"], movies))
        table.write(_copied(provider, EnrichStatus.OK, {name: rows[name] for name in rows.column_names}))
    known = pc.is_in(movies, table.latest(["imdb_id"])["imdb_id"])
    table.write(_copied(provider, EnrichStatus.NOT_FOUND, {"imdb_id": movies.filter(pc.invert(known))}))


def _copied(provider: DumpConfig, status: EnrichStatus, columns: dict[str, pa.ChunkedArray]) -> pa.Table:
    num_rows = len(columns["imdb_id"])
    known = columns | {
        "provider": pa.repeat(provider.kind, num_rows),
        "status": pa.repeat(status, num_rows),
        "fetched_at": pa.repeat(datetime.now(UTC).replace(microsecond=0), num_rows),
    }
    return pa.table({field.name: known.get(field.name, pa.nulls(num_rows, field.type)) for field in ENRICHED})


def _ask(config: EnrichConfig, catalog: Table, table: GrowingTable, environment: Mapping[str, str]) -> None:
    """Ask web services for the movies that are due, and write what they say."""
    services = [service for service in (config.provider, config.fallback) if isinstance(service, _WEB_SERVICES)]
    sources: list[Source] = [service.build(environment) for service in services]
    for source in sources:
        asyncio.run(check(source, config.http))
    cluster.connect()
    table.start()
    # Again, because the actors of a run that was just killed live a little longer than it.
    due, _ = _due(catalog, table, config)
    crew = Crew(
        build=lambda: Titles(sources, config.requests_per_second, config.http),
        actors=config.actors,
        # Actors wait for the network: they leave the CPUs to others.
        cpus=cluster.SHARE_OF_WAITING,
    )
    progress = Progress("enrich", len(due), config.requests_per_second)
    fetch(pa.table({"imdb_id": due}), crew, table, progress)
