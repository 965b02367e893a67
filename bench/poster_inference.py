"""Posters tagged per second, compared with a plain PyTorch loop over the same checkpoint.

python bench/poster_inference.py MOVIES CHECKPOINT [--posters 4000] [--plain 400] [--work DIR]

mmgenre is timed as jobs/tag.py, from start to end. The plain loop decodes, resizes and computes in fp32, in batches of
8; its imports and loading are not counted. Exits with 1 if mmgenre is less than 3 times as fast or its probabilities
differ.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from samples import sample
from torch import nn

from mmgenre.models import GenreModel, checkpoint
from mmgenre.tables.chunks import sorted_by_id
from mmgenre.tables.schema import MOVIES, PREDICTIONS, from_per_genre
from mmgenre.tables.table import Table

ROOT = Path(__file__).parent.parent
BATCH = 8
MIN_RATIO, MAX_DIFFERENCE = 3, 0.05


def main() -> None:
    """Measure both, print the figures, check the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("movies", help="MOVIES folder")
    parser.add_argument("checkpoint", help="folder of a trained poster model")
    parser.add_argument("--posters", type=int, default=4000)
    parser.add_argument("--plain", type=int, default=400, help="posters for the plain loop")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "mmgenre-bench-inference"))
    options = parser.parse_args()
    movies = sample(options.movies, options.work / "movies", {"train": options.posters}, "image")
    rows = sorted_by_id(Table(movies, MOVIES).read())
    seconds = tag(options.checkpoint, movies, options.work / "tags")
    ours = len(rows) / seconds
    plain, chances = loop_plainly(options.checkpoint, rows.slice(0, options.plain))
    difference = np.abs(chances - tagged(options.work / "tags", rows["imdb_id"][: options.plain])).max()
    print(f"mmgenre: {ours:.1f} posters/s, {len(rows):,} in {seconds:.0f} s including start-up")
    print(f"plain loop: {plain:.1f} posters/s, {len(chances):,} posters")
    print(f"ratio {ours / plain:.2f}, probabilities differ by at most {difference:.3f}")
    sys.exit(0 if ours >= MIN_RATIO * plain and difference <= MAX_DIFFERENCE else 1)


def tag(directory: str, movies: str, output: Path) -> float:
    """Run the tagging job; return its seconds."""
    places = (f"checkpoint={directory}", f"movies={movies}", f"output={output}")
    shutil.rmtree(output, ignore_errors=True)
    began = time.perf_counter()
    job = [sys.executable, ROOT / "jobs/tag.py", ROOT / "configs/tag/default.yaml", *places]
    subprocess.run([*map(str, job)], check=True)
    return time.perf_counter() - began


def loop_plainly(directory: str, rows: pa.Table) -> tuple[float, np.ndarray]:
    """Posters per second, and probabilities, shape (N, 9)."""
    card, model = checkpoint.load(directory)
    model = model.eval().to(memory_format=torch.contiguous_format)
    contents, size = rows["image"].to_pylist(), (card.model.width, card.model.height)
    found = []
    began = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(contents), BATCH):
            pixels = torch.stack([pixels_of(content, size, model) for content in contents[start : start + BATCH]])
            found.append(model.classify(features_of(model, pixels)))
    speed = len(contents) / (time.perf_counter() - began)
    return speed, torch.sigmoid(torch.cat(found) / card.temperature).numpy()


def pixels_of(content: bytes, size: tuple[int, int], model: GenreModel) -> torch.Tensor:
    """Shape (3, H, W), normalised."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    values = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    preparation = model.preprocessing
    return ((torch.from_numpy(values).permute(2, 0, 1) - preparation.mean) / preparation.std).squeeze(0)


def features_of(model: GenreModel, pixels: torch.Tensor) -> torch.Tensor:
    """Output of every layer below the head."""
    stages: nn.ModuleList = model.stages
    for stage in stages:
        pixels = stage(pixels)
    return model.pool(pixels)


def tagged(folder: Path, ids: pa.ChunkedArray) -> np.ndarray:
    """Probabilities of the given movies, shape (N, 9)."""
    rows = Table(str(folder), PREDICTIONS).read()
    return from_per_genre(rows.take(pc.index_in(ids, rows["imdb_id"].combine_chunks()))["probabilities"])


if __name__ == "__main__":
    main()
