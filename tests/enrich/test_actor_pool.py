"""Rows are written soon, in groups, and never lost silently."""

import asyncio
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from tenacity import wait_none

from mmgenre.enrich import actor_pool
from mmgenre.enrich.actor_pool import FetchRows, PartWriter
from mmgenre.enrich.http import ServiceUnavailable
from mmgenre.tables.schema import ENRICHED


def row(number, **columns):
    defaults = {"imdb_id": f"tt{number:07}", "provider": "tmdb", "status": "ok", "fetched_at": datetime.now(UTC)}
    return defaults | columns


def parts_in(folder):
    return [pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))]


@pytest.fixture
def short_flush_interval(monkeypatch):
    monkeypatch.setattr(actor_pool, "_FLUSH_EVERY_S", 0.05)


def test_add_returns_once_the_row_is_on_disk(tmp_path, short_flush_interval):
    async def add():
        await PartWriter(str(tmp_path), ENRICHED).add(row(1))
        return parts_in(tmp_path)

    (part,) = asyncio.run(add())
    assert part["imdb_id"].to_pylist() == ["tt0000001"]


def test_concurrent_rows_share_a_part_and_a_full_part_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(actor_pool, "_ROWS_PER_PART", 10)

    async def add():
        writer = PartWriter(str(tmp_path), ENRICHED)
        await asyncio.wait_for(asyncio.gather(*(writer.add(row(number)) for number in range(40))), 0.9)

    asyncio.run(add())
    parts = parts_in(tmp_path)
    assert sum(map(len, parts)) == 40
    assert len(parts) < 5


def test_every_caller_gets_the_write_error(tmp_path, short_flush_interval, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(actor_pool, "write_part", full)
    monkeypatch.setattr(actor_pool, "_DISK_OUTAGE_S", 0)

    async def add():
        writer = PartWriter(str(tmp_path), ENRICHED)
        return await asyncio.gather(*(writer.add(row(number)) for number in range(3)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(add())] == ["no space left on device"] * 3


def test_a_disk_that_fails_for_a_moment_is_waited_for(tmp_path, short_flush_interval, monkeypatch):
    write, failures = actor_pool.write_part, []

    def fail_twice(*arguments):
        if len(failures) < 2:
            failures.append(arguments)
            raise OSError("input/output error")
        return write(*arguments)

    monkeypatch.setattr(actor_pool, "write_part", fail_twice)
    monkeypatch.setattr(actor_pool, "_DISK_WAIT", wait_none())

    async def add():
        await PartWriter(str(tmp_path), ENRICHED).add(row(1))
        return parts_in(tmp_path)

    (part,) = asyncio.run(add())
    assert len(failures) == 2
    assert part["imdb_id"].to_pylist() == ["tt0000001"]


class UnavailableAfter:
    """A fetcher whose service becomes unavailable after some rows."""

    def __init__(self, num_rows):
        self.num_requests, self.notices = 0, ("closed early",)
        self._num_rows = num_rows

    async def fetch(self, movie):
        self.num_requests += 1
        if self.num_requests > self._num_rows:
            raise ServiceUnavailable("closed until tomorrow")
        return row(0) | movie


def test_when_the_service_becomes_unavailable_fetched_rows_are_written_and_the_rest_is_not_requested(
    tmp_path, short_flush_interval
):
    movies = ENRICHED.empty_table().select(["imdb_id"]).from_pylist([{"imdb_id": f"tt{n:07}"} for n in range(100)])
    stage = FetchRows(lambda: UnavailableAfter(7), str(tmp_path), ENRICHED, after=0)

    (result,) = asyncio.run(stage(movies)).to_pylist()

    assert result == {
        "statuses": [("ok", 7)],
        "num_postponed": 93,
        "stop_reason": "closed until tomorrow",
        "notices": ["closed early"],
        "num_requests": 8,
    }
    assert sum(map(len, parts_in(tmp_path))) == 7
