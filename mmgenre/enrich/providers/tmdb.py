"""TMDB: its requests, and how its responses are parsed. No I/O."""

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

from mmgenre.config import Config
from mmgenre.enrich.http import Request, RetryableError, ServiceUnavailable
from mmgenre.enrich.providers.source import Fields, Title, parse_json, secret, text, without_suffix
from mmgenre.errors import InputError, one_line

# TMDB's own codes: https://developer.themoviedb.org/docs/errors. Proxies and CDNs send HTML with the same HTTP status.
_REFUSED_KEY = {3, 7, 10, 14, 16, 33, 35, 36}
_NO_SUCH_TITLE = {6, 34}
_V3_KEY = re.compile(r"[0-9a-fA-F]{32}")
_V4_TOKEN_START = "eyJ"  # noqa: S105 - how any JWT begins
# Title types of IMDb that TMDB lists as TV series.
_SERIES = ("tvSeries", "tvMiniSeries")
_POSTER_PATH = re.compile(r"/[A-Za-z0-9_-]+\.(jpg|jpeg|png|webp)")


class TmdbConfig(Config):
    """The Movie Database, with the key in the environment variable TMDB_TOKEN (v4) or TMDB_API_KEY (v3)."""

    kind: Literal["tmdb"] = "tmdb"
    base_url: str = Field("https://api.themoviedb.org", description="of the API, without the version")
    image_url: str = Field("https://image.tmdb.org/t/p/w342", description="base URL of the posters, including a size")

    @field_validator("base_url")
    @classmethod
    def _without_version(cls, value: str) -> str:
        return without_suffix(value, "3", "4")

    def build(self, environment: Mapping[str, str]) -> "Tmdb":
        """The provider, with the v4 token from the environment, or else the v3 key; each is known by its form.

        Raises:
            InputError: there is neither.
        """
        keys = [key for name in ("TMDB_TOKEN", "TMDB_API_KEY") if (key := secret(environment, name)) is not None]
        if not keys:
            raise InputError(
                "provider tmdb: no key in the environment; set TMDB_TOKEN (v4 read access token) or TMDB_API_KEY (v3)"
            )
        is_token = not _V3_KEY.fullmatch(keys[0].get_secret_value()) and (
            bool(environment.get("TMDB_TOKEN", "").strip()) or keys[0].get_secret_value().startswith(_V4_TOKEN_START)
        )
        return Tmdb(self, *((keys[0], None) if is_token else (None, keys[0])))


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

    def read(self, title: Title, status: int, content: bytes) -> Fields:
        """ENRICHED columns from a response: see Source."""
        answer = self._answer(status, content)
        return None if answer is None else self.parse(title, answer)

    def check(self, status: int, content: bytes) -> None:
        """Check the response to `probe`: see Source."""
        self._answer(status, content)

    def _answer(self, status: int, content: bytes) -> dict[str, Any] | None:
        """The JSON object of a response, or None if TMDB has no such title. Errors come with any HTTP status."""
        if status not in (200, 401, 403, 404):
            raise RetryableError(f"HTTP {status}")
        try:
            answer = parse_json(content)
        except RetryableError as error:
            if status == 404:
                return None
            raise RetryableError(f"HTTP {status}: {error}") from None
        code = answer.get("status_code")
        message = text(answer, "status_message") or "no message"
        if code in _REFUSED_KEY:
            raise ServiceUnavailable(
                f"TMDB refused the key (HTTP {status}, code {code}: {message[:200]}); check TMDB_TOKEN or TMDB_API_KEY"
            )
        if status == 404 or code in _NO_SUCH_TITLE:
            return None
        if status != 200 or answer.get("success") is False:
            raise RetryableError(f"HTTP {status}: {one_line(message)[:200]}")
        return answer

    def parse(self, title: Title, answer: dict[str, Any]) -> Fields:
        """Provider-neutral fields of a `find` response, or None if TMDB has no such movie.

        Of several movies with one IMDb id, the one with a plot and the nearest name and year is taken. TV series are
        taken for the title types that TMDB lists as such.

        Raises:
            RetryableError: the response has an unexpected structure.
        """
        movies = _results(answer, "movie_results")
        series = [] if movies or title.title_type not in _SERIES else _results(answer, "tv_results")
        if not movies and not series:
            return None
        movie = max(movies or series, key=lambda found: _likeness(title, found))
        detail = f"TMDB's TV series {movie['id']}" if series else None
        path = movie.get("poster_path")
        has_poster = isinstance(path, str) and _POSTER_PATH.fullmatch(path) is not None
        return {
            "provider_id": str(movie["id"]),
            "plot": text(movie, "overview"),
            "language": text(movie, "original_language"),
            "poster_url": f"{self._image_url}{path}" if has_poster else None,
        } | ({"detail": detail} if detail else {})

    def _get(self, path: str, params: dict[str, str]) -> Request:
        headers = {"Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        elif self._api_key is not None:
            params = params | {"api_key": self._api_key.get_secret_value()}
        return Request(self.base_url + path, params, headers)


def _results(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    results = answer.get(name)
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise RetryableError(f"the response has no {name}")
    if not all(isinstance(result.get("id"), int) for result in results):
        raise RetryableError("the response has a movie without id")
    return results


def _likeness(title: Title, movie: dict[str, Any]) -> tuple[bool, float]:
    """Whether the movie has a plot, and how near it is to the title: 1 for its name, less for years between them."""
    names = [movie.get(name) for name in ("title", "original_title", "name", "original_name")]
    name = (title.title or "").casefold()
    ratios = [SequenceMatcher(None, name, found.casefold()).ratio() for found in names if isinstance(found, str)]
    year = re.match(r"\d{4}", str(movie.get("release_date") or movie.get("first_air_date") or ""))
    distance = abs(int(year[0]) - title.year) if year and title.year else 1
    return bool(text(movie, "overview")), max(ratios, default=0.0) - min(distance, 10) / 10
