"""The work of a tagging, cut into units: some rows of the staged input each, which become one file or none.

A unit that is done twice, because a process died or outlived its driver, writes the same file again: so no row is lost,
none is doubled, and going on means doing the units that have no file.
"""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmgenre.tables import storage
from mmgenre.tables.ids import Lookup
from mmgenre.tables.manifest import Recipe, read_manifest
from mmgenre.tables.schema import PREDICTIONS, PredictStatus
from mmgenre.tables.table import Table, TableWriter, parts_in, write_parquet
from mmgenre.tagging.input import DIGEST, IMAGE_FILE, IMAGE_ROW, TagInput

WORK = "_work"
_STAGED, _UNITS = "staged", "units"
_CARRIED = "carried-*.parquet"
_ROWS_PER_PART, _BYTES_PER_PART = 50_000, 64 * 2**20
# Rows that are computed together: of posters fewer, for their pixels' sake.
_ROWS_PER_UNIT, _ROWS_PER_UNIT_WITH_IMAGES = 8192, 512
# What a unit may cost, in characters: a row costs some for itself, and longer plots are cut off. Of a part there are
# units enough for many actors to end at the same time; but each is one more thing that Ray Data keeps an account of.
_UNITS_PER_PART, _COST_PER_UNIT = 32, (50_000, 1_000_000)
_COST_OF_A_ROW, _MOST_CHARACTERS = 50, 2500
# What is computed of a movie: all of PREDICTIONS but the decision.
TAGGED = pa.schema([field for field in PREDICTIONS if field.name != "genres"])


@dataclass(frozen=True)
class Unit:
    """Rows that are tagged together: one row group of a part of the staged table."""

    number: int
    part: str
    group: int
    rows: int

    @property
    def file(self) -> str:
        """Its result's name."""
        return f"unit-{self.number:07}.parquet"


class Work:
    """The folder of an unfinished tagging, below its output's.

    Args:
        output: folder of the PREDICTIONS table.
        name: other inputs or another model have another one.
    """

    def __init__(self, output: str, name: str):
        self.directory = storage.absolute(storage.join(output, WORK, name))

    @cached_property
    def staged(self) -> Table:
        """The rows to be computed."""
        return Table(self._path(_STAGED))

    @cached_property
    def units(self) -> list[Unit]:
        """All of them, in their order."""
        found: list[Unit] = []
        for part, file in zip(self.staged.manifest.files, self.staged.files, strict=True):
            filesystem, path = storage.resolve(file)
            metadata = pq.read_metadata(path, filesystem=filesystem)
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            found += [Unit(len(found) + group, part, group, rows) for group, rows in enumerate(sizes) if rows]
        return found

    def unfinished(self) -> list[Unit]:
        """The units that have no result."""
        done = set(storage.names_in(self._path(_UNITS)))
        return [unit for unit in self.units if unit.file not in done]

    def is_staged(self) -> bool:
        """Whether the input has been staged, and earlier predictions carried over."""
        return read_manifest(self._path(_STAGED)) is not None

    def stage(
        self, source: TagInput, earlier: "Earlier", limit: int | None = None, rows_per_unit: int | None = None
    ) -> None:
        """Write down the rows to be computed, and the predictions that still hold.

        Args:
            source: of the rows.
            earlier: predictions.
            limit: rows at the most, the first ones; null: all.
            rows_per_unit: null: such that units cost about the same.
        """
        recipe = Recipe(job="stage", settings={}, inputs=source.fingerprints)
        writer = TableWriter(self._path(_STAGED), source.schema, recipe)
        storage.delete(self.directory)
        writer.begin()
        num_rows = 0
        has_images = bool(source.image_files)
        for rows in _gathered(_first(source.rows(), limit)):
            carried, missing = earlier.split(rows, source.kept)
            num_rows += len(rows)
            if len(carried):
                write_parquet(carried, self._path(_UNITS, f"carried-{num_rows:012}.parquet"))
            if len(missing):
                missing = missing if has_images else _longest_first(missing)
                most = _ROWS_PER_UNIT_WITH_IMAGES if has_images else _ROWS_PER_UNIT
                sizes = _equal_sizes(len(missing), rows_per_unit) if rows_per_unit else None
                writer.write(missing, groups=sizes or _unit_sizes(_costs(missing), most))
        writer.finish(rows_in=num_rows)

    def write(self, unit: Unit, tagged: pa.Table) -> None:
        """A unit's result."""
        write_parquet(tagged, self._path(_UNITS, unit.file))

    def results(self) -> Iterator[pa.Table]:
        """What was carried over, and then every unit's."""
        carried = fnmatch.filter(storage.names_in(self._path(_UNITS)), _CARRIED)
        for name in [*carried, *(unit.file for unit in self.units)]:
            filesystem, path = storage.resolve(self._path(_UNITS, name))
            yield pq.read_table(path, filesystem=filesystem)

    def files(self) -> list[str]:
        """Locations of the results that are there."""
        names = fnmatch.filter(storage.names_in(self._path(_UNITS)), "*.parquet")
        return [self._path(_UNITS, name) for name in names if not name.startswith(".")]

    def _path(self, *names: str) -> str:
        return storage.join(self.directory, *names)


class Reader:
    """Reads units in whichever process computes them.

    Args:
        work: the folder.
        image_files: those that the staged rows point into.
    """

    def __init__(self, work: Work, image_files: Sequence[str]):
        self._staged, self._images = work.staged.directory, ImageReader(image_files)

    def read(self, unit: Unit) -> pa.Table:
        """A unit's rows, with their images."""
        filesystem, path = storage.resolve(storage.join(self._staged, unit.part))
        with filesystem.open_input_file(path) as content:
            rows = pq.ParquetFile(content).read_row_group(unit.group)
        return self._images.added_to(rows)


class ImageReader:
    """Reads the images that rows point to.

    Args:
        image_files: those that the rows point into.
    """

    def __init__(self, image_files: Sequence[str]):
        self._image_files = list(image_files)
        self._groups: dict[tuple[int, int], pa.ChunkedArray] = {}

    def added_to(self, rows: pa.Table) -> pa.Table:
        """The rows with their images, where they say where images are."""
        return rows.append_column("image", self._images(rows)) if IMAGE_FILE in rows.column_names else rows

    def _images(self, rows: pa.Table) -> pa.Array:
        files, places = (rows[name].fill_null(-1).to_numpy() for name in (IMAGE_FILE, IMAGE_ROW))
        images: list[bytes | None] = [None] * len(rows)
        for file in np.unique(files[files >= 0]):
            starts = self._starts(int(file))
            groups = np.searchsorted(starts, places, side="right") - 1
            for group in np.unique(groups[files == file]):
                wanted = np.flatnonzero((files == file) & (groups == group))
                found = self._group(int(file), int(group)).take(pa.array(places[wanted] - starts[group]))
                for row, image in zip(wanted, found.to_pylist(), strict=True):
                    images[row] = image
        return pa.array(images, pa.binary())

    def _starts(self, file: int) -> np.ndarray:
        """The first row of each row group of a file."""
        return _row_group_starts(self._image_files[file])

    def _group(self, file: int, group: int) -> pa.ChunkedArray:
        """The images of a row group; the last one stays, because the next unit begins where the last one ended."""
        if (file, group) not in self._groups:
            filesystem, path = storage.resolve(self._image_files[file])
            with filesystem.open_input_file(path) as content:
                images = pq.ParquetFile(content).read_row_group(group, columns=["image"])["image"]
            self._groups = {(file, group): images}
        return self._groups[file, group]


class Earlier:
    """Predictions of earlier runs with the same model, found by what the model was given.

    Args:
        files: Parquet files that hold them.
    """

    def __init__(self, files: Sequence[str]):
        self._files = list(files)
        names = ["imdb_id", DIGEST, "status"]
        empty = TAGGED.empty_table().select(names)
        rows = [_read(file, names).cast(empty.schema) for file in self._files]
        self._starts = np.cumsum([0, *map(len, rows)])
        keys = pa.concat_tables([empty, *rows])
        # What failed is tried again.
        holds = pc.not_equal(keys["status"], PredictStatus.ERROR)
        self._places = np.flatnonzero(holds.to_numpy())
        self._lookup = Lookup(_key(keys.filter(holds)))
        self._one = lru_cache(4)(self._read_whole)

    def split(self, rows: pa.Table, kept: Sequence[pa.Field]) -> tuple[pa.Table, pa.Table]:
        """Predictions of those rows that are as they were, and the other rows."""
        schema = pa.schema([*TAGGED, *kept])
        found = self._lookup.places(_key(rows))
        known = found >= 0
        same = rows.filter(pa.array(known))
        columns = self._take(self._places[found[known]])
        carried = {name: same[name] if name in ("imdb_id", DIGEST) else columns[name] for name in TAGGED.names}
        table = pa.table(carried | {field.name: same[field.name] for field in kept}).select(schema.names).cast(schema)
        return table, rows.filter(pa.array(~known))

    def _take(self, places: np.ndarray) -> pa.Table:
        """Rows of all files together."""
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        found = [TAGGED.empty_table()]
        order = [np.zeros(0, np.int64)]
        for number in np.unique(numbers):
            mine = np.flatnonzero(numbers == number)
            found.append(self._one(number).take(pa.array(places[mine] - self._starts[number])))
            order.append(mine)
        back = np.argsort(np.concatenate(order), kind="stable")
        return pa.concat_tables(found).take(pa.array(back))

    def _read_whole(self, number: int) -> pa.Table:
        return _read(self._files[number], TAGGED.names).cast(TAGGED)


def earlier_files(output: str, model: str, but: Work) -> list[str]:
    """Parquet files below an output with predictions of a model: complete ones, and results of unfinished runs."""
    files = [storage.join(output, name) for name in parts_in(output)]
    for name in storage.names_in(storage.join(output, WORK)):
        work = Work(output, name)
        if name.startswith(f"{model}-") and work.directory != but.directory:
            files += work.files()
    return files


def _read(file: str, columns: Sequence[str]) -> pa.Table:
    filesystem, path = storage.resolve(file)
    return pq.read_table(path, filesystem=filesystem, columns=list(columns))


@lru_cache(64)
def _row_group_starts(file: str) -> np.ndarray:
    filesystem, path = storage.resolve(file)
    metadata = pq.read_metadata(path, filesystem=filesystem)
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.cumsum([0, *sizes])[:-1]


def _key(rows: pa.Table) -> pa.ChunkedArray:
    """The id and the digest as one text."""
    return pc.binary_join_element_wise(rows["imdb_id"], rows[DIGEST].fill_null(0).cast(pa.string()), " ")


def _gathered(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables large enough to be sorted in."""
    waiting: list[pa.Table] = []
    for batch in batches:
        waiting.append(batch)
        large = sum(table.nbytes for table in waiting) >= _BYTES_PER_PART
        if large or sum(map(len, waiting)) >= _ROWS_PER_PART:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _first(batches: Iterator[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    """The first so many rows."""
    num_left = limit
    for batch in batches:
        yield batch if num_left is None else batch.slice(0, num_left)
        if num_left is not None:
            num_left -= min(num_left, len(batch))
            if num_left == 0:
                return


def _equal_sizes(num_rows: int, size: int) -> list[int]:
    return [min(size, num_rows - start) for start in range(0, num_rows, size)]


def _costs(rows: pa.Table) -> np.ndarray:
    """Shape (N,), in characters."""
    costs = np.full(len(rows), _COST_OF_A_ROW)
    if "plot" in rows.column_names:
        costs += np.minimum(pc.utf8_length(rows["plot"]).fill_null(0).to_numpy(), _MOST_CHARACTERS)
    return costs


def _longest_first(rows: pa.Table) -> pa.Table:
    """Plots of one length are padded little, and what takes long is not left for the end."""
    return rows.take(pa.array(np.argsort(-_costs(rows), kind="stable")))


def _unit_sizes(costs: np.ndarray, most_rows: int) -> list[int]:
    """Rows of each unit of a part, such that units cost about the same."""
    total = np.cumsum(costs)
    cost_per_unit = int(np.clip(costs.sum() / _UNITS_PER_PART, *_COST_PER_UNIT))
    sizes, start = [], 0
    while start < len(costs):
        spent = total[start - 1] if start else 0
        size = int(np.clip(np.searchsorted(total, spent + cost_per_unit) - start, 1, most_rows))
        sizes.append(min(size, len(costs) - start))
        start += sizes[-1]
    return sizes
