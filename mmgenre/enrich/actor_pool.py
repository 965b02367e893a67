"""Ray Data actors that fetch rows over the network, many concurrently, and write them as they arrive."""

import asyncio
import contextlib
import functools
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import ray.data
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from mmgenre.enrich.http import ServiceUnavailable
from mmgenre.errors import InputError
from mmgenre.progress import Progress
from mmgenre.tables.cache_table import CacheTable
from mmgenre.tables.streams import mistake_in
from mmgenre.tables.table import write_part

# Batches overlap: movies of the next batches take the slots that free up while the slowest of a batch are retried.
_MOVIES_PER_BATCH = 256
_BATCHES_PER_ACTOR = 8
# Each batch costs the driver some bookkeeping.
_MAX_BATCHES = 4_000
# A killed process loses at most this many seconds of rows; a part holds at most these rows and bytes.
_FLUSH_EVERY_S = 1.0
_ROWS_PER_PART = 400
_BYTES_PER_PART = 32 * 2**20
# Movies that an actor works on at a time, from the first request until their rows are on disk.
_MOVIES_IN_FLIGHT = 1_000
_MAX_CRASHES = 3
# How long a part that cannot be written is tried again.
_DISK_OUTAGE_S, _DISK_WAIT = 300.0, wait_exponential_jitter(initial=0.5, max=20)

# What a stage tells the driver about a batch: rows written by status, movies left out and why, requests sent.
_BATCH_RESULT = pa.schema(
    [
        ("statuses", pa.map_(pa.string(), pa.int64())),
        ("num_postponed", pa.int64()),
        ("stop_reason", pa.string()),
        ("notices", pa.list_(pa.string())),
        ("num_requests", pa.int64()),
    ]
)


class RowFetcher(Protocol):
    """Fetches the rows of one table; each actor has its own."""

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know about rows that were not fetched as asked."""

    async def fetch(self, movie: dict[str, Any]) -> dict[str, Any]:
        """The movie's row.

        Raises:
            ServiceUnavailable: no movie can be fetched for now.
        """


@dataclass(frozen=True)
class FetchPool:
    """The actors of a fetching stage.

    Args:
        build: creates an actor's fetcher, in the actor's process.
        actors: number of actors.
        cpus: CPUs per actor.
    """

    build: Callable[[], RowFetcher]
    actors: int
    cpus: float


def fetch_rows(movies: pa.Table, pool: FetchPool, table: CacheTable, progress: Progress) -> tuple[str, ...]:
    """Fetch a row for every movie and add it to the table; returns the fetchers' notices.

    Raises:
        InputError: the service became unavailable before the last movie; the fetched rows are written.
    """
    if not len(movies):
        return ()
    batch_size = max(_MOVIES_PER_BATCH, -(-len(movies) // _MAX_BATCHES))
    batches = [movies.slice(start, batch_size) for start in range(0, len(movies), batch_size)]
    results = ray.data.from_arrow(batches).map_batches(
        FetchRows,
        fn_constructor_args=(pool.build, table.directory, table.schema, table.newest()),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=pool.actors, max_concurrent_calls_per_actor=_BATCHES_PER_ACTOR),
        num_cpus=pool.cpus,
        # Without a limit, a movie that crashes its actor would do so forever.
        max_task_retries=_MAX_CRASHES,
        max_restarts=_MAX_CRASHES * pool.actors,
    )
    num_postponed, reason, notices = 0, "", dict[str, None]()
    for result in _rows(results):
        notices |= dict.fromkeys(result["notices"])
        progress.add(dict(result["statuses"]), result["num_requests"])
        num_postponed += result["num_postponed"]
        reason = reason or result["stop_reason"]
    if num_postponed:
        raise InputError(
            f"{reason}; {len(movies) - num_postponed:,} of {len(movies):,} rows are written, run the same command "
            "again to resume"
        )
    return tuple(notices)


def _rows(results: "ray.data.Dataset") -> Iterator[dict[str, Any]]:
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()
    except ray.exceptions.RayError as error:
        raise mistake_in(error) or error from None


class FetchRows:
    """Ray Data stage: takes a batch of movies, writes their rows and returns a _BATCH_RESULT.

    Args:
        build: creates the fetcher.
        directory: table to write to.
        schema: of the rows.
        after: time of the newest existing part, which these rows must follow.
    """

    def __init__(self, build: Callable[[], RowFetcher], directory: str, schema: pa.Schema, after: int):
        # Otherwise each collection would scan half a million objects that the imports created.
        gc.freeze()
        self._fetcher = build()
        self._writer = PartWriter(directory, schema, after)
        self._slots = asyncio.Semaphore(_MOVIES_IN_FLIGHT)
        self._stop_reason = ""
        self._num_reported = 0

    async def __call__(self, movies: pa.Table) -> pa.Table:
        """Fetch and write one batch; concurrent calls share the fetcher."""
        statuses = Counter(await asyncio.gather(*map(self._fetch, movies.to_pylist())))
        num_postponed = statuses.pop(None, 0)
        before, self._num_reported = self._num_reported, self._fetcher.num_requests
        result = {
            "statuses": list(statuses.items()),
            "num_postponed": num_postponed,
            "stop_reason": self._stop_reason,
            "notices": list(self._fetcher.notices),
            "num_requests": self._num_reported - before,
        }
        return pa.Table.from_pylist([result], _BATCH_RESULT)

    async def _fetch(self, movie: dict[str, Any]) -> str | None:
        """The status of the row that was written; None if the service is unavailable."""
        async with self._slots:
            if self._stop_reason:
                return None
            try:
                row = await self._fetcher.fetch(movie)
            except ServiceUnavailable as error:
                self._stop_reason = str(error)
                return None
            await self._writer.add(row)
            return row["status"]


class PartWriter:
    """Writes rows shortly after they arrive, grouped into parts of a table.

    Args:
        directory: of the table.
        schema: of the rows.
        after: time of the newest existing part, which these rows must follow.
    """

    def __init__(self, directory: str, schema: pa.Schema, after: int = 0):
        self._directory = directory
        self._schema = schema
        self._after = after
        self._pending: _PendingPart | None = None

    async def add(self, row: dict[str, Any]) -> None:
        """Return once the row is on disk."""
        part = self._pending
        if part is None:
            part = self._pending = _PendingPart()
            part.written = asyncio.create_task(self._write(part))
        part.add(row)
        await asyncio.shield(part.written)

    async def _write(self, part: "_PendingPart") -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(part.full.wait(), _FLUSH_EVERY_S)
        self._pending = None
        table = pa.Table.from_pylist(part.rows, self._schema)
        write = functools.partial(write_part, table, self._directory, self._schema, self._after)
        # A shared disk or a bucket that fails for a moment must not end a night's run.
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(OSError), stop=stop_after_delay(_DISK_OUTAGE_S), wait=_DISK_WAIT, reraise=True
        ):
            with attempt:
                await asyncio.to_thread(write)


@dataclass
class _PendingPart:
    """Rows that will be written together."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    full: asyncio.Event = field(default_factory=asyncio.Event)
    num_bytes: int = 0
    written: Any = None

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.num_bytes += sum(len(value) for value in row.values() if isinstance(value, bytes | str))
        if len(self.rows) >= _ROWS_PER_PART or self.num_bytes >= _BYTES_PER_PART:
            self.full.set()
