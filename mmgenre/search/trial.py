"""One trial of a search: a training in the process that Ray Tune gave it, which goes on where a killed one was."""

import shutil
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

from mmgenre import ray_session as cluster
from mmgenre.errors import InputError, one_line
from mmgenre.models import FittedAtOnce
from mmgenre.models.inference import own_device
from mmgenre.scoring.metrics import held_out_scores
from mmgenre.scoring.thresholds import probabilities
from mmgenre.search.data_cache import Subject
from mmgenre.search.records import RECORD, TOGETHER, TRIAL, WORST, Measured, Search, Status, TrialRecord, epoch_folder
from mmgenre.search.space import Point
from mmgenre.tables import storage
from mmgenre.training import state as training_state
from mmgenre.training.job import train
from mmgenre.training.mlflow_tracking import Told
from mmgenre.training.setup import TrainConfig, fit_config, fitted_at_once
from mmgenre.training.state import Epoch
from mmgenre.training.trainer import DivergedError, Fit, Team

# What ends a trial and nothing else, the more particular first.
_STATUSES: dict[type[BaseException], Status] = {
    DivergedError: "diverged",
    InputError: "invalid",
    MemoryError: "out_of_memory",
    torch.OutOfMemoryError: "out_of_memory",
}


class Together:
    """A training shared by several workers, which runs beside the process of its trial and ends with it.

    Args:
        config: of the training; its output is where it goes on from.
    """

    def __init__(self, config: TrainConfig):
        self._config = config
        self._epochs = cluster.queue()
        threading.Thread(target=self._run, daemon=True).start()

    def next_epoch(self) -> Epoch | None:
        """What it brought; None after the last one.

        Raises:
            Exception: the training's.
        """
        found = self._epochs.get()
        if isinstance(found, BaseException):
            raise found
        return None if found is None else Epoch.model_validate({name: found[name] for name in Epoch.model_fields})

    def _run(self) -> None:
        try:
            train(self._config, [Told(self._epochs)])
        except BaseException as error:
            self._epochs.put(error)
        else:
            self._epochs.put(None)


class Trial(tune.Trainable):
    """Ray Tune's view of a trial: each step is an epoch, at first those that are on record already.

    Its config holds the trial's name and its point below TRIAL.
    """

    def setup(self, config: dict[str, Any], search: Search) -> None:
        """Called once in a process, which may be lent to other trials afterwards."""
        torch.set_num_threads(max(1, int(self.trial_resources.required_resources.get("CPU", 1))))
        self._search = search
        self._become(**config[TRIAL])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Be another trial from here on, or the same one with another point."""
        self._become(**new_config[TRIAL])
        return True

    def _become(self, name: str, point: Point) -> None:
        self._point = dict(point)
        self._record = self._search.record(name) or TrialRecord(name=name, point=point)
        self._subject: Subject | None = None
        self._fit: Fit | None = None
        self._together: Together | None = None
        self._num_said = 0

    def step(self) -> dict[str, Any]:
        """One epoch's score."""
        if self._num_said == len(self._record.epochs) and not self._record.is_final:
            self._learn()
        self._num_said = min(self._num_said + 1, len(self._record.epochs))
        epochs = self._record.epochs[: self._num_said]
        return {
            "score": epochs[-1].scores[self._search.objective] if epochs else WORST,
            "epoch": self._num_said,
            "done": self._record.is_final and self._num_said == len(self._record.epochs),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """For schedulers that pause trials, or let one take over from another."""
        if self._record.epochs:
            with storage.local_copy(self._epoch_folder(self._record.epochs[-1].epoch)) as folder:
                shutil.copytree(folder, checkpoint_dir, dirs_exist_ok=True)
        Path(checkpoint_dir, RECORD).write_text(self._record.model_dump_json())

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on from a checkpoint, perhaps of another trial, with the point of this one."""
        found = TrialRecord.model_validate_json(Path(checkpoint_dir, RECORD).read_text())
        if found.epochs:
            storage.upload(Path(checkpoint_dir), self._epoch_folder(found.epochs[-1].epoch))
        self._write(epochs=found.epochs, status=found.status, point=self._point)
        self._num_said, self._fit = len(found.epochs), None

    def _learn(self) -> None:
        """Add an epoch to the record, or say in it why there is none."""
        try:
            self._subject = self._subject or Subject(self._search.training(self._point))
            if isinstance(self._subject.config.model, FittedAtOnce):
                self._learn_at_once(self._subject)
            elif self._subject.config.most_workers > 1:
                self._learn_together(self._subject)
            else:
                self._learn_an_epoch(self._subject)
        except tuple(_STATUSES) as error:
            status = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
            # What the preparer raised comes with its whole traceback, and as it was.
            said = getattr(error, "cause", error)
            self._write(status=status, error=one_line(said))

    def _learn_at_once(self, subject: Subject) -> None:
        family, began = subject.config.model, time.monotonic()
        assert isinstance(family, FittedAtOnce)  # noqa: S101 - a caller's duty
        rows = self._shared("rows", f"rows {family.columns}", subject)
        fitted = fitted_at_once(family, rows["train"], rows["val"])
        scores = held_out_scores(probabilities(fitted.logits, 1.0), fitted.labels)
        measured = Measured(epoch=1, scores=scores, seconds=time.monotonic() - began)
        self._add(measured, partial(training_state.save_logits, logits=fitted.logits), is_last=True)

    def _learn_an_epoch(self, subject: Subject) -> None:
        if self._fit is None:
            self._fit = self._begun(subject)
        logits = self._fit.run_epoch()
        measured = Measured.of(self._fit.progress.history[-1])
        self._add(measured, partial(self._fit.save, logits=logits), is_last=not self._fit.wants_another_epoch())

    def _learn_together(self, subject: Subject) -> None:
        if self._together is None:
            output = self._search.folder(self._record.name, TOGETHER)
            self._together = Together(subject.unresolved.model_copy(update={"output": output}))
        epoch = self._together.next_epoch()
        if epoch is None:
            self._write(status="finished")
        elif epoch.epoch > len(self._record.epochs):
            self._write(epochs=(*self._record.epochs, Measured.of(epoch)))

    def _begun(self, subject: Subject) -> Fit:
        """A fit that goes on from the last epoch on record."""
        encoded = self._shared("splits", subject.reading, subject)
        fit = Fit(fit_config(subject.config), subject.model, encoded, Team(own_device()))
        if self._record.epochs:
            with storage.local_copy(self._epoch_folder(self._record.epochs[-1].epoch)) as folder:
                fit.restore(folder)
        return fit

    def _shared(self, what: str, reading: str, subject: Subject) -> dict[str, Any]:
        """What the preparer makes of a training, or made of it for another trial."""
        method = getattr(self._search.preparer, what)
        return ray.get(ray.get(method.remote(reading, subject.unresolved.to_settings()))[0])

    def _add(self, measured: Measured, save: Callable[[Path], None], *, is_last: bool) -> None:
        """Put an epoch on record, after what it left; what is needed no more goes."""
        with TemporaryDirectory() as temporary:
            save(Path(temporary))
            storage.upload(Path(temporary), self._epoch_folder(measured.epoch))
        epochs = (*self._record.epochs, measured)
        self._write(epochs=epochs, status="finished" if is_last else "running")
        best = self._record.best(self._search.objective)
        wanted = {best.epoch if best else None, None if is_last else measured.epoch}
        for epoch in {one.epoch for one in epochs} - wanted:
            storage.delete(self._epoch_folder(epoch))

    def _write(self, **changes: Any) -> None:
        self._record = self._record.model_copy(update=changes)
        self._search.write(self._record)

    def _epoch_folder(self, epoch: int) -> str:
        return self._search.folder(self._record.name, epoch_folder(epoch))
