"""Ray Tune callbacks: progress lines, the records of trials that end from outside, and MLflow runs."""

import time
from typing import Any

from ray.tune import Callback

from mmgenre.errors import one_line
from mmgenre.progress import duration
from mmgenre.search.records import Search, TrialRecord
from mmgenre.search.space import name_of, point_text
from mmgenre.training.mlflow_tracking import RunStatus, Store, TrackedRun

_SECONDS_BETWEEN_LINES = 10
# All other final statuses are failures.
_RUN_STATUS: dict[str, RunStatus] = {"finished": "FINISHED", "stopped": "FINISHED"}


class TrialWatcher(Callback):
    """Prints progress, records trials that were stopped or crashed, and keeps only the best trial's weights.

    Args:
        search: the search.
        num_trials: number of trials in the whole search.
        finished: trials finished by earlier runs, which this run does not start.
        max_seconds: time limit after which Ray Tune stops trials that the next run resumes.
    """

    def __init__(self, search: Search, num_trials: int, finished: list[TrialRecord], max_seconds: float | None):
        self._search, self._num_trials, self._max_seconds = search, num_trials, max_seconds
        self._num_finished = len(finished)
        self._done: set[str] = set()
        # The ended trial whose weights are kept, and the highest score of any trial, ended or not.
        self._kept = max(finished, key=self._rank, default=None)
        self._best = (*self._rank(self._kept), point_text(self._kept.point)) if self._kept else (-1.0, "", "")
        self._start_time = self._last_line_time = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A trial finished an epoch."""
        if result["epoch"]:
            point = trial.config["point"]
            self._best = max(self._best, (result["score"], name_of(point), point_text(point)))
        if time.monotonic() - self._last_line_time >= _SECONDS_BETWEEN_LINES:
            self._print(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial finished, or was stopped by the scheduler or the time limit."""
        if self._max_seconds is None or time.monotonic() - self._start_time < self._max_seconds:
            self._record_end(trial, {"status": "stopped"})
        self._done.add(trial.trial_id)
        self._print(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The process of a trial died more than `max_failures` times."""
        error = one_line(trial.get_pickled_error() or "the process died")
        self._record_end(trial, {"status": "crashed", "error": error[-500:]})
        self._done.add(trial.trial_id)
        self._print(trials)

    def _record_end(self, trial: Any, changes: dict[str, Any]) -> None:
        """Record how a trial ended, unless it recorded that itself; delete the weights of the worse trial."""
        record = self._search.record_of(trial.config["point"])
        if not record.is_final:
            record = record.model_copy(update=changes)
            self._search.write(record)
        candidates = [record, self._kept] if self._kept else [record]
        self._kept = max(candidates, key=self._rank)
        for candidate in candidates:
            if candidate.name != self._kept.name:
                self._search.delete_weights(candidate)

    def _print(self, trials: list[Any]) -> None:
        self._last_line_time = time.monotonic()
        running = sum(trial.status == "RUNNING" and trial.trial_id not in self._done for trial in trials)
        num_done = self._num_finished + len(self._done)
        pending = self._num_trials - num_done - running
        time_left = ""
        if self._done and pending + running:
            seconds = (self._last_line_time - self._start_time) / len(self._done) * (pending + running)
            time_left = f"; {duration(seconds)} to go"
        score, name, point = self._best
        best = f"best {self._search.objective} {score:.4f} by {point}" if name else "no score yet"
        print(  # noqa: T201 - progress lines are for the terminal
            f"search: {num_done} of {self._num_trials} trials done, {running} running, {pending} pending; "
            f"{best}{time_left}",
            flush=True,
        )

    def _rank(self, record: TrialRecord) -> tuple[float, str]:
        return record.rank(self._search.objective)


class MlflowTrials(Callback):
    """Logs trials as nested MLflow runs; listed after TrialWatcher, whose records it reads.

    Args:
        search: the search.
        store: where to log.
        parent: the run of the search.
    """

    def __init__(self, search: Search, store: Store, parent: TrackedRun):
        self._search, self._store, self._parent = search, store, parent
        self._runs: dict[str, TrackedRun] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune pickles callbacks, for a restore that is not used, and clients cannot be pickled."""
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A trial finished an epoch."""
        self._log(self._search.record_of(trial.config["point"]), unfinished="RUNNING")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial finished, or was stopped by the scheduler or the time limit."""
        self._log(self._search.record_of(trial.config["point"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The process of a trial died too often."""
        self.on_trial_complete(iteration, trials, trial)

    def log_missed(self) -> None:
        """Log trials of earlier, killed runs of the search that this run did not start."""
        for record in self._search.records():
            if record.name not in self._runs:
                self._log(record)

    def _log(self, record: TrialRecord, unfinished: RunStatus = "KILLED") -> None:
        """Log all epochs that the store does not have yet, and the final status."""
        if record.name not in self._runs:
            output, tags = self._search.folder(record.name), {"mmgenre.job": "trial"}
            self._runs[record.name] = TrackedRun(self._store, output, record.point, tags, self._parent)
        run = self._runs[record.name]
        run.log_epochs({"epoch": epoch.epoch, "seconds": epoch.seconds, **epoch.scores} for epoch in record.epochs)
        status = _RUN_STATUS.get(record.status, "FAILED") if record.is_final else unfinished
        if status != "RUNNING":
            run.end(status, **{"mmgenre.status": record.status, "error": record.error or ""})
