"""OMDb: its requests, and how its responses are parsed. No I/O."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator

from mmgenre.config import Config
from mmgenre.enrich.http import QuotaUsedUp, Request, RetryableError, ServiceUnavailable
from mmgenre.enrich.providers.source import (
    Fields,
    Title,
    UnreadableResponse,
    parse_json,
    secret,
    text,
    web_url,
    without_suffix,
)
from mmgenre.errors import InputError, one_line
from mmgenre.tables.languages import language_code

_MISSING = "N/A"
# OMDb has no error codes: these texts are all that tells its errors apart.
_UNKNOWN_TITLE = ("incorrect imdb id", "error getting data", "not found")


class OmdbConfig(Config):
    """OMDb, with the key in the environment variable OMDB_API_KEY; a free key allows 1,000 titles a day."""

    kind: Literal["omdb"] = "omdb"
    base_url: str = Field("https://www.omdbapi.com", description="of the API")

    @field_validator("base_url")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return without_suffix(value)

    def build(self, environment: Mapping[str, str]) -> "Omdb":
        """The provider, with the key from the environment.

        Raises:
            InputError: there is no key.
        """
        api_key = secret(environment, "OMDB_API_KEY")
        if api_key is None:
            raise InputError("provider omdb: no key in the environment; set OMDB_API_KEY")
        return Omdb(self, api_key)


class Omdb:
    """Looks up a title by its IMDb id.

    Source: https://www.omdbapi.com
    """

    kind = "omdb"

    def __init__(self, config: OmdbConfig, api_key: SecretStr):
        self.base_url = config.base_url
        self._api_key = api_key

    def request(self, imdb_id: str) -> Request:
        """The request for a title."""
        params = {"i": imdb_id, "plot": "full", "apikey": self._api_key.get_secret_value()}
        return Request(f"{self.base_url}/", params, {"Accept": "application/json"})

    def probe(self) -> Request:
        """A request that checks service and key; OMDb has none without a title."""
        return self.request("tt0111161")

    def read(self, title: Title, status: int, content: bytes) -> Fields:
        """ENRICHED columns from a response: see Source."""
        answer = self._answer(status, content)
        return None if answer is None else self.parse(answer)

    def check(self, status: int, content: bytes) -> None:
        """Check the response to `probe`: see Source."""
        self._answer(status, content)

    def parse(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Provider-neutral fields of a response.

        Raises:
            RetryableError: the response has an unexpected structure.
        """
        imdb_id = text(answer, "imdbID", _MISSING)
        if imdb_id is None:
            raise RetryableError("the response has a movie without id")
        return {
            "provider_id": imdb_id,
            "plot": text(answer, "Plot", _MISSING),
            "language": language_code(text(answer, "Language", _MISSING)),
            "poster_url": web_url(text(answer, "Poster", _MISSING)),
        }

    def _answer(self, status: int, content: bytes) -> dict[str, Any] | None:
        """The movie, or None if OMDb has no such title. Errors come with status 401 as well as with 200."""
        if status not in (200, 401, 403):
            raise RetryableError(f"HTTP {status}")
        try:
            answer = parse_json(content)
        except RetryableError:
            if status == 200 and _is_whole(content):
                # Each request counts towards the quota, and OMDb's answer stays the same.
                raise UnreadableResponse("the response is broken JSON") from None
            raise
        error = (text(answer, "Error") or "").lower()
        if "limit" in error:
            raise QuotaUsedUp(f"OMDb: the key's daily quota is used up; resume after {_next_day()}")
        if "api key" in error:
            raise ServiceUnavailable(f"OMDb refused the key (HTTP {status}); check OMDB_API_KEY")
        if status != 200:
            raise RetryableError(f"HTTP {status}: {one_line(error)[:200] or 'no message'}")
        if any(words in error for words in _UNKNOWN_TITLE):
            return None
        if answer.get("Response") != "True":
            raise RetryableError("the response has no movie")
        return answer


def _is_whole(content: bytes) -> bool:
    """Whether a JSON object was sent to its end, even if no parser reads it, for instance because of a wrong escape."""
    content = content.strip()
    return content.startswith(b"{") and content.endswith(b"}")


def _next_day() -> str:
    return f"{datetime.now(UTC).date() + timedelta(days=1)} 00:00 UTC"
