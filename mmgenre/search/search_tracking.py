"""A search in a store: one run for it, and within it one for each trial."""

from typing import Any

from ray.tune import Callback

from mmgenre.search.records import TRIAL, Search, TrialRecord
from mmgenre.training.mlflow_store import Store
from mmgenre.training.mlflow_tracking import About, Run, Status

# What has failed aside.
_STATUSES: dict[str, Status] = {"finished": "FINISHED", "stopped": "FINISHED"}


class TrackedTrials(Callback):
    """Hears of every epoch and every end from Ray Tune, after what a trial has put on record.

    Args:
        search: whose trials they are.
        store: where they are tracked.
        parent: the search's own run.
    """

    def __init__(self, search: Search, store: Store, parent: Run):
        self._search, self._store, self._parent = search, store, parent
        self._runs: dict[str, Run] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune pickles callbacks into an account that is never read, and a connection cannot be."""
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """An epoch."""
        self._tell(self._search.record(trial.config[TRIAL]["name"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """An end: the trial's own, by a scheduler, or because the time is up."""
        self._tell(self._search.record(trial.config[TRIAL]["name"]), unfinished="KILLED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """An end by a process that died too often."""
        self.on_trial_complete(iteration, trials, trial)

    def tell_others(self) -> None:
        """Say what an earlier run of the search, which was killed, did not come to say of its trials."""
        for record in self._search.records():
            if record.name not in self._runs:
                self._tell(record, unfinished="KILLED")

    def _tell(self, record: TrialRecord | None, unfinished: Status = "RUNNING") -> None:
        """Whatever of a trial the store does not know yet."""
        if record is None:
            return
        run = self._run_of(record)
        run.log_epochs({"epoch": one.epoch, "seconds": one.seconds, **one.scores} for one in record.epochs)
        status = _STATUSES.get(record.status, "FAILED") if record.is_final else unfinished
        if status != "RUNNING":
            run.end(status, **{"mmgenre.status": record.status, "error": record.error or ""})

    def _run_of(self, record: TrialRecord) -> Run:
        if record.name not in self._runs:
            tags = {"mmgenre.cli": "trial"}
            about = About(self._search.folder(record.name), record.point, tags, parent=self._parent)
            self._runs[record.name] = Run(self._store, about)
        return self._runs[record.name]
