"""IMDb's title.basics dump, plain or gzipped: a stream of its raw rows, and what their fields mean.

Nothing is quoted in a dump, and `\\N` stands for null.
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

TitleType = Literal[
    "movie",
    "short",
    "tvEpisode",
    "tvMiniSeries",
    "tvMovie",
    "tvPilot",
    "tvSeries",
    "tvShort",
    "tvSpecial",
    "video",
    "videoGame",
]
OTHER_GENRES = (
    "Adult",
    "Animation",
    "Biography",
    "Documentary",
    "Family",
    "Fantasy",
    "Film-Noir",
    "Game-Show",
    "History",
    "Music",
    "Musical",
    "Mystery",
    "News",
    "Reality-TV",
    "Short",
    "Sport",
    "Talk-Show",
    "War",
    "Western",
)
MAX_NUMBER = 10**9
_KNOWN_GENRES = frozenset((*GENRES, *OTHER_GENRES))
_COLUMNS = (
    "tconst",
    "titleType",
    "primaryTitle",
    "originalTitle",
    "isAdult",
    "startYear",
    "endYear",
    "runtimeMinutes",
    "genres",
)
_EXPECTED = f"IMDb's title.basics.tsv or title.basics.tsv.gz, with the columns {', '.join(_COLUMNS)}"
_READ = [name for name in _COLUMNS if name not in ("originalTitle", "endYear")]
_NULL = b"\\N"
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_PIECE_BYTES = 1 << 18
_BLOCK_BYTES = 8 << 20


class Dump:
    """A title.basics dump, opened, its header checked.

    `malformed` counts the lines that are no rows, by reason, and `damage` says what is wrong with
    the gzip stream, if anything is; both are complete once `rows` has been read to its end.

    Raises:
        InputError: nothing can be read there, it is empty, or it is another kind of file.
    """

    def __init__(self, location: str):
        self.location = location
        self.malformed: Counter[str] = Counter()
        self.damage: str | None = None
        self._pieces = self._decompress(_open(location))
        self._head, self._names = self._read_header()

    def rows(self) -> Iterator[pa.Table]:
        """The rows in dump order, some megabytes at a time, as the bytes that stand there.

        The next block is read and decompressed in a thread of its own meanwhile.

        Raises:
            InputError: not one line of the dump is a row.
        """
        blocks = self._blocks()
        num_rows = 0
        with ThreadPoolExecutor(1, thread_name_prefix="decompress") as thread:
            coming = thread.submit(next, blocks, None)
            while (block := coming.result()) is not None:
                coming = thread.submit(next, blocks, None)
                rows = self._parse(block)
                num_rows += rows.num_rows
                yield rows
        if not num_rows:
            raise InputError(f"{self.location}: not one whole row{self._because}; expected {_EXPECTED}")

    @property
    def _because(self) -> str:
        return f" ({self.damage})" if self.damage else ""

    def _decompress(self, stream: io.BufferedReader) -> Iterator[bytes]:
        with stream:
            source = gzip.GzipFile(fileobj=stream) if stream.peek(2)[:2] == _GZIP else stream
            try:
                # read1, because a read that meets the damage loses what it had before.
                while piece := source.read1(_PIECE_BYTES):
                    yield piece
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self.damage = str(error)

    def _read_header(self) -> tuple[bytes, list[str]]:
        """What has been read beyond the header, and the header's names."""
        start = b""
        for piece in self._pieces:
            start += piece
            if b"\n" in start or len(start) > _PIECE_BYTES:
                break
        if not start:
            raise InputError(f"{self.location}: empty{self._because}; expected {_EXPECTED}")
        header, _, rest = start.removeprefix(_BOM).partition(b"\n")
        names = header.rstrip(b"\r").decode("utf-8", "backslashreplace").split("\t")
        if not set(_READ) <= set(names):
            raise InputError(f"{self.location}: begins with {_shown(names)}; expected {_EXPECTED}")
        rest = rest or next(self._pieces, b"")
        if not rest:
            raise InputError(f"{self.location}: a header without rows{self._because}; expected {_EXPECTED}")
        return rest, names

    def _blocks(self) -> Iterator[memoryview]:
        """Whole lines, about _BLOCK_BYTES of them at a time."""
        pieces = [self._head]
        size = len(self._head)
        for piece in self._pieces:
            pieces.append(piece)
            size += len(piece)
            if size < _BLOCK_BYTES:
                continue
            block = b"".join(pieces)
            end = block.rfind(b"\n") + 1
            if end:
                yield memoryview(block)[:end]
            # A line as long as a block is no row: the stand-in for its start gives it too many columns.
            pieces = [block[end:] if end else b"\t" * len(self._names)]
            size = len(pieces[0])
        last = b"".join(pieces)
        end = len(last) if self.damage is None else last.rfind(b"\n") + 1
        if end < len(last):
            self.malformed["truncated_file"] += 1
        if end:
            yield memoryview(last)[:end]

    def _parse(self, block: memoryview) -> pa.Table:
        rows = csv.read_csv(
            pa.BufferReader(pa.py_buffer(block)),
            read_options=csv.ReadOptions(column_names=self._names, use_threads=False, block_size=len(block)),
            parse_options=csv.ParseOptions(
                delimiter="\t", quote_char=False, ignore_empty_lines=False, invalid_row_handler=self._skip
            ),
            convert_options=csv.ConvertOptions(
                include_columns=_READ,
                column_types=dict.fromkeys(_READ, pa.binary()),
                check_utf8=False,
                strings_can_be_null=False,
            ),
        )
        # The parser takes an empty line for a row of empty fields.
        filled = pc.or_(pc.not_equal(rows["tconst"], b""), pc.not_equal(rows["titleType"], b""))
        num_empty = rows.num_rows - pc.sum(filled, min_count=0).as_py()
        self.malformed["empty_line"] += num_empty
        return rows.filter(filled) if num_empty else rows

    def _skip(self, _: csv.InvalidRow) -> str:
        self.malformed["wrong_number_of_columns"] += 1
        return "skip"


def bad_ids(fields: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether an id is none: not `tt` and 7 digits, or 8 or 9 that do not begin with 0."""
    return pc.invert(pc.match_substring_regex(fields, r"^tt(\d{7}|[1-9]\d{7,8})$"))


def no_titles(fields: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether a title is null or blank."""
    return pc.match_substring_regex(fields, r"^(\s*|\\N)$")


def not_utf8(fields: pa.ChunkedArray) -> pa.Array:
    """Whether the bytes are no text."""
    try:
        fields.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([not _is_utf8(field) for field in fields.to_pylist()], pa.bool_())
    return pa.repeat(False, len(fields))


def bad_flags(fields: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether a flag is neither 0 nor 1, as in rows whose columns are shifted."""
    return pc.invert(pc.is_in(fields, pa.array([b"0", b"1"])))


def numbers(ids: pa.ChunkedArray) -> np.ndarray:
    """The number in each id, shape (N,), int64, below MAX_NUMBER."""
    return pc.utf8_slice_codeunits(ids, 2).cast(pa.int64()).to_numpy()


def years(fields: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """Years, null where there is none, and how many of the nulls stand for something else than a year."""
    return _integers(fields, r"^[12]\d{3}$")


def runtimes(fields: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int]:
    """Minutes, null where there are none, and how many of the nulls stand for something else than minutes."""
    return _integers(fields, r"^\d{1,6}$")


def genre_bits(fields: pa.ChunkedArray) -> tuple[np.ndarray, Counter[str]]:
    """The nine genres of each field such as `Comedy,Short`, and the genres that IMDb does not have.

    Returns:
        Shape (N,), uint16, the lowest bit the first of GENRES; the rows each unknown genre is in.
    """
    encoded = fields.combine_chunks().dictionary_encode()
    combinations = [_parse_genres(field) for field in encoded.dictionary.to_pylist()]
    which = encoded.indices.to_numpy()
    unknown: Counter[str] = Counter()
    for (_, names), rows in zip(combinations, np.bincount(which, minlength=len(combinations)), strict=True):
        unknown.update(dict.fromkeys(names, int(rows)))
    return np.array([bits for bits, _ in combinations], np.uint16)[which], unknown


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
        # The content says whether it is compressed, not the name.
        return io.BufferedReader(filesystem.open_input_stream(path, compression=None), _PIECE_BYTES)
    except OSError as error:
        raise InputError(f"{location}: cannot be read ({error}); expected {_EXPECTED}") from None


def _shown(names: list[str]) -> str:
    """The first line of a file of another kind, short and printable."""
    if len(names) > 1 and all(name.isprintable() for name in names):
        text = "the columns " + ", ".join(names)
    else:
        text = ascii("\t".join(names)[:60])
    return text if len(text) <= 200 else text[:200] + "..."
