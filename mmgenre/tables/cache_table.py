"""A table that is its own cache: later runs add rows, and the newest row of an id counts.

A run writes many small parts, so that little is lost when it is killed. Finishing merges them into larger ones.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from mmgenre.tables import storage
from mmgenre.tables.chunks import gather
from mmgenre.tables.ids import Distinct
from mmgenre.tables.manifest import Manifest
from mmgenre.tables.output import Output
from mmgenre.tables.table import check_rows, count_values, parts_in, scan, time_of, write_part

_ROWS_PER_PART = 50_000
_BYTES_PER_PART = 64 * 2**20
_BATCH = 5_000
_THREADS = 8
_KEYS = ("imdb_id", "status")
_FAILED = "unreachable"


class CacheTable:
    """A table that later runs add rows to; reading works at any time, writing inside `with table.output`.

    Args:
        output: the table's folder, in mode "extend".
        schema: with columns imdb_id and status.
    """

    def __init__(self, output: Output, schema: pa.Schema):
        self.directory = storage.absolute(output.directory)
        self.schema = schema
        self.output = output

    def newest(self) -> int:
        """Time of the newest part, which later parts must follow, in nanoseconds."""
        return max(map(time_of, parts_in(self.directory)), default=0)

    def latest(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the newest row of every id."""
        rows = self._read(dict.fromkeys([*_KEYS, *columns]), None) if self.output.keeps else self.schema.empty_table()
        return rows.filter(pa.array(_are_newest(rows))).select(list(columns))

    def rows_of(self, ids: pa.ChunkedArray | pa.Array, columns: Sequence[str]) -> pa.Table:
        """Columns of the newest row of each given id; they must include `imdb_id` and `status`."""
        rows = self._read(columns, pc.field("imdb_id").isin(ids))
        return rows.filter(pa.array(_are_newest(rows)))

    def covers(self, ids: pa.ChunkedArray) -> bool:
        """Whether every id has a row."""
        return pc.all(pc.is_in(ids, self.latest(["imdb_id"])["imdb_id"])).as_py() is not False

    def write(self, rows: pa.Table) -> None:
        """Add rows as one part."""
        self.output.require_open()
        if rows.num_rows:
            write_part(rows, self.directory, self.schema, self.newest())

    def finish(self, ids: pa.ChunkedArray, *, content: Sequence[str], notes: dict[str, Any] | None = None) -> Manifest:
        """Merge the parts and complete the table.

        Args:
            ids: the ids the stage read; each must have a row.
            content: the columns later stages depend on, which determine the fingerprint.
            notes: JSON values of the stage's own.

        Raises:
            RuntimeError: rows are missing, because of a bug or of actors that write to another disk; the table stays
                incomplete.
        """
        self.output.require_open()
        if not self.covers(ids):
            raise RuntimeError(f"{self.directory}: rows are missing; left incomplete")
        files, superseded = self._merge()
        parts = scan(self.directory, files, self.schema)
        rows = parts.to_table(columns=list(_KEYS))
        check_rows(self.directory, Distinct(rows["imdb_id"]), None)
        statuses = count_values(rows["status"])
        manifest = self.output.complete(len(ids), statuses, notes or {}, files, _digest(parts, content))
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda name: storage.delete(storage.join(self.directory, name)), superseded))
        return manifest

    def _read(self, columns: Iterable[str], filter: pc.Expression | None) -> pa.Table:
        return scan(self.directory, parts_in(self.directory), self.schema).to_table(
            columns=list(columns), filter=filter
        )

    def _merge(self) -> tuple[list[str], list[str]]:
        """Names of the parts that hold exactly the newest rows, and of those no longer needed."""
        names = parts_in(self.directory)
        is_newest = _are_newest(scan(self.directory, names, self.schema).to_table(columns=list(_KEYS)))
        small = [part for part in self._parts(names, is_newest) if not (part.is_large and part.is_newest.all())]
        if names and len(small) <= 1 and is_newest.all():
            return names, []
        merged = self._rewrite(small)
        replaced = {part.name for part in small}
        return sorted(set(names) - replaced | set(merged)), sorted(replaced)

    def _parts(self, names: list[str], is_newest: np.ndarray) -> Iterator["_PartRows"]:
        fragments = scan(self.directory, names, self.schema).get_fragments()
        start = 0
        # Each metadata read is a round trip to the object store.
        with ThreadPoolExecutor(_THREADS) as threads:
            for name, (num_rows, num_bytes) in zip(names, threads.map(_size, fragments), strict=True):
                is_large = num_rows >= _ROWS_PER_PART // 2 or num_bytes >= _BYTES_PER_PART // 4
                yield _PartRows(name, is_newest[start : start + num_rows], is_large)
                start += num_rows

    def _rewrite(self, parts: list["_PartRows"]) -> list[str]:
        """Write the newest rows of parts into bounded new parts; returns their names."""
        after = self.newest()
        tables = gather(self._newest_rows(parts), rows=_ROWS_PER_PART, num_bytes=_BYTES_PER_PART)
        written = [write_part(table, self.directory, self.schema, after) for table in tables]
        return written or [write_part(self.schema.empty_table(), self.directory, self.schema, after)]

    def _newest_rows(self, parts: list["_PartRows"]) -> Iterator[pa.Table]:
        def read(part: _PartRows) -> pa.Table:
            return scan(self.directory, [part.name], self.schema).to_table().filter(pa.array(part.is_newest))

        with ThreadPoolExecutor(_THREADS) as threads:
            for start in range(0, len(parts), _THREADS):
                for rows in threads.map(read, parts[start : start + _THREADS]):
                    for first in range(0, len(rows), _BATCH):
                        yield rows.slice(first, _BATCH)


class _PartRows(NamedTuple):
    """A part of the table.

    Args:
        name: its file.
        is_newest: shape (rows,), bool: whether a row is the newest of its id.
        is_large: too large to be worth merging.
    """

    name: str
    is_newest: np.ndarray
    is_large: bool


def _size(fragment: Any) -> tuple[int, int]:
    """Number of rows and of bytes."""
    return fragment.count_rows(), sum(group.total_byte_size for group in fragment.row_groups)


def _are_newest(rows: pa.Table) -> np.ndarray:
    """Whether each row is the newest of its id, shape (N,), bool; a failed refresh never replaces a row."""
    is_newest = np.ones(len(rows), bool)
    if pc.count_distinct(rows["imdb_id"]).as_py() < len(rows):
        failed = pc.equal(rows["status"], _FAILED).to_numpy()
        rank = np.arange(len(rows)) + np.where(failed, 0, len(rows))
        table = pa.table({"id": rows["imdb_id"], "rank": rank})
        best = table.group_by("id").aggregate([("rank", "max")])["rank_max"].to_numpy()
        is_newest = np.isin(rank, best)
    return is_newest


def _digest(parts: pads.Dataset, columns: Sequence[str]) -> str:
    """Digest of some columns, independent of the order of rows and of their distribution over parts."""
    totals = {"mmgenre_digest_1": 0, "mmgenre_digest_2": 0}
    for batch in parts.to_batches(columns=list(columns), batch_size=_ROWS_PER_PART):
        rows = batch.to_pandas()
        for key, total in totals.items():
            hashes = pd.util.hash_pandas_object(rows, index=False, hash_key=key)
            totals[key] = (total + int(hashes.to_numpy().sum(dtype=np.uint64))) % 2**64
    return hashlib.sha256(repr(totals).encode()).hexdigest()[:32]
