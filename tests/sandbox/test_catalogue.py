"""The generated catalogue: realistic plots, dump and posters, and the same bytes for the same seed."""

import gzip
import io
from itertools import pairwise
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageStat
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from mmgenre.labels import GENRES, encode
from mmgenre.sandbox.catalogue import COLUMNS, generate, write_dump
from mmgenre.sandbox.movies import SERVED, draw_movies
from mmgenre.sandbox.plots import write_plot
from mmgenre.sandbox.posters import draw


def rows_of(dump):
    header, *lines = gzip.decompress(dump.read_bytes()).decode().removesuffix("\n").split("\n")
    assert header.split("\t") == list(COLUMNS)
    return [line.split("\t") for line in lines]


# Plots


def test_plots_have_realistic_lengths_and_never_name_a_genre():
    random = Random(0)

    plots = [write_plot(genres, random) for genres in draw_movies(500, random)["genres"]]

    lengths = [len(plot.split()) for plot in plots]
    assert min(lengths) >= 8
    assert np.mean([12 <= length <= 90 for length in lengths]) > 0.97
    assert len(set(plots)) == len(plots)
    assert not [plot for plot in plots for genre in GENRES if genre.lower() in plot.lower()]


def test_a_plot_without_genres_is_not_empty():
    assert write_plot([], Random(0))


def test_a_linear_model_learns_the_plots_imperfectly():
    random = Random(1)
    genres = draw_movies(1600, random)["genres"]
    labels = np.stack([encode(row) for row in genres])
    words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform([write_plot(row, random) for row in genres])
    model = OneVsRestClassifier(LogisticRegression(C=4, class_weight="balanced"))

    predicted = model.fit(words[:1200], labels[:1200]).predict(words[1200:])

    assert 0.6 < f1_score(labels[1200:], predicted, average="macro") < 0.85


# The catalogue


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(tmp_path, folder, small):
    generate(small, str(tmp_path / "again"))
    generate(small.model_copy(update={"seed": 1}), str(tmp_path / "other"))

    for name in ("title.basics.tsv.gz", "movies.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()
    assert not any((folder / "title.basics.tsv.gz").read_bytes()[4:8]), "the file contains the time of writing"


def test_the_dump_is_as_irregular_as_imdbs(folder):
    rows = rows_of(folder / "title.basics.tsv.gz")
    usable = [row for row in rows if len(row) == 9 and row[0].startswith("tt") and "x" not in row[5]]
    films = {row[0]: row for row in usable if row[1] == "movie" and row[8] not in {r"\N", "Adult"}}

    assert 1 <= len(rows) - len(usable) <= 3
    assert len(usable) == len({row[0] for row in usable}) + 2
    assert {row[1] for row in usable} >= {"movie", "tvEpisode", "short", "tvSeries", "video"}
    assert {row[4] for row in usable} == {"0", "1"}
    assert any('"' in row[2] for row in usable)
    assert any(row[1] == "movie" and row[8] == r"\N" for row in usable)
    assert all(row[8].split(",") == sorted(set(row[8].split(","))) for row in films.values())
    assert max(len(row[8].split(",")) for row in films.values()) == 3
    assert any(set(row[8].split(",")) & set(GENRES) and set(row[8].split(",")) - set(GENRES) for row in films.values())


def test_the_provider_knows_most_movies_and_their_true_genres(folder, movies, small):
    listed = {row[0]: row[8] for row in rows_of(folder / "title.basics.tsv.gz") if len(row) == 9}

    assert pq.read_schema(folder / "movies.parquet").equals(SERVED, check_metadata=False)
    assert 0.9 * small.movies < len(movies) < small.movies
    assert all(movie["tconst"] in listed for movie in movies)
    assert all(movie["genres"] and set(movie["genres"]) <= set(GENRES) for movie in movies)
    tagged = [movie for movie in movies if listed[movie["tconst"]] != r"\N"]
    assert len(tagged) < len(movies)
    assert all(set(movie["genres"]) == set(listed[movie["tconst"]].split(",")) & set(GENRES) for movie in tagged)


def test_movies_lack_values_as_often_as_real_ones():
    movies = draw_movies(3000, Random(0))
    plots = movies["plot"].dropna()
    normalised = plots.str.lower().str.split().str.join(" ")
    long_plots = normalised[normalised.str.split().str.len() >= 6]

    assert movies["plot"].isna().mean() == pytest.approx(0.04, abs=0.01)
    assert (1 - len(long_plots) / len(plots)) == pytest.approx(0.02, abs=0.01)
    assert (movies["original_language"] != "en").mean() == pytest.approx(0.05, abs=0.015)
    assert movies["has_poster"].mean() == pytest.approx(0.88, abs=0.02)
    assert movies["known"].mean() == pytest.approx(0.97, abs=0.01)
    assert long_plots.duplicated().mean() == pytest.approx(0.01, abs=0.006)
    assert movies["tmdb_id"].is_unique
    counts = movies["genres"].explode().value_counts()
    assert counts.index[0] == "Drama"
    assert counts["Sci-Fi"] < counts["Comedy"] / 2


def test_a_dump_of_any_length_keeps_the_proportions(tmp_path):
    write_dump(str(tmp_path / "dump.tsv.gz"), rows=25_000, seed=0)

    rows = rows_of(tmp_path / "dump.tsv.gz")

    types = [row[1] for row in rows]
    ids = [int(row[0].removeprefix("tt")) for row in rows]
    assert len(rows) == 25_000
    assert {len(row) for row in rows} == {9}
    assert all(later > earlier for earlier, later in pairwise(ids))
    assert types.count("tvEpisode") / len(rows) == pytest.approx(0.758, abs=0.01)
    assert types.count("movie") / len(rows) == pytest.approx(0.064, abs=0.01)
    assert 75 < sum(map(len, map("\t".join, rows))) / len(rows) < 100


# Posters


def test_posters_are_deterministic_and_reflect_the_genres():
    def brightness(genre):
        posters = [Image.open(io.BytesIO(draw(f"tt{number}", [genre]))) for number in range(20)]
        return np.mean([np.mean(ImageStat.Stat(poster).mean) for poster in posters])

    assert draw("tt1", ["Comedy"]) == draw("tt1", ["Comedy"])
    assert draw("tt1", ["Comedy"]) != draw("tt2", ["Comedy"])
    assert brightness("Comedy") > brightness("Horror") + 40
