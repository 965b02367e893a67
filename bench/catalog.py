"""Catalogue speed on a dump of IMDb's size, compared with decompressing the file.

python bench/catalog.py [--rows 12000000] [--runs 3] [--folder DIR]

Exits with 1 if a run takes more than 2.5 times as long as `gzip -dc` or more than 2 GB of memory, or if the catalogue
of a smaller dump differs from what pandas reads.
"""

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil  # type: ignore[import-untyped]

from mmgenre.catalog.job import CatalogConfig, catalog
from mmgenre.labels import GENRES
from mmgenre.sandbox.catalogue import write_dump
from mmgenre.tables.schema import CATALOG
from mmgenre.tables.table import Table

ROOT = Path(__file__).parent.parent
CONFIGS = ("default", "tagging")
MAX_RATIO = 2.5
MAX_MB = 2000
CHECKED_ROWS = 200_000


class Run(NamedTuple):
    """Time and memory of one command."""

    seconds: float
    peak_mb: float


def main() -> None:
    """Measure, print a table, check the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=12_000_000, help="rows of the generated dump")
    parser.add_argument("--runs", type=int, default=3, help="runs of each command; the median is reported")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "mmgenre-bench"), help="work folder")
    options = parser.parse_args()
    same = is_what_pandas_reads(options.folder)
    print(f"equal to pandas on {CHECKED_ROWS:,} rows: {'yes' if same else 'NO'}")
    fast = is_fast(generate(options.folder, options.rows), options.runs)
    sys.exit(0 if same and fast else 1)


def generate(folder: Path, rows: int) -> Path:
    """A generated dump with this many rows, cached between runs."""
    dump = folder / f"{rows}.tsv.gz"
    if not dump.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = dump.with_suffix(".unfinished")
        write_dump(str(unfinished), rows, seed=0)
        unfinished.rename(dump)
    return dump


def is_fast(dump: Path, num_runs: int) -> bool:
    """Print the medians of alternating runs; return whether all are within the limits."""
    commands = {"gzip -dc": ["gzip", "-dc", str(dump)]}
    for name in CONFIGS:
        job = [sys.executable, ROOT / "jobs/catalog.py", ROOT / f"configs/catalog/{name}.yaml"]
        commands[f"catalog {name}"] = [*map(str, job), f"input={dump}", f"output={dump.parent / name}"]
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(num_runs):
        for name, command in commands.items():
            shutil.rmtree(dump.parent / name.removeprefix("catalog "), ignore_errors=True)
            runs[name].append(measure(command))
    seconds = {name: statistics.median(run.seconds for run in taken) for name, taken in runs.items()}
    peaks = {name: max(run.peak_mb for run in taken) for name, taken in runs.items()}
    print(f"{dump}: {dump.stat().st_size / 1e6:,.0f} MB, medians of {num_runs}")
    print(f"{'':<16} {'seconds':>8} {'ratio':>6} {'peak MB':>8}")
    for name, median in seconds.items():
        print(f"{name:<16} {median:>8.1f} {median / seconds['gzip -dc']:>6.2f} {peaks[name]:>8,.0f}")
    return max(seconds.values()) <= MAX_RATIO * seconds["gzip -dc"] and max(peaks.values()) <= MAX_MB


def measure(command: list[str]) -> Run:
    """Run a command and sample its memory twenty times per second."""
    began = time.perf_counter()
    peak = 0
    with psutil.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, process.memory_info().rss)
            time.sleep(0.05)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return Run(seconds, peak / 1e6)


def is_what_pandas_reads(folder: Path) -> bool:
    """Whether the catalogue of a dump has the same rows as a plain pandas reading."""
    dump, output = generate(folder, CHECKED_ROWS), folder / "checked"
    settings = {"input": str(dump), "output": str(output), "overwrite": True, "balance": {"max_per_genre": None}}
    catalog(CatalogConfig.parse(settings, where="bench"))
    found = Table(str(output), CATALOG).read().to_pandas()
    found["genres"] = found["genres"].map(list)
    return found.astype(object).where(found.notna(), None).equals(read_with_pandas(dump))


def read_with_pandas(dump: Path) -> pd.DataFrame:
    """CATALOG rows of the labelled movies, adult titles excluded."""
    rows = pd.read_csv(dump, sep="\t", quoting=3, na_values=["\\N"], keep_default_na=False, dtype=str)
    rows = rows[rows["titleType"].isin(["movie", "tvMovie"]) & (rows["isAdult"] == "0")]
    genres = [[genre for genre in GENRES if genre in field] for field in rows["genres"].fillna("").str.split(",")]
    table = pd.DataFrame(
        {
            "imdb_id": rows["tconst"],
            "title": rows["primaryTitle"],
            "year": pd.to_numeric(rows["startYear"]),
            "runtime": pd.to_numeric(rows["runtimeMinutes"]),
            "genres": genres,
            "title_type": rows["titleType"],
        }
    )
    table = table[table["genres"].map(len) > 0].reset_index(drop=True).astype(object)
    return table.where(table.notna(), None)


if __name__ == "__main__":
    main()
