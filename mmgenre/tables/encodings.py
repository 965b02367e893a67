"""Opens users' text files, plain or gzipped, and finds their encoding."""

import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from mmgenre.errors import InputError, one_line
from mmgenre.tables import storage

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LABELS = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "cp1252": "Windows-1252", "utf-32": "UTF-32"}
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_CHUNK_BYTES = 1 << 20
# Bytes that are invalid UTF-8, as Python decodes them with `surrogateescape`.
ESCAPED = re.compile("[\udc80-\udcff]")
# Bytes that Windows-1252 does not have, words of letters that are all accented, and symbols inside words.
_NOT_CP1252 = re.compile(
    rb"[\x81\x8d\x8f\x90\x9d]|[\xa1-\xff]{4}|[A-Za-z][\x82\x84\x86-\x89\x8b\xa1-\xa9\xac-\xb4\xb6-\xb9\xbc-\xbf\xd7\xf7][A-Za-z]"
)


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a text file become text.

    Args:
        name: Python's name of it.
        is_damaged: some bytes are invalid in it.
    """

    name: str
    is_damaged: bool = False

    @property
    def label(self) -> str:
        """Name for messages."""
        return _LABELS.get(self.name, "UTF-16" if self.name.startswith("utf-16") else self.name)


@contextlib.contextmanager
def open_bytes(location: str) -> Iterator[io.BufferedReader]:
    """The content of a file, decompressed if it is gzipped.

    Raises:
        InputError: the file is damaged, or a ZIP archive.
    """
    filesystem, path = storage.resolve(location)
    try:
        with io.BufferedReader(filesystem.open_input_stream(path, compression=None), _CHUNK_BYTES) as stream:
            magic = stream.peek(4)[:4]
            if magic == _ZIP:
                raise InputError(f"{location}: is a ZIP archive; unpack it first")
            if magic[:2] == _GZIP or location.lower().endswith(".gz"):
                yield io.BufferedReader(gzip.GzipFile(fileobj=stream), _CHUNK_BYTES)
            else:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{location}: damaged or not gzip ({one_line(error)}); download or save it again") from None


@contextlib.contextmanager
def open_text(location: str, encoding: Encoding) -> Iterator[io.TextIOWrapper]:
    """The text of a file, its line ends unchanged; the bytes of a damaged file that are invalid match ESCAPED.

    Raises:
        InputError: see open_bytes; or the text does not have this encoding.
    """
    errors = "surrogateescape" if encoding.is_damaged else "strict"
    with open_bytes(location) as stream:
        try:
            yield io.TextIOWrapper(stream, encoding=encoding.name, errors=errors, newline="")
        except UnicodeError as error:
            raise InputError(f"{location}: not {encoding.label} ({one_line(error)}); save the file as UTF-8") from None


def find_encoding(location: str, given: str | None = None) -> Encoding:
    """The encoding of a file: the given one, or UTF-8, UTF-16, UTF-32 or Windows-1252 by its content.

    Raises:
        InputError: it is none of these.
    """
    if given is not None:
        try:
            return Encoding(codecs.lookup(given).name)
        except LookupError:
            raise InputError(f"encoding={given}: Python knows no such encoding; expected one such as cp1251") from None
    with open_bytes(location) as stream:
        head = stream.peek(_CHUNK_BYTES)
        bom = next((name for mark, name in _BOMS if head.startswith(mark)), None) or _utf16_without_bom(head)
        if bom is not None and bom != "utf-8-sig":
            return Encoding(bom)
        num_valid, num_invalid, doubt = _scan(stream)
    if not num_invalid or bom or num_valid > num_invalid:
        return Encoding(bom or "utf-8", is_damaged=num_invalid > 0)
    if doubt is not None:
        raise InputError(
            f"{location}: neither UTF-8 nor Windows-1252 (it contains the bytes {doubt!r}); save the file as UTF-8, "
            "or name its encoding, such as encoding=cp1251"
        )
    return Encoding("cp1252")


def _utf16_without_bom(head: bytes) -> str | None:
    """The byte order if every other byte is mostly NUL, as in UTF-16 of European languages."""
    half = len(head) // 2
    even, odd = (head[start : 2 * half : 2].count(0) for start in (0, 1))
    if half and max(even, odd) > half // 2 and min(even, odd) < half // 10 + 1:
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def _scan(stream: io.BufferedReader) -> tuple[int, int, bytes | None]:
    """Valid non-ASCII characters, invalid bytes, and an example of bytes that are not Windows-1252 either."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    num_valid = num_invalid = 0
    doubt: bytes | None = None
    while chunk := stream.read(_CHUNK_BYTES):
        text = decoder.decode(chunk)
        if text.isascii():
            continue
        invalid = len(ESCAPED.findall(text))
        num_invalid += invalid
        num_valid += len(text) - len(text.encode("ascii", "ignore")) - invalid
        if doubt is None and (match := _NOT_CP1252.search(chunk)):
            doubt = match[0]
    last = decoder.decode(b"", final=True)
    return num_valid, num_invalid + len(last), doubt
