"""The movies that jobs/tag.py is given: what a model reads of them may stand in several tables."""

import csv

import pytest

from mmgenre.errors import InputError
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, POSTERS
from mmgenre.tagging.input import Places, TagInput
from mmgenre.tagging.units import Earlier, Reader, Work

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
    """Rows as the model is given them."""
    work = Work(str(tmp_path / "tags"), "a-b")
    work.stage(source, Earlier([]))
    reader = Reader(work, source.image_files)
    return sorted((row for unit in work.units for row in reader.read(unit).to_pylist()), key=lambda row: row["imdb_id"])


def test_only_what_the_model_reads_is_read(tables, tmp_path):
    source = TagInput(Places(tables["enriched"], catalog=tables["catalog"], posters=tables["posters"]), ("plot",))

    assert source.schema.names == ["imdb_id", "plot", "input_digest"]
    assert list(source.fingerprints) == ["movies"]
    assert [row["plot"] for row in read(source, tmp_path)] == PLOTS


def test_titles_and_images_come_from_their_tables_and_every_movie_stays(tables, tmp_path):
    places = Places(tables["enriched"], catalog=tables["catalog"], posters=tables["posters"])
    source = TagInput(places, ("title", "plot", "image"))

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

    rows = read(TagInput(Places(str(file), posters=tables["posters"]), ("plot", "image")), tmp_path)

    assert [row["image"] for row in rows] == [IMAGES.get(imdb_id) for imdb_id in IDS]
    assert [row["plot"] for row in rows] == PLOTS
    with pytest.raises(InputError, match=r"mine\.csv: no posters, which this model reads; give posters=DIR"):
        TagInput(Places(str(file)), ("image",))


def test_posters_alone_can_be_tagged(tables, tmp_path):
    source = TagInput(Places(tables["posters"]), ("image",))

    rows = read(source, tmp_path)

    assert {row["imdb_id"]: row["image"] for row in rows} == IMAGES
    assert len({row["input_digest"] for row in rows}) == len(rows)


def test_columns_of_the_movies_and_of_the_catalogue_are_handed_on(tables, tmp_path):
    places = Places(tables["enriched"], catalog=tables["catalog"])

    rows = read(TagInput(places, ("plot",), ("title", "provider", "plot")), tmp_path)

    assert [row["title"] for row in rows] == [f"Title of {imdb_id}" for imdb_id in IDS]
    assert {row["provider"] for row in rows} == {"a"}
    assert [row["plot"] for row in rows] == PLOTS


@pytest.mark.parametrize(("reads", "changes"), [(("plot",), False), (("title", "plot"), True)])
def test_a_movie_is_another_once_something_of_it_is_that_the_model_reads(tables, write_table, tmp_path, reads, changes):
    titles = {"imdb_id": IDS, "title": ["Another"] * 6, "genres": [[]] * 6}
    retitled = write_table(tmp_path / "retitled", CATALOG, titles)

    digests = [
        [row["input_digest"] for row in read(TagInput(Places(tables["enriched"], catalog=catalog), reads), tmp_path)]
        for catalog in (tables["catalog"], retitled)
    ]

    assert (digests[0] != digests[1]) == changes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("image",), "enriched: no posters, which this model reads; give posters=DIR"),
        (("title", "plot"), "enriched: no titles, which this model reads; give catalog=DIR"),
    ],
)
def test_what_the_model_reads_and_no_table_has_is_asked_for(tables, columns, message):
    with pytest.raises(InputError, match=message):
        TagInput(Places(tables["enriched"]), columns)


def test_one_split_of_a_dataset_is_read(write_table, tmp_path):
    columns = {name: [None] * 6 for name in MOVIES.names} | {"imdb_id": IDS, "title": IDS, "plot": PLOTS}
    columns |= {"split": ["train", "test"] * 3, "labels": [[0.0] * 9] * 6}
    movies = write_table(tmp_path / "movies", MOVIES, columns)

    rows = read(TagInput(Places(movies, split="test"), ("plot",)), tmp_path)

    assert [row["imdb_id"] for row in rows] == IDS[1::2]
    assert [row["plot"] for row in rows] == PLOTS[1::2]


def test_only_a_dataset_has_splits(tables):
    with pytest.raises(InputError, match=r"split=test: .*enriched has no splits; only a MOVIES table does"):
        TagInput(Places(tables["enriched"], split="test"), ("plot",))


def test_a_table_without_plots_is_none_for_a_model_that_reads_them(tables):
    with pytest.raises(InputError, match="posters: no plots, which this model reads; give enriched=DIR"):
        TagInput(Places(tables["posters"]), ("plot",))
