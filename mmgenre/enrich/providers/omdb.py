"""OMDb: what to ask for a title, and what the answer says. No I/O."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pycountry
from pydantic import Field, SecretStr

from mmgenre.config import Config
from mmgenre.enrich.http import Request, Stopped, TryAgain
from mmgenre.enrich.providers.source import Fields, address, parse_json, secret, text
from mmgenre.errors import InputError

_NOTHING = "N/A"
_UNKNOWN_TITLE = ("incorrect imdb id", "error getting data", "not found")
# IMDb's names of languages that ISO 639 calls otherwise.
_ISO_NAMES = {
    "cantonese": "Chinese",
    "farsi": "Persian",
    "flemish": "Dutch",
    "greek": "Modern Greek (1453-)",
    "hokkien": "Chinese",
    "malay": "Malay (macrolanguage)",
    "mandarin": "Chinese",
    "nepali": "Nepali (macrolanguage)",
    "punjabi": "Panjabi",
    "swahili": "Swahili (macrolanguage)",
}


class OmdbConfig(Config):
    """OMDb; its key comes from OMDB_API_KEY in the environment. A free one is good for 1,000 titles a day."""

    kind: Literal["omdb"] = "omdb"
    base_url: str = Field("https://www.omdbapi.com", description="of the API")

    def build(self, environment: Mapping[str, str]) -> "Omdb":
        """The provider, with the environment's key.

        Raises:
            InputError: there is none.
        """
        api_key = secret(environment, "OMDB_API_KEY")
        if api_key is None:
            raise InputError("provider omdb: no key in the environment; set OMDB_API_KEY")
        return Omdb(self, api_key)


class Omdb:
    """Asks for a title by its IMDb id.

    Source: https://www.omdbapi.com
    """

    kind = "omdb"

    def __init__(self, config: OmdbConfig, api_key: SecretStr):
        self.base_url = config.base_url
        self._api_key = api_key

    def request(self, imdb_id: str) -> Request:
        """What to GET for a title."""
        params = {"i": imdb_id, "plot": "full", "apikey": self._api_key.get_secret_value()}
        return Request(f"{self.base_url}/", params, {"Accept": "application/json"})

    def probe(self) -> Request:
        """What to GET to see that the service answers and takes the key: it has no question without a title."""
        return self.request("tt0111161")

    def read(self, status: int, content: bytes) -> Fields:
        """Columns of ENRICHED that an answer tells: see Source."""
        answer = self._answer(status, content)
        return None if answer is None else self.parse(answer)

    def check(self, status: int, content: bytes) -> None:
        """Raise for an answer that is none: see Source."""
        self._answer(status, content)

    def parse(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Provider-neutral fields of an answer.

        Raises:
            TryAgain: an answer of another shape.
        """
        imdb_id = text(answer, "imdbID", _NOTHING)
        if imdb_id is None:
            raise TryAgain("an answer whose movie has no id")
        return {
            "provider_id": imdb_id,
            "plot": text(answer, "Plot", _NOTHING),
            "language": language_code(text(answer, "Language", _NOTHING)),
            "poster_url": address(text(answer, "Poster", _NOTHING)),
        }

    def _answer(self, status: int, content: bytes) -> dict[str, Any] | None:
        """The movie, or None when OMDb has no such title. Errors come with status 401 as well as with 200."""
        if status not in (200, 401, 403):
            raise TryAgain(f"HTTP {status}")
        answer = parse_json(content)
        error = (text(answer, "Error") or "").lower()
        if "limit" in error:
            raise Stopped(f"OMDb: the key's daily quota is used up; go on after {_next_day()}")
        if status != 200 or "api key" in error:
            raise Stopped(f"OMDb refused the key (HTTP {status}); check OMDB_API_KEY")
        if any(words in error for words in _UNKNOWN_TITLE):
            return None
        if answer.get("Response") != "True":
            raise TryAgain("an answer without a movie")
        return answer


def language_code(names: str | None) -> str | None:
    """ISO 639-1 code of the first of several languages, such as en of "English, French"; None if it has none."""
    name = (names or "").split(",")[0].strip()
    try:
        found = pycountry.languages.lookup(_ISO_NAMES.get(name.lower(), name))
    except LookupError:
        return None
    return getattr(found, "alpha_2", None)


def _next_day() -> str:
    return f"{datetime.now(UTC).date() + timedelta(days=1)} 00:00 UTC"
