"""Streams of small tables, gathered into tables of a useful size."""

from collections.abc import Iterable, Iterator

import pyarrow as pa


def gather(tables: Iterable[pa.Table], *, rows: int | None = None, num_bytes: int | None = None) -> Iterator[pa.Table]:
    """Concatenate consecutive tables until they have at least this many rows or bytes.

    Args:
        tables: of one schema.
        rows: None: no limit.
        num_bytes: None: no limit.
    """
    pending: list[pa.Table] = []
    pending_rows = pending_bytes = 0
    for table in tables:
        pending.append(table)
        pending_rows += table.num_rows
        pending_bytes += table.nbytes if num_bytes is not None else 0
        if (rows is not None and pending_rows >= rows) or (num_bytes is not None and pending_bytes >= num_bytes):
            yield pa.concat_tables(pending)
            pending, pending_rows, pending_bytes = [], 0, 0
    if pending:
        yield pa.concat_tables(pending)
