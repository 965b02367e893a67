"""Tables on disk: Parquet files of bounded size, and a manifest that is written last.

Parts are written atomically, so a killed run leaves valid rows and no manifest.
"""

import fnmatch
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from mmgenre.errors import InputError
from mmgenre.tables import storage
from mmgenre.tables.ids import Distinct
from mmgenre.tables.manifest import MANIFEST, Manifest, read_manifest
from mmgenre.tables.output import PARTS, STARTED, Output
from mmgenre.tables.schema import conform

_BYTES_PER_GROUP = 8 * 2**20


class TableWriter:
    """Writes the parts of a table, and checks its rows at the end.

    Args:
        output: the table's folder; rows are written inside its `with` block.
        schema: what every part must conform to.
    """

    def __init__(self, output: Output, schema: pa.Schema):
        self.directory = output.directory
        self._schema = schema
        self._output = output

    def write(self, table: pa.Table, groups: Sequence[int] | None = None) -> None:
        """Add one part, with row groups of the given sizes; a table without rows adds none."""
        self._output.require_open()
        if table.num_rows:
            write_part(table, self.directory, self._schema, groups=groups)

    def clear(self) -> None:
        """Delete the parts of an earlier run, whose rows this one writes again."""
        self._output.require_open()
        for name in parts_in(self.directory):
            storage.delete(storage.join(self.directory, name))

    def written(self, columns: Sequence[str] = ("imdb_id",)) -> pa.Table:
        """Columns of all rows in the table so far, those of a resumed run included."""
        return scan(self.directory, parts_in(self.directory), self._schema).to_table(columns=list(columns))

    def finish(
        self, *, rows_in: int, expected_rows: int | None = None, notes: dict[str, Any] | None = None
    ) -> Manifest:
        """Check the rows and complete the table.

        Args:
            rows_in: rows the stage read.
            expected_rows: rows the table must have; ids must be distinct in any case.
            notes: JSON values of the stage's own.

        Raises:
            RuntimeError: rows are missing or duplicated, which is a bug; the table stays incomplete.
        """
        self._output.require_open()
        files = parts_in(self.directory)
        if not files:
            files = [write_part(self._schema.empty_table(), self.directory, self._schema)]
        ids, statuses = Distinct(), Counter[str]()
        columns = ["imdb_id", "status"] if "status" in self._schema.names else ["imdb_id"]
        for batch in scan(self.directory, files, self._schema).to_batches(columns=columns):
            ids.add(batch["imdb_id"])
            statuses.update(count_values(batch["status"]) if "status" in columns else {"": len(batch)})
        check_rows(self.directory, ids, expected_rows)
        return self._output.complete(rows_in, statuses, notes or {}, files)


class Table:
    """A complete table.

    Raises:
        InputError: the folder holds no table, an unfinished one, or one without the columns of the schema.
    """

    def __init__(self, directory: str, schema: pa.Schema | None = None):
        self.directory = directory
        self.manifest = _require_manifest(directory)
        if schema is not None:
            self._check(schema)

    @property
    def files(self) -> list[str]:
        """Paths or URIs of the parts."""
        return [storage.join(self.directory, name) for name in self.manifest.files]

    @cached_property
    def dataset(self) -> pads.Dataset:
        """The parts as one pyarrow dataset."""
        return scan(self.directory, self.manifest.files, None)

    def read(self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """Read rows into memory, by default all rows and columns."""
        return self.dataset.to_table(columns=None if columns is None else list(columns), filter=filter)

    def _check(self, schema: pa.Schema) -> None:
        missing = [name for name in schema.names if name not in self.dataset.schema.names]
        if missing:
            raise InputError(
                f"{self.directory}: a table made by jobs/{self.manifest.recipe.job}.py, without the columns "
                f"{', '.join(missing)}; expected the columns {', '.join(schema.names)}"
            )


def write_part(  # noqa: PLR0913 - what and where, and three rare choices
    table: pa.Table,
    directory: str,
    schema: pa.Schema,
    after: int = 0,
    *,
    prefix: str = "part",
    groups: Sequence[int] | None = None,
) -> str:
    """Write one part atomically; returns its file name.

    Names sort by time, so that the rows of one writer are read in the order of writing.

    Args:
        table: the rows.
        directory: the table's folder.
        schema: what the part must conform to.
        after: time of a part that this one must follow even if the clock went back, in nanoseconds.
        prefix: start of the file name.
        groups: rows of each row group.
    """
    name = f"{prefix}-{max(time.time_ns(), after + 1)}-{uuid.uuid4().hex[:8]}.parquet"
    write_parquet(conform(table, schema), storage.join(directory, name), groups)
    return name


def write_parquet(table: pa.Table, location: str, groups: Sequence[int] | None = None) -> None:
    """Write one Parquet file atomically; `groups`: rows of each row group, by default about 8 MB each."""
    sink = pa.BufferOutputStream()
    start = 0
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        for size in _groups(table) if groups is None else groups:
            writer.write_table(table.slice(start, size), row_group_size=max(1, size))
            start += size
    storage.write_bytes(location, sink.getvalue())


def _groups(table: pa.Table) -> list[int]:
    """Rows of row groups that are small enough to read for a few rows only, which matters for images."""
    num_groups = max(1, -(-table.nbytes // _BYTES_PER_GROUP))
    size = max(1, -(-table.num_rows // num_groups))
    return [min(size, table.num_rows - start) for start in range(0, max(1, table.num_rows), size)]


def count_values(values: pa.ChunkedArray) -> dict[str, int]:
    """Number of occurrences of each value."""
    return {entry["values"]: entry["counts"] for entry in values.value_counts().to_pylist()}


def time_of(part: str) -> int:
    """Time in the name of a part, in nanoseconds."""
    return int(part.split("-")[1])


def parts_in(directory: str) -> list[str]:
    """File names of the parts of a complete or unfinished table, oldest first."""
    return fnmatch.filter(storage.names_in(directory), PARTS)


def scan(directory: str, names: Iterable[str], schema: pa.Schema | None) -> pads.Dataset:
    """One dataset of the given parts, in that order."""
    filesystem, path = storage.resolve(directory)
    files = [storage.join(path, name) for name in names]
    if not files and schema is not None:
        return pads.dataset(schema.empty_table())
    return pads.dataset(files, filesystem=filesystem, format="parquet", schema=schema)


def _require_manifest(directory: str) -> Manifest:
    manifest = read_manifest(directory)
    if manifest is not None:
        if missing := manifest.missing(directory):
            raise InputError(
                f"{directory}: {len(missing)} of the {len(manifest.files)} files in {MANIFEST} are missing, such as "
                f"{missing[0]}; run the job that makes the table again"
            )
        return manifest
    if STARTED in storage.names_in(directory):
        raise InputError(f"{directory}: not complete; run the job that makes it again to resume it")
    raise InputError(f"{directory}: no table there; expected a folder with {MANIFEST}, written by a job")


def check_rows(directory: str, ids: Distinct, expected: int | None) -> None:
    """Raise RuntimeError unless the ids are distinct and as many as expected."""
    if ids.num_distinct != len(ids) or (expected is not None and expected != len(ids)):
        expectation = "" if expected is None else f", expected {expected:,}"
        raise RuntimeError(
            f"{directory}: {len(ids):,} rows with {ids.num_distinct:,} distinct ids{expectation}; left incomplete"
        )
