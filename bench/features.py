"""Training VGG-16's head on cached features, compared with computing the convolutions in every epoch.

python bench/features.py MOVIES WEIGHTS [--posters 1000] [--epochs 50] [--anew 5] [--work DIR]

Every epoch that computes the convolutions takes the same time, so only --anew of them run and the total is
extrapolated. Exits with 1 if caching is less than 20 times as fast overall, or if a score of an epoch that both ran
differs by more than 1e-3.
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
    """Measure both, print the figures, check the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("movies", help="MOVIES folder")
    parser.add_argument("weights", help="VGG-16's convolutions, .safetensors")
    parser.add_argument("--posters", type=int, default=1000, help="training posters; one fifth as many to validate")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--anew", type=int, default=5, help="epochs run without the cache")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "mmgenre-bench-features"))
    options = parser.parse_args()
    sizes = {"train": options.posters, "val": options.posters // 5}
    movies = sample(options.movies, options.work / "movies", sizes, "image")
    features = options.work / "features"
    settings = [f"dataset={movies}", f"model.weights={options.weights}", "model.augment=null", "patience=1000"]
    kept = train(options.work / "kept", [*settings, f"features={features}", f"epochs={options.epochs}"])
    anew = train(options.work / "anew", [*settings, "features=none", f"epochs={options.anew}"])
    # Earlier runs may have left other features: take the newest.
    manifest = max(features.glob("*/_run.json"), key=lambda path: path.stat().st_mtime)
    pass_seconds = json.loads(manifest.read_text())["seconds"]
    kept_seconds = pass_seconds + sum(epoch["seconds"] for epoch in kept)
    anew_seconds = sum(epoch["seconds"] for epoch in anew) / len(anew) * options.epochs
    difference = max(abs(one[name] - other[name]) for one, other in zip(kept, anew, strict=False) for name in SCORES)
    print(f"{options.posters:,} posters, {options.epochs} epochs")
    print(f"cached: {pass_seconds:.1f} s for one pass, {kept_seconds - pass_seconds:.1f} s for the epochs")
    print(f"not cached: {anew_seconds:,.0f} s, extrapolated from {len(anew)} epochs")
    print(f"ratio {anew_seconds / kept_seconds:.1f}, scores differ by at most {difference:.1e}")
    sys.exit(0 if anew_seconds >= MIN_RATIO * kept_seconds and difference <= MAX_DIFFERENCE else 1)


def train(output: Path, settings: list[str]) -> list[dict[str, Any]]:
    """Run the training job; return the history entry of each epoch."""
    job = [sys.executable, ROOT / "jobs/train.py", ROOT / "configs/train/vgg_light.yaml", f"output={output}", *settings]
    subprocess.run([*map(str, job), "overwrite=true"], check=True)
    return json.loads((output / "history.json").read_text())["history"]


if __name__ == "__main__":
    main()
