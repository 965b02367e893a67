"""Reads users' own files of movies (CSV, TSV or Parquet) under the column names of our tables."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from mmgenre.errors import InputError, one_line
from mmgenre.tables import storage

# Accepted names of each column, in order of preference.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "imdb_id": ("imdb_id", "tconst", "id"),
    "plot": ("plot", "overview", "synopsis", "description"),
    "title": ("title", "primaryTitle"),
    "language": ("language", "original_language"),
    "poster_url": ("poster_url", "poster"),
    "provider_id": ("provider_id", "tmdb_id"),
}
# Share of the texts of a batch that may be invalid UTF-8.
_MAX_INVALID = 0.01
_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")


def read_movies(location: str, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """Batches with the required columns, and the optional ones the file has, all of them text.

    Raises:
        InputError: the file is missing, of an unknown kind or has a broken row, or a column is missing, duplicated or
            not text.
    """
    storage.require_file(location, f"a file of movies ({', '.join(_SUFFIXES)})")
    try:
        batches = iter(_batches(location))
        first = next(batches, None)
        if first is None:
            raise InputError(f"{location}: no rows in it; expected columns {', '.join(required)}")
        columns = _choose(location, first.schema, required, optional)
        yield _rename(first, columns)
        for batch in batches:
            yield _rename(batch, columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{location}: {one_line(error)}") from None


def _batches(location: str) -> Iterator[pa.RecordBatch]:
    filesystem, path = storage.resolve(location)
    if not location.lower().endswith(_SUFFIXES):
        raise InputError(f"{location}: unknown kind of file; expected one of {', '.join(_SUFFIXES)}")
    if location.lower().endswith(".parquet"):
        yield from storage.parquet_batches(location, None, 10_000)
        return
    with filesystem.open_input_stream(path) as stream:
        delimiter = "\t" if ".tsv" in location.lower() else ","
        for batch in pacsv.open_csv(
            stream,
            parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            # Everything is text: the plot "1984" is not a number, and the id "0111161" keeps its zero.
            convert_options=pacsv.ConvertOptions(
                default_column_type=pa.binary(), null_values=["", "\\N"], strings_can_be_null=True
            ),
        ):
            yield pa.RecordBatch.from_arrays([_decoded(column) for column in batch], names=batch.schema.names)


def find_column(names: Sequence[str], name: str) -> str | None:
    """The column of a file that holds `name`, under whichever accepted name; None if there is none."""
    return next((alias for alias in ALIASES.get(name, (name,)) if alias in names), None)


def _choose(location: str, schema: pa.Schema, required: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    """The file's name of each column to read, by our name."""
    chosen = {}
    for name in (*required, *optional):
        own_name = find_column(schema.names, name)
        if own_name is not None:
            chosen[name] = own_name
        elif name in required:
            raise InputError(
                f"{location}: no column {' or '.join(ALIASES.get(name, (name,)))}; found {', '.join(schema.names)}"
            )
    duplicates = [own_name for own_name in chosen.values() if schema.names.count(own_name) > 1]
    if duplicates:
        raise InputError(f"{location}: more than one column {', '.join(duplicates)}; keep one of each name")
    plot = schema.field(chosen["plot"]).type if "plot" in chosen else pa.string()
    if not (pa.types.is_string(plot) or pa.types.is_large_string(plot) or pa.types.is_null(plot)):
        raise InputError(f"{location}: column {chosen['plot']} is {plot}; expected text")
    return chosen


def valid_text(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Text or bytes as text, with U+FFFD for invalid UTF-8, which text columns of Parquet files may hold too."""
    content = column.cast(pa.binary())
    try:
        return content.cast(pa.string())
    except pa.ArrowInvalid:
        texts = [None if value is None else value.decode("utf-8", "replace") for value in content.to_pylist()]
        return pa.array(texts, pa.string()) if isinstance(column, pa.Array) else pa.chunked_array([texts], pa.string())


def _decoded(column: pa.Array) -> pa.Array:
    """Bytes of a text file as text; a little invalid UTF-8 is replaced, much of it means another encoding."""
    texts = valid_text(column)
    num_invalid = pc.sum(pc.not_equal(texts.cast(pa.binary()), column), min_count=0).as_py()
    if num_invalid > _MAX_INVALID * len(column):
        raise pa.ArrowInvalid(f"{num_invalid:,} of {len(column):,} texts are not UTF8; save the file as UTF-8")
    return texts


def _rename(batch: pa.RecordBatch, columns: dict[str, str]) -> pa.RecordBatch:
    arrays = [valid_text(batch.column(own_name).cast(pa.string())) for own_name in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))
