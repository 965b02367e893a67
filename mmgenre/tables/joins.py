"""Movies and their posters: images are many and large, so they are read once, in the order they lie in."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.tables.table import Table

# With some 20 KB of poster each.
_ROWS_PER_PART = 5_000
_ROWS_PER_PART_WITHOUT = 50_000


def with_posters(movies: pa.Table, posters: Table) -> Iterator[pa.Table]:
    """The movies with a column `image`, in bounded parts: in the order of the posters, then the rest.

    Args:
        movies: in memory, each `imdb_id` once.
        posters: a POSTERS table.
    """
    has_poster = np.zeros(len(movies), bool)
    images = posters.dataset.to_batches(
        columns=["imdb_id", "image"], filter=pc.field("image").is_valid(), batch_size=_ROWS_PER_PART
    )
    for batch in images:
        row = pc.index_in(batch["imdb_id"], movies["imdb_id"])
        known = row.is_valid()
        rows = row.filter(known)
        has_poster[rows.to_numpy()] = True
        yield movies.take(rows).append_column("image", pa.chunked_array([batch["image"].filter(known)]))
    others = movies.filter(pa.array(~has_poster))
    for start in range(0, len(others), _ROWS_PER_PART_WITHOUT):
        part = others.slice(start, _ROWS_PER_PART_WITHOUT)
        yield part.append_column("image", pa.nulls(len(part), pa.binary()))
