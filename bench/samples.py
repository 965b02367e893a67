"""A smaller MOVIES table, so that a benchmark of training takes minutes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.tables.manifest import Recipe
from mmgenre.tables.schema import MOVIES
from mmgenre.tables.table import Table, TableWriter


def sample(movies: str, output: Path, sizes: dict[str, int], column: str) -> str:
    """Write so many random movies of each split that have the column; returns the folder."""
    writer = TableWriter(str(output), MOVIES, Recipe(job="sample", settings=dict(sizes), inputs={}))
    if writer.begin(overwrite=True) is None:
        parts = [_some(movies, split, size, column) for split, size in sizes.items()]
        for part in parts:
            writer.write(part)
        writer.finish(rows_in=sum(map(len, parts)))
    return str(output)


def _some(movies: str, split: str, size: int, column: str) -> pa.Table:
    wanted = (pc.field("split") == split) & pc.field(column).is_valid()
    rows = Table(movies, MOVIES).read(filter=wanted).sort_by("imdb_id")
    return rows.take(np.sort(np.random.default_rng(0).permutation(len(rows))[:size]))
