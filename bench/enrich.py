"""Enrichment's rate limit, cache, resume after kills, and row statuses under faults.

python bench/enrich.py [rate] [warm] [kill] [faults] [--quick]

Prints each figure with its limit and their ratio; exits with 1 if one misses its limit. `--quick` uses smaller sizes:
enough to see that the parts work, too small for reliable rates.
"""

import argparse
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args
from unittest.mock import patch

import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

from mmgenre.enrich.http import HttpConfig
from mmgenre.enrich.providers import TmdbConfig
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.faults import Fault, FaultsConfig
from mmgenre.sandbox.image_faults import ImageFaultsConfig
from mmgenre.sandbox.responses import ServedMovie, load_movies
from mmgenre.tables.manifest import Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import CATALOG, ENRICHED, POSTERS
from mmgenre.tables.table import Table, TableWriter

ROOT = Path(__file__).parent.parent
TOKEN, RAY_TOKEN = secrets.token_hex(16), secrets.token_hex(16)
LONGEST_S = 1200
BURST = 1.25
KILL_RATE = 200
ATTEMPTS = 3
FAULTS = FaultsConfig(rate=0.3, permanent=0.02, attempts=9, kinds=get_args(Fault), hang_s=30, seed=1)
IMAGE_FAULTS = ImageFaultsConfig(rate=0.2, permanent=0.02, attempts=9, seed=2)
# The status of a poster after each fault: final at once, or after the last attempt.
FINAL: dict[str | None, str] = {
    **dict.fromkeys(("cmyk", "palette_png", "alpha_png", "deep_png", "webp", "animated", "redirect_home", None), "ok"),
    **{"placeholder": "placeholder", "huge_png": "too_large", "endless": "too_large"},
    **{"redirect_loopback": "forbidden_target", "redirect_elsewhere": "forbidden_target"},
}
PASSING: dict[str | None, str] = {
    **dict.fromkeys(("server_error", "truncated", "drip"), "unreachable"),
    **dict.fromkeys(("cut_off", "empty", "html", "gif"), "not_an_image"),
}


class Figure(NamedTuple):
    """A measured number, and its limit where the project claims one."""

    what: str
    found: float
    limit: float | None = None
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is within the limit."""
        return self.limit is None or (self.found >= self.limit if self.at_least else self.found <= self.limit)

    def __str__(self) -> str:
        """A line of the table."""
        limit = "" if self.limit is None else f"{'>=' if self.at_least else '<='} {self.limit:,.1f}"
        ratio = f"{self.found / self.limit:.2f}" if self.limit else ""
        return f"{self.what:<60} {self.found:>9,.1f} {limit:>11} {ratio:>5} {'' if self.holds else 'NO'}".rstrip()


def main() -> None:
    """Measure, print a table, check the limits."""
    # With few titles the figures would measure Python's start, and a kill would come too late.
    parts = {"rate": (rate, 35, 15), "warm": (warm, 200_000, 200_000), "kill": (kill, 3000, 3000)}
    parts["faults"] = (faults, 2000, 600)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one of {', '.join(parts)}; default: all")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    options = parser.parse_args()
    if not parts.keys() >= set(options.parts):
        parser.error(f"parts are {', '.join(parts)}")
    # Started processes have sessions of their own and would outlive this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    print(f"{'':<60} {'found':>9} {'limit':>11} {'ratio':>5}")
    holds = True
    for measure, *sizes in [parts[name] for name in options.parts or parts]:
        # Ray's sockets are in this folder, and their paths must be short.
        with tempfile.TemporaryDirectory(prefix="mmgenre-", ignore_cleanup_errors=True) as folder:
            os.environ |= {"TMDB_TOKEN": TOKEN, "RAY_TMPDIR": folder}
            for figure in measure(Path(folder), sizes[options.quick]):
                print(figure, flush=True)
                holds = holds and figure.holds
    sys.exit(0 if holds else 1)


def rate(folder: Path, num_seconds: int) -> Iterator[Figure]:
    """Requests at the rate limit: by one actor, by several, and by two jobs of one Ray cluster."""
    for limit in (40, 200):
        titles = unknown_ids(limit * num_seconds)
        yield from paced(folder, f"{limit} a second, 1 actor", limit, [titles])
        yield from paced(folder, f"{limit} a second, 4 actors", limit, [titles], actors=4)
        with ray_cluster(folder):
            yield from paced(folder, f"{limit} a second, 2 jobs", limit, [titles[::2], titles[1::2]])


def paced(folder: Path, name: str, limit: int, jobs: list[list[str]], actors: int = 1) -> Iterator[Figure]:
    """The server's statistics of concurrent jobs, each with its own titles."""
    catalogs = [write_catalog(folder / name / str(place), titles) for place, titles in enumerate(jobs)]
    with serving(folder, requests_per_second=limit, latency_s=0.1) as url:
        complete(*[enriching(url, catalog, requests_per_second=limit, actors=actors) for catalog in catalogs])
        seen = stats(url)
    seconds = seen["last_arrival"]["find"] - seen["first_arrival"]["find"]
    share = 100 * seen["requests"]["find"] / seconds / limit
    yield Figure(f"{name}: seconds of requests", seconds)
    yield Figure(f"{name}: requests/s, % of the limit", share, 95, at_least=True)
    yield Figure(f"{name}: busiest second", seen["busiest_second"]["find"], limit * BURST + 1)
    yield Figure(f"{name}: answers of 429", seen["rate_limited"], 0)


def warm(folder: Path, num_titles: int) -> Iterator[Figure]:
    """A run whose titles are all in the table already."""
    titles = unknown_ids(num_titles)
    catalog = write_catalog(folder, titles)
    settings = {"provider": TmdbConfig().to_settings(without=("base_url", "image_url"))}
    recipe = Recipe(job="enrich", settings=settings, inputs={"catalog": Table(str(catalog)).manifest.fingerprint})
    row = {"provider": "tmdb", "status": "ok", "plot": "Somebody comes home. " * 15, "fetched_at": datetime.now(UTC)}
    write_table(folder / "enriched", ENRICHED, recipe, [row | {"imdb_id": title} for title in titles])
    with serving(folder) as url:
        began = time.perf_counter()
        complete(enriching(url, catalog))
        seconds = time.perf_counter() - began
        yield Figure("warm: requests", sum(stats(url)["requests"].values()), 0)
    yield Figure("warm: titles/s, Python's start included", num_titles / seconds, 20_000, at_least=True)


def kill(folder: Path, num_titles: int) -> Iterator[Figure]:
    """Runs whose driver is killed and then resumed, compared with an undisturbed run."""
    movies = make_movies(folder, num_titles)
    titles = [*movies, *unknown_ids(num_titles - len(movies))]
    undisturbed: Counter[str] = Counter()
    for percent in (0, 10, 50, 90):
        catalog = write_catalog(folder / str(percent), titles)
        with serving(folder, latency_s=0.02) as url:
            killed_at, orphans = run_and_kill(url, catalog, num_titles * percent // 100) if percent else (0, [])
            complete(enriching(url, catalog, requests_per_second=KILL_RATE))
            end(orphans)
            repeated = stats(url)["repeat_asks"]
        rows = content(catalog)
        undisturbed = undisturbed or rows
        differing = num_other(rows, undisturbed) + abs(rows.total() - num_titles)
        name = f"killed with {killed_at:,} rows written" if percent else "undisturbed"
        yield Figure(f"{name}: requested again", repeated, HttpConfig().in_flight + KILL_RATE if percent else 0)
        yield Figure(f"{name}: rows missing, duplicated or different", differing, 0)


def run_and_kill(url: str, catalog: Path, num_rows: int) -> tuple[int, list[psutil.Process]]:
    """Kill a driver once num_rows rows are on disk; return the rows on disk and the orphaned processes."""
    with enriching(url, catalog, requests_per_second=KILL_RATE) as job:
        while rows_on_disk(catalog) < num_rows and job.process.poll() is None:
            time.sleep(0.02)
        orphans = descendants(job.process)
        job.process.kill()
        return rows_on_disk(catalog), orphans


def faults(folder: Path, num_titles: int) -> Iterator[Figure]:
    """Row statuses, memory and secrecy of the key under every fault."""
    movies = make_movies(folder, num_titles)
    titles = [*movies, *unknown_ids(num_titles - len(movies))]
    catalog = write_catalog(folder, titles)
    wanted = {title: expected_status(title, title in movies) for title in titles}
    posters = {title: expected_poster(movies[title]) if wanted[title] == "ok" else "no_poster" for title in titles}
    http = {"attempts": ATTEMPTS, "max_wait_s": 1, "timeout_s": 10}
    settings = {"enriched": folder / "enriched", "output": folder / "posters", "http": http | {"timeout_s": 30}}
    settings |= {"allow_private": True, "placeholder_titles": 2}
    with serving(folder, faults=FAULTS.to_settings(), image_faults=IMAGE_FAULTS.to_settings()) as url:
        with enriching(url, catalog, requests_per_second=1000, http=http) as job:
            yield Figure("faults: peak MB of an enrichment actor", peak_mb(job), 1000)
        with running("posters", folder, settings | {"allowed_hosts": [url.removeprefix("http://")]}) as job:
            yield Figure("faults: peak MB of a poster actor", peak_mb(job), 1000)
        seen = stats(url)
    for table, schema, statuses in (("enriched", ENRICHED, wanted), ("posters", POSTERS, posters)):
        found = Table(str(folder / table), schema).read(["imdb_id", "status"]).to_pylist()
        wrong = num_other(Counter((row["imdb_id"], row["status"]) for row in found), Counter(statuses.items()))
        yield Figure(f"faults: {table}: rows with another status than drawn", wrong, 0)
    kinds = len(FAULTS.kinds) + len(IMAGE_FAULTS.kinds)
    happened = len(seen["faults"]) + len(seen["image_faults"])
    yield Figure("faults: kinds that occurred", happened, kinds, at_least=True)
    astray = seen["keys_at_image_host"] + seen["requests"].get("secret", 0)
    yield Figure("faults: keys and requests at the wrong host", astray, 0)
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    yield Figure(f"faults: of {len(files)} files, those with the key", sum(TOKEN.encode() in file for file in files), 0)


def expected_status(title: str, is_known: bool) -> str:
    """The status of a title after its faults; text that cannot be stored is still an answer."""
    draws = [FAULTS.draw(f"find {title}", attempt) for attempt in range(1, ATTEMPTS + 1)]
    if None not in draws and "bad_text" not in draws:
        return "unreachable"
    return "ok" if is_known else "not_found"


def expected_poster(movie: ServedMovie) -> str:
    """The status of a movie's poster after its faults."""
    if movie.poster is None:
        return "no_poster"
    draws = [IMAGE_FAULTS.draw(f"image {movie.poster}", attempt) for attempt in range(1, ATTEMPTS + 1)]
    return next((FINAL[kind] for kind in draws if kind in FINAL), None) or PASSING[draws[-1]]


def num_other(rows: Counter[Any], wanted: Counter[Any]) -> int:
    """Rows that are missing plus rows that are unexpected."""
    return (wanted - rows).total() + (rows - wanted).total()


def make_movies(folder: Path, count: int) -> dict[str, ServedMovie]:
    """Generate the server's movies in the folder; return them by id."""
    generate(SandboxConfig(movies=count, other_titles=0), str(folder / "served"))
    return {movie.imdb_id: movie for movie in load_movies(str(folder / "served"))}


def unknown_ids(count: int) -> list[str]:
    """Ids that the server does not know: it answers that they do not exist."""
    return [f"tt{5_000_000 + place:07d}" for place in range(count)]


def write_catalog(folder: Path, titles: list[str]) -> Path:
    """Write a CATALOG table into a folder; its enrichment goes beside it."""
    recipe = Recipe(job="catalog", settings={}, inputs={})
    rows = [{"imdb_id": title, "title": title, "genres": ["Drama"]} for title in titles]
    return write_table(folder / "catalog", CATALOG, recipe, rows)


def write_table(directory: Path, schema: pa.Schema, recipe: Recipe, rows: list[dict[str, Any]]) -> Path:
    """Write a complete table."""
    with Output(str(directory), recipe) as output:
        writer = TableWriter(output, schema)
        for start in range(0, len(rows), 50_000):
            writer.write(pa.Table.from_pylist(rows[start : start + 50_000], schema))
        writer.finish(rows_in=len(rows))
    return directory


def rows_on_disk(catalog: Path) -> int:
    """Rows of the enrichment written so far."""
    with suppress(FileNotFoundError):
        return sum(pq.read_metadata(part).num_rows for part in catalog.parent.glob("enriched/part-*.parquet"))
    return 0


def content(catalog: Path) -> Counter[str]:
    """Rows of the enrichment, without their times and the server's port."""
    rows = Table(str(catalog.parent / "enriched"), ENRICHED).read().to_pylist()
    return Counter(re.sub(r"(127\.0\.0\.1):\d+", r"\1", repr(row | {"fetched_at": None})) for row in rows)


class Job(NamedTuple):
    """A process and its log file."""

    process: psutil.Popen
    log: Path

    def finish(self) -> None:
        """Wait for the process; exit if it failed."""
        if self.process.wait(LONGEST_S):
            sys.exit(f"{self.log.read_text()}\n{' '.join(self.process.args)}: exit code {self.process.returncode}")

    def wait_for(self, pattern: str) -> str:
        """Wait until the log matches a pattern; return its first group."""
        while not (found := re.search(pattern, self.log.read_text())):
            if self.process.poll() is not None:
                sys.exit(f"{self.log.read_text()}\n{' '.join(self.process.args)}: ended")
            time.sleep(0.1)
        return found[1]


def complete(*jobs: AbstractContextManager[Job]) -> None:
    """Run jobs concurrently; exit if one fails."""
    with ExitStack() as stack:
        for job in [stack.enter_context(job) for job in jobs]:
            job.finish()


def enriching(url: str, catalog: Path, **settings: Any) -> AbstractContextManager[Job]:
    """Start an enrichment that writes beside its catalogue."""
    provider = {"kind": "tmdb", "base_url": url, "image_url": f"{url}/t/p/w342"}
    tables = {"catalog": catalog, "output": catalog.parent / "enriched"}
    return running("enrich", catalog.parent, tables | {"provider": provider} | settings)


def running(name: str, folder: Path, settings: dict[str, Any]) -> AbstractContextManager[Job]:
    """Start a job from the command line."""
    overrides = [f"{field}={json.dumps(value, default=str)}" for field, value in settings.items()]
    command = [sys.executable, f"{ROOT}/jobs/{name}.py", f"{ROOT}/configs/{name}/default.yaml", *overrides]
    return started(command, folder / f"{name}.log")


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[str]:
    """Start a sandbox server for the movies of a folder in its own process; yield its URL."""
    with running("sandbox", folder, {"output": folder / "served", "port": 0} | settings) as job:
        yield job.wait_for(r"TMDB at (http://[\d.:]+)/3")


def stats(url: str) -> dict[str, Any]:
    """The server's counters."""
    with urllib.request.urlopen(f"{url}/_stats", timeout=60) as answer:  # noqa: S310 - our own
        return json.load(answer)


@contextmanager
def ray_cluster(folder: Path) -> Iterator[None]:
    """A Ray cluster that jobs started in the block join."""
    with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as other:
        port, client_port = one.getsockname()[1], other.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += [f"--ray-client-server-port={client_port}", "--include-dashboard=false", "--disable-usage-stats"]
    key = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": RAY_TOKEN}
    with patch.dict(os.environ, key), started(command, folder / "cluster.log") as cluster:
        cluster.wait_for("(Ray runtime started)")
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        yield


@contextmanager
def started(command: list[str], log: Path) -> Iterator[Job]:
    """Start a process; stop it and all its descendants after the block."""
    with log.open("w") as output:
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield Job(process, log)
    finally:
        family = [process, *descendants(process)]
        with suppress(psutil.NoSuchProcess):
            process.terminate()
        end(psutil.wait_procs(family, timeout=20)[1])
        process.wait()


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """All descendants; empty once the process has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def end(processes: list[psutil.Process]) -> None:
    """Kill the processes that still run."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def is_fetching(process: psutil.Process) -> bool:
    """Whether the process is an actor that sends requests."""
    with suppress(psutil.NoSuchProcess):
        return "MapWorker" in " ".join(process.cmdline())
    return False


def peak_mb(job: Job) -> float:
    """Wait for a job to end; return the peak memory of its largest actor."""
    seen = []
    while job.process.poll() is None:
        for actor in filter(is_fetching, descendants(job.process)):
            with suppress(psutil.NoSuchProcess):
                seen.append(actor.memory_info().rss / 1e6)
        time.sleep(0.1)
    job.finish()
    return max(seen)


if __name__ == "__main__":
    main()
