"""The service under load: latency, throughput and wrong answers; exits with 1 if an answer is wrong.

python bench/serving.py [CHECKPOINT] [--plots PLOTS] [--seconds 30]

Each client sends its next movie as soon as it has an answer. The bench compares every answer with the output of
jobs/tag.py for that movie. CHECKPOINT is a model that reads plots; by default, a model of configs/train/tiny.yaml's
shape with random weights. PLOTS is a Parquet file with a column `plot`; by default, plots are generated.
"""

import argparse
import asyncio
import itertools
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mmgenre.config import read_yaml
from mmgenre.labels import GENRES
from mmgenre.models import Movies, checkpoint
from mmgenre.models.transformer import TransformerConfig
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.scoring.thresholds import Thresholds
from mmgenre.tables.schema import PREDICTIONS
from mmgenre.tables.table import Table

ROOT = Path(__file__).parent.parent
CLIENTS, PAST_SATURATION = (1, 8, 64), 256
MOVIES, TOLERANCE = 1000, 1e-5
# Wait of a refused client; shorter than Retry-After, so that the load stays high.
PAUSE_S = 0.05


@dataclass(frozen=True)
class Question:
    """Plots, and the batch job's probabilities for them, shape (N, 9)."""

    plots: list[str]
    truth: np.ndarray


@dataclass
class Load:
    """The answers that a number of clients received."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Percentile of the latencies, in ms."""
        return float(np.percentile(self.latencies, share)) * 1000 if self.latencies else float("nan")


def main() -> None:
    """Measure, print the figures, check the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--plots", help="a Parquet file with a column `plot`")
    parser.add_argument("--seconds", type=float, default=30, help="duration for each number of clients")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plots = read_plots(options.plots or generated_plots(folder))
        directory = options.checkpoint or tiny(plots, f"{folder}/tiny")
        question = Question(plots, expected(directory, plots, folder))
        good = True
        with served(directory) as url:
            loads = {clients: measure(url, question, clients, options.seconds) for clients in CLIENTS}
            good &= all(set(load.statuses) == {200} for load in loads.values())
            past = measure(url, question, PAST_SATURATION, options.seconds)
            good &= set(past.statuses) == {200, 503}
        with served(directory, "max_batch=1") as url:
            alone = measure(url, question, CLIENTS[-1], options.seconds, "one at a time")
    print(f"batching against one at a time, {CLIENTS[-1]} clients: {loads[CLIENTS[-1]].rate / alone.rate:.2f} times")
    good &= not any(load.wrong for load in (*loads.values(), past, alone))
    sys.exit(0 if good else 1)


def generated_plots(folder: str) -> str:
    """Generate movies; return the path of the Parquet file."""
    generate(SandboxConfig(movies=MOVIES, other_titles=10), folder)
    return f"{folder}/movies.parquet"


def read_plots(path: str) -> list[str]:
    """The first distinct plots of a file."""
    texts = pq.read_table(path, columns=["plot"])["plot"].to_pylist()
    return list(dict.fromkeys(text for text in texts if text))[:MOVIES]


def tiny(plots: list[str], directory: str) -> str:
    """A checkpoint of the small model; untrained weights cost the same to compute."""
    settings = read_yaml(ROOT / "configs" / "train" / "tiny.yaml")["model"]
    config = TransformerConfig.model_validate(settings)
    torch.manual_seed(0)
    model = config.build(Movies.of_plots(plots)).eval()
    thresholds = Thresholds(per_genre=(0.5,) * len(GENRES), global_threshold=0.5, kind="global")
    checkpoint.save(model, checkpoint.Card(model=config, thresholds=thresholds), directory)
    return directory


def expected(directory: str, plots: list[str], folder: str) -> np.ndarray:
    """Probabilities from jobs/tag.py, shape (N, 9)."""
    ids = [f"m{number}" for number in range(len(plots))]
    untitled = pa.nulls(len(plots), pa.string())
    pq.write_table(pa.table({"imdb_id": ids, "plot": plots, "title": untitled}), f"{folder}/plots.parquet")
    settings = [f"checkpoint={directory}", f"movies={folder}/plots.parquet", f"output={folder}/tags", "precision=fp32"]
    command = [sys.executable, "jobs/tag.py", "configs/tag/default.yaml", *settings]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rows = {row["imdb_id"]: row["probabilities"] for row in Table(f"{folder}/tags", PREDICTIONS).read().to_pylist()}
    return np.array([rows[movie] for movie in ids])


@contextmanager
def served(directory: str, *overrides: str) -> Iterator[str]:
    """Start the service as a process; yield its URL."""
    command = [sys.executable, "jobs/serve.py", "configs/serve/default.yaml", f"checkpoint={directory}", "port=0"]
    process = subprocess.Popen(
        [*command, "explain=false", *overrides], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"http://\S+/", line)
        if found is None:
            raise RuntimeError(f"the service did not start: {line}")
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def measure(url: str, question: Question, clients: int, seconds: float, what: str = "batches") -> Load:
    """Run clients for some seconds and print a line."""
    load = asyncio.run(ask(url, question, clients, seconds))
    statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(load.statuses.items()))
    print(
        f"{what}, {clients} clients: {load.rate:.0f} answers/s, p50 {load.percentile(50):.1f} ms, "
        f"p95 {load.percentile(95):.1f} ms; {statuses}; {load.wrong} wrong",
        flush=True,
    )
    return load


async def ask(url: str, question: Question, clients: int, seconds: float) -> Load:
    """Answers after one second of warm-up."""
    load, turns = Load(seconds), itertools.count()
    begin = time.perf_counter() + 1
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client() -> None:
            while (now := time.perf_counter()) < begin + seconds:
                movie = next(turns) % len(question.plots)
                async with session.post(f"{url}predict", json={"plot": question.plots[movie]}) as response:
                    content = await response.read()
                took = time.perf_counter() - now
                if now >= begin:
                    load.statuses[response.status] += 1
                if response.status == 200:
                    load.wrong += is_wrong(content, question.truth[movie])
                    if now >= begin:
                        load.latencies.append(took)
                elif response.status == 503:
                    load.wrong += "Retry-After" not in response.headers
                    await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(client() for _ in range(clients)))
    return load


def is_wrong(content: bytes, truth: np.ndarray) -> bool:
    """Whether an answer differs from the batch job's."""
    found = [one["probability"] for one in json.loads(content)["probabilities"]]
    return len(found) != len(truth) or bool(np.abs(np.array(found) - truth).max() > TOLERANCE)


if __name__ == "__main__":
    main()
