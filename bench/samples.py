"""A sample of a MOVIES table, so that a training benchmark takes minutes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.tables.chunks import sorted_by_id
from mmgenre.tables.manifest import Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import MOVIES
from mmgenre.tables.table import Table, TableWriter


def sample(movies: str, output: Path, sizes: dict[str, int], column: str) -> str:
    """Write `sizes[split]` random movies per split for which the column is not null; return the folder."""
    recipe = Recipe(job="sample", settings=dict(sizes), inputs={})
    table = Output(str(output), recipe, overwrite=True)
    if table.finished is None:
        parts = [_some(movies, split, size, column) for split, size in sizes.items()]
        with table:
            writer = TableWriter(table, MOVIES)
            for part in parts:
                writer.write(part)
            writer.finish(rows_in=sum(map(len, parts)))
    return str(output)


def _some(movies: str, split: str, size: int, column: str) -> pa.Table:
    wanted = (pc.field("split") == split) & pc.field(column).is_valid()
    table = Table(movies, MOVIES)
    ids = table.read(["imdb_id"], filter=wanted)["imdb_id"].sort()
    chosen = ids.take(np.sort(np.random.default_rng(0).permutation(len(ids))[:size]))
    return sorted_by_id(table.read(filter=wanted & pc.field("imdb_id").isin(chosen.combine_chunks())))
