"""The movies that jobs/tag.py is given: what the model reads of each, whichever tables and files it stands in.

Posters are not copied: a row says where its image lies.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileType

from mmgenre.errors import InputError
from mmgenre.tables import storage
from mmgenre.tables.ids import Distinct, Lookup, hashes
from mmgenre.tables.schema import CATALOG, ENRICHED, POSTERS, PREDICTIONS, SplitName
from mmgenre.tables.table import Table
from mmgenre.tables.user_files import read_movies, valid_text

ID = pa.field("imdb_id", pa.string(), nullable=False)
# Where an image lies: the place of its file among the files of its table, and its row in there; null: no image.
IMAGE_FILE, IMAGE_ROW = "image_file", "image_row"
DIGEST = "input_digest"
_MADE = ("imdb_id", IMAGE_FILE, IMAGE_ROW, DIGEST)
# What may come from another table than the movies', and the setting that names it.
_ELSEWHERE = {"title": ("titles", "catalog"), "plot": ("plots", "enriched"), "image": ("posters", "posters")}
# Any large odd number: what stands in one column is not mistaken for the same in another.
_ODD = np.uint64(0x9E3779B97F4A7C15)
_ROWS_AT_ONCE, _IMAGES_AT_ONCE = 10_000, 500


@dataclass(frozen=True)
class Places:
    """Where movies are: a table or a person's file, and tables that have what that one lacks.

    Args:
        movies: folder of a table, or a file.
        split: of a MOVIES table, the only movies that are tagged; all: every movie.
        catalog: folder of the CATALOG table, for movies that have no titles of their own.
        enriched: folder of the ENRICHED table, for movies that have no plots of their own.
        posters: folder of the POSTERS table, for movies that have no images of their own.
    """

    movies: str
    split: SplitName = "all"
    catalog: str | None = None
    enriched: str | None = None
    posters: str | None = None


class Beside:
    """A table beside the movies', which has columns that theirs lacks.

    Args:
        role: of the table, as its setting is called.
        directory: its folder.
        schema: what it must have.
    """

    def __init__(self, role: str, directory: str, schema: pa.Schema):
        self.role, self.table, self.schema = role, Table(directory, schema), schema
        self._names: list[str] = []

    def provide(self, names: Sequence[str]) -> None:
        """Columns that are asked of it."""
        self._names = list(names)

    @property
    def is_asked(self) -> bool:
        """Whether anything is read of it."""
        return bool(self._names)

    def added_to(self, movies: pa.Table) -> pa.Table:
        """The movies with the columns that are asked for; null where it has no such movie."""
        lookup, rows = self._found
        places = lookup.places(movies["imdb_id"])
        found = rows.take(pa.array(places, mask=places < 0))
        for name in self._names:
            movies = movies.append_column(name, found[name])
        return movies

    @cached_property
    def _found(self) -> tuple[Lookup, pa.Table]:
        rows = self.table.read(["imdb_id", *self._names])
        return Lookup(rows["imdb_id"]), rows.combine_chunks()


class TagInput:
    """Movies to be tagged.

    Args:
        places: where they are.
        reads: what the model reads of a movie: some of title, plot and image.
        keeps: other columns of the movies, or of the catalogue, that are handed on.

    Raises:
        InputError: neither is there, or columns are missing.
    """

    def __init__(self, places: Places, reads: Sequence[str], keeps: Sequence[str] = ()):
        self._places, self._reads = places, list(reads)
        self._location = places.movies
        is_file = storage.kind(places.movies) == FileType.File
        self._table = None if is_file else Table(places.movies, pa.schema([ID]))
        self._posters = Table(places.posters, POSTERS) if places.posters is not None and "image" in reads else None
        given = (("catalog", places.catalog, CATALOG, "title"), ("enriched", places.enriched, ENRICHED, "plot"))
        self._beside = [
            Beside(role, directory, schema) for role, directory, schema, _ in given if directory is not None
        ]
        elsewhere = {name for _, directory, _, name in given if directory is not None}
        elsewhere |= {"image"} if self._posters else set()
        self._own = [name for name in reads if name not in elsewhere]
        self._require_columns()
        self._kept = self._sort_out(keeps)
        wanted = [name for name in self.schema.names if name not in (*self._own_names, *_MADE)]
        for beside in self._beside:
            mine = [name for name in wanted if name in beside.schema.names]
            beside.provide(mine)
            wanted = [name for name in wanted if name not in mine]

    @property
    def schema(self) -> pa.Schema:
        """Of the rows: the id, the texts, where the image is, a digest of all that, and what is handed on."""
        text = [pa.field(name, pa.string()) for name in self._reads if name != "image"]
        image = [pa.field(name, pa.int32()) for name in (IMAGE_FILE, IMAGE_ROW) if "image" in self._reads]
        kept = [field for field in self._kept if field.name not in self._reads]
        return pa.schema([ID, *text, *image, pa.field(DIGEST, pa.int64(), nullable=False), *kept])

    @property
    def kept(self) -> list[pa.Field]:
        """The columns that are handed on."""
        return self._kept

    @property
    def image_files(self) -> list[str]:
        """The files that images lie in."""
        table = self._posters or self._table
        return table.files if table is not None and "image" in self._reads else []

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of what the rows are made of."""
        table = self._table
        movies = storage.fingerprint(self._location) if table is None else table.manifest.fingerprint
        others = {beside.role: beside.table for beside in self._beside if beside.is_asked}
        others |= {"posters": self._posters} if self._posters else {}
        return {"movies": movies} | {role: other.manifest.fingerprint for role, other in others.items()}

    def rows(self) -> Iterator[pa.Table]:
        """All of them, once, in batches.

        Raises:
            InputError: ids are missing or not distinct, or the file cannot be read.
        """
        ids = Distinct()
        for batch in self._batches():
            missing = batch["imdb_id"].null_count
            if missing:
                raise InputError(f"{self._location}: {missing:,} rows without an id; give each movie one")
            ids.add(batch["imdb_id"])
            yield self._completed(batch)
        if ids.num_distinct < len(ids):
            self._refuse_doubled(ids)

    def _completed(self, batch: pa.Table) -> pa.Table:
        """Rows of the schema, given what the movies' own table or file has."""
        for beside in self._beside:
            batch = beside.added_to(batch) if beside.is_asked else batch
        if self._posters is not None:
            batch = self._with_posters(batch)
        batch = batch.append_column(DIGEST, _digests(batch, [name for name in self._reads if name != "image"]))
        return batch.select(self.schema.names).cast(self.schema)

    def _batches(self) -> Iterator[pa.Table]:
        if self._table is None:
            for batch in read_movies(self._location, ["imdb_id", *self._own_names]):
                yield pa.Table.from_batches([batch])
            return
        for number, file in enumerate(self._table.files):
            yield from self._batches_of(file, number)

    def _batches_of(self, file: str, number: int) -> Iterator[pa.Table]:
        """A file of the movies' table, its images replaced by where they are."""
        names = ["imdb_id", *self._own_names, *(["split"] if self._places.split != "all" else [])]
        size = _IMAGES_AT_ONCE if "image" in names else _ROWS_AT_ONCE
        start = 0
        for batch in storage.parquet_batches(file, list(dict.fromkeys(names)), size):
            rows = pa.Table.from_batches([batch])
            if "image" in names:
                rows = _with_places(rows, number, start)
            start += len(batch)
            if self._places.split != "all":
                rows = rows.filter(pc.equal(rows["split"], self._places.split))
            for name in set(self._own) - {"image"}:
                rows = rows.set_column(rows.column_names.index(name), name, valid_text(rows[name]))
            yield rows

    @property
    def _own_names(self) -> list[str]:
        """Columns of the movies' own table or file that are read, but for the id."""
        names = [field.name for field in self._kept]
        own = [name for name in names if name in self._own_schema.names or not self._offered(name)]
        return list(dict.fromkeys([*self._own, *own]))

    def _offered(self, name: str) -> pa.Field | None:
        """A column of one of the tables beside the movies'."""
        return next((one.schema.field(name) for one in self._beside if name in one.schema.names), None)

    @cached_property
    def _own_schema(self) -> pa.Schema:
        return pa.schema([]) if self._table is None else self._table.dataset.schema

    def _with_posters(self, batch: pa.Table) -> pa.Table:
        lookup, rows = self._images
        places = lookup.places(batch["imdb_id"])
        found = rows.take(pa.array(places, mask=places < 0))
        for name in (IMAGE_FILE, IMAGE_ROW, "sha256"):
            batch = batch.append_column(name, found[name])
        # Neighbours in the file are read together.
        return batch.sort_by([(IMAGE_FILE, "ascending"), (IMAGE_ROW, "ascending")])

    @cached_property
    def _images(self) -> tuple[Lookup, pa.Table]:
        """Where the posters are that have an image."""
        assert self._posters is not None, "asked for with posters only"  # noqa: S101
        found = []
        for number, file in enumerate(self._posters.files):
            filesystem, path = storage.resolve(file)
            rows = pq.read_table(path, filesystem=filesystem, columns=["imdb_id", "status", "sha256"])
            rows = _at(rows, number, 0).filter(pc.equal(rows["status"], "ok"))
            found.append(rows.drop_columns("status"))
        rows = pa.concat_tables(found).combine_chunks()
        return Lookup(rows["imdb_id"]), rows

    def _require_columns(self) -> None:
        """Raise where the model reads what nothing that was given has."""
        own = set(self._own)
        # A file is asked for its columns when it is read.
        missing = own & {"image"} if self._table is None else own - set(self._own_schema.names)
        for name, (what, setting) in _ELSEWHERE.items():
            if name in missing:
                raise InputError(f"{self._location}: no {what}, which this model reads; give {setting}=DIR")
        if self._places.split != "all" and "split" not in self._own_schema.names:
            raise InputError(f"split={self._places.split}: {self._location} has no splits; only a MOVIES table does")

    def _sort_out(self, keeps: Sequence[str]) -> list[pa.Field]:
        """The fields of columns that are handed on."""
        fields = []
        for name in dict.fromkeys(keeps):
            if name in (*PREDICTIONS.names, "image"):
                raise InputError(f"columns: {name}: a column of the predictions themselves, or too large; leave it out")
            found = self._own_schema.field(name) if name in self._own_schema.names else self._offered(name)
            if found is None and self._table is None:
                found = pa.field(name, pa.string())
            if found is None:
                raise InputError(f"columns: {name}: neither {self._location} nor a table beside it has it")
            fields.append(found.with_nullable(True))
        return fields

    def _refuse_doubled(self, ids: Distinct) -> None:
        examples: list[str] = []
        num_doubled = f"{len(ids) - ids.num_distinct:,} rows with the id of another row"
        for batch in self._batches():
            doubled = batch["imdb_id"].filter(pa.array(ids.is_doubled(batch["imdb_id"])))
            examples = list(dict.fromkeys([*examples, *doubled.to_pylist()]))[:3]
        raise InputError(f"{self._location}: {num_doubled} ({', '.join(examples)}); keep one of each")


def _with_places(rows: pa.Table, number: int, start: int) -> pa.Table:
    """Rows of one file, with where each image is in place of the image, and `sha256` of those there are."""
    images = rows["image"]
    known = images.is_valid()
    rows = _at(rows.drop_columns("image"), number, start)
    for name in (IMAGE_FILE, IMAGE_ROW):
        place = pc.if_else(known, rows[name], None)
        rows = rows.set_column(rows.column_names.index(name), name, place)
    digests = [None if one is None else hashlib.sha256(one).hexdigest() for one in images.to_pylist()]
    return rows.append_column("sha256", pa.array(digests, pa.string()))


def _at(rows: pa.Table, number: int, start: int) -> pa.Table:
    places = pa.array(np.arange(start, start + len(rows), dtype=np.int32))
    file = pa.array(np.full(len(rows), number, np.int32))
    return rows.append_column(IMAGE_FILE, file).append_column(IMAGE_ROW, places)


def _digests(rows: pa.Table, texts: Sequence[str]) -> pa.Array:
    """Shape (N,), int64: of the id and of all that the model is given of each movie."""
    names = ["imdb_id", *texts, *(["sha256"] if "sha256" in rows.column_names else [])]
    found = np.zeros(len(rows), np.uint64)
    for name in names:
        found = found * _ODD ^ hashes(rows[name])
    return pa.array(found.view(np.int64))
