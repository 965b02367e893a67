"""One trial of a search: a training in a Ray Tune process, resumed from its record after a crash."""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from ray import tune

from mmgenre.errors import InputError, one_line
from mmgenre.models import DirectlyFittedConfig
from mmgenre.models.inference import local_device
from mmgenre.scoring.metrics import held_out_scores
from mmgenre.scoring.thresholds import probabilities
from mmgenre.search.data_cache import Form
from mmgenre.search.records import DISTRIBUTED, Search, TrialEpoch, TrialStatus, epoch_folder
from mmgenre.search.space import Point
from mmgenre.tables import storage
from mmgenre.training import state
from mmgenre.training.config import TrainConfig
from mmgenre.training.fitted_model import FittedModel
from mmgenre.training.job import train
from mmgenre.training.setup import TrainingSetup
from mmgenre.training.state import EpochMetrics
from mmgenre.training.trainer import DivergedError, ProcessGroup, Trainer

# Errors that end one trial but not the search; subclasses come first.
_STATUS_BY_ERROR: dict[type[BaseException], TrialStatus] = {
    DivergedError: "diverged",
    InputError: "invalid",
    MemoryError: "out_of_memory",
    torch.OutOfMemoryError: "out_of_memory",
}


class DistributedTraining:
    """A multi-worker training on a background thread of its trial's process.

    Args:
        config: of the training; resumes what is in its output.
    """

    def __init__(self, config: TrainConfig):
        self._config = config
        self._events: queue.Queue[EpochMetrics | BaseException | None] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def next_epoch(self) -> EpochMetrics | None:
        """Wait for the next epoch; None after the last one. Raises what the training raised."""
        event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def _run(self) -> None:
        try:
            notes = train(self._config, on_epoch=self._events.put).notes
            self._events.put(DivergedError(notes["detail"]) if notes.get("status") == "diverged" else None)
        except BaseException as error:
            self._events.put(error)


class Trial(tune.Trainable):
    """A trial as Ray Tune sees it: each step is an epoch. Epochs already on record are replayed first.

    Its Ray Tune config is {"point": point}.
    """

    def setup(self, config: dict[str, Any], search: Search) -> None:
        """Called once per process, which may later be reused for other trials."""
        torch.set_num_threads(max(1, int(self.trial_resources.required_resources.get("CPU", 1))))
        self._search = search
        self._start(config["point"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Reuse the process for another trial."""
        self._start(new_config["point"])
        return True

    def _start(self, point: Point) -> None:
        self._point = dict(point)
        self._record = self._search.record_of(self._point)
        self._setup: TrainingSetup | None = None
        self._trainer: Trainer | None = None
        self._distributed: DistributedTraining | None = None
        self._num_reported = 0

    def step(self) -> dict[str, Any]:
        """Report the score of one epoch, trained now or replayed."""
        if self._num_reported == len(self._record.epochs) and not self._record.is_final:
            self._run_epoch()
        self._num_reported = min(self._num_reported + 1, len(self._record.epochs))
        return self._record.result(self._num_reported, self._search.objective) | {
            "done": self._record.is_final and self._num_reported == len(self._record.epochs),
        }

    def _run_epoch(self) -> None:
        """Add an epoch to the record, or record why there is none."""
        try:
            self._setup = self._setup or TrainingSetup(self._search.training(self._point))
            if isinstance(self._setup.config.model, DirectlyFittedConfig):
                self._fit_in_closed_form(self._setup)
            elif self._setup.config.max_workers > 1:
                self._run_distributed_epoch(self._setup)
            else:
                self._run_local_epoch(self._setup)
        except tuple(_STATUS_BY_ERROR) as error:
            status = next(status for kind, status in _STATUS_BY_ERROR.items() if isinstance(error, kind))
            # Ray wraps an error from the data cache together with its traceback.
            self._update_record(status=status, error=one_line(getattr(error, "cause", error)))

    def _fit_in_closed_form(self, setup: TrainingSetup) -> None:
        family, start = setup.config.model, time.monotonic()
        assert isinstance(family, DirectlyFittedConfig)  # noqa: S101 - the caller's duty
        fitted = FittedModel.in_closed_form(family, self._cached("rows", f"rows {family.columns}", setup))
        chances = probabilities(fitted.logits, 1.0)
        scores = held_out_scores(chances, fitted.labels, groups=fitted.groups, seed=setup.config.seed)
        epoch = TrialEpoch(epoch=1, scores=scores, seconds=time.monotonic() - start)
        self._add_epoch(epoch, partial(state.save_logits, logits=fitted.logits), is_last=True)

    def _run_local_epoch(self, setup: TrainingSetup) -> None:
        if self._trainer is None:
            self._trainer = self._resumed_trainer(setup)
        logits = self._trainer.run_epoch()
        epoch = TrialEpoch.of(self._trainer.progress.history[-1])
        self._add_epoch(epoch, partial(self._trainer.save, logits=logits), is_last=self._trainer.is_finished)

    def _run_distributed_epoch(self, setup: TrainingSetup) -> None:
        if self._distributed is None:
            output = self._search.folder(self._record.name, DISTRIBUTED)
            self._distributed = DistributedTraining(setup.unresolved_config.model_copy(update={"output": output}))
        metrics = self._distributed.next_epoch()
        if metrics is None:
            self._update_record(status="finished")
        elif metrics.epoch > len(self._record.epochs):
            self._update_record(epochs=(*self._record.epochs, TrialEpoch.of(metrics)))

    def _resumed_trainer(self, setup: TrainingSetup) -> Trainer:
        """A trainer that continues after the last epoch on record."""
        splits = self._cached("splits", setup.encoding_key, setup)
        trainer = Trainer(setup.config.fit_config, setup.model, splits, ProcessGroup(local_device()))
        if self._record.epochs:
            with storage.local_copy(self._epoch_folder(self._record.epochs[-1].epoch)) as folder:
                trainer.restore(folder)
        return trainer

    def _cached(self, form: Form, key: str, setup: TrainingSetup) -> dict[str, Any]:
        """Movies from the data cache, encoded there if this is the first trial that needs them."""
        settings = setup.unresolved_config.to_settings()
        return ray.get(ray.get(self._search.data_cache.get.remote(form, key, settings))[0])

    def _add_epoch(self, epoch: TrialEpoch, save: Callable[[Path], None], *, is_last: bool) -> None:
        """Save an epoch's state, then record the epoch, then delete states that are no longer needed."""
        with TemporaryDirectory() as folder:
            save(Path(folder))
            storage.upload(Path(folder), self._epoch_folder(epoch.epoch))
        epochs = (*self._record.epochs, epoch)
        self._update_record(epochs=epochs, status="finished" if is_last else "running")
        best = self._record.best(self._search.objective)
        needed = {best.epoch if best else None, None if is_last else epoch.epoch}
        for number in {recorded.epoch for recorded in epochs} - needed:
            storage.delete(self._epoch_folder(number))

    def _update_record(self, **changes: Any) -> None:
        self._record = self._record.model_copy(update=changes)
        self._search.write(self._record)

    def _epoch_folder(self, epoch: int) -> str:
        return self._search.folder(self._record.name, epoch_folder(epoch))
