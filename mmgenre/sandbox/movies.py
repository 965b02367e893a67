"""Draws movies: realistic combinations of genres, plots, languages and posters."""

from random import Random

import pandas as pd
import pyarrow as pa

from mmgenre.sandbox.plots import write_plot
from mmgenre.sandbox.vocabulary import FIRST_NAMES, LAST_NAMES

MOVIES = "movies.parquet"
NO_GENRES = r"\N"
SERVED = pa.schema(
    [
        pa.field("tconst", pa.large_string()),
        pa.field("tmdb_id", pa.int64()),
        pa.field("title", pa.large_string()),
        pa.field("year", pa.int16()),
        pa.field("plot", pa.large_string()),
        pa.field("genres", pa.list_(pa.string())),
        pa.field("original_language", pa.large_string()),
        pa.field("has_poster", pa.bool_()),
    ]
)

# Shares of movies, approximately those of real data.
_UNTAGGED = 0.05
_UNKNOWN = 0.03
_NO_PLOT = 0.04
_SHORT_PLOT = 0.02
_FOREIGN = 0.05
_NO_POSTER = 0.12
_REMAKE = 0.01
_EXTRA_GENRE = 0.3

_GENRE_WEIGHTS = {
    "Drama": 130,
    "Comedy": 105,
    "Comedy,Drama": 60,
    "Drama,Romance": 56,
    "Comedy,Drama,Romance": 42,
    "Comedy,Romance": 40,
    "Horror,Thriller": 36,
    "Drama,Thriller": 30,
    "Horror": 30,
    "Crime,Drama,Thriller": 26,
    "Crime,Drama": 20,
    "Adventure": 15,
    "Adventure,Comedy": 16,
    "Thriller": 16,
    "Action,Thriller": 14,
    "Action,Crime,Drama": 14,
    "Action,Crime,Thriller": 13,
    "Action,Adventure": 13,
    "Action,Drama": 12,
    "Action": 12,
    "Action,Adventure,Sci-Fi": 11,
    "Action,Comedy": 11,
    "Comedy,Horror": 10,
    "Drama,Horror,Thriller": 10,
    "Action,Drama,Thriller": 9,
    "Adventure,Drama": 9,
    "Action,Adventure,Drama": 8,
    "Action,Adventure,Comedy": 8,
    "Horror,Sci-Fi": 8,
    "Comedy,Crime": 8,
    "Action,Sci-Fi": 7,
    "Sci-Fi": 7,
    "Crime,Thriller": 7,
    "Action,Sci-Fi,Thriller": 6,
    "Drama,Sci-Fi": 6,
    "Horror,Sci-Fi,Thriller": 5,
    "Comedy,Sci-Fi": 5,
    "Action,Adventure,Thriller": 5,
    "Crime": 5,
    "Romance": 5,
    "Adventure,Sci-Fi": 4,
    "Comedy,Crime,Drama": 4,
    "Adventure,Romance": 3,
    "Sci-Fi,Thriller": 3,
    "Action,Romance": 2,
    "Action,Horror": 2,
}
_OUTSIDE = (
    ["Animation", "Family", "Fantasy"] * 3
    + ["Biography", "History", "Music", "Mystery"] * 2
    + ["Sport", "War", "Western"]
)
_LANGUAGES = ("fr", "fr", "es", "ja", "it", "de", "hi", "ko", "sv")
_SHORT_PLOTS = (
    "{first} comes home.",
    "The fall of {last}.",
    "A day with {first} {last}.",
    "{first} and {last}, again.",
    "Plot unknown.",
)


def draw_movies(count: int, random: Random) -> pd.DataFrame:
    """Rows of movies, still without id, title and year.

    Columns: genres (list, of the nine), listed (as in the dump: at most three, possibly with one outside the nine, or
    none), plot (or None), original_language, has_poster, tmdb_id, known (whether the provider knows the movie).
    """
    rows = [_draw_movie(random) for _ in range(count)]
    for row in rows:
        if random.random() < _REMAKE:
            row.update(_remake(random.choice(rows)))
    ids = random.sample(range(2, 20 * count + 2), count)
    return pd.DataFrame([row | {"tmdb_id": tmdb_id} for row, tmdb_id in zip(rows, ids, strict=True)])


def _draw_movie(random: Random) -> dict[str, object]:
    genres = random.choices(list(_GENRE_WEIGHTS), list(_GENRE_WEIGHTS.values()))[0].split(",")
    return {
        "genres": genres,
        "listed": _listed(genres, random),
        "plot": _draw_plot(genres, random),
        "original_language": random.choice(_LANGUAGES) if random.random() < _FOREIGN else "en",
        "has_poster": random.random() >= _NO_POSTER,
        "known": random.random() >= _UNKNOWN,
    }


def _listed(genres: list[str], random: Random) -> str:
    """The value of the dump's genres column."""
    if random.random() < _UNTAGGED:
        return NO_GENRES
    extra = [random.choice(_OUTSIDE)] if len(genres) < 3 and random.random() < _EXTRA_GENRE else []
    return ",".join(sorted(genres + extra))


def _draw_plot(genres: list[str], random: Random) -> str | None:
    chance = random.random()
    if chance < _NO_PLOT:
        return None
    if chance < _NO_PLOT + _SHORT_PLOT:
        pattern = random.choice(_SHORT_PLOTS)
        return pattern.format(first=random.choice(FIRST_NAMES), last=random.choice(LAST_NAMES))
    return write_plot(genres, random)


def _remake(original: dict[str, object]) -> dict[str, object]:
    """The fields that a remake shares with the original; its plot differs in case and spacing."""
    plot = original["plot"]
    respaced = f" {plot.swapcase()}".replace(", ", ",  ") if isinstance(plot, str) else None
    return {"genres": original["genres"], "listed": original["listed"], "plot": respaced}
