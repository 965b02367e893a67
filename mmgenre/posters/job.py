"""ENRICHED → POSTERS: every movie's poster as a small RGB JPEG, or the reason why there is none.

Ray Data actors download many posters concurrently and shrink them in threads. The table doubles as the cache: a run
downloads only posters that are new, have another URL than before, or were unreachable.
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from mmgenre import ray_session
from mmgenre.config import Config, Requirements
from mmgenre.enrich.actor_pool import FetchPool, fetch_rows
from mmgenre.enrich.hosts import ForbiddenUrl, HostRules
from mmgenre.enrich.http import HttpConfig
from mmgenre.posters.download import PosterFetcher
from mmgenre.progress import Progress
from mmgenre.tables import storage
from mmgenre.tables.cache_table import CacheTable
from mmgenre.tables.chunks import take
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.schema import ENRICHED, POSTERS, PosterStatus
from mmgenre.tables.table import Table

# The settings that rows depend on, and the columns that later stages depend on.
_SETTINGS = ("max_side", "max_bytes", "max_pixels", "placeholder_titles")
_CONTENT = ("imdb_id", "status", "sha256")
# What files and services write in place of a URL, in lower case and without spaces around it.
_NO_URL = ("", "n/a", "na", "nan", "none", "null", "nil", "-", "\\n")


class PostersConfig(Config):
    """Posters for an ENRICHED table, as RGB JPEGs."""

    enriched: str = Field(description="folder of the ENRICHED table")
    output: str = Field(description="folder of the POSTERS table; its rows are a cache and are not downloaded again")
    overwrite: bool = Field(False, description="replace an output that was made with other settings")
    allowed_hosts: tuple[str, ...] = Field(
        ("image.tmdb.org", "m.media-amazon.com", "images-na.ssl-images-amazon.com"),
        description="host or host:port; no other host is contacted, not even after a redirect",
    )
    allow_private: bool = Field(False, description="allow plain http and private addresses for these hosts; for tests")
    max_side: int = Field(384, ge=16, description="longest side in pixels; larger images are shrunk")
    max_bytes: int = Field(5_000_000, gt=0, description="per download; longer ones are aborted")
    max_pixels: int = Field(25_000_000, gt=0, description="width x height of a source; larger ones are not decoded")
    placeholder_titles: int = Field(
        5, ge=2, description="an image that at least this many titles share counts as a placeholder"
    )
    export_dir: str | None = Field(None, description="folder or URI for a copy of each poster: posters/<imdb_id>.jpg")
    requests_per_second: float = Field(500, gt=0, description="limit per host, shared by all actors and jobs")
    bytes_in_flight: int = Field(64_000_000, gt=0, description="per actor, downloaded but not yet shrunk")
    actors: int | None = Field(None, ge=1, description="number of processes, one CPU each; null: one per CPU")
    http: HttpConfig = HttpConfig(attempts=4)

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        urls = tuple(f"https://{host}" for host in self.allowed_hosts)
        outputs = (self.output, self.export_dir)
        return (Requirements(inputs=(self.enriched,), outputs=outputs, cpus=self.actors or 1, urls=urls),)

    def host_rules(self) -> HostRules:
        """The hosts that may be contacted.

        Raises:
            InputError: an entry of allowed_hosts is not a host.
        """
        return HostRules(self.allowed_hosts, self.allow_private)


def posters(config: PostersConfig) -> Manifest:
    """Write one POSTERS row per ENRICHED row.

    Raises:
        InputError: no ENRICHED table, an output made with other settings, a host that is down or answers 429 for hours.
    """
    enriched = Table(config.enriched, ENRICHED)
    settings = {name: getattr(config, name) for name in _SETTINGS}
    recipe = Recipe(job="posters", settings=settings, inputs={"enriched": enriched.manifest.fingerprint})
    table = CacheTable(config.output, recipe, POSTERS, content=("sha256",), overwrite=config.overwrite)
    due = _select_due(enriched, table, config)
    manifest = table.output.finished
    if manifest is None or len(due):
        with table.output:
            _download(due, table, config)
            _mark_placeholders(table, config.placeholder_titles)
            manifest = table.finish(enriched.read(["imdb_id"])["imdb_id"], content=_CONTENT)
    if config.export_dir is not None:
        _export(Table(config.output, POSTERS), storage.join(config.export_dir, "posters"))
    return manifest


def _select_due(enriched: Table, table: CacheTable, config: PostersConfig) -> pa.Table:
    """Ids and URLs of the posters to download."""
    movies = enriched.read(["imdb_id", "poster_url"])
    movies = movies.set_column(1, "poster_url", _without_placeholders(movies["poster_url"]))
    cached = table.latest(["imdb_id", "status", "poster_url"])
    index = pc.index_in(movies["imdb_id"], cached["imdb_id"])
    matches = take(cached, index.combine_chunks())
    url, cached_url = (pc.fill_null(column, "") for column in (movies["poster_url"], matches["poster_url"]))
    status = matches["status"]
    is_unreachable, is_forbidden = (
        pc.fill_null(pc.equal(status, value), False) for value in (PosterStatus.UNREACHABLE, PosterStatus.FORBIDDEN)
    )
    allowed = _allowed(movies["poster_url"].filter(is_forbidden), config.host_rules())
    is_allowed_now = pc.and_(is_forbidden, pc.is_in(movies["poster_url"], allowed))
    reasons = (index.is_null(), pc.not_equal(url, cached_url), is_unreachable, is_allowed_now)
    return movies.filter(functools.reduce(pc.or_, reasons))


def _without_placeholders(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """The URLs, with nulls for texts such as N/A."""
    texts = pc.utf8_lower(pc.utf8_trim_whitespace(urls))
    return pc.if_else(pc.is_in(texts, pa.array(_NO_URL)), pa.scalar(None, pa.string()), urls)


def _allowed(urls: pa.ChunkedArray, rules: HostRules) -> pa.Array:
    """Those of the URLs that may be requested."""

    def is_allowed(url: str) -> bool:
        try:
            rules.check(url)
        except ForbiddenUrl:
            return False
        return True

    return pa.array(filter(is_allowed, urls.to_pylist()), pa.string())


def _download(due: pa.Table, table: CacheTable, config: PostersConfig) -> None:
    has_url = due["poster_url"].is_valid()
    table.write(_rows_without_poster(due.filter(pc.invert(has_url))["imdb_id"]))
    movies = due.filter(has_url)
    if not len(movies):
        return
    ray_session.connect()
    actors = config.actors or max(1, int(ray_session.max_resources()["CPU"]))
    pool = FetchPool(build=lambda: PosterFetcher(config), actors=actors, cpus=1)
    fetch_rows(movies, pool, table, Progress("posters", len(movies), config.requests_per_second))


def _rows_without_poster(ids: pa.ChunkedArray) -> pa.Table:
    columns = {field.name: pa.nulls(len(ids), field.type) for field in POSTERS}
    return pa.table(columns | {"imdb_id": ids, "status": pa.repeat(PosterStatus.NO_POSTER, len(ids))})


def _mark_placeholders(table: CacheTable, num_titles: int) -> None:
    """Give images that at least `num_titles` movies share the status `placeholder`, and remove them from the rows."""
    rows = table.latest(["imdb_id", "status", "sha256"])
    counts = rows.group_by("sha256").aggregate([("imdb_id", "count")])
    shared = counts.filter(pc.greater_equal(counts["imdb_id_count"], num_titles))["sha256"].drop_null()
    rows = rows.filter(pc.and_(pc.is_in(rows["sha256"], shared), pc.equal(rows["status"], PosterStatus.OK)))
    if not len(rows):
        return
    marked = table.rows_of(rows["imdb_id"], [name for name in POSTERS.names if name != "image"])
    changes = {
        "status": pa.repeat(PosterStatus.PLACEHOLDER, len(marked)),
        "image": pa.nulls(len(marked), pa.binary()),
        "detail": pa.repeat(f"same image as at least {num_titles - 1} other titles", len(marked)),
    }
    table.write(pa.table({name: changes[name] if name in changes else marked[name] for name in POSTERS.names}))


def _export(table: Table, directory: str) -> None:
    """Write every image to a file, except those that exist with the same size."""
    sizes = storage.sizes_in(directory)

    def write(row: dict[str, Any]) -> None:
        name = f"{row['imdb_id']}.jpg"
        if sizes.get(name) != len(row["image"]):
            storage.write_bytes(storage.join(directory, name), row["image"])

    has_image = pc.field("image").is_valid()
    batches = table.dataset.to_batches(columns=["imdb_id", "image"], filter=has_image, batch_size=500)
    with ThreadPoolExecutor(16) as threads:
        for batch in batches:
            list(threads.map(write, batch.to_pylist()))
