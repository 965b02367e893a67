"""Rows on their way to disk: soon, together, and never silently lost."""

import asyncio
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from mmgenre.enrich import actor_pool as fetching
from mmgenre.enrich.actor_pool import Recorder, _Fetch
from mmgenre.enrich.http import Stopped
from mmgenre.tables.schema import ENRICHED


def row(number, **columns):
    known = {"imdb_id": f"tt{number:07}", "provider": "tmdb", "status": "ok", "fetched_at": datetime.now(UTC)}
    return known | columns


def parts_in(folder):
    return [pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))]


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(fetching, "_WRITE_EVERY_S", 0.05)


def test_a_row_that_is_added_is_on_disk(tmp_path, soon):
    async def add():
        await Recorder(str(tmp_path), ENRICHED).add(row(1))
        return parts_in(tmp_path)

    (part,) = asyncio.run(add())
    assert part["imdb_id"].to_pylist() == ["tt0000001"]


def test_rows_that_come_together_are_written_together_and_a_full_part_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_ROWS_PER_PART", 10)

    async def add():
        recorder = Recorder(str(tmp_path), ENRICHED)
        await asyncio.wait_for(asyncio.gather(*(recorder.add(row(number)) for number in range(40))), 0.9)

    asyncio.run(add())
    parts = parts_in(tmp_path)
    assert sum(map(len, parts)) == 40
    assert len(parts) < 5


def test_everybody_hears_of_a_disk_that_is_full(tmp_path, soon, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(fetching, "write_part", full)

    async def add():
        recorder = Recorder(str(tmp_path), ENRICHED)
        return await asyncio.gather(*(recorder.add(row(number)) for number in range(3)), return_exceptions=True)

    assert [str(error) for error in asyncio.run(add())] == ["no space left on device"] * 3


class ClosesAfter:
    """Fetches so many rows, and then finds the service closed."""

    def __init__(self, num_rows):
        self.num_requests = 0
        self._left = num_rows

    async def fetch(self, movie):
        self.num_requests += 1
        if self.num_requests > self._left:
            raise Stopped("closed until tomorrow")
        return row(0) | movie


def test_when_the_service_closes_what_was_fetched_is_written_and_the_rest_is_not_asked_for(tmp_path, soon):
    movies = ENRICHED.empty_table().select(["imdb_id"]).from_pylist([{"imdb_id": f"tt{n:07}"} for n in range(100)])
    stage = _Fetch(lambda: ClosesAfter(7), str(tmp_path), ENRICHED, after=0)

    outcome = asyncio.run(stage(movies)).to_pylist()

    assert {line["status"]: line["rows"] for line in outcome} == {"ok": 7, "postponed": 93}
    assert {line["reason"] for line in outcome} == {"closed until tomorrow"}
    assert outcome[0]["num_requests"] == 8
    assert sum(map(len, parts_in(tmp_path))) == 7
