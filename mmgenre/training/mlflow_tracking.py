"""The account of a training in an MLflow store: settings, every epoch, what came of it, the checkpoint.

The store is talked to from the process that a person started, and never decides over a training: what it cannot take
is said once, and tried again with the next epoch.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.train import UserCallback
from ray.util.queue import Queue

import mmgenre
from mmgenre import ray_session as cluster
from mmgenre.errors import one_line
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import ASSETS, CARD, WEIGHTS, Card
from mmgenre.scoring.thresholds import Calibration
from mmgenre.tables import storage
from mmgenre.training.mlflow_store import Store, shown

# In an output: which run of which store is its own.
TRACKING = "tracking.json"
_PARENT = "mlflow.parentRunId"
# Why it failed.
_ERROR = "error"
_PER_BATCH, _LONGEST = 100, 500
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class About:
    """What there is to know of a run when it begins.

    Args:
        output: folder that the run is the account of; where the same is made again, the same run goes on.
        settings: JSON values.
        tags: by name.
        parent: the run that it is a part of; None: of none.
    """

    output: str
    settings: Mapping[str, Any]
    tags: Mapping[str, str]
    parent: "Run | None" = None


class Run:
    """The account of a training in a store; of none, where there is no store.

    It begins, or goes on where an earlier one of the same output was, with the first thing that is said of it.

    Args:
        store: None: nothing is tracked.
        about: what the run is of.
    """

    def __init__(self, store: Store | None, about: About):
        self._store, self._about = store, about
        self.id: str | None = None
        self._status: str | None = None
        self._epochs: set[int] = set()

    def begin(self) -> None:
        """Say that it has begun."""
        self._attempt(lambda store: self._become(store, "RUNNING"))

    def log_epochs(self, epochs: Iterable[Mapping[str, float]]) -> None:
        """Figures of epochs, their numbers among them; those that the store has already are passed over."""
        self._attempt(lambda store: self._log_epochs(store, epochs))

    def finish(self, card: Card, below: str = "", history: Iterable[Mapping[str, float]] = ()) -> None:
        """Say what came of it.

        Args:
            card: of the checkpoint.
            below: where in the output the checkpoint is, which goes into the store.
            history: all epochs: those that the store did not take when they came are made up for.
        """

        def say(store: Store) -> None:
            self._log_epochs(store, history)
            self._log_metrics(store, _results(card), step=max(self._epochs, default=0))
            if store.config.artifacts:
                self._upload(store, storage.join(self._about.output, *filter(None, [below])))

        self._attempt(say)

    def end(self, status: Status, **tags: str) -> None:
        """Say how it ended."""

        def say(store: Store) -> None:
            for name, value in tags.items():
                if value and status != self._status:
                    store.client.set_tag(self.id, name, value[:_LONGEST])
            self._become(store, status)

        self._attempt(say)

    @contextlib.contextmanager
    def hearing(self) -> Iterator[list[UserCallback]]:
        """Callbacks for Ray Train, whose epochs are logged here as they come."""
        if self._store is None:
            yield []
            return
        cluster.connect()
        epochs = cluster.queue()
        listener = threading.Thread(target=self._log_until_none, args=(epochs,), daemon=True)
        listener.start()
        try:
            yield [Told(epochs)]
        finally:
            epochs.put(None)
            listener.join(timeout=30)
            epochs.shutdown(force=True)

    def _log_until_none(self, epochs: Queue) -> None:
        while (epoch := epochs.get()) is not None:
            self.log_epochs([epoch])

    def _attempt(self, say: Callable[[Store], None]) -> None:
        """Do something with the store, once there is a run in it."""
        store = self._store
        if store is None:
            return

        def work() -> None:
            self._require_run(store)
            say(store)

        store.attempt(work)

    def _require_run(self, store: Store) -> None:
        if self.id is not None:
            return
        run = self._earlier(store) or self._create(store)
        self._log_params(store, run)
        if _ERROR in run.data.tags:
            # It goes on after that.
            store.client.delete_tag(run.info.run_id, _ERROR)
        epochs = store.client.get_metric_history(run.info.run_id, "epoch")
        # With gaps: what a killed training did last may not have arrived.
        self._epochs = {metric.step for metric in epochs}
        self.id, self._status = run.info.run_id, run.info.status
        if self._about.parent is None:
            where = f"experiment {store.config.experiment!r} of {shown(store.uri)}"
            print(f"tracking: run {run.info.run_name!r} in {where}", flush=True)  # noqa: T201

    def _earlier(self, store: Store) -> Any:
        """The run that this output has in this store already; None: it has none there."""
        if TRACKING not in storage.names_in(self._about.output):
            return None
        known = json.loads(storage.read_bytes(storage.join(self._about.output, TRACKING)))
        if known["uri"] != shown(store.uri):
            return None
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - an extra, and slow to import

        try:
            run = store.client.get_run(known["run"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _create(self, store: Store) -> Any:
        about = self._about
        tags, name = {"mmgenre.version": mmgenre.__version__, **about.tags}, store.config.run_name
        if about.parent is not None:
            about.parent._require_run(store)
            tags, name = tags | {_PARENT: str(about.parent.id)}, None
        name = name or storage.absolute(about.output).rstrip("/").rpartition("/")[2]
        run = store.client.create_run(store.experiment, tags=tags, run_name=name)
        known = {"uri": shown(store.uri), "run": run.info.run_id}
        storage.write_bytes(storage.join(about.output, TRACKING), json.dumps(known).encode())
        return run

    def _become(self, store: Store, status: Status) -> None:
        if status == self._status:
            return
        if status == "RUNNING":
            store.client.update_run(self.id, status=status)
        else:
            store.client.set_terminated(self.id, status)
        self._status = status

    def _log_params(self, store: Store, run: Any) -> None:
        """The settings that it does not have: those of a run are what it began with."""
        from mlflow.entities import Param  # noqa: PLC0415 - an extra, and slow to import

        known = run.data.params
        found = [Param(name, value[:_LONGEST]) for name, value in _flat(self._about.settings) if name not in known]
        for start in range(0, len(found), _PER_BATCH):
            store.client.log_batch(run.info.run_id, params=found[start : start + _PER_BATCH])

    def _log_epochs(self, store: Store, epochs: Iterable[Mapping[str, float]]) -> None:
        for epoch in epochs:
            number = int(epoch["epoch"])
            if number not in self._epochs:
                self._become(store, "RUNNING")
                self._log_metrics(store, epoch, step=number)
                self._epochs.add(number)

    def _log_metrics(self, store: Store, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - an extra, and slow to import

        now = int(time.time() * 1000)
        store.client.log_batch(self.id, metrics=[Metric(name, float(one), now, step) for name, one in values.items()])

    def _upload(self, store: Store, directory: str) -> None:
        """Put a checkpoint into the store."""
        assets = [f"{ASSETS}/{name}" for name in storage.files_below(storage.join(directory, ASSETS))]
        with storage.local_copy(directory, (CARD, WEIGHTS, *assets)) as folder:
            for name in (CARD, WEIGHTS):
                store.client.log_artifact(self.id, str(folder / name), "checkpoint")
            if assets:
                store.client.log_artifacts(self.id, str(folder / ASSETS), f"checkpoint/{ASSETS}")


class Told(UserCallback):
    """Ray Train's controller puts each epoch of a training into a queue."""

    def __init__(self, epochs: Queue):
        self._epochs = epochs

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called once for what all workers report: an epoch, or that they are within one."""
        if metrics[0]:
            self._epochs.put(metrics[0])


@contextlib.contextmanager
def tracked(store: Store | None, about: About) -> Iterator[Run]:
    """A run that ends as what is done within it does."""
    run = Run(store, about)
    run.begin()
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.end("KILLED")
        raise
    except BaseException as error:
        # What a Ray task raised comes with its whole traceback, and as it was.
        cause = getattr(error, "cause", error)
        run.end("FAILED", error=f"{type(cause).__name__}: {one_line(cause)}")
        raise
    run.end("FINISHED")


def _results(card: Card) -> dict[str, float]:
    """Scores, temperature and thresholds of a trained model, by name."""
    found = {f"final/{name}": value for name, value in card.scores.items()}
    kinds: dict[str, Calibration] = {f"_{status}": one for status, one in card.alone.items()}
    if card.thresholds is not None:
        kinds[""] = Calibration(thresholds=card.thresholds, temperature=card.temperature)
    for kind, one in kinds.items():
        found[f"temperature{kind}"] = one.temperature
        cutoffs = one.thresholds.cutoffs()
        found |= {f"threshold{kind}/{genre}": float(value) for genre, value in zip(GENRES, cutoffs, strict=True)}
    return found


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted paths, and values as text."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
