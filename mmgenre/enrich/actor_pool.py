"""Ray Data actors that fetch rows over the network, many at once, and write them as they come."""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import ray.data

from mmgenre.enrich.http import Stopped
from mmgenre.errors import InputError
from mmgenre.progress import Progress
from mmgenre.tables.cache_table import GrowingTable
from mmgenre.tables.streams import mistake_in
from mmgenre.tables.table import write_part

# Movies of one call to an actor, and calls that overlap: the next ones fill the places of those that are done while
# the slowest of a call are still being tried again.
_PER_CALL = 256
_CALLS = 8
# Calls of one job, at the most: each costs the driver some bookkeeping.
_MOST_CALLS = 4_000
# What is lost when a process is killed, and what one part may hold.
_WRITE_EVERY_S = 1.0
_ROWS_PER_PART = 400
_BYTES_PER_PART = 32 * 2**20
# Movies of one actor whose rows are under way, from the first request to the disk.
_UNDER_WAY = 1_000
_MOST_DEATHS = 3
# Status of a movie that gets no row in this run, because the service has closed to us.
_POSTPONED = "postponed"


class Fetcher(Protocol):
    """What an actor does with one movie."""

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""

    async def fetch(self, movie: dict[str, Any]) -> dict[str, Any]:
        """The movie's row.

        Raises:
            Stopped: neither this movie nor any other can be had for now.
        """


@dataclass(frozen=True)
class Crew:
    """The actors of a stage.

    Args:
        build: makes an actor's fetcher, in the actor's process.
        actors: how many there are.
        cpus: of each of them.
    """

    build: Callable[[], Fetcher]
    actors: int
    cpus: float


def fetch(movies: pa.Table, crew: Crew, table: GrowingTable, progress: Progress) -> None:
    """Fetch a row for every movie and add it to the table.

    Raises:
        InputError: the service has closed to us before the last movie; what was fetched is written.
    """
    if not len(movies):
        return
    per_call = max(_PER_CALL, -(-len(movies) // _MOST_CALLS))
    calls = [movies.slice(start, per_call) for start in range(0, len(movies), per_call)]
    outcomes = ray.data.from_arrow(calls).map_batches(
        _Fetch,
        fn_constructor_args=(crew.build, table.directory, table.schema, table.newest()),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=crew.actors, max_concurrent_calls_per_actor=_CALLS),
        num_cpus=crew.cpus,
        # A movie that kills its actor would do so for ever.
        max_task_retries=_MOST_DEATHS,
        max_restarts=_MOST_DEATHS * crew.actors,
    )
    postponed, reason = 0, ""
    for outcome in _outcomes(outcomes):
        postponed += outcome.statuses.pop(_POSTPONED, 0)
        reason = reason or outcome.reason
        progress.add(outcome.statuses, outcome.num_requests)
    if postponed:
        raise InputError(
            f"{reason}; {len(movies) - postponed:,} of {len(movies):,} rows are written, the same command goes on "
            "from there"
        )


@dataclass(frozen=True)
class _Outcome:
    """What became of the movies of one call."""

    statuses: dict[str, int]
    num_requests: int
    reason: str

    def to_table(self) -> pa.Table:
        return pa.table(
            {
                "status": pa.array(self.statuses.keys(), pa.string()),
                "rows": pa.array(self.statuses.values(), pa.int64()),
                "num_requests": pa.array([self.num_requests] * len(self.statuses), pa.int64()),
                "reason": pa.array([self.reason] * len(self.statuses), pa.string()),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> "_Outcome":
        statuses = dict(zip(table["status"].to_pylist(), table["rows"].to_pylist(), strict=True))
        return cls(statuses, table["num_requests"][0].as_py(), table["reason"][0].as_py())


def _outcomes(tables: "ray.data.Dataset") -> Iterator[_Outcome]:
    try:
        for table in tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield _Outcome.from_table(table)
    except ray.exceptions.RayError as error:
        raise mistake_in(error) or error from None


class _Fetch:
    """Ray Data stage: movies in, an account of their rows out."""

    def __init__(self, build: Callable[[], Fetcher], directory: str, schema: pa.Schema, after: int):
        # Half a million objects of the imports would be looked through again and again.
        gc.freeze()
        self._fetcher = build()
        self._recorder = Recorder(directory, schema, after)
        self._places = asyncio.Semaphore(_UNDER_WAY)
        self._reason = ""
        self._counted = 0

    async def __call__(self, movies: pa.Table) -> pa.Table:
        statuses = Counter(await asyncio.gather(*map(self._fetch, movies.to_pylist())))
        before, self._counted = self._counted, self._fetcher.num_requests
        return _Outcome(dict(statuses), self._counted - before, self._reason).to_table()

    async def _fetch(self, movie: dict[str, Any]) -> str:
        async with self._places:
            if self._reason:
                return _POSTPONED
            try:
                row = await self._fetcher.fetch(movie)
            except Stopped as stop:
                self._reason = str(stop)
                return _POSTPONED
            await self._recorder.add(row)
            return row["status"]


class Recorder:
    """Writes rows soon after they come, as parts of a table.

    Args:
        directory: of the table.
        schema: of the rows.
        after: time of the newest part that these rows must follow.
    """

    def __init__(self, directory: str, schema: pa.Schema, after: int = 0):
        self._directory = directory
        self._schema = schema
        self._after = after
        self._open: _Part | None = None

    async def add(self, row: dict[str, Any]) -> None:
        """Return when the row is on disk."""
        part = self._open
        if part is None:
            part = self._open = _Part()
            part.written = asyncio.create_task(self._write(part))
        part.add(row)
        await asyncio.shield(part.written)

    async def _write(self, part: "_Part") -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(part.full.wait(), _WRITE_EVERY_S)
        self._open = None
        table = pa.Table.from_pylist(part.rows, self._schema)
        await asyncio.to_thread(write_part, table, self._directory, self._schema, self._after)


@dataclass
class _Part:
    """Rows that are written together."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    full: asyncio.Event = field(default_factory=asyncio.Event)
    num_bytes: int = 0
    written: Any = None

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.num_bytes += sum(len(value) for value in row.values() if isinstance(value, bytes | str))
        if len(self.rows) >= _ROWS_PER_PART or self.num_bytes >= _BYTES_PER_PART:
            self.full.set()
