"""Ids by the million: as 64-bit hashes, of which twelve million take 96 MB."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_AT_ONCE = 100_000


def hashes(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Shape (N,), uint64: equal for equal texts; null is as the empty one."""
    found = [
        pd.util.hash_array(values.slice(start, _AT_ONCE).fill_null("").to_numpy(zero_copy_only=False), categorize=False)
        for start in range(0, len(values), _AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *found])


class Distinct:
    """Counts ids, and how many of them are distinct.

    Of twelve million ids two have the same hash by chance in four of a million cases; such a pair would be taken for a
    doubled id, never the other way round.
    """

    def __init__(self, ids: pa.Array | pa.ChunkedArray | None = None):
        self._hashes: list[np.ndarray] = []
        if ids is not None:
            self.add(ids)

    def add(self, ids: pa.Array | pa.ChunkedArray) -> None:
        """More of them."""
        self._hashes.append(hashes(ids))

    def __len__(self) -> int:
        """How many were added."""
        return sum(map(len, self._hashes))

    @property
    def num_distinct(self) -> int:
        """How many different ones there were."""
        return len(np.unique(self._all()))

    def is_doubled(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Shape (N,), bool: which of some ids were added more than once."""
        values, counts = np.unique(self._all(), return_counts=True)
        return np.isin(hashes(ids), values[counts > 1])

    def _all(self) -> np.ndarray:
        self._hashes = [np.concatenate([np.zeros(0, np.uint64), *self._hashes])]
        return self._hashes[0]


class Lookup:
    """Where ids stand among others: sorted once, asked for batch after batch.

    Args:
        ids: distinct or not; of equal ones the first is found.
    """

    def __init__(self, ids: pa.ChunkedArray):
        self._ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        found = hashes(ids)
        self._order = np.argsort(found, kind="stable")
        self._hashes = found[self._order]

    def places(self, wanted: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Shape (N,), int64: the row of each wanted id; -1 where it is not there."""
        wanted = wanted.combine_chunks() if isinstance(wanted, pa.ChunkedArray) else wanted
        found, hashed = np.full(len(wanted), -1), hashes(wanted)
        place, end = (np.searchsorted(self._hashes, hashed, side) for side in ("left", "right"))
        rows = np.flatnonzero(place < end)
        while len(rows):
            candidates = self._order[place[rows]]
            same = pc.equal(self._ids.take(pa.array(candidates)), wanted.take(pa.array(rows)))
            is_same = same.fill_null(False).to_numpy(zero_copy_only=False)
            found[rows[is_same]] = candidates[is_same]
            # Another id with the same hash.
            rows = rows[~is_same]
            place[rows] += 1
            rows = rows[place[rows] < end[rows]]
        return found
