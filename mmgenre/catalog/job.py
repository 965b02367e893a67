"""IMDb's title.basics dump → CATALOG: the movies worth tagging, or a balanced choice of them to train on.

A dump is one stream, so this is one process and starts no Ray: a thread decompresses, another parses and curates.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from mmgenre.catalog import dump as imdb_dump
from mmgenre.catalog.balance import BalanceConfig, choose
from mmgenre.catalog.dump import Dump, TitleType
from mmgenre.config import Config
from mmgenre.labels import GENRES, decode
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.schema import CATALOG
from mmgenre.tables.table import TableWriter

_COLUMNS_OF_BITS = np.arange(len(GENRES), dtype=np.uint16)
_SHOWN_UNKNOWN_GENRES = 20
_COUNTED_UNKNOWN_GENRES = 1000


class CatalogConfig(Config):
    """Which titles of an IMDb dump the catalogue holds."""

    input: str = Field(description="title.basics.tsv, plain or gzipped: a path or URI")
    output: str = Field(description="folder of the table: a path or URI")
    overwrite: bool = Field(False, description="replace a table made with other settings")
    title_types: tuple[TitleType, ...] = Field(("movie", "tvMovie"), min_length=1, description="IMDb's titleType")
    min_year: int | None = Field(None, gt=0, description="first year; with it, titles without a year are left out")
    max_year: int | None = Field(None, gt=0, description="last year; with it, titles without a year are left out")
    adult: bool = Field(False, description="keep titles that IMDb marks as adult")
    keep_unlabelled: bool = Field(False, description="keep titles with none of the nine genres; no cap holds for them")
    balance: BalanceConfig = BalanceConfig()
    rows_per_file: int = Field(100_000, gt=0, description="rows of each Parquet file but the last")

    @model_validator(mode="after")
    def _check_years(self) -> Self:
        if self.min_year is not None and self.max_year is not None and self.min_year > self.max_year:
            raise ValueError(f"min_year={self.min_year} is after max_year={self.max_year}; swap them")
        return self


def catalog(config: CatalogConfig) -> Manifest:
    """Write the catalogue, or return at once when it is there already.

    Raises:
        InputError: the dump is missing, empty or something else, or the output holds another table.
    """
    dump = Dump(config.input)
    recipe = Recipe(
        job="catalog",
        settings=config.to_settings(without=("input", "output", "overwrite")),
        inputs={"input": storage.fingerprint(config.input)},
    )
    writer = TableWriter(config.output, CATALOG, recipe)
    complete = writer.begin(overwrite=config.overwrite)
    if complete is not None:
        return complete
    curation = Curation(config)
    movies: Iterable[pa.Table] = map(curation.narrow, dump.rows())
    if config.balance.max_per_genre is not None:
        movies = [curation.balance(pa.concat_tables(movies), config.balance.max_per_genre)]
    for part in _parts(movies, config.rows_per_file):
        writer.write(curation.label(part))
    notes = curation.notes(dump)
    return writer.finish(rows_in=notes["curation"][0]["rows"], expected_rows=curation.num_kept, notes=notes)


def describe(manifest: Manifest) -> str:
    """What a person wants to know of a catalogue: what each step left, what was wrong, what it holds."""
    notes = manifest.notes
    counts = {
        name.replace("_", " "): ", ".join(f"{key} {count:,}" for key, count in notes[name].items())
        for name in ("malformed", "repaired", "unknown_genres", "genres")
    }
    return "\n".join(
        [
            curation_table(notes["curation"]),
            *(f"{name}: {text}" for name, text in counts.items() if text),
            *(f"warning: {warning}" for warning in notes["warnings"]),
            str(manifest),
        ]
    )


def curation_table(steps: Sequence[dict[str, Any]]) -> str:
    """The notes' curation, a line for each step: `{"step": ..., "rows": ...}`, the rows that it left."""
    width = max(len(step["step"]) for step in steps)
    return "\n".join(f"{step['step']:<{width}}  {step['rows']:>11,}" for step in steps)


class Curation:
    """Narrows a dump down to the catalogue, and counts what each step leaves."""

    def __init__(self, config: CatalogConfig):
        self._config = config
        self._left: Counter[str] = Counter()
        self._malformed: Counter[str] = Counter()
        self._repaired: Counter[str] = Counter()
        self._unknown_genres: Counter[str] = Counter()
        self._genres_before = np.zeros(len(GENRES), int)
        self._genres = np.zeros(len(GENRES), int)
        self._ids = _Ids()

    def narrow(self, rows: pa.Table) -> pa.Table:
        """The movies among raw rows: CATALOG's columns, but for the genres, which are a number, `bits`."""
        config = self._config
        self._left["rows with all columns"] += rows.num_rows
        types = pa.array(config.title_types, pa.binary())
        rows = self._keep(rows, self._types, pc.is_in(rows["titleType"], types))
        rows = self._well_formed(rows)
        if not config.adult:
            rows = self._keep(rows, "not adult", pc.equal(rows["isAdult"], b"0"))
        movies = self._understand(rows)
        if config.min_year is not None or config.max_year is not None:
            movies = self._keep(movies, self._years, self._in_years(movies["year"]))
        if not config.keep_unlabelled:
            movies = self._keep(movies, "at least one of the nine genres", pc.greater(movies["bits"], 0))
        first = self._ids.first(imdb_dump.numbers(movies["imdb_id"]))
        self._malformed["duplicate_id"] += int(len(first) - first.sum())
        movies = self._keep(movies, "first of its id", pa.array(first))
        self._genres_before += _labels(movies["bits"].to_numpy()).sum(axis=0)
        return movies

    def balance(self, movies: pa.Table, max_per_genre: int) -> pa.Table:
        """The choice of all narrowed movies that holds no genre more often than this."""
        chosen = choose(
            imdb_dump.numbers(movies["imdb_id"]),
            _labels(movies["bits"].to_numpy()),
            max_per_genre,
            self._config.balance.seed,
        )
        return self._keep(movies, f"at most {max_per_genre:,} of a genre", pa.array(chosen))

    def label(self, movies: pa.Table) -> pa.Table:
        """CATALOG rows: the genres by name; counts them."""
        bits = movies["bits"].to_numpy()
        self._genres += _labels(bits).sum(axis=0)
        return movies.drop_columns("bits").append_column("genres", self._genre_lists.take(pa.array(bits)))

    @property
    def num_kept(self) -> int:
        """Rows that the last step left."""
        return list(self._left.values())[-1]

    def notes(self, dump: Dump) -> dict[str, Any]:
        """The account of a dump read to its end: every one of its rows is in `curation`."""
        malformed = dump.malformed + self._malformed
        steps = {"rows in the dump": dump.malformed.total() + self._left["rows with all columns"]} | self._left
        damage = f"{dump.location}: damaged ({dump.damage}); the rows before the damage are used, download it again"
        return {
            "curation": [{"step": step, "rows": rows} for step, rows in steps.items()],
            "malformed": dict(malformed.most_common()),
            "repaired": dict((+self._repaired).most_common()),
            "unknown_genres": dict(self._unknown_genres.most_common(_SHOWN_UNKNOWN_GENRES)),
            "genres_before_balancing": dict(zip(GENRES, self._genres_before.tolist(), strict=True)),
            "genres": dict(zip(GENRES, self._genres.tolist(), strict=True)),
            "warnings": [damage] if dump.damage else [],
        }

    def _keep(self, rows: pa.Table, step: str, condition: Any) -> pa.Table:
        kept = rows.filter(condition)
        self._left[step] += kept.num_rows
        return kept

    def _well_formed(self, rows: pa.Table) -> pa.Table:
        for reason, column, is_bad in (
            ("bad_id", "tconst", imdb_dump.bad_ids),
            ("no_title", "primaryTitle", imdb_dump.no_titles),
            ("not_utf8", "primaryTitle", imdb_dump.not_utf8),
            ("bad_adult_flag", "isAdult", imdb_dump.bad_flags),
        ):
            bad = is_bad(rows[column])
            num_bad = pc.sum(bad, min_count=0).as_py()
            self._malformed[reason] += num_bad
            if num_bad:
                rows = rows.filter(pc.invert(bad))
        self._left["with an id, a title and an adult flag"] += rows.num_rows
        return rows

    def _understand(self, rows: pa.Table) -> pa.Table:
        years, bad_years = imdb_dump.years(rows["startYear"])
        runtimes, bad_runtimes = imdb_dump.runtimes(rows["runtimeMinutes"])
        bits, unknown_genres = imdb_dump.genre_bits(rows["genres"])
        self._repaired.update(bad_year=bad_years, bad_runtime=bad_runtimes)
        # The most frequent ones only: a column of something else would fill the memory.
        unknown_genres.update(self._unknown_genres)
        self._unknown_genres = Counter(dict(unknown_genres.most_common(_COUNTED_UNKNOWN_GENRES)))
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

    @cached_property
    def _types(self) -> str:
        types = self._config.title_types
        return f"title type {' or '.join(types)}" if len(types) < 4 else f"one of {len(types)} title types"

    @cached_property
    def _years(self) -> str:
        return f"year {self._config.min_year or 'any'} to {self._config.max_year or 'any'}"

    def _in_years(self, years: pa.ChunkedArray) -> pa.ChunkedArray:
        first, last = self._config.min_year, self._config.max_year
        late = pc.greater_equal(years, first) if first is not None else pc.is_valid(years)
        early = pc.less_equal(years, last) if last is not None else pc.is_valid(years)
        return pc.and_(late, early)

    @cached_property
    def _genre_lists(self) -> pa.ListArray:
        """The genres of every possible `bits`."""
        return pa.array([decode(labels) for labels in _labels(np.arange(1 << len(GENRES)))], pa.list_(pa.string()))


class _Ids:
    """The ids that have come before, one bit each: those of any dump take 125 MB at the most."""

    def __init__(self) -> None:
        # The system hands out zeroed pages only as they are touched.
        self._seen = np.zeros(imdb_dump.MAX_NUMBER // 8, np.uint8)

    def first(self, numbers: np.ndarray) -> np.ndarray:
        """Which of the id numbers come for the first time; shapes (N,)."""
        first = np.zeros(len(numbers), bool)
        first[np.unique(numbers, return_index=True)[1]] = True
        byte, bit = numbers >> 3, np.left_shift(1, numbers & 7).astype(np.uint8)
        first &= self._seen[byte] & bit == 0
        np.bitwise_or.at(self._seen, byte, bit)
        return first


def _labels(bits: np.ndarray) -> np.ndarray:
    """Shape (N, 9), bool, of shape (N,)."""
    return (bits[:, np.newaxis] >> _COLUMNS_OF_BITS & 1).astype(bool)


def _parts(movies: Iterable[pa.Table], rows_per_file: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows_per_file`, the last one smaller."""
    held: list[pa.Table] = []
    num_held = 0
    for table in movies:
        held.append(table)
        num_held += table.num_rows
        while num_held >= rows_per_file:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows_per_file)
            held = [whole.slice(rows_per_file)]
            num_held -= rows_per_file
    if held:
        yield pa.concat_tables(held)
