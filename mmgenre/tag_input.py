"""The movies that jobs/tag.py is given, with titles where the model reads them, as a table for Ray to read."""

from collections.abc import Iterator
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from mmgenre import storage
from mmgenre.errors import InputError
from mmgenre.manifest import Recipe
from mmgenre.movie_files import read_movies
from mmgenre.schema import CATALOG
from mmgenre.tables import Table, TableWriter

_PLOTS = pa.schema([pa.field("imdb_id", pa.string(), nullable=False), pa.field("plot", pa.string())])
_WITH_TITLES = _PLOTS.append(pa.field("title", pa.string()))
_ROWS_PER_PART = 50_000


class TagInput:
    """Movies to be tagged.

    Args:
        movies: folder of a table, or a person's file.
        catalog: folder of the CATALOG table, for movies that have no titles of their own.
        with_titles: whether the model reads titles.

    Raises:
        InputError: neither is there, columns are missing, ids are missing or not distinct.
    """

    def __init__(self, movies: str, catalog: str | None, *, with_titles: bool):
        is_file = storage.kind(movies) == FileType.File
        self._location = movies
        self._table = None if is_file else Table(movies, _PLOTS)
        self._catalog = Table(catalog, CATALOG) if with_titles and catalog is not None else None
        self.schema = _WITH_TITLES if with_titles else _PLOTS
        if with_titles and self._table is not None and self._catalog is None:
            self._require_titles(self._table)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of what the rows are made of."""
        table = self._table
        movies = storage.fingerprint(self._location) if table is None else table.manifest.fingerprint
        catalog = {} if self._catalog is None else {"catalog": self._catalog.manifest.fingerprint}
        return {"movies": movies} | catalog

    def table(self, staged: str) -> Table:
        """The movies; those that are no such table yet are written to `staged`, in bounded parts."""
        if self._table is not None and self._catalog is None:
            return self._table
        writer = TableWriter(staged, self.schema, Recipe(job="stage", settings={}, inputs=self.fingerprints))
        if writer.begin() is None:
            for batch in self._batches():
                rows = pa.Table.from_batches([batch])
                if rows["imdb_id"].null_count:
                    raise InputError(
                        f"{self._location}: {rows['imdb_id'].null_count:,} rows without an id; give each movie one"
                    )
                writer.write(rows if self._catalog is None else self._with_titles(rows))
            ids = writer.written()["imdb_id"]
            _require_distinct(self._location, ids)
            writer.finish(rows_in=len(ids))
        return Table(staged, self.schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if self._table is not None:
            return self._table.dataset.to_batches(columns=_PLOTS.names, batch_size=_ROWS_PER_PART)
        return read_movies(self._location, self.schema.names if self._catalog is None else _PLOTS.names)

    def _with_titles(self, rows: pa.Table) -> pa.Table:
        title = self._titles["title"].take(pc.index_in(rows["imdb_id"], self._titles["imdb_id"]))
        return rows.append_column("title", title)

    @cached_property
    def _titles(self) -> pa.Table:
        assert self._catalog is not None  # noqa: S101 - only asked for where there is one
        return self._catalog.read(["imdb_id", "title"])

    def _require_titles(self, table: Table) -> None:
        if "title" not in table.dataset.schema.names:
            raise InputError(f"{self._location}: no titles, which this model reads beside the plots; give catalog=DIR")


def _require_distinct(location: str, ids: pa.ChunkedArray) -> None:
    counts = ids.value_counts()
    doubled = pc.struct_field(counts, "values").filter(pc.greater(pc.struct_field(counts, "counts"), 1))
    if len(doubled):
        examples = ", ".join(doubled[:3].to_pylist())
        raise InputError(f"{location}: {len(doubled):,} ids stand in more than one row ({examples}); keep one of each")
