"""Tables as Ray Data streams: read in blocks, written as parts, with row counts for the driver."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from mmgenre.errors import InputError
from mmgenre.ray_session import IO_ACTOR_CPUS
from mmgenre.tables import storage
from mmgenre.tables.table import Table, count_values, write_part

_MARK = f"{InputError.__module__}.{InputError.__name__}: "


def read(table: Table, columns: Sequence[str], rows_per_block: int) -> "ray.data.Dataset":
    """Read columns of a table in blocks of about `rows_per_block`, the unit of work of later tasks and actors."""
    filesystem, _ = storage.resolve(table.directory)
    paths = [storage.resolve(file)[1] for file in table.files]
    return ray.data.read_parquet(
        paths,
        filesystem=filesystem,
        columns=list(columns),
        num_cpus=IO_ACTOR_CPUS,
        override_num_blocks=-(-table.manifest.rows // rows_per_block),
    )


def write(rows: "ray.data.Dataset", directory: str, schema: pa.Schema, rows_per_part: int) -> Iterator[dict[str, int]]:
    """Write a stream with a status column as parts of a table; yields the number of rows per status of each part.

    Raises:
        InputError: a stage of the stream raised it.
    """

    directory = storage.absolute(directory)

    def commit(batch: pa.Table) -> pa.Table:
        write_part(batch, directory, schema)
        counts = count_values(batch["status"])
        return pa.table({"status": pa.array(counts.keys(), pa.string()), "rows": list(counts.values())})

    parts = rows.map_batches(commit, batch_size=rows_per_part, batch_format="pyarrow", num_cpus=IO_ACTOR_CPUS)
    try:
        for batch in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield dict(zip(batch["status"].to_pylist(), batch["rows"].to_pylist(), strict=True))
    except ray.exceptions.RayError as error:
        raise mistake_in(error) or error from None


def mistake_in(error: Any) -> InputError | None:
    """The InputError that caused an error in another process, or None.

    Ray Data forwards only the text of the exceptions its stages raise.
    """
    _, mark, message = str(error).rpartition(_MARK)
    return InputError(message.splitlines()[0]) if mark else None
