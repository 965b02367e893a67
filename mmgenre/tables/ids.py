"""Millions of ids: finds duplicates, and rows by id."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_CHUNK_ROWS = 100_000


def hashes(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Hash of each text, shape (N,), uint64; null has the hash of the empty text."""
    chunks = [
        pd.util.hash_array(
            values.slice(start, _CHUNK_ROWS).fill_null("").to_numpy(zero_copy_only=False), categorize=False
        )
        for start in range(0, len(values), _CHUNK_ROWS)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *chunks])


class Distinct:
    """Counts distinct ids in a stream of batches, exactly.

    Twelve million ids take less than 1 GB while they are counted.
    """

    def __init__(self, ids: pa.Array | pa.ChunkedArray | None = None):
        self._chunks: list[pa.Array] = []
        if ids is not None:
            self.add(ids)

    def add(self, ids: pa.Array | pa.ChunkedArray) -> None:
        """Count more ids."""
        self._chunks += ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]

    def __len__(self) -> int:
        """Number of ids, duplicates included."""
        return sum(map(len, self._chunks))

    @property
    def num_distinct(self) -> int:
        """Number of distinct ids."""
        return pc.count_distinct(self._ids).as_py()

    def is_duplicate(self, ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """Whether each of the given ids was added more than once, shape (N,), bool."""
        counts = self._ids.value_counts()
        duplicates = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        return pc.is_in(ids, value_set=duplicates)

    @property
    def _ids(self) -> pa.ChunkedArray:
        return pa.chunked_array(self._chunks, self._chunks[0].type if self._chunks else pa.string())


class Lookup:
    """An index of ids, sorted once and then queried batch by batch.

    Unlike `pc.index_in`, which hashes all of them again for every batch.

    Args:
        ids: the first of equal ids is found.
    """

    def __init__(self, ids: pa.ChunkedArray):
        self._ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        unsorted = hashes(ids)
        self._order = np.argsort(unsorted, kind="stable")
        self._hashes = unsorted[self._order]

    def places(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """The row of each id, shape (N,), int64; -1 if it is missing."""
        ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        places, hashed = np.full(len(ids), -1), hashes(ids)
        candidate, end = (np.searchsorted(self._hashes, hashed, side) for side in ("left", "right"))
        rows = np.flatnonzero(candidate < end)
        while len(rows):
            candidates = self._order[candidate[rows]]
            same = pc.equal(self._ids.take(pa.array(candidates)), ids.take(pa.array(rows)))
            is_same = same.fill_null(False).to_numpy(zero_copy_only=False)
            places[rows[is_same]] = candidates[is_same]
            # A different id with the same hash: try the next one.
            rows = rows[~is_same]
            candidate[rows] += 1
            rows = rows[candidate[rows] < end[rows]]
        return places
