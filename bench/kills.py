"""Tagging while something dies or a second run starts, at 10, 50 and 90 % of the rows; exits with 1 if a row is lost.

python bench/kills.py [driver] [actor] [node] [second] [--rows 100000]

`driver` and `actor`: SIGKILL to the job's process, or to a busy actor. `node`: SIGKILL to all processes of one of two
nodes. `second`: the same command again while the first one runs. Killed jobs are run again; all predictions must equal
those of an undisturbed run.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster
from tagging import command, digest, generated, rows_on_disk, tfidf

SHARES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Work:
    """The job that is disturbed.

    Args:
        checkpoint: folder of a small model.
        movies: file of movies.
        rows: their number.
        folder: for the outputs.
        expected: digest of an undisturbed run's predictions.
    """

    checkpoint: str
    movies: str
    rows: int
    folder: Path
    expected: str

    def command(self, name: str) -> list[str]:
        """The job's command line, for an output of this name."""
        return command(self.checkpoint, self.movies, self.folder / name)


@contextlib.contextmanager
def running(work: Work, name: str, share: float, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A job of which this share of the rows is on disk."""
    with subprocess.Popen(
        work.command(name), env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as job:
        while rows_on_disk(work.folder / name) < share * work.rows:
            if job.poll() is not None:
                raise SystemExit(f"{name}: the job ended too early: {job.communicate()[1]}")
            time.sleep(0.02)
        yield job


def driver(work: Work, share: float) -> str:
    """Kill the job's process and run the job again."""
    name = f"driver-{share}"
    with running(work, name, share, {}) as job:
        job.kill()
    return again(work, name, {})


def actor(work: Work, share: float) -> str:
    """Kill a busy actor; the job itself must finish."""
    name = f"actor-{share}"
    with running(work, name, share, {}) as job:
        session = {process.pid for process in psutil.Process(job.pid).children(recursive=True)}
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[0].startswith("ray::MapWorker") and process.pid in session:
                process.kill()
                break
        return ended(job)


def node(work: Work, share: float) -> str:
    """Kill one of two nodes; the job itself must finish on the other."""
    name = f"node-{share}"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = cluster.add_node(num_cpus=1)
        with running(work, name, share, {"RAY_ADDRESS": cluster.address}) as job:
            cluster.remove_node(lost, allow_graceful=False)
            return ended(job)
    finally:
        cluster.shutdown()


def second(work: Work, share: float) -> str:
    """Start the same command again while the first one runs: it must be refused."""
    name = f"second-{share}"
    with running(work, name, share, {}) as job:
        other = subprocess.run(work.command(name), capture_output=True, text=True, check=False)
        if other.returncode != 1 or "another run writes this output" not in other.stderr:
            return f"the second run was not refused: {other.returncode} {other.stderr}"
        return ended(job)


def again(work: Work, name: str, environment: dict[str, str]) -> str:
    """Run the job again; its error."""
    done = subprocess.run(work.command(name), env=os.environ | environment, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def ended(job: subprocess.Popen[str]) -> str:
    """Wait for a job; its error."""
    error = job.communicate()[1]
    return error if job.returncode else ""


PARTS: dict[str, Callable[[Work, float], str]] = {"driver": driver, "actor": actor, "node": node, "second": second}


def main() -> bool:
    """Print a line per case; whether all were right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=PARTS)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    is_fine = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint, movies = tfidf(folder), generated(folder / "movies.parquet", options.rows)
        subprocess.run(command(checkpoint, movies, folder / "whole"), check=True, stdout=subprocess.DEVNULL)
        work = Work(checkpoint, movies, options.rows, folder, digest(folder / "whole"))
        for part in options.parts or PARTS:
            for share in SHARES:
                error = PARTS[part](work, share)
                exact = not error and digest(folder / f"{part}-{share}") == work.expected
                print(f"{part} at {share:.0%}: {'exact' if exact else error or 'other predictions'}", flush=True)
                is_fine &= exact
    return is_fine


if __name__ == "__main__":
    sys.exit(not main())
