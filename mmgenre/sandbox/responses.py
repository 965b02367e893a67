"""The movies the server knows, and how TMDB and OMDb would speak of them."""

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
TMDB_UNKNOWN = {
    "success": False,
    "status_code": 34,
    "status_message": "The resource you requested could not be found.",
}
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

_TMDB_GENRES = {
    "Action": (28, "Action"),
    "Adventure": (12, "Adventure"),
    "Comedy": (35, "Comedy"),
    "Crime": (80, "Crime"),
    "Drama": (18, "Drama"),
    "Horror": (27, "Horror"),
    "Romance": (10749, "Romance"),
    "Sci-Fi": (878, "Science Fiction"),
    "Thriller": (53, "Thriller"),
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
class Movie:
    """One movie the server knows; `plot` is empty and `poster` (a file name) None where there is none."""

    imdb_id: str
    tmdb_id: int
    title: str
    year: int | None
    plot: str
    genres: tuple[str, ...]
    language: str
    poster: str | None


def load_movies(data: str) -> list[Movie]:
    """The movies of a folder's `movies.parquet`.

    Where the folder has a subfolder `posters`, a movie has a poster when its file is there.

    Raises:
        InputError: no such file, not Parquet, or other columns than `mmgenre.sandbox.movies.SERVED`.
    """
    path = storage.join(data, MOVIES)
    storage.require_file(path, f"the {MOVIES} of a folder made by jobs/sandbox.py, or one with the same columns")
    rows = _read(path).to_pylist()
    if has_poster_files(data):
        files = set(storage.names_in(storage.join(data, POSTERS)))
        rows = [row | {"has_poster": f"{row['tconst']}.jpg" in files} for row in rows]
    # Movies TMDB's id is not known of get one that no other has.
    unused = 1 + max((row["tmdb_id"] or 0 for row in rows), default=0)
    return [_movie(row, unused + place) for place, row in enumerate(rows)]


def has_poster_files(data: str) -> bool:
    """Whether the folder has posters of its own; without, they are drawn."""
    return POSTERS in storage.names_in(data)


def found(movie: Movie | None) -> dict[str, Any]:
    """TMDB's answer to /find: an unknown id finds nothing, which is no error."""
    nothing: dict[str, Any] = {f"{kind}_results": [] for kind in ("movie", "person", "tv", "tv_episode", "tv_season")}
    if movie is None:
        return nothing
    genre_ids = [_TMDB_GENRES[genre][0] for genre in _tmdb_names(movie)]
    return nothing | {"movie_results": [_summary(movie) | {"genre_ids": genre_ids, "media_type": "movie"}]}


def details(movie: Movie) -> dict[str, Any]:
    """TMDB's answer to /movie."""
    genres = [_TMDB_GENRES[genre] for genre in _tmdb_names(movie)]
    return _summary(movie) | {
        "imdb_id": movie.imdb_id,
        "genres": [{"id": number, "name": name} for number, name in genres],
        "status": "Released",
        "tagline": "",
        "runtime": None,
        "budget": 0,
        "revenue": 0,
        "homepage": "",
    }


def configuration(base_url: str) -> dict[str, Any]:
    """TMDB's answer to /configuration."""
    return {
        "images": {
            "base_url": f"{base_url}/t/p/",
            "secure_base_url": f"{base_url}/t/p/",
            "backdrop_sizes": ["original"],
            "poster_sizes": list(POSTER_WIDTHS),
        },
        "change_keys": ["images", "overview", "title"],
    }


def omdb(movie: Movie, base_url: str) -> dict[str, str]:
    """OMDb's answer: every field is text, what is missing is "N/A"."""
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
    """OMDb's way to say no."""
    return {"Response": "False", "Error": message}


def _read(path: str) -> pa.Table:
    filesystem, place = storage.resolve(path)
    try:
        table = pq.read_table(place, filesystem=filesystem)
        _require_columns(path, table.column_names)
        return table.select(SERVED.names).cast(SERVED)
    except pa.ArrowException as error:
        raise InputError(f"{path}: cannot be served ({error}); expected Parquet with the columns {_COLUMNS}") from None


def _require_columns(path: str, names: Iterable[str]) -> None:
    missing = [name for name in SERVED.names if name not in names]
    if missing:
        raise InputError(f"{path}: without the columns {', '.join(missing)}; expected {_COLUMNS}")


def _movie(row: dict[str, Any], unused_id: int) -> Movie:
    imdb_id = row["tconst"]
    return Movie(
        imdb_id=imdb_id,
        tmdb_id=row["tmdb_id"] or unused_id,
        title=row["title"] or imdb_id,
        year=row["year"],
        plot=row["plot"] or "",
        genres=tuple(row["genres"] or ()),
        language=row["original_language"] or "en",
        poster=f"{hashlib.sha256(imdb_id.encode()).hexdigest()[:27]}.jpg" if row["has_poster"] else None,
    )


def _summary(movie: Movie) -> dict[str, Any]:
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


def _tmdb_names(movie: Movie) -> list[str]:
    return [genre for genre in movie.genres if genre in _TMDB_GENRES]


_COLUMNS = ", ".join(SERVED.names)
