"""The tune job: searches hyperparameters with Ray Tune, and writes the best model and a report.

Each trial writes its own record (see trial.py). A killed search starts again with the same points, and its trials
replay their records before they train on.
"""

import json
from collections import Counter
from typing import Any

import ray
import yaml

from mmgenre import ray_session
from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.search import report
from mmgenre.search.best import best_model
from mmgenre.search.callbacks import MlflowTrials
from mmgenre.search.config import FEATURES, TRACKING, TuneConfig, initial_points, num_trials, preset_of, tracking_of
from mmgenre.search.data_cache import DataCache
from mmgenre.search.ray_tune import RAY_TUNE, RemainingTrials, resources_of, run_trials
from mmgenre.search.records import DISTRIBUTED, TRIALS, Search
from mmgenre.search.report import SearchReport
from mmgenre.search.space import Point, point_text, require_valid, training, training_fields
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import Output
from mmgenre.training.job import train
from mmgenre.training.mlflow_tracking import RUN_FILE, tracked
from mmgenre.training.setup import TrainingSetup

BEST = "best"
BEST_YAML = "best.yaml"
# Preset fields that do not change the scores of trials.
_PRESET_NOT_IN_RECIPE = ("dataset", "output", FEATURES, "accelerator", "cpus_per_worker", TRACKING)
# Search fields that do not, or whose change extends a search.
_NOT_IN_RECIPE = (
    *("dataset", "output", "overwrite", "trials", "max_concurrent", "max_seconds", "max_failures"),
    *("accelerator", "cpus_per_trial", "gpus_per_trial", "refit", TRACKING),
)
_OWNED = (TRIALS, BEST, BEST_YAML, FEATURES, RAY_TUNE, RUN_FILE, *report.FILES)


def tune(config: TuneConfig) -> Manifest:
    """Search, and write the best checkpoint, its training config, a table of all trials, plots and a report.

    Raises:
        InputError: the MOVIES table is incomplete, the space has an unknown path or an invalid value, the output is in
            use, or no trial finished an epoch.
    """
    preset = preset_of(config)
    setup = TrainingSetup(training(preset, {}, config.preset))
    require_valid(preset, config.space)
    points = initial_points(config)
    recorded_preset = {name: value for name, value in preset.items() if name not in _PRESET_NOT_IN_RECIPE}
    settings = config.to_settings(without=_NOT_IN_RECIPE) | {"preset": recorded_preset}
    recipe = Recipe(job="tune", settings=settings, inputs=setup.fingerprints)
    output = Output(config.output, recipe, _OWNED, mode="resume", overwrite=config.overwrite)
    if output.finished is not None and _is_complete(output.finished, config, points):
        return output.finished
    tracking = tracking_of(config)
    store = tracking.connect() if tracking else None
    parameters = config.to_settings(without=("overwrite", TRACKING))
    with output, tracked(store, config.output, parameters, {"mmgenre.job": "tune"}) as run:
        ray_session.connect()
        search = Search(preset, config.objective, storage.absolute(config.output), _data_cache())
        remaining = RemainingTrials.of(config, points, search.records())
        callbacks = [MlflowTrials(search, store, run)] if store else []
        if remaining.count:
            run_trials(config, search, remaining, callbacks)
        for callback in callbacks:
            callback.log_missed()
        manifest = _write_results(config, search, output)
        best = storage.join(config.output, BEST)
        run.log_result(checkpoint.read_card(best), best)
        return manifest


def describe(manifest: Manifest) -> str:
    """The best point and its score, and the manifest's summary line."""
    notes = manifest.notes
    preset = "" if notes["preset_score"] is None else f" (preset {notes['preset_score']:.4f})"
    return f"best {notes['objective']} {notes['score']:.4f}{preset}: {notes['best']}\n{manifest}"


def _is_complete(finished: Manifest, config: TuneConfig, points: list[Point]) -> bool:
    """Whether a finished search has all trials that are asked for now."""
    all_ended = not finished.statuses.get("running") and finished.rows >= num_trials(config, points)
    return all_ended and finished.notes["refit"] == config.refit


def _data_cache() -> Any:
    """A DataCache actor that uses the CPUs of trials while they wait for it."""
    # A head that computes nothing has no CPUs.
    num_threads = max(1, *(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"]))
    return ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3)(DataCache).remote(num_threads)


def _write_results(config: TuneConfig, search: Search, output: Output) -> Manifest:
    """Write the best model and the report."""
    records = search.records()
    scored = [record for record in records if record.epochs]
    if not scored:
        errors = "; ".join(sorted({record.error for record in records if record.error}))
        reason = errors or "max_seconds is too short; raise it"
        raise InputError(f"{config.output}: no trial finished an epoch: {reason}")
    best = max(scored, key=lambda record: record.rank(config.objective))
    best_training = search.training(best.point)
    if best_training.max_workers > 1:
        # Only a finished training has a checkpoint; the scheduler may have stopped this one.
        train(best_training.model_copy(update={"output": search.folder(best.name, DISTRIBUTED)}))
    fitted, card = ray.get(_best_model_task(config).remote(search, best, refit=config.refit))
    output.write(BEST_YAML, _training_yaml(search, best.point))
    checkpoint.save(fitted.model, card, output.path(BEST))
    search_report = SearchReport(
        config.objective, config.space, records, best, card, fitted.logits, fitted.labels, _settings_text(config)
    )
    for name, content in search_report.files().items():
        output.write(name, content)
    for leftover in (FEATURES, RAY_TUNE):
        storage.delete(output.path(leftover))
    statuses: Counter[str] = Counter(record.status for record in records)
    preset = search_report.preset
    notes = {
        "objective": config.objective,
        "best": point_text(best.point),
        "score": best.score(config.objective),
        "preset_score": preset.score(config.objective) if preset else None,
        "epochs": sum(len(record.epochs) for record in records),
        "refit": config.refit,
    }
    return output.complete(len(records), dict(statuses), notes, [BEST_YAML, *report.FILES])


def _best_model_task(config: TuneConfig) -> Any:
    resources = resources_of(config)
    return ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))(best_model)


def _training_yaml(search: Search, point: Point) -> bytes:
    """The training of a point as a config for jobs/train.py, without the feature cache that the search deletes."""
    values = training_fields(search.preset, point, "best")
    del values[TRACKING]
    if values[FEATURES] == storage.join(search.output, FEATURES):
        del values[FEATURES]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def _settings_text(config: TuneConfig) -> dict[str, str]:
    """The settings shown in the report."""
    names = ("dataset", "preset", "objective", "searcher", "scheduler", "seed", "refit")
    space = {f"space.{path}": json.dumps(distribution.to_settings()) for path, distribution in config.space.items()}
    fixed = {f"fixed.{path}": json.dumps(value) for path, value in config.fixed.items()}
    return {name: str(getattr(config, name)) for name in names} | fixed | space
