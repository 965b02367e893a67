"""The movies that the server knows, and the JSON that TMDB and OMDb return for them."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmgenre.errors import InputError
from mmgenre.sandbox.movies import MOVIES, SERVED
from mmgenre.tables import storage

POSTERS = "posters"
TMDB_BAD_KEY = {
    "status_code": 7,
    "status_message": "Invalid API key: You must be granted a valid key.",
    "success": False,
}
TMDB_BAD_SOURCE = {
    "success": False,
    "status_code": 5,
    "status_message": "Invalid parameters: Your request parameters are incorrect.",
}
TMDB_TOO_MANY = {
    "success": False,
    "status_code": 25,
    "status_message": "Your request count is over the allowed limit of requests per second.",
}
POSTER_WIDTHS = {"w92": 92, "w154": 154, "w185": 185, "w342": 342, "w500": 500, "w780": 780, "original": None}

_TMDB_GENRE_IDS = {
    "Action": 28,
    "Adventure": 12,
    "Comedy": 35,
    "Crime": 80,
    "Drama": 18,
    "Horror": 27,
    "Romance": 10749,
    "Sci-Fi": 878,
    "Thriller": 53,
}
_OMDB_LANGUAGES = {
    "en": "English",
    "fr": "French",
    "es": "Spanish",
    "ja": "Japanese",
    "it": "Italian",
    "de": "German",
    "hi": "Hindi",
    "ko": "Korean",
    "sv": "Swedish",
}


@dataclass(frozen=True, slots=True)
class ServedMovie:
    """A movie that the server knows; `plot` is "" and `poster` (a file name) None if it has none."""

    imdb_id: str
    tmdb_id: int
    title: str
    year: int | None
    plot: str
    genres: tuple[str, ...]
    language: str
    poster: str | None


def load_movies(data: str) -> list[ServedMovie]:
    """The movies in a folder's `movies.parquet`.

    If the folder has a subfolder `posters`, the movies with a file in it have a poster.

    Raises:
        InputError: no such file, not Parquet, or a column of `mmgenre.sandbox.movies.SERVED` is missing.
    """
    path = storage.join(data, MOVIES)
    storage.require_file(path, f"a {MOVIES} written by jobs/sandbox.py, or one with the same columns")
    rows = _read(path).to_pylist()
    if has_poster_files(data):
        files = set(storage.names_in(storage.join(data, POSTERS)))
        rows = [row | {"has_poster": f"{row['tconst']}.jpg" in files} for row in rows]
    # Movies without a TMDB id get an unused one.
    unused = 1 + max((row["tmdb_id"] or 0 for row in rows), default=0)
    return [_movie(row, unused + index) for index, row in enumerate(rows)]


def has_poster_files(data: str) -> bool:
    """Whether the folder contains posters; otherwise they are drawn."""
    return POSTERS in storage.names_in(data)


def find_response(movie: ServedMovie | None) -> dict[str, Any]:
    """TMDB's response to /find; for an unknown id its lists are empty."""
    empty: dict[str, Any] = {f"{kind}_results": [] for kind in ("movie", "person", "tv", "tv_episode", "tv_season")}
    if movie is None:
        return empty
    genre_ids = [_TMDB_GENRE_IDS[genre] for genre in movie.genres if genre in _TMDB_GENRE_IDS]
    return empty | {"movie_results": [_summary(movie) | {"genre_ids": genre_ids, "media_type": "movie"}]}


def configuration_response(base_url: str) -> dict[str, Any]:
    """TMDB's response to /configuration."""
    return {
        "images": {
            "base_url": f"{base_url}/t/p/",
            "secure_base_url": f"{base_url}/t/p/",
            "backdrop_sizes": ["original"],
            "poster_sizes": list(POSTER_WIDTHS),
        },
        "change_keys": ["images", "overview", "title"],
    }


def omdb_response(movie: ServedMovie, base_url: str) -> dict[str, str]:
    """OMDb's response: every field is text, and missing values are "N/A"."""
    return {
        "Title": movie.title,
        "Year": str(movie.year or "N/A"),
        "Genre": ", ".join(movie.genres) or "N/A",
        "Plot": movie.plot or "N/A",
        "Language": _OMDB_LANGUAGES.get(movie.language, "N/A"),
        "Poster": f"{base_url}/t/p/w342/{movie.poster}" if movie.poster else "N/A",
        "imdbID": movie.imdb_id,
        "Type": "movie",
        "Response": "True",
    }


def omdb_error(message: str) -> dict[str, str]:
    """OMDb's error response."""
    return {"Response": "False", "Error": message}


def _read(path: str) -> pa.Table:
    filesystem, location = storage.resolve(path)
    try:
        table = pq.read_table(location, filesystem=filesystem)
        _require_columns(path, table.column_names)
        return table.select(SERVED.names).cast(SERVED)
    except pa.ArrowException as error:
        raise InputError(f"{path}: cannot be read ({error}); expected Parquet with the columns {_COLUMNS}") from None


def _require_columns(path: str, names: Iterable[str]) -> None:
    missing = [name for name in SERVED.names if name not in names]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}; expected {_COLUMNS}")


def _movie(row: dict[str, Any], unused_id: int) -> ServedMovie:
    imdb_id = row["tconst"]
    return ServedMovie(
        imdb_id=imdb_id,
        tmdb_id=row["tmdb_id"] or unused_id,
        title=row["title"] or imdb_id,
        year=row["year"],
        plot=row["plot"] or "",
        genres=tuple(row["genres"] or ()),
        language=row["original_language"] or "en",
        poster=f"{hashlib.sha256(imdb_id.encode()).hexdigest()[:27]}.jpg" if row["has_poster"] else None,
    )


def _summary(movie: ServedMovie) -> dict[str, Any]:
    return {
        "id": movie.tmdb_id,
        "title": movie.title,
        "original_title": movie.title,
        "original_language": movie.language,
        "overview": movie.plot,
        "poster_path": f"/{movie.poster}" if movie.poster else None,
        "backdrop_path": None,
        "release_date": f"{movie.year}-01-01" if movie.year else "",
        "adult": False,
        "video": False,
        "vote_average": 6.0,
        "vote_count": 100,
        "popularity": 1.0,
    }


_COLUMNS = ", ".join(SERVED.names)
