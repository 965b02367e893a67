"""The movies that jobs/tag.py is given, with what the model reads of each, as a table for Ray to read."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from mmgenre import storage
from mmgenre.errors import InputError
from mmgenre.joins import with_posters
from mmgenre.manifest import Recipe
from mmgenre.movie_files import read_movies
from mmgenre.schema import CATALOG, POSTERS, SplitName, is_of_split
from mmgenre.tables import Table, TableWriter

_ID = pa.field("imdb_id", pa.string(), nullable=False)
_FIELDS = {
    "title": pa.field("title", pa.string()),
    "plot": pa.field("plot", pa.string()),
    "image": pa.field("image", pa.binary()),
}
# What may come from another table than the movies', and the setting that names it.
_ELSEWHERE = {"title": ("titles", "catalog"), "image": ("posters", "posters")}
_ROWS_PER_PART = 50_000


class TagInput:
    """Movies to be tagged.

    Args:
        movies: folder of a table, or a person's file.
        columns: what the model reads of a movie: some of title, plot and image.
        split: of a MOVIES table, the only movies that are tagged; all: every movie.
        catalog: folder of the CATALOG table, for movies that have no titles of their own.
        posters: folder of the POSTERS table, for movies that have no images of their own.

    Raises:
        InputError: neither is there, columns are missing, ids are missing or not distinct.
    """

    def __init__(
        self,
        movies: str,
        columns: Sequence[str],
        *,
        split: SplitName = "all",
        catalog: str | None = None,
        posters: str | None = None,
    ):
        self._location, self._split = movies, split
        self._catalog = Table(catalog, CATALOG) if catalog is not None and "title" in columns else None
        self._posters = Table(posters, POSTERS) if posters is not None and "image" in columns else None
        given = {"title": self._catalog, "image": self._posters}
        self._own = pa.schema([_ID, *(_FIELDS[name] for name in columns if given.get(name) is None)])
        self.schema = pa.schema([_ID, *(_FIELDS[name] for name in columns)])
        self._table = None if storage.kind(movies) == FileType.File else Table(movies, pa.schema([_ID]))
        self._require_columns()

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of what the rows are made of."""
        table = self._table
        movies = storage.fingerprint(self._location) if table is None else table.manifest.fingerprint
        others = {"catalog": self._catalog, "posters": self._posters}
        return {"movies": movies} | {
            role: other.manifest.fingerprint for role, other in others.items() if other is not None
        }

    def table(self, staged: str) -> Table:
        """The movies; those that are no such table yet are written to `staged`, in bounded parts."""
        if self._table is not None and self._own == self.schema and self._split == "all":
            return self._table
        writer = TableWriter(
            staged, self.schema, Recipe(job="stage", settings={"split": self._split}, inputs=self.fingerprints)
        )
        if writer.begin() is None:
            for rows in self._parts():
                writer.write(rows)
            ids = writer.written(["imdb_id"])["imdb_id"]
            _require_distinct(self._location, ids)
            writer.finish(rows_in=len(ids))
        return Table(staged, self.schema)

    def _parts(self) -> Iterator[pa.Table]:
        parts: Iterator[pa.Table] = (pa.Table.from_batches([batch]) for batch in self._batches())
        if self._catalog is not None:
            parts = _with_titles(parts, self._catalog.read(["imdb_id", "title"]))
        if self._posters is not None:
            # All but the images is small enough for the memory of one machine.
            return with_posters(pa.concat_tables(parts), self._posters)
        return parts

    def _batches(self) -> Iterator[pa.RecordBatch]:
        names = self._own.names
        if self._table is not None:
            yield from self._table.dataset.to_batches(
                columns=names, filter=is_of_split(self._split), batch_size=_ROWS_PER_PART
            )
            return
        for batch in read_movies(self._location, names):
            missing = batch["imdb_id"].null_count
            if missing:
                raise InputError(f"{self._location}: {missing:,} rows without an id; give each movie one")
            yield batch

    def _require_columns(self) -> None:
        """Raise where the model reads what nothing that was given has."""
        if self._table is None:
            missing = {"image"} & set(self._own.names)
        else:
            missing = set(self._own.names) - set(self._table.dataset.schema.names)
        for name, (what, setting) in _ELSEWHERE.items():
            if name in missing:
                raise InputError(f"{self._location}: no {what}, which this model reads; give {setting}=DIR")
        if missing and self._table is not None:
            Table(self._location, self._own)
        if self._split != "all" and (self._table is None or "split" not in self._table.dataset.schema.names):
            raise InputError(f"split={self._split}: {self._location} has no splits; only a MOVIES table does")


def _with_titles(parts: Iterator[pa.Table], titles: pa.Table) -> Iterator[pa.Table]:
    for rows in parts:
        title = titles["title"].take(pc.index_in(rows["imdb_id"], titles["imdb_id"]))
        yield rows.append_column("title", title)


def _require_distinct(location: str, ids: pa.ChunkedArray) -> None:
    counts = ids.value_counts()
    doubled = pc.struct_field(counts, "values").filter(pc.greater(pc.struct_field(counts, "counts"), 1))
    if len(doubled):
        examples = ", ".join(doubled[:3].to_pylist())
        raise InputError(f"{location}: {len(doubled):,} ids stand in more than one row ({examples}); keep one of each")
