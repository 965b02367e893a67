"""Ray Tune's part of a search: which trials are left, what stops them early, how many run at a time."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.tune

from mmgenre import ray_session as cluster
from mmgenre.errors import InputError
from mmgenre.search.callbacks import Watcher
from mmgenre.search.config import TuneConfig, num_trials
from mmgenre.search.optuna_searcher import Learning, Listed, Population, config_of
from mmgenre.search.records import TRIAL, Search, TrialRecord
from mmgenre.search.space import LogUniform, Point, Uniform, name_of
from mmgenre.search.trial import Trial
from mmgenre.tables import storage

RAY_TUNE = "ray_tune"
_MEMORY_OF_WAITING = 64e6
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


@dataclass(frozen=True)
class Work:
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
    def of(cls, config: TuneConfig, points: list[Point], on_record: list[TrialRecord]) -> "Work":
        """Given the points that are known before the search, and the trials that have begun."""
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
        return cls(num_trials(config, points), silent, waiting, learning)

    @property
    def num_trials(self) -> int:
        """Left."""
        return self.total - len(self.silent)


def run_trials(config: TuneConfig, search: Search, work: Work, others: Sequence[ray.tune.Callback] = ()) -> None:
    """Ray Tune's part: until each trial has said its last word, or the time is up; others hear of trials, too."""
    num_workers = search.training({}).most_workers
    # Workers that share a training have their own places; its trial's process only waits for them, in a little memory.
    resources = resources_of(config) if num_workers == 1 else {"memory": _MEMORY_OF_WAITING}
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
            name=RAY_TUNE,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=ray.tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[Watcher(search, work.total, work.silent, config.max_seconds), *others],
            verbose=0,
        ),
    )
    with _quiet():
        tuner.fit()


def _listed(work: Work, places: int) -> dict[str, Any]:
    searcher = Listed(work.waiting, work.learning)
    return {"num_samples": work.num_trials, "search_alg": searcher, "max_concurrent_trials": places}


def _population(work: Work) -> dict[str, Any]:
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


def resources_of(config: TuneConfig) -> dict[str, float]:
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
    wanted = resources_of(config)
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
    points = [{"epochs": value} for value in config.space["epochs"].extremes] if "epochs" in config.space else [{}]
    return max(search.training(point).epochs for point in points)


def _mutations(config: TuneConfig) -> dict[str, Any]:
    """What population-based training may change while a model learns: numbers, which change no weight's shape."""
    return {
        path: (ray.tune.loguniform if isinstance(one, LogUniform) else ray.tune.uniform)(one.low, one.high)
        for path, one in config.space.items()
        if isinstance(one, Uniform | LogUniform)
    }
