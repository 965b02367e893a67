"""Search the settings of a training with Ray Tune, and end with the best model and an account of the search.

A trial's record is written by the trial (see trial.py); a search that was killed begins anew with the same points, and
trials say again what they have on record before they go on.
"""

import json
from collections import Counter
from typing import Any

import ray
import yaml

from mmgenre import ray_session as cluster
from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.search import report as search_report
from mmgenre.search.best import best_model
from mmgenre.search.config import FEATURES, TRACKING, TuneConfig, num_trials, points_of, preset_of, tracking_of
from mmgenre.search.data_cache import Preparer
from mmgenre.search.ray_tune import RAY_TUNE, Work, resources_of, run_trials
from mmgenre.search.records import TOGETHER, TRIALS, Search, said_of
from mmgenre.search.report import Account
from mmgenre.search.search_tracking import TrackedTrials
from mmgenre.search.space import Point, fields, require_valid, training
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Output, Recipe
from mmgenre.tables.schema import MOVIES
from mmgenre.tables.table import Table
from mmgenre.training.job import train
from mmgenre.training.mlflow_tracking import TRACKING as RUN
from mmgenre.training.mlflow_tracking import About, tracked
from mmgenre.training.setup import tower_cards

BEST = "best"
BEST_YAML = "best.yaml"
# Of a training and of a search, where things are, and what does not change what trials bring.
_PLACES = ("dataset", "output", FEATURES, "accelerator", "cpus_per_worker", TRACKING)
_FREE = (
    *("dataset", "output", "overwrite", "trials", "max_concurrent", "max_seconds", "max_failures"),
    *("accelerator", "cpus_per_trial", "gpus_per_trial", "refit", TRACKING),
)
_OWNED = (TRIALS, BEST, BEST_YAML, FEATURES, RAY_TUNE, RUN, *search_report.FILES)


def tune(config: TuneConfig) -> Manifest:
    """Search; the output holds the best checkpoint, its training as YAML, a table of all trials, plots, an account.

    Raises:
        InputError: no complete MOVIES table, a path or a value that no training has, a used output, or no trial that
            brought a model.
    """
    table = Table(config.dataset, MOVIES)
    preset = preset_of(config)
    cards = tower_cards(training(preset, {}, config.preset))
    require_valid(preset, config.space)
    points = points_of(config)
    made_of = {name: value for name, value in preset.items() if name not in _PLACES}
    settings = config.to_settings(without=_FREE) | {"preset": made_of}
    inputs = {"dataset": table.manifest.fingerprint} | {role: card.weights_sha256 for role, card in cards.items()}
    output = Output(config.output, Recipe(job="tune", settings=settings, inputs=inputs), _OWNED)
    found = output.finished()
    if found is not None and _is_all(found, config, points):
        return found
    tracking = tracking_of(config)
    store = tracking.connect() if tracking else None
    output.start(keeps=found is not None or output.keeps(overwrite=config.overwrite, keep="unfinished"))
    cluster.connect()
    search = Search(preset, config.objective, storage.absolute(config.output), _preparer())
    work = Work.of(config, points, search.records())
    about = About(config.output, config.to_settings(without=("overwrite", TRACKING)), {"mmgenre.cli": "tune"})
    with tracked(store, about) as run:
        trials = [TrackedTrials(search, store, run)] if store else []
        if work.num_trials:
            run_trials(config, search, work, trials)
        for tracked_trials in trials:
            tracked_trials.tell_others()
        manifest = _conclude(config, search, output)
        run.finish(checkpoint.read_card(output.path(BEST)), BEST)
    return manifest


def _is_all(found: Manifest, config: TuneConfig, points: list[Point]) -> bool:
    """Whether a search that has ended holds what is asked for now."""
    is_through = not found.statuses.get("running") and found.rows >= num_trials(config, points)
    return is_through and found.notes["refit"] == config.refit


def describe(manifest: Manifest) -> str:
    """The best point, and the manifest's line."""
    notes = manifest.notes
    preset = "" if notes["preset_score"] is None else f" (preset {notes['preset_score']:.4f})"
    return f"best {notes['objective']} {notes['score']:.4f}{preset}: {notes['best']}\n{manifest}"


def _preparer() -> Any:
    """Where the driver runs, beside the trials: it computes while they wait."""
    num_threads = int(max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]))
    return ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3)(Preparer).remote(num_threads)


def _conclude(config: TuneConfig, search: Search, output: Output) -> Manifest:
    """The best model, and the account of all trials."""
    records = search.records()
    scored = [record for record in records if record.epochs]
    if not scored:
        errors = "; ".join(sorted({record.error for record in records if record.error}))
        raise InputError(f"{config.output}: no trial brought a model: {errors or 'max_seconds is too short'}")
    best = max(scored, key=lambda record: record.rank(config.objective))
    if search.training(best.point).most_workers > 1:
        # Where the best trial was stopped, it goes on to its end.
        train(search.training(best.point).model_copy(update={"output": search.folder(best.name, TOGETHER)}))
    fitted, card = ray.get(_task(config).remote(search, best, refit=config.refit))
    storage.write_bytes(output.path(BEST_YAML), _yaml(search, best.point))
    checkpoint.save(fitted.model, card, output.path(BEST))
    account = Account(config.objective, records, best, card, fitted.logits, fitted.labels, _asked(config))
    for name, content in search_report.files(account).items():
        storage.write_bytes(output.path(name), content)
    for leftover in (FEATURES, RAY_TUNE):
        storage.delete(output.path(leftover))
    statuses: Counter[str] = Counter(record.status for record in records)
    notes = {
        "objective": config.objective,
        "best": said_of(best.point),
        "score": best.score(config.objective),
        "preset_score": account.preset.score(config.objective) if account.preset else None,
        "epochs": sum(len(record.epochs) for record in records),
        "refit": config.refit,
    }
    return output.complete(len(records), dict(statuses), notes, [BEST_YAML, *search_report.FILES])


def _task(config: TuneConfig) -> Any:
    resources = resources_of(config)
    return ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))(best_model)


def _yaml(search: Search, point: Point) -> bytes:
    """The training of a point, as jobs/train.py takes it; features of the search's own go with the search."""
    values = fields(search.preset, point, "best")
    del values[TRACKING]
    if values[FEATURES] == storage.join(search.output, FEATURES):
        del values[FEATURES]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def _asked(config: TuneConfig) -> dict[str, str]:
    """What was asked for, for the account."""
    names = ("dataset", "preset", "objective", "searcher", "scheduler", "seed", "refit")
    space = {f"space.{path}": json.dumps(one.to_settings()) for path, one in config.space.items()}
    fixed = {f"fixed.{path}": json.dumps(value) for path, value in config.fixed.items()}
    return {name: str(getattr(config, name)) for name in names} | fixed | space
