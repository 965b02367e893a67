"""IMDb's title.basics dump, plain or gzipped: a stream of raw rows, and parsers for their fields.

Dumps have no quoting; `\\N` is null.
"""

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.tables import storage

# fmt: off
TitleType = Literal[
    "movie", "short", "tvEpisode", "tvMiniSeries", "tvMovie", "tvPilot", "tvSeries", "tvShort", "tvSpecial", "video",
    "videoGame",
]
OTHER_GENRES = (
    "Adult", "Animation", "Biography", "Documentary", "Family", "Fantasy", "Film-Noir", "Game-Show", "History", "Music",
    "Musical", "Mystery", "News", "Reality-TV", "Short", "Sport", "Talk-Show", "War", "Western",
)
_COLUMNS = (
    "tconst", "titleType", "primaryTitle", "originalTitle", "isAdult", "startYear", "endYear", "runtimeMinutes",
    "genres",
)
# fmt: on
# Ids have at most nine digits.
MAX_NUMBER = 10**9
_KNOWN_GENRES = frozenset((*GENRES, *OTHER_GENRES))
_EXPECTED = f"IMDb's title.basics.tsv or title.basics.tsv.gz, with the columns {', '.join(_COLUMNS)}"
_USED_COLUMNS = [name for name in _COLUMNS if name not in ("originalTitle", "endYear")]
_NULL = b"\\N"
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 18
_BLOCK_BYTES = 8 << 20


class Dump:
    """An open title.basics dump with a valid header.

    `malformed` counts skipped lines by reason, and `damage` tells of a corrupt gzip stream or a cut line; both are
    complete after `rows` has been exhausted.

    Raises:
        InputError: the file cannot be read, is empty, or is not a title.basics dump.
    """

    def __init__(self, location: str):
        self.location = location
        self.malformed: Counter[str] = Counter()
        self.damage: str | None = None
        self._chunks = self._decompress(_open(location))
        self._head, self._names = self._read_header()

    def rows(self) -> Iterator[pa.Table]:
        """Rows as undecoded bytes, in dump order, a few megabytes at a time.

        A thread reads and decompresses the next block in the meantime.

        Raises:
            InputError: the dump has no valid row.
        """
        blocks = self._blocks()
        num_rows = 0
        with ThreadPoolExecutor(1, thread_name_prefix="decompress") as thread:
            next_block = thread.submit(next, blocks, None)
            while (block := next_block.result()) is not None:
                next_block = thread.submit(next, blocks, None)
                rows = self._parse(block)
                num_rows += rows.num_rows
                yield rows
        if not num_rows:
            raise InputError(f"{self.location}: no complete row{self._damage_note}; expected {_EXPECTED}")

    @property
    def _damage_note(self) -> str:
        return f" ({self.damage})" if self.damage else ""

    def _decompress(self, stream: io.BufferedReader) -> Iterator[bytes]:
        with stream:
            source = gzip.GzipFile(fileobj=stream) if stream.peek(2)[:2] == _GZIP else stream
            try:
                # Not read(): it discards the data before the damage.
                while chunk := source.read1(_CHUNK_BYTES):
                    yield chunk
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self.damage = str(error)

    def _read_header(self) -> tuple[bytes, list[str]]:
        """The data read past the header, and the column names."""
        head = b""
        for chunk in self._chunks:
            head += chunk
            if b"\n" in head or len(head) > _CHUNK_BYTES:
                break
        if not head:
            raise InputError(f"{self.location}: empty{self._damage_note}; expected {_EXPECTED}")
        header, _, rest = head.removeprefix(_BOM).partition(b"\n")
        names = header.rstrip(b"\r").decode("utf-8", "backslashreplace").split("\t")
        if not set(_USED_COLUMNS) <= set(names):
            raise InputError(f"{self.location}: starts with {_preview(names)}; expected {_EXPECTED}")
        rest = rest or next(self._chunks, b"")
        if not rest:
            raise InputError(f"{self.location}: a header and no rows{self._damage_note}; expected {_EXPECTED}")
        return rest, names

    def _blocks(self) -> Iterator[memoryview]:
        """Complete lines, in blocks of about _BLOCK_BYTES."""
        chunks = [self._head]
        size = len(self._head)
        for chunk in self._chunks:
            chunks.append(chunk)
            size += len(chunk)
            if size < _BLOCK_BYTES:
                continue
            block = b"".join(chunks)
            end = block.rfind(b"\n") + 1
            if end:
                yield memoryview(block)[:end]
            # A line longer than a block is not a row: tabs replace its start, which makes it malformed.
            chunks = [block[end:] if end else b"\t" * len(self._names)]
            size = len(chunks[0])
        last = b"".join(chunks)
        complete = last.rfind(b"\n") + 1
        if self.damage is None and complete < len(last) and last.count(b"\t", complete) < len(self._names) - 1:
            self.damage = "its last line is cut off"
        end = len(last) if self.damage is None else complete
        if end < len(last):
            self.malformed["truncated_file"] += 1
        if end:
            yield memoryview(last)[:end]

    def _parse(self, block: memoryview) -> pa.Table:
        rows = csv.read_csv(
            pa.BufferReader(pa.py_buffer(block)),
            read_options=csv.ReadOptions(column_names=self._names, use_threads=False, block_size=len(block)),
            parse_options=csv.ParseOptions(
                delimiter="\t", quote_char=False, ignore_empty_lines=False, invalid_row_handler=self._skip_row
            ),
            convert_options=csv.ConvertOptions(
                include_columns=_USED_COLUMNS,
                column_types=dict.fromkeys(_USED_COLUMNS, pa.binary()),
                check_utf8=False,
                strings_can_be_null=False,
            ),
        )
        # The parser returns an empty line as a row of empty fields.
        is_filled = pc.or_(pc.not_equal(rows["tconst"], b""), pc.not_equal(rows["titleType"], b""))
        num_empty = rows.num_rows - pc.sum(is_filled, min_count=0).as_py()
        self.malformed["empty_line"] += num_empty
        return rows.filter(is_filled) if num_empty else rows

    def _skip_row(self, _: csv.InvalidRow) -> str:
        self.malformed["wrong_number_of_columns"] += 1
        return "skip"


def bad_ids(fields: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each id is invalid: not `tt` with 7 digits, or with 8 or 9 that do not start with 0."""
    return pc.invert(pc.match_substring_regex(fields, r"^tt(\d{7}|[1-9]\d{7,8})$"))


def no_titles(fields: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each title is null or blank."""
    return pc.match_substring_regex(fields, r"^(\s*|\\N)$")


def not_utf8(fields: pa.ChunkedArray) -> pa.Array:
    """Whether each field is invalid UTF-8."""
    try:
        fields.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([not _is_utf8(field) for field in fields.to_pylist()], pa.bool_())
    return pa.repeat(False, len(fields))


def bad_flags(fields: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each flag is neither 0 nor 1, which happens in rows with shifted columns."""
    return pc.invert(pc.is_in(fields, pa.array([b"0", b"1"])))


def numbers(ids: pa.ChunkedArray) -> np.ndarray:
    """The number in each id, shape (N,), int64, below MAX_NUMBER."""
    return pc.utf8_slice_codeunits(ids, 2).cast(pa.int64()).to_numpy()


def years(fields: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """Years, null if unknown, and the number of fields that are neither a year nor null."""
    return _integers(fields, r"^[12]\d{3}$")


def runtimes(fields: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """Minutes, null if unknown, and the number of fields that are neither minutes nor null."""
    return _integers(fields, r"^\d{1,6}$")


def genre_bits(fields: pa.ChunkedArray) -> tuple[np.ndarray, Counter[str]]:
    """The nine genres in each field such as `Comedy,Short`, and the genres that IMDb does not use.

    Returns:
        Bit masks, shape (N,), uint16, with the first of GENRES in the lowest bit; the number of rows per unknown genre.
    """
    encoded = fields.combine_chunks().dictionary_encode()
    combinations = [_parse_genres(field) for field in encoded.dictionary.to_pylist()]
    indices = encoded.indices.to_numpy()
    unknown: Counter[str] = Counter()
    for (_, names), rows in zip(combinations, np.bincount(indices, minlength=len(combinations)), strict=True):
        unknown.update(dict.fromkeys(names, int(rows)))
    return np.array([bits for bits, _ in combinations], np.uint16)[indices], unknown


def _integers(fields: pa.ChunkedArray, pattern: str) -> tuple[pa.ChunkedArray, int]:
    matching = pc.match_substring_regex(fields, pattern)
    values = pc.if_else(matching, fields, None).cast(pa.string()).cast(pa.int32())
    num_null = pc.sum(pc.equal(fields, _NULL), min_count=0).as_py()
    return values, values.null_count - num_null


@lru_cache(10_000)
def _parse_genres(field: bytes) -> tuple[int, tuple[str, ...]]:
    names = [] if field in (_NULL, b"") else field.decode("utf-8", "backslashreplace").split(",")
    bits = sum(1 << column for column, genre in enumerate(GENRES) if genre in names)
    return bits, tuple(name for name in names if name not in _KNOWN_GENRES)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _open(location: str) -> io.BufferedReader:
    storage.require_file(location, _EXPECTED)
    filesystem, path = storage.resolve(location)
    try:
        # The content decides whether to decompress, not the file name.
        return io.BufferedReader(filesystem.open_input_stream(path, compression=None), _CHUNK_BYTES)
    except OSError as error:
        raise InputError(f"{location}: cannot be read ({error}); expected {_EXPECTED}") from None


def _preview(names: list[str]) -> str:
    """The first line of a file that is not a dump, shortened and printable."""
    if len(names) > 1 and all(name.isprintable() for name in names):
        text = "the columns " + ", ".join(names)
    else:
        text = ascii("\t".join(names)[:60])
    return text if len(text) <= 200 else text[:200] + "..."
