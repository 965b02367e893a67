"""TMDB: what to ask for a title, and what the answer says. No I/O."""

import os
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SecretStr

from mmgenre.config import Config
from mmgenre.errors import InputError

_POSTER_PATH = re.compile(r"/[A-Za-z0-9_-]+\.(jpg|jpeg|png|webp)")


class TmdbConfig(Config):
    """The Movie Database; its key comes from TMDB_TOKEN (v4) or TMDB_API_KEY (v3) in the environment."""

    kind: Literal["tmdb"] = "tmdb"
    base_url: str = Field("https://api.themoviedb.org", description="of the API, without the version")
    image_url: str = Field("https://image.tmdb.org/t/p/w342", description="of the posters, with their size")

    def build(self, key: "TmdbKey") -> "Tmdb":
        """The provider."""
        return Tmdb(self, key)


@dataclass(frozen=True)
class TmdbKey:
    """One of TMDB's two kinds of key; printing it does not show it."""

    token: SecretStr | None = None
    api_key: SecretStr | None = None

    @classmethod
    def from_token(cls, token: str) -> "TmdbKey":
        """A v4 token."""
        return cls(token=SecretStr(token))

    @classmethod
    def from_environment(cls) -> "TmdbKey":
        """The key in the environment, the v4 token before the v3 key.

        Raises:
            InputError: there is none.
        """
        token, api_key = (os.environ.get(name, "").strip() for name in ("TMDB_TOKEN", "TMDB_API_KEY"))
        if token:
            return cls.from_token(token)
        if api_key:
            return cls(api_key=SecretStr(api_key))
        raise InputError(
            "provider tmdb: no key in the environment; set TMDB_TOKEN (v4 read access token) or TMDB_API_KEY (v3)"
        )


@dataclass(frozen=True)
class Request:
    """One GET."""

    url: str
    params: dict[str, str]
    headers: dict[str, str]


class Tmdb:
    """Asks `find` once for a title: its answer already has plot, language and poster.

    Source: https://developer.themoviedb.org/reference/find-by-id
    """

    def __init__(self, config: TmdbConfig, key: TmdbKey):
        self._config = config
        self._key = key

    def request(self, imdb_id: str) -> Request:
        """What to GET for a title."""
        headers, params = {"Accept": "application/json"}, {"external_source": "imdb_id"}
        if self._key.token is not None:
            headers["Authorization"] = f"Bearer {self._key.token.get_secret_value()}"
        elif self._key.api_key is not None:
            params["api_key"] = self._key.api_key.get_secret_value()
        return Request(f"{self._config.base_url}/3/find/{imdb_id}", params, headers)

    def probe(self) -> Request:
        """What to GET to see that the service answers: any title will do."""
        return self.request("tt0111161")

    def parse(self, answer: Any) -> dict[str, Any] | None:
        """Provider-neutral fields of a `find` answer, or None when TMDB has no such movie.

        Raises:
            ValueError: an answer of another shape.
        """
        movies = answer.get("movie_results") if isinstance(answer, dict) else None
        if not isinstance(movies, list) or not all(isinstance(movie, dict) for movie in movies):
            raise ValueError("an answer without movie_results")
        if not movies:
            return None
        movie = movies[0]
        if not isinstance(movie.get("id"), int):
            raise ValueError("an answer whose movie has no id")
        path = movie.get("poster_path")
        has_poster = isinstance(path, str) and _POSTER_PATH.fullmatch(path) is not None
        return {
            "provider_id": str(movie["id"]),
            "plot": _text(movie, "overview"),
            "language": _text(movie, "original_language"),
            "poster_url": f"{self._config.image_url}{path}" if has_poster else None,
        }


def _text(movie: dict[str, Any], field: str) -> str | None:
    value = movie.get(field)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"an answer whose {field} is no text")
    return (value or "").strip() or None
