"""The catalog job: IMDb's title.basics dump → CATALOG, either all movies to tag or a balanced choice to train on.

A dump is a single stream, so the job runs in one process without Ray: one thread decompresses, another curates.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from mmgenre.catalog import dump as fields
from mmgenre.catalog.balance import BalanceConfig, choose
from mmgenre.catalog.dump import Dump, TitleType
from mmgenre.config import Config, Requirements
from mmgenre.errors import InputError
from mmgenre.labels import GENRES, decode
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import CATALOG
from mmgenre.tables.table import TableWriter
from mmgenre.tables.user_files import remarks

_BITS = np.arange(len(GENRES), dtype=np.uint16)
_MAX_REPORTED_GENRES = 20
_MAX_COUNTED_GENRES = 1000
_ROW_CHECKS = (
    ("bad_id", "tconst", fields.bad_ids),
    ("no_title", "primaryTitle", fields.no_titles),
    ("not_utf8", "primaryTitle", fields.not_utf8),
    ("bad_adult_flag", "isAdult", fields.bad_flags),
)


class CatalogConfig(Config):
    """Which titles of an IMDb dump go into the catalogue."""

    input: str = Field(description="title.basics.tsv, plain or gzipped: a path or URI")
    output: str = Field(description="folder of the table: a path or URI")
    overwrite: bool = Field(False, description="replace a table made with other settings")
    title_types: tuple[TitleType, ...] = Field(("movie", "tvMovie"), min_length=1, description="IMDb title types")
    min_year: int | None = Field(None, gt=0, description="first year; if set, titles without a year are dropped")
    max_year: int | None = Field(None, gt=0, description="last year; if set, titles without a year are dropped")
    allow_damaged: bool = Field(False, description="use the rows before the damage of a truncated or corrupt dump")
    adult: bool = Field(False, description="keep titles that IMDb marks as adult")
    keep_unlabelled: bool = Field(False, description="keep titles with none of the nine genres; never capped")
    balance: BalanceConfig = BalanceConfig()
    rows_per_file: int = Field(100_000, gt=0, description="rows per Parquet file")

    @model_validator(mode="after")
    def _check_years(self) -> Self:
        if self.min_year is not None and self.max_year is not None and self.min_year > self.max_year:
            raise ValueError(f"min_year={self.min_year} is after max_year={self.max_year}; swap them")
        return self

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        return (Requirements(inputs=(self.input,), outputs=(self.output,)),)


def catalog(config: CatalogConfig) -> Manifest:
    """Write the catalogue; returns at once if it is already complete.

    Raises:
        InputError: the dump is missing, empty, damaged or a different file, or the output holds another table.
    """
    dump = Dump(config.input)
    recipe = Recipe(
        job="catalog",
        settings=config.to_settings(without=("input", "output", "overwrite", "allow_damaged")),
        inputs={"input": storage.fingerprint(config.input)},
    )
    output = Output(config.output, recipe, overwrite=config.overwrite)
    if output.finished is not None:
        _require_whole(config, output.finished.notes)
        return output.finished
    with output:
        writer = TableWriter(output, CATALOG)
        curation = Curation(config)
        movies: Iterable[pa.Table] = map(curation.select, dump.rows())
        if config.balance.max_per_genre is not None:
            movies = [curation.balance(pa.concat_tables(movies), config.balance.max_per_genre)]
        for table in _in_files(movies, config.rows_per_file):
            writer.write(curation.add_genres(table))
        notes = curation.notes(dump)
        _require_whole(config, notes)
        return writer.finish(rows_in=notes["curation"][0]["rows"], expected_rows=curation.num_rows, notes=notes)


def _require_whole(config: CatalogConfig, notes: dict[str, Any]) -> None:
    if notes["warnings"] and not config.allow_damaged:
        raise InputError(f"{notes['warnings'][0]}, or accept that with allow_damaged=true")


def describe(manifest: Manifest) -> str:
    """A summary of a catalogue: rows after each step, malformed rows by reason, rows per genre."""
    notes = manifest.notes
    counts = {
        name.replace("_", " "): ", ".join(f"{key} {count:,}" for key, count in notes[name].items())
        for name in ("malformed", "repaired", "unknown_genres", "genres")
    }
    return "\n".join(
        [
            curation_table(notes["curation"]),
            *(f"{name}: {text}" for name, text in counts.items() if text),
            str(manifest),
            *remarks(notes),
        ]
    )


def curation_table(steps: Sequence[dict[str, Any]]) -> str:
    """The `curation` notes of a manifest as aligned text: each step with the rows that it kept."""
    width = max(len(step["step"]) for step in steps)
    return "\n".join(f"{step['step']:<{width}}  {step['rows']:>11,}" for step in steps)


class Curation:
    """Selects the catalogue's rows from a dump and counts the rows after each step."""

    def __init__(self, config: CatalogConfig):
        self._config = config
        self._kept: Counter[str] = Counter()
        self._malformed: Counter[str] = Counter()
        self._repaired: Counter[str] = Counter()
        self._unknown_genres: Counter[str] = Counter()
        self._genres_before = np.zeros(len(GENRES), int)
        self._genres = np.zeros(len(GENRES), int)
        self._seen_ids = _SeenIds()

    def select(self, rows: pa.Table) -> pa.Table:
        """The movies in raw rows: the columns of CATALOG, with the genres as a bit mask `bits`."""
        config = self._config
        self._kept["rows with all columns"] += rows.num_rows
        types = pa.array(config.title_types, pa.binary())
        rows = self._filter(rows, self._title_type_step, pc.is_in(rows["titleType"], types))
        rows = self._drop_malformed(rows)
        if not config.adult:
            rows = self._filter(rows, "not adult", pc.equal(rows["isAdult"], b"0"))
        movies = self._parse(rows)
        if config.min_year is not None or config.max_year is not None:
            movies = self._filter(movies, self._year_step, self._is_in_years(movies["year"]))
        if not config.keep_unlabelled:
            movies = self._filter(movies, "at least one of the nine genres", pc.greater(movies["bits"], 0))
        is_first = self._seen_ids.add(fields.numbers(movies["imdb_id"]))
        self._malformed["duplicate_id"] += int(len(is_first) - is_first.sum())
        movies = self._filter(movies, "first of its id", pa.array(is_first))
        self._genres_before += _labels(movies["bits"].to_numpy()).sum(axis=0)
        return movies

    def balance(self, movies: pa.Table, max_per_genre: int) -> pa.Table:
        """A choice of the selected movies with at most max_per_genre of each genre."""
        is_chosen = choose(
            fields.numbers(movies["imdb_id"]),
            _labels(movies["bits"].to_numpy()),
            max_per_genre,
            self._config.balance.seed,
        )
        return self._filter(movies, f"at most {max_per_genre:,} of a genre", pa.array(is_chosen))

    def add_genres(self, movies: pa.Table) -> pa.Table:
        """CATALOG rows, with genre names in place of the bit mask; counts the genres."""
        bits = movies["bits"].to_numpy()
        self._genres += _labels(bits).sum(axis=0)
        return movies.drop_columns("bits").append_column("genres", self._genre_lists.take(pa.array(bits)))

    @property
    def num_rows(self) -> int:
        """Rows after the last step."""
        return list(self._kept.values())[-1]

    def notes(self, dump: Dump) -> dict[str, Any]:
        """Manifest notes about an exhausted dump; `curation` accounts for all of its rows."""
        malformed = dump.malformed + self._malformed
        steps = {"rows in the dump": dump.malformed.total() + self._kept["rows with all columns"]} | self._kept
        damage = (
            f"{dump.location}: damaged ({dump.damage}); only the {steps['rows in the dump']:,} rows before the damage "
            "are used: download it again"
        )
        return {
            "curation": [{"step": step, "rows": rows} for step, rows in steps.items()],
            "malformed": dict(malformed.most_common()),
            "repaired": dict((+self._repaired).most_common()),
            "unknown_genres": dict(self._unknown_genres.most_common(_MAX_REPORTED_GENRES)),
            "genres_before_balancing": dict(zip(GENRES, self._genres_before.tolist(), strict=True)),
            "genres": dict(zip(GENRES, self._genres.tolist(), strict=True)),
            "warnings": [damage] if dump.damage else [],
        }

    def _filter(self, rows: pa.Table, step: str, condition: Any) -> pa.Table:
        rows = rows.filter(condition)
        self._kept[step] += rows.num_rows
        return rows

    def _drop_malformed(self, rows: pa.Table) -> pa.Table:
        for reason, column, is_bad in _ROW_CHECKS:
            bad = is_bad(rows[column])
            num_bad = pc.sum(bad, min_count=0).as_py()
            self._malformed[reason] += num_bad
            if num_bad:
                rows = rows.filter(pc.invert(bad))
        self._kept["with an id, a title and an adult flag"] += rows.num_rows
        return rows

    def _parse(self, rows: pa.Table) -> pa.Table:
        years, bad_years = fields.years(rows["startYear"])
        runtimes, bad_runtimes = fields.runtimes(rows["runtimeMinutes"])
        bits, unknown_genres = fields.genre_bits(rows["genres"])
        self._repaired.update(bad_year=bad_years, bad_runtime=bad_runtimes)
        # Bounds the memory in case the column holds something other than genres.
        unknown_genres.update(self._unknown_genres)
        self._unknown_genres = Counter(dict(unknown_genres.most_common(_MAX_COUNTED_GENRES)))
        return pa.table(
            {
                "imdb_id": rows["tconst"].cast(pa.string()),
                "title": rows["primaryTitle"].cast(pa.string()),
                "year": years,
                "runtime": runtimes,
                "bits": bits,
                "title_type": rows["titleType"].cast(pa.string()),
            }
        )

    @property
    def _title_type_step(self) -> str:
        types = self._config.title_types
        return f"title type {' or '.join(types)}" if len(types) < 4 else f"one of {len(types)} title types"

    @property
    def _year_step(self) -> str:
        return f"year {self._config.min_year or 'any'} to {self._config.max_year or 'any'}"

    def _is_in_years(self, years: pa.ChunkedArray) -> pa.ChunkedArray:
        first, last = self._config.min_year, self._config.max_year
        is_late = pc.greater_equal(years, first) if first is not None else pc.is_valid(years)
        is_early = pc.less_equal(years, last) if last is not None else pc.is_valid(years)
        return pc.and_(is_late, is_early)

    @cached_property
    def _genre_lists(self) -> pa.ListArray:
        """Genre names by bit mask."""
        return pa.array([decode(labels) for labels in _labels(np.arange(1 << len(GENRES)))], pa.list_(pa.string()))


class _SeenIds:
    """A set of id numbers as a bit map: at most 125 MB for any dump."""

    def __init__(self) -> None:
        # The operating system allocates zeroed pages only when they are written.
        self._bitmap = np.zeros(fields.MAX_NUMBER // 8, np.uint8)

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """Add id numbers, shape (N,); returns which of them are new, shape (N,), bool."""
        is_new = np.zeros(len(numbers), bool)
        is_new[np.unique(numbers, return_index=True)[1]] = True
        byte, bit = numbers >> 3, np.left_shift(1, numbers & 7).astype(np.uint8)
        is_new &= self._bitmap[byte] & bit == 0
        np.bitwise_or.at(self._bitmap, byte, bit)
        return is_new


def _labels(bits: np.ndarray) -> np.ndarray:
    """Labels, shape (N, 9), bool, of bit masks, shape (N,)."""
    return (bits[:, np.newaxis] >> _BITS & 1).astype(bool)


def _in_files(movies: Iterable[pa.Table], rows_per_file: int) -> Iterator[pa.Table]:
    """The rows of all tables, regrouped into tables of rows_per_file; the last one may be smaller."""
    buffered: list[pa.Table] = []
    num_buffered = 0
    for table in movies:
        buffered.append(table)
        num_buffered += table.num_rows
        while num_buffered >= rows_per_file:
            rows = pa.concat_tables(buffered)
            yield rows.slice(0, rows_per_file)
            buffered = [rows.slice(rows_per_file)]
            num_buffered -= rows_per_file
    if buffered:
        yield pa.concat_tables(buffered)
