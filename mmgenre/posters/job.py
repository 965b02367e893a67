"""ENRICHED → POSTERS: every movie's poster as a small RGB JPEG, or the reason why there is none.

Ray Data actors download many at once and shrink them beside that. Hosts, bytes and pixels are bounded, because what
comes back is anybody's. The table is the cache: a run downloads what is new, has another address than before, or
could not be had.
"""

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from yarl import URL

from mmgenre import ray_session as cluster
from mmgenre.config import Config
from mmgenre.enrich.actor_pool import Crew, fetch
from mmgenre.enrich.hosts import HostRules, PrivateAddress
from mmgenre.enrich.http import Breaker, HttpConfig, Request, TooLong, TryAgain, Web, body, patiently
from mmgenre.enrich.rate_limit import ClusterPace, rate_limiter
from mmgenre.posters.images import NotAnImage, Picture, TooManyPixels, shrink
from mmgenre.progress import Progress
from mmgenre.tables import storage
from mmgenre.tables.cache_table import GrowingTable
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.schema import ENRICHED, POSTERS, PosterStatus
from mmgenre.tables.table import Table

_MOST_REDIRECTS = 3
# Begins the detail of a poster whose own address is allowed: other rules would not change what it leads to.
_LED_ASTRAY = "led to a "
# What the rows depend on, and what of them matters to later stages.
_SETTINGS = ("max_side", "max_bytes", "max_pixels", "placeholder_titles")
_CONTENT = ("imdb_id", "status", "sha256")


class PostersConfig(Config):
    """Posters for an ENRICHED table, as RGB JPEGs."""

    enriched: str = Field(description="folder of the ENRICHED table")
    output: str = Field(description="folder of the POSTERS table; what it holds already is not downloaded again")
    overwrite: bool = Field(False, description="replace what another configuration left in output")
    allowed_hosts: tuple[str, ...] = Field(
        ("image.tmdb.org", "m.media-amazon.com"), description="host or host:port; no other is asked, redirects included"
    )
    allow_private: bool = Field(False, description="allowed hosts may be plain http and private addresses: for tests")
    max_side: int = Field(384, ge=16, description="px; longer images are made smaller, none larger")
    max_bytes: int = Field(5_000_000, gt=0, description="of a download; longer ones are broken off")
    max_pixels: int = Field(25_000_000, gt=0, description="of an image as it comes; larger ones are not decoded")
    placeholder_titles: int = Field(
        5, ge=2, description="titles with one and the same image that make it a placeholder"
    )
    export_dir: str | None = Field(None, description="folder or URI that also gets posters/<imdb_id>.jpg")
    requests_per_second: float = Field(500, gt=0, description="of all actors and jobs together, at each host")
    bytes_in_flight: int = Field(64_000_000, gt=0, description="of one actor, downloaded and not yet shrunk")
    actors: int | None = Field(None, ge=1, description="processes, of one CPU each; null: as many as there are CPUs")
    http: HttpConfig = HttpConfig(attempts=4)


def posters(config: PostersConfig) -> Manifest:
    """One POSTERS row for each ENRICHED row.

    Raises:
        InputError: no ENRICHED table, a used output, a host that wants no more requests for hours.
    """
    enriched = Table(config.enriched, ENRICHED)
    settings = {name: getattr(config, name) for name in _SETTINGS}
    recipe = Recipe(job="posters", settings=settings, inputs={"enriched": enriched.manifest.fingerprint})
    table = GrowingTable(config.output, POSTERS, recipe, overwrite=config.overwrite)
    due = _due(enriched, table, config)
    manifest = table.finished()
    if manifest is None or len(due):
        table.start()
        _download(due, table, config)
        _mark_placeholders(table, config.placeholder_titles)
        manifest = table.finish(enriched.read(["imdb_id"])["imdb_id"], content=_CONTENT)
    if config.export_dir is not None:
        _export(Table(config.output, POSTERS), storage.join(config.export_dir, "posters"))
    return manifest


def _due(enriched: Table, table: GrowingTable, config: PostersConfig) -> pa.Table:
    """Ids and addresses of the posters to be had."""
    movies = enriched.read(["imdb_id", "poster_url"])
    cached = table.latest(["imdb_id", "status", "poster_url", "detail"])
    place = pc.index_in(movies["imdb_id"], cached["imdb_id"])
    address, before = (pc.fill_null(column, "") for column in (movies["poster_url"], cached["poster_url"].take(place)))
    status = cached["status"].take(place)
    unreachable = pc.fill_null(pc.equal(status, PosterStatus.UNREACHABLE), False)
    astray = pc.fill_null(pc.starts_with(cached["detail"].take(place), _LED_ASTRAY), False)
    forbidden = pc.and_not(pc.fill_null(pc.equal(status, PosterStatus.FORBIDDEN), False), astray)
    allowed = pc.and_(
        forbidden, pc.is_in(movies["poster_url"], _allowed(movies["poster_url"].filter(forbidden), config))
    )
    is_due = (place.is_null(), pc.not_equal(address, before), unreachable, allowed)
    return movies.filter(functools.reduce(pc.or_, is_due))


def _allowed(addresses: pa.ChunkedArray, config: PostersConfig) -> pa.Array:
    """Those of some addresses that may be asked."""
    rules = _rules(config)
    return pa.array([address for address in addresses.to_pylist() if rules.refusal(address) is None], pa.string())


def _rules(config: PostersConfig) -> HostRules:
    return HostRules(config.allowed_hosts, config.allow_private)


def _download(due: pa.Table, table: GrowingTable, config: PostersConfig) -> None:
    has_address = due["poster_url"].is_valid()
    table.write(_without_posters(due.filter(pc.invert(has_address))["imdb_id"]))
    wanted = due.filter(has_address)
    if not len(wanted):
        return
    cluster.connect()
    actors = config.actors or max(1, int(cluster.most_resources()["CPU"]))
    crew = Crew(build=lambda: Posters(config), actors=actors, cpus=1)
    fetch(wanted, crew, table, Progress("posters", len(wanted), config.requests_per_second))


def _without_posters(ids: pa.ChunkedArray) -> pa.Table:
    columns = {field.name: pa.nulls(len(ids), field.type) for field in POSTERS}
    return pa.table(columns | {"imdb_id": ids, "status": pa.repeat(PosterStatus.NO_POSTER, len(ids))})


def _mark_placeholders(table: GrowingTable, num_titles: int) -> None:
    """Give movies whose image is also that of many others the status of a placeholder, and take the image away."""
    rows = table.latest(["imdb_id", "status", "sha256"])
    counts = rows.group_by("sha256").aggregate([("imdb_id", "count")])
    shared = counts.filter(pc.greater_equal(counts["imdb_id_count"], num_titles))["sha256"].drop_null()
    found = rows.filter(pc.and_(pc.is_in(rows["sha256"], shared), pc.equal(rows["status"], PosterStatus.OK)))
    if not len(found):
        return
    marked = table.rows_of(found["imdb_id"], [name for name in POSTERS.names if name != "image"])
    changes = {
        "status": pa.repeat(PosterStatus.PLACEHOLDER, len(marked)),
        "image": pa.nulls(len(marked), pa.binary()),
        "detail": pa.repeat(f"the same image as {num_titles - 1} other titles or more", len(marked)),
    }
    table.write(pa.table({name: changes[name] if name in changes else marked[name] for name in POSTERS.names}))


def _export(table: Table, directory: str) -> None:
    """Write every image as a file of its own, but for those that are there already."""
    there = storage.sizes_in(directory)

    def write(row: dict[str, Any]) -> None:
        name = f"{row['imdb_id']}.jpg"
        if there.get(name) != len(row["image"]):
            storage.write_bytes(storage.join(directory, name), row["image"])

    has_image = pc.field("image").is_valid()
    batches = table.dataset.to_batches(columns=["imdb_id", "image"], filter=has_image, batch_size=500)
    with ThreadPoolExecutor(16) as threads:
        for batch in batches:
            list(threads.map(write, batch.to_pylist()))


class Unwanted(Exception):  # noqa: N818 - an answer, and final
    """What is at an address is no poster of ours, however often it is asked for."""

    def __init__(self, status: PosterStatus, detail: str):
        super().__init__(status, detail)
        self.status, self.detail = status, detail


class Broken(TryAgain):
    """What came is no image; another attempt may bring one."""


class Posters:
    """Fetches POSTERS rows.

    Args:
        config: of the stage.
    """

    def __init__(self, config: PostersConfig):
        self._config = config
        self._rules = _rules(config)
        self._webs: dict[str, Web] = {}
        self._breaker = Breaker("the image hosts")
        self._budget = ByteBudget(config.bytes_in_flight)
        # Decoding would keep the event loop from the network.
        self._decoders = ThreadPoolExecutor(cluster.assigned_cpus())

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""
        return sum(web.num_requests for web in self._webs.values())

    async def fetch(self, movie: dict[str, Any]) -> dict[str, Any]:
        """The row of a movie with an `imdb_id` and a `poster_url`.

        Raises:
            Stopped: the host wants no more requests for hours.
        """
        try:
            picture = await patiently(self._config.http, self._attempt, movie["poster_url"])
        except Unwanted as unwanted:
            return movie | {"status": unwanted.status, "detail": unwanted.detail}
        except Broken as broken:
            return movie | {"status": PosterStatus.NOT_AN_IMAGE, "detail": str(broken)}
        except TryAgain as failure:
            self._breaker.failed(str(failure))
            return movie | {"status": PosterStatus.UNREACHABLE, "detail": str(failure)}
        self._breaker.succeeded()
        return movie | {
            "status": PosterStatus.OK,
            "image": picture.jpeg,
            "width": picture.width,
            "height": picture.height,
            "sha256": hashlib.sha256(picture.jpeg).hexdigest(),
        }

    async def _attempt(self, url: str) -> Picture:
        async with self._budget.share() as share:
            content = await self._get(url, share)
            shrunk = functools.partial(shrink, content, self._config.max_side, self._config.max_pixels)
            try:
                return await asyncio.get_running_loop().run_in_executor(self._decoders, shrunk)
            except TooManyPixels as error:
                raise Unwanted(PosterStatus.TOO_LARGE, str(error)) from None
            except NotAnImage as error:
                raise Broken(str(error)) from None

    async def _get(self, url: str, share: "Share") -> bytes:
        """The bytes at an address, after redirects that the rules allow."""
        for hops in range(_MOST_REDIRECTS + 1):
            refusal = self._rules.refusal(url)
            if refusal is not None:
                raise Unwanted(PosterStatus.FORBIDDEN, refusal if hops == 0 else f"{_LED_ASTRAY}redirect: {refusal}")
            try:
                found = await self._web(url).get(Request(url), functools.partial(self._read, share))
            except TryAgain as failure:
                if _is_private(failure):
                    raise Unwanted(PosterStatus.FORBIDDEN, f"{_LED_ASTRAY}private address") from None
                raise
            if isinstance(found, bytes):
                return found
            url = found
        raise TryAgain(f"more than {_MOST_REDIRECTS} redirects")

    async def _read(self, share: "Share", response: aiohttp.ClientResponse) -> bytes | str:
        """The body, or the address that a redirect leads to."""
        if response.status in (301, 302, 303, 307, 308):
            return _target(response)
        if response.status in (404, 410):
            raise Unwanted(PosterStatus.NOT_FOUND, f"HTTP {response.status}")
        if response.status != 200:
            raise TryAgain(f"HTTP {response.status}")
        most = self._config.max_bytes
        await share.take(min(response.content_length or most, most))
        try:
            return await body(response, most)
        except TooLong:
            raise Unwanted(PosterStatus.TOO_LARGE, f"more than {most:,} bytes") from None

    def _web(self, url: str) -> Web:
        """The connections to the host of an address."""
        host = str(URL(url).host_port_subcomponent)
        if host not in self._webs:
            pace = ClusterPace(rate_limiter(), host, self._config.requests_per_second)
            self._webs[host] = Web(pace, self._config.http, self._rules.resolver())
        return self._webs[host]


def _target(response: aiohttp.ClientResponse) -> str:
    try:
        return str(response.url.join(URL(response.headers["Location"])))
    except (KeyError, ValueError):
        raise TryAgain("a redirect to nowhere") from None


def _is_private(failure: BaseException) -> bool:
    """Whether a request failed because a name led to an address that may not be asked."""
    cause = failure.__cause__
    return cause is not None and (isinstance(cause, PrivateAddress) or _is_private(cause))


class ByteBudget:
    """Bytes that one process holds at once; who wants more waits until others have finished.

    Args:
        num_bytes: in all.
    """

    def __init__(self, num_bytes: int):
        self._total = self._free = num_bytes
        self._in_order = asyncio.Lock()
        self._returned = asyncio.Event()

    @asynccontextmanager
    async def share(self) -> AsyncIterator["Share"]:
        """A part that is given back at the end of the block, empty at first."""
        share = Share(self)
        try:
            yield share
        finally:
            self._free += share.num_bytes
            self._returned.set()

    async def take(self, num_bytes: int) -> int:
        """Return when there are so many bytes, or all there are if that is less; returns how many."""
        num_bytes = min(num_bytes, self._total)
        # One waits for bytes, the others for him: each that is given back would otherwise wake them all.
        async with self._in_order:
            while self._free < num_bytes:
                self._returned.clear()
                await self._returned.wait()
            self._free -= num_bytes
        return num_bytes


@dataclass
class Share:
    """The part of a budget that one download has."""

    budget: ByteBudget
    num_bytes: int = 0

    async def take(self, num_bytes: int) -> None:
        """Return when there are so many bytes for it."""
        self.num_bytes += await self.budget.take(num_bytes)
