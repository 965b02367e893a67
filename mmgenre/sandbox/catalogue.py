"""Generates a catalogue in IMDb's format, and the movies that a provider knows.

`write_dump` writes only the dump, with any number of rows in the proportions of the real one.
"""

import gzip
import io
from collections.abc import Sequence
from functools import cache
from itertools import product
from random import Random
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from mmgenre.config import Config
from mmgenre.sandbox.movies import MOVIES, SERVED, draw_movies
from mmgenre.tables import storage

DUMP = "title.basics.tsv.gz"
COLUMNS = (
    "tconst",
    "titleType",
    "primaryTitle",
    "originalTitle",
    "isAdult",
    "startYear",
    "endYear",
    "runtimeMinutes",
    "genres",
)
NULL = r"\N"

_CHUNK_ROWS = 250_000
# Rows per thousand, approximately those of IMDb.
_TYPES = {
    "tvEpisode": 758,
    "short": 93,
    "movie": 64,
    "video": 27,
    "tvSeries": 25,
    "tvMovie": 14,
    "tvMiniSeries": 6,
    "tvSpecial": 5,
    "videoGame": 4,
    "tvShort": 3,
    "tvPilot": 1,
}
_RUNTIMES = {"movie": (60, 150), "tvMovie": (60, 120), "video": (20, 120), "short": (2, 40)}
_COMMON_GENRES = (
    ["Drama"] * 9
    + ["Comedy"] * 8
    + ["Talk-Show", "Documentary", "Short", "Family", "News", "Reality-TV"] * 3
    + ["Romance", "Animation", "Crime", "Action", "Adventure", "Game-Show", "Music"] * 2
    + ["Horror", "Thriller", "Sci-Fi", "Mystery", "Fantasy", "Sport", "History", "Biography", "War", "Western", "Adult"]
)
# Genres of movies that do not belong in a catalogue of the nine genres.
_OUTSIDE_GENRES = (
    "Documentary",
    "Biography,Documentary",
    "Documentary,History,War",
    "Music",
    "Family",
    "Animation,Family,Fantasy",
    "Western",
    "Adult",
    "Adult,Drama",
    "Adult,Comedy,Romance",
)
_ARTICLES = ("The ", "A ", "My ", "Our Last ", "", "")
_ADJECTIVES = (
    *("Silent", "Borrowed", "Crimson", "Hollow", "Second", "Quiet", "Wooden", "Northern", "Forgotten", "Electric"),
    *("Paper", "Midnight", "Golden", "Broken", "Distant", "Hundredth", "Glass", "Summer", "Unwritten", "Slow"),
    *("Été", "Blå", "O'Hara's", "Mr. & Mrs.", '"Little"', "50%"),
)
_NOUNS = (
    *("River", "Letters", "Harbour", "Orchard", "Station", "Kingdom", "Neighbours", "Clockmaker", "Garden", "Bridge"),
    *("Tide", "Lantern", "Mountain", "Waltz", "Return", "Island", "Door", "Mirror", "Winter", "Señorita", "Road"),
)
_ENDINGS = (
    *("", "", "", "", "", "", "", "", "", "", "", "", "", "", "", ""),
    *(" of Eden", " in the Rain", " II", ": Part One", " at Dawn", "?", " & Sons", " of My Own", ' "Live"', ', "'),
)


class SandboxConfig(Config):
    """Contents of a generated catalogue; equal settings give byte-identical files."""

    movies: int = Field(3000, gt=0, description="rows of movies, listed with some of the nine genres or with none")
    other_titles: int = Field(1500, ge=0, description="rows of episodes, shorts, documentaries, adult titles and so on")
    seed: int = 0
    malformed: float = Field(0.002, ge=0, lt=1, description="additional malformed rows, as a share of the others")


def generate(config: SandboxConfig, directory: str) -> None:
    """Write `title.basics.tsv.gz` and, last, `movies.parquet` to a folder, replacing existing files.

    `movies.parquet` contains the movies that a provider knows, with their true genres.
    """
    random = Random(config.seed)  # noqa: S311 - repeatable, not secret
    generator = np.random.default_rng(config.seed)
    movies = draw_movies(config.movies, random)
    parts = np.repeat(["movie", "other", "malformed"], _part_sizes(config))
    generator.shuffle(parts)
    rows = _draw_rows(_draw_types(parts, generator), generator, after=0).to_pandas()
    rows.loc[parts == "movie", "genres"] = movies["listed"].to_numpy()
    is_outside = (parts == "other") & (rows["titleType"] == "movie")
    rows.loc[is_outside, "genres"] = generator.choice(_OUTSIDE_GENRES, is_outside.sum())
    rows["isAdult"] = np.where(rows["genres"].str.contains("Adult"), "1", "0")
    storage.write_bytes(storage.join(directory, DUMP), _compress(_to_lines(rows, parts, random)))
    listed = rows[parts == "movie"].reset_index(drop=True)
    storage.write_bytes(storage.join(directory, MOVIES), _served(listed, movies))


def write_dump(path: str, rows: int, seed: int) -> None:
    """Write only a dump, to a path or URI, for benchmarks of its readers.

    12 million rows are about 1 GB before compression; memory use does not depend on the number of rows.
    """
    generator = np.random.default_rng(seed)
    shares = np.array(list(_TYPES.values())) / sum(_TYPES.values())
    filesystem, location = storage.resolve(path)
    last = 0
    with filesystem.open_output_stream(location, compression=None) as stream, _gzip(stream, level=1) as dump:
        dump.write(_HEADER)
        for start in range(0, rows, _CHUNK_ROWS):
            types = generator.choice(len(_TYPES), min(_CHUNK_ROWS, rows - start), p=shares)
            table = _draw_rows(types, generator, after=last)
            last = int(table["tconst"][-1].as_py().removeprefix("tt"))
            dump.write(_lines(table))


def _part_sizes(config: SandboxConfig) -> list[int]:
    wellformed = config.movies + config.other_titles
    return [config.movies, config.other_titles, int(np.ceil(config.malformed * wellformed))]


def _draw_types(parts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Index into _TYPES for each row; the types of other titles are more evenly mixed than in a real dump."""
    names = list(_TYPES)
    # TV movies would be part of the catalogue, but no provider would know these.
    others = [index for index, name in enumerate(names) if name != "tvMovie"]
    return np.where(parts == "other", generator.choice(others, len(parts)), names.index("movie"))


def _draw_rows(types: np.ndarray, generator: np.random.Generator, after: int) -> pa.Table:
    """One row of text per title type (an index into _TYPES); ids ascend from `after`."""
    count = len(types)
    numbers = after + np.cumsum(generator.integers(1, 4, count))
    names = _take(list(_TYPES), types)
    title = _draw_titles(names, generator)
    # Recent years are more frequent, as in IMDb.
    years = 2025 - np.minimum(generator.exponential(14, count), 130).astype(int)
    years_lasted = np.minimum(generator.integers(0, 12, count), 2025 - years)
    ended = pc.and_(pc.equal(names, "tvSeries"), pa.array(generator.random(count) < 0.5))
    genres = _pick(_genre_pool(), generator, count)
    columns = [
        pc.binary_join_element_wise("tt", pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 7, "0"), ""),
        names,
        title,
        pc.if_else(pa.array(generator.random(count) < 0.1), _draw_titles(names, generator), title),
        pc.if_else(pc.match_substring(genres, "Adult"), "1", "0"),
        _or_null(pa.array(years).cast(pa.string()), 0.06, generator),
        pc.if_else(ended, pa.array(years + years_lasted).cast(pa.string()), NULL),
        _or_null(_draw_runtimes(types, generator), 0.3, generator),
        _or_null(genres, 0.05, generator),
    ]
    return pa.table(columns, names=list(COLUMNS))


def _draw_titles(types: pa.Array, generator: np.random.Generator) -> pa.Array:
    beginnings, endings = _title_pools()
    count = len(types)
    titles = pc.binary_join_element_wise(_pick(beginnings, generator, count), _pick(endings, generator, count), " ")
    numbered = pc.binary_join_element_wise(
        "Episode #",
        pa.array(generator.integers(1, 30, count)).cast(pa.string()),
        ".",
        pa.array(generator.integers(1, 250, count)).cast(pa.string()),
        "",
    )
    unnamed = pc.and_(pc.equal(types, "tvEpisode"), pa.array(generator.random(count) < 0.4))
    return pc.if_else(unnamed, numbered, titles)


def _draw_runtimes(types: np.ndarray, generator: np.random.Generator) -> pa.Array:
    low, high = np.array([_RUNTIMES.get(name, (15, 65)) for name in _TYPES])[types].T
    return pa.array(generator.integers(low, high)).cast(pa.string())


@cache
def _title_pools() -> tuple[list[str], list[str]]:
    """First and last parts of titles."""
    beginnings = ["".join(words) for words in product(_ARTICLES, _ADJECTIVES)]
    return beginnings, ["".join(words) for words in product(_NOUNS, _ENDINGS)]


@cache
def _genre_pool() -> list[str]:
    """Values of the genres column: one to three genres, in alphabetical order."""
    random = Random(0)  # noqa: S311 - repeatable, not secret
    drawn = (random.sample(_COMMON_GENRES, random.choice((1, 2, 2, 3, 3))) for _ in range(5000))
    return [",".join(sorted(set(genres))) for genres in drawn]


def _pick(pool: Sequence[str], generator: np.random.Generator, count: int) -> pa.Array:
    return _take(pool, generator.integers(0, len(pool), count))


def _take(pool: Sequence[str], indices: np.ndarray) -> pa.Array:
    return pa.array(pool).take(pa.array(indices))


def _or_null(values: pa.Array, share: float, generator: np.random.Generator) -> pa.Array:
    return pc.if_else(pa.array(generator.random(len(values)) < share), NULL, values)


def _lines(table: pa.Table) -> memoryview:
    """The rows as bytes of tab-separated lines."""
    joined = pc.binary_join_element_wise(*(table[name].combine_chunks() for name in COLUMNS), "\t")
    # An Arrow text column stores its values back to back: its data buffer is the text of the file.
    lines = pc.binary_join_element_wise(joined, "", "\n").cast(pa.large_string())
    return memoryview(lines.buffers()[2])[: pc.sum(pc.binary_length(lines)).as_py()]


def _to_lines(rows: pd.DataFrame, parts: np.ndarray, random: Random) -> bytes:
    """The rows as lines of text; some malformed as `parts` says, and a few movies duplicated."""
    lines = ["\t".join(fields) for fields in rows.itertuples(index=False)]
    movies = np.flatnonzero(parts == "movie").tolist()
    for row in np.flatnonzero(parts == "malformed").tolist():
        lines[row] = _malform(lines[row], random)
    for row in random.sample(movies, min(len(movies), 2 + len(movies) // 1000)):
        lines[row] = f"{lines[row]}\n{lines[row]}"
    return _HEADER + "".join(f"{line}\n" for line in lines).encode()


def _malform(line: str, random: Random) -> str:
    fields = line.split("\t")
    match random.randrange(4):
        case 0:
            return "\t".join(fields[:-1])
        case 1:
            return "\t".join([*fields, "Drama"])
        case 2:
            return "\t".join(["nm" + fields[0][2:], *fields[1:]])
        case _:
            return "\t".join([*fields[:5], "19x4", *fields[6:]])


def _served(listed: pd.DataFrame, movies: pd.DataFrame) -> pa.Buffer:
    """The movies that a provider knows, as a Parquet file."""
    years = pd.to_numeric(listed["startYear"], errors="coerce").astype("Int16")
    titled = movies.assign(tconst=listed["tconst"], title=listed["primaryTitle"], year=years)
    known = titled.loc[titled["known"], SERVED.names]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(known, schema=SERVED, preserve_index=False), sink, compression="zstd")
    return sink.getvalue()


def _compress(content: bytes) -> bytes:
    packed = io.BytesIO()
    with _gzip(packed, level=6) as dump:
        dump.write(content)
    return packed.getvalue()


def _gzip(stream: BinaryIO, level: int) -> gzip.GzipFile:
    """A gzip stream without file name and time, so that equal content gives equal bytes."""
    return gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=level, mtime=0)


_HEADER = ("\t".join(COLUMNS) + "\n").encode()
