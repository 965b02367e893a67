"""Users' own files of movies under the column names of our tables: read whole, or refused with all their faults."""

import contextlib
import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.errors import InputError, one_line
from mmgenre.tables import storage
from mmgenre.tables.delimited import Fault, Record
from mmgenre.tables.imdb_ids import Ids, normalised, require_matches
from mmgenre.tables.languages import language_code
from mmgenre.tables.manifest import Manifest
from mmgenre.tables.readers import Batch, ParquetReader, Reader, open_reader

# Accepted names of each column, in order of preference; case, spaces and underscores do not matter.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "imdb_id": ("imdb_id", "tconst", "id"),
    "plot": ("plot", "overview", "synopsis", "description"),
    "title": ("title", "primaryTitle"),
    "language": ("language", "original_language"),
    "poster_url": ("poster_url", "poster"),
    "provider_id": ("provider_id", "tmdb_id"),
}
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".csv.gz", ".tsv.gz", ".txt.gz", ".jsonl.gz", ".parquet", ".xlsx")
OnBadRows = Literal["error", "skip"]
ON_BAD_ROWS = "rows of a file that cannot be read, lack an id or repeat one: error, or skip them and count them"
ENCODING = "of a text file, such as cp1251; null: UTF-8, UTF-16 or Windows-1252, by its content"
# Share of the rows that may hold text that is not in the file's encoding.
_MAX_REPLACED = 0.01
_MAX_EXAMPLES = 5
_PHRASES = {
    Fault.WRONG_CELLS: "with the wrong number of cells",
    Fault.BAD_QUOTE: "with a misplaced or open quote",
    Fault.ROWS_IN_CELL: "with other rows inside a cell",
    Fault.NOT_JSON: "that are not JSON objects",
    Fault.NOT_TEXT: "with a list or an object in place of text",
    Fault.NO_ID: "without an id",
    Fault.DUPLICATE_ID: "with the id of another row",
}


@dataclass
class FileFacts:
    """What was found in a user's file.

    Args:
        location: of the file.
        form: encoding and dialect, where they are not the usual ones.
        rows: good rows.
        faults: bad rows by reason.
        num_normalised: ids that were completed, such as 31, which is tt0000031.
        num_replaced: texts in which U+FFFD stands for invalid bytes.
        ids: of the good rows.
    """

    location: str
    form: str
    rows: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    num_normalised: int = 0
    num_replaced: int = 0
    ids: pa.ChunkedArray = field(default_factory=lambda: pa.chunked_array([], pa.string()))

    def notes(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "location": self.location,
            "form": self.form,
            "rows": self.rows,
            "skipped": {str(fault): count for fault, count in self.faults.items()},
            "normalised_ids": self.num_normalised,
            "replaced_texts": self.num_replaced,
        }


def describe(manifest: Manifest) -> str:
    """The manifest's line, and what is to be said about its inputs."""
    return "\n".join([str(manifest), *remarks(manifest.notes)])


def remarks(notes: Mapping[str, Any]) -> list[str]:
    """Lines about users' files and damaged ones that an output was made from, given its manifest's notes."""
    files = filter(None, map(describe_notes, notes.get("files", {}).values()))
    return [*files, *(f"warning: {warning}" for warning in notes.get("warnings", []))]


def describe_notes(notes: Mapping[str, Any]) -> str:
    """One line about a file, given the notes about it; "" if there is nothing to say."""
    skipped = [f"{count:,} {_PHRASES[Fault(fault)]}" for fault, count in notes["skipped"].items()]
    parts = [
        f"read as {notes['form']}" if notes["form"] else "",
        f"{sum(notes['skipped'].values()):,} rows skipped ({', '.join(skipped)})" if skipped else "",
        f"{notes['normalised_ids']:,} ids completed, as in 31: tt0000031" if notes["normalised_ids"] else "",
        f"{notes['replaced_texts']:,} texts with bytes that are not text (U+FFFD)" if notes["replaced_texts"] else "",
    ]
    said = "; ".join(filter(None, parts))
    return f"{notes['location']}: {notes['rows']:,} rows; {said}" if said else ""


class UserFile:
    """A file of movies.

    It is read twice: once to find all its faults before anything depends on it, and once for its rows.

    Args:
        location: path or URI.
        required: columns that it must have, by our names; the first is imdb_id.
        optional: columns to read if it has them.
        on_bad_rows: error: refuse a file with rows that cannot be used; skip: leave them out.
        encoding: of a text file; None: found by its content.
    """

    def __init__(
        self,
        location: str,
        required: Sequence[str],
        optional: Sequence[str] = (),
        *,
        on_bad_rows: OnBadRows = "error",
        encoding: str | None = None,
    ):
        self._location, self._required, self._optional = location, list(required), list(optional)
        self._on_bad_rows, self._encoding = on_bad_rows, encoding

    @cached_property
    def columns(self) -> dict[str, str]:
        """The file's name of each column to read, by our name.

        Raises:
            InputError: the file is missing or of an unknown kind, or a column is missing, duplicated or not text.
        """
        with _located(self._location):
            return self._choose()

    @cached_property
    def facts(self) -> FileFacts:
        """What the file holds; reads all of it.

        Raises:
            InputError: see `columns`; or the file has bad rows or none at all, or is not text.
        """
        with _located(self._location):
            return self._check()[0]

    def require_matches(self, ids: pa.ChunkedArray, location: str, num_matching: int | None = None) -> None:
        """Raise InputError if almost none of the file's ids are in another table.

        Args:
            ids: of that table.
            location: of that table.
            num_matching: how many of the file's ids are among them, if that is known.
        """
        mine = self.facts.ids
        if num_matching is None:
            num_matching = pc.sum(pc.is_in(mine, ids), min_count=0).as_py()
        file, table = (
            Ids(place, len(of_it), of_it[:3].to_pylist()) for place, of_it in ((self._location, mine), (location, ids))
        )
        require_matches(num_matching, file, table)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The good rows, with the required columns and the optional ones that the file has, all of them text.

        Raises:
            InputError: see `facts`.
        """
        with _located(self._location):
            expected, bad = self._check()
            num_rows = 0
            for batch in self._reader.batches(list(self.columns.values())):
                rows = self._rows(batch).filter(pa.array(~np.isin(batch.numbers, bad)))
                num_rows += len(rows)
                yield rows
            if num_rows != expected.rows:
                raise InputError(f"{self._location}: {expected.rows:,} rows, then {num_rows:,}: it has changed")

    @cached_property
    def _reader(self) -> Reader:
        storage.require_file(self._location, f"a file of movies ({', '.join(SUFFIXES)})")
        reader = open_reader(self._location, self._encoding, self._find)
        if reader is None:
            raise InputError(f"{self._location}: unknown kind of file; expected one of {', '.join(SUFFIXES)}")
        return reader

    def _find(self, names: Sequence[str]) -> dict[str, int]:
        """Indices of the columns to read, by our name."""
        stripped = [name.strip() for name in names]
        own_names = {name: find_column(stripped, name) for name in (*self._required, *self._optional)}
        return {name: stripped.index(own_name) for name, own_name in own_names.items() if own_name is not None}

    def _choose(self) -> dict[str, str]:
        names, chosen = self._reader.names, {}
        for name in (*self._required, *self._optional):
            own_name = find_column(names, name)
            if own_name is not None:
                chosen[name] = own_name
            elif name in self._required and not names:
                raise InputError(f"{self._location}: no rows in it; expected columns {', '.join(self._required)}")
            elif name in self._required:
                accepted = " or ".join(ALIASES.get(name, (name,)))
                raise InputError(f"{self._location}: no column {accepted}; found {', '.join(names)}")
        duplicates = [own_name for own_name in chosen.values() if names.count(own_name) > 1]
        if duplicates:
            raise InputError(f"{self._location}: more than one column {', '.join(duplicates)}; keep one of each name")
        if "plot" in chosen and isinstance(self._reader, ParquetReader):
            self._reader.require_text(chosen["plot"])
        return chosen

    def _rows(self, batch: Batch) -> pa.RecordBatch:
        columns = dict(zip(self.columns, batch.columns, strict=True))
        columns["imdb_id"] = normalised(columns["imdb_id"], are_imdb=_folded(self.columns["imdb_id"]) != "id")
        if "language" in columns:
            columns["language"] = _codes(columns["language"])
        return pa.RecordBatch.from_pydict(columns)

    @cached_property
    def _checked(self) -> tuple[FileFacts, np.ndarray, list[Record]]:
        """The facts, the numbers of the rows to leave out, and the bad rows."""
        facts = FileFacts(self._location, self._reader.form)
        faults: list[Record] = []
        ids, numbers = [], [np.zeros(0, np.int64)]
        for batch in self._reader.batches(list(self.columns.values())):
            column = self._rows(batch)["imdb_id"]
            facts.num_replaced += batch.num_replaced
            facts.num_normalised += pc.sum(pc.not_equal(column, batch.columns[0]), min_count=0).as_py()
            ids.append(column)
            numbers.append(batch.numbers)
            faults += batch.faults
        facts.ids = pa.chunked_array(ids, pa.string())
        missing, duplicated = _bad_ids(facts.ids, np.concatenate(numbers))
        faults += [*missing, *duplicated]
        facts.faults.update(record.fault for record in faults if record.fault)
        facts.rows = sum(map(len, ids)) - len(missing) - len(duplicated)
        facts.ids = facts.ids.drop_null()
        return facts, np.array([record.number for record in (*missing, *duplicated)], np.int64), faults

    def _check(self) -> tuple[FileFacts, np.ndarray]:
        facts, bad, faults = self._checked
        if faults and self._on_bad_rows == "error":
            raise InputError(f"{self._location}: {self._listed(faults)}; fix them, or leave them out: on_bad_rows=skip")
        if not facts.rows:
            raise InputError(f"{self._location}: no rows in it; expected columns {', '.join(self._required)}")
        # A Parquet file has no encoding that could be another one.
        is_parquet = isinstance(self._reader, ParquetReader)
        if facts.num_replaced > _MAX_REPLACED * facts.rows and not is_parquet:
            raise InputError(
                f"{self._location}: {facts.num_replaced:,} texts in {facts.rows:,} rows are not UTF8; save the file as "
                "UTF-8, or name its encoding, such as encoding=cp1252"
            )
        return facts, bad

    def _listed(self, faults: Sequence[Record]) -> str:
        """Bad rows by reason, with the lines or rows of the first ones."""
        reasons = []
        for fault in Fault:
            of_kind = [record for record in faults if record.fault == fault]
            if of_kind:
                places = ", ".join(map(self._place, of_kind[:_MAX_EXAMPLES]))
                more = ", ..." if len(of_kind) > _MAX_EXAMPLES else ""
                reasons.append(f"{len(of_kind):,} rows {_PHRASES[fault]}: {places}{more}")
        return "; ".join(reasons)

    def _place(self, record: Record) -> str:
        return f"{self._reader.unit} {record.number:,}" + (f" ({record.detail})" if record.detail else "")


def read_movies(location: str, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """The rows of a user's file without bad rows; see UserFile."""
    return UserFile(location, required, optional).batches()


def find_column(names: Sequence[str], name: str) -> str | None:
    """The column of a file that holds `name`, under whichever accepted name; None if there is none."""
    accepted = ALIASES.get(name, (name,))
    exact = next((alias for alias in accepted if alias in names), None)
    folded = {_folded(own_name): own_name for own_name in reversed(names)}
    return exact or next((folded[_folded(alias)] for alias in accepted if _folded(alias) in folded), None)


def _folded(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _codes(languages: pa.Array) -> pa.Array:
    """ISO 639-1 codes; names of languages that have none stay as they are."""
    encoded = languages.dictionary_encode()
    codes = [language_code(name) or name for name in encoded.dictionary.to_pylist()]
    return pa.array(codes, pa.string()).take(encoded.indices)


def _bad_ids(ids: pa.ChunkedArray, numbers: np.ndarray) -> tuple[list[Record], list[Record]]:
    """The rows without an id, and those whose id an earlier row has."""
    missing = [Record(int(number), [], Fault.NO_ID) for number in numbers[ids.is_null().to_numpy()]]
    present = numbers[ids.is_valid().to_numpy()]
    codes = ids.drop_null().combine_chunks().dictionary_encode()
    is_repeated = np.ones(len(codes), bool)
    is_repeated[np.unique(codes.indices.to_numpy(), return_index=True)[1]] = False
    repeated = zip(present[is_repeated], codes.filter(pa.array(is_repeated)).to_pylist(), strict=True)
    return missing, [Record(int(number), [], Fault.DUPLICATE_ID, one) for number, one in repeated]


@contextlib.contextmanager
def _located(location: str) -> Iterator[None]:
    """Errors of the libraries that read files, as one line with the file's location."""
    try:
        yield
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise InputError(f"{location}: {one_line(error)}") from None
