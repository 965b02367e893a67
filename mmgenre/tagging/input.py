"""Input of jobs/tag.py: what a model reads of each movie, joined from the movies' table or file and side tables.

Images are not copied: a row holds the index of its image's file and the row in that file.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileType

from mmgenre.errors import InputError
from mmgenre.tables import storage
from mmgenre.tables.ids import Distinct, hashes
from mmgenre.tables.images import IMAGE_FILE, IMAGE_ROW, with_positions, without_images
from mmgenre.tables.joins import RightTable
from mmgenre.tables.readers import valid_text
from mmgenre.tables.schema import CATALOG, ENRICHED, POSTERS, PREDICTIONS, SplitName
from mmgenre.tables.table import Table
from mmgenre.tables.user_files import OnBadRows, UserFile

ID = pa.field("imdb_id", pa.string(), nullable=False)
DIGEST = "input_digest"
# What a model may read: the plural for messages, and the setting that names its side table.
_READABLE = {"title": ("titles", "catalog"), "plot": ("plots", "enriched"), "image": ("posters", "posters")}
# Any large odd number: keeps equal values in different columns from having equal digests.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_ROWS_PER_BATCH, _IMAGES_PER_BATCH = 10_000, 500


@dataclass(frozen=True)
class MovieSources:
    """The movies' table or file, and side tables with the missing columns.

    Args:
        movies: folder of a table, or a user's file.
        split: the only split of a MOVIES table to read; all: every movie.
        catalog: folder of the CATALOG table, the source of titles.
        enriched: folder of the ENRICHED table, the source of plots.
        posters: folder of the POSTERS table, the source of images.
        on_bad_rows: of a user's file; see UserFile.
        encoding: of a user's file; see UserFile.
    """

    movies: str
    split: SplitName = "all"
    catalog: str | None = None
    enriched: str | None = None
    posters: str | None = None
    on_bad_rows: OnBadRows = "error"
    encoding: str | None = None


class SideTable:
    """A table from which columns are added to the movies, by id.

    Args:
        directory: its folder.
        schema: columns that it must have.
    """

    def __init__(self, directory: str, schema: pa.Schema):
        self.table, self.schema = Table(directory, schema), schema
        self.columns: list[str] = []

    def join(self, movies: pa.Table) -> pa.Table:
        """Append `columns`; null for movies that this table does not have."""
        return self.right.join(movies) if self.columns else movies

    @cached_property
    def right(self) -> RightTable:
        """The columns to append, in memory."""
        return RightTable(self.table.read(["imdb_id", *self.columns]))


class TagInput:
    """The movies to tag.

    Args:
        sources: where they are.
        reads: what the model reads of a movie: some of title, plot and image.
        keeps: further columns to copy to the output, from the movies or a side table.

    Raises:
        InputError: no such table or file, or a column that none of them has.
    """

    def __init__(self, sources: MovieSources, reads: Sequence[str], keeps: Sequence[str] = ()):
        self._sources = sources
        self._location, self._split, self._reads = sources.movies, sources.split, list(reads)
        is_file = storage.kind(sources.movies) == FileType.File
        self._table = None if is_file else Table(sources.movies, pa.schema([ID]))
        self._own_schema = pa.schema([]) if self._table is None else self._table.dataset.schema
        self._posters = Table(sources.posters, POSTERS) if sources.posters is not None and "image" in reads else None
        side_tables = {"catalog": (sources.catalog, CATALOG), "enriched": (sources.enriched, ENRICHED)}
        self._side_tables = {
            role: SideTable(directory, schema) for role, (directory, schema) in side_tables.items() if directory
        }
        if self._split != "all" and "split" not in self._own_schema.names:
            raise InputError(f"split={self._split}: {self._location} has no splits; only a MOVIES table does")
        self._own_columns: list[str] = []
        for name in reads:
            self._find_source(name)
        self.kept = [self._keep(name) for name in dict.fromkeys(keeps)]

    @property
    def schema(self) -> pa.Schema:
        """Schema of the rows: id, texts, position of the image, digest of all that, and kept columns."""
        text = [pa.field(name, pa.string()) for name in self._texts]
        image = [pa.field(name, pa.int32()) for name in (IMAGE_FILE, IMAGE_ROW) if "image" in self._reads]
        kept = [field for field in self.kept if field.name not in self._reads]
        return pa.schema([ID, *text, *image, pa.field(DIGEST, pa.int64(), nullable=False), *kept])

    @property
    def image_files(self) -> list[str]:
        """The files that hold the images."""
        table = self._posters or self._table
        return table.files if table is not None and "image" in self._reads else []

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the movies and of every side table that is used, by role."""
        own = self._file_fingerprint if self._table is None else self._table.manifest.fingerprint
        tables = {role: side.table for role, side in self._side_tables.items() if side.columns}
        tables |= {"posters": self._posters} if self._posters else {}
        return {"movies": own} | {role: table.manifest.fingerprint for role, table in tables.items()}

    def rows(self) -> Iterator[pa.Table]:
        """All movies once, in batches.

        Raises:
            InputError: ids are missing or duplicated, or the file cannot be read.
        """
        ids = Distinct()
        for batch in self._own_batches():
            missing = batch["imdb_id"].null_count
            if missing:
                raise InputError(f"{self._location}: {missing:,} rows without an id; give each movie one")
            ids.add(batch["imdb_id"])
            yield self._complete(batch)
        if ids.num_distinct < len(ids):
            self._raise_duplicates(ids)
        if self._table is None:
            for location, right in self._joined():
                self._file.require_matches(right.ids, location, right.num_matches)

    def notes(self) -> dict[str, Any]:
        """About users' files and damaged dumps that the movies come from, once all rows have been read."""
        files = {"movies": self._file.facts.notes()} if self._table is None else {}
        tables = [self._table, *(side.table for side in self._side_tables.values() if side.columns)]
        notes = [table.manifest.notes for table in tables if table is not None]
        for of_table in notes:
            files |= of_table.get("files", {})
        warnings = dict.fromkeys(warning for of_table in notes for warning in of_table.get("warnings", []))
        return {"files": files, "warnings": list(warnings)}

    @cached_property
    def _file(self) -> UserFile:
        sources, columns = self._sources, ["imdb_id", *self._own_columns]
        return UserFile(self._location, columns, on_bad_rows=sources.on_bad_rows, encoding=sources.encoding)

    @property
    def _file_fingerprint(self) -> str:
        fingerprint, encoding = storage.fingerprint(self._location), self._sources.encoding
        return fingerprint if encoding is None else f"{fingerprint}-{encoding}"

    def _joined(self) -> Iterator[tuple[str, RightTable]]:
        """The side tables that were joined, by their folders."""
        yield from ((side.table.directory, side.right) for side in self._side_tables.values() if side.columns)
        if self._posters is not None:
            yield self._posters.directory, self._image_positions

    @property
    def _texts(self) -> list[str]:
        return [name for name in self._reads if name != "image"]

    def _find_source(self, name: str) -> None:
        """Assign a column that the model reads to its side table, if there is one, else to the movies."""
        plural, role = _READABLE[name]
        if role in self._side_tables:
            self._side_tables[role].columns.append(name)
        elif name != "image" or self._posters is None:
            # The text columns of a file are checked when it is read.
            has_column = name != "image" if self._table is None else name in self._own_schema.names
            if not has_column:
                raise InputError(f"{self._location}: no {plural}, which this model reads; give {role}=DIR")
            self._own_columns.append(name)

    def _keep(self, name: str) -> pa.Field:
        """Assign a column to copy to the movies or a side table that has it; returns its field."""
        if name in (*PREDICTIONS.names, "image"):
            raise InputError(f"columns: {name}: a column of the predictions themselves, or too large; leave it out")
        if name in self._reads:
            return pa.field(name, pa.string())
        side = next((side for side in self._side_tables.values() if name in side.schema.names), None)
        if side is not None and name not in self._own_schema.names:
            side.columns.append(name)
            return side.schema.field(name).with_nullable(True)
        if self._table is not None and name not in self._own_schema.names:
            raise InputError(f"columns: {name}: neither {self._location} nor a side table has it")
        self._own_columns.append(name)
        return pa.field(name, pa.string()) if self._table is None else self._own_schema.field(name).with_nullable(True)

    def _complete(self, batch: pa.Table) -> pa.Table:
        """Add the columns of the side tables, the image positions and the digest."""
        for side in self._side_tables.values():
            batch = side.join(batch)
        if self._posters is not None:
            batch = self._image_positions.join(batch)
            # Adjacent images are read together.
            batch = batch.sort_by([(IMAGE_FILE, "ascending"), (IMAGE_ROW, "ascending")])
        batch = batch.append_column(DIGEST, _digests(batch, self._texts))
        return batch.select(self.schema.names).cast(self.schema)

    def _own_batches(self) -> Iterator[pa.Table]:
        """The id and the own columns of all movies."""
        if self._table is None:
            for batch in self._file.batches():
                yield pa.Table.from_batches([batch])
            return
        for number, file in enumerate(self._table.files):
            yield from self._batches_of_file(file, number)

    def _batches_of_file(self, file: str, number: int) -> Iterator[pa.Table]:
        """One file of the movies' table, its images replaced by their positions."""
        names = ["imdb_id", *self._own_columns, *(["split"] if self._split != "all" else [])]
        size = _IMAGES_PER_BATCH if "image" in names else _ROWS_PER_BATCH
        start = 0
        for batch in storage.parquet_batches(file, list(dict.fromkeys(names)), size):
            rows = pa.Table.from_batches([batch])
            if "image" in names:
                rows = _with_own_positions(rows, number, start)
            start += len(batch)
            if self._split != "all":
                rows = rows.filter(pc.equal(rows["split"], self._split))
            for name in {*self._texts} & {*self._own_columns}:
                rows = rows.set_column(rows.column_names.index(name), name, valid_text(rows[name]))
            yield rows

    @cached_property
    def _image_positions(self) -> RightTable:
        """Positions and hashes of the images in the POSTERS table."""
        assert self._posters is not None, "called with posters only"  # noqa: S101
        parts = []
        for number, file in enumerate(self._posters.files):
            filesystem, path = storage.resolve(file)
            rows = pq.read_table(path, filesystem=filesystem, columns=["imdb_id", "status", "sha256"])
            rows = with_positions(rows, number, 0).filter(pc.equal(rows["status"], "ok"))
            parts.append(rows.drop_columns("status"))
        return RightTable(pa.concat_tables(parts))

    def _raise_duplicates(self, ids: Distinct) -> None:
        examples: Mapping[str, None] = {}
        for batch in self._own_batches():
            duplicates = batch["imdb_id"].filter(ids.is_duplicate(batch["imdb_id"]))
            examples = dict.fromkeys([*examples, *duplicates.to_pylist()])
        count = f"{len(ids) - ids.num_distinct:,} rows with the id of another row"
        raise InputError(f"{self._location}: {count} ({', '.join([*examples][:3])}); keep one of each")


def _with_own_positions(rows: pa.Table, file_number: int, start: int) -> pa.Table:
    """Replace the images of rows by their positions and by `sha256`; all null where there is no image."""
    digests = [None if image is None else hashlib.sha256(image).hexdigest() for image in rows["image"].to_pylist()]
    rows = without_images(with_positions(rows, file_number, start))
    return rows.append_column("sha256", pa.array(digests, pa.string()))


def _digests(rows: pa.Table, texts: Sequence[str]) -> pa.Array:
    """Digest of the id and of everything that the model reads of each movie, shape (N,), int64."""
    names = ["imdb_id", *texts, *(["sha256"] if "sha256" in rows.column_names else [])]
    digests = np.zeros(len(rows), np.uint64)
    for name in names:
        digests = digests * _MULTIPLIER ^ hashes(rows[name])
    return pa.array(digests.view(np.int64))
