"""Probabilities → PREDICTIONS: decides on genres, writes the table and its exports, and counts the coverage."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.errors import InputError
from mmgenre.labels import decode
from mmgenre.tables import storage
from mmgenre.tables.chunks import gather
from mmgenre.tables.manifest import Manifest
from mmgenre.tables.schema import PREDICTIONS, from_per_genre
from mmgenre.tables.table import PARTS, TableWriter
from mmgenre.tables.user_files import remarks
from mmgenre.tagging.decisions import Decisions
from mmgenre.text_tables import FORMULA, aligned

Export = Literal["csv", "tsv"]
# Readers of Parquet folders ignore files whose names start with an underscore.
EXPORTS: dict[Export, str] = {"csv": "_tags.csv", "tsv": "_tags.tsv"}
OWNED = (PARTS, *EXPORTS.values())
_ROWS_PER_PART = 50_000
_NULL: dict[Export, str] = {"csv": "", "tsv": "\\N"}
_SEPARATOR: dict[Export, str] = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class Exports:
    """The text files to write beside the table.

    Args:
        kinds: of files.
        safe_cells: put `'` before texts that spreadsheets take for formulas.
    """

    kinds: Sequence[Export]
    safe_cells: bool = False

    def require_text(self, kept: Sequence[pa.Field]) -> None:
        """Raise InputError if a column to copy cannot be written as text."""
        for field in kept if self.kinds else ():
            try:
                self.text("csv", pa.chunked_array([pa.array([], field.type)]))
            except pa.ArrowException:
                raise InputError(
                    f"export: column {field.name} is {field.type}, which has no place in a text file; take it out of "
                    "`columns`, or export nothing"
                ) from None

    def text(self, kind: Export, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Values as text: IMDb's TSV format has no quoting, so tabs and line breaks become spaces; CSV is quoted."""
        if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            column = pc.binary_join(column.cast(pa.list_(pa.string())).combine_chunks(), ",")
        text = column.cast(pa.string())
        if self.safe_cells and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            text = pc.replace_substring_regex(text, FORMULA, r"'\1")
        if kind == "tsv":
            text = pc.replace_substring_regex(text, r"[\t\r\n]+", " ")
        else:
            quoted = pc.binary_join_element_wise('"', pc.replace_substring(text, '"', '""'), '"', "")
            text = pc.if_else(pc.match_substring_regex(text, r'[",\r\n]'), quoted, text)
        return text.fill_null(_NULL[kind])


class TagWriter:
    """Writes the PREDICTIONS table once all units are computed.

    Args:
        writer: of the table.
        decisions: decides on genres, given probabilities.
        kept: columns in addition to those of PREDICTIONS.
        exports: text files to write as well.
    """

    def __init__(self, writer: TableWriter, decisions: Decisions, kept: Sequence[pa.Field], exports: Exports):
        self._writer, self._decisions = writer, decisions
        self._schema = pa.schema([*PREDICTIONS, *kept])
        self._exports = exports
        self._coverage: Counter[tuple[str, str, str]] = Counter()

    def write(self, results: Iterator[pa.Table]) -> None:
        """Write all results; deletes the files of an earlier run first, whose valid rows are among the results."""
        self._writer.clear()
        for name in EXPORTS.values():
            storage.delete(storage.join(self._writer.directory, name))
        with contextlib.ExitStack() as stack:
            files = {kind: stack.enter_context(self._open(kind)) for kind in self._exports.kinds}
            for rows in gather(map(self._with_genres, results), rows=_ROWS_PER_PART):
                self._writer.write(rows)
                self._coverage.update(_coverage(rows))
                for kind, file in files.items():
                    file.write(self._lines(kind, rows))

    def coverage(self) -> list[list[Any]]:
        """Number of rows, as lists of [title type, decade, status, count]."""
        return [[*key, count] for key, count in sorted(self._coverage.items())]

    def _with_genres(self, rows: pa.Table) -> pa.Table:
        probabilities = from_per_genre(rows["probabilities"])
        is_known = ~np.isnan(probabilities).any(axis=1)
        decided = self._decisions(probabilities, rows["status"].to_pylist())
        genres = [decode(row) if known else None for row, known in zip(decided, is_known, strict=True)]
        column = pa.array(genres, PREDICTIONS.field("genres").type)
        return rows.append_column("genres", column).select(self._schema.names)

    @contextlib.contextmanager
    def _open(self, kind: Export) -> Iterator[IO[bytes]]:
        with storage.written_whole(storage.join(self._writer.directory, EXPORTS[kind])) as file:
            names = ["tconst", "genres", *self._schema.names[len(PREDICTIONS.names) :]]
            header = self._exports.text(kind, pa.chunked_array([names]))
            file.write((_SEPARATOR[kind].join(header.to_pylist()) + "\n").encode())
            yield file

    def _lines(self, kind: Export, rows: pa.Table) -> bytes:
        """Lines such as `tt0000001<TAB>Drama,Romance`."""
        empty = pc.equal(pc.list_value_length(rows["genres"]).fill_null(0), 0)
        genres = pc.if_else(empty, None, pc.binary_join(rows["genres"].combine_chunks(), ","))
        columns = [rows["imdb_id"], genres, *(rows[name] for name in self._schema.names[len(PREDICTIONS.names) :])]
        texts = [self._exports.text(kind, column) for column in columns]
        rows_of_text = zip(*(text.to_pylist() for text in texts), strict=True)
        return "".join(_SEPARATOR[kind].join(fields) + "\n" for fields in rows_of_text).encode()


def describe(manifest: Manifest) -> str:
    """Summary of a tagged catalogue: rows by title type and decade, and the manifest."""
    rows = manifest.notes.get("coverage") or []
    parts = [str(manifest), *remarks(manifest.notes)]
    if any(title_type or decade for title_type, decade, _, _ in rows):
        parts = [_counts_by("title type", 0, rows), _counts_by("decade", 1, rows), *parts]
    return "\n".join(parts)


def _counts_by(header: str, position: int, rows: Sequence[Sequence[Any]]) -> str:
    """Counts by one of the keys and by status, as aligned text."""
    statuses = sorted({row[2] for row in rows})
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row[position], Counter())[row[2]] += row[3]
    lines = [
        [key or "unknown", *(f"{by_status[status]:,}" for status in statuses), f"{by_status.total():,}"]
        for key, by_status in sorted(counts.items())
    ]
    return aligned([[header, *statuses, "rows"], *lines]) + "\n"


def _coverage(rows: pa.Table) -> Counter[tuple[str, str, str]]:
    """Number of rows by title type, decade and status; "" where the table has no title type or year."""
    unknown = pa.repeat("", len(rows))
    kinds = rows["title_type"].cast(pa.string()).fill_null("") if "title_type" in rows.column_names else unknown
    decades = unknown
    if "year" in rows.column_names:
        years = pc.utf8_slice_codeunits(rows["year"].cast(pa.string()), 0, 3)
        decades = pc.binary_join_element_wise(years, "0s", "").fill_null("")
    keys = pa.table({"kind": kinds, "decade": decades, "status": rows["status"]})
    groups = keys.group_by(keys.column_names).aggregate([([], "count_all")]).to_pylist()
    return Counter({(group["kind"], group["decade"], group["status"]): group["count_all"] for group in groups})
