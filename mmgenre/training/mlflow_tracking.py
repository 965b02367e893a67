"""Tracks trainings and searches as runs in an MLflow store.

Only the driver process talks to the store. A failing store never fails a training: its first error is printed as a
warning, and the epochs it missed are logged with a later one.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field
from ray.tune.utils import flatten_dict

import mmgenre
from mmgenre.config import Config
from mmgenre.errors import InputError, one_line
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import ASSETS, CARD, WEIGHTS, Card
from mmgenre.scoring.thresholds import Calibration
from mmgenre.tables import storage

# File in an output folder: the store and the id of its run.
RUN_FILE = "tracking.json"
_PARENT_TAG, _ERROR_TAG = "mlflow.parentRunId", "error"
_ENVIRONMENT = {
    # By default MLflow waits minutes for a store that is gone.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Nothing on standard output, and no telemetry.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Metrics = Mapping[str, float]


class MlflowConfig(Config):
    """An MLflow store."""

    kind: Literal["mlflow"] = "mlflow"
    uri: str = Field(min_length=1, description="http://HOST:PORT of a server, or sqlite:///FILE")
    experiment: str = Field("mmgenre", min_length=1, description="created if it does not exist")
    run_name: str | None = Field(None, description="null: the name of the output folder")
    artifacts: bool = Field(True, description="upload the checkpoint to the store")

    def connect(self) -> "Store":
        """Open the store, and create the experiment if needed.

        Raises:
            InputError: the store does not exist or does not answer, or MLflow is not installed.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient  # noqa: PLC0415 - an extra, and slow to import
        except ImportError:
            raise InputError("tracking: needs MLflow: pip install 'mmgenre[mlflow]'; or leave tracking out") from None
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        uri = _absolute(self.uri)
        try:
            client = MlflowClient(uri)
            return Store(self, client, uri, _experiment_id(client, self.experiment, uri))
        except InputError:
            raise
        except Exception as error:  # from requests, SQLAlchemy or MLflow: all of them are about the address
            detail = one_line(error).replace(uri, without_password(uri))[:300]
            raise InputError(
                f"tracking.uri: {without_password(self.uri)}: not a usable MLflow store ({detail}); "
                "expected http://HOST:PORT of a running `mlflow server`, or sqlite:///FILE"
            ) from None


class Store:
    """An open MLflow store.

    Args:
        config: address and options.
        client: an MlflowClient.
        uri: absolute address.
        experiment_id: id of the experiment in the store.
    """

    def __init__(self, config: MlflowConfig, client: Any, uri: str, experiment_id: str):
        self.config, self.client, self.uri, self.experiment_id = config, client, uri, experiment_id
        self._lock = threading.Lock()
        self._has_warned = False

    def attempt(self, action: Callable[[], None]) -> None:
        """Call `action`; print its error instead of raising it, once per store."""
        try:
            with self._lock:
                action()
        except Exception as error:
            if not self._has_warned:
                detail = one_line(error).replace(self.uri, without_password(self.uri))[:200]
                print(f"warning: tracking: {detail}; continuing without", file=sys.stderr, flush=True)  # noqa: T201
            self._has_warned = True


class TrackedRun:
    """One run in a store, created or resumed by the first call that logs something.

    Args:
        store: None: nothing is tracked, and every method does nothing.
        output: folder that the run produces; producing it again resumes the run.
        settings: logged as parameters; JSON values, nested.
        tags: by name.
        parent: the run of the search that this trial belongs to.
    """

    def __init__(
        self,
        store: Store | None,
        output: str,
        settings: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: "TrackedRun | None" = None,
    ):
        self._store, self._output, self._settings, self._tags = store, output, settings, tags
        self._parent = parent
        self.id: str | None = None
        self._status: str | None = None
        self._logged_epochs: set[int] = set()

    def start(self) -> None:
        """Mark the run as running."""
        self._attempt(lambda store: self._set_status(store, "RUNNING"))

    def log_epochs(self, epochs: Iterable[Metrics]) -> None:
        """Log the metrics of epochs, their "epoch" number among them; skips epochs that the store already has."""
        self._attempt(lambda store: self._log_epochs(store, epochs))

    def log_result(self, card: Card, directory: str, history: Iterable[Metrics] = ()) -> None:
        """Log the final scores and thresholds, and upload the checkpoint.

        Args:
            card: of the checkpoint.
            directory: folder of the checkpoint.
            history: metrics of all epochs; those that the store missed earlier are logged now.
        """

        def log(store: Store) -> None:
            self._log_epochs(store, history)
            self._log_metrics(store, _final_metrics(card), step=max(self._logged_epochs, default=0))
            if store.config.artifacts:
                self._upload(store, directory)

        self._attempt(log)

    def end(self, status: RunStatus, **tags: str) -> None:
        """End the run with a status and tags; empty tags are skipped."""

        def log(store: Store) -> None:
            if status != self._status:
                for name, value in tags.items():
                    if value:
                        store.client.set_tag(self.id, name, value)
                self._set_status(store, status)

        self._attempt(log)

    def _attempt(self, log: Callable[[Store], None]) -> None:
        """Call `log` on the open run, unless nothing is tracked."""
        store = self._store
        if store is None:
            return

        def open_and_log() -> None:
            self._open(store)
            log(store)

        store.attempt(open_and_log)

    def _open(self, store: Store) -> None:
        """Resume the run of this output, or create one."""
        if self.id is not None:
            return
        from mlflow.entities import Param  # noqa: PLC0415 - an extra, and slow to import

        run = self._find(store) or self._create(store)
        settings = flatten_dict(dict(self._settings), delimiter=".")
        values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
        # MLflow refuses to change a parameter; a resumed run keeps the ones it started with.
        new = [Param(name, value) for name, value in values.items() if name not in run.data.params]
        store.client.log_batch(run.info.run_id, params=new)
        if _ERROR_TAG in run.data.tags:
            store.client.delete_tag(run.info.run_id, _ERROR_TAG)
        # May have gaps: the last epochs of a killed training may not have arrived.
        logged = store.client.get_metric_history(run.info.run_id, "epoch")
        self._logged_epochs = {metric.step for metric in logged}
        self.id, self._status = run.info.run_id, run.info.status
        if self._parent is None:
            where = f"experiment {store.config.experiment!r} of {without_password(store.uri)}"
            print(f"tracking: run {run.info.run_name!r} in {where}", flush=True)  # noqa: T201

    def _find(self, store: Store) -> Any:
        """The run that this output already has in this store, or None."""
        if RUN_FILE not in storage.names_in(self._output):
            return None
        recorded = json.loads(storage.read_bytes(storage.join(self._output, RUN_FILE)))
        if recorded["uri"] != without_password(store.uri):
            return None
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - an extra, and slow to import

        try:
            run = store.client.get_run(recorded["run"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _create(self, store: Store) -> Any:
        tags, name = {"mmgenre.version": mmgenre.__version__, **self._tags}, store.config.run_name
        if self._parent is not None:
            self._parent._open(store)
            tags, name = tags | {_PARENT_TAG: str(self._parent.id)}, None
        name = name or storage.absolute(self._output).rstrip("/").rpartition("/")[2]
        run = store.client.create_run(store.experiment_id, tags=tags, run_name=name)
        record = {"uri": without_password(store.uri), "run": run.info.run_id}
        storage.write_bytes(storage.join(self._output, RUN_FILE), json.dumps(record).encode())
        return run

    def _set_status(self, store: Store, status: RunStatus) -> None:
        if status == self._status:
            return
        if status == "RUNNING":
            store.client.update_run(self.id, status=status)
        else:
            store.client.set_terminated(self.id, status)
        self._status = status

    def _log_epochs(self, store: Store, epochs: Iterable[Metrics]) -> None:
        for epoch in epochs:
            number = int(epoch["epoch"])
            if number not in self._logged_epochs:
                self._set_status(store, "RUNNING")
                self._log_metrics(store, epoch, step=number)
                self._logged_epochs.add(number)

    def _log_metrics(self, store: Store, metrics: Metrics, step: int) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - an extra, and slow to import

        now = int(time.time() * 1000)
        store.client.log_batch(self.id, [Metric(name, float(value), now, step) for name, value in metrics.items()])

    def _upload(self, store: Store, directory: str) -> None:
        assets = [f"{ASSETS}/{name}" for name in storage.files_below(storage.join(directory, ASSETS))]
        with storage.local_copy(directory, (CARD, WEIGHTS, *assets)) as folder:
            for name in (CARD, WEIGHTS):
                store.client.log_artifact(self.id, str(folder / name), "checkpoint")
            if assets:
                store.client.log_artifacts(self.id, str(folder / ASSETS), f"checkpoint/{ASSETS}")


@contextlib.contextmanager
def tracked(
    store: Store | None, output: str, settings: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[TrackedRun]:
    """A run that ends as FINISHED, FAILED or KILLED, depending on how the block is left; arguments as of TrackedRun."""
    run = TrackedRun(store, output, settings, tags)
    run.start()
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.end("KILLED")
        raise
    except BaseException as error:
        # Ray wraps an error from a task together with its traceback.
        cause = getattr(error, "cause", error)
        run.end("FAILED", **{_ERROR_TAG: f"{type(cause).__name__}: {one_line(cause)}"})
        raise
    run.end("FINISHED")


def _final_metrics(card: Card) -> dict[str, float]:
    """Scores, temperatures and thresholds on a card, by metric name."""
    metrics = {f"final/{name}": value for name, value in card.scores.items()}
    calibrations: dict[str, Calibration] = {f"_{status}": calibration for status, calibration in card.alone.items()}
    if card.thresholds is not None:
        calibrations[""] = Calibration(thresholds=card.thresholds, temperature=card.temperature)
    for suffix, calibration in calibrations.items():
        metrics[f"temperature{suffix}"] = calibration.temperature
        for genre, threshold in zip(GENRES, calibration.thresholds.cutoffs(), strict=True):
            metrics[f"threshold{suffix}/{genre}"] = float(threshold)
    return metrics


def _experiment_id(client: Any, name: str, uri: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # By default MLflow puts the artifacts of a database below the current folder.
        artifacts = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / name
        location = str(artifacts) if uri.startswith("sqlite:") else None
        return client.create_experiment(name, artifact_location=location)
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"tracking.experiment: {name!r} is deleted in {without_password(uri)}; restore it there, or choose another"
        )
    return experiment.experiment_id


def _absolute(uri: str) -> str:
    """The address with an absolute file, so that a resumed training finds it from any folder."""
    file = uri.removeprefix("sqlite:///")
    return f"sqlite:///{Path(file).expanduser().absolute()}" if uri.startswith("sqlite:///") and file else uri


def without_password(uri: str) -> str:
    """The address without user name and password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri
