"""What a source of plots and posters is to the rest: requests to send, answers read without I/O."""

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import SecretStr

from mmgenre.enrich.http import Request, TryAgain
from mmgenre.errors import InputError

Fields = dict[str, Any] | None

_ADDRESS = re.compile(r"https?://[^\s\x00-\x1f]{1,2000}")
# Far beyond any plot, well below what makes a table unwieldy.
_LONGEST_TEXT = 100_000


class Source(Protocol):
    """A web service that knows movies."""

    kind: str
    base_url: str

    def request(self, imdb_id: str) -> Request:
        """What to GET for a title."""

    def probe(self) -> Request:
        """What to GET to see that the service answers and takes the key."""

    def read(self, status: int, content: bytes) -> Fields:
        """Columns of ENRICHED that an answer to `request` tells, or None when the service has no such movie.

        Raises:
            TryAgain: an answer that may be another one later.
            Stopped: the service refuses the key, or has given what it gives in a day.
        """

    def check(self, status: int, content: bytes) -> None:
        """Read the answer to `probe`; raises like `read`."""


def secret(environment: Mapping[str, str], name: str) -> SecretStr | None:
    """A key from the environment, which printing does not show; None where there is none."""
    value = environment.get(name, "").strip()
    if value and not (value.isascii() and value.isprintable() and " " not in value):
        raise InputError(f"{name}: holds characters that no key has; set it again, without quotes and spaces")
    return SecretStr(value) if value else None


def parse_json(content: bytes) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        TryAgain: it is something else.
    """
    try:
        answer = json.loads(content)
    # Brackets nested without end exhaust the parser's stack.
    except (ValueError, RecursionError):
        raise TryAgain("the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise TryAgain("the answer is no JSON object")
    return answer


def text(answer: dict[str, Any], field: str, nothing: str = "") -> str | None:
    """A text field without what no UTF-8 file can hold, or None where it is absent, blank or says `nothing`.

    Raises:
        TryAgain: the field is no text.
    """
    value = answer.get(field)
    if value is not None and not isinstance(value, str):
        raise TryAgain(f"an answer whose {field} is no text")
    # JSON can spell half of a surrogate pair, Arrow cannot hold it.
    whole = (value or "")[:_LONGEST_TEXT].encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()
    return None if whole in ("", nothing) else whole


def address(value: str | None) -> str | None:
    """The value if it looks like a web address; whether it may be asked is for the posters stage to judge."""
    return value if value is not None and _ADDRESS.fullmatch(value) else None
