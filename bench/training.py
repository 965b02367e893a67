"""Fine-tuning speed of a transformer, compared with a plain PyTorch loop on the same rows.

python bench/training.py MOVIES PRETRAINED [--rows 2048] [--val 700] [--epochs 1] [--work DIR]

The plain loop pads every plot to the longest, computes in fp32 in batches of 8, and uses a plain AdamW. mmgenre is
jobs/train.py with configs/train/minilm.yaml, the same batch size and the same learning rates. Exits with 1 if mmgenre
is less than 2.5 times as fast, or if its mAP on the validation movies is lower by more than 0.03.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from samples import sample
from sklearn.metrics import average_precision_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

from mmgenre.labels import GENRES
from mmgenre.models.movies import Movies
from mmgenre.models.text import input_texts
from mmgenre.tables.schema import MOVIES, from_per_genre
from mmgenre.tables.table import Table

ROOT = Path(__file__).parent.parent
MAX_LENGTH = 160
BATCH = 8
# Half of the rates in minilm.yaml, whose batches are four times as large.
LR_BACKBONE, LR_HEAD = 4e-5, 5e-4
MIN_RATIO, MAX_LOSS_OF_MAP = 2.5, 0.03


class Result(NamedTuple):
    """Speed and score of a training."""

    rows_per_second: float
    mean_average_precision: float


def main() -> None:
    """Measure both, print the figures, check the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("movies", help="MOVIES folder")
    parser.add_argument("pretrained", help="folder of a pretrained encoder")
    parser.add_argument("--rows", type=int, default=2048, help="movies to train on")
    parser.add_argument("--val", type=int, default=700, help="movies to validate with")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "mmgenre-bench-training"))
    options = parser.parse_args()
    movies = sample(options.movies, options.work / "movies", {"train": options.rows, "val": options.val}, "plot")
    ours = train_ours(movies, options.pretrained, options.work / "checkpoint", options.epochs)
    plain = train_plainly(movies, options.pretrained, options.epochs)
    ratio = ours.rows_per_second / plain.rows_per_second
    print(f"{options.rows:,} rows, {options.epochs} epochs, {torch.get_num_threads()} threads")
    print(f"{'':<10} {'rows/s':>8} {'val mAP':>8}")
    for name, result in (("mmgenre", ours), ("plain loop", plain)):
        print(f"{name:<10} {result.rows_per_second:>8.1f} {result.mean_average_precision:>8.3f}")
    print(f"ratio {ratio:.2f}")
    as_good = ours.mean_average_precision >= plain.mean_average_precision - MAX_LOSS_OF_MAP
    sys.exit(0 if ratio >= MIN_RATIO and as_good else 1)


def train_ours(movies: str, pretrained: str, output: Path, epochs: int) -> Result:
    """Run the training job."""
    settings = (f"dataset={movies}", f"output={output}", f"model.pretrained={pretrained}", f"epochs={epochs}")
    settings += (f"batch_size={BATCH}", f"optimizer.lr_backbone={LR_BACKBONE}", f"optimizer.lr_head={LR_HEAD}")
    job = [sys.executable, ROOT / "jobs/train.py", ROOT / "configs/train/minilm.yaml", *settings, "overwrite=true"]
    subprocess.run([*map(str, job)], check=True)
    history = json.loads((output / "history.json").read_text())["history"]
    # An epoch's rate excludes its validation.
    speed = float(np.mean([epoch["rows_per_second"] for epoch in history]))
    return Result(speed, history[-1]["mean_average_precision"])


def train_plainly(movies: str, pretrained: str, epochs: int) -> Result:
    """Train in a short plain script."""
    torch.manual_seed(0)
    train, val = (encoded(movies, split, pretrained) for split in ("train", "val"))
    backbone = AutoModel.from_pretrained(pretrained, dtype=torch.float32)
    head = nn.Linear(backbone.config.hidden_size, len(GENRES))
    rates = [(backbone, LR_BACKBONE), (head, LR_HEAD)]
    optimizer = torch.optim.AdamW([{"params": module.parameters(), "lr": rate} for module, rate in rates])
    batches = DataLoader(train, batch_size=BATCH, shuffle=True)
    num_steps = epochs * len(batches)
    schedule = get_linear_schedule_with_warmup(optimizer, num_steps // 10, num_steps)
    backbone.train()
    began = time.perf_counter()
    for _ in range(epochs):
        for ids, mask, labels in batches:
            loss = nn.functional.binary_cross_entropy_with_logits(logits_of(backbone, head, ids, mask), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    speed = epochs * len(train) / (time.perf_counter() - began)
    backbone.eval()
    with torch.inference_mode():
        found = [logits_of(backbone, head, ids, mask) for ids, mask, _ in DataLoader(val, batch_size=BATCH)]
    return Result(speed, average_precision_score(val.tensors[2].numpy(), torch.cat(found).numpy(), average="macro"))


def encoded(movies: str, split: str, pretrained: str) -> TensorDataset:
    """Token ids, masks and labels of a split, padded to its longest plot."""
    rows = Table(movies, MOVIES).read(["title", "plot", "labels"], filter=pc.field("split") == split)
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    found = tokenizer(
        input_texts(Movies.of(rows), title=True),
        padding="longest",
        truncation=True,
        max_length=MAX_LENGTH,
        return_tensors="pt",
    )
    return TensorDataset(found["input_ids"], found["attention_mask"], torch.from_numpy(from_per_genre(rows["labels"])))


def logits_of(backbone: nn.Module, head: nn.Linear, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean pooling and a linear layer."""
    hidden = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).float()
    return head((hidden * weights).sum(1) / weights.sum(1))


if __name__ == "__main__":
    main()
