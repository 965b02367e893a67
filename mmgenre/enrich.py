"""CATALOG → ENRICHED: plot, language and poster address of every movie, from a web service or an enriched file.

A web service is asked by Ray Data actors under one rate limit. Answers are written a batch at a time, so a run
that is killed is gone on with, and a catalogue that has grown costs only its new movies.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import ray
from pydantic import Field

from mmgenre import cluster
from mmgenre.config import Config
from mmgenre.manifest import Manifest, Recipe
from mmgenre.progress import Progress
from mmgenre.providers import DumpConfig, ProviderConfig, TmdbConfig
from mmgenre.providers.http import Client, HttpConfig
from mmgenre.providers.tmdb import TmdbKey
from mmgenre.rate_limit import ClusterPace, Unhurried, rate_limiter
from mmgenre.schema import CATALOG, ENRICHED, EnrichStatus
from mmgenre.streams import write
from mmgenre.tables import Table, TableWriter

# Movies of one written part: at 40 requests a second, what ten seconds bring.
_PART = 400
# Requests that one call to the rate limiter asks leave for.
_LEASE = 8


class EnrichConfig(Config):
    """Plots, languages and poster addresses for a CATALOG table."""

    catalog: str = Field(description="folder of the CATALOG table")
    output: str = Field(description="folder of the ENRICHED table; what it holds already is not asked for again")
    overwrite: bool = Field(False, description="replace what another configuration left in output")
    provider: ProviderConfig = TmdbConfig()
    requests_per_second: float = Field(40, gt=0, description="of all actors together")
    actors: int = Field(1, ge=1, description="processes that send requests")
    http: HttpConfig = HttpConfig()


def enrich(config: EnrichConfig, key: TmdbKey | None = None) -> Manifest:
    """One ENRICHED row for each CATALOG row.

    Args:
        config: from where to where.
        key: the web service's; by default the environment's.

    Raises:
        InputError: no catalogue, no key or a refused one, a service or a file that cannot be read, a used output.
    """
    catalog = Table(config.catalog, CATALOG)
    # Where a service is reached does not change what it says.
    settings = {"provider": config.provider.to_settings(without=("base_url", "image_url"))}
    recipe = Recipe(job="enrich", settings=settings, inputs={"catalog": catalog.manifest.fingerprint})
    writer = TableWriter(config.output, ENRICHED, recipe)
    found = writer.begin(overwrite=config.overwrite, keep="all")
    if found is not None:
        return found
    movies = catalog.read(["imdb_id"])["imdb_id"]
    missing = movies.filter(pc.invert(pc.is_in(movies, writer.written()["imdb_id"])))
    if isinstance(config.provider, DumpConfig):
        _copy(config.provider, missing, writer)
    elif len(missing):
        _ask(config, config.provider, key or TmdbKey.from_environment(), missing)
    return writer.finish(rows_in=len(movies), notes={"curation": catalog.manifest.notes.get("curation", [])})


def _copy(provider: DumpConfig, missing: pa.ChunkedArray, writer: TableWriter) -> None:
    """Rows of an enriched file for the missing movies; those it does not have are `not_found`."""
    found = pa.Table.from_batches(provider.batches())
    row_of_movie = pc.index_in(missing, found["imdb_id"])
    fields = {name: found[name].take(row_of_movie) for name in found.column_names if name != "imdb_id"}
    status = pc.if_else(row_of_movie.is_valid(), EnrichStatus.OK, EnrichStatus.NOT_FOUND)
    writer.write(_rows(provider.kind, {"imdb_id": missing, "status": status, **fields}))


def _ask(config: EnrichConfig, provider: TmdbConfig, key: TmdbKey, missing: pa.ChunkedArray) -> None:
    """Ask a web service for the missing movies, and write what it says."""
    asyncio.run(_check(provider, key, config.http))
    cluster.connect()
    ids = pa.table({"imdb_id": missing.combine_chunks()})
    batches = [ids.slice(start, _PART) for start in range(0, len(ids), _PART)]
    answers = ray.data.from_arrow(batches).map_batches(
        Ask,
        fn_constructor_args=(config, provider, key),
        batch_size=_PART,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=config.actors),
        # Actors wait for the network: they leave the CPUs to others.
        num_cpus=cluster.SHARE_OF_WAITING,
    )
    progress = Progress("enrich", len(missing))
    for statuses in write(answers, config.output, ENRICHED, _PART):
        progress.add(statuses)


async def _check(provider: TmdbConfig, key: TmdbKey, http: HttpConfig) -> None:
    client = Client(provider.build(key), Unhurried(), http)
    try:
        await client.check()
    finally:
        await client.close()


class Ask:
    """Ray Data stage: batches of ids become ENRICHED rows."""

    def __init__(self, config: EnrichConfig, provider: TmdbConfig, key: TmdbKey):
        limiter = rate_limiter(urlsplit(provider.base_url).netloc, config.requests_per_second)
        self._kind = provider.kind
        self._client = Client(provider.build(key), ClusterPace(limiter, _LEASE), config.http)
        # One loop for the actor's life, because the connections belong to it.
        self._loop = asyncio.new_event_loop()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """All titles of a batch at once, as far as the limits allow."""
        ids = batch["imdb_id"].to_pylist()
        found = self._loop.run_until_complete(self._fetch(ids))
        names = [name for name in ENRICHED.names if any(name in row for row in found)]
        return _rows(self._kind, {"imdb_id": ids} | {name: [row.get(name) for row in found] for name in names})

    async def _fetch(self, ids: list[str]) -> list[dict[str, Any]]:
        return await asyncio.gather(*map(self._client.fetch, ids))


def _rows(provider: str, fields: dict[str, Any]) -> pa.Table:
    """ENRICHED rows from the columns there are; the others are null."""
    num_rows = len(fields["imdb_id"])
    now = datetime.now(UTC).replace(microsecond=0)
    known = {"provider": [provider] * num_rows, "fetched_at": [now] * num_rows} | fields
    columns = [known.get(field.name, pa.nulls(num_rows, field.type)) for field in ENRICHED]
    return pa.table(columns, names=ENRICHED.names).cast(ENRICHED)
