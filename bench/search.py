"""Overhead of a search over the same trainings in a plain loop, and the epochs that ASHA saves.

python bench/search.py MOVIES [--rows 2000] [--trials 8] [--points 27] [--epochs 9] [--work DIR]

The plain loop runs the trainings in sequence in one process with everything imported: read, tokenize, train, validate.
The search runs its trials in sequence too; its time includes Ray's start and the written summary. Exits with 1 if the
search takes more than 1.25 times as long, if ASHA needs more than half of the epochs of the same search without it, or
if its best score is lower by more than 0.01.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from samples import sample

from mmgenre import ray_session
from mmgenre.search.config import TuneConfig, preset_of
from mmgenre.search.job import tune
from mmgenre.search.space import training
from mmgenre.tables.manifest import Manifest
from mmgenre.training.setup import TrainingSetup
from mmgenre.training.trainer import ProcessGroup, Trainer

PRESET = {
    "model": {"family": "bilstm", "hidden": 64, "max_length": 64, "title": True},
    "optimizer": {"lr_backbone": 3e-3, "lr_head": 3e-3, "warmup": 0.0, "schedule": "constant"},
    "batch_size": 32,
    "patience": 1000,
}
SPACE = {
    "optimizer.lr_head": {"kind": "loguniform", "low": 1e-4, "high": 1e-1},
    "optimizer.lr_backbone": {"kind": "loguniform", "low": 1e-4, "high": 1e-1},
    "model.dropout": {"kind": "uniform", "low": 0.0, "high": 0.7},
}
MAX_RATIO, MAX_SHARE, MAX_LOSS = 1.25, 0.5, 0.01


def main() -> None:
    """Measure, print the figures, check the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("movies", help="MOVIES folder")
    parser.add_argument("--rows", type=int, default=2000, help="training movies; one third as many to validate")
    parser.add_argument("--trials", type=int, default=8, help="trials of the comparison with a plain loop")
    parser.add_argument("--points", type=int, default=27, help="points of the comparison with and without ASHA")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "mmgenre-bench-search"))
    options = parser.parse_args()
    sizes = {"train": options.rows, "val": options.rows // 3}
    movies = sample(options.movies, options.work / "movies", sizes, "plot")
    ray_session.connect()
    fast = overhead(movies, options)
    early = asha(movies, options)
    sys.exit(0 if fast and early else 1)


def overhead(movies: str, options: argparse.Namespace) -> bool:
    """Trials in sequence, compared with the same trainings in a plain loop."""
    config = search(movies, options, "sequence", options.trials, {"max_concurrent": 1, "fixed": {"epochs": 3}})
    began = time.perf_counter()
    tune(config)
    searched = time.perf_counter() - began
    records = [json.loads(path.read_text()) for path in Path(config.output).glob("trials/*/record.json")]
    in_epochs = sum(epoch["seconds"] for record in records for epoch in record["epochs"])
    began = time.perf_counter()
    torch.set_num_threads(1)
    for record in records:
        train_by_hand(config, record["point"])
    by_hand = time.perf_counter() - began
    ratio = searched / by_hand
    print(f"{len(records)} trials in sequence: {searched:.1f} s, {in_epochs:.1f} s of them in epochs")
    print(f"the same trainings in a plain loop: {by_hand:.1f} s; ratio {ratio:.2f}")
    return ratio <= MAX_RATIO


def train_by_hand(config: TuneConfig, point: dict) -> None:
    """One training, as a short script using the same modules would run it."""
    setup = TrainingSetup(training(preset_of(config), point, "bench"))
    group = ProcessGroup(torch.device("cpu"))
    trainer = Trainer(setup.config.fit_config, setup.model, setup.splits(), group)
    while not trainer.is_finished:
        logits = trainer.run_epoch()
        with tempfile.TemporaryDirectory() as temporary:
            trainer.save(Path(temporary), logits)


def asha(movies: str, options: argparse.Namespace) -> bool:
    """The same points with and without ASHA."""
    fixed = {"fixed": {"epochs": options.epochs}}
    whole = tune(search(movies, options, "whole", options.points, fixed))
    stopped = tune(search(movies, options, "asha", options.points, {"scheduler": "asha"} | fixed))
    share = epochs(stopped) / epochs(whole)
    loss = whole.notes["score"] - stopped.notes["score"]
    for name, manifest in (("without", whole), ("with", stopped)):
        print(
            f"{name} ASHA: {epochs(manifest)} epochs, {manifest.seconds:.0f} s, macro F1 {manifest.notes['score']:.4f}"
        )
    print(f"{share:.0%} of the epochs, macro F1 lower by {loss:.4f}")
    return share <= MAX_SHARE and loss <= MAX_LOSS


def search(movies: str, options: argparse.Namespace, name: str, trials: int, changes: dict) -> TuneConfig:
    """Config of a search with a fresh output folder."""
    preset = options.work / "preset.yaml"
    preset.write_text(yaml.safe_dump(PRESET))
    output = str(options.work / name)
    # A finished search would be found complete and cost nothing.
    shutil.rmtree(output, ignore_errors=True)
    fields = {"dataset": movies, "output": output, "preset": str(preset), "space": SPACE, "trials": trials}
    return TuneConfig.parse(fields | changes | {"seed": 1}, "bench")


def epochs(manifest: Manifest) -> int:
    """Epochs that a search ran, over all trials."""
    return manifest.notes["epochs"]


if __name__ == "__main__":
    main()
