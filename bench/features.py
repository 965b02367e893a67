"""Fifty epochs of VGG-16's head on kept features, beside computing the convolutions again in each epoch.

python bench/features.py MOVIES WEIGHTS [--posters 1000] [--epochs 50] [--anew 5] [--work DIR]

An epoch that computes the convolutions takes as long as the one before it, so only --anew of them are run, and the
rest is counted. Exits with 1 when keeping features is not 20 times as fast, all in all, or when the epochs that both
have run differ by more than 1e-3 in a score.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from samples import sample

ROOT = Path(__file__).parent.parent
MIN_RATIO, MAX_DIFFERENCE = 20, 1e-3
SCORES = ("macro_f1", "mean_average_precision")


def main() -> None:
    """Measure both, print, check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("movies", help="MOVIES folder")
    parser.add_argument("weights", help="VGG-16's convolutions, .safetensors")
    parser.add_argument("--posters", type=int, default=1000, help="to train on; a fifth as many to validate with")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--anew", type=int, default=5, help="epochs that compute the convolutions again")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "mmgenre-bench-features"))
    options = parser.parse_args()
    sizes = {"train": options.posters, "val": options.posters // 5}
    movies = sample(options.movies, options.work / "movies", sizes, "image")
    features = options.work / "features"
    settings = [f"dataset={movies}", f"model.weights={options.weights}", "model.augment=null", "patience=1000"]
    kept = train(options.work / "kept", [*settings, f"features={features}", f"epochs={options.epochs}"])
    anew = train(options.work / "anew", [*settings, "features=none", f"epochs={options.anew}"])
    # The newest, where earlier runs have left others.
    manifest = max(features.glob("*/_run.json"), key=lambda path: path.stat().st_mtime)
    pass_seconds = json.loads(manifest.read_text())["seconds"]
    kept_seconds = pass_seconds + sum(epoch["seconds"] for epoch in kept)
    anew_seconds = sum(epoch["seconds"] for epoch in anew) / len(anew) * options.epochs
    difference = max(abs(one[name] - other[name]) for one, other in zip(kept, anew, strict=False) for name in SCORES)
    print(f"{options.posters:,} posters, {options.epochs} epochs")
    print(f"kept: {pass_seconds:.1f} s for one pass, {kept_seconds - pass_seconds:.1f} s for the epochs")
    print(f"anew: {anew_seconds:,.0f} s, counted from {len(anew)} epochs")
    print(f"ratio {anew_seconds / kept_seconds:.1f}, scores differ by {difference:.1e} at most")
    sys.exit(0 if anew_seconds >= MIN_RATIO * kept_seconds and difference <= MAX_DIFFERENCE else 1)


def train(output: Path, settings: list[str]) -> list[dict[str, Any]]:
    """The job, as a person runs it; returns what its history says of each epoch."""
    job = [sys.executable, ROOT / "jobs/train.py", ROOT / "configs/train/vgg_light.yaml", f"output={output}", *settings]
    subprocess.run([*map(str, job), "overwrite=true"], check=True)
    return json.loads((output / "history.json").read_text())["history"]


if __name__ == "__main__":
    main()
