"""Search the settings of a training with Ray Tune, and end with the best model and an account of the search.

A trial's record is written by the trial (see trial.py); a search that was killed begins anew with the same points, and
trials say again what they have on record before they go on.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import ray
import ray.tune
import yaml
from pydantic import Field, field_validator, model_validator

from mmgenre import checkpoint, cluster, search_report, storage
from mmgenre.cluster import Accelerator
from mmgenre.config import Config, assign, read_yaml
from mmgenre.errors import InputError
from mmgenre.fitting import tower_cards
from mmgenre.manifest import Manifest, Output, Recipe
from mmgenre.metrics import Objective
from mmgenre.schema import MOVIES
from mmgenre.search_best import best_model
from mmgenre.search_records import TOGETHER, TRIAL, TRIALS, Search, TrialRecord, said_of
from mmgenre.search_report import Account
from mmgenre.search_space import Distribution, LogUniform, Point, Uniform, drawn, grid, name_of, require_valid, training
from mmgenre.search_watcher import Watcher
from mmgenre.searchers import Learning, Listed, Population, config_of
from mmgenre.subject import Preparer
from mmgenre.tables import Table
from mmgenre.train import train
from mmgenre.trial import Trial

BEST = "best"
BEST_YAML = "best.yaml"
_FEATURES = "features"
_RAY_TUNE = "ray_tune"
_MEMORY_OF_WAITING = 64e6
# Of a training and of a search, where things are, and what does not change what trials bring.
_PLACES = ("dataset", "output", _FEATURES, "accelerator", "cpus_per_worker")
_FREE = (
    *("dataset", "output", "overwrite", "trials", "max_concurrent", "max_seconds", "max_failures"),
    *("accelerator", "cpus_per_trial", "gpus_per_trial", "refit"),
)
_OWNED = (TRIALS, BEST, BEST_YAML, _FEATURES, _RAY_TUNE, *search_report.FILES)
# Ray Tune's own account of a search is not used: it is a pickle, and may be torn by a kill.
_RAY_TUNE_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    # Paths of a preset may be relative to where the search was started.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class TuneConfig(Config):
    """Search the settings of a training."""

    dataset: str = Field(description="folder of the MOVIES table")
    output: str = Field(description="folder of the search; the same command goes on with an unfinished one")
    overwrite: bool = Field(False, description="replace what another configuration left in output")
    preset: str = Field(description="the training that the search starts from, and is compared with: a YAML file")
    fixed: dict[str, Any] = Field(default_factory=dict, description="changes of the preset, such as fixed.epochs=9")
    space: dict[str, Distribution] = Field(min_length=1, description="what trials change, by dotted path")
    trials: int = Field(12, ge=1, description="beside the preset itself; a higher number goes on with the search")
    searcher: Literal["random", "grid", "optuna"] = Field("random", description="optuna: TPE, of the extra `optuna`")
    scheduler: Literal["none", "asha", "median", "pbt"] = Field(
        "none", description="what stops or changes trials early"
    )
    grace_epochs: int = Field(1, ge=1, description="before a scheduler stops a trial; between two changes by pbt")
    reduction_factor: float = Field(3, gt=1, description="of asha: one in so many trials goes on")
    objective: Objective = Field("macro_f1", description="of the validation movies, at held-out thresholds")
    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float | None = Field(None, ge=0, description="null: 1 where there are GPUs, else 0")
    max_concurrent: int | None = Field(None, ge=1, description="trials at a time; null: as many as there is room for")
    max_seconds: float | None = Field(None, gt=0, description="after which trials are stopped until the next run")
    max_failures: int = Field(2, ge=0, description="times a trial is started again whose process died")
    accelerator: Accelerator = Field("auto", description="auto: GPUs where a node has one now; gpu: wait for them")
    refit: bool = Field(False, description="train the best point again on train and validation movies")
    seed: int = Field(0, ge=0, description="of the points")

    @field_validator("space", mode="before")
    @classmethod
    def _by_path(cls, space: Any) -> Any:
        """Paths are written with dots or one below the other, as `space.model.c.low=0.5` on the command line is."""
        if not isinstance(space, dict):
            return space
        found: dict[str, Any] = {}
        for leaf, value in _leaves(space):
            path, _, name = leaf.rpartition(".")
            found |= {path: found.get(path, {}) | {name: value}} if path else {leaf: value}
        return found

    @model_validator(mode="after")
    def _of_one_mind(self) -> Self:
        numbers = [path for path, one in self.space.items() if isinstance(one, Uniform | LogUniform)]
        if self.scheduler == "pbt" and (self.searcher != "random" or not numbers):
            raise ValueError(
                "scheduler=pbt: changes paths of kind uniform or loguniform of points drawn at random; found "
                f"searcher={self.searcher}, and {len(numbers)} such paths"
            )
        if self.scheduler == "pbt" and self.max_concurrent is not None:
            raise ValueError("max_concurrent: with scheduler=pbt all trials take turns; leave it out")
        return self


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
    points = _points(config)
    made_of = {name: value for name, value in preset.items() if name not in _PLACES}
    settings = config.to_settings(without=_FREE) | {"preset": made_of}
    inputs = {"dataset": table.manifest.fingerprint} | {role: card.weights_sha256 for role, card in cards.items()}
    output = Output(config.output, Recipe(job="tune", settings=settings, inputs=inputs), _OWNED)
    found = output.finished()
    if found is not None and _is_all(found, config, points):
        return found
    output.start(keeps=found is not None or output.keeps(overwrite=config.overwrite, keep="unfinished"))
    cluster.connect()
    search = Search(preset, config.objective, storage.absolute(config.output), _preparer())
    work = _Work.of(config, points, search.records())
    if work.num_trials:
        _run(config, search, work)
    return _conclude(config, search, output)


def _is_all(found: Manifest, config: TuneConfig, points: list[Point]) -> bool:
    """Whether a search that has ended holds what is asked for now."""
    is_through = not found.statuses.get("running") and found.rows >= _num_trials(config, points)
    return is_through and found.notes["refit"] == config.refit


def describe(manifest: Manifest) -> str:
    """The best point, and the manifest's line."""
    notes = manifest.notes
    preset = "" if notes["preset_score"] is None else f" (preset {notes['preset_score']:.4f})"
    return f"best {notes['objective']} {notes['score']:.4f}{preset}: {notes['best']}\n{manifest}"


def preset_of(config: TuneConfig) -> dict[str, Any]:
    """Fields of the training that trials change."""
    values = read_yaml(Path(config.preset))
    for path, value in _leaves(config.fixed):
        assign(values, path, value, "fixed")
    output = storage.absolute(config.output)
    features = values.get(_FEATURES) or storage.join(output, _FEATURES)
    return values | {
        "dataset": storage.absolute(config.dataset),
        "output": storage.join(output, "retrained"),
        _FEATURES: features if features == "none" else storage.absolute(features),
        "score": config.objective,
        "accelerator": config.accelerator,
        "cpus_per_worker": max(1, int(config.cpus_per_trial)),
    }


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values, whether fields are written with dots or one below the other."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _points(config: TuneConfig) -> list[Point]:
    """The preset's, and those that are known before the search.

    Raises:
        InputError: a grid has more points than there are to be trials.
    """
    if config.searcher == "optuna":
        return [{}]
    if config.searcher == "random":
        found = drawn(config.space, config.trials, config.seed)
        # A population changes what each of its points holds; the preset's holds nothing.
        return found if config.scheduler == "pbt" else [{}, *found]
    points = grid(config.space)
    if len(points) > config.trials:
        raise InputError(
            f"trials={config.trials}: the grid has {len(points)} points; raise trials, or narrow the space"
        )
    return [{}, *points]


def _num_trials(config: TuneConfig, points: list[Point]) -> int:
    return config.trials + 1 if config.searcher == "optuna" else len(points)


def _preparer() -> Any:
    """Where the driver runs, beside the trials: it computes while they wait."""
    num_threads = int(max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]))
    return ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3)(Preparer).remote(num_threads)


@dataclass(frozen=True)
class _Work:
    """What is left of a search.

    Args:
        total: trials there will be, with those of earlier runs.
        silent: trials of earlier runs of which nothing more is to be heard.
        waiting: points that are known now.
        learning: suggests the others.
    """

    total: int
    silent: list[TrialRecord]
    waiting: list[Point]
    learning: Learning | None

    @classmethod
    def of(cls, config: TuneConfig, points: list[Point], on_record: list[TrialRecord]) -> "_Work":
        # Other schedulers compare trials with those before them, which therefore say again what they brought.
        is_silent = config.scheduler in ("none", "pbt")
        silent = [record for record in on_record if is_silent and record.is_final]
        done = {record.name for record in silent}
        learning = None
        if config.searcher == "optuna":
            points = [*points, *(record.point for record in on_record if record.point)]
            # Another seed than before, which would suggest what it suggested before.
            learning = Learning(config.space, config.seed + len(on_record))
            for record in silent:
                learning.hear(record.name, record.point, record.score(config.objective))
        waiting = [point for point in points if name_of(point) not in done]
        return cls(_num_trials(config, points), silent, waiting, learning)

    @property
    def num_trials(self) -> int:
        """Left."""
        return self.total - len(self.silent)


def _run(config: TuneConfig, search: Search, work: _Work) -> None:
    """Ray Tune's part: until each trial has said its last word, or the time is up."""
    num_workers = search.training({}).workers
    # Workers that share a training have their own places; its trial's process only waits for them, in a little memory.
    resources = _resources(config) if num_workers == 1 else {"memory": _MEMORY_OF_WAITING}
    places = _places(config, num_workers)
    filesystem, path = storage.resolve(search.output)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(ray.tune.with_parameters(Trial, search=search), resources),
        **_population(work) if config.scheduler == "pbt" else {},
        tune_config=ray.tune.TuneConfig(
            metric="score",
            mode="max",
            **{} if config.scheduler == "pbt" else _listed(work, places),
            scheduler=_scheduler(config, search),
            time_budget_s=config.max_seconds,
            # What other processes do for a trial ends with its own.
            reuse_actors=num_workers == 1,
        ),
        run_config=ray.tune.RunConfig(
            name=_RAY_TUNE,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=ray.tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[Watcher(search, work.total, work.silent, config.max_seconds)],
            verbose=0,
        ),
    )
    with _quiet():
        tuner.fit()


def _listed(work: _Work, places: int) -> dict[str, Any]:
    searcher = Listed(work.waiting, work.learning)
    return {"num_samples": work.num_trials, "search_alg": searcher, "max_concurrent_trials": places}


def _population(work: _Work) -> dict[str, Any]:
    """Population-based training takes its population from a grid, all of it at once; trials take turns."""
    return {"param_space": {TRIAL: ray.tune.grid_search([config_of(point)[TRIAL] for point in work.waiting])}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune neither saves what is not used, nor prints, nor takes Ctrl-C for itself."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    before = dict(os.environ)
    os.environ.update(_RAY_TUNE_SETTINGS)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _resources(config: TuneConfig) -> dict[str, float]:
    """Of a process that trains."""
    gpus = config.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if cluster.use_gpu(config.accelerator) else 0.0
    return {"CPU": config.cpus_per_trial, "GPU": gpus} if gpus else {"CPU": config.cpus_per_trial}


def _places(config: TuneConfig, num_workers: int) -> int:
    """Trials at a time: as many as the nodes have room for, so that none waits for what another one holds.

    Raises:
        InputError: none has, and so all would wait for ever.
    """
    wanted = _resources(config)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    processes = sum(int(min(node.get(name, 0) / amount for name, amount in wanted.items())) for node in nodes)
    if processes < num_workers:
        asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        raise InputError(
            f"a trial wants {num_workers} times {asked}, and there is room for {processes} of them; lower "
            "cpus_per_trial, gpus_per_trial or workers"
        )
    return min(processes // num_workers, config.max_concurrent or processes)


def _scheduler(config: TuneConfig, search: Search) -> Any:
    match config.scheduler:
        case "none":
            return None
        case "asha":
            return ray.tune.schedulers.ASHAScheduler(
                time_attr="epoch",
                max_t=_max_epochs(config, search),
                grace_period=config.grace_epochs,
                reduction_factor=config.reduction_factor,
            )
        case "median":
            return ray.tune.schedulers.MedianStoppingRule(time_attr="epoch", grace_period=config.grace_epochs)
    return Population(
        time_attr="epoch",
        perturbation_interval=config.grace_epochs,
        hyperparam_mutations={TRIAL: {"point": _mutations(config)}},
    )


def _max_epochs(config: TuneConfig, search: Search) -> int:
    """Of any trial."""
    extremes = config.space["epochs"].extremes if "epochs" in config.space else [{}]
    return max(search.training({"epochs": value} if value else {}).epochs for value in extremes)


def _mutations(config: TuneConfig) -> dict[str, Any]:
    """What population-based training may change while a model learns: numbers, which change no weight's shape."""
    return {
        path: (ray.tune.loguniform if isinstance(one, LogUniform) else ray.tune.uniform)(one.low, one.high)
        for path, one in config.space.items()
        if isinstance(one, Uniform | LogUniform)
    }


def _conclude(config: TuneConfig, search: Search, output: Output) -> Manifest:
    """The best model, and the account of all trials."""
    records = search.records()
    scored = [record for record in records if record.epochs]
    if not scored:
        errors = "; ".join(sorted({record.error for record in records if record.error}))
        raise InputError(f"{config.output}: no trial brought a model: {errors or 'max_seconds is too short'}")
    best = max(scored, key=lambda record: record.rank(config.objective))
    if search.training(best.point).workers > 1:
        # Where the best trial was stopped, it goes on to its end.
        train(search.training(best.point).model_copy(update={"output": search.folder(best.name, TOGETHER)}))
    fitted, card = ray.get(_task(config).remote(search, best, refit=config.refit))
    storage.write_bytes(output.path(BEST_YAML), _yaml(search, best.point))
    checkpoint.save(fitted.model, card, output.path(BEST))
    account = Account(config.objective, records, best, card, fitted.logits, fitted.labels, _asked(config))
    for name, content in search_report.files(account).items():
        storage.write_bytes(output.path(name), content)
    for leftover in (_FEATURES, _RAY_TUNE):
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
    resources = _resources(config)
    return ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))(best_model)


def _yaml(search: Search, point: Point) -> bytes:
    """The training of a point, as jobs/train.py takes it; features of the search's own go with the search."""
    values = json.loads(json.dumps(search.preset))
    if values[_FEATURES] == storage.join(search.output, _FEATURES):
        del values[_FEATURES]
    for path, value in point.items():
        assign(values, path, value, "best")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def _asked(config: TuneConfig) -> dict[str, str]:
    """What was asked for, for the account."""
    names = ("dataset", "preset", "objective", "searcher", "scheduler", "seed", "refit")
    space = {f"space.{path}": json.dumps(one.to_settings()) for path, one in config.space.items()}
    fixed = {f"fixed.{path}": json.dumps(value) for path, value in config.fixed.items()}
    return {name: str(getattr(config, name)) for name in names} | fixed | space
