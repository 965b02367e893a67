"""Runs the trials of a search with Ray Tune."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.tune

from mmgenre import ray_session
from mmgenre.errors import InputError
from mmgenre.search.callbacks import TrialWatcher
from mmgenre.search.config import TuneConfig, num_trials
from mmgenre.search.optuna_searcher import optuna_searcher
from mmgenre.search.records import Search, TrialRecord
from mmgenre.search.space import Point, name_of
from mmgenre.search.trial import Trial
from mmgenre.tables import storage

RAY_TUNE = "ray_tune"
# Bytes for the process of a multi-worker trial, which only waits for its workers.
_WAITING_MEMORY = 64e6
# Trials at a time on a cluster that has no node for them yet and does not say how far it may grow.
_CONCURRENT_ON_NEW_NODES = 4
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    # Paths in a preset may be relative to the folder that the search was started in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Ray Tune's own snapshots are not used: they are pickles, and a kill may tear them.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class RemainingTrials:
    """The part of a search that is still to run.

    Args:
        total: number of trials in the whole search.
        finished: trials that are not run again.
        points: points to run, in order; with Optuna, it suggests more after them.
        seed: of Optuna.
    """

    total: int
    finished: list[TrialRecord]
    points: list[Point]
    seed: int

    @classmethod
    def of(cls, config: TuneConfig, points: list[Point], records: list[TrialRecord]) -> "RemainingTrials":
        """Subtract the trials on record from the initial points of a search."""
        # Schedulers compare trials with earlier ones, so finished trials run again and replay their records.
        replays = config.scheduler != "none"
        finished = [record for record in records if record.is_final and not replays]
        total = num_trials(config, points)
        if config.searcher == "optuna":
            points = [*points, *(record.point for record in records if record.point)]
        names = {record.name for record in finished}
        remaining = [point for point in points if name_of(point) not in names]
        # A new seed for each run: the old one would suggest the same points again.
        return cls(total, finished, remaining, config.seed + len(records))

    @property
    def count(self) -> int:
        """Number of trials to run."""
        return max(0, self.total - len(self.finished))


def run_trials(
    config: TuneConfig, search: Search, remaining: RemainingTrials, callbacks: Sequence[ray.tune.Callback] = ()
) -> None:
    """Run trials until all have ended or the time is up.

    Args:
        config: of the search.
        search: holds the records.
        remaining: trials to run, at least one.
        callbacks: called after the records are updated.
    """
    num_workers = search.training({}).max_workers
    resources = resources_of(config) if num_workers == 1 else {"memory": _WAITING_MEMORY}
    searcher, param_space = None, {}
    if config.searcher == "optuna":
        searcher = optuna_searcher(config.space, remaining.seed, config.objective, remaining.finished, remaining.points)
    else:
        param_space = {"point": ray.tune.grid_search(remaining.points)}
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(ray.tune.with_parameters(Trial, search=search), resources),
        param_space=param_space,
        tune_config=ray.tune.TuneConfig(
            metric="score",
            mode="max",
            num_samples=remaining.count if searcher else 1,
            search_alg=searcher,
            max_concurrent_trials=_max_concurrent(config, num_workers),
            scheduler=_scheduler(config, search),
            time_budget_s=config.max_seconds,
            # The workers of a distributed training end with the process of its trial.
            reuse_actors=num_workers == 1,
        ),
        run_config=_run_config(
            search,
            config.max_failures,
            [TrialWatcher(search, remaining.total, remaining.finished, config.max_seconds), *callbacks],
        ),
    )
    with _quiet():
        tuner.fit()


def _run_config(search: Search, max_failures: int, callbacks: list[ray.tune.Callback]) -> ray.tune.RunConfig:
    filesystem, path = storage.resolve(search.output)
    return ray.tune.RunConfig(
        name=RAY_TUNE,
        storage_path=path,
        storage_filesystem=filesystem,
        checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
        failure_config=ray.tune.FailureConfig(max_failures=max_failures),
        callbacks=callbacks,
        verbose=0,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Tune from printing, saving snapshots and handling Ctrl-C."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    environment = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)


def resources_of(config: TuneConfig) -> dict[str, float]:
    """Resources of one training process."""
    gpus = config.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if ray_session.use_gpu(config.accelerator) else 0.0
    return {"CPU": config.cpus_per_trial, "GPU": gpus} if gpus else {"CPU": config.cpus_per_trial}


def _max_concurrent(config: TuneConfig, num_workers: int) -> int:
    """Number of trials that fit the cluster once it has grown, so that none waits for what another one holds.

    Raises:
        InputError: not even one fits; it would wait forever.
    """
    resources = resources_of(config)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    processes = sum(int(min(node.get(name, 0) / amount for name, amount in resources.items())) for node in nodes)
    if (limit := ray_session.autoscaler_limit()) is not None:
        processes = max(processes, int(min(limit.get(name, 0) / amount for name, amount in resources.items())))
    elif processes < num_workers and ray_session.may_grow():
        # Waiting trials are what makes an autoscaler start nodes.
        processes = num_workers * (config.max_concurrent or _CONCURRENT_ON_NEW_NODES)
    if processes < num_workers:
        per_worker = ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
        raise InputError(
            f"a trial needs {num_workers} processes with {per_worker} each, and the cluster has room for {processes}; "
            "lower cpus_per_trial, gpus_per_trial or workers"
        )
    return min(processes // num_workers, config.max_concurrent or processes)


def _scheduler(config: TuneConfig, search: Search) -> Any:
    match config.scheduler:
        case "asha":
            return ray.tune.schedulers.ASHAScheduler(
                time_attr="epoch",
                max_t=_max_epochs(config, search),
                grace_period=config.grace_epochs,
                reduction_factor=config.reduction_factor,
            )
        case "median":
            return ray.tune.schedulers.MedianStoppingRule(time_attr="epoch", grace_period=config.grace_epochs)
    return None


def _max_epochs(config: TuneConfig, search: Search) -> int:
    """The maximum number of epochs of any trial."""
    points = [{"epochs": value} for value in config.space["epochs"].extremes] if "epochs" in config.space else [{}]
    return max(search.training(point).epochs for point in points)
