"""Tables on disk: complete or not, never half, and never taken for another one."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmgenre.errors import InputError
from mmgenre.labels import GENRES, decode, encode
from mmgenre.tables import storage
from mmgenre.tables.manifest import MANIFEST, STARTED, Recipe, read_manifest
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, PREDICTIONS, conform, from_per_genre, per_genre
from mmgenre.tables.table import Table, TableWriter

SCHEMA = pa.schema([pa.field("imdb_id", pa.string(), nullable=False), pa.field("plot", pa.string())])
STATUSES = SCHEMA.append(pa.field("status", pa.string(), nullable=False))


def recipe(job="test", inputs=None, **settings):
    return Recipe(job=job, settings=settings, inputs=inputs or {})


def rows(*ids):
    return pa.table({"imdb_id": pa.array(ids, pa.string()), "plot": [f"plot of {name}" for name in ids]})


def writer(folder, **settings):
    return TableWriter(str(folder), SCHEMA, recipe(**settings))


def complete(folder, *ids, **settings):
    table = writer(folder, **settings)
    assert table.begin() is None
    table.write(rows(*ids))
    return table.finish(rows_in=len(ids))


def unfinished(folder, *ids, **settings):
    table = writer(folder, **settings)
    assert table.begin() is None
    table.write(rows(*ids))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def ids(folder):
    return Table(str(folder)).read()["imdb_id"].to_pylist()


# Complete tables


def test_a_complete_table_is_read_back_with_its_account(tmp_path):
    table = TableWriter(str(tmp_path), STATUSES, recipe(seed=1, inputs={"catalog": "f00d"}))
    table.begin()
    for status, *several in (("ok", "tt1", "tt2"), ("bad", "tt3"), ("ok", "tt4")):
        table.write(rows(*several).append_column("status", pa.array([status] * len(several))))
    manifest = table.finish(rows_in=7, expected_rows=4, notes={"why": ["because"]})

    assert (manifest.rows_in, manifest.rows, manifest.statuses) == (7, 4, {"ok": 3, "bad": 1})
    assert manifest.notes == {"why": ["because"]}
    assert manifest.recipe == recipe(seed=1, inputs={"catalog": "f00d"})
    assert set(manifest.versions) == {"python", "mmgenre", "pyarrow", "ray", "torch", "transformers"}
    assert str(manifest).startswith("test: 7 rows in, 4 out (bad 1, ok 3), ")
    assert read_manifest(str(tmp_path)) == manifest == Table(str(tmp_path), STATUSES).manifest
    assert names(tmp_path) == sorted([MANIFEST, *manifest.files])


def test_the_same_recipe_returns_the_complete_table_untouched(tmp_path):
    first = complete(tmp_path, "tt1", seed=1)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    for overwrite in (False, True):
        for keep in ("nothing", "unfinished", "all"):
            assert writer(tmp_path, seed=1).begin(overwrite=overwrite, keep=keep) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_another_recipe_is_refused_with_all_that_differs(tmp_path):
    made = recipe(job="dataset", inputs={"catalog": "a" * 64}, seed=1, share={"val": 0.1, "test": 0.2})
    table = TableWriter(str(tmp_path), SCHEMA, made)
    table.begin()
    table.finish(rows_in=0)
    before = names(tmp_path)

    wanted = recipe(job="dataset", inputs={"catalog": "b" * 64}, seed=2, share={"val": 0.1, "test": 0.3})
    with pytest.raises(InputError) as error:
        TableWriter(str(tmp_path), SCHEMA, wanted).begin()

    assert str(error.value) == (
        f"{tmp_path}: already holds an output made otherwise (input catalog: 'bbbbbbbbbbbb', not 'aaaaaaaaaaaa'; "
        "seed: 2, not 1; share.test: 0.3, not 0.2); choose another output, or overwrite=true to replace it"
    )
    assert names(tmp_path) == before


def test_a_table_made_again_from_the_same_recipe_has_another_fingerprint(tmp_path):
    assert complete(tmp_path / "a", "tt1").fingerprint != complete(tmp_path / "b", "tt1").fingerprint


def test_overwrite_replaces_the_table_and_nothing_else(tmp_path):
    complete(tmp_path, "tt1", "tt2", seed=1)
    (tmp_path / "notes.txt").write_text("mine")

    table = writer(tmp_path, seed=2)
    assert table.begin(overwrite=True) is None
    assert names(tmp_path) == [STARTED, "notes.txt"]
    table.write(rows("tt3"))
    table.finish(rows_in=1)

    assert ids(tmp_path) == ["tt3"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_empty_table_is_a_table(tmp_path):
    manifest = complete(tmp_path)

    assert manifest.rows == 0
    assert Table(str(tmp_path), SCHEMA).read().schema.names == SCHEMA.names
    assert ids(tmp_path) == []


# Unfinished tables


def test_what_an_unfinished_run_left_is_cleared(tmp_path):
    unfinished(tmp_path, "tt1")

    table = writer(tmp_path, seed=2)
    table.begin()
    table.write(rows("tt2"))
    table.finish(rows_in=1)

    assert ids(tmp_path) == ["tt2"]


@pytest.mark.parametrize("keep", ["unfinished", "all"])
def test_what_an_unfinished_run_left_is_kept_where_the_stage_goes_on(tmp_path, keep):
    unfinished(tmp_path, "tt1", "tt2", seed=1)

    table = writer(tmp_path, seed=1)
    assert table.begin(keep=keep) is None
    assert table.written()["imdb_id"].to_pylist() == ["tt1", "tt2"]
    table.write(rows("tt3"))
    table.finish(rows_in=3, expected_rows=3)

    assert ids(tmp_path) == ["tt1", "tt2", "tt3"]


@pytest.mark.parametrize("keep", ["unfinished", "all"])
def test_hours_of_an_unfinished_run_of_another_recipe_are_not_thrown_away(tmp_path, keep):
    unfinished(tmp_path, "tt1", seed=1)

    with pytest.raises(InputError, match="seed: 2, not 1"):
        writer(tmp_path, seed=2).begin(keep=keep)
    assert writer(tmp_path, seed=1).written()["imdb_id"].to_pylist() == ["tt1"]

    writer(tmp_path, seed=2).begin(keep=keep, overwrite=True)
    assert len(writer(tmp_path, seed=2).written()) == 0


def test_a_run_that_has_written_nothing_is_in_nobodys_way(tmp_path):
    writer(tmp_path, seed=1).begin(keep="unfinished")

    assert writer(tmp_path, seed=2).begin(keep="unfinished") is None


def test_a_table_that_grows_keeps_its_rows_when_the_input_changes(tmp_path):
    complete(tmp_path, "tt1", inputs={"catalog": "old"})

    table = writer(tmp_path, inputs={"catalog": "new"})
    assert table.begin(keep="all") is None
    with pytest.raises(InputError, match="not complete"):
        Table(str(tmp_path))
    table.write(rows("tt2"))
    table.finish(rows_in=2)

    assert ids(tmp_path) == ["tt1", "tt2"]
    with pytest.raises(InputError, match="input catalog: 'newer', not 'new'"):
        writer(tmp_path, inputs={"catalog": "newer"}).begin(keep="unfinished")


def test_a_table_that_grows_keeps_nothing_made_with_other_settings(tmp_path):
    complete(tmp_path, "tt1", provider="tmdb")

    with pytest.raises(InputError, match="provider: 'omdb', not 'tmdb'"):
        writer(tmp_path, provider="omdb").begin(keep="all")


# Folders that hold something else


def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")

    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds other files; choose a new or empty output folder"):
            writer(tmp_path).begin(overwrite=overwrite)

    assert names(tmp_path) == ["thesis.docx"]


def test_parts_without_a_record_of_a_run_are_not_ours(tmp_path):
    pq.write_table(rows("tt1"), tmp_path / "part-0.parquet")

    with pytest.raises(InputError, match="holds other files"):
        writer(tmp_path).begin(overwrite=True)

    assert names(tmp_path) == ["part-0.parquet"]


def test_what_another_job_made_is_not_replaced(tmp_path):
    complete(tmp_path / "complete", "tt1", job="dataset")
    unfinished(tmp_path / "unfinished", "tt1", job="dataset")

    for folder in (tmp_path / "complete", tmp_path / "unfinished"):
        before = names(folder)
        with pytest.raises(InputError, match=r"holds what jobs/dataset\.py made; choose another output"):
            writer(folder, job="topics").begin(overwrite=True)
        assert names(folder) == before


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "movies").write_text("a file")

    with pytest.raises(InputError, match="movies: is a file; expected a folder"):
        writer(tmp_path / "movies").begin(overwrite=True)
    with pytest.raises(InputError, match="movies: is a file; expected a folder"):
        Table(str(tmp_path / "movies"))


def test_a_manifest_of_something_else_is_not_understood_and_not_replaced(tmp_path):
    (tmp_path / MANIFEST).write_text('{"job": "somebody else\'s"}')

    for attempt in (lambda: Table(str(tmp_path)), lambda: writer(tmp_path).begin(overwrite=True)):
        with pytest.raises(InputError, match="not a manifest of this version"):
            attempt()


def test_no_table_an_unfinished_one_and_one_of_another_kind_are_told_apart(tmp_path):
    unfinished(tmp_path / "unfinished", "tt1")
    complete(tmp_path / "other", "tt1")

    with pytest.raises(InputError, match=f"nowhere: no table there; expected a folder with {MANIFEST}"):
        Table(str(tmp_path / "nowhere"), SCHEMA)
    with pytest.raises(InputError, match="unfinished: not complete; run the job that makes it again"):
        Table(str(tmp_path / "unfinished"), SCHEMA)
    with pytest.raises(InputError) as error:
        Table(str(tmp_path / "other"), CATALOG)
    assert str(error.value) == (
        f"{tmp_path}/other: a table made by jobs/test.py, without the columns title, year, runtime, genres, "
        "title_type; expected the columns imdb_id, title, year, runtime, genres, title_type"
    )


# Rows


@pytest.mark.parametrize(
    ("written", "expected", "complaint"),
    [
        (["tt1", "tt2", "tt1"], None, "3 rows with 2 distinct ids"),
        (["tt1", "tt1"], 2, "2 rows with 1 distinct ids, expected 2"),
        (["tt1", "tt2"], 3, "2 rows with 2 distinct ids, expected 3"),
        (["tt1", "tt2"], 1, "2 rows with 2 distinct ids, expected 1"),
    ],
)
def test_doubled_or_missing_rows_leave_a_table_incomplete(tmp_path, written, expected, complaint):
    table = writer(tmp_path)
    table.begin()
    for name in written:
        table.write(rows(name))

    with pytest.raises(RuntimeError, match=f"{complaint}; left incomplete"):
        table.finish(rows_in=len(written), expected_rows=expected)

    assert read_manifest(str(tmp_path)) is None


def test_rows_of_one_writer_are_read_in_its_order(tmp_path):
    table = writer(tmp_path)
    table.begin()
    written = [f"tt{number}" for number in np.random.default_rng(0).permutation(120)]
    for several in np.split(np.array(written), 40):
        table.write(rows(*several))
    table.write(rows())
    manifest = table.finish(rows_in=120)

    assert ids(tmp_path) == written
    assert len(manifest.files) == 40


def test_columns_and_rows_can_be_chosen(tmp_path):
    complete(tmp_path, "tt1", "tt2")
    table = Table(str(tmp_path))

    found = table.read(["plot"], pa.compute.field("imdb_id") == "tt2")

    assert found.to_pylist() == [{"plot": "plot of tt2"}]


@pytest.mark.parametrize(
    "table",
    [
        {"imdb_id": [None], "plot": ["a"]},
        {"plot": ["a"]},
        {"imdb_id": [["tt1"]], "plot": ["a"]},
    ],
)
def test_rows_that_do_not_conform_are_not_written(tmp_path, table):
    wrong = writer(tmp_path)
    wrong.begin()

    with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, ValueError)):
        wrong.write(pa.table(table))

    assert names(tmp_path) == [STARTED]


@pytest.mark.parametrize("schema", [CATALOG, ENRICHED, MOVIES, PREDICTIONS])
def test_no_column_that_must_be_there_may_be_null(schema):
    row = {field.name: pa.nulls(1, field.type) for field in schema}
    filled = {
        "genres": [["Drama"]],
        "labels": per_genre(np.zeros((1, 9))),
        "fetched_at": [0],
        **{name: ["x"] for name in ("imdb_id", "title", "provider", "status", "split")},
    }
    whole = row | {field.name: filled[field.name] for field in schema if not field.nullable}

    assert conform(pa.table(whole), schema).schema == schema
    for required in [field.name for field in schema if not field.nullable]:
        with pytest.raises((pa.ArrowInvalid, ValueError), match="null"):
            conform(pa.table(whole | {required: row[required]}), schema)


def test_conform_drops_and_orders_columns():
    table = pa.table({"plot": ["a"], "imdb_id": pa.array(["tt1"], pa.large_string()), "extra": [1]})

    assert conform(table, SCHEMA).schema == SCHEMA


def test_probabilities_and_their_absence_survive_parquet(tmp_path):
    chances = np.random.default_rng(0).random((4, 9)).astype(np.float32)
    known = np.array([True, False, True, False])
    columns = {
        "imdb_id": ["tt1", "tt2", "tt3", "tt4"],
        "status": ["text_only", "no_input", "text_only", "error"],
        "probabilities": per_genre(chances, known),
        "genres": [["Drama"], None, [], None],
        "detail": [None, None, None, "a reason"],
        "input_digest": [1, 2, 3, None],
    }
    table = TableWriter(str(tmp_path), PREDICTIONS, recipe())
    table.begin()
    table.write(pa.table(columns))
    table.finish(rows_in=4)

    found = Table(str(tmp_path), PREDICTIONS).read()

    np.testing.assert_array_equal(from_per_genre(found["probabilities"]), np.where(known[:, None], chances, np.nan))
    assert np.isnan(from_per_genre(found["probabilities"][1:2])).all()
    assert found["genres"].to_pylist() == [["Drama"], None, [], None]


def test_a_list_that_is_null_itself_has_no_probabilities():
    column = pa.chunked_array([per_genre(np.ones((1, 9))), pa.nulls(1, PREDICTIONS.field("probabilities").type)])

    np.testing.assert_array_equal(from_per_genre(column), [[1] * 9, [np.nan] * 9])


def test_labels_are_the_genres_in_their_order():
    assert encode(["Thriller", "Documentary", "Action"]).tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert decode(encode(reversed(GENRES))) == list(GENRES)
    assert decode(encode([])) == []


# Places


@pytest.mark.parametrize("scheme", ["file://{folder}", "memory://{folder}"])
def test_a_table_can_live_at_a_uri(tmp_path, scheme):
    location = scheme.format(folder=tmp_path / "table")

    complete(location, "tt1", "tt2")

    assert ids(location) == ["tt1", "tt2"]
    writer(location, seed=2).begin(overwrite=True)
    with pytest.raises(InputError, match="not complete"):
        Table(location)


def test_a_uri_of_no_known_kind_is_a_mistake():
    with pytest.raises(InputError, match=r"gopher://hole: .*expected a local path or a URI such as s3://bucket/key"):
        storage.resolve("gopher://hole")


def test_a_relative_path_is_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    complete("runs/table", "tt1")

    assert ids(tmp_path / "runs/table") == ["tt1"]
    assert storage.absolute("runs/table") == str(tmp_path / "runs/table")
    assert storage.absolute("s3://bucket/key") == "s3://bucket/key"


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    storage.write_bytes(str(tmp_path / "a.json"), b"old")

    def no_space(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="no space left"):
        storage.write_bytes(str(tmp_path / "a.json"), b"new")

    assert names(tmp_path) == ["a.json"]
    assert storage.read_bytes(str(tmp_path / "a.json")) == b"old"


def test_what_is_named_gz_is_not_packed_on_the_way(tmp_path):
    storage.write_bytes(str(tmp_path / "a.gz"), b"plain")

    assert (tmp_path / "a.gz").read_bytes() == storage.read_bytes(str(tmp_path / "a.gz")) == b"plain"


def test_a_fingerprint_is_of_the_content(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        storage.write_bytes(str(tmp_path / name), content)
    first, same, other = (storage.fingerprint(str(tmp_path / name)) for name in "abc")

    assert first == same != other


def test_a_killed_run_leaves_readable_parts_and_no_manifest(tmp_path):
    program = f"""
import pyarrow as pa
from mmgenre.tables.manifest import Recipe
from mmgenre.tables.table import TableWriter
schema = pa.schema([pa.field("imdb_id", pa.string(), nullable=False), pa.field("plot", pa.string())])
writer = TableWriter({str(tmp_path / "table")!r}, schema, Recipe(job="test", settings={{}}, inputs={{}}))
writer.begin(keep="unfinished")
number = 0
while True:
    writer.write(pa.table({{"imdb_id": [f"tt{{number + i}}" for i in range(2000)], "plot": ["words " * 50] * 2000}}))
    number += 2000
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("table/part-*"))) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)

    with pytest.raises(InputError, match="not complete"):
        Table(str(tmp_path / "table"))
    table = TableWriter(str(tmp_path / "table"), SCHEMA, recipe())
    assert table.begin(keep="unfinished") is None
    found = table.written()["imdb_id"].to_pylist()
    assert len(found) >= 10_000
    assert found == [f"tt{number}" for number in range(len(found))]
    assert len(found) % 2000 == 0
    assert table.finish(rows_in=len(found), expected_rows=len(found)).rows == len(found)


def test_a_manifest_is_json_that_others_can_read(tmp_path):
    complete(tmp_path, "tt1", seed=1)

    content = json.loads((tmp_path / MANIFEST).read_text())

    assert (content["rows"], content["recipe"]["settings"]) == (1, {"seed": 1})
    assert all(first < second for first, second in pairwise(content["files"] + ["part-9"]))
