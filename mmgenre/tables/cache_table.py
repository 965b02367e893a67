"""A table that is its own cache: later runs add rows, and the best row of each id counts.

A run writes many small parts, so that little is lost when it is killed. Finishing merges them into larger ones. Rows of
ids that the stage no longer reads leave the table, but stay in the folder in case the ids come back.
"""

import fnmatch
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
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import PARTS, Output
from mmgenre.tables.table import check_rows, count_values, scan, time_of, write_part

_ROWS_PER_PART = 50_000
_BYTES_PER_PART = 64 * 2**20
_BATCH = 5_000
_THREADS = 8
_KEYS = ("imdb_id", "status")
_FAILED = ("unreachable", "unreadable")
# Files with an underscore are not part of the table for readers of Parquet folders.
RETIRED = "_retired-*.parquet"


class CacheTable:
    """A table that later runs add rows to; reading works at any time, writing inside `with table.output`.

    Of several rows of an id, the last successful one is the best, unless a later failed one has more content: a web
    service may have failed after another one had given the plot.

    Args:
        directory: path or URI of the table.
        recipe: what it is made from; other inputs extend it, other settings need `overwrite`.
        schema: with columns imdb_id and status.
        content: columns that make a failed row worth keeping, the most important one first.
        overwrite: replace a table of other settings.

    Attributes:
        output: the table's folder.
    """

    def __init__(
        self, directory: str, recipe: Recipe, schema: pa.Schema, *, content: Sequence[str], overwrite: bool = False
    ):
        self.output = Output(directory, recipe, (PARTS, RETIRED), mode="extend", overwrite=overwrite)
        self.directory = storage.absolute(directory)
        self.schema = schema
        self._ranks = list(content)
        self._keys = [*_KEYS, *content]
        self._readable: set[str] = set()

    def newest(self) -> int:
        """Time of the newest part, which later parts must follow, in nanoseconds."""
        return max(map(time_of, self._all_names()), default=0)

    def latest(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the best row of every id."""
        rows = self._read(columns, None) if self.output.keeps else self.schema.empty_table()
        return rows.filter(pa.array(_are_best(rows, self._ranks))).select(list(columns))

    def rows_of(self, ids: pa.ChunkedArray | pa.Array, columns: Sequence[str]) -> pa.Table:
        """Columns of the best row of each given id."""
        rows = self._read(columns, pc.field("imdb_id").isin(ids))
        return rows.filter(pa.array(_are_best(rows, self._ranks))).select(list(columns))

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
        files, superseded = self._merge(ids)
        parts = scan(self.directory, files, self.schema)
        rows = parts.to_table(columns=list(_KEYS))
        check_rows(self.directory, Distinct(rows["imdb_id"]), len(Distinct(ids)))
        statuses = count_values(rows["status"])
        manifest = self.output.complete(len(ids), statuses, notes or {}, files, _digest(parts, content))
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(lambda name: storage.delete(storage.join(self.directory, name)), superseded))
        return manifest

    def _names(self) -> list[str]:
        """Names of the parts, retired ones included, oldest first; parts that a power failure damaged do not count."""
        parts = self._all_names()
        new = [name for name in parts if name not in self._readable]
        unreadable = set(storage.unreadable_parquet(storage.join(self.directory, name) for name in new))
        self._readable.update(name for name in new if storage.join(self.directory, name) not in unreadable)
        return [name for name in parts if name in self._readable]

    def _all_names(self) -> list[str]:
        names = storage.names_in(self.directory)
        return sorted(fnmatch.filter(names, PARTS) + fnmatch.filter(names, RETIRED), key=time_of)

    def _read(self, columns: Iterable[str], filter: pc.Expression | None) -> pa.Table:
        columns = list(dict.fromkeys([*self._keys, *columns]))
        return scan(self.directory, self._names(), self.schema).to_table(columns=columns, filter=filter)

    def _merge(self, ids: pa.ChunkedArray) -> tuple[list[str], list[str]]:
        """Names of the parts that hold exactly the best rows of the ids, and of those no longer needed."""
        names = self._names()
        damaged = set(self._all_names()).difference(names)
        rows = scan(self.directory, names, self.schema).to_table(columns=self._keys)
        is_best = _are_best(rows, self._ranks)
        is_current = pc.is_in(rows["imdb_id"], ids).to_numpy()
        parts = list(self._parts(names, is_best, is_current))
        changed = [part for part in parts if not part.is_clean]
        small = [part for part in parts if part.is_clean and not part.is_large]
        rewritten = list(changed)
        for is_retired in (False, True):
            alike = [part for part in small if part.is_retired is is_retired]
            # One small part alone would be written as it is.
            rewritten += alike if changed or len(alike) > 1 else []
        self._rewrite(rewritten, current=False)
        merged = self._rewrite(rewritten, current=True)
        kept = {part.name for part in parts if not part.is_retired} - {part.name for part in rewritten}
        if not kept and not merged:
            merged = [write_part(self.schema.empty_table(), self.directory, self.schema)]
        return sorted(kept | set(merged)), sorted({part.name for part in rewritten} | damaged)

    def _parts(self, names: list[str], is_best: np.ndarray, is_current: np.ndarray) -> Iterator["_PartRows"]:
        fragments = scan(self.directory, names, self.schema).get_fragments()
        start = 0
        # Each metadata read is a round trip to the object store.
        with ThreadPoolExecutor(_THREADS) as threads:
            for name, (num_rows, num_bytes) in zip(names, threads.map(_size, fragments), strict=True):
                is_large = num_rows >= _ROWS_PER_PART // 2 or num_bytes >= _BYTES_PER_PART // 4
                rows = slice(start, start + num_rows)
                yield _PartRows(name, is_best[rows], is_current[rows], is_large)
                start += num_rows

    def _rewrite(self, parts: list["_PartRows"], *, current: bool) -> list[str]:
        """Write the best rows of parts into bounded new parts, of ids that are current or not; returns their names."""
        after = self.newest()
        rows = self._best_rows(parts, current=current)
        tables = gather(rows, rows=_ROWS_PER_PART, num_bytes=_BYTES_PER_PART)
        prefix = "part" if current else "_retired"
        return [write_part(table, self.directory, self.schema, after, prefix=prefix) for table in tables if len(table)]

    def _best_rows(self, parts: list["_PartRows"], *, current: bool) -> Iterator[pa.Table]:
        def read(part: _PartRows) -> pa.Table:
            mask = part.is_best & (part.is_current == current)
            rows = scan(self.directory, [part.name], self.schema)
            return rows.to_table().filter(pa.array(mask)) if mask.any() else self.schema.empty_table()

        with ThreadPoolExecutor(_THREADS) as threads:
            for start in range(0, len(parts), _THREADS):
                for rows in threads.map(read, parts[start : start + _THREADS]):
                    for first in range(0, len(rows), _BATCH):
                        yield rows.slice(first, _BATCH)


class _PartRows(NamedTuple):
    """A part of the table.

    Args:
        name: its file.
        is_best: shape (rows,), bool: whether a row is the best of its id.
        is_current: shape (rows,), bool: whether the stage still reads the id of a row.
        is_large: too large to be worth merging.
    """

    name: str
    is_best: np.ndarray
    is_current: np.ndarray
    is_large: bool

    @property
    def is_retired(self) -> bool:
        """Whether the file holds rows that have left the table."""
        return fnmatch.fnmatch(self.name, RETIRED)

    @property
    def is_clean(self) -> bool:
        """Whether every row is in the right file."""
        return bool(self.is_best.all() and (self.is_current != self.is_retired).all())


def _size(fragment: Any) -> tuple[int, int]:
    """Number of rows and of bytes."""
    return fragment.count_rows(), sum(group.total_byte_size for group in fragment.row_groups)


def _are_best(rows: pa.Table, content: Sequence[str]) -> np.ndarray:
    """Whether each row is the best of its id, shape (N,), bool.

    Args:
        rows: in the order of writing.
        content: see CacheTable.
    """
    if pc.count_distinct(rows["imdb_id"]).as_py() == len(rows):
        return np.ones(len(rows), bool)
    ids = rows["imdb_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.arange(len(rows))
    is_success = ~pc.is_in(rows["status"], pa.array(_FAILED)).to_numpy()
    last_success = np.full(ids.max() + 1, -1)
    last_success[ids[is_success]] = order[is_success]
    rank = np.zeros(len(rows), np.int64)
    for name in content:
        rank = 2 * rank + rows[name].is_valid().to_numpy()
    rank = (2 * rank + is_success) * len(rows) + order
    rank[order < last_success[ids]] = -1
    best = np.full(len(last_success), -1)
    np.maximum.at(best, ids, rank)
    return rank == best[ids]


def _digest(parts: pads.Dataset, columns: Sequence[str]) -> str:
    """Digest of some columns, independent of the order of rows and of their distribution over parts."""
    totals = {"mmgenre_digest_1": 0, "mmgenre_digest_2": 0}
    for batch in parts.to_batches(columns=list(columns), batch_size=_ROWS_PER_PART):
        rows = batch.to_pandas()
        for key, total in totals.items():
            hashes = pd.util.hash_pandas_object(rows, index=False, hash_key=key)
            totals[key] = (total + int(hashes.to_numpy().sum(dtype=np.uint64))) % 2**64
    return hashlib.sha256(repr(totals).encode()).hexdigest()[:32]
