"""Tables on disk: bounded Parquet files, and a manifest written last that says the table is complete.

Parts appear whole or not at all, so a killed run leaves rows that are good, and no manifest.
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
from mmgenre.tables.manifest import MANIFEST, STARTED, Keep, Manifest, Output, Recipe, read_manifest
from mmgenre.tables.schema import conform

PARTS = "part-*.parquet"
_BYTES_PER_GROUP = 8 * 2**20


class TableWriter:
    """A table directory being written by one run.

    Args:
        directory: path or URI of the table.
        schema: what every part must conform to.
        recipe: what the table is made of.
        owned: see Output.
    """

    def __init__(self, directory: str, schema: pa.Schema, recipe: Recipe, owned: tuple[str, ...] = (PARTS,)):
        self.directory = directory
        self._schema = schema
        self._output = Output(directory, recipe, owned)

    def begin(self, *, overwrite: bool = False, keep: Keep = "nothing") -> Manifest | None:
        """Make the directory ready, or return the manifest of a complete table: see Output.begin."""
        return self._output.begin(overwrite=overwrite, keep=keep)

    def finished(self) -> Manifest | None:
        """See Output.finished."""
        return self._output.finished()

    def keeps(self, *, overwrite: bool, keep: Keep) -> bool:
        """See Output.keeps."""
        return self._output.keeps(overwrite=overwrite, keep=keep)

    def start(self, *, keeps: bool) -> None:
        """See Output.start."""
        self._output.start(keeps=keeps)

    def write(self, table: pa.Table, groups: Sequence[int] | None = None) -> None:
        """Add one part, with row groups of these sizes; a table without rows adds none."""
        if table.num_rows:
            write_part(table, self.directory, self._schema, groups=groups)

    def written(self, columns: Sequence[str] = ("imdb_id",)) -> pa.Table:
        """Columns of all rows written so far, in this run or in the one it goes on from."""
        return scan(self.directory, parts_in(self.directory), self._schema).to_table(columns=list(columns))

    def finish(
        self, *, rows_in: int, expected_rows: int | None = None, notes: dict[str, Any] | None = None
    ) -> Manifest:
        """Check the rows, write the manifest, and so mark the table complete.

        Args:
            rows_in: the rows that the stage read.
            expected_rows: the number of rows the table must have; ids must be distinct in any case.
            notes: JSON values to remember.

        Raises:
            RuntimeError: rows are missing or doubled: a bug, and the table stays incomplete.
        """
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
        InputError: nothing is there, it is not complete, or it is a table of another kind.
    """

    def __init__(self, directory: str, schema: pa.Schema | None = None):
        self.directory = directory
        self.manifest = _require_manifest(directory)
        if schema is not None:
            self._check(schema)

    @property
    def files(self) -> list[str]:
        """Locations of the parts."""
        return [storage.join(self.directory, name) for name in self.manifest.files]

    @cached_property
    def dataset(self) -> pads.Dataset:
        """The parts as one pyarrow dataset."""
        return scan(self.directory, self.manifest.files, None)

    def read(self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """The rows, or some columns of some rows, in memory."""
        return self.dataset.to_table(columns=None if columns is None else list(columns), filter=filter)

    def _check(self, schema: pa.Schema) -> None:
        missing = [name for name in schema.names if name not in self.dataset.schema.names]
        if missing:
            raise InputError(
                f"{self.directory}: a table made by jobs/{self.manifest.recipe.job}.py, without the columns "
                f"{', '.join(missing)}; expected the columns {', '.join(schema.names)}"
            )


def write_part(
    table: pa.Table, directory: str, schema: pa.Schema, after: int = 0, groups: Sequence[int] | None = None
) -> str:
    """Write one part, whole or not at all; returns its file name.

    Names sort by time, so that one writer's rows are read back in its order; `after` is the time of a part that this
    one must follow, whatever the clock says. `groups` are the rows of each row group.
    """
    name = f"part-{max(time.time_ns(), after + 1)}-{uuid.uuid4().hex[:8]}.parquet"
    write_parquet(conform(table, schema), storage.join(directory, name), groups)
    return name


def write_parquet(table: pa.Table, location: str, groups: Sequence[int] | None = None) -> None:
    """Write one Parquet file, whole or not at all; groups: the rows of each row group, by default some megabytes."""
    sink = pa.BufferOutputStream()
    start = 0
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        for size in _groups(table) if groups is None else groups:
            writer.write_table(table.slice(start, size), row_group_size=max(1, size))
            start += size
    storage.write_bytes(location, sink.getvalue())


def _groups(table: pa.Table) -> list[int]:
    """Rows of row groups that are small enough for a reader of a few rows, above all where they hold images."""
    num_groups = max(1, -(-table.nbytes // _BYTES_PER_GROUP))
    size = max(1, -(-table.num_rows // num_groups))
    return [min(size, table.num_rows - start) for start in range(0, max(1, table.num_rows), size)]


def count_values(values: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs."""
    return {entry["values"]: entry["counts"] for entry in values.value_counts().to_pylist()}


def time_of(part: str) -> int:
    """When a part was written, in nanoseconds, as its name says."""
    return int(part.split("-")[1])


def parts_in(directory: str) -> list[str]:
    """File names of the parts that are there, oldest first, whether the table is complete or not."""
    return fnmatch.filter(storage.names_in(directory), PARTS)


def scan(directory: str, names: Iterable[str], schema: pa.Schema | None) -> pads.Dataset:
    """Parts as one dataset, in the order of the names."""
    filesystem, path = storage.resolve(directory)
    files = [storage.join(path, name) for name in names]
    if not files and schema is not None:
        return pads.dataset(schema.empty_table())
    return pads.dataset(files, filesystem=filesystem, format="parquet", schema=schema)


def _require_manifest(directory: str) -> Manifest:
    manifest = read_manifest(directory)
    if manifest is not None:
        return manifest
    if STARTED in storage.names_in(directory):
        raise InputError(f"{directory}: not complete; run the job that makes it again, it goes on where it was")
    raise InputError(f"{directory}: no table there; expected a folder with {MANIFEST}, as the jobs write it")


def check_rows(directory: str, ids: Distinct, expected: int | None) -> None:
    """Raise RuntimeError unless ids are distinct and as many as expected."""
    if ids.num_distinct != len(ids) or (expected is not None and expected != len(ids)):
        wanted = "" if expected is None else f", expected {expected:,}"
        raise RuntimeError(
            f"{directory}: {len(ids):,} rows with {ids.num_distinct:,} distinct ids{wanted}; left incomplete"
        )
