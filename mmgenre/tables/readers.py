"""Readers of the kinds of files that people bring: CSV, TSV, JSON lines, Excel and Parquet, all as columns of text."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmgenre.errors import InputError, one_line
from mmgenre.tables import storage
from mmgenre.tables.delimited import DELIMITERS, Fault, FindColumns, Record, find_dialect, header, read_records
from mmgenre.tables.encodings import find_encoding, open_text

_ROWS, _CHARS = 10_000, 16 << 20
_NULLS = (None, "", "\\N")
_TSV_FIRST, _CSV_FIRST = "\t,;|", ",;\t|"
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Batch:
    """Some rows of a file.

    Args:
        columns: text, in the order asked for.
        numbers: line or row number of each row, shape (N,), int64.
        faults: rows that could not be read.
        num_replaced: texts in which U+FFFD stands for something that is not text.
    """

    columns: list[pa.Array]
    numbers: np.ndarray
    faults: list[Record]
    num_replaced: int


class Reader(Protocol):
    """Reads one kind of file.

    Args:
        names: of the columns.
        unit: what rows are counted by: lines or rows.
        form: encoding and dialect, for messages; "" if there is nothing to say.
    """

    names: list[str]
    unit: str
    form: str

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """All rows, with the given columns, the id first."""


class DelimitedReader:
    """CSV, TSV, and what spreadsheets save under these names."""

    unit = "line"

    def __init__(self, location: str, encoding: str | None, find: FindColumns):
        self._location, self._encoding = location, find_encoding(location, encoding)
        delimiters = _CSV_FIRST if ".csv" in location.lower() else _TSV_FIRST
        self._dialect = find_dialect(location, self._encoding, delimiters, find)
        self.names = [name.strip() for name in header(location, self._encoding, self._dialect)]
        parts = [self._encoding.label if self._encoding.label != "UTF-8" else ""]
        if self._dialect.delimiter != delimiters[0]:
            parts.append(f"cells between {DELIMITERS.get(self._dialect.delimiter, repr(self._dialect.delimiter))}")
        parts.append("" if self._dialect.is_quoted == (delimiters == _CSV_FIRST) else self._quoting)
        self.form = ", ".join(filter(None, parts))

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """See Reader."""
        positions = [self.names.index(name) for name in columns]
        records = read_records(self._location, self._encoding, self._dialect, positions[0])
        return _batches((_selected(record, positions) for record in records), len(columns))

    @property
    def _quoting(self) -> str:
        return "quoted cells" if self._dialect.is_quoted else "quotes as ordinary characters"


class JsonLinesReader:
    """One JSON object per line."""

    unit = "line"

    def __init__(self, location: str, encoding: str | None):
        self._location, self._encoding = location, find_encoding(location, encoding)
        self.names = list(dict.fromkeys(name for _, row in self._rows() if isinstance(row, dict) for name in row))
        self.form = self._encoding.label if self._encoding.label != "UTF-8" else ""

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """See Reader."""
        return _batches((_record(number, row, columns) for number, row in self._rows()), len(columns))

    def _rows(self) -> Iterator[tuple[int, Any]]:
        with open_text(self._location, self._encoding) as text:
            for number, line in enumerate(text, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line.strip())
                    # Deeply nested brackets exhaust the parser's stack.
                    except (ValueError, RecursionError) as error:
                        yield number, error


class ExcelReader:
    """The first sheet of an Excel workbook."""

    unit = "row"
    form = ""

    def __init__(self, location: str):
        self._location = location
        rows = self._rows()
        _, names = next(rows, (0, []))
        self.names = ["" if name is None else str(name).strip() for name in names]

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """See Reader."""
        rows = self._rows()
        next(rows, None)
        records = (_record(number, dict(zip(self.names, row, strict=False)), columns) for number, row in rows)
        return _batches(records, len(columns))

    def _rows(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """The rows that are not blank, the header first."""
        try:
            import openpyxl  # noqa: PLC0415 - an extra
        except ImportError:
            raise InputError(
                f"{self._location}: Excel files need openpyxl; pip install 'mmgenre[excel]', or save it as CSV in UTF-8"
            ) from None
        filesystem, path = storage.resolve(self._location)
        with filesystem.open_input_file(path) as content:
            try:
                values, formulas = (
                    openpyxl.load_workbook(content, read_only=True, data_only=data_only).worksheets[0]
                    for data_only in (True, False)
                )
                for sheet in (values, formulas):
                    # Some programs write a wrong size of the sheet.
                    sheet.reset_dimensions()
                rows = zip(values.iter_rows(values_only=True), formulas.iter_rows(values_only=True), strict=True)
                for number, (row, texts) in enumerate(rows, 1):
                    # A text that begins with = is a formula without a value, unless a spreadsheet has computed it.
                    cells = [text if value is None else value for value, text in zip(row, texts, strict=True)]
                    if any(cell is not None for cell in cells):
                        yield number, cells
            # openpyxl raises errors of many types for broken files.
            except Exception as error:
                raise InputError(f"{self._location}: not an Excel workbook ({one_line(error)})") from None


class ParquetReader:
    """Parquet, with text as strings, categories or bytes."""

    unit = "row"
    form = ""

    def __init__(self, location: str):
        self._location = location
        filesystem, path = storage.resolve(location)
        self._schema = pq.read_schema(path, filesystem=filesystem)
        self.names = self._schema.names

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """See Reader."""
        start = 1
        for rows in storage.parquet_batches(self._location, columns, _ROWS):
            texts = [self._text(rows.column(name), name) for name in columns]
            numbers = np.arange(start, start + len(rows))
            start += len(rows)
            yield Batch([text for text, _ in texts], numbers, [], sum(replaced for _, replaced in texts))

    def require_text(self, name: str) -> None:
        """Raise InputError unless the column holds text."""
        kind = self._schema.field(name).type
        if not (_is_text(kind) or pa.types.is_null(kind)):
            raise InputError(f"{self._location}: column {name} is {kind}; expected text")

    def _text(self, column: pa.Array, name: str) -> tuple[pa.Array, int]:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not _is_text(column.type):
            try:
                return column.cast(pa.string()), 0
            except pa.ArrowNotImplementedError:
                raise InputError(f"{self._location}: column {name} is {column.type}; expected text") from None
        return _valid_text(column)


def open_reader(location: str, encoding: str | None, find: FindColumns) -> Reader | None:
    """The reader of a file by its suffix; None if it is of an unknown kind."""
    name = location.lower().removesuffix(".gz")
    if name.endswith((".csv", ".tsv", ".txt")):
        return DelimitedReader(location, encoding, find)
    if name.endswith((".jsonl", ".ndjson")):
        return JsonLinesReader(location, encoding)
    if location.lower().endswith(".xlsx"):
        return ExcelReader(location)
    return ParquetReader(location) if location.lower().endswith(".parquet") else None


def valid_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Text or bytes as text, with U+FFFD for invalid UTF-8, which text columns of Parquet files may hold too."""
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([_valid_text(chunk)[0] for chunk in column.chunks], pa.string())
    return _valid_text(column)[0]


def _valid_text(column: pa.Array) -> tuple[pa.Array, int]:
    """Text, and the number of texts with invalid UTF-8."""
    try:
        content = column.cast(pa.binary())
        return content.cast(pa.string()), 0
    except pa.ArrowNotImplementedError:
        content = pa.array([None if value is None else value.encode() for value in column.to_pylist()], pa.binary())
    except pa.ArrowInvalid:
        pass
    texts = pa.array([value and value.decode("utf-8", "replace") for value in content.to_pylist()], pa.string())
    return texts, pc.sum(pc.not_equal(texts.cast(pa.binary()), content), min_count=0).as_py()


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())
    return kind in texts


def _selected(record: Record, positions: Sequence[int]) -> Record:
    return record if record.fault else Record(record.number, [record.cells[position] for position in positions])


def _record(number: int, row: Any, columns: Sequence[str]) -> Record:
    """The columns of a JSON object, or of any row of typed values, as text."""
    if not isinstance(row, dict):
        return Record(number, [], Fault.NOT_JSON, one_line(row) if isinstance(row, Exception) else "not an object")
    cells = [row.get(name) for name in columns]
    for name, cell in zip(columns, cells, strict=True):
        if isinstance(cell, list | dict):
            kind = "a list" if isinstance(cell, list) else "an object"
            return Record(number, [], Fault.NOT_TEXT, f"column {name} holds {kind}")
    is_nan = [isinstance(cell, float) and math.isnan(cell) for cell in cells]
    return Record(number, [None if cell is None or nan else str(cell) for cell, nan in zip(cells, is_nan, strict=True)])


def _batches(records: Iterator[Record], num_columns: int) -> Iterator[Batch]:
    """Records in batches of bounded size."""
    rows: list[Record] = []
    faults: list[Record] = []
    num_chars = 0
    for record in records:
        (faults if record.fault else rows).append(record)
        num_chars += sum(map(len, filter(None, record.cells)))
        if len(rows) + len(faults) >= _ROWS or num_chars > _CHARS:
            yield _batch(rows, faults, num_columns)
            rows, faults, num_chars = [], [], 0
    if rows or faults:
        yield _batch(rows, faults, num_columns)


def _batch(rows: list[Record], faults: list[Record], num_columns: int) -> Batch:
    columns, num_replaced = [], 0
    for position in range(num_columns):
        cells = [None if row.cells[position] in _NULLS else row.cells[position] for row in rows]
        try:
            columns.append(pa.array(cells, pa.string()))
        except UnicodeEncodeError:
            num_replaced += sum(cell is not None and _SURROGATES.search(cell) is not None for cell in cells)
            columns.append(pa.array([cell and _SURROGATES.sub("\ufffd", cell) for cell in cells], pa.string()))
    return Batch(columns, np.array([row.number for row in rows], np.int64), faults, num_replaced)
