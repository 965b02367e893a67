"""Bulk tagging compared with peers and physical limits; each part prints ratios and exits with 1 if one is missed.

python bench/tagging.py text PLOTS TOKENIZER [--rows 12992] [--pipeline 1500]
python bench/tagging.py scale [--rows 1000000]
python bench/tagging.py resume [--rows 200000]
python bench/tagging.py actors PLOTS TOKENIZER [--rows 3000]

PLOTS is a Parquet file with a column `plot`; TOKENIZER is a folder with BERT's tokenizer, which ELECTRA shares. `text`
and `actors` use a model of ELECTRA-Small's shape with random weights; `scale` and `resume` use a small TF-IDF model.
"""

import argparse
import contextlib
import copy
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch
from transformers import ElectraConfig, ElectraForSequenceClassification, pipeline

from mmgenre.labels import GENRES
from mmgenre.models import GenreModel, Movies, checkpoint
from mmgenre.models.inference import predict_logits
from mmgenre.models.packing import packed
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.transformer import TransformerConfig
from mmgenre.scoring.thresholds import Thresholds
from mmgenre.tables.schema import PREDICTIONS, from_per_genre
from mmgenre.tables.table import Table

ROOT = Path(__file__).parent.parent
ELECTRA_SMALL = {
    "model_type": "electra",
    "embedding_size": 128,
    "hidden_size": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
THRESHOLDS = Thresholds(per_genre=(0.5,) * len(GENRES), global_threshold=0.5, kind="global")
WORDS = 60
MIN_TO_PIPELINE, MIN_TO_MODEL, MIN_AGREEMENT = 8, 0.75, 0.995
MAX_TIME_PER_ROW, MAX_MEMORY, MAX_WORK, MIN_EFFICIENCY = 1.15, 1.2, 1.10, 0.85


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["text", "scale", "resume", "actors"])
    parser.add_argument("plots", nargs="?")
    parser.add_argument("tokenizer", nargs="?")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--pipeline", type=int, default=1500, help="rows for the transformers pipeline")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "mmgenre-bench-tagging"))
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    parts: dict[str, Callable[[argparse.Namespace], bool]] = {
        "text": text,
        "scale": scale,
        "resume": resume,
        "actors": actors,
    }
    sys.exit(0 if parts[options.part](options) else 1)


def text(options: argparse.Namespace) -> bool:
    """A model of ELECTRA-Small's shape: the transformers pipeline, the model alone, and the job."""
    model, directory = electra(options)
    ids, plots = some_plots(options.plots, options.rows or 12_992)
    movies = write_movies(options.work / "movies.parquet", ids, plots)
    peer = pipeline_loop(model, plots[: options.pipeline])
    print(f"transformers pipeline, fp32, batches of 8: {peer:.1f} rows/s, {options.pipeline:,} rows", flush=True)
    alone, chances = model_alone(model, plots)
    print(f"the model alone, tokenized and sorted, bf16: {alone:.1f} rows/s, {len(plots):,} rows", flush=True)
    seconds, spent = tag(directory, movies, options.work / "tags", "precision=bf16")
    ours = len(plots) / seconds
    print(f"mmgenre: {ours:.1f} rows/s from start to end; {told(spent)}")
    found = probabilities(options.work / "tags", ids[: len(chances)])
    agreement, steady = np.mean((found >= 0.5) == (chances >= 0.5)), len(plots) / spent["compute"]
    print(f"ratio to the pipeline {ours / peer:.2f}, units only {steady / peer:.2f}")
    print(f"ratio to the model alone {ours / alone:.2f}, units only {steady / alone:.2f}")
    print(f"decisions that agree with fp32: {agreement:.2%} of {chances.size:,}")
    return ours >= MIN_TO_PIPELINE * peer and ours >= MIN_TO_MODEL * alone and agreement >= MIN_AGREEMENT


def scale(options: argparse.Namespace) -> bool:
    """Time per row and memory at ten times the rows."""
    directory, many = tfidf(options.work), options.rows or 1_000_000
    times, peaks = [], []
    for rows in (many // 10, many):
        movies = generated(options.work / f"movies{rows}.parquet", rows)
        with Memory() as memory:
            seconds, spent = tag(directory, movies, options.work / f"tags{rows}")
        times.append(seconds / rows)
        peaks.append(memory.peaks)
        sizes = ", ".join(f"{name} {peak / 1e6:,.0f} MB" for name, peak in memory.peaks.items())
        print(f"{rows:,} rows: {seconds:.1f} s, {rows / seconds:,.0f} rows/s; {sizes}; {told(spent)}", flush=True)
    growth = {name: peaks[1][name] / peaks[0][name] for name in peaks[0]}
    grown = ", ".join(f"{name} {ratio:.2f}" for name, ratio in growth.items())
    print(f"time per row {times[1] / times[0]:.2f}, memory {grown}")
    return times[1] <= MAX_TIME_PER_ROW * times[0] and max(growth.values()) <= MAX_MEMORY


def resume(options: argparse.Namespace) -> bool:
    """Driver killed at 10, 50 and 90 %: rows computed and seconds, compared with an undisturbed run."""
    directory, rows = tfidf(options.work), options.rows or 200_000
    movies = generated(options.work / "movies.parquet", rows)
    whole, spent = tag(directory, movies, options.work / "whole")
    start = spent["process"] + spent["start"]
    print(f"undisturbed: {whole:.1f} s, of which {start:.1f} s to start; {told(spent)}", flush=True)
    undisturbed, is_fine = digest(options.work / "whole"), True
    for share in (0.1, 0.5, 0.9):
        output = options.work / f"killed{share}"
        first, kept = killed(directory, movies, output, share * rows)
        second, _ = tag(directory, movies, output)
        computed = sum(Table(str(output), PREDICTIONS).manifest.notes["computed_in"].values())
        exact, extra = digest(output) == undisturbed, (first + second - start) / whole
        print(
            f"killed with {kept:,} rows on disk: {computed:,} computed afterwards; {first:.1f} + {second:.1f} s, less "
            f"one start {extra:.2f} of the undisturbed run; exact: {exact}",
            flush=True,
        )
        is_fine &= exact and extra <= MAX_WORK
    return is_fine


def actors(options: argparse.Namespace) -> bool:
    """Scaling of one, two and four one-CPU actors over the available cores."""
    _, directory = electra(options)
    ids, plots = some_plots(options.plots, options.rows or 3_000)
    movies = write_movies(options.work / "movies.parquet", ids, plots)
    speeds = {}
    # Four slots even on fewer cores.
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    for number in (1, 2, 4):
        _, spent = tag(directory, movies, options.work / f"tags{number}", "precision=bf16", f"actors={number}")
        speeds[number] = len(plots) / spent["compute"]
        efficiency = speeds[number] / (min(number, os.cpu_count() or 1) * speeds[1])
        print(f"{number} actors: {speeds[number]:.1f} rows/s, efficiency {efficiency:.2f}; {told(spent)}", flush=True)
    return speeds[2] >= MIN_EFFICIENCY * 2 * speeds[1]


def electra(options: argparse.Namespace) -> tuple[GenreModel, str]:
    """A model with fixed random weights, in memory and as a checkpoint."""
    torch.manual_seed(0)
    config = TransformerConfig(
        pretrained=None, tokenizer=options.tokenizer, max_length=512, architecture=ELECTRA_SMALL, dropout=0.0
    )
    model = config.build(Movies.of_plots([])).eval()
    # Random weights give logits near 0; scale them to the distance from the threshold that a trained model has.
    model.head.weight.data *= 20
    directory = str(options.work / "electra")
    checkpoint.save(model, checkpoint.Card(model=config, thresholds=THRESHOLDS), directory)
    return model, directory


def tfidf(work: Path) -> str:
    """A cheap model, so that the figures measure the system."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (500, len(GENRES))).astype(np.float32)
    config = TfidfConfig()
    model = config.fit(Movies.of_plots([made_up(random) for _ in labels]), labels).eval()
    checkpoint.save(model, checkpoint.Card(model=config, thresholds=THRESHOLDS), str(work / "tfidf"))
    return str(work / "tfidf")


def made_up(random: np.random.Generator) -> str:
    """A random plot of sixty words."""
    return " ".join(f"word{number}" for number in random.zipf(1.3, WORDS) % 5000)


def generated(path: Path, rows: int) -> str:
    """Write a Parquet file of movies; return its path."""
    random = np.random.default_rng(1)
    plots = [made_up(random) for _ in range(1000)]
    schema = pa.schema([("imdb_id", pa.string()), ("plot", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 50_000):
            numbers = range(start, min(rows, start + 50_000))
            columns = [[f"tt{number:08}" for number in numbers], [f"{plots[n % 1000]} {n}" for n in numbers]]
            writer.write_table(pa.table(columns, schema=schema))
    return str(path)


def some_plots(location: str, rows: int) -> tuple[list[str], list[str]]:
    """Real plots in random order, repeated under new ids if there are fewer than `rows`."""
    found = [plot for plot in pq.read_table(location, columns=["plot"])["plot"].to_pylist() if plot]
    order = np.random.default_rng(0).permutation(len(found))
    return [f"tt{row:08}" for row in range(rows)], [found[order[row % len(found)]] for row in range(rows)]


def write_movies(path: Path, ids: list[str], plots: list[str]) -> str:
    """Write a Parquet file of movies; return its path."""
    pq.write_table(pa.table({"imdb_id": ids, "plot": plots}), path)
    return str(path)


def pipeline_loop(model: GenreModel, plots: list[str]) -> float:
    """Rows per second of the usual transformers pipeline."""
    config = ElectraConfig(**{k: v for k, v in ELECTRA_SMALL.items() if k != "model_type"}, num_labels=len(GENRES))
    config.vocab_size = model.backbone.config.vocab_size
    peer = ElectraForSequenceClassification(config).eval()
    classify = pipeline(
        "text-classification", model=peer, tokenizer=model.encoder.tokenizer, batch_size=8, top_k=None, device=-1
    )
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in classify(plots, truncation=True, max_length=512, function_to_apply="sigmoid"):
            pass
    return len(plots) / (time.perf_counter() - began)


def model_alone(model: GenreModel, plots: list[str]) -> tuple[float, np.ndarray]:
    """Rows per second of the bare model in bf16, and fp32 probabilities of the first rows, shape (N, 9)."""
    encoded = model.encoder.encode(Movies.of_plots(plots))
    fast, device = packed(copy.deepcopy(model)), torch.device("cpu")
    began = time.perf_counter()
    predict_logits(fast, encoded, device, "bf16")
    speed = len(plots) / (time.perf_counter() - began)
    few = encoded.take(np.arange(min(1000, len(plots))))
    chances = torch.sigmoid(torch.from_numpy(predict_logits(model, few, device, "fp32"))).numpy()
    return speed, chances


def tag(directory: str, movies: str, output: Path, *overrides: str) -> tuple[float, dict[str, float]]:
    """Run the tagging job; return its total seconds and their breakdown."""
    began = time.perf_counter()
    subprocess.run(command(directory, movies, output, *overrides), check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    notes = Table(str(output), PREDICTIONS).manifest.notes
    spent = notes["seconds"] | {"actors": notes["actors"]}
    # Python, its imports, and Ray's shutdown.
    spent["process"] = seconds - sum(spent[name] for name in ("stage", "start", "compute", "write"))
    return seconds, spent


def told(spent: dict[str, float]) -> str:
    """The breakdown of the time, as text."""
    share = spent["busy"] / max(1, spent["actors"]) / spent["compute"] if spent["compute"] else 0
    names = {"process": "Python", "stage": "staging", "start": "Ray and models", "compute": "units", "write": "table"}
    text = ", ".join(f"{name} {spent[key]:.1f} s" for key, name in names.items())
    return f"{text}; actors were busy {share:.0%} of that time"


def command(directory: str, movies: str, output: Path, *overrides: str) -> list[str]:
    """The job's command line."""
    places = (f"checkpoint={directory}", f"movies={movies}", f"output={output}")
    return [sys.executable, str(ROOT / "jobs/tag.py"), str(ROOT / "configs/tag/default.yaml"), *places, *overrides]


def killed(directory: str, movies: str, output: Path, rows: float) -> tuple[float, int]:
    """Kill the driver once `rows` rows are computed; return its seconds and the rows on disk."""
    began = time.perf_counter()
    with subprocess.Popen(command(directory, movies, output), stdout=subprocess.DEVNULL) as job:
        while rows_on_disk(output) < rows:
            if job.poll() is not None:
                raise SystemExit("the job ended before it was killed")
            time.sleep(0.05)
        job.send_signal(signal.SIGKILL)
    seconds = time.perf_counter() - began
    kept = rows_on_disk(output)
    # Its actors outlive it by seconds and would compete with the next run.
    time.sleep(10)
    return seconds, kept


def rows_on_disk(output: Path) -> int:
    """Rows of finished units."""
    return sum(pq.read_metadata(path).num_rows for path in output.glob("_work/*/units/unit-*.parquet"))


def digest(output: Path) -> str:
    """A hash of the predictions."""
    rows = Table(str(output), PREDICTIONS).read().sort_by("imdb_id").combine_chunks()
    return hashlib.sha256(repr(rows.to_pandas().to_csv()).encode()).hexdigest()


def probabilities(output: Path, ids: list[str]) -> np.ndarray:
    """Probabilities of the given movies, shape (N, 9)."""
    rows = Table(str(output), PREDICTIONS).read()
    places = pc.index_in(pa.array(ids), rows["imdb_id"].combine_chunks())
    return from_per_genre(rows.take(places)["probabilities"])


class Memory:
    """Context manager that records the peak memory of a job's driver and of its largest actor, in bytes."""

    def __enter__(self) -> "Memory":
        """Start watching."""
        self.peaks: dict[str, float] = {}
        self._is_open = True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop watching."""
        self._is_open = False
        self._thread.join()

    def _watch(self) -> None:
        while self._is_open:
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    kind = "driver" if "jobs/tag.py" in line else "actor" if "MapWorker" in line else None
                    if kind:
                        memory = process.memory_full_info().uss
                        self.peaks[kind] = max(self.peaks.get(kind, 0), memory)
            time.sleep(0.2)


if __name__ == "__main__":
    main()
