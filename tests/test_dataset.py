"""What is learned from, and that nothing of it leaks into what is tested on."""

import json

import numpy as np
import pyarrow as pa
import pytest

from mmgenre.dataset import job as dataset
from mmgenre.dataset.job import DatasetConfig, build_dataset, normalise, split_of
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, POSTERS, from_per_genre
from mmgenre.tables.table import Table

WORDS = np.array([f"word{number}" for number in range(500)])


def plot(seed):
    return " ".join(np.random.default_rng(seed).choice(WORDS, 12))


def movie(number, **fields):
    """A drama in English with a plot of twelve words, unless told otherwise."""
    known = {"imdb_id": f"tt{number:07}", "genres": ["Drama"], "plot": plot(number), "language": "en"}
    return known | fields


MANY = [movie(number) for number in range(1000, 1200)]


@pytest.fixture
def build(tmp_path, write_table):
    """Builds the MOVIES table of some movies and of many others; returns the rows of the former by id."""

    def build_movies(*movies, folder="run", enriched=None, beside=MANY, **settings):
        rows, root = [*movies, *beside], tmp_path / folder
        tables = {
            "catalog": write_table(root / "catalog", CATALOG, catalog_of(rows)),
            "enriched": write_table(root / "enriched", ENRICHED, enriched_of(rows if enriched is None else enriched)),
        }
        manifest = build_dataset(DatasetConfig(output=str(root / "movies"), **(tables | settings)))
        found = Table(str(root / "movies"), MOVIES).read().to_pylist()
        wanted = {row["imdb_id"] for row in movies} or {row["imdb_id"] for row in rows}
        return manifest, {row["imdb_id"]: row for row in found if row["imdb_id"] in wanted}

    return build_movies


def catalog_of(movies):
    nothing = [None] * len(movies)
    ids = [row["imdb_id"] for row in movies]
    columns = [ids, [f"Title of {name}" for name in ids], nothing, nothing, [row["genres"] for row in movies]]
    return dict(zip(CATALOG.names, columns, strict=False))


def enriched_of(movies):
    """The rows in another order than the catalogue's."""
    movies = movies[::-1]
    constant = {"provider": "test", "status": "ok", "fetched_at": 0}
    return {name: [row.get(name, constant.get(name)) for row in movies] for name in ENRICHED.names}


def kept(build, *movies, **settings):
    return sorted(build(*movies, **settings)[1])


# Which movies


def test_movies_in_another_language_are_left_out_and_those_in_an_unknown_one_stay(build):
    movies = [movie(1), movie(2, language="fr"), movie(3, language=None), movie(4, language="")]

    assert kept(build, *movies) == ["tt0000001", "tt0000003"]
    assert kept(build, *movies, folder="fr", language="fr", beside=in_french(MANY)) == ["tt0000002", "tt0000003"]
    assert len(kept(build, *movies, folder="all", language=None)) == 4


def test_movies_have_their_posters_and_the_curation_counts_them(build, tmp_path, write_table):
    rows = [movie(1), movie(2), *MANY]
    posters = write_table(tmp_path / "posters", POSTERS, posters_of(rows, {"tt0000001": b"jpeg 1", "tt0001000": b"x"}))

    manifest, found = build(*rows[:2], posters=posters)
    strict, few = build(
        *rows[:2], folder="few", posters=images_for(rows, tmp_path / "all", write_table), require_poster=True
    )

    assert {name: row["image"] for name, row in found.items()} == {"tt0000001": b"jpeg 1", "tt0000002": None}
    assert manifest.notes["curation"][-1] == {"step": "posters available", "rows": 2}
    assert manifest.rows == len(rows)
    assert list(few) == ["tt0000001"]
    assert strict.notes["curation"][-1] == {"step": "posters available", "rows": strict.rows}


def images_for(movies, folder, write_table):
    """POSTERS with an image for all but tt0000002."""
    images = {row["imdb_id"]: row["imdb_id"].encode() for row in movies if row["imdb_id"] != "tt0000002"}
    return write_table(folder, POSTERS, posters_of(movies, images))


def posters_of(movies, images):
    ids = [row["imdb_id"] for row in movies]
    columns = {"imdb_id": ids, "status": ["ok"] * len(ids), "image": [images.get(name) for name in ids]}
    return {name: columns.get(name, [None] * len(ids)) for name in POSTERS.names}


def test_posters_can_only_be_required_where_there_are_some():
    with pytest.raises(InputError, match="require_poster=true: needs the POSTERS table"):
        DatasetConfig.parse({"catalog": "a", "enriched": "b", "output": "c", "require_poster": True}, "test")


def in_french(movies):
    return [row | {"language": "fr"} for row in movies]


def test_a_plot_has_six_words(build):
    movies = [movie(1, plot="one two three four five six"), movie(2, plot=" one  two\tthree\nfour five ")]
    movies += [movie(3, plot=None), movie(4, plot="")]

    assert kept(build, *movies) == ["tt0000001"]
    assert kept(build, *movies, folder="two", min_words=2) == ["tt0000001", "tt0000002"]
    assert len(kept(build, *movies, folder="none", min_words=0)) == 4


def test_movies_without_one_of_the_nine_genres_are_left_out(build):
    assert kept(build, movie(1, genres=[]), movie(2)) == ["tt0000002"]


def test_labels_are_in_the_order_of_the_genres(build):
    _, found = build(movie(1, genres=["Thriller", "Action"]), movie(2, genres=["Sci-Fi"]))

    assert found["tt0000001"]["labels"] == [1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert GENRES[found["tt0000002"]["labels"].index(1)] == "Sci-Fi"


def test_title_and_plot_are_those_of_the_movie(build):
    _, found = build(movie(1), movie(2))

    for row in (movie(1), movie(2)):
        assert found[row["imdb_id"]]["title"] == f"Title of {row['imdb_id']}"
        assert found[row["imdb_id"]]["plot"] == row["plot"]


def test_movies_that_the_catalogue_no_longer_has_are_left_out(build):
    assert kept(build, movie(1), beside=MANY, enriched=[movie(1), movie(2), *MANY]) == ["tt0000001"]


# Splits


@pytest.mark.parametrize(
    "variant",
    [
        "ÉMILE ET LE CAFÉ: he can't stay -- or can he?",
        "émile et le café, he can't stay, or can he",
        "  Emile et le cafe he can\nt  stay or can he!!!",
        "E\u0301mile et le cafe\u0301: “he can\u2019t stay” - or can he…",
    ],
)
def test_case_accents_punctuation_and_spacing_make_no_other_plot(variant):
    assert normalise(variant) == "emile et le cafe he can t stay or can he"


def test_other_words_make_another_plot():
    assert normalise("He can stay") != normalise("He can not stay")
    assert normalise("日本の映画") != normalise("日本の本")
    assert normalise("?! …") == ""


def test_movies_with_equal_plots_share_a_split(build):
    plots = [plot(number) for number in range(60)]
    movies = [movie(number, plot=text) for number, text in enumerate(plots)]
    movies += [movie(100 + number, plot=f"  «{text.upper()}»!") for number, text in enumerate(plots)]

    _, found = build(*movies)

    splits = [found[row["imdb_id"]]["split"] for row in movies]
    assert splits[:60] == splits[60:]
    assert set(splits) == {"train", "val", "test"}


def test_movies_without_words_are_no_group(build):
    movies = [movie(number, plot=text) for number, text in enumerate([None, "", "? ! ? ! ? !", "..."] * 15)]

    _, found = build(*movies, min_words=0)

    assert {row["split"] for row in found.values()} == {"train", "val", "test"}


def test_a_movie_keeps_its_split_as_the_catalogue_grows(build):
    _, small = build(beside=MANY)
    _, large = build(beside=[*MANY, *(movie(number) for number in range(2000, 2300))], folder="large")

    assert {name: row["split"] for name, row in small.items()} == {name: large[name]["split"] for name in small}


def test_another_seed_is_another_split(build):
    _, first = build(beside=MANY)
    _, second = build(beside=MANY, folder="second", seed=1)

    differing = sum(first[name]["split"] != second[name]["split"] for name in first)
    assert 0.15 < differing / len(MANY) < 0.6


def test_shares_are_those_that_were_asked_for(build):
    movies = [movie(number) for number in range(3000)]

    manifest, _ = build(beside=movies)

    assert sum(manifest.notes["splits"].values()) == 3000
    assert {split: round(count / 3000, 1) for split, count in manifest.notes["splits"].items()} == {
        "train": 0.8,
        "val": 0.1,
        "test": 0.1,
    }


def test_a_larger_share_only_adds_to_a_split():
    places = DatasetConfig(catalog="c", enriched="e", output="o")
    more = places.model_copy(update={"test_share": 0.3})

    first, second = ([split_of(f"plot {n}", config) for n in range(2000)] for config in (places, more))

    assert np.mean(np.array(second) == "test") == pytest.approx(0.3, abs=0.04)
    assert all(after == "test" for before, after in zip(first, second, strict=True) if before == "test")


def test_a_plot_in_two_splits_is_a_bug_that_is_found():
    rows = {"plot": ["A plot.", "another", "a PLOT", None, None, "?", "!"]}

    dataset._require_no_leak(pa.table(rows | {"split": ["train", "val", "train", "train", "test", "train", "test"]}))
    with pytest.raises(RuntimeError, match="a plot is in the splits train and test: 'a PLOT'"):
        dataset._require_no_leak(pa.table(rows | {"split": ["train", "val", "test", *["train"] * 4]}))


# The account


def test_the_curation_goes_on_from_the_catalogues(build, tmp_path, write_table):
    movies = [movie(1, genres=[]), movie(2, language="fr"), movie(3, plot="Too short."), *MANY]
    root = tmp_path / "run"
    catalog = write_table(root / "catalog", CATALOG, catalog_of(movies))
    steps = [{"step": "rows in the dump", "rows": 12_000_000}, {"step": "first of its id", "rows": len(movies)}]
    with_steps(root / "catalog/_run.json", steps)
    enriched = write_table(root / "enriched", ENRICHED, enriched_of(movies))

    manifest = build_dataset(DatasetConfig(catalog=catalog, enriched=enriched, output=str(root / "movies")))

    assert manifest.notes["curation"] == [
        *steps,
        {"step": "has a genre", "rows": 202},
        {"step": "original language en or unknown", "rows": 201},
        {"step": "plot of 6 words or more", "rows": 200},
    ]
    assert (manifest.rows_in, manifest.rows) == (203, 200)


def with_steps(manifest, steps):
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"notes": {"curation": steps}}))


def test_the_same_tables_give_the_same_dataset_and_others_are_refused(build, tmp_path):
    first, _ = build(beside=MANY)
    root = tmp_path / "run"
    places = {name: str(root / name) for name in ("catalog", "enriched")} | {"output": str(root / "movies")}

    assert build_dataset(DatasetConfig(**places)) == first
    with pytest.raises(InputError, match="seed: 1, not 0"):
        build_dataset(DatasetConfig(**places, seed=1))
    assert build_dataset(DatasetConfig(**places, seed=1, overwrite=True)).rows == first.rows


# Mistakes


def test_a_catalogued_movie_that_was_not_enriched_is_a_mistake(build, tmp_path):
    with pytest.raises(InputError) as error:
        build(movie(1), movie(2), enriched=MANY)

    assert str(error.value) == (
        f"{tmp_path}/run/enriched: lacks 2 of the movies in {tmp_path}/run/catalog; "
        "run jobs/enrich.py on that catalogue again"
    )


@pytest.mark.parametrize(
    ("fields", "step"),
    [
        ({"language": "ja"}, "original language en or unknown 0"),
        ({"plot": "Short."}, "plot of 6 words or more 0"),
        ({"genres": []}, "has a genre 0"),
    ],
)
def test_when_nothing_is_left_each_step_says_what_it_left(build, fields, step):
    with pytest.raises(InputError, match=rf"no movie is left to learn from \(.*{step}"):
        build(beside=[row | fields for row in MANY])


def test_an_empty_catalogue_is_a_mistake(build):
    with pytest.raises(InputError, match="no movie is left"):
        build(beside=[])


def test_a_split_without_movies_is_a_mistake(build):
    with pytest.raises(InputError, match=r"3 movies are too few: none in (val|test)"):
        build(beside=MANY[:3])


def test_the_tables_cannot_be_swapped(build, tmp_path):
    build(beside=MANY)
    root = tmp_path / "run"

    with pytest.raises(InputError, match=r"enriched: a table made by jobs/test\.py, without the columns title, year"):
        build_dataset(
            DatasetConfig(catalog=str(root / "enriched"), enriched=str(root / "catalog"), output=str(root / "other"))
        )


def test_labels_round_trip_as_floats(build, tmp_path):
    build(beside=MANY)

    labels = from_per_genre(Table(str(tmp_path / "run/movies"), MOVIES).read()["labels"])

    assert labels.shape == (len(MANY), 9)
    assert labels[:, GENRES.index("Drama")].tolist() == [1] * len(MANY)
    assert labels.sum() == len(MANY)
