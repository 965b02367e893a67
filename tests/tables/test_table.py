"""Tables: what is written is read back, and rows that are missing, duplicated or wrong are found."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from mmgenre.errors import InputError
from mmgenre.tables.manifest import MANIFEST, read_manifest
from mmgenre.tables.output import STARTED
from mmgenre.tables.schema import CATALOG
from mmgenre.tables.table import Table, TableWriter


def test_a_complete_table_is_read_back_with_its_manifest(tmp_path, tables):
    schema = tables.schema.append(pa.field("status", pa.string(), nullable=False))
    with tables.output(tmp_path, seed=1, inputs={"catalog": "f00d"}) as output:
        writer = TableWriter(output, schema)
        for status, *ids in (("ok", "tt1", "tt2"), ("bad", "tt3"), ("ok", "tt4")):
            writer.write(tables.rows(*ids).append_column("status", pa.array([status] * len(ids))))
        manifest = writer.finish(rows_in=7, expected_rows=4, notes={"why": ["because"]})

    assert (manifest.rows_in, manifest.rows, manifest.statuses) == (7, 4, {"ok": 3, "bad": 1})
    assert manifest.notes == {"why": ["because"]}
    assert manifest.recipe == tables.recipe(seed=1, inputs={"catalog": "f00d"})
    assert set(manifest.versions) == {"python", "mmgenre", "pyarrow", "ray", "torch", "transformers"}
    assert str(manifest).startswith("test: 7 rows in, 4 out (bad 1, ok 3), ")
    assert read_manifest(str(tmp_path)) == manifest == Table(str(tmp_path), schema).manifest
    assert tables.names(tmp_path) == sorted([MANIFEST, *manifest.files])


def test_two_tables_of_one_recipe_have_different_fingerprints(tmp_path, tables):
    first, second = (tables.complete(tmp_path / name, "tt1") for name in "ab")

    assert first.fingerprint != second.fingerprint


def test_a_table_without_rows_is_complete(tmp_path, tables):
    manifest = tables.complete(tmp_path)

    assert manifest.rows == 0
    assert Table(str(tmp_path), tables.schema).read().schema.names == tables.schema.names
    assert tables.ids(tmp_path) == []


def test_a_missing_an_unfinished_and_a_different_table_have_different_errors(tmp_path, tables):
    tables.unfinished(tmp_path / "unfinished", "tt1")
    tables.complete(tmp_path / "other", "tt1")

    with pytest.raises(InputError, match=f"nowhere: no table there; expected a folder with {MANIFEST}"):
        Table(str(tmp_path / "nowhere"), tables.schema)
    with pytest.raises(InputError, match="unfinished: not complete; run the job that makes it again to resume it"):
        Table(str(tmp_path / "unfinished"), tables.schema)
    with pytest.raises(InputError) as error:
        Table(str(tmp_path / "other"), CATALOG)
    assert str(error.value) == (
        f"{tmp_path}/other: a table made by jobs/test.py, without the columns title, year, runtime, genres, "
        "title_type; expected the columns imdb_id, title, year, runtime, genres, title_type"
    )


@pytest.mark.parametrize(
    ("written", "expected", "complaint"),
    [
        (["tt1", "tt2", "tt1"], None, "3 rows with 2 distinct ids"),
        (["tt1", "tt1"], 2, "2 rows with 1 distinct ids, expected 2"),
        (["tt1", "tt2"], 3, "2 rows with 2 distinct ids, expected 3"),
        (["tt1", "tt2"], 1, "2 rows with 2 distinct ids, expected 1"),
    ],
)
def test_duplicated_or_missing_rows_leave_a_table_incomplete(tmp_path, tables, written, expected, complaint):
    with tables.output(tmp_path) as output:
        writer = TableWriter(output, tables.schema)
        for name in written:
            writer.write(tables.rows(name))

        with pytest.raises(RuntimeError, match=f"{complaint}; left incomplete"):
            writer.finish(rows_in=len(written), expected_rows=expected)

    assert read_manifest(str(tmp_path)) is None


def test_rows_of_one_writer_are_read_in_its_order(tmp_path, tables):
    written = [f"tt{number}" for number in np.random.default_rng(0).permutation(120)]
    with tables.output(tmp_path) as output:
        writer = TableWriter(output, tables.schema)
        for ids in np.split(np.array(written), 40):
            writer.write(tables.rows(*ids))
        writer.write(tables.rows())
        manifest = writer.finish(rows_in=120)

    assert tables.ids(tmp_path) == written
    assert len(manifest.files) == 40


def test_columns_and_rows_can_be_selected(tmp_path, tables):
    tables.complete(tmp_path, "tt1", "tt2")

    rows = Table(str(tmp_path)).read(["plot"], pa.compute.field("imdb_id") == "tt2")

    assert rows.to_pylist() == [{"plot": "plot of tt2"}]


@pytest.mark.parametrize(
    "columns",
    [
        {"imdb_id": [None], "plot": ["a"]},
        {"plot": ["a"]},
        {"imdb_id": [["tt1"]], "plot": ["a"]},
    ],
)
def test_rows_that_do_not_conform_are_not_written(tmp_path, tables, columns):
    with tables.output(tmp_path) as output:
        writer = TableWriter(output, tables.schema)

        with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, ValueError)):
            writer.write(pa.table(columns))

    assert tables.names(tmp_path) == [STARTED]


def test_a_manifest_is_json_that_other_programs_can_read(tmp_path, tables):
    tables.complete(tmp_path, "tt1", seed=1)

    content = json.loads((tmp_path / MANIFEST).read_text())

    assert (content["rows"], content["recipe"]["settings"]) == (1, {"seed": 1})
    assert all(first < second for first, second in pairwise(content["files"] + ["part-9"]))
