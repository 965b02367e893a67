"""Units of work: row groups of the staged input, each of which becomes one result file.

A unit that is computed twice, because a process died or outlived its driver, writes the same file again. So no row is
lost or duplicated, and resuming means computing the units that have no file.
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
from mmgenre.tables.chunks import gather
from mmgenre.tables.ids import Lookup
from mmgenre.tables.images import ImageReader, row_group_sizes
from mmgenre.tables.manifest import Recipe, read_manifest
from mmgenre.tables.output import Output
from mmgenre.tables.schema import PREDICTIONS, PredictStatus
from mmgenre.tables.table import Table, TableWriter, parts_in, write_parquet
from mmgenre.tagging.division import Division
from mmgenre.tagging.input import DIGEST, TagInput

WORK = "_work"
_STAGED, _UNITS = "staged", "units"
_CARRIED = "carried-*.parquet"
_ROWS_PER_PART, _BYTES_PER_PART = 50_000, 64 * 2**20
# Columns that a model computes: those of PREDICTIONS without the decision.
TAGGED = pa.schema([field for field in PREDICTIONS if field.name != "genres"])


@dataclass(frozen=True)
class Unit:
    """Rows that are computed together: one row group of the staged table."""

    number: int
    part: str
    group: int
    rows: int

    @property
    def file(self) -> str:
        """Name of its result file."""
        return f"unit-{self.number:07}.parquet"


class WorkFolder:
    """A folder with the staged input and the results of its units.

    Args:
        directory: a different one for each input and model.
    """

    def __init__(self, directory: str):
        self.directory = storage.absolute(directory)

    @cached_property
    def staged(self) -> Table:
        """The rows to compute."""
        return Table(self._path(_STAGED))

    @cached_property
    def units(self) -> list[Unit]:
        """All units, in order."""
        units: list[Unit] = []
        for part, file in zip(self.staged.manifest.files, self.staged.files, strict=True):
            sizes = row_group_sizes(file)
            units += [Unit(len(units) + group, part, group, rows) for group, rows in enumerate(sizes) if rows]
        return units

    def unfinished(self) -> list[Unit]:
        """The units without a readable result file."""
        names = set(storage.names_in(self._path(_UNITS)))
        results = [self._path(_UNITS, unit.file) for unit in self.units if unit.file in names]
        done = set(results).difference(storage.unreadable_parquet(results))
        return [unit for unit in self.units if self._path(_UNITS, unit.file) not in done]

    def is_staged(self) -> bool:
        """Whether staging is complete and its files can be read."""
        manifest = read_manifest(self._path(_STAGED))
        if manifest is None or manifest.missing(self._path(_STAGED)):
            return False
        return not storage.unreadable_parquet([*self.staged.files, *self._carried()])

    def stage(
        self,
        source: TagInput,
        earlier: "EarlierPredictions",
        limit: int | None = None,
        rows_per_unit: int | None = None,
    ) -> None:
        """Write the rows to compute, divided into units, and copy the earlier predictions that are still valid.

        Does nothing if a run that shares the folder has done it meanwhile.

        Args:
            source: the movies.
            earlier: predictions of earlier runs.
            limit: take the first `limit` rows only; None: all.
            rows_per_unit: units of this size, in the order of the source; None: units of about the same cost, the
                longest plots first.
        """
        recipe = Recipe(job="stage", settings={}, inputs=source.fingerprints)
        output = Output(self._path(_STAGED), recipe, overwrite=True)
        with output.reserved(wait=True):
            if output.finished is not None and self.is_staged():
                return
            self.__dict__.pop("staged", None)
            storage.delete(self._path(_UNITS))
            with output:
                writer, num_rows = TableWriter(output, source.schema), 0
                divide = Division(rows_per_unit, has_images=bool(source.image_files))
                batches = gather(_first(source.rows(), limit), rows=_ROWS_PER_PART, num_bytes=_BYTES_PER_PART)
                for rows in batches:
                    carried, to_compute = earlier.split(rows.combine_chunks(), source.kept)
                    num_rows += len(rows)
                    if len(carried):
                        write_parquet(carried, self._path(_UNITS, f"carried-{num_rows:012}.parquet"))
                    if len(to_compute):
                        writer.write(*divide(to_compute))
                writer.finish(rows_in=num_rows, notes=source.notes())

    def write(self, unit: Unit, tagged: pa.Table) -> None:
        """Write a unit's result file."""
        write_parquet(tagged, self._path(_UNITS, unit.file))

    def results(self) -> Iterator[pa.Table]:
        """The predictions carried over, then the results of all units."""
        for file in [*self._carried(), *(self._path(_UNITS, unit.file) for unit in self.units)]:
            yield _read(file)

    def files(self) -> list[str]:
        """The result files that exist and can be read."""
        names = fnmatch.filter(storage.names_in(self._path(_UNITS)), "*.parquet")
        files = [self._path(_UNITS, name) for name in names if not name.startswith(".")]
        unreadable = storage.unreadable_parquet(files)
        return [file for file in files if file not in unreadable]

    def _carried(self) -> list[str]:
        return [self._path(_UNITS, name) for name in fnmatch.filter(storage.names_in(self._path(_UNITS)), _CARRIED)]

    def _path(self, *names: str) -> str:
        return storage.join(self.directory, *names)


class UnitReader:
    """Reads units in the process that computes them.

    Args:
        work: the folder with the staged rows.
        image_files: the files that the staged rows refer to.
    """

    def __init__(self, work: WorkFolder, image_files: Sequence[str]):
        self._staged, self._images = work.staged.directory, ImageReader(image_files)

    def read(self, unit: Unit) -> pa.Table:
        """The rows of a unit, with their images."""
        filesystem, path = storage.resolve(storage.join(self._staged, unit.part))
        with filesystem.open_input_file(path) as content:
            rows = pq.ParquetFile(content).read_row_group(unit.group)
        return self._images.add_images(rows)


class EarlierPredictions:
    """Predictions of earlier runs with the same model, looked up by id and input digest.

    Args:
        files: Parquet files that hold them.
    """

    def __init__(self, files: Sequence[str]):
        self._files = list(files)
        names = ["imdb_id", DIGEST, "status"]
        empty = TAGGED.empty_table().select(names)
        tables = [_read(file, names).cast(empty.schema) for file in self._files]
        self._starts = np.cumsum([0, *map(len, tables)])
        rows = pa.concat_tables([empty, *tables])
        # Failed rows are computed again.
        is_valid = pc.not_equal(rows["status"], PredictStatus.ERROR)
        self._valid_rows = np.flatnonzero(is_valid.to_numpy())
        self._lookup = Lookup(_key(rows.filter(is_valid)))
        self._read_file = lru_cache(4)(lambda number: _read(self._files[number], TAGGED.names).cast(TAGGED))

    def split(self, rows: pa.Table, kept: Sequence[pa.Field]) -> tuple[pa.Table, pa.Table]:
        """The predictions of the rows whose input has not changed, and the remaining rows."""
        schema = pa.schema([*TAGGED, *kept])
        places = self._lookup.places(_key(rows))
        is_known = places >= 0
        unchanged = rows.filter(pa.array(is_known))
        earlier = self._take(self._valid_rows[places[is_known]])
        columns = {name: unchanged[name] if name in ("imdb_id", DIGEST) else earlier[name] for name in TAGGED.names}
        carried = pa.table(columns | {field.name: unchanged[field.name] for field in kept})
        return carried.select(schema.names).cast(schema), rows.filter(pa.array(~is_known))

    def _take(self, numbers: np.ndarray) -> pa.Table:
        """Rows by their number among the rows of all files, in the given order."""
        files = np.searchsorted(self._starts, numbers, side="right") - 1
        parts, positions = [TAGGED.empty_table()], [np.zeros(0, np.int64)]
        for file in np.unique(files):
            in_file = np.flatnonzero(files == file)
            parts.append(self._read_file(file).take(pa.array(numbers[in_file] - self._starts[file])))
            positions.append(in_file)
        given_order = np.argsort(np.concatenate(positions), kind="stable")
        return pa.concat_tables(parts).take(pa.array(given_order))


def earlier_files(output: str, model: str, current: WorkFolder) -> list[str]:
    """Parquet files in an output with predictions of a model: of complete runs, and of other unfinished ones."""
    files = [storage.join(output, name) for name in parts_in(output)]
    unreadable = set(storage.unreadable_parquet(files))
    files = [file for file in files if file not in unreadable]
    for name in storage.names_in(storage.join(output, WORK)):
        work = WorkFolder(storage.join(output, WORK, name))
        if name.startswith(f"{model}-") and work.directory != current.directory:
            files += work.files()
    return files


def _read(file: str, columns: Sequence[str] | None = None) -> pa.Table:
    filesystem, path = storage.resolve(file)
    return pq.read_table(path, filesystem=filesystem, columns=None if columns is None else list(columns))


def _key(rows: pa.Table) -> pa.ChunkedArray:
    """Id and digest as one string."""
    return pc.binary_join_element_wise(rows["imdb_id"], rows[DIGEST].fill_null(0).cast(pa.string()), " ")


def _first(batches: Iterator[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    """The first `limit` rows; None: all."""
    remaining = limit
    for batch in batches:
        yield batch if remaining is None else batch.slice(0, remaining)
        if remaining is not None:
            remaining -= min(remaining, len(batch))
            if remaining == 0:
                return
