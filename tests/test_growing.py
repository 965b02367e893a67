"""Tables that later runs add to: the last row of an id counts, and small parts become large ones."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from mmgenre.errors import InputError
from mmgenre.tables import cache_table as growing
from mmgenre.tables.cache_table import GrowingTable
from mmgenre.tables.manifest import MANIFEST, Recipe
from mmgenre.tables.schema import ENRICHED
from mmgenre.tables.table import Table, parts_in

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def table(folder, *, catalog="a", language="en", overwrite=False):
    recipe = Recipe(job="enrich", settings={"language": language}, inputs={"catalog": catalog})
    return GrowingTable(str(folder), ENRICHED, recipe, overwrite=overwrite)


def rows(plots, status="ok", at=NOW):
    return pa.Table.from_pylist(
        [
            {"imdb_id": name, "provider": "tmdb", "status": status, "plot": plot, "fetched_at": at}
            for name, plot in plots.items()
        ],
        ENRICHED,
    )


def finish(grown, *ids):
    return grown.finish(pa.chunked_array([list(ids)], pa.string()), content=["imdb_id", "status", "plot"])


def plots_in(folder):
    read = Table(str(folder), ENRICHED).read(["imdb_id", "plot"]).to_pylist()
    return {row["imdb_id"]: row["plot"] for row in read}


def filled(folder, *parts):
    grown = table(folder)
    grown.start()
    for part in parts:
        grown.write(rows(part))
    return grown, finish(grown)


def test_of_rows_with_one_id_the_last_written_counts(tmp_path):
    grown, manifest = filled(tmp_path, {"tt1": "old", "tt2": "b"}, {"tt1": "new"}, {"tt3": "c"})

    assert plots_in(tmp_path) == {"tt1": "new", "tt2": "b", "tt3": "c"}
    assert manifest.rows == 3
    assert grown.latest(["plot"]).num_rows == 3


def test_small_parts_are_merged_and_nothing_else_stays(tmp_path):
    filled(tmp_path, *({f"tt{number}": "plot"} for number in range(20)))

    assert parts_in(str(tmp_path)) == json.loads((tmp_path / MANIFEST).read_text())["files"]
    assert len(parts_in(str(tmp_path))) == 1


def test_a_large_part_stays_as_it_is_and_merged_ones_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(growing, "_ROWS_PER_PART", 10)
    filled(tmp_path, {f"tt{number}": "plot" for number in range(8)})
    (large,) = parts_in(str(tmp_path))

    grown = table(tmp_path)
    grown.start()
    for number in range(100, 124):
        grown.write(rows({f"tt{number}": "plot"}))
    manifest = finish(grown)

    assert large in manifest.files
    assert len(manifest.files) == 1 + 3
    assert manifest.rows == 32


def test_a_single_small_part_is_not_written_again(tmp_path):
    filled(tmp_path, {"tt1": "a"})
    before = parts_in(str(tmp_path))

    grown = table(tmp_path, catalog="b")
    grown.start()
    finish(grown)

    assert parts_in(str(tmp_path)) == before


def test_a_table_without_rows_is_complete_too(tmp_path):
    _, manifest = filled(tmp_path)

    assert manifest.rows == 0
    assert plots_in(tmp_path) == {}


def test_what_a_killed_run_wrote_counts_and_the_table_is_not_complete(tmp_path):
    killed = table(tmp_path)
    killed.start()
    killed.write(rows({"tt1": "a"}))

    grown = table(tmp_path)

    assert grown.finished() is None
    assert grown.latest(["imdb_id"])["imdb_id"].to_pylist() == ["tt1"]
    with pytest.raises(InputError, match="not complete"):
        Table(str(tmp_path))


def test_a_run_killed_while_merging_leaves_no_row_twice(tmp_path):
    grown, _ = filled(tmp_path, {"tt1": "a", "tt2": "b"})
    grown.start()
    grown.write(rows({"tt3": "c"}))
    grown._merge()

    assert table(tmp_path).latest(["plot"]).num_rows == 3
    assert finish(table(tmp_path)).rows == 3


def test_equal_content_has_one_fingerprint_however_it_came_about(tmp_path):
    _, first = filled(tmp_path / "a", {"tt1": "a", "tt2": "b"}, {"tt3": "c"})
    _, second = filled(tmp_path / "b", {"tt3": "c"}, {"tt1": "x"}, {"tt2": "b"}, {"tt1": "a"})
    _, other = filled(tmp_path / "c", {"tt1": "a", "tt2": "b"}, {"tt3": "d"})

    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_rows_written_again_with_the_same_content_leave_the_fingerprint(tmp_path):
    grown, first = filled(tmp_path, {"tt1": "a", "tt2": "b"})
    grown.start()
    grown.write(rows({"tt1": "a"}, at=NOW + timedelta(days=200)))

    assert finish(grown).fingerprint == first.fingerprint


def test_rows_of_some_ids_are_the_ones_that_count(tmp_path):
    grown, _ = filled(tmp_path, {"tt1": "old", "tt2": "b"}, {"tt1": "new"})

    found = grown.rows_of(pa.array(["tt1"]), ["imdb_id", "status", "plot"])
    assert [row["plot"] for row in found.to_pylist()] == ["new"]


def test_a_row_that_could_not_be_fetched_again_is_not_lost(tmp_path):
    grown = table(tmp_path)
    grown.start()
    grown.write(rows({"tt1": "a", "tt2": None}))
    grown.write(rows({"tt1": None, "tt3": None}, status="unreachable"))
    grown.write(rows({"tt3": "late"}))
    manifest = finish(grown, "tt1", "tt2", "tt3")

    assert plots_in(tmp_path) == {"tt1": "a", "tt2": None, "tt3": "late"}
    assert manifest.statuses == {"ok": 3}


def test_a_table_with_rows_missing_is_not_complete(tmp_path):
    grown = table(tmp_path)
    grown.start()
    grown.write(rows({"tt1": "a"}))

    with pytest.raises(RuntimeError, match="rows are missing"):
        finish(grown, "tt1", "tt2")
    assert grown.finished() is None


def test_a_part_follows_those_before_it_whatever_the_clock_says(tmp_path, monkeypatch):
    grown = table(tmp_path)
    grown.start()
    grown.write(rows({"tt1": "old"}))
    monkeypatch.setattr("time.time_ns", lambda: 0)
    grown.write(rows({"tt1": "new"}))
    finish(grown)

    assert plots_in(tmp_path) == {"tt1": "new"}


def test_a_run_killed_while_it_replaced_a_table_can_be_started_again(tmp_path, monkeypatch):
    filled(tmp_path, {"tt1": "a"}, {"tt2": "b"})
    (tmp_path / ".part-1-a.parquet.abc").write_bytes(b"torn")
    deleted = []

    def die(location):
        deleted.append(location)
        if "part-" in location:
            raise KeyboardInterrupt
        Path(location).unlink(missing_ok=True)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mmgenre.tables.storage.delete", die)
        table(tmp_path, language="fr", overwrite=True).start()
    with pytest.raises(InputError, match="language: 'fr', not 'en'"):
        table(tmp_path, language="fr")
    again = table(tmp_path, language="fr", overwrite=True)
    again.start()

    assert deleted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_started.json"]


def test_other_settings_are_refused_and_other_inputs_are_not(tmp_path):
    filled(tmp_path, {"tt1": "a"})

    assert table(tmp_path, catalog="b").latest(["plot"]).num_rows == 1
    with pytest.raises(InputError, match="language: 'fr', not 'en'"):
        table(tmp_path, language="fr")


def test_overwriting_changes_nothing_before_it_starts(tmp_path):
    filled(tmp_path, {"tt1": "a"})

    other = table(tmp_path, language="fr", overwrite=True)

    assert other.latest(["imdb_id"]).num_rows == 0
    assert plots_in(tmp_path) == {"tt1": "a"}
    other.start()
    assert parts_in(str(tmp_path)) == []
