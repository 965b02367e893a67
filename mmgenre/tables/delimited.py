"""Reads CSV and TSV record by record: finds the dialect, and keeps reading after a broken record."""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mmgenre.tables.encodings import Encoding, open_text

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_MAX_RECORD_CHARS = 64 << 20
# An open quote can swallow the rest of a file; this bounds the reading of it again.
_MAX_AGAIN_CHARS = 1 << 30
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
# Excel's first line, which names the delimiter.
_SEP_LINE = re.compile(r'"?sep=(.)"?[\r\n]*')
_WELL_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_IMDB_ID = re.compile(r"tt\d{7,}")
_LIKE_AN_ID = re.compile(r"^\W*(?:tt)?\d+(?:\.0)?\W*$|tt\d+", re.IGNORECASE)
# Indices of the known columns by our name, given the names in a file.
FindColumns = Callable[[Sequence[str]], Mapping[str, int]]


@dataclass(frozen=True)
class Dialect:
    """How the lines of a file become cells.

    Args:
        delimiter: between cells.
        is_quoted: whether `"` quotes a cell; it is an ordinary character in the format of IMDb's dumps.
        has_sep_line: whether Excel's line `sep=;` precedes the header.
    """

    delimiter: str
    is_quoted: bool
    has_sep_line: bool = False


class Fault(StrEnum):
    """Why a row of a user's file cannot be used."""

    WRONG_CELLS = "wrong_number_of_cells"
    BAD_QUOTE = "bad_quote"
    ROWS_IN_CELL = "rows_in_a_cell"
    NOT_JSON = "not_json"
    NOT_TEXT = "not_text"
    NO_ID = "no_id"
    DUPLICATE_ID = "duplicate_id"


class Record(NamedTuple):
    """A row of a file, whether it can be read or not.

    Args:
        number: of its first line, or of the row in files without lines; from 1.
        cells: its values; None for those that are missing.
        fault: why it cannot be read; None if it can.
        detail: the fault's particulars.
    """

    number: int
    cells: Sequence[str | None]
    fault: Fault | None = None
    detail: str = ""


def find_dialect(location: str, encoding: Encoding, delimiters: str, find: FindColumns) -> Dialect:
    """The dialect of a file: the delimiter that gives the most known columns, quoted or not by the whole content.

    Args:
        location: of the file.
        encoding: of the file.
        delimiters: to try, in order of preference.
        find: finds the columns that are known, given the names of all.
    """
    with open_text(location, encoding) as text:
        first = text.readline()
    sep = _SEP_LINE.fullmatch(first)
    if sep:
        delimiters = sep[1]
    best = Dialect(delimiters[0], is_quoted=True)
    most = (-1, -1)
    for delimiter in delimiters:
        dialect = Dialect(delimiter, is_quoted=True, has_sep_line=sep is not None)
        names = header(location, encoding, dialect)
        if (len(find(names)), len(names)) > most:
            most, best = (len(find(names)), len(names)), dialect
    return _quoted_or_not(location, encoding, best, find)


def header(location: str, encoding: Encoding, dialect: Dialect) -> list[str]:
    """The column names; empty if the file is."""
    with open_text(location, encoding) as text:
        for record in _records(text, dialect, None):
            return [cell or "" for cell in record.cells]
    return []


def read_records(location: str, encoding: Encoding, dialect: Dialect, id_column: int | None) -> Iterator[Record]:
    """All rows after the header; blank ones are left out.

    Args:
        location: of the file.
        encoding: of the file.
        dialect: of the file.
        id_column: index of the ids, to recognise rows that an open quote has swallowed.
    """
    width = len(header(location, encoding, dialect))
    with open_text(location, encoding) as text:
        records = _records(text, dialect, id_column)
        next(records, None)
        for record in records:
            if record.fault is None and len(record.cells) != width:
                detail = f"Expected {width} columns, got {len(record.cells)}"
                yield Record(record.number, record.cells, Fault.WRONG_CELLS, detail)
            else:
                yield record


class _Lines:
    """Numbered lines, which can be read again from the second line of the record that was read last."""

    def __init__(self, lines: Iterable[str]):
        self._lines, self._again = iter(lines), deque[str]()
        self.record: list[str] = []
        self.number = self._num_chars = self._num_again = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._num_chars > _MAX_RECORD_CHARS:
            raise csv.Error(f"longer than {_MAX_RECORD_CHARS:,} characters")
        line = self._again.popleft() if self._again else next(self._lines)
        self.record.append(line)
        self.number += 1
        self._num_chars += len(line)
        return line

    def start_record(self) -> None:
        self.record.clear()
        self._num_chars = 0

    def back_up(self) -> None:
        self._num_again += self._num_chars
        if self._num_again > _MAX_AGAIN_CHARS:
            raise csv.Error(f"line {self.number:,}: too many quotes are not closed; save the file again")
        self._again.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1


def _records(text: Iterable[str], dialect: Dialect, id_column: int | None) -> Iterator[Record]:
    """All rows, the header included; rows with other numbers of cells are not faults here."""
    lines = _Lines(text)
    if dialect.has_sep_line:
        next(lines, None)
    if dialect.is_quoted:
        reader = csv.reader(lines, delimiter=dialect.delimiter, strict=True)
    else:
        reader = csv.reader(lines, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE, strict=True)
    while True:
        lines.start_record()
        number = lines.number + 1
        try:
            cells = _next_row(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(number, [], Fault.BAD_QUOTE, str(error))
            lines.back_up()
            continue
        if len(lines.record) > 1 and _has_swallowed(cells, len(lines.record), dialect.delimiter, id_column):
            detail = f"a cell holds {len(lines.record)} lines, and one of them looks like a row"
            yield Record(number, [], Fault.ROWS_IN_CELL, detail)
            lines.back_up()
        elif any(cells):
            yield Record(number, cells)


def _next_row(reader: Iterator[list[str]]) -> list[str]:
    """The next row; its cells may be as long as a record, whatever the limit of the process is."""
    limit = csv.field_size_limit(_MAX_RECORD_CHARS)
    try:
        return next(reader)
    finally:
        csv.field_size_limit(limit)


def _has_swallowed(cells: Sequence[str], num_lines: int, delimiter: str, id_column: int | None) -> bool:
    """Whether a record of several lines contains a line that is a row itself, or has lost a line."""
    inner = [line for cell in cells for line in _LINE_BREAK.split(cell)[1:]]
    if len(inner) != num_lines - 1:
        return True
    # A line such as "1984, in spring" is a row only if the ids are mere numbers, too.
    number_column = id_column if id_column is not None and _is_number(cells, id_column) else None
    for line in inner:
        parts = [part.strip(' "') for part in line.split(delimiter)]
        if len(parts) > 1 and any(map(_IMDB_ID.fullmatch, parts)):
            return True
        if number_column is not None and len(parts) == len(cells) and _is_number(parts, number_column):
            return True
    return False


def _is_number(cells: Sequence[str], column: int) -> bool:
    return column < len(cells) and cells[column].strip().isdigit()


@dataclass
class _Reading:
    """How well a dialect explains a file.

    Args:
        rows: all of them.
        faults: those that cannot be read.
        odd_ids: other rows whose id does not look like one.
        closed: cells that begin and end with a quote, as quoted ones do; in an unquoted reading only.
        doubled: those of them with doubled quotes inside.
        open: other cells that begin with a quote.
    """

    rows: int = 0
    faults: int = 0
    odd_ids: int = 0
    closed: int = 0
    doubled: int = 0
    open: int = 0

    @property
    def errors(self) -> int:
        """Rows that look wrong; odd ids do unless the file's ids are all of a kind of their own."""
        return self.faults + (self.odd_ids if 2 * self.odd_ids <= self.rows else 0)

    def add(self, record: Record, id_column: int | None) -> None:
        self.rows += 1
        if record.fault is not None:
            self.faults += 1
        elif id_column is not None and not _LIKE_AN_ID.search(record.cells[id_column] or ""):
            self.odd_ids += 1
        for cell in record.cells:
            if cell and cell[0] == '"':
                is_closed = _WELL_QUOTED.fullmatch(cell) is not None
                self.closed += is_closed
                self.doubled += is_closed and '""' in cell[1:-1]
                self.open += not is_closed


def _read(location: str, encoding: Encoding, dialect: Dialect, find: FindColumns) -> _Reading:
    reading, id_column = _Reading(), find(header(location, encoding, dialect)).get("imdb_id")
    for record in read_records(location, encoding, dialect, id_column):
        reading.add(record, id_column)
    return reading


def _quoted_or_not(location: str, encoding: Encoding, quoted: Dialect, find: FindColumns) -> Dialect:
    """The dialect, unquoted if that explains the whole file better; with commas between cells, all writers quote."""
    unquoted = Dialect(quoted.delimiter, is_quoted=False, has_sep_line=quoted.has_sep_line)
    names = header(location, encoding, unquoted)
    if quoted.delimiter == "," or any(name.startswith('"') for name in names):
        return quoted
    is_tsv = quoted.delimiter == "\t"
    if not is_tsv and not _read(location, encoding, quoted, find).errors:
        return quoted
    plain = _read(location, encoding, unquoted, find)
    if not plain.closed and not plain.open:
        return unquoted if is_tsv else quoted
    if plain.errors:
        # Without a difference, the rule for this kind of file decides.
        difference = _read(location, encoding, quoted, find).errors - plain.errors
        return quoted if difference < (0 if is_tsv else 1) else unquoted
    is_quoted = plain.doubled > plain.open if is_tsv else plain.closed >= plain.open
    return quoted if is_quoted else unquoted
