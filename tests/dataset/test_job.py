"""Movies are selected and labelled as configured, and no plot leaks from one split into another."""

import json

import numpy as np
import pyarrow as pa
import pytest

from mmgenre.dataset import job
from mmgenre.dataset.groups import normalise
from mmgenre.dataset.job import DatasetConfig, build_dataset, split_of
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, POSTERS, from_per_genre
from mmgenre.tables.table import Table
from mmgenre.tables.words import count_words

WORDS = np.array([f"word{number}" for number in range(500)])


def plot(seed):
    return " ".join(np.random.default_rng(seed).choice(WORDS, 12))


def movie(number, **fields):
    """An English drama with a plot of twelve words; fields replace any of that."""
    known = {"imdb_id": f"tt{number:07}", "genres": ["Drama"], "plot": plot(number), "language": "en"}
    return known | fields


MANY = [movie(number) for number in range(1000, 1200)]


@pytest.fixture
def build(tmp_path, write_table):
    """Builds the MOVIES table of `movies` and of many others; returns the rows of `movies` by id."""

    def build_movies(*movies, folder="run", enriched=None, others=MANY, **settings):
        rows, root = [*movies, *others], tmp_path / folder
        tables = {
            "catalog": write_table(root / "catalog", CATALOG, catalog_of(rows)),
            "enriched": write_table(root / "enriched", ENRICHED, enriched_of(rows if enriched is None else enriched)),
        }
        manifest = build_dataset(DatasetConfig(output=str(root / "movies"), **(tables | settings)))
        written = Table(str(root / "movies"), MOVIES).read().to_pylist()
        ids = {row["imdb_id"] for row in movies or rows}
        return manifest, {row["imdb_id"]: row for row in written if row["imdb_id"] in ids}

    return build_movies


def catalog_of(movies):
    nothing = [None] * len(movies)
    ids = [row["imdb_id"] for row in movies]
    columns = [ids, [f"Title of {name}" for name in ids], nothing, nothing, [row["genres"] for row in movies]]
    return dict(zip(CATALOG.names, columns, strict=False))


def enriched_of(movies):
    """The rows, in a different order than the catalogue's."""
    movies = movies[::-1]
    constant = {"provider": "test", "status": "ok", "fetched_at": 0}
    return {name: [row.get(name, constant.get(name)) for row in movies] for name in ENRICHED.names}


def kept_ids(build, *movies, **settings):
    return sorted(build(*movies, **settings)[1])


# Selection


def test_movies_in_other_languages_are_dropped_and_unknown_languages_are_kept(build):
    movies = [movie(1), movie(2, language="fr"), movie(3, language=None), movie(4, language="")]

    assert kept_ids(build, *movies) == ["tt0000001", "tt0000003"]
    assert kept_ids(build, *movies, folder="fr", language="fr", others=in_french(MANY)) == ["tt0000002", "tt0000003"]
    assert len(kept_ids(build, *movies, folder="all", language=None)) == 4


def test_posters_are_joined_and_counted_in_the_curation(build, tmp_path, write_table):
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
    """A POSTERS table with an image for every movie except tt0000002."""
    images = {row["imdb_id"]: row["imdb_id"].encode() for row in movies if row["imdb_id"] != "tt0000002"}
    return write_table(folder, POSTERS, posters_of(movies, images))


def posters_of(movies, images):
    ids = [row["imdb_id"] for row in movies]
    columns = {"imdb_id": ids, "status": ["ok"] * len(ids), "image": [images.get(name) for name in ids]}
    return {name: columns.get(name, [None] * len(ids)) for name in POSTERS.names}


def test_requiring_posters_needs_a_posters_table():
    with pytest.raises(InputError, match="require_poster=true needs the POSTERS table"):
        DatasetConfig.parse({"catalog": "a", "enriched": "b", "output": "c", "require_poster": True}, "test")


def in_french(movies):
    return [row | {"language": "fr"} for row in movies]


def test_a_plot_needs_six_words(build):
    movies = [movie(1, plot="one two three four five six"), movie(2, plot=" one  two\tthree\nfour five ")]
    movies += [movie(3, plot=None), movie(4, plot="")]

    assert kept_ids(build, *movies) == ["tt0000001"]
    assert kept_ids(build, *movies, folder="two", min_words=2) == ["tt0000001", "tt0000002"]
    assert len(kept_ids(build, *movies, folder="none", min_words=0)) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("遠い島の灯台で暮らす老人が幽霊と出会う。", 10),
        ("遠い島。", 2),
        ("大海上的灯塔里住着一位老人", 7),
        ("หญิงชราเห็นผีในบ้าน", 10),
        ("노인이 등대에서 유령을 만난다", 4),
        ("NASAの飛行士が、月で泣く\uff01", 6),
        ("An old man -- alone?", 5),
        ("", 0),
        (None, None),
    ],
)
def test_words_are_counted_in_scripts_without_spaces(text, words):
    assert count_words(pa.chunked_array([pa.array([text], pa.string())])).to_pylist() == [words]


def test_a_japanese_plot_is_long_enough_and_a_japanese_title_is_not(build):
    movies = [movie(1, plot="遠い島の灯台で暮らす老人が幽霊と出会う。"), movie(2, plot="遠い島の灯台。")]

    assert kept_ids(build, *movies, language=None) == ["tt0000001"]


def test_movies_without_a_known_genre_are_dropped(build):
    assert kept_ids(build, movie(1, genres=[]), movie(2)) == ["tt0000002"]


def test_labels_are_in_the_order_of_the_genres(build):
    _, found = build(movie(1, genres=["Thriller", "Action"]), movie(2, genres=["Sci-Fi"]))

    assert found["tt0000001"]["labels"] == [1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert GENRES[found["tt0000002"]["labels"].index(1)] == "Sci-Fi"


def test_title_and_plot_belong_to_the_movie(build):
    _, found = build(movie(1), movie(2))

    for row in (movie(1), movie(2)):
        assert found[row["imdb_id"]]["title"] == f"Title of {row['imdb_id']}"
        assert found[row["imdb_id"]]["plot"] == row["plot"]


def test_movies_missing_from_the_catalogue_are_dropped(build):
    assert kept_ids(build, movie(1), others=MANY, enriched=[movie(1), movie(2), *MANY]) == ["tt0000001"]


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
def test_case_accents_punctuation_and_spacing_do_not_make_a_different_plot(variant):
    assert normalise(variant) == "emile et le cafe he can t stay or can he"


def test_different_words_make_a_different_plot():
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


def test_movies_without_words_are_not_grouped(build):
    movies = [movie(number, plot=text) for number, text in enumerate([None, "", "? ! ? ! ? !", "..."] * 15)]

    _, found = build(*movies, min_words=0)

    assert {row["split"] for row in found.values()} == {"train", "val", "test"}


def test_a_movie_keeps_its_split_when_the_catalogue_grows(build):
    _, small = build(others=MANY)
    _, large = build(others=[*MANY, *(movie(number) for number in range(2000, 2300))], folder="large")

    assert {name: row["split"] for name, row in small.items()} == {name: large[name]["split"] for name in small}


def test_another_seed_gives_another_split(build):
    _, first = build(others=MANY)
    _, second = build(others=MANY, folder="second", seed=1)

    differing = sum(first[name]["split"] != second[name]["split"] for name in first)
    assert 0.15 < differing / len(MANY) < 0.6


def test_the_splits_have_the_configured_shares(build):
    movies = [movie(number) for number in range(3000)]

    manifest, _ = build(others=movies)

    assert sum(manifest.notes["splits"].values()) == 3000
    assert {split: round(count / 3000, 1) for split, count in manifest.notes["splits"].items()} == {
        "train": 0.8,
        "val": 0.1,
        "test": 0.1,
    }


def test_a_larger_share_only_adds_movies_to_a_split():
    places = DatasetConfig(catalog="c", enriched="e", output="o")
    more = places.model_copy(update={"test_share": 0.3})

    first, second = ([split_of(f"plot {n}", config) for n in range(2000)] for config in (places, more))

    assert np.mean(np.array(second) == "test") == pytest.approx(0.3, abs=0.04)
    assert all(after == "test" for before, after in zip(first, second, strict=True) if before == "test")


def test_a_plot_in_two_splits_is_detected():
    plots = ["a plot", "another", "a plot", "", None, "", None]

    job._require_no_leak("plot", plots, ["train", "val", "train", "train", "test", "train", "test"])
    with pytest.raises(RuntimeError, match="a plot is in both train and test: 'a plot'"):
        job._require_no_leak("plot", plots, ["train", "val", "test", *["train"] * 4])


@pytest.fixture
def posters(tmp_path, write_table):
    """Writes a POSTERS table; movies with the same number share a poster, None: none."""

    def write(rows, numbers, folder="posters", status="ok"):
        ids = [row["imdb_id"] for row in rows]
        columns = {name: [None] * len(ids) for name in POSTERS.names} | {"imdb_id": ids}
        columns["status"] = ["no_poster" if number is None else status for number in numbers]
        columns["sha256"] = [None if number is None else f"digest {number}" for number in numbers]
        images = [None if number is None or status != "ok" else f"poster {number}".encode() for number in numbers]
        return write_table(tmp_path / folder, POSTERS, columns | {"image": images})

    return write


def test_movies_with_one_poster_share_a_split(build, posters):
    movies = [movie(number) for number in range(120)]
    numbers = [number % 60 for number in range(120)]
    nothing = [None] * len(MANY)

    _, found = build(*movies, posters=posters([*movies, *MANY], numbers + nothing))
    _, placeholders = build(
        *movies, folder="other", posters=posters([*movies, *MANY], numbers + nothing, "other", status="placeholder")
    )

    splits, apart = ([rows[row["imdb_id"]]["split"] for row in movies] for rows in (found, placeholders))
    assert splits[:60] == splits[60:]
    assert set(splits) == {"train", "val", "test"}
    # Of two movies with one poster, the older one keeps the split of its plot.
    assert splits[:60] == apart[:60]
    assert apart[:60] != apart[60:]


def test_plots_and_posters_connect_movies_across_others(build, posters):
    """A plot is shared by the first and the second movie, a poster by the second and the third."""
    chains = [[movie(3 * n), movie(3 * n + 1, plot=plot(3 * n)), movie(3 * n + 2)] for n in range(50)]
    movies = [row for chain in chains for row in chain]
    numbers = [None if n % 3 == 0 else n // 3 for n in range(len(movies))]

    _, found = build(*movies, posters=posters([*movies, *MANY], numbers + [None] * len(MANY)))

    splits = [{found[row["imdb_id"]]["split"] for row in chain} for chain in chains]
    assert all(len(chain) == 1 for chain in splits)
    assert set.union(*splits) == {"train", "val", "test"}


def test_a_poster_in_two_splits_is_detected(build, posters, monkeypatch):
    movies = [movie(number) for number in range(40)]
    monkeypatch.setattr(job, "_with_poster_groups", lambda rows, digests: rows)

    with pytest.raises(RuntimeError, match="a poster is in both"):
        build(*movies, posters=posters([*movies, *MANY], [n % 20 for n in range(40)] + [None] * len(MANY)))


# Manifest


def test_the_curation_continues_the_catalogues(build, tmp_path, write_table):
    movies = [movie(1, genres=[]), movie(2, language="fr"), movie(3, plot="Too short."), *MANY]
    root = tmp_path / "run"
    catalog = write_table(root / "catalog", CATALOG, catalog_of(movies))
    steps = [{"step": "rows in the dump", "rows": 12_000_000}, {"step": "first of its id", "rows": len(movies)}]
    add_curation(root / "catalog/_run.json", steps)
    enriched = write_table(root / "enriched", ENRICHED, enriched_of(movies))

    manifest = build_dataset(DatasetConfig(catalog=catalog, enriched=enriched, output=str(root / "movies")))

    assert manifest.notes["curation"] == [
        *steps,
        {"step": "has a genre", "rows": 202},
        {"step": "original language en or unknown", "rows": 201},
        {"step": "plot of 6 words or more", "rows": 200},
    ]
    assert (manifest.rows_in, manifest.rows) == (203, 200)


def add_curation(manifest, steps):
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"notes": {"curation": steps}}))


def test_equal_inputs_return_the_existing_dataset_and_other_settings_are_refused(build, tmp_path):
    first, _ = build(others=MANY)
    root = tmp_path / "run"
    places = {name: str(root / name) for name in ("catalog", "enriched")} | {"output": str(root / "movies")}

    assert build_dataset(DatasetConfig(**places)) == first
    with pytest.raises(InputError, match="seed: 1, not 0"):
        build_dataset(DatasetConfig(**places, seed=1))
    assert build_dataset(DatasetConfig(**places, seed=1, overwrite=True)).rows == first.rows


# Errors


def test_a_catalogued_movie_that_was_not_enriched_is_an_error(build, tmp_path):
    with pytest.raises(InputError) as error:
        build(movie(1), movie(2), enriched=MANY)

    assert str(error.value) == (
        f"{tmp_path}/run/enriched: 2 of the movies in {tmp_path}/run/catalog are missing; "
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
def test_an_empty_dataset_is_an_error_that_names_the_rows_after_each_step(build, fields, step):
    with pytest.raises(InputError, match=rf"no movie is left to train on \(.*{step}"):
        build(others=[row | fields for row in MANY])


def test_an_empty_catalogue_is_an_error(build):
    with pytest.raises(InputError, match="no movie is left"):
        build(others=[])


def test_a_split_without_movies_is_an_error(build):
    with pytest.raises(InputError, match=r"3 movies are too few: none in (val|test)"):
        build(others=MANY[:3])


def test_swapped_tables_are_refused(build, tmp_path):
    build(others=MANY)
    root = tmp_path / "run"

    with pytest.raises(InputError, match=r"enriched: a table made by jobs/test\.py, without the columns title, year"):
        build_dataset(
            DatasetConfig(catalog=str(root / "enriched"), enriched=str(root / "catalog"), output=str(root / "other"))
        )


def test_labels_round_trip_as_floats(build, tmp_path):
    build(others=MANY)

    labels = from_per_genre(Table(str(tmp_path / "run/movies"), MOVIES).read()["labels"])

    assert labels.shape == (len(MANY), 9)
    assert labels[:, GENRES.index("Drama")].tolist() == [1] * len(MANY)
    assert labels.sum() == len(MANY)
