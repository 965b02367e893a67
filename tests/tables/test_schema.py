"""Schemas of the tables between stages, and their per-genre columns."""

import numpy as np
import pyarrow as pa
import pytest

from mmgenre.labels import GENRES, decode, encode
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, PREDICTIONS, conform, from_per_genre, per_genre
from mmgenre.tables.table import Table, TableWriter


@pytest.mark.parametrize("schema", [CATALOG, ENRICHED, MOVIES, PREDICTIONS])
def test_required_columns_may_not_be_null(schema):
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


def test_conform_drops_and_orders_columns(tables):
    table = pa.table({"plot": ["a"], "imdb_id": pa.array(["tt1"], pa.large_string()), "extra": [1]})

    assert conform(table, tables.schema).schema == tables.schema


def test_probabilities_and_their_absence_survive_parquet(tmp_path, tables):
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
    with tables.output(tmp_path) as output:
        writer = TableWriter(output, PREDICTIONS)
        writer.write(pa.table(columns))
        writer.finish(rows_in=4)

    rows = Table(str(tmp_path), PREDICTIONS).read()

    np.testing.assert_array_equal(from_per_genre(rows["probabilities"]), np.where(known[:, None], chances, np.nan))
    assert np.isnan(from_per_genre(rows["probabilities"][1:2])).all()
    assert rows["genres"].to_pylist() == [["Drama"], None, [], None]


def test_a_null_list_reads_as_nan():
    column = pa.chunked_array([per_genre(np.ones((1, 9))), pa.nulls(1, PREDICTIONS.field("probabilities").type)])

    np.testing.assert_array_equal(from_per_genre(column), [[1] * 9, [np.nan] * 9])


def test_labels_are_the_genres_in_their_order():
    assert encode(["Thriller", "Documentary", "Action"]).tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert decode(encode(reversed(GENRES))) == list(GENRES)
    assert decode(encode([])) == []
