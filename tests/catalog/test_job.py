"""The catalogue made from a dump, and the counts that account for every row."""

import gzip
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dumps import HEADER, ids, make, many, movies, row, steps, write

from mmgenre.catalog import dump
from mmgenre.catalog.balance import choose
from mmgenre.catalog.job import curation_table, describe
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.tables import storage
from mmgenre.tables.schema import CATALOG
from mmgenre.tables.table import Table


def test_a_row_becomes_a_movie_with_the_nine_genres_in_their_order(tmp_path):
    make(tmp_path, HEADER + row(genres="Thriller,Documentary,Action"))

    assert movies(tmp_path) == [
        {
            "imdb_id": "tt0000001",
            "title": "A Title",
            "year": 1999,
            "runtime": 90,
            "genres": ["Action", "Thriller"],
            "title_type": "movie",
        }
    ]


def test_titles_are_filtered_by_type_year_adult_flag_and_genre(tmp_path):
    content = HEADER + b"".join(
        [
            row("tt0000001", type="tvEpisode"),
            row("tt0000002", adult="1"),
            row("tt0000003", year="1989"),
            row("tt0000004", year="1990"),
            row("tt0000005", year="2001"),
            row("tt0000006", year=r"\N"),
            row("tt0000007", genres="Documentary"),
            row("tt0000008", genres=r"\N"),
            row("tt0000009", type="tvMovie"),
        ]
    )

    manifest = make(tmp_path, content, min_year=1990, max_year=2000)

    assert ids(tmp_path) == ["tt0000004", "tt0000009"]
    assert steps(manifest) == {
        "rows in the dump": 9,
        "rows with all columns": 9,
        "title type movie or tvMovie": 8,
        "with an id, a title and an adult flag": 8,
        "not adult": 7,
        "year 1990 to 2000": 4,
        "at least one of the nine genres": 2,
        "first of its id": 2,
    }


def test_a_year_range_can_have_one_bound(tmp_path):
    rows = [row("tt0000001", year="1950"), row("tt0000002", year="2000"), row("tt0000003", year=r"\N")]

    since = make(tmp_path / "since", write(tmp_path / "dump.tsv", rows), min_year=2000)
    until = make(tmp_path / "until", tmp_path / "dump.tsv", max_year=1999)

    assert (ids(tmp_path / "since"), steps(since)["year 2000 to any"]) == (["tt0000002"], 1)
    assert (ids(tmp_path / "until"), steps(until)["year any to 1999"]) == (["tt0000001"], 1)


def test_a_dump_without_matching_titles_gives_an_empty_catalogue(tmp_path):
    manifest = make(tmp_path, HEADER + row(type="short"), balance={"max_per_genre": 10})

    assert manifest.rows == 0
    assert steps(manifest)["rows in the dump"] == 1


def test_titles_without_a_genre_are_kept_for_tagging_despite_the_cap(tmp_path):
    content = HEADER + row("tt0000001", genres=r"\N") + row("tt0000002", genres="News") + row("tt0000003")

    make(tmp_path, content + row("tt0000004"), keep_unlabelled=True, balance={"max_per_genre": 1})

    assert [movie["genres"] for movie in movies(tmp_path)] == [[], [], ["Drama"]]


def test_no_genre_exceeds_the_cap_and_the_rarest_genre_is_filled_first(tmp_path):
    rows = [row(f"tt{number:07}", genres="Drama") for number in range(1, 400)]
    rows += [row(f"tt{number:07}", genres="Comedy,Drama") for number in range(400, 500)]
    rows += [row(f"tt{number:07}", genres="Drama,Sci-Fi") for number in range(500, 520)]

    manifest = make(tmp_path, HEADER + b"".join(rows), balance={"max_per_genre": 50})

    counts = {genre: count for genre, count in manifest.notes["genres"].items() if count}
    assert counts == {"Comedy": 30, "Drama": 50, "Sci-Fi": 20}
    assert manifest.rows == 50
    assert list(steps(manifest).items())[-1] == ("at most 50 of a genre", 50)


def test_the_choice_is_maximal_and_within_every_cap():
    rng = np.random.default_rng(0)
    labels = rng.random((3000, 9)) < np.linspace(0.01, 0.4, 9)
    numbers = rng.permutation(10**6)[:3000]

    chosen = choose(numbers, labels, max_per_genre=100, seed=0)

    counts = labels[chosen].sum(axis=0)
    assert counts.max() == 100
    assert chosen[~labels.any(axis=1)].all()
    assert labels[~chosen][:, counts == 100].any(axis=1).all()


def test_the_balance_depends_on_the_seed_and_not_on_the_order_of_the_rows(tmp_path):
    rows = [line for line in many(3000) if b"tt" in line[:2]]
    first_of_its_id = list({line.partition(b"\t")[0]: line for line in reversed(rows)}.values())
    shuffled = random.Random(1).sample(first_of_its_id, len(first_of_its_id))
    balance = {"max_per_genre": 60, "seed": 0}

    make(tmp_path / "a", write(tmp_path / "a.tsv", first_of_its_id), balance=balance)
    make(tmp_path / "b", write(tmp_path / "b.tsv", shuffled), balance=balance)
    make(tmp_path / "c", write(tmp_path / "b.tsv", shuffled), balance=balance | {"seed": 1})

    assert ids(tmp_path / "a") != ids(tmp_path / "b")
    assert set(ids(tmp_path / "a")) == set(ids(tmp_path / "b"))
    assert set(ids(tmp_path / "a")) != set(ids(tmp_path / "c"))


def test_the_catalogue_equals_what_pandas_reads_and_the_counts_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(dump, "_BLOCK_BYTES", 1 << 16)
    path = write(tmp_path / "dump.tsv", [*many(5000), b"torn\tline\n"])

    manifest = make(tmp_path, path, keep_unlabelled=True)

    table = pd.DataFrame(movies(tmp_path)).set_index("imdb_id")
    expected = read_with_pandas(path)
    assert list(table.index) == list(expected["tconst"])
    assert list(table["title"]) == list(expected["primaryTitle"])
    for column, source in (("year", "startYear"), ("runtime", "runtimeMinutes")):
        numbers = pd.to_numeric(expected[source], errors="coerce").to_numpy()
        np.testing.assert_array_equal(table[column].to_numpy(float), numbers)
    genres = [[genre for genre in GENRES if genre in str(value).split(",")] for value in expected["genres"]]
    assert [list(value) for value in table["genres"]] == genres
    kept = list(steps(manifest).values())
    assert kept[0] == 5001
    assert kept == sorted(kept, reverse=True)
    malformed = manifest.notes["malformed"]
    num_malformed = (kept[0] - kept[1]) + (kept[2] - kept[3]) + (kept[-2] - kept[-1])
    assert sum(malformed.values()) == num_malformed
    assert kept[-1] == manifest.rows == len(expected)


def read_with_pandas(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, sep="\t", quoting=3, na_values=["\\N"], keep_default_na=False, dtype=str)
    table = table[table["titleType"].isin(["movie", "tvMovie"]) & (table["isAdult"] == "0")]
    table = table[table["tconst"].str.match(r"tt\d{7,}$") & table["primaryTitle"].notna()]
    return table.drop_duplicates("tconst")


def test_a_second_run_writes_nothing(tmp_path):
    first = make(tmp_path, HEADER + row())
    file = tmp_path / "catalog" / first.files[0]
    written = file.stat().st_mtime_ns

    assert make(tmp_path, HEADER + row()) == first
    assert file.stat().st_mtime_ns == written


def test_another_dump_replaces_a_catalogue_only_with_overwrite(tmp_path):
    make(tmp_path, HEADER + row())

    with pytest.raises(InputError, match="overwrite=true"):
        make(tmp_path, HEADER + row("tt0000002"))
    make(tmp_path, HEADER + row("tt0000002"), overwrite=True)

    assert ids(tmp_path) == ["tt0000002"]


def test_dump_and_catalogue_can_be_uris(tmp_path):
    write(tmp_path / "dump.tsv", [row()])
    storage.write_bytes("memory://test_catalog/dump.tsv.gz", gzip.compress(HEADER + row()))

    make(tmp_path, b"", input=f"file://{tmp_path}/dump.tsv", output="memory://test_catalog/from_file")
    make(tmp_path, b"", input="memory://test_catalog/dump.tsv.gz", output="memory://test_catalog/from_memory")

    for name in ("from_file", "from_memory"):
        assert Table(f"memory://test_catalog/{name}", CATALOG).read()["imdb_id"].to_pylist() == ["tt0000001"]


@pytest.mark.parametrize(
    ("settings", "expected_text"),
    [
        ({"input": "nowhere.tsv.gz"}, "nowhere.tsv.gz: no such file"),
        ({"input": "."}, "is a directory"),
        ({"min_year": 2001, "max_year": 2000}, "min_year=2001 is after max_year=2000"),
        ({"title_types": ["film"]}, "title_types.0: .*'movie'.*found 'film'"),
        ({"title_types": []}, "title_types"),
        ({"balance": {"max_per_genre": 0}}, "balance.max_per_genre"),
    ],
)
def test_invalid_settings_are_an_error(tmp_path, settings, expected_text):
    with pytest.raises(InputError, match=expected_text):
        make(tmp_path, HEADER + row(), **settings)


def test_the_curation_table_is_aligned():
    table = curation_table([{"step": "rows in the dump", "rows": 12_000_000}, {"step": "kept", "rows": 5}])

    assert table == "rows in the dump   12,000,000\nkept                        5"


def test_the_summary_shows_each_step_and_the_result(tmp_path):
    manifest = make(tmp_path, HEADER + row() + row("tt0000002", type="short"))

    lines = describe(manifest).splitlines()

    assert lines[0].split() == ["rows", "in", "the", "dump", "2"]
    assert any(line.startswith("genres: Action 0, ") for line in lines)
    assert lines[-1].startswith("catalog: 2 rows in, 1 out")
