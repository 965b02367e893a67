"""Rows are taken from tables whose columns hold more than an Arrow array can, 2 GiB."""

import numpy as np
import pyarrow as pa
import pytest

from mmgenre.tables import chunks, joins
from mmgenre.tables.chunks import RowStore, gather, sorted_by_id, take
from mmgenre.tables.schema import POSTERS
from mmgenre.tables.table import Table

# One MB, listed often enough to exceed 2 GiB; every chunk shares its memory.
MANY_CHUNKS, CHUNK = 280, 8


def large_column(kind):
    value = b"x" * 2**20
    block = pa.array([value] * CHUNK, pa.large_binary()).cast(pa.binary()).cast(kind)
    return pa.chunked_array([block] * MANY_CHUNKS)


@pytest.fixture(scope="module", params=[pa.string(), pa.binary()], ids=str)
def large(request):
    """A table of 2.2 GiB, in 8 MB of memory, with descending ids."""
    column = large_column(request.param)
    assert column.nbytes > 2**31
    ids = [f"tt{number:07}" for number in range(len(column), 0, -1)]
    return pa.table({"imdb_id": ids, "content": column})


def test_a_few_rows_of_a_large_table_are_taken(large):
    rows = np.array([2000, 3, 3, 1500])

    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        large.take(pa.array(rows))
    taken = take(large, rows)

    assert taken.schema == large.schema
    assert taken["imdb_id"].to_pylist() == large["imdb_id"].take(pa.array(rows)).to_pylist()
    assert {len(value) for value in taken["content"].to_pylist()} == {2**20}


def test_a_large_table_can_be_the_right_side_of_a_join(large):
    left = pa.table({"imdb_id": ["tt0000007", "tt9999999", "tt0002000"]})

    joined = joins.RightTable(large).join(left)

    assert [value and len(value) for value in joined["content"].to_pylist()] == [2**20, None, 2**20]


def test_posters_are_joined_to_a_table_with_large_texts(write_table, tmp_path):
    column = large_column(pa.string())
    movies = pa.table({"imdb_id": [f"tt{number:07}" for number in range(len(column))], "plot": column})
    known = {"tt0000005": b"five", "tt0002100": b"last"}
    rows = {"imdb_id": list(known), "status": ["ok", "ok"], "image": list(known.values())}
    posters = Table(write_table(tmp_path / "posters", POSTERS, rows))

    part = next(joins.with_posters(movies, posters))

    assert dict(zip(part["imdb_id"].to_pylist(), part["image"].to_pylist(), strict=True)) == known


def test_what_is_taken_is_what_take_gives_for_a_small_table():
    random = np.random.default_rng(0)
    columns = {
        "imdb_id": [f"tt{number}" for number in random.integers(0, 30, 50)],
        "plot": [None if number % 7 == 0 else "é" * number for number in range(50)],
        "genres": [["Drama"] * (number % 3) for number in range(50)],
        "year": range(50),
    }
    table = pa.table(columns)
    table = pa.concat_tables([table.slice(0, 20), table.slice(0, 0), table.slice(20, 1), table.slice(21)])
    rows = pa.array([None if number < 0 else number for number in random.integers(-5, 50, 80)])

    assert RowStore(table).take(rows).equals(table.take(rows).cast(table.schema))
    assert RowStore(table).take(rows.slice(0, 0)).equals(table.slice(0, 0))
    assert RowStore(table.slice(0, 0)).take(pa.array([None], pa.int64()))["plot"].to_pylist() == [None]
    # Equal ids keep their order.
    assert sorted_by_id(table).equals(table.sort_by("imdb_id"))


def test_a_result_is_divided_where_an_array_would_be_full(monkeypatch):
    monkeypatch.setattr(chunks, "_BYTES_PER_CHUNK", 10)
    table = pa.table({"imdb_id": ["b", "a", "d", "c"], "plot": ["four", "12345678", None, "more than ten"]})

    taken = sorted_by_id(table)

    assert taken.equals(table.sort_by("imdb_id"))
    assert [len(chunk) for chunk in taken["plot"].chunks if len(chunk)] == [1, 1, 1, 1]


def test_small_tables_are_gathered():
    tables = [pa.table({"number": [number]}) for number in range(5)]

    assert [len(table) for table in gather(tables, rows=2)] == [2, 2, 1]
