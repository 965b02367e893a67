"""Small dumps in IMDb's format and the catalogues made from them."""

import random
from pathlib import Path

from mmgenre.catalog.dump import OTHER_GENRES
from mmgenre.catalog.job import CatalogConfig, catalog
from mmgenre.labels import GENRES
from mmgenre.tables.manifest import Manifest
from mmgenre.tables.schema import CATALOG
from mmgenre.tables.table import Table

HEADER = b"tconst\ttitleType\tprimaryTitle\toriginalTitle\tisAdult\tstartYear\tendYear\truntimeMinutes\tgenres\n"


def row(imdb_id="tt0000001", **fields) -> bytes:
    """One line of a dump, by default a drama."""
    values = {
        "type": "movie",
        "title": "A Title",
        "original": "Ein Titel",
        "adult": "0",
        "year": "1999",
        "end": r"\N",
        "runtime": "90",
        "genres": "Drama",
    } | fields
    cells = [imdb_id, *values.values()]
    return b"\t".join(cell if isinstance(cell, bytes) else cell.encode() for cell in cells) + b"\n"


def make(folder: Path, dump: bytes | Path, **settings) -> Manifest:
    """Make an unbalanced catalogue from a dump; returns its manifest."""
    path = dump if isinstance(dump, Path) else folder / "title.basics.tsv"
    if isinstance(dump, bytes):
        path.write_bytes(dump)
    values = {"input": str(path), "output": str(folder / "catalog"), "balance": {"max_per_genre": None}} | settings
    return catalog(CatalogConfig.parse(values, where="test"))


def movies(folder: Path) -> list[dict]:
    return Table(str(folder / "catalog"), CATALOG).read().to_pylist()


def ids(folder: Path) -> list[str]:
    return [movie["imdb_id"] for movie in movies(folder)]


def steps(manifest: Manifest) -> dict[str, int]:
    return {step["step"]: step["rows"] for step in manifest.notes["curation"]}


def write(path: Path, rows: list[bytes]) -> Path:
    path.write_bytes(HEADER + b"".join(rows))
    return path


def many(num_rows: int, seed: int = 0) -> list[bytes]:
    """Random rows of every kind, some malformed."""
    rng = random.Random(seed)
    genres = [*GENRES, *OTHER_GENRES]
    weights = [1 / (rank + 1) for rank in range(len(genres))]
    rows = []
    for number in range(1, num_rows + 1):
        chosen = sorted(set(rng.choices(genres, weights, k=rng.randint(1, 3))))
        rows.append(
            row(
                rng.choices([f"tt{number:07}", f"tt{max(1, number - 9):07}", f"nm{number:07}"], [98, 1, 1])[0],
                type=rng.choice(["movie", "movie", "tvMovie", "short", "tvEpisode"]),
                title=rng.choice(['The "Title', '"Quoted"', "Ünïcode", "Plain, with comma", r"\N", "NA", "null"]),
                adult=rng.choices(["0", "1", "1987"], [97, 2, 1])[0],
                year=rng.choice([str(rng.randint(1890, 2030)), r"\N", "19x9"]),
                runtime=rng.choice([str(rng.randint(1, 300)), r"\N", "Reality-TV"]),
                genres=rng.choices([",".join(chosen), r"\N"], [9, 1])[0],
            )
        )
    return rows
