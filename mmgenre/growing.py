"""A table that is its own cache: rows are added as they come, and of rows with one id the last added counts.

A run writes many small parts, so that a kill loses little. Finishing merges them into bounded ones.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from mmgenre import storage
from mmgenre.manifest import Manifest, Output, Recipe
from mmgenre.tables import PARTS, check_rows, count_values, parts_in, scan, write_part

_ROWS_PER_PART = 50_000
_BYTES_PER_PART = 128 * 2**20
_BATCH = 5_000


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

    def finished(self) -> Manifest | None:
        """The manifest, if the table is complete and made from the same recipe."""
        return self._output.finished()

    def start(self) -> None:
        """Mark the table as being written."""
        self._output.start(keeps=self._keeps)
        self._keeps = True

    def latest(self, columns: Sequence[str]) -> pa.Table:
        """Columns of the rows that count, one for each id."""
        names = parts_in(self.directory) if self._keeps else []
        rows = scan(self.directory, names, self.schema).to_table(columns=list(dict.fromkeys(["imdb_id", *columns])))
        return rows.filter(pa.array(_last_of_each(rows["imdb_id"]))).select(list(columns))

    def rows_of(self, ids: pa.ChunkedArray | pa.Array) -> pa.Table:
        """The rows of some ids, all columns."""
        wanted = pc.field("imdb_id").isin(ids)
        rows = scan(self.directory, parts_in(self.directory), self.schema).to_table(filter=wanted)
        return rows.filter(pa.array(_last_of_each(rows["imdb_id"])))

    def write(self, rows: pa.Table) -> None:
        """Add rows as one part."""
        if rows.num_rows:
            write_part(rows, self.directory, self.schema)

    def finish(self, *, rows_in: int, content: Sequence[str], notes: dict[str, Any] | None = None) -> Manifest:
        """Merge the parts, write the manifest, and so mark the table complete.

        Args:
            rows_in: the rows that the stage read.
            content: the columns by which two tables are the same to later stages.
            notes: JSON values to remember.
        """
        files, superseded = self._merge()
        parts = scan(self.directory, files, self.schema)
        rows = parts.to_table(columns=["imdb_id", "status"])
        check_rows(self.directory, rows["imdb_id"], None)
        statuses = count_values(rows["status"])
        manifest = self._output.complete(rows_in, statuses, notes or {}, files, _digest(parts, content))
        for name in superseded:
            storage.delete(storage.join(self.directory, name))
        return manifest

    def _merge(self) -> tuple[list[str], list[str]]:
        """The parts that hold exactly the rows that count, and those that are no longer needed."""
        names = parts_in(self.directory)
        kept = _last_of_each(scan(self.directory, names, self.schema).to_table(columns=["imdb_id"])["imdb_id"])
        small = [(name, rows) for name, rows, is_large in self._parts(names, kept) if not (is_large and rows.all())]
        if names and len(small) <= 1 and kept.all():
            return names, []
        merged = self._rewrite(small)
        replaced = {name for name, _ in small}
        return sorted(set(names) - replaced | set(merged)), sorted(replaced)

    def _parts(self, names: list[str], kept: np.ndarray) -> Iterator[tuple[str, np.ndarray, bool]]:
        """Each part's name, which of its rows count, and whether it is large enough to stay."""
        start = 0
        for name, fragment in zip(names, scan(self.directory, names, self.schema).get_fragments(), strict=True):
            num_rows = fragment.count_rows()
            num_bytes = sum(group.total_byte_size for group in fragment.row_groups)
            is_large = num_rows >= _ROWS_PER_PART // 2 or num_bytes >= _BYTES_PER_PART // 4
            yield name, kept[start : start + num_rows], is_large
            start += num_rows

    def _rewrite(self, parts: list[tuple[str, np.ndarray]]) -> list[str]:
        """Write the rows that count into bounded parts; returns their names."""
        written: list[str] = []
        waiting: list[pa.RecordBatch] = []

        def flush() -> None:
            if waiting:
                written.append(write_part(pa.Table.from_batches(waiting), self.directory, self.schema))
                waiting.clear()

        for batch in self._kept_batches(parts):
            waiting.append(batch)
            too_many = sum(rows.num_rows for rows in waiting) >= _ROWS_PER_PART
            if too_many or sum(rows.nbytes for rows in waiting) >= _BYTES_PER_PART:
                flush()
        if not (written or waiting):
            waiting.append(pa.RecordBatch.from_pylist([], self.schema))
        flush()
        return written

    def _kept_batches(self, parts: list[tuple[str, np.ndarray]]) -> Iterator[pa.RecordBatch]:
        for name, kept in parts:
            start = 0
            for batch in scan(self.directory, [name], self.schema).to_batches(batch_size=_BATCH):
                yield batch.filter(pa.array(kept[start : start + batch.num_rows]))
                start += batch.num_rows


def _last_of_each(ids: pa.ChunkedArray) -> np.ndarray:
    """Which rows are the last with their id, shape (N,), bool."""
    is_last = np.ones(len(ids), bool)
    if pc.count_distinct(ids).as_py() < len(ids):
        table = pa.table({"id": ids, "row": np.arange(len(ids))})
        is_last[:] = False
        is_last[table.group_by("id").aggregate([("row", "max")])["row_max"].to_numpy()] = True
    return is_last


def _digest(parts: pads.Dataset, columns: Sequence[str]) -> str:
    """A digest of some columns that does not depend on the order of the rows or on how they are spread over parts."""
    totals = {"mmgenre_digest_1": 0, "mmgenre_digest_2": 0}
    for batch in parts.to_batches(columns=list(columns), batch_size=_ROWS_PER_PART):
        rows = batch.to_pandas()
        for key, total in totals.items():
            hashes = pd.util.hash_pandas_object(rows, index=False, hash_key=key)
            totals[key] = (total + int(hashes.to_numpy().sum(dtype=np.uint64))) % 2**64
    return hashlib.sha256(repr(totals).encode()).hexdigest()[:32]
