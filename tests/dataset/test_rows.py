"""The rows of a split: sorted by id, with images that stay in their files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmgenre.dataset.rows import read_split, readable
from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.vgg import VggConfig
from mmgenre.tables.images import StoredImages
from mmgenre.tables.schema import MOVIES, per_genre
from mmgenre.tables.table import Table, parts_in

POSTERS = VggConfig(weights=None)


def columns_of(ids, images, splits):
    labels = np.eye(9, dtype=np.float32)[np.arange(len(ids)) % 9]
    columns = {"imdb_id": ids, "split": splits, "title": ids, "plot": [None] * len(ids)}
    return columns | {"image": pa.array(images, pa.binary()), "labels": per_genre(labels)}


@pytest.fixture
def movies(write_table, tmp_path):
    """Movies in another order than that of their ids; every third without a poster, every fifth of another split."""
    ids = [f"tt{(number * 617) % 2000:07}" for number in range(2000)]
    images = [None if number % 3 == 0 else f"poster of {name}".encode() for number, name in enumerate(ids)]
    splits = ["val" if number % 5 == 0 else "train" for number in range(2000)]
    return write_table(tmp_path / "movies", MOVIES, columns_of(ids, images, splits))


def test_each_movie_has_its_own_image(movies):
    table = Table(movies, MOVIES)

    rows = read_split(table, "train", POSTERS)

    ids = rows.ids.to_pylist()
    assert ids == sorted(ids)
    assert len(ids) == sum(number % 3 != 0 and number % 5 != 0 for number in range(2000))
    expected = [f"poster of {name}".encode() for name in ids]
    assert isinstance(rows.movies.images, StoredImages)
    assert rows.movies.images[5:9] == expected[5:9]
    assert rows.movies.images[-1] == expected[-1]
    read = {int(row): image for block in rows.movies.image_blocks() for row, image in zip(*block, strict=True)}
    assert [read[row] for row in range(len(ids))] == expected


def test_a_split_may_have_more_posters_than_an_arrow_array_can_hold(write_table, tmp_path):
    """2.5 GiB of posters, all the same, which Parquet stores once."""
    number, size = 40_000, 2**16
    ids = [f"tt{number - row:07}" for row in range(number)]
    directory = write_table(tmp_path / "movies", MOVIES, columns_of(["tt1"], [b""], ["train"]))
    rows = pa.table(columns_of(ids, [None] * number, ["train"] * number), schema=MOVIES)
    image = pa.array([b"x" * size] * 500, pa.binary())
    (part,) = parts_in(directory)
    with pq.ParquetWriter(f"{directory}/{part}", MOVIES) as writer:
        for start in range(0, number, len(image)):
            writer.write_table(rows.slice(start, len(image)).set_column(4, MOVIES.field("image"), image))

    split = read_split(Table(directory), "train", POSTERS)

    assert number * size > 2**31
    assert split.ids[0].as_py() == "tt0000001"
    assert len(split.movies) == len(split.movies.images) == number
    assert len(split.movies.images[number - 1]) == size


def test_images_are_not_read_where_they_are_not_needed(movies):
    rows = read_split(Table(movies, MOVIES), ["train", "val"], POSTERS, images=False)

    assert set(rows.movies.images) == {None}


def test_movies_with_an_equal_plot_or_poster_have_one_group_number(write_table, tmp_path):
    ids = ["tt5", "tt1", "tt4", "tt2", "tt3", "tt6", "tt7"]
    columns = columns_of(ids, [b"same", None, b"same", None, b"other", b"", b"x"], ["val"] * 6 + ["train"])
    columns["plot"] = ["a", "B.", "c", "b", "d", None, "d"]
    table = Table(write_table(tmp_path / "movies", MOVIES, columns), MOVIES)

    rows = read_split(table, "val", BilstmConfig(vectors=None), grouped=True)
    encoded = readable(Encoded(rows), rows)

    numbers = dict(zip(rows.ids.to_pylist(), rows.groups.tolist(), strict=True))
    assert numbers["tt1"] == numbers["tt2"] and numbers["tt4"] == numbers["tt5"]
    assert len({numbers[name] for name in ("tt1", "tt3", "tt4")}) == 3
    assert encoded.groups.tolist() == rows.groups[1:].tolist()
    assert read_split(table, "val", BilstmConfig(vectors=None)).groups is None


class Encoded:
    """Movies of which the first is unreadable."""

    def __init__(self, rows):
        self.readable = np.arange(len(rows.labels)) > 0

    def take(self, rows):
        return self
