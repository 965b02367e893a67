"""The interface of a web service, and checks of the fields in its responses. No I/O."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from pydantic import SecretStr

from mmgenre.enrich.http import Request, RetryableError
from mmgenre.errors import InputError

Fields = dict[str, Any] | None

# As people paste them around a key: straight and typographic ones.
_QUOTES = "\"'\u201c\u201d\u2018\u2019"

_URL = re.compile(r"https?://[^\s\x00-\x1f]{1,2000}")
# Longer than any plot, and short enough for a table cell.
_MAX_TEXT = 100_000


class UnreadableResponse(Exception):  # noqa: N818 - named like the row status it leads to
    """The service always answers this title with a broken response: asking again would not help."""


class Title(NamedTuple):
    """A title of the catalogue.

    Args:
        imdb_id: `tt0111161`.
        title: its name; None if unknown.
        title_type: IMDb's, such as movie or tvSeries.
        year: of its release.
    """

    imdb_id: str
    title: str | None = None
    title_type: str | None = None
    year: int | None = None


class Source(Protocol):
    """A web service that serves movie data."""

    kind: str
    base_url: str

    def request(self, imdb_id: str) -> Request:
        """The request for a title."""

    def probe(self) -> Request:
        """A request that checks whether the service responds and accepts the key."""

    def read(self, title: Title, status: int, content: bytes) -> Fields:
        """ENRICHED columns of a title from a response to `request`; None if the service has no such movie.

        Raises:
            UnreadableResponse: a broken response, which the service sends every time.
            RetryableError: a broken response; another attempt may succeed.
            ServiceUnavailable: the key is refused, or its daily quota is used up.
        """

    def check(self, status: int, content: bytes) -> None:
        """Check the response to `probe`; raises like `read`."""


def secret(environment: Mapping[str, str], name: str) -> SecretStr | None:
    """A key from the environment, hidden when printed and without quotes around it; None if unset or blank."""
    value = environment.get(name, "").strip().strip(_QUOTES).strip()
    if value and not (value.isascii() and value.isprintable() and " " not in value):
        raise InputError(f"{name}: contains characters that keys never contain; set it without quotes and spaces")
    return SecretStr(value) if value else None


def parse_json(content: bytes) -> dict[str, Any]:
    """The JSON object in a response body; its texts may contain raw control characters, as OMDb's do.

    Raises:
        RetryableError: the body is something else.
    """
    try:
        answer = json.loads(content, strict=False)
    # Deeply nested brackets exhaust the parser's stack.
    except (ValueError, RecursionError):
        raise RetryableError("the response is not JSON") from None
    if not isinstance(answer, dict):
        raise RetryableError("the response is not a JSON object")
    return answer


def text(answer: dict[str, Any], field: str, placeholder: str = "") -> str | None:
    """A text field, truncated and without characters that UTF-8 cannot encode; None if missing, blank or `placeholder`.

    Raises:
        RetryableError: the field is not text.
    """
    value = answer.get(field)
    if value is not None and not isinstance(value, str):
        raise RetryableError(f"the response has a {field} that is not text")
    # JSON can contain half a surrogate pair, Arrow cannot.
    cleaned = (value or "")[:_MAX_TEXT].encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()
    return None if cleaned in ("", placeholder) else cleaned


def without_suffix(url: str, *suffixes: str) -> str:
    """A base URL without a slash and without those path segments at its end, as people copy it from a guide."""
    url = url.strip().rstrip("/")
    for suffix in suffixes:
        url = url.removesuffix(f"/{suffix}").rstrip("/")
    return url


def web_url(value: str | None) -> str | None:
    """The value if it looks like an http(s) URL; the posters stage decides whether it may be requested."""
    return value if value is not None and _URL.fullmatch(value) else None
