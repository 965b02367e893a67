"""Tables of many chunks: small ones gathered into tables of a useful size, and rows taken from tables of any size.

Arrow's `binary` and `string` arrays hold at most 2 GiB. `take` and `sort_by` join the chunks of a column first, so they
fail for 115,000 posters ("offset overflow") even if only three rows are taken. `filter` works chunk by chunk.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Half of what an array can hold.
_BYTES_PER_CHUNK = 2**30
_LARGE_TYPES = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


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


class RowStore:
    """A table in memory, of any number of bytes, whose rows can be taken in any order.

    Args:
        table: its `binary` and `string` columns may be larger than 2 GiB.
    """

    def __init__(self, table: pa.Table):
        self._schema = table.schema
        fields = [
            field.with_type(_LARGE_TYPES.get(field.type, field.type)).with_nullable(True) for field in table.schema
        ]
        self._large_schema = pa.schema(fields)
        self._batches = table.to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])[:-1]

    def take(self, rows: np.ndarray | pa.Array) -> pa.Table:
        """The given rows, in that order; a null row number gives a row of nulls."""
        numbers = rows if isinstance(rows, pa.Array) else pa.array(rows)
        is_null = numbers.is_null().to_numpy(zero_copy_only=False)
        values = numbers.fill_null(0).to_numpy().astype(np.int64)
        batch_of = np.where(is_null, -1, np.searchsorted(self._starts, values, side="right") - 1)
        by_batch, parts = np.argsort(batch_of, kind="stable"), [self._large_schema.empty_table()]
        by_batch = by_batch[np.count_nonzero(is_null) :]
        ends = np.flatnonzero(np.diff(batch_of[by_batch], append=-1)) + 1
        for start, end in zip([0, *ends[:-1]], ends, strict=True) if len(by_batch) else ():
            number = batch_of[by_batch[start]]
            parts.append(self._take_from(number, values[by_batch[start:end]] - self._starts[number]))
        places = np.zeros(len(values), np.int64)
        places[by_batch] = np.arange(len(by_batch))
        taken = pa.concat_tables(parts).take(pa.array(places, mask=is_null))
        return pa.concat_tables([self._schema.empty_table(), *map(self._in_own_types, _bounded(taken))])

    def _take_from(self, batch: int, rows: np.ndarray) -> pa.Table:
        """Rows of one batch, in types without a limit."""
        taken = self._batches[batch].take(pa.array(rows))
        return pa.Table.from_batches([taken]).cast(self._large_schema)

    def _in_own_types(self, part: pa.Table) -> pa.Table:
        columns = [column.cast(field.type) for column, field in zip(part.columns, self._schema, strict=True)]
        return pa.Table.from_arrays(columns, schema=self._schema)


def take(table: pa.Table, rows: np.ndarray | pa.Array) -> pa.Table:
    """The given rows of a table of any size, in that order."""
    return RowStore(table).take(rows)


def sorted_by_id(table: pa.Table) -> pa.Table:
    """A table of any size, sorted by `imdb_id`; rows with equal ids keep their order."""
    return take(table, pc.sort_indices(table["imdb_id"]))


def _bounded(table: pa.Table) -> Iterator[pa.Table]:
    """Slices of a table, in each of which no column holds more bytes than an array can."""
    start, ends = 0, np.zeros(len(table), np.int64)
    for column in table.columns:
        if column.type in _LARGE_TYPES.values():
            lengths = pc.binary_length(column).fill_null(0).to_numpy()
            ends += np.cumsum(lengths, dtype=np.int64)
    while start < len(table):
        done = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, done + _BYTES_PER_CHUNK, side="right")))
        yield table.slice(start, end - start)
        start = end
