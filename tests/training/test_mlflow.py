"""Trainings and searches in real MLflow stores: a database file, and a server that dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.search.config import TuneConfig, tracking_of
from mmgenre.search.job import tune
from mmgenre.training.config import TrainConfig
from mmgenre.training.job import train
from mmgenre.training.mlflow_tracking import MlflowConfig, TrackedRun

ROOT = Path(__file__).parents[2]
TFIDF = {"model": {"family": "tfidf"}}
BILSTM = {
    "model": {"family": "bilstm", "vectors": None, "hidden": 16, "dropout": 0.0, "max_length": 48},
    "optimizer": {"lr_backbone": 1e-2, "lr_head": 1e-2},
    "precision": "fp32",
    "epochs": 4,
    "patience": 4,
    "batch_size": 64,
    "workers": 1,
}


SPACE = {"model.min_df": {"kind": "choice", "values": [3, 100_000]}}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """The address of a store in a file, its tables made."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    MlflowConfig(uri=uri).connect()
    return uri


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real `mlflow server` on loopback: its address, and its process, whose group can be killed."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
    while not answers(port):
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield uri, process
    kill(process)


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def kill(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def config(movies, output, settings, **tracking):
    fields = {"dataset": movies, "output": str(output), "tracking": tracking or None}
    return TrainConfig.parse(fields | settings, "test")


def runs_of(uri, experiment):
    """By name."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def steps(uri, run, metric):
    from mlflow import MlflowClient

    return sorted((one.step, one.value) for one in MlflowClient(uri).get_metric_history(run.info.run_id, metric))


def files_of(uri, run, path):
    from mlflow import MlflowClient

    return {one.path: one.file_size for one in MlflowClient(uri).list_artifacts(run.info.run_id, path)}


@pytest.mark.process
def test_a_killed_training_resumes_in_the_same_mlflow_run(local_ray, generated_movies, database, tmp_path, capfd):
    output = tmp_path / "killed"
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(BILSTM))
    command = [sys.executable, ROOT / "jobs/train.py", tmp_path / "train.yaml", f"dataset={generated_movies}"]
    command += [f"output={output}", f"tracking.uri={database}", "tracking.experiment=killed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        said = []
        for line in first.stdout:
            said.append(line)
            if line.startswith("epoch 3/"):
                first.kill()
    assert "tracking: run 'killed' in experiment 'killed' of sqlite:///" in "".join(said)
    assert not (output / "_run.json").exists()
    began = runs_of(database, "killed")["killed"]
    assert began.info.status == "RUNNING"
    logged = steps(database, began, "macro_f1")
    assert 1 <= len(logged) <= 3

    train(config(generated_movies, output, BILSTM, uri=database, experiment="killed"))

    run = runs_of(database, "killed")["killed"]
    assert run.info.run_id == began.info.run_id
    assert run.info.status == "FINISHED"
    # Every epoch once, those of before the kill as they were.
    history = json.loads((output / "history.json").read_text())["history"]
    for metric in ("loss", "val_loss", "macro_f1", "mean_average_precision"):
        assert steps(database, run, metric) == [(one["epoch"], one[metric]) for one in history]
    assert steps(database, run, "macro_f1")[: len(logged)] == logged
    assert run.data.params["optimizer.lr_head"] == "0.01"
    assert run.data.params["model.family"] == "bilstm"
    assert run.data.tags["mmgenre.job"] == "train"
    card = checkpoint.read_card(str(output))
    assert run.data.tags["mmgenre.dataset"] == card.dataset
    for name, value in card.scores.items():
        assert run.data.metrics[f"final/{name}"] == value
    assert run.data.metrics["threshold/Horror"] == card.thresholds.cutoffs()[5]
    assert files_of(database, run, "checkpoint")["checkpoint/weights.safetensors"] > 10_000
    assert "warning" not in capfd.readouterr().err
    # Where it is tracked does not make another training of it.
    assert "tracking" not in card.training
    train(config(generated_movies, output, BILSTM))


@pytest.mark.process
def test_a_server_keeps_the_training_and_its_checkpoint(local_ray, generated_movies, server, tmp_path):
    uri = server[0]

    train(config(generated_movies, tmp_path / "first", TFIDF, uri=uri, run_name="A name"))

    run = runs_of(uri, "mmgenre")["A name"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["final/macro_f1"] == checkpoint.read_card(str(tmp_path / "first")).scores["macro_f1"]
    assert set(files_of(uri, run, "checkpoint")) >= {"checkpoint/checkpoint.json", "checkpoint/weights.safetensors"}
    assert files_of(uri, run, "checkpoint/assets").keys() == {"checkpoint/assets/vocabulary.json"}


def test_a_training_that_fails_or_is_stopped_says_so(local_ray, generated_movies, database, tmp_path, monkeypatch):
    def track(name, **changes):
        return config(generated_movies, tmp_path / name, TFIDF | changes, uri=database, experiment="ends")

    with pytest.raises(InputError, match=r"model\.min_df"):
        train(track("fails", model={"family": "tfidf", "min_df": 100_000}))

    for name, error in (("stops", KeyboardInterrupt()), ("breaks", MemoryError("none left"))):
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            patch.setattr("mmgenre.training.job._fit", Mock(side_effect=error))
            train(track(name))

    runs = runs_of(database, "ends")
    assert {name: run.info.status for name, run in runs.items()} == {
        "fails": "FAILED",
        "stops": "KILLED",
        "breaks": "FAILED",
    }
    assert runs["fails"].data.tags["error"].startswith("InputError: model.min_df")
    assert runs["breaks"].data.tags["error"] == "MemoryError: none left"
    # The same command goes on with it.
    for name in ("stops", "breaks"):
        train(track(name))
        again = runs_of(database, "ends")[name]
        assert (again.info.run_id, again.info.status) == (runs[name].info.run_id, "FINISHED")
        assert "error" not in again.data.tags


def test_a_search_is_a_run_with_a_run_for_each_trial(local_ray, generated_movies, database, tmp_path, capfd):
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(TFIDF))
    fields = {
        "dataset": generated_movies,
        "preset": str(tmp_path / "preset.yaml"),
        "output": str(tmp_path / "search"),
        "space": SPACE,
        "searcher": "grid",
        "tracking": {"uri": database, "experiment": "search"},
    }

    tune(TuneConfig.parse(fields | {"trials": 2}, "test"))

    runs = runs_of(database, "search")
    search = runs.pop("search")
    assert search.info.status == "FINISHED"
    card = checkpoint.read_card(str(tmp_path / "search/best"))
    assert search.data.metrics["final/macro_f1"] == card.scores["macro_f1"]
    assert "checkpoint/weights.safetensors" in files_of(database, search, "checkpoint")
    records = [json.loads(path.read_text()) for path in tmp_path.glob("search/trials/*/record.json")]
    assert set(runs) == {record["name"] for record in records}
    assert len(runs) == 3
    for record in records:
        run = runs[record["name"]]
        assert run.data.tags["mlflow.parentRunId"] == search.info.run_id
        assert run.data.params == {name: str(value) for name, value in record["point"].items()}
        assert run.data.tags["mmgenre.status"] == record["status"]
        logged = steps(database, run, "macro_f1")
        assert logged == [(one["epoch"], one["scores"]["macro_f1"]) for one in record["epochs"]]
    ends = {(run.data.tags["mmgenre.status"], run.info.status) for run in runs.values()}
    assert ends == {("finished", "FINISHED"), ("invalid", "FAILED")}
    failed = next(run for run in runs.values() if run.info.status == "FAILED")
    assert "min_df" in failed.data.tags["error"]
    assert "warning" not in capfd.readouterr().err
    # A killed search, which wrote down that a trial is done and did not come to say so, is made up for.
    from mlflow import MlflowClient

    lost = next(run for run in runs.values() if run.info.status == "FINISHED")
    MlflowClient(database).update_run(lost.info.run_id, status="RUNNING")
    (tmp_path / "search/_run.json").rename(tmp_path / "search/_started.json")
    recipe = json.loads((tmp_path / "search/_started.json").read_text())["recipe"]
    (tmp_path / "search/_started.json").write_text(json.dumps(recipe))
    tune(TuneConfig.parse(fields | {"trials": 2}, "test"))
    after = runs_of(database, "search")
    assert after[lost.info.run_name].info.status == "FINISHED"
    assert after.keys() == {"search", *runs}


def test_a_preset_may_say_where_its_searches_are_tracked(tmp_path):
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(TFIDF | {"tracking": {"uri": "sqlite:///of_preset.db"}}))
    fields = {"dataset": "IN", "output": "OUT", "preset": str(tmp_path / "preset.yaml"), "space": SPACE}

    assert tracking_of(TuneConfig.parse(fields, "test")).uri == "sqlite:///of_preset.db"
    own = TuneConfig.parse(fields | {"tracking": {"uri": "sqlite:///own.db"}}, "test")
    assert tracking_of(own).uri == "sqlite:///own.db"


def test_metrics_that_the_store_refused_are_logged_later(database, tmp_path, capsys, monkeypatch):
    store = MlflowConfig(uri=database, experiment="flaky").connect()
    run = TrackedRun(store, str(tmp_path / "run"), {}, {})
    epochs = [{"epoch": number, "loss": 1 / number} for number in (1, 2, 3)]
    run.log_epochs(epochs[:1])

    def refuse(*_, **__):
        raise ConnectionError("nobody\nlistens")

    with monkeypatch.context() as patch:
        patch.setattr(store.client, "log_batch", refuse)
        run.log_epochs(epochs[:2])
        run.log_epochs(epochs[1:2])
    run.log_epochs(epochs)
    run.end("FINISHED")

    assert capsys.readouterr().err == "warning: tracking: nobody listens; continuing without\n"
    found = runs_of(database, "flaky")["run"]
    assert steps(database, found, "loss") == [(1, 1), (2, 0.5), (3, 1 / 3)]


def test_an_output_in_another_store_or_whose_run_is_deleted_gets_a_new_one(database, tmp_path):
    from mlflow import MlflowClient

    config = MlflowConfig(uri=database, experiment="moved")
    info = (str(tmp_path / "run"), {"a": {"b": 1, "c": "text"}}, {"tag": "1"})
    first, same = TrackedRun(config.connect(), *info), TrackedRun(config.connect(), *info)
    first.start()
    same.start()
    assert first.id == same.id

    MlflowClient(database).delete_run(first.id)
    third = TrackedRun(config.connect(), *info)
    third.start()

    assert third.id not in (None, first.id)
    assert runs_of(database, "moved")["run"].data.params == {"a.b": "1", "a.c": "text"}


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_store_that_cannot_be_reached_is_one_line_before_anything_starts(generated_movies, tmp_path):
    uri = f"http://someone:secret@127.0.0.1:{closed_port()}"
    began = time.monotonic()

    with pytest.raises(InputError) as error:
        train(config(generated_movies, tmp_path / "run", TFIDF, uri=uri))

    said = str(error.value)
    assert said.startswith("tracking.uri: http://127.0.0.1:")
    assert "expected http://HOST:PORT of a running `mlflow server`, or sqlite:///FILE" in said
    assert "\n" not in said
    assert "secret" not in said
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()


def test_a_deleted_experiment_is_named(database):
    from mlflow import MlflowClient

    store = MlflowConfig(uri=database, experiment="old").connect()
    MlflowClient(database).delete_experiment(store.experiment_id)

    with pytest.raises(InputError, match=r"^tracking.experiment: 'old' is deleted in sqlite:///"):
        MlflowConfig(uri=database, experiment="old").connect()


def test_without_tracking_mlflow_is_not_even_needed(local_ray, generated_movies, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)

    train(config(generated_movies, tmp_path / "run", TFIDF))

    assert not (tmp_path / "run/tracking.json").exists()
    with pytest.raises(InputError, match=r"needs MLflow: pip install 'mmgenre\[mlflow\]'; or leave tracking out"):
        train(config(generated_movies, tmp_path / "tracked", TFIDF, uri="sqlite:///mlflow.db"))
    assert not (tmp_path / "tracked").exists()


@pytest.mark.process
@pytest.mark.usefixtures("local_ray")
def test_training_goes_on_without_tracking_when_the_server_dies(generated_movies, server, tmp_path, monkeypatch, capfd):
    module = sys.modules["mmgenre.training.job"]

    uri, process = server
    fit = module._fit

    def fit_after_its_death(*given):
        kill(process)
        return fit(*given)

    monkeypatch.setattr(module, "_fit", fit_after_its_death)

    manifest = train(config(generated_movies, tmp_path / "run", TFIDF, uri=uri))

    assert manifest.statuses["train"] > 0
    checkpoint.load(str(tmp_path / "run"))
    warnings = [line for line in capfd.readouterr().err.splitlines() if "tracking" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: tracking: ")
    assert warnings[0].endswith("; continuing without")
