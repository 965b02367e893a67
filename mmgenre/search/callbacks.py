"""What a person reads of a search while it runs, and what becomes of trials that end without a word of their own."""

import time
from typing import Any

from ray.tune import Callback

from mmgenre.errors import one_line
from mmgenre.progress import duration
from mmgenre.search.records import TRIAL, Search, TrialRecord, said_of

_EVERY_S = 10


class Watcher(Callback):
    """Hears of every epoch and every end.

    Args:
        search: whose trials they are.
        total: trials there will be.
        known: trials that earlier runs have finished, and this one does not begin.
        max_seconds: after which Ray Tune stops trials that the next run goes on with.
    """

    def __init__(self, search: Search, total: int, known: list[TrialRecord], max_seconds: float | None):
        self._search, self._total, self._max_seconds = search, total, max_seconds
        self._num_known = len(known)
        self._done: set[str] = set()
        self._kept = max(known, key=self._rank, default=None)
        # Score, name, and what is said of the trial that has the highest score so far.
        self._best = (*self._rank(self._kept), said_of(self._kept.point)) if self._kept else (-1.0, "", "")
        self._began = self._said = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """An epoch."""
        about = trial.config[TRIAL]
        if result["epoch"]:
            self._best = max(self._best, (result["score"], about["name"], said_of(about["point"])))
        if time.monotonic() - self._said >= _EVERY_S:
            self._say(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """An end: the trial's own, or by a scheduler."""
        if not self._time_is_up():
            self._end(trial, {"status": "stopped"})
        self._done.add(trial.trial_id)
        self._say(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """An end by a process that died too often."""
        error = one_line(trial.get_pickled_error() or "the process died")
        self._end(trial, {"status": "crashed", "error": error[-500:]})
        self._done.add(trial.trial_id)
        self._say(trials)

    def _time_is_up(self) -> bool:
        return self._max_seconds is not None and time.monotonic() - self._began >= self._max_seconds

    def _end(self, trial: Any, changes: dict[str, Any]) -> None:
        about = trial.config[TRIAL]
        record = self._search.record(about["name"]) or TrialRecord(**about)
        if not record.is_final:
            record = record.model_copy(update=changes)
            self._search.write(record)
        self._keep_the_best(record)

    def _keep_the_best(self, record: TrialRecord) -> None:
        """Of all trials that have ended, the epochs of the best one stay on disk."""
        kept, self._kept = self._kept, max(filter(None, (self._kept, record)), key=self._rank)
        for one in filter(None, (kept, record)):
            if one.name != self._kept.name:
                self._search.forget(one)

    def _say(self, trials: list[Any]) -> None:
        self._said = time.monotonic()
        running = sum(trial.status == "RUNNING" and trial.trial_id not in self._done for trial in trials)
        num_done = self._num_known + len(self._done)
        pending = self._total - num_done - running
        left = ""
        if self._done and pending + running:
            seconds = (self._said - self._began) / len(self._done) * (pending + running)
            left = f"; {duration(seconds)} to go"
        print(  # noqa: T201 - this is what the class is for
            f"search: {num_done} of {self._total} trials done, {running} running, {pending} pending; "
            f"{self._best_so_far()}{left}",
            flush=True,
        )

    def _best_so_far(self) -> str:
        score, name, said = self._best
        return f"best {self._search.objective} {score:.4f} by {said}" if name else "no score yet"

    def _rank(self, record: TrialRecord) -> tuple[float, str]:
        return record.rank(self._search.objective)
