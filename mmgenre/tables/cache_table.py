"""A table that is its own cache: rows are added as they come, and of rows with one id the last added counts.

A run writes many small parts, so that a kill loses little. Finishing merges them into bounded ones.
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
from mmgenre.tables.ids import Distinct
from mmgenre.tables.manifest import Manifest, Output, Recipe
from mmgenre.tables.table import PARTS, check_rows, count_values, parts_in, scan, time_of, write_part

_ROWS_PER_PART = 50_000
_BYTES_PER_PART = 64 * 2**20
_BATCH = 5_000
_THREADS = 8
_KEYS = ("imdb_id", "status")
_FAILED = "unreachable"


class GrowingTable:
    """A table directory that later runs add to.

    Args:
        directory: path or URI of the table.
        schema: with columns imdb_id and status.
        recipe: what the table is made of; runs with other settings are refused, other inputs are not.
        overwrite: replace a table of other settings instead.

    Raises:
        InputError: the folder holds a table of other settings, or something else.
    """

    def __init__(self, directory: str, schema: pa.Schema, recipe: Recipe, *, overwrite: bool):
        self.directory = storage.absolute(directory)
        self.schema = schema
        self._output = Output(directory, recipe, owned=(PARTS,))
        self._keeps = self._output.keeps(overwrite=overwrite, keep="all")
        self.is_started = False

    def finished(self) -> Manifest | None:
        """The manifest, if the table is complete and made from the same recipe."""
        return self._output.finished()

    def start(self) -> None:
        """Mark the table as being written."""
        self._output.start(keeps=self._keeps)
        self._keeps = self.is_started = True

    def newest(self) -> int:
        """The time of the part that later ones must follow."""
        return max(map(time_of, parts_in(self.directory)), default=0)

    def latest(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the rows that count, one for each id."""
        rows = self._read(dict.fromkeys([*_KEYS, *columns]), None) if self._keeps else self.schema.empty_table()
        return rows.filter(pa.array(_that_count(rows))).select(list(columns))

    def rows_of(self, ids: pa.ChunkedArray | pa.Array, columns: Sequence[str]) -> pa.Table:
        """Columns of the rows that count of some ids; `imdb_id` and `status` have to be among them."""
        rows = self._read(columns, pc.field("imdb_id").isin(ids))
        return rows.filter(pa.array(_that_count(rows)))

    def covers(self, ids: pa.ChunkedArray) -> bool:
        """Whether every id has a row."""
        return pc.all(pc.is_in(ids, self.latest(["imdb_id"])["imdb_id"])).as_py() is not False

    def write(self, rows: pa.Table) -> None:
        """Add rows as one part."""
        if rows.num_rows:
            write_part(rows, self.directory, self.schema, self.newest())

    def finish(self, ids: pa.ChunkedArray, *, content: Sequence[str], notes: dict[str, Any] | None = None) -> Manifest:
        """Merge the parts, write the manifest, and so mark the table complete.

        Args:
            ids: those that the stage read; each must have a row.
            content: the columns by which two tables are the same to later stages.
            notes: JSON values to remember.

        Raises:
            RuntimeError: rows are missing: a bug, or actors that write to another disk; the table stays incomplete.
        """
        if not self.covers(ids):
            raise RuntimeError(f"{self.directory}: rows are missing; left incomplete")
        files, superseded = self._merge()
        parts = scan(self.directory, files, self.schema)
        rows = parts.to_table(columns=list(_KEYS))
        check_rows(self.directory, Distinct(rows["imdb_id"]), None)
        statuses = count_values(rows["status"])
        manifest = self._output.complete(len(ids), statuses, notes or {}, files, _digest(parts, content))
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda name: storage.delete(storage.join(self.directory, name)), superseded))
        return manifest

    def _read(self, columns: Iterable[str], filter: pc.Expression | None) -> pa.Table:
        return scan(self.directory, parts_in(self.directory), self.schema).to_table(
            columns=list(columns), filter=filter
        )

    def _merge(self) -> tuple[list[str], list[str]]:
        """The parts that hold exactly the rows that count, and those that are no longer needed."""
        names = parts_in(self.directory)
        counts = _that_count(scan(self.directory, names, self.schema).to_table(columns=list(_KEYS)))
        small = [part for part in self._parts(names, counts) if not (part.is_large and part.counts.all())]
        if names and len(small) <= 1 and counts.all():
            return names, []
        merged = self._rewrite(small)
        replaced = {part.name for part in small}
        return sorted(set(names) - replaced | set(merged)), sorted(replaced)

    def _parts(self, names: list[str], counts: np.ndarray) -> Iterator["_Part"]:
        fragments = scan(self.directory, names, self.schema).get_fragments()
        start = 0
        # An object store takes its time for each.
        with ThreadPoolExecutor(_THREADS) as threads:
            for name, (num_rows, num_bytes) in zip(names, threads.map(_size, fragments), strict=True):
                is_large = num_rows >= _ROWS_PER_PART // 2 or num_bytes >= _BYTES_PER_PART // 4
                yield _Part(name, counts[start : start + num_rows], is_large)
                start += num_rows

    def _rewrite(self, parts: list["_Part"]) -> list[str]:
        """Write the rows that count into bounded parts; returns their names."""
        after = self.newest()
        written: list[str] = []
        waiting: list[pa.RecordBatch] = []
        num_rows = num_bytes = 0
        for batch in self._counting_batches(parts):
            waiting.append(batch)
            num_rows += batch.num_rows
            num_bytes += batch.nbytes
            if num_rows >= _ROWS_PER_PART or num_bytes >= _BYTES_PER_PART:
                written.append(write_part(pa.Table.from_batches(waiting), self.directory, self.schema, after))
                waiting, num_rows, num_bytes = [], 0, 0
        if waiting or not written:
            last = pa.Table.from_batches(waiting, self.schema)
            written.append(write_part(last, self.directory, self.schema, after))
        return written

    def _counting_batches(self, parts: list["_Part"]) -> Iterator[pa.RecordBatch]:
        def read(part: _Part) -> pa.Table:
            return scan(self.directory, [part.name], self.schema).to_table().filter(pa.array(part.counts))

        with ThreadPoolExecutor(_THREADS) as threads:
            for start in range(0, len(parts), _THREADS):
                for rows in threads.map(read, parts[start : start + _THREADS]):
                    yield from rows.to_batches(max_chunksize=_BATCH)


class _Part(NamedTuple):
    """A part, which of its rows count, and whether it is large enough to stay as it is."""

    name: str
    counts: np.ndarray
    is_large: bool


def _size(fragment: Any) -> tuple[int, int]:
    """Rows and bytes of a part."""
    return fragment.count_rows(), sum(group.total_byte_size for group in fragment.row_groups)


def _that_count(rows: pa.Table) -> np.ndarray:
    """Which rows are the last with their id, shape (N,), bool; failing to fetch a row again does not replace it."""
    counts = np.ones(len(rows), bool)
    if pc.count_distinct(rows["imdb_id"]).as_py() < len(rows):
        failed = pc.equal(rows["status"], _FAILED).to_numpy()
        rank = np.arange(len(rows)) + np.where(failed, 0, len(rows))
        table = pa.table({"id": rows["imdb_id"], "rank": rank})
        best = table.group_by("id").aggregate([("rank", "max")])["rank_max"].to_numpy()
        counts = np.isin(rank, best)
    return counts


def _digest(parts: pads.Dataset, columns: Sequence[str]) -> str:
    """A digest of some columns that does not depend on the order of the rows or on how they are spread over parts."""
    totals = {"mmgenre_digest_1": 0, "mmgenre_digest_2": 0}
    for batch in parts.to_batches(columns=list(columns), batch_size=_ROWS_PER_PART):
        rows = batch.to_pandas()
        for key, total in totals.items():
            hashes = pd.util.hash_pandas_object(rows, index=False, hash_key=key)
            totals[key] = (total + int(hashes.to_numpy().sum(dtype=np.uint64))) % 2**64
    return hashlib.sha256(repr(totals).encode()).hexdigest()[:32]
