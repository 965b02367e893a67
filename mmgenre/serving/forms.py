"""Multipart forms as a dict of text and files."""

import io
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from mmgenre.serving.request_error import RequestError, quoted

JSON, FORM = "application/json", "multipart/form-data"
# Fields whose content is bytes even if the client sent them without a file name.
_FILE_FIELDS = ("poster", "table")
_MAX_FIELDS = 16


@dataclass(frozen=True)
class UploadedFile:
    """A file field of a form.

    Args:
        name: the client's file name; "" if it sent none.
        content: the bytes.
    """

    name: str
    content: bytes


def media_type(content_type: str) -> str:
    """The media type in a Content-Type header: JSON or FORM.

    Raises:
        RequestError: any other media type.
    """
    name = content_type.partition(";")[0].strip().lower()
    if name not in (JSON, FORM):
        raise RequestError(415, f"Content-Type: {quoted(name) if name else 'none'}; expected {JSON} or {FORM}")
    return name


def parse_form(body: bytes, content_type: str) -> dict[str, str | UploadedFile]:
    """The fields of a form, by name.

    FastAPI's form parameters are not used: Starlette decodes text that is not UTF-8 as Latin-1, drops the last field of
    a truncated form without an error, and spools files to disk.

    Raises:
        RequestError: a malformed or truncated form, two fields of one name, or too many fields.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise RequestError(400, f"Content-Type: {FORM} without a boundary; let the HTTP library set it")
    fields: dict[str, str | UploadedFile] = {}
    ends: list[bool] = []

    def add(field: Field | File) -> None:
        name = (field.field_name or b"").decode("utf-8", "replace")
        if name in fields:
            raise RequestError(422, f"{quoted(name)}: more than one field of this name; expected one")
        if len(fields) == _MAX_FIELDS:
            raise RequestError(
                413, f"body: a form with more than {_MAX_FIELDS} fields; expected title, plot and poster"
            )
        fields[name] = _value(name, field)

    config = {"MAX_MEMORY_FILE_SIZE": float("inf")}
    try:
        parser = FormParser(FORM, add, add, lambda: ends.append(True), boundary, config=config)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RequestError(
            400, f"body: malformed form ({quoted(error, 120)}); use an HTTP library to build it"
        ) from None
    if not ends:
        raise RequestError(400, "body: truncated form, its final boundary is missing; send the whole form")
    return fields


def parse_table_form(body: bytes, content_type: str) -> UploadedFile:
    """The CSV file of a form whose only field is `table`.

    Raises:
        RequestError: not such a form.
    """
    fields = parse_form(body, content_type)
    table = fields.pop("table", None)
    if not isinstance(table, UploadedFile):
        raise RequestError(422, "table: missing, or not a file; expected a CSV file in the field table")
    if fields:
        raise RequestError(422, f"{quoted(next(iter(fields)))}: unknown field; expected only the field table")
    return table


def _value(name: str, field: Field | File) -> str | UploadedFile:
    if not name:
        raise RequestError(400, "body: a form field without a name; use an HTTP library to build the form")
    if isinstance(field, File):
        file = field.file_object
        assert isinstance(file, io.BytesIO)  # noqa: S101 - files of any size stay in memory
        return UploadedFile((field.file_name or b"").decode("utf-8", "replace"), file.getvalue())
    content = field.value or b""
    if name in _FILE_FIELDS:
        return UploadedFile("", content)
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise RequestError(400, f"{quoted(name)}: not UTF-8; send text as UTF-8") from None
