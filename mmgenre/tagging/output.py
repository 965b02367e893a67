"""Probabilities → PREDICTIONS: each movie's genres, in bounded parts, with a file for other programs and an account."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.labels import decode
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest
from mmgenre.tables.schema import PREDICTIONS, from_per_genre
from mmgenre.tables.table import PARTS, TableWriter, parts_in
from mmgenre.tagging.decisions import Decisions
from mmgenre.text_tables import aligned

Export = Literal["csv", "tsv"]
# Readers of a folder of Parquet files pass over names that begin so.
EXPORTS: dict[Export, str] = {"csv": "_tags.csv", "tsv": "_tags.tsv"}
OWNED = (PARTS, *EXPORTS.values())
_ROWS_PER_PART = 50_000
_NULL: dict[Export, str] = {"csv": "", "tsv": "\\N"}
_SEPARATOR: dict[Export, str] = {"csv": ",", "tsv": "\t"}


class TagWriter:
    """Writes the predictions of a run that has computed everything.

    Args:
        writer: of the table.
        decisions: from probabilities to genres.
        kept: columns beside those of PREDICTIONS.
        exports: kinds of files that are written, too.
    """

    def __init__(self, writer: TableWriter, decisions: Decisions, kept: Sequence[pa.Field], exports: Sequence[Export]):
        self._writer, self._decisions = writer, decisions
        self._schema = pa.schema([*PREDICTIONS, *kept])
        self._exports = exports
        self._coverage: Counter[tuple[str, str, str]] = Counter()

    def write(self, results: Iterator[pa.Table]) -> None:
        """All of them; what an earlier run wrote goes first: the results have it."""
        for name in [*parts_in(self._writer.directory), *EXPORTS.values()]:
            storage.delete(storage.join(self._writer.directory, name))
        with contextlib.ExitStack() as stack:
            files = {kind: stack.enter_context(self._open(kind)) for kind in self._exports}
            for rows in _rechunked(map(self._decided, results)):
                self._writer.write(rows)
                self._coverage.update(_coverage(rows))
                for kind, file in files.items():
                    file.write(self._lines(kind, rows))

    def coverage(self) -> list[list[Any]]:
        """Rows as [title type, decade, status, count]."""
        return [[*key, count] for key, count in sorted(self._coverage.items())]

    def _decided(self, rows: pa.Table) -> pa.Table:
        chances = from_per_genre(rows["probabilities"])
        known = ~np.isnan(chances).any(axis=1)
        decided = self._decisions(chances, rows["status"].to_pylist())
        genres = [decode(row) if is_known else None for row, is_known in zip(decided, known, strict=True)]
        column = pa.array(genres, PREDICTIONS.field("genres").type)
        return rows.append_column("genres", column).select(self._schema.names)

    @contextlib.contextmanager
    def _open(self, kind: Export) -> Iterator[IO[bytes]]:
        with storage.written_whole(storage.join(self._writer.directory, EXPORTS[kind])) as file:
            header = ["tconst", "genres", *self._schema.names[len(PREDICTIONS.names) :]]
            file.write((_SEPARATOR[kind].join(header) + "\n").encode())
            yield file

    def _lines(self, kind: Export, rows: pa.Table) -> bytes:
        """Lines such as `tt0000001<TAB>Drama,Romance`."""
        empty = pc.equal(pc.list_value_length(rows["genres"]).fill_null(0), 0)
        genres = pc.if_else(empty, None, pc.binary_join(rows["genres"].combine_chunks(), ","))
        columns = [rows["imdb_id"], genres, *(rows[name] for name in self._schema.names[len(PREDICTIONS.names) :])]
        texts = [_text(kind, column) for column in columns]
        rows_of_text = zip(*(text.to_pylist() for text in texts), strict=True)
        return "".join(_SEPARATOR[kind].join(fields) + "\n" for fields in rows_of_text).encode()


def describe(manifest: Manifest) -> str:
    """What a person wants to know of a tagged catalogue."""
    rows = manifest.notes.get("coverage") or []
    if not any(title_type or decade for title_type, decade, _, _ in rows):
        return str(manifest)
    return "\n".join([_by("title type", 0, rows), _by("decade", 1, rows), str(manifest)])


def _by(what: str, place: int, rows: Sequence[Sequence[Any]]) -> str:
    """Rows by one key and by status, as aligned text."""
    statuses = sorted({row[2] for row in rows})
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counts[row[place], row[2]] += row[3]
    keys = sorted({key for key, _ in counts})
    lines = [
        [key or "unknown", *(f"{counts[key, status]:,}" for status in statuses), f"{_total(counts, key):,}"]
        for key in keys
    ]
    return aligned([[what, *statuses, "rows"], *lines]) + "\n"


def _total(counts: Counter[tuple[str, str]], key: str) -> int:
    return sum(count for (name, _), count in counts.items() if name == key)


def _coverage(rows: pa.Table) -> Counter[tuple[str, str, str]]:
    """How many rows there are of each title type, decade and status; "" where the table does not say."""
    unknown = pa.repeat("", len(rows))
    kinds = rows["title_type"].cast(pa.string()).fill_null("") if "title_type" in rows.column_names else unknown
    decades = unknown
    if "year" in rows.column_names:
        years = pc.utf8_slice_codeunits(rows["year"].cast(pa.string()), 0, 3)
        decades = pc.binary_join_element_wise(years, "0s", "").fill_null("")
    keys = pa.table({"kind": kinds, "decade": decades, "status": rows["status"]})
    groups = keys.group_by(keys.column_names).aggregate([([], "count_all")]).to_pylist()
    return Counter({(one["kind"], one["decade"], one["status"]): one["count_all"] for one in groups})


def _text(kind: Export, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as they stand in a file: nothing in a TSV of IMDb's is quoted, everything in a CSV may be."""
    if pa.types.is_list(column.type):
        column = pc.binary_join(column.combine_chunks(), ",")
    text = column.cast(pa.string())
    if kind == "tsv":
        text = pc.replace_substring_regex(text, r"[\t\r\n]+", " ")
    else:
        quoted = pc.binary_join_element_wise('"', pc.replace_substring(text, '"', '""'), '"', "")
        text = pc.if_else(pc.match_substring_regex(text, r'[",\r\n]'), quoted, text)
    return text.fill_null(_NULL[kind])


def _rechunked(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, so many in each table."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= _ROWS_PER_PART:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
