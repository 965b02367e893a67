"""The input of jobs/tag.py: what a model reads of a movie may come from several tables."""

import csv

import pytest

from mmgenre.errors import InputError
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, POSTERS
from mmgenre.tagging.input import MovieSources, TagInput
from mmgenre.tagging.units import EarlierPredictions, UnitReader, WorkFolder

IDS = [f"tt{row:07}" for row in range(6)]
PLOTS = [f"Plot {row}." if row % 2 else None for row in range(6)]
IMAGES = {"tt0000004": b"four", "tt0000001": b"one", "tt0000002": None, "tt9999999": b"another movie's"}


@pytest.fixture
def tables(write_table, tmp_path):
    """An ENRICHED, a CATALOG and a POSTERS table of the same movies, in different orders."""

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
    """The rows that the model gets, by id."""
    work = WorkFolder(str(tmp_path / "tags"))
    work.stage(source, EarlierPredictions([]))
    reader = UnitReader(work, source.image_files)
    return sorted((row for unit in work.units for row in reader.read(unit).to_pylist()), key=lambda row: row["imdb_id"])


def test_only_columns_that_the_model_reads_are_read(tables, tmp_path):
    source = TagInput(MovieSources(tables["enriched"], catalog=tables["catalog"], posters=tables["posters"]), ("plot",))

    assert source.schema.names == ["imdb_id", "plot", "input_digest"]
    assert list(source.fingerprints) == ["movies"]
    assert [row["plot"] for row in read(source, tmp_path)] == PLOTS


def test_titles_and_images_come_from_side_tables_and_no_movie_is_lost(tables, tmp_path):
    places = MovieSources(tables["enriched"], catalog=tables["catalog"], posters=tables["posters"])
    source = TagInput(places, ("title", "plot", "image"))

    rows = read(source, tmp_path)

    assert [row["imdb_id"] for row in rows] == IDS
    assert [row["plot"] for row in rows] == PLOTS
    assert [row["title"] for row in rows] == [f"Title of {imdb_id}" for imdb_id in IDS]
    assert [row["image"] for row in rows] == [IMAGES.get(imdb_id) for imdb_id in IDS]
    assert list(source.fingerprints) == ["movies", "catalog", "posters"]


def test_a_users_file_gets_its_images_from_the_posters_table(tables, tmp_path):
    file = tmp_path / "mine.csv"
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([["id", "overview"], *zip(IDS, PLOTS, strict=True)])

    rows = read(TagInput(MovieSources(str(file), posters=tables["posters"]), ("plot", "image")), tmp_path)

    assert [row["image"] for row in rows] == [IMAGES.get(imdb_id) for imdb_id in IDS]
    assert [row["plot"] for row in rows] == PLOTS
    with pytest.raises(InputError, match=r"mine\.csv: no posters, which this model reads; give posters=DIR"):
        TagInput(MovieSources(str(file)), ("image",))


@pytest.mark.parametrize("role", ["catalog", "posters"])
def test_a_users_file_whose_ids_match_nothing_is_refused(tables, tmp_path, role):
    file = tmp_path / "mine.csv"
    file.write_text("id,overview\n" + "".join(f"{number},A plot.\n" for number in range(50)))
    source = TagInput(
        MovieSources(str(file), **{role: tables[role]}), ("title", "plot") if role == "catalog" else ("plot", "image")
    )

    with pytest.raises(
        InputError, match=r"none of its 50 ids \(such as 0, 1, 2\) match the \d ids \(such as tt\d+.*IMDb"
    ):
        list(source.rows())


def test_the_notes_of_a_users_file_stay_when_its_rows_are_staged(tables, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("imdb_id;plot\n1;a\n;b\n")
    source = TagInput(MovieSources(str(file), on_bad_rows="skip"), ("plot",))

    assert [row["imdb_id"] for row in read(source, tmp_path)] == ["tt0000001"]
    notes = WorkFolder(str(tmp_path / "tags")).staged.manifest.notes["files"]["movies"]
    assert (notes["form"], notes["skipped"], notes["normalised_ids"]) == ("cells between semicolons", {"no_id": 1}, 1)


def test_a_posters_table_alone_can_be_tagged(tables, tmp_path):
    source = TagInput(MovieSources(tables["posters"]), ("image",))

    rows = read(source, tmp_path)

    assert {row["imdb_id"]: row["image"] for row in rows} == IMAGES
    assert len({row["input_digest"] for row in rows}) == len(rows)


def test_kept_columns_come_from_the_movies_or_the_catalogue(tables, tmp_path):
    places = MovieSources(tables["enriched"], catalog=tables["catalog"])

    rows = read(TagInput(places, ("plot",), ("title", "provider", "plot")), tmp_path)

    assert [row["title"] for row in rows] == [f"Title of {imdb_id}" for imdb_id in IDS]
    assert {row["provider"] for row in rows} == {"a"}
    assert [row["plot"] for row in rows] == PLOTS


@pytest.mark.parametrize(("reads", "changes"), [(("plot",), False), (("title", "plot"), True)])
def test_the_digest_changes_only_with_what_the_model_reads(tables, write_table, tmp_path, reads, changes):
    titles = {"imdb_id": IDS, "title": ["Another"] * 6, "genres": [[]] * 6}
    retitled = write_table(tmp_path / "retitled", CATALOG, titles)

    def digests(catalog):
        source = TagInput(MovieSources(tables["enriched"], catalog=catalog), reads)
        return [row["input_digest"] for row in read(source, tmp_path)]

    assert (digests(tables["catalog"]) != digests(retitled)) == changes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("image",), "enriched: no posters, which this model reads; give posters=DIR"),
        (("title", "plot"), "enriched: no titles, which this model reads; give catalog=DIR"),
    ],
)
def test_a_missing_column_names_the_setting_that_provides_it(tables, columns, message):
    with pytest.raises(InputError, match=message):
        TagInput(MovieSources(tables["enriched"]), columns)


def test_a_single_split_of_a_dataset_can_be_read(write_table, tmp_path):
    columns = {name: [None] * 6 for name in MOVIES.names} | {"imdb_id": IDS, "title": IDS, "plot": PLOTS}
    columns |= {"split": ["train", "test"] * 3, "labels": [[0.0] * 9] * 6}
    movies = write_table(tmp_path / "movies", MOVIES, columns)

    rows = read(TagInput(MovieSources(movies, split="test"), ("plot",)), tmp_path)

    assert [row["imdb_id"] for row in rows] == IDS[1::2]
    assert [row["plot"] for row in rows] == PLOTS[1::2]


def test_a_split_of_a_table_without_splits_is_refused(tables):
    with pytest.raises(InputError, match=r"split=test: .*enriched has no splits; only a MOVIES table does"):
        TagInput(MovieSources(tables["enriched"], split="test"), ("plot",))


def test_a_table_without_plots_is_refused_if_the_model_reads_them(tables):
    with pytest.raises(InputError, match="posters: no plots, which this model reads; give enriched=DIR"):
        TagInput(MovieSources(tables["posters"]), ("plot",))
