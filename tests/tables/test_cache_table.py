"""Tables that later runs extend: the best row of an id counts, and small parts are merged into large ones."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from mmgenre.errors import InputError
from mmgenre.tables import cache_table
from mmgenre.tables.cache_table import CacheTable
from mmgenre.tables.manifest import MANIFEST, Recipe
from mmgenre.tables.schema import ENRICHED
from mmgenre.tables.table import Table, parts_in

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def cache(folder, *, catalog="a", language="en", overwrite=False):
    recipe = Recipe(job="enrich", settings={"language": language}, inputs={"catalog": catalog})
    return CacheTable(str(folder), recipe, ENRICHED, content=("plot", "poster_url"), overwrite=overwrite)


def rows(plots, status="ok", at=NOW):
    return pa.Table.from_pylist(
        [
            {"imdb_id": name, "provider": "tmdb", "status": status, "plot": plot, "fetched_at": at}
            for name, plot in plots.items()
        ],
        ENRICHED,
    )


def finish(table, *ids):
    """Complete a table of the given ids, by default of all."""
    ids = ids or table.latest(["imdb_id"])["imdb_id"].to_pylist()
    return table.finish(pa.chunked_array([list(ids)], pa.string()), content=["imdb_id", "status", "plot"])


def extend(folder, *parts, ids=(), **recipe):
    """Write tables of rows, or plots by id, as one part each; returns the table and its manifest."""
    table = cache(folder, **recipe)
    with table.output:
        for part in parts:
            table.write(rows(part) if isinstance(part, dict) else part)
        return table, finish(table, *ids)


def plots_in(folder):
    read = Table(str(folder), ENRICHED).read(["imdb_id", "plot"]).to_pylist()
    return {row["imdb_id"]: row["plot"] for row in read}


def test_the_newest_row_of_an_id_counts(tmp_path):
    table, manifest = extend(tmp_path, {"tt1": "old", "tt2": "b"}, {"tt1": "new"}, {"tt3": "c"})

    assert plots_in(tmp_path) == {"tt1": "new", "tt2": "b", "tt3": "c"}
    assert manifest.rows == 3
    assert table.latest(["plot"]).num_rows == 3


def test_small_parts_are_merged_and_then_deleted(tmp_path):
    extend(tmp_path, *({f"tt{number}": "plot"} for number in range(20)))

    assert parts_in(str(tmp_path)) == json.loads((tmp_path / MANIFEST).read_text())["files"]
    assert len(parts_in(str(tmp_path))) == 1


def test_a_large_part_is_kept_and_merged_parts_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_table, "_ROWS_PER_PART", 10)
    extend(tmp_path, {f"tt{number}": "plot" for number in range(8)})
    (large,) = parts_in(str(tmp_path))

    _, manifest = extend(tmp_path, *({f"tt{number}": "plot"} for number in range(100, 124)))

    assert large in manifest.files
    assert len(manifest.files) == 1 + 3
    assert manifest.rows == 32


def test_a_single_small_part_is_not_written_again(tmp_path):
    extend(tmp_path, {"tt1": "a"})
    before = parts_in(str(tmp_path))

    extend(tmp_path, catalog="b")

    assert parts_in(str(tmp_path)) == before


def test_a_table_without_rows_is_complete(tmp_path):
    _, manifest = extend(tmp_path)

    assert manifest.rows == 0
    assert plots_in(tmp_path) == {}


def test_rows_of_a_killed_run_count_and_the_table_is_not_complete(tmp_path):
    killed = cache(tmp_path)
    with killed.output:
        killed.write(rows({"tt1": "a"}))

    table = cache(tmp_path)

    assert table.output.finished is None
    assert table.latest(["imdb_id"])["imdb_id"].to_pylist() == ["tt1"]
    with pytest.raises(InputError, match="not complete"):
        Table(str(tmp_path))


def test_a_run_killed_while_merging_leaves_no_duplicates(tmp_path):
    extend(tmp_path, {"tt1": "a", "tt2": "b"})
    killed = cache(tmp_path)
    with killed.output:
        killed.write(rows({"tt3": "c"}))
        killed._merge(killed.latest(["imdb_id"])["imdb_id"])

    assert cache(tmp_path).latest(["plot"]).num_rows == 3
    assert extend(tmp_path)[1].rows == 3


def test_equal_content_has_one_fingerprint_whatever_the_order_of_writing(tmp_path):
    _, first = extend(tmp_path / "a", {"tt1": "a", "tt2": "b"}, {"tt3": "c"})
    _, second = extend(tmp_path / "b", {"tt3": "c"}, {"tt1": "x"}, {"tt2": "b"}, {"tt1": "a"})
    _, other = extend(tmp_path / "c", {"tt1": "a", "tt2": "b"}, {"tt3": "d"})

    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_rows_written_again_with_the_same_content_leave_the_fingerprint(tmp_path):
    _, first = extend(tmp_path, {"tt1": "a", "tt2": "b"})
    _, second = extend(tmp_path, rows({"tt1": "a"}, at=NOW + timedelta(days=200)))

    assert second.fingerprint == first.fingerprint


def test_the_newest_rows_of_given_ids_can_be_read(tmp_path):
    table, _ = extend(tmp_path, {"tt1": "old", "tt2": "b"}, {"tt1": "new"})

    newest = table.rows_of(pa.array(["tt1"]), ["imdb_id", "status", "plot"])
    assert [row["plot"] for row in newest.to_pylist()] == ["new"]


def test_a_failed_refresh_does_not_replace_a_row(tmp_path):
    parts = [
        {"tt1": "a", "tt2": None},
        rows({"tt1": None, "tt3": None}, status="unreachable"),
        {"tt3": "late"},
    ]
    _, manifest = extend(tmp_path, *parts, ids=("tt1", "tt2", "tt3"))

    assert plots_in(tmp_path) == {"tt1": "a", "tt2": None, "tt3": "late"}
    assert manifest.statuses == {"ok": 3}


@pytest.mark.parametrize(
    ("earlier", "later", "best"),
    [
        # A service failed after another one had given the plot, and then both failed.
        (("unreachable", "a"), ("unreachable", None), "a"),
        (("unreachable", "a"), ("unreachable", "b"), "b"),
        (("ok", None), ("unreachable", "b"), "b"),
        (("not_found", None), ("unreachable", "b"), "b"),
        (("ok", "a"), ("unreachable", "b"), "a"),
        (("ok", "a"), ("ok", None), None),
        (("unreachable", "a"), ("ok", None), None),
    ],
)
def test_a_failed_row_replaces_only_rows_with_less_content(tmp_path, earlier, later, best):
    parts = [rows({"tt1": plot}, status=status) for status, plot in (earlier, later)]
    extend(tmp_path, {"tt2": "x"}, *parts)

    assert plots_in(tmp_path) == {"tt1": best, "tt2": "x"}


def test_rows_of_ids_that_are_no_longer_read_leave_the_table_until_the_ids_come_back(tmp_path):
    extend(tmp_path, {"tt1": "a", "tt2": "b", "tt3": "c"})

    _, fewer = extend(tmp_path, ids=["tt1"], catalog="b")
    assert plots_in(tmp_path) == {"tt1": "a"}
    assert fewer.rows == 1
    assert pa.parquet.read_table(tmp_path)["imdb_id"].to_pylist() == ["tt1"]
    before = sorted(path.name for path in tmp_path.iterdir())
    extend(tmp_path, ids=["tt1"], catalog="c")
    assert sorted(path.name for path in tmp_path.iterdir()) == before

    table, more = extend(tmp_path, ids=["tt1", "tt3"], catalog="d")
    assert plots_in(tmp_path) == {"tt1": "a", "tt3": "c"}
    assert more.rows == 2
    assert table.covers(pa.chunked_array([["tt2"]]))


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-20], lambda content: bytes(99)])
def test_a_part_damaged_by_a_power_failure_counts_as_not_written(tmp_path, damage):
    killed = cache(tmp_path)
    with killed.output:
        killed.write(rows({"tt1": "a"}))
        killed.write(rows({"tt2": "b"}))
    torn = tmp_path / parts_in(str(tmp_path))[1]
    torn.write_bytes(damage(torn.read_bytes()))

    assert cache(tmp_path).latest(["imdb_id"])["imdb_id"].to_pylist() == ["tt1"]
    extend(tmp_path, {"tt2": "again"})

    assert plots_in(tmp_path) == {"tt1": "a", "tt2": "again"}
    assert not torn.exists()


def test_a_table_with_missing_rows_is_not_complete(tmp_path):
    with pytest.raises(RuntimeError, match="rows are missing"):
        extend(tmp_path, {"tt1": "a"}, ids=("tt1", "tt2"))

    assert cache(tmp_path).output.finished is None


def test_a_part_follows_earlier_parts_even_if_the_clock_goes_back(tmp_path, monkeypatch):
    table = cache(tmp_path)
    with table.output:
        table.write(rows({"tt1": "old"}))
        monkeypatch.setattr("time.time_ns", lambda: 0)
        table.write(rows({"tt1": "new"}))
        finish(table)

    assert plots_in(tmp_path) == {"tt1": "new"}


def test_a_run_killed_while_replacing_a_table_can_be_started_again(tmp_path, monkeypatch):
    extend(tmp_path, {"tt1": "a"}, {"tt2": "b"})
    (tmp_path / ".part-1-a.parquet.abc").write_bytes(b"torn")
    deleted = []

    def die(location):
        deleted.append(location)
        if "part-" in location:
            raise KeyboardInterrupt
        Path(location).unlink(missing_ok=True)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mmgenre.tables.storage.delete", die)
        with cache(tmp_path, language="fr", overwrite=True).output:
            pass
    with pytest.raises(InputError, match="language: 'fr', not 'en'"):
        cache(tmp_path, language="fr")
    with cache(tmp_path, language="fr", overwrite=True).output:
        pass

    assert deleted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_started.json"]


def test_other_settings_are_refused_and_other_inputs_are_not(tmp_path):
    extend(tmp_path, {"tt1": "a"})

    assert cache(tmp_path, catalog="b").latest(["plot"]).num_rows == 1
    with pytest.raises(InputError, match="language: 'fr', not 'en'"):
        cache(tmp_path, language="fr")


def test_overwriting_changes_nothing_before_it_starts(tmp_path):
    extend(tmp_path, {"tt1": "a"})

    other = cache(tmp_path, language="fr", overwrite=True)

    assert other.latest(["imdb_id"]).num_rows == 0
    assert plots_in(tmp_path) == {"tt1": "a"}
    with other.output:
        assert parts_in(str(tmp_path)) == []
