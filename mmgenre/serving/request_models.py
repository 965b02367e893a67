"""Movies out of the bodies of requests: JSON, or a form; what is wrong in them, said in one line."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mmgenre.serving.limits import Limits
from mmgenre.serving.request_error import Refusal, quoted

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

JSON, FORM = "application/json", "multipart/form-data"
_FIELDS = ("id", "title", "plot", "poster")
_FILES = ("poster", "table")
# Fields of a form: more than anybody needs, and few enough to look through.
_MOST_PARTS = 16


@dataclass(frozen=True)
class Asked:
    """A movie of a request; what is not known of it is None.

    Args:
        id: what the client calls it.
        title: its name.
        plot: its story.
        poster: an image as it was uploaded, or in base64.
    """

    id: str | None = None
    title: str | None = None
    plot: str | None = None
    poster: bytes | str | None = None


@dataclass(frozen=True)
class File:
    """A file of a form.

    Args:
        name: what the client calls it; "" where it does not say.
        content: its bytes.
    """

    name: str
    content: bytes


def media_type(content_type: str) -> str:
    """The kind of body that a header announces.

    Raises:
        Refusal: none that is read here.
    """
    found = content_type.partition(";")[0].strip().lower()
    if found not in (JSON, FORM):
        raise Refusal(415, f"Content-Type: {quoted(found) if found else 'none'}; expected {JSON} or {FORM}")
    return found


def movies_of_json(body: bytes, limits: Limits) -> tuple[list[Asked], bool]:
    """The movies of a JSON body, and whether it is of the form that has several.

    Raises:
        Refusal: no JSON, wrong fields, or more than the limits allow.
    """
    try:
        found = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"body: not JSON ({error}); expected an object such as {{'plot': '...'}}") from None
    if not isinstance(found, dict):
        raise Refusal(422, f"body: {_kind(found)}; expected an object with title, plot or poster, or with movies")
    if "movies" not in found:
        return [_movie(found, "", limits)], False
    movies = found["movies"]
    if len(found) > 1:
        other = next(name for name in found if name != "movies")
        raise Refusal(422, f"{quoted(other)}: stands beside movies; expected it within each of the movies")
    if not isinstance(movies, list) or not movies:
        raise Refusal(422, f"movies: {_kind(movies)}; expected a list of movies, at least one")
    if len(movies) > limits.batch_movies:
        raise Refusal(
            413, f"movies: {len(movies):,}; expected at most {limits.batch_movies:,}: send several requests, or a table"
        )
    return [_movie(movie, f"movies.{number}", limits) for number, movie in enumerate(movies)], True


def movie_of_form(body: bytes, content_type: str, limits: Limits) -> Asked:
    """The movie of a form with the fields title, plot and poster.

    Raises:
        Refusal: no such form, unknown fields, or more than the limits allow.
    """
    parts = _parts(body, content_type)
    values: dict[str, Any] = {}
    for name, part in parts.items():
        # A browser sends an empty file for a field that nothing was chosen for.
        if isinstance(part, File) and name == "poster" and part.content:
            values[name] = part.content
        elif not isinstance(part, File):
            values[name] = part
        elif name != "poster":
            raise Refusal(422, f"{quoted(name)}: a file; expected text, and a file in the field poster alone")
    return _movie(values, "", limits)


def table_of_form(body: bytes, content_type: str) -> File:
    """The file of a form with the field table.

    Raises:
        Refusal: no such form.
    """
    parts = _parts(body, content_type)
    table = parts.pop("table", None)
    if not isinstance(table, File):
        raise Refusal(422, "table: missing, or not a file; expected a CSV file in the field table")
    if parts:
        raise Refusal(422, f"{quoted(next(iter(parts)))}: unknown field; expected the field table alone")
    return table


def _movie(found: Any, where: str, limits: Limits) -> Asked:
    if not isinstance(found, dict):
        raise Refusal(422, f"{where}: {_kind(found)}; expected an object with title, plot or poster")
    prefix = f"{where}." if where else ""
    for name, value in found.items():
        if name not in _FIELDS:
            raise Refusal(422, f"{prefix}{quoted(name)}: unknown field; expected {', '.join(_FIELDS)}")
        if value is None or (name == "poster" and isinstance(value, bytes)):
            continue
        if not isinstance(value, str):
            raise Refusal(422, f"{prefix}{name}: {_kind(value)}; expected text")
        if name != "poster":
            _check_text(f"{prefix}{name}", value, limits)
    return Asked(**found)


def _check_text(where: str, text: str, limits: Limits) -> None:
    if len(text) > limits.text_characters:
        raise Refusal(
            413, f"{where}: {len(text):,} characters; expected at most {limits.text_characters:,}: shorten it"
        )
    if "\0" in text:
        raise Refusal(422, f"{where}: holds a NUL character, as files do that are no text; take it out")


def _kind(value: object) -> str:
    if isinstance(value, list) and not value:
        return "an empty list"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _parts(body: bytes, content_type: str) -> dict[str, str | File]:
    """The fields of a multipart form, each of which may be there once."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise Refusal(400, f"Content-Type: {FORM} without a boundary; let the HTTP library set it")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Refusal(400, f"body: a broken form ({error}); let an HTTP library make it") from None
    if not form.is_ended:
        raise Refusal(400, "body: a form that breaks off before its last boundary; send it as a whole")
    return form.parts


class _Form:
    """Takes what the parser finds."""

    def __init__(self) -> None:
        self.parts: dict[str, str | File] = {}
        self.is_ended = False
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._content = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        """For the parser, by the names of its events."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._grow("_name", data[start:end]),
            "on_header_value": lambda data, start, end: self._grow("_value", data[start:end]),
            "on_header_end": self._header,
            "on_part_data": lambda data, start, end: self._content.extend(memoryview(data)[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _grow(self, attribute: str, more: bytes) -> None:
        setattr(self, attribute, getattr(self, attribute) + more)

    def _begin(self) -> None:
        if len(self.parts) >= _MOST_PARTS:
            raise Refusal(413, f"body: a form with more than {_MOST_PARTS} fields; expected title, plot and poster")
        self._headers, self._content = {}, bytearray()

    def _header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _end(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or not options.get(b"name"):
            raise Refusal(400, "body: a part of the form without a name; let an HTTP library make it")
        name = options[b"name"].decode("utf-8", "replace")
        if name in self.parts:
            raise Refusal(422, f"{quoted(name)}: more than one field of this name; expected one")
        if b"filename" in options or name in _FILES:
            self.parts[name] = File(options.get(b"filename", b"").decode("utf-8", "replace"), bytes(self._content))
            return
        try:
            self.parts[name] = self._content.decode()
        except UnicodeDecodeError:
            raise Refusal(400, f"{quoted(name)}: not UTF-8; send text as UTF-8") from None

    def _finish(self) -> None:
        self.is_ended = True
