"""IMDb ids as people write them: `tt0000031`, `31`, `TT0000031`, or the address of a page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.errors import InputError

_ID = r"^tt\d{7,}$"
_WRITTEN = re.compile(r"(?:(?:https?://)?(?:\w+\.)?imdb\.com/(?:\w\w/)?title/)?(tt\d+)(?:[/?#].*)?", re.IGNORECASE)
# Programs that know only floats write 31.0.
_NUMBER = re.compile(r"(\d{1,9})(?:\.0)?")
# Share of the ids that must match before others than IMDb's are suspected.
_MIN_MATCHING = 0.01


def normalised(ids: pa.Array, *, are_imdb: bool) -> pa.Array:
    """Ids in the form `tt0000031` where that is certain, else as they are; null where they are blank.

    Args:
        ids: text.
        are_imdb: whether numbers are IMDb's: the column's name says so.
    """
    if pc.all(pc.match_substring_regex(ids, _ID), min_count=0).as_py() and not ids.null_count:
        return ids
    return pa.array([_normalised(one, are_imdb) for one in ids.to_pylist()], pa.string())


def _normalised(text: str | None, are_imdb: bool) -> str | None:
    stripped = (text or "").strip()
    if are_imdb and (number := _NUMBER.fullmatch(stripped)):
        return f"tt{int(number[1]):07}"
    if written := _WRITTEN.fullmatch(stripped):
        return written[1].lower()
    return stripped or None


@dataclass(frozen=True)
class Ids:
    """The ids of a table or a file, for messages.

    Args:
        location: of the table or file.
        total: number of ids.
        examples: a few of them.
    """

    location: str
    total: int
    examples: Sequence[str]

    def __str__(self) -> str:
        """Their number and what they look like."""
        return f"{self.total:,} ids (such as {', '.join(self.examples[:3])})"


def require_matches(num_matching: int, file: Ids, other: Ids) -> None:
    """Raise InputError if almost none of a file's ids are in another table.

    A small overlap of two sets of IMDb's ids is accepted; ids of another service match by accident only.
    """
    smaller = min(file.total, other.total)
    if num_matching >= _MIN_MATCHING * smaller and (num_matching or not smaller):
        return
    if num_matching and all(re.match(_ID, one) for one in file.examples):
        return
    count = f"only {num_matching:,}" if num_matching else "none"
    raise InputError(
        f"{file.location}: {count} of its {file} match the {other} of {other.location}; "
        "expected IMDb's ids, in a column imdb_id"
    )
