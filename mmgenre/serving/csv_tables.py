"""A CSV file of movies in, the same file with genres beside them out."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath

from mmgenre.labels import GENRES
from mmgenre.serving.limits import Limits
from mmgenre.serving.replicas import Movie, Prediction
from mmgenre.serving.request_error import Refusal, quoted
from mmgenre.tables.user_files import ALIASES

_MARK = "\ufeff"
_DELIMITERS = ",;\t"
# What stands for nothing in files of movies.
_NOTHING = ("", "\\N")
_ADDED = ("genres", "status", *(f"p_{genre}" for genre in GENRES))
_INSTEAD = "use jobs/tag.py, which takes files of any size"


@dataclass(frozen=True)
class CsvTable:
    """A file as it was sent.

    Args:
        header: names of its columns.
        rows: its cells.
        delimiter: what stands between them.
        marked: whether it begins with a byte order mark, by which spreadsheets know UTF-8.
    """

    header: list[str]
    rows: list[list[str]]
    delimiter: str
    marked: bool

    def movies(self) -> list[Movie]:
        """What the model reads of each row."""
        titles, plots = (self._column(name) for name in ("title", "plot"))
        return [Movie(title, plot, None) for title, plot in zip(titles, plots, strict=True)]

    def tagged(self, predictions: Sequence[Prediction], genres: Sequence[Sequence[str]]) -> bytes:
        """The file with columns for genres, status and probabilities behind its own.

        Args:
            predictions: for each row.
            genres: that each row is given.
        """
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.delimiter, lineterminator="\r\n")
        writer.writerow([*self.header, *(_unused(name, self.header) for name in _ADDED)])
        for row, found, given in zip(self.rows, predictions, genres, strict=True):
            chances = ["" if math.isnan(value) else f"{value:.7f}" for value in found.probabilities.tolist()]
            writer.writerow([*row, "|".join(given), found.status, *chances])
        return ((_MARK if self.marked else "") + text.getvalue()).encode()

    def _column(self, name: str) -> list[str | None]:
        """Cells of the first column that people call so."""
        place = _place(self.header, name)
        if place is None:
            return [None] * len(self.rows)
        return [None if row[place] in _NOTHING else row[place] for row in self.rows]


def read(content: bytes, limits: Limits) -> CsvTable:
    """A file of movies.

    Raises:
        Refusal: no text, no plots, broken rows, or more than the limits allow.
    """
    if len(content) > limits.table_bytes:
        raise Refusal(413, f"table: {len(content):,} bytes; expected at most {limits.table_bytes:,}: {_INSTEAD}")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise Refusal(422, "table: not UTF-8; save the file as CSV in UTF-8") from None
    if "\0" in text:
        raise Refusal(422, "table: holds NUL characters, as files do that are no text; save it as CSV in UTF-8")
    marked, text = text.startswith(_MARK), text.removeprefix(_MARK)
    delimiter, header = _header(text)
    return CsvTable(header, _rows(text, delimiter, header, limits), delimiter, marked)


def tagged_name(name: str) -> str:
    """What the tagged file is called, after the one that was sent."""
    stem = PurePath(name.replace("\\", "/")).stem
    kept = "".join(character if character.isalnum() or character in " ._-()" else "_" for character in stem)
    return f"{kept.strip(' .')[:80] or 'movies'}-tagged.csv"


def _header(text: str) -> tuple[str, list[str]]:
    """The delimiter with which there is a column of plots, and all columns."""
    for delimiter in _DELIMITERS:
        # Cells in quotes are broken with another delimiter than theirs.
        with suppress(Refusal):
            header = _first_line(text, delimiter)
            if _place(header, "plot") is not None:
                break
    else:
        raise _plotless(_first_line(text, _DELIMITERS[0]))
    doubled = next((name for name in header if header.count(name) > 1), None)
    if doubled is not None:
        raise Refusal(422, f"table: more than one column {quoted(doubled)}; keep one of each name")
    return delimiter, header


def _first_line(text: str, delimiter: str) -> list[str]:
    return next(_lines(text, delimiter), (0, []))[1]


def _plotless(found: Sequence[str]) -> Refusal:
    said = ", ".join(quoted(name) for name in found[:10]) or "nothing"
    return Refusal(422, f"table: no column {' or '.join(ALIASES['plot'])} in the first line; found {said}")


def _rows(text: str, delimiter: str, header: list[str], limits: Limits) -> list[list[str]]:
    rows: list[list[str]] = []
    lines = _lines(text, delimiter)
    next(lines)
    for number, row in lines:
        if len(row) != len(header):
            raise Refusal(
                422, f"table: line {number:,} has {len(row):,} cells, the first line {len(header):,}; mend it"
            )
        if len(rows) == limits.table_rows:
            raise Refusal(413, f"table: more than {limits.table_rows:,} rows: {_INSTEAD}")
        rows.append(row)
    if not rows:
        raise Refusal(422, "table: no rows below the first line; expected at least one movie")
    return rows


def _lines(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, and the line of the file in which each ends."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise Refusal(422, f"table: line {reader.line_num:,} cannot be read ({error}); save the file as CSV") from None


def _place(header: Sequence[str], name: str) -> int | None:
    """Where the column stands."""
    return next((header.index(alias) for alias in ALIASES[name] if alias in header), None)


def _unused(name: str, header: Sequence[str]) -> str:
    """The name, changed where the file has such a column already."""
    while name in header:
        name = f"tagged_{name}"
    return name
