"""The movies that jobs/tag.py is given: what a model reads of them may stand in several tables."""

import csv

import pytest

from mmgenre.errors import InputError
from mmgenre.schema import CATALOG, ENRICHED, MOVIES, POSTERS
from mmgenre.tag_input import TagInput

IDS = [f"tt{row:07}" for row in range(6)]
PLOTS = [f"Plot {row}." if row % 2 else None for row in range(6)]
IMAGES = {"tt0000004": b"four", "tt0000001": b"one", "tt0000002": None, "tt9999999": b"another movie's"}


@pytest.fixture
def tables(write_table, tmp_path):
    """An ENRICHED, a CATALOG and a POSTERS table, each in an order of its own."""

    def write(name, schema, columns):
        length = len(columns["imdb_id"])
        fixed = {"provider": ["a"] * length, "status": ["ok"] * length, "fetched_at": [0] * length}
        fixed |= {"title": [f"Title of {imdb_id}" for imdb_id in columns["imdb_id"]], "genres": [[]] * length}
        rows = {field: (fixed | columns).get(field, [None] * length) for field in schema.names}
        return write_table(tmp_path / name, schema, rows)

    return {
        "enriched": write("enriched", ENRICHED, {"imdb_id": IDS, "plot": PLOTS}),
        "catalog": write("catalog", CATALOG, {"imdb_id": IDS[::-1]}),
        "posters": write("posters", POSTERS, {"imdb_id": list(IMAGES), "image": list(IMAGES.values())}),
    }


def read(source, tmp_path):
    return source.table(str(tmp_path / "staged")).read().sort_by("imdb_id").to_pylist()


def test_a_table_that_has_all_the_model_reads_is_read_as_it_is(tables, tmp_path):
    source = TagInput(tables["enriched"], ("plot",), catalog=tables["catalog"], posters=tables["posters"])

    assert source.table(str(tmp_path / "staged")).directory == tables["enriched"]
    assert list(source.fingerprints) == ["movies"]


def test_titles_and_images_come_from_their_tables_and_every_movie_stays(tables, tmp_path):
    source = TagInput(
        tables["enriched"], ("title", "plot", "image"), catalog=tables["catalog"], posters=tables["posters"]
    )

    rows = read(source, tmp_path)

    assert [row["imdb_id"] for row in rows] == IDS
    assert [row["plot"] for row in rows] == PLOTS
    assert [row["title"] for row in rows] == [f"Title of {imdb_id}" for imdb_id in IDS]
    assert [row["image"] for row in rows] == [IMAGES.get(imdb_id) for imdb_id in IDS]
    assert list(source.fingerprints) == ["movies", "catalog", "posters"]


def test_a_persons_file_gets_images_from_the_posters(tables, tmp_path):
    file = tmp_path / "mine.csv"
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([["id", "overview"], *zip(IDS, PLOTS, strict=True)])

    rows = read(TagInput(str(file), ("plot", "image"), posters=tables["posters"]), tmp_path)

    assert [row["image"] for row in rows] == [IMAGES.get(imdb_id) for imdb_id in IDS]
    assert [row["plot"] for row in rows] == PLOTS
    with pytest.raises(InputError, match=r"mine\.csv: no posters, which this model reads; give posters=DIR"):
        TagInput(str(file), ("image",))


def test_posters_alone_can_be_tagged(tables, tmp_path):
    source = TagInput(tables["posters"], ("image",))

    assert source.table(str(tmp_path / "staged")).directory == tables["posters"]
    assert source.schema.names == ["imdb_id", "image"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("image",), "enriched: no posters, which this model reads; give posters=DIR"),
        (("title", "plot"), "enriched: no titles, which this model reads; give catalog=DIR"),
    ],
)
def test_what_the_model_reads_and_no_table_has_is_asked_for(tables, columns, message):
    with pytest.raises(InputError, match=message):
        TagInput(tables["enriched"], columns)


def test_one_split_of_a_dataset_is_read(write_table, tmp_path):
    columns = {name: [None] * 6 for name in MOVIES.names} | {"imdb_id": IDS, "title": IDS, "plot": PLOTS}
    columns |= {"split": ["train", "test"] * 3, "labels": [[0.0] * 9] * 6}
    movies = write_table(tmp_path / "movies", MOVIES, columns)

    rows = read(TagInput(movies, ("plot",), split="test"), tmp_path)

    assert [row["imdb_id"] for row in rows] == IDS[1::2]
    assert [row["plot"] for row in rows] == PLOTS[1::2]


def test_only_a_dataset_has_splits(tables):
    with pytest.raises(InputError, match=r"split=test: .*enriched has no splits; only a MOVIES table does"):
        TagInput(tables["enriched"], ("plot",), split="test")


def test_a_table_without_plots_is_none_for_a_model_that_reads_them(tables):
    with pytest.raises(InputError, match=r"posters: a table made by jobs/test\.py, without the columns plot"):
        TagInput(tables["posters"], ("plot",))
