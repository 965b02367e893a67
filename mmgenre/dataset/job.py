"""CATALOG + ENRICHED (+ POSTERS) → MOVIES: labelled movies, split into train, val and test without leaks."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from mmgenre.catalog.job import curation_table
from mmgenre.config import Config, Requirements
from mmgenre.dataset.groups import merged_groups, normalise, plot_groups
from mmgenre.errors import InputError
from mmgenre.labels import GENRES, encode
from mmgenre.tables.joins import RightTable, with_posters
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, POSTERS, SPLITS, PosterStatus, per_genre
from mmgenre.tables.table import Table, TableWriter, count_values
from mmgenre.tables.user_files import remarks
from mmgenre.tables.words import count_words

_ROWS_PER_PART = 50_000
_POSTERS_AVAILABLE = "posters available"


class DatasetConfig(Config):
    """Select the movies to train on, and split them."""

    catalog: str = Field(description="folder of the CATALOG table")
    enriched: str = Field(description="folder of the ENRICHED table")
    posters: str | None = Field(None, description="folder of the POSTERS table; null: no images")
    output: str = Field(description="folder of the MOVIES table")
    overwrite: bool = Field(False, description="replace an output made with other settings or inputs")
    language: str | None = Field(
        "en", description="ISO 639-1 code; keep movies of this or an unknown original language; null: keep all"
    )
    min_words: int = Field(6, ge=0, description="minimum words per plot; 0: keep movies without a plot")
    require_poster: bool = Field(False, description="keep only movies with a poster")
    val_share: float = Field(
        0.1, gt=0, lt=0.5, description="validation share; movies with an equal plot or poster stay together"
    )
    test_share: float = Field(
        0.1, gt=0, lt=0.5, description="test share; movies with an equal plot or poster stay together"
    )
    seed: int = Field(0, ge=0, description="seed of the split")

    @model_validator(mode="after")
    def _posters_to_require(self) -> Self:
        if self.require_poster and self.posters is None:
            raise ValueError("require_poster=true needs the POSTERS table; give it as posters=DIR")
        return self

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        return (Requirements(inputs=(self.catalog, self.enriched, self.posters), outputs=(self.output,)),)


def build_dataset(config: DatasetConfig) -> Manifest:
    """Write one MOVIES row per catalogued movie with a known genre, the language, and enough words.

    Raises:
        InputError: a table is missing or of the wrong kind, a catalogued movie is not enriched, or no movie is left.
    """
    catalog, enriched = Table(config.catalog, CATALOG), Table(config.enriched, ENRICHED)
    posters = None if config.posters is None else Table(config.posters, POSTERS)
    tables = {"catalog": catalog, "enriched": enriched} | ({} if posters is None else {"posters": posters})
    inputs = {role: table.manifest.fingerprint for role, table in tables.items()}
    settings = config.to_settings(without=("catalog", "enriched", "posters", "output", "overwrite"))
    recipe = Recipe(job="dataset", settings=settings, inputs=inputs)
    output = Output(config.output, recipe, overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    with output:
        return _fill(config, TableWriter(output, MOVIES), catalog, enriched, posters)


def _fill(
    config: DatasetConfig, writer: TableWriter, catalog: Table, enriched: Table, posters: Table | None
) -> Manifest:
    """Write the rows, check the splits, and complete the table."""
    curation: Counter[str] = Counter()
    parts: Iterator[pa.Table] = (_movies(part, config, curation) for part in _join(catalog, enriched))
    digests: dict[str, str] = {}
    if posters is None:
        parts = (part.append_column("image", pa.nulls(len(part), pa.binary())) for part in parts)
    else:
        digests = _poster_digests(posters)
        parts = _with_images(_with_poster_groups(pa.concat_tables(parts), digests), posters, config, curation)
    for part in parts:
        splits = pa.array([split_of(group, config) for group in part["group"].to_pylist()], pa.string())
        writer.write(part.append_column("split", splits))
    _require_movies(config, curation)
    rows = writer.written(["imdb_id", "split", "plot"])
    _require_every_split(rows["split"])
    splits = rows["split"].to_pylist()
    _require_no_leak("plot", [normalise(plot or "") for plot in rows["plot"].to_pylist()], splits)
    _require_no_leak("poster", [digests.get(name) for name in rows["imdb_id"].to_pylist()], splits)
    steps = [{"step": step, "rows": rows} for step, rows in curation.items()]
    notes = {
        "curation": [*catalog.manifest.notes.get("curation", []), *steps],
        "splits": count_values(rows["split"]),
        "warnings": catalog.manifest.notes.get("warnings", []),
    }
    return writer.finish(rows_in=catalog.manifest.rows, notes=notes)


def describe(manifest: Manifest) -> str:
    """The curation table, the size of each split, and the manifest's line."""
    splits = ", ".join(f"{split} {manifest.notes['splits'][split]:,}" for split in SPLITS)
    lines = [curation_table(manifest.notes["curation"]), f"splits: {splits}", str(manifest), *remarks(manifest.notes)]
    return "\n".join(lines)


def split_of(group: str, config: DatasetConfig) -> str:
    """The split of a group of movies, by hash: it stays the same when the catalogue grows."""
    digest = hashlib.blake2b(group.encode(), digest_size=8, key=str(config.seed).encode()).digest()
    position = int.from_bytes(digest) / 2**64
    if position < config.test_share:
        return "test"
    return "val" if position < config.test_share + config.val_share else "train"


def _join(catalog: Table, enriched: Table) -> Iterator[pa.Table]:
    """Both tables' columns of each catalogued movie, in bounded parts; the catalogue is held in memory."""
    movies = catalog.read(["imdb_id", "title", "genres"])
    missing = pc.invert(pc.is_in(movies["imdb_id"], enriched.read(["imdb_id"])["imdb_id"]))
    if pc.any(missing).as_py():
        raise InputError(
            f"{enriched.directory}: {pc.sum(missing).as_py():,} of the movies in {catalog.directory} are missing; "
            "run jobs/enrich.py on that catalogue again"
        )
    catalogued = RightTable(movies)
    columns = ["imdb_id", "plot", "language"]
    for batch in enriched.dataset.to_batches(columns=columns, batch_size=_ROWS_PER_PART):
        yield catalogued.join(pa.Table.from_batches([batch]), inner=True)


def _poster_digests(posters: Table) -> dict[str, str]:
    """The digest of each movie's poster, by id; equal for equal posters."""
    rows = posters.read(["imdb_id", "sha256"], filter=pc.field("status") == PosterStatus.OK)
    return {name: digest for name, digest in zip(*map(pa.ChunkedArray.to_pylist, rows.columns), strict=True) if digest}


def _with_poster_groups(movies: pa.Table, digests: dict[str, str]) -> pa.Table:
    """The movies, those with one poster in one group."""
    ids, groups = movies["imdb_id"].to_pylist(), movies["group"].to_pylist()
    merged = merged_groups(ids, groups, [digests.get(name) for name in ids])
    return movies.set_column(movies.column_names.index("group"), "group", pa.array(merged, pa.string()))


def _with_images(movies: pa.Table, posters: Table, config: DatasetConfig, curation: Counter[str]) -> Iterator[pa.Table]:
    for part in with_posters(movies, posters):
        has_poster = part["image"].is_valid()
        curation[_POSTERS_AVAILABLE] += pc.sum(has_poster).as_py() or 0
        yield part.filter(has_poster) if config.require_poster else part


def _movies(part: pa.Table, config: DatasetConfig, curation: Counter[str]) -> pa.Table:
    """The MOVIES rows of a part with their groups in place of splits and images; counts the rows each step leaves."""
    for step, keep in _steps(config).items():
        part = part.filter(keep(part))
        curation[step] += part.num_rows
    plots, ids = part["plot"].to_pylist(), part["imdb_id"].to_pylist()
    labels = np.array([encode(genres) for genres in part["genres"].to_pylist()]).reshape(-1, len(GENRES))
    columns = {
        "imdb_id": part["imdb_id"],
        "group": pa.array(plot_groups(ids, plots), pa.string()),
        "title": part["title"],
        "plot": part["plot"],
        "labels": per_genre(labels),
    }
    return pa.table(columns)


def _steps(config: DatasetConfig) -> dict[str, Any]:
    steps = {"has a genre": lambda part: pc.greater(pc.list_value_length(part["genres"]), 0)}
    if config.language is not None:
        name = f"original language {config.language} or unknown"
        steps[name] = lambda part: pc.fill_null(pc.equal(part["language"], config.language), True)
    if config.min_words:
        name = f"plot of {config.min_words} words or more"
        steps[name] = lambda part: pc.greater_equal(pc.fill_null(count_words(part["plot"]), 0), config.min_words)
    return steps


def _require_movies(config: DatasetConfig, curation: Counter[str]) -> None:
    needed = [rows for step, rows in curation.items() if step != _POSTERS_AVAILABLE or config.require_poster]
    if not needed or min(needed) == 0:
        steps = ", ".join(f"{step} {rows:,}" for step, rows in curation.items())
        raise InputError(f"{config.enriched}: no movie is left to train on ({steps}); check language and min_words")


def _require_every_split(splits: pa.ChunkedArray) -> None:
    empty = set(SPLITS) - set(splits.unique().to_pylist())
    if empty:
        raise InputError(f"{len(splits):,} movies are too few: none in {', '.join(empty)}; use a larger catalogue")


def _require_no_leak(kind: str, values: Sequence[str | None], splits: Sequence[str]) -> None:
    """Raise RuntimeError if movies with the same plot or poster are in different splits.

    Args:
        kind: what the values are, for the message.
        values: of each movie; empty or None: unknown.
        splits: of each movie.
    """
    split_by_value: dict[str, str] = {}
    for value, split in zip(values, splits, strict=True):
        if value and split_by_value.setdefault(value, split) != split:
            raise RuntimeError(f"a {kind} is in both {split_by_value[value]} and {split}: {value[:60]!r}")
