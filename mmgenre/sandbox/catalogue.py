"""A catalogue in IMDb's format: the dump itself, and the movies a provider knows.

`write_dump` writes only the dump, of any length and with the proportions of the real one.
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
# Rows in a thousand, about as IMDb has them.
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
# Movies that are not for a catalogue of the nine genres.
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
    """What a generated catalogue holds; the same settings give the same files, byte for byte."""

    movies: int = Field(3000, gt=0, description="rows of grown-up cinema movies, with their nine genres or none listed")
    other_titles: int = Field(1500, ge=0, description="rows of episodes, shorts, documentaries, adult titles and so on")
    seed: int = 0
    malformed: float = Field(
        0.002, ge=0, lt=1, description="further rows that no reader can use, as a share of the rest"
    )


def generate(config: SandboxConfig, directory: str) -> None:
    """Write `title.basics.tsv.gz` and, last, `movies.parquet` into a folder, replacing those there.

    The second holds the movies a provider knows, with the genres they truly have.
    """
    random = Random(config.seed)  # noqa: S311 - repeatable, not secret
    generator = np.random.default_rng(config.seed)
    movies = draw_movies(config.movies, random)
    parts = np.repeat(["movie", "other", "malformed"], _part_sizes(config))
    generator.shuffle(parts)
    rows = _draw_rows(_draw_types(parts, generator), generator, after=0).to_pandas()
    rows.loc[parts == "movie", "genres"] = movies["listed"].to_numpy()
    outsiders = (parts == "other") & (rows["titleType"] == "movie")
    rows.loc[outsiders, "genres"] = generator.choice(_OUTSIDE_GENRES, outsiders.sum())
    rows["isAdult"] = np.where(rows["genres"].str.contains("Adult"), "1", "0")
    storage.write_bytes(storage.join(directory, DUMP), _compress(_spoil(rows, parts, random)))
    listed = rows[parts == "movie"].reset_index(drop=True)
    storage.write_bytes(storage.join(directory, MOVIES), _served(listed, movies))


def write_dump(path: str, rows: int, seed: int) -> None:
    """Write a dump alone, to a path or URI: for measuring what reads it.

    12 million rows are about 1 GB before compression; memory use does not grow with their number.
    """
    generator = np.random.default_rng(seed)
    shares = np.array(list(_TYPES.values())) / sum(_TYPES.values())
    filesystem, place = storage.resolve(path)
    last = 0
    with filesystem.open_output_stream(place, compression=None) as stream, _gzip(stream, level=1) as dump:
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
    """For each row the position of its title type in _TYPES; other titles are far more varied than in a real dump."""
    names = list(_TYPES)
    # TV movies belong in a catalogue of movies, and no provider would know these.
    others = [place for place, name in enumerate(names) if name != "tvMovie"]
    return np.where(parts == "other", generator.choice(others, len(parts)), names.index("movie"))


def _draw_rows(types: np.ndarray, generator: np.random.Generator, after: int) -> pa.Table:
    """One row of text for each title type (position in _TYPES), ids ascending from `after`."""
    count = len(types)
    numbers = after + np.cumsum(generator.integers(1, 4, count))
    names = _take(list(_TYPES), types)
    title = _draw_titles(names, generator)
    # Years crowd towards the present, as they do in IMDb.
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
    """What titles begin and end with."""
    beginnings = ["".join(words) for words in product(_ARTICLES, _ADJECTIVES)]
    return beginnings, ["".join(words) for words in product(_NOUNS, _ENDINGS)]


@cache
def _genre_pool() -> list[str]:
    """Genre columns: one to three genres, in alphabetical order."""
    random = Random(0)  # noqa: S311 - repeatable, not secret
    drawn = (random.sample(_COMMON_GENRES, random.choice((1, 2, 2, 3, 3))) for _ in range(5000))
    return [",".join(sorted(set(genres))) for genres in drawn]


def _pick(pool: Sequence[str], generator: np.random.Generator, count: int) -> pa.Array:
    return _take(pool, generator.integers(0, len(pool), count))


def _take(pool: Sequence[str], positions: np.ndarray) -> pa.Array:
    return pa.array(pool).take(pa.array(positions))


def _or_null(values: pa.Array, share: float, generator: np.random.Generator) -> pa.Array:
    return pc.if_else(pa.array(generator.random(len(values)) < share), NULL, values)


def _lines(table: pa.Table) -> memoryview:
    """The rows as bytes of tab-separated lines."""
    joined = pc.binary_join_element_wise(*(table[name].combine_chunks() for name in COLUMNS), "\t")
    # Lines lie one after the other in an Arrow text column: its data is the file.
    lines = pc.binary_join_element_wise(joined, "", "\n").cast(pa.large_string())
    return memoryview(lines.buffers()[2])[: pc.sum(pc.binary_length(lines)).as_py()]


def _spoil(rows: pd.DataFrame, parts: np.ndarray, random: Random) -> bytes:
    """The rows as lines, those meant to be malformed made so, and a few movies twice."""
    lines = ["\t".join(row) for row in rows.itertuples(index=False)]
    movies = np.flatnonzero(parts == "movie").tolist()
    for place in np.flatnonzero(parts == "malformed").tolist():
        lines[place] = _malform(lines[place], random)
    for place in random.sample(movies, min(len(movies), 2 + len(movies) // 1000)):
        lines[place] = f"{lines[place]}\n{lines[place]}"
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
    """The movies a provider knows, as a Parquet file."""
    years = pd.to_numeric(listed["startYear"], errors="coerce").astype("Int16")
    named = movies.assign(tconst=listed["tconst"], title=listed["primaryTitle"], year=years)
    known = named.loc[named["known"], SERVED.names]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(known, schema=SERVED, preserve_index=False), sink, compression="zstd")
    return sink.getvalue()


def _compress(content: bytes) -> bytes:
    packed = io.BytesIO()
    with _gzip(packed, level=6) as dump:
        dump.write(content)
    return packed.getvalue()


def _gzip(stream: BinaryIO, level: int) -> gzip.GzipFile:
    """A compressed stream without name and time, so that equal content gives equal bytes."""
    return gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=level, mtime=0)


_HEADER = ("\t".join(COLUMNS) + "\n").encode()
