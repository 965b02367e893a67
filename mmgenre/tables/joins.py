"""Joins by `imdb_id`, batch by batch."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.tables.chunks import RowStore
from mmgenre.tables.ids import Lookup
from mmgenre.tables.table import Table

# A poster takes about 20 KB.
_ROWS_PER_PART = 5_000
_ROWS_PER_PART_WITHOUT_POSTERS = 50_000


class RightTable:
    """The right side of a join by `imdb_id`.

    Args:
        rows: in memory; the first row of equal ids is taken.

    Attributes:
        ids: of its rows.
        num_matches: rows that found a match in all joins so far.
    """

    def __init__(self, rows: pa.Table):
        self.ids, self.num_matches = rows["imdb_id"], 0
        self._lookup, self._rows = Lookup(rows["imdb_id"]), RowStore(rows.drop_columns("imdb_id"))

    def join(self, left: pa.Table, *, inner: bool = False) -> pa.Table:
        """Append this table's columns to `left`.

        Args:
            left: its `imdb_id` need not be distinct.
            inner: drop the rows without a match; else their columns are null.
        """
        places = self._lookup.places(left["imdb_id"])
        self.num_matches += int((places >= 0).sum())
        if inner:
            left, places = left.filter(pa.array(places >= 0)), places[places >= 0]
        matches = self._rows.take(pa.array(places, mask=places < 0))
        for name in matches.column_names:
            left = left.append_column(name, matches[name])
        return left


def with_posters(movies: pa.Table, posters: Table) -> Iterator[pa.Table]:
    """The movies with a column `image`, in bounded parts.

    Images are read once, in their own order: first come the movies with a poster, in the order of the POSTERS table,
    then the others.

    Args:
        movies: in memory, each `imdb_id` once.
        posters: a POSTERS table.
    """
    lookup, movies_in_memory = Lookup(movies["imdb_id"]), RowStore(movies)
    has_poster = np.zeros(len(movies), bool)
    images = posters.dataset.to_batches(
        columns=["imdb_id", "image"], filter=pc.field("image").is_valid(), batch_size=_ROWS_PER_PART
    )
    for batch in images:
        places = lookup.places(batch["imdb_id"])
        is_known = places >= 0
        has_poster[places[is_known]] = True
        image = pa.chunked_array([batch["image"].filter(pa.array(is_known))])
        yield movies_in_memory.take(places[is_known]).append_column("image", image)
    others = movies.filter(pa.array(~has_poster))
    for start in range(0, len(others), _ROWS_PER_PART_WITHOUT_POSTERS):
        part = others.slice(start, _ROWS_PER_PART_WITHOUT_POSTERS)
        yield part.append_column("image", pa.nulls(len(part), pa.binary()))
