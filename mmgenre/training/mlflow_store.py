"""A store of trainings and searches, and whether it is one: MLflow's."""

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from mmgenre.config import Config
from mmgenre.errors import InputError, one_line

_SETTINGS = {
    # By default a store that is gone is waited for for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Neither words of its own on standard output, nor to its makers.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class MlflowConfig(Config):
    """An MLflow store."""

    kind: Literal["mlflow"] = "mlflow"
    uri: str = Field(min_length=1, description="http://HOST:PORT of a server, or sqlite:///FILE")
    experiment: str = Field("mmgenre", min_length=1, description="made where there is none of that name")
    run_name: str | None = Field(None, description="null: the output folder's name")
    artifacts: bool = Field(True, description="the checkpoint goes into the store, too")

    def connect(self) -> "Store":
        """The store, with the experiment in it.

        Raises:
            InputError: there is no such store, or it does not answer; or MLflow is not installed.
        """
        for name, value in _SETTINGS.items():
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
            return Store(self, client, uri, _experiment(client, self.experiment, uri))
        except InputError:
            raise
        except Exception as error:  # requests', SQLAlchemy's, MLflow's: all of them are about the address
            said = one_line(error).replace(uri, shown(uri))[:300]
            raise InputError(
                f"tracking.uri: {shown(self.uri)}: no MLflow store that can be used ({said}); "
                "expected http://HOST:PORT of a running `mlflow server`, or sqlite:///FILE"
            ) from None


class Store:
    """A store that answers, and may cease to.

    Args:
        config: which it is.
        client: MLflow's.
        uri: absolute.
        experiment: id of the experiment in it.
    """

    def __init__(self, config: MlflowConfig, client: Any, uri: str, experiment: str):
        self.config, self.client, self.uri, self.experiment = config, client, uri, experiment
        self._lock = threading.Lock()
        self._has_failed = False

    def attempt(self, work: Callable[[], None]) -> None:
        """Do something with it: it may fail in any way, and no training does for that. What goes wrong is said once."""
        try:
            with self._lock:
                work()
        except Exception as error:
            if not self._has_failed:
                said = one_line(error).replace(self.uri, shown(self.uri))[:200]
                print(f"warning: tracking: {said}; this goes on without", file=sys.stderr, flush=True)  # noqa: T201
            self._has_failed = True


def _experiment(client: Any, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # By default a database's artifacts go below the folder that the program was started in.
        beside = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / name
        return client.create_experiment(name, artifact_location=str(beside) if uri.startswith("sqlite:") else None)
    if found.lifecycle_stage != "active":
        raise InputError(
            f"tracking.experiment: {name!r} is deleted in {shown(uri)}: restore it there, or give another one"
        )
    return found.experiment_id


def _absolute(uri: str) -> str:
    """The same from whatever folder the training is gone on with."""
    file = uri.removeprefix("sqlite:///")
    return f"sqlite:///{Path(file).expanduser().absolute()}" if uri.startswith("sqlite:///") and file else uri


def shown(uri: str) -> str:
    """Without a user's name and password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri
