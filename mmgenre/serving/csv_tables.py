"""CSV files of movies: parsed, and written back with their genres appended."""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath

from mmgenre.labels import GENRES
from mmgenre.serving.config import Limits
from mmgenre.serving.replicas import MovieToTag, Prediction
from mmgenre.serving.request_error import RequestError, quoted
from mmgenre.tables.user_files import ALIASES
from mmgenre.text_tables import FORMULA

_BOM = "\ufeff"
_DELIMITERS = ",;\t"
_NULLS = ("", "\\N")
_ADDED_COLUMNS = ("genres", "status", *(f"p_{genre}" for genre in GENRES))
_USE_JOB = "use jobs/tag.py, which accepts files of any size"


@dataclass(frozen=True)
class CsvTable:
    """A parsed CSV file.

    Args:
        header: column names.
        rows: cells.
        delimiter: between cells.
        has_bom: whether it starts with a byte order mark, which tells spreadsheets that it is UTF-8.
    """

    header: list[str]
    rows: list[list[str]]
    delimiter: str
    has_bom: bool

    def movies(self) -> list[MovieToTag]:
        """The model's inputs, one per row."""
        titles, plots = (self._column(name) for name in ("title", "plot"))
        return [MovieToTag(title, plot, None) for title, plot in zip(titles, plots, strict=True)]

    def tagged(
        self, predictions: Sequence[Prediction], genres: Sequence[Sequence[str]], *, safe_cells: bool = False
    ) -> bytes:
        """The file with columns appended for genres, status and probabilities.

        Args:
            predictions: one per row.
            genres: predicted genres, one list per row.
            safe_cells: put `'` before cells that spreadsheets take for formulas.
        """
        guard = (lambda cell: re.sub(FORMULA, r"'\1", cell)) if safe_cells else str
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.delimiter, lineterminator="\r\n")
        writer.writerow([*map(guard, self.header), *(_unique(name, self.header) for name in _ADDED_COLUMNS)])
        for row, prediction, names in zip(self.rows, predictions, genres, strict=True):
            cells = ["" if math.isnan(value) else f"{value:.7f}" for value in prediction.probabilities.tolist()]
            writer.writerow([*map(guard, row), "|".join(names), prediction.status, *cells])
        return ((_BOM if self.has_bom else "") + text.getvalue()).encode()

    def _column(self, name: str) -> list[str | None]:
        index = _column_index(self.header, name)
        if index is None:
            return [None] * len(self.rows)
        return [None if row[index] in _NULLS else row[index] for row in self.rows]


def read(content: bytes, limits: Limits) -> CsvTable:
    """Parse a file of movies.

    Raises:
        RequestError: not UTF-8, no plot column, malformed rows, or a limit is exceeded.
    """
    if len(content) > limits.table_bytes:
        raise RequestError(413, f"table: {len(content):,} bytes; expected at most {limits.table_bytes:,}: {_USE_JOB}")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise RequestError(422, "table: not UTF-8; save the file as CSV in UTF-8") from None
    if "\0" in text:
        raise RequestError(422, "table: contains NUL characters, as binary files do; save it as CSV in UTF-8")
    has_bom, text = text.startswith(_BOM), text.removeprefix(_BOM)
    delimiter, header = _header(text)
    if len(header) > limits.table_columns:
        most = f"{limits.table_columns:,}"
        raise RequestError(413, f"table: {len(header):,} columns; expected at most {most}: {_USE_JOB}")
    return CsvTable(header, _rows(text, delimiter, header, limits), delimiter, has_bom)


def tagged_name(name: str) -> str:
    """The file name of the tagged copy of an uploaded file."""
    stem = PurePath(name.replace("\\", "/")).stem
    safe = "".join(character if character.isalnum() or character in " ._-()" else "_" for character in stem)
    return f"{safe.strip(' .')[:80] or 'movies'}-tagged.csv"


def _header(text: str) -> tuple[str, list[str]]:
    """The first delimiter that gives a plot column, and the column names."""
    for delimiter in _DELIMITERS:
        # The wrong delimiter can make quoted cells malformed.
        with suppress(RequestError):
            header = _first_line(text, delimiter)
            if _column_index(header, "plot") is not None:
                break
    else:
        raise _missing_plot_error(_first_line(text, _DELIMITERS[0]))
    duplicate = next((name for name, count in Counter(header).items() if count > 1), None)
    if duplicate is not None:
        raise RequestError(422, f"table: more than one column {quoted(duplicate)}; keep one of each name")
    return delimiter, header


def _first_line(text: str, delimiter: str) -> list[str]:
    return next(_lines(text, delimiter), (0, []))[1]


def _missing_plot_error(header: Sequence[str]) -> RequestError:
    names = ", ".join(quoted(name) for name in header[:10]) or "nothing"
    return RequestError(422, f"table: no column {' or '.join(ALIASES['plot'])} in the first line; found {names}")


def _rows(text: str, delimiter: str, header: list[str], limits: Limits) -> list[list[str]]:
    rows: list[list[str]] = []
    lines = _lines(text, delimiter)
    next(lines)
    for number, row in lines:
        if len(row) != len(header):
            raise RequestError(
                422, f"table: line {number:,} has {len(row):,} cells, the first line {len(header):,}; fix that line"
            )
        if len(rows) == limits.table_rows:
            raise RequestError(413, f"table: more than {limits.table_rows:,} rows: {_USE_JOB}")
        rows.append(row)
    if not rows:
        raise RequestError(422, "table: no rows after the header; expected at least one movie")
    return rows


def _lines(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise RequestError(
            422, f"table: line {reader.line_num:,} cannot be read ({error}); save the file as CSV"
        ) from None


def _column_index(header: Sequence[str], name: str) -> int | None:
    return next((header.index(alias) for alias in ALIASES[name] if alias in header), None)


def _unique(name: str, header: Sequence[str]) -> str:
    """The name, prefixed while the file already has such a column."""
    while name in header:
        name = f"tagged_{name}"
    return name
