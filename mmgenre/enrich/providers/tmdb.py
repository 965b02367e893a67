"""TMDB: its requests, and how its responses are parsed. No I/O."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SecretStr

from mmgenre.config import Config
from mmgenre.enrich.http import Request, RetryableError, ServiceUnavailable
from mmgenre.enrich.providers.source import Fields, parse_json, secret, text
from mmgenre.errors import InputError

_POSTER_PATH = re.compile(r"/[A-Za-z0-9_-]+\.(jpg|jpeg|png|webp)")


class TmdbConfig(Config):
    """The Movie Database, with the key in the environment variable TMDB_TOKEN (v4) or TMDB_API_KEY (v3)."""

    kind: Literal["tmdb"] = "tmdb"
    base_url: str = Field("https://api.themoviedb.org", description="of the API, without the version")
    image_url: str = Field("https://image.tmdb.org/t/p/w342", description="base URL of the posters, including a size")

    def build(self, environment: Mapping[str, str]) -> "Tmdb":
        """The provider, with the v4 token from the environment, or else the v3 key.

        Raises:
            InputError: there is neither.
        """
        token, api_key = secret(environment, "TMDB_TOKEN"), secret(environment, "TMDB_API_KEY")
        if token is None and api_key is None:
            raise InputError(
                "provider tmdb: no key in the environment; set TMDB_TOKEN (v4 read access token) or TMDB_API_KEY (v3)"
            )
        return Tmdb(self, token, api_key)


class Tmdb:
    """Looks up a title with one `find` request, which returns plot, language and poster.

    Source: https://developer.themoviedb.org/reference/find-by-id
    """

    kind = "tmdb"

    def __init__(self, config: TmdbConfig, token: SecretStr | None, api_key: SecretStr | None):
        self.base_url = config.base_url
        self._image_url = config.image_url
        self._token, self._api_key = token, api_key

    def request(self, imdb_id: str) -> Request:
        """The request for a title."""
        return self._get(f"/3/find/{imdb_id}", {"external_source": "imdb_id"})

    def probe(self) -> Request:
        """A request that checks service and key."""
        return self._get("/3/configuration", {})

    def read(self, status: int, content: bytes) -> Fields:
        """ENRICHED columns from a response: see Source."""
        if status == 404:
            return None
        self.check(status, content)
        return self.parse(parse_json(content))

    def check(self, status: int, content: bytes) -> None:
        """Check the response to `probe`: see Source."""
        if status in (401, 403):
            raise ServiceUnavailable(f"TMDB refused the key (HTTP {status}); check TMDB_TOKEN or TMDB_API_KEY")
        if status != 200:
            raise RetryableError(f"HTTP {status}")

    def parse(self, answer: dict[str, Any]) -> Fields:
        """Provider-neutral fields of a `find` response, or None if TMDB has no such movie.

        Raises:
            RetryableError: the response has an unexpected structure.
        """
        movies = answer.get("movie_results")
        if not isinstance(movies, list) or not all(isinstance(movie, dict) for movie in movies):
            raise RetryableError("the response has no movie_results")
        if not movies:
            return None
        movie = movies[0]
        if not isinstance(movie.get("id"), int):
            raise RetryableError("the response has a movie without id")
        path = movie.get("poster_path")
        has_poster = isinstance(path, str) and _POSTER_PATH.fullmatch(path) is not None
        return {
            "provider_id": str(movie["id"]),
            "plot": text(movie, "overview"),
            "language": text(movie, "original_language"),
            "poster_url": f"{self._image_url}{path}" if has_poster else None,
        }

    def _get(self, path: str, params: dict[str, str]) -> Request:
        headers = {"Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        elif self._api_key is not None:
            params = params | {"api_key": self._api_key.get_secret_value()}
        return Request(self.base_url + path, params, headers)
