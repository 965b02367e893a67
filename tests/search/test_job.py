"""Searches on Ray Tune: real trials, real kills."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from mmgenre.errors import InputError
from mmgenre.models import checkpoint
from mmgenre.search.config import TuneConfig
from mmgenre.search.job import describe, tune
from mmgenre.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
# Fast, and without dropout: a trial run twice gives the same scores.
TINY = {
    "model": {
        "family": "bilstm",
        "vectors": None,
        "hidden": 16,
        "dropout": 0.0,
        "max_length": 48,
    },
    "optimizer": {"lr_backbone": 1e-2, "lr_head": 1e-6},
    "precision": "fp32",
    "epochs": 3,
    "patience": 3,
    "batch_size": 64,
}
RATES = {"optimizer.lr_head": {"kind": "loguniform", "low": 1e-3, "high": 1e-1}}


@pytest.fixture
def config(generated_movies, tmp_path):
    def make(output, preset=TINY, **changes):
        path = tmp_path / "preset.yaml"
        path.write_text(yaml.safe_dump(preset))
        # One trial at a time: starting a process takes longer than what it does here.
        fields = {"dataset": generated_movies, "preset": str(path), "space": RATES, "max_concurrent": 1}
        return TuneConfig.parse(fields | {"output": str(output)} | changes, "test")

    return make


def records(output):
    found = [json.loads(path.read_text()) for path in Path(output).glob("trials/*/record.json")]
    return {record["name"]: record for record in found}


def table(output):
    return pd.read_parquet(Path(output) / "trials.parquet")


def test_a_search_ends_with_the_best_model_and_an_account(local_ray, config, tmp_path):
    space = RATES | {"optimizer.lr_backbone": {"kind": "choice", "values": [0.0, 1e-2, 1e30]}}
    output = tmp_path / "search"

    manifest = tune(config(output, space=space, trials=4, seed=1))

    trials = table(output)
    assert len(trials) == manifest.rows == 5
    assert trials["macro_f1"].dropna().is_monotonic_decreasing
    assert trials["is_preset"].sum() == trials["is_best"].sum() == 1
    # A rate no model survives is a row with a status; the others go on.
    diverged = trials[trials["optimizer.lr_backbone"] == 1e30]
    assert len(diverged)
    assert set(diverged["status"]) == {"diverged"}
    assert diverged["error"].str.contains("the loss is").all()
    assert set(trials["status"]) == {"finished", "diverged"}
    best = trials[trials["is_best"]].iloc[0]
    card = checkpoint.load(str(output / "best"))[0]
    assert card.scores["mean_average_precision"] == pytest.approx(best["mean_average_precision"], abs=1e-6)
    assert card.thresholds is not None
    # What another training is made of is what the trial was made of.
    again = TrainConfig.load(output / "best.yaml")
    point = records(output)[best["trial"]]["point"]
    assert again.optimizer.lr_head == point.get("optimizer.lr_head", TINY["optimizer"]["lr_head"])
    assert again.score == "macro_f1"
    assert f"best macro_f1 {best['macro_f1']:.4f}" in describe(manifest)
    assert "optimizer.lr_head=" in (output / "search.md").read_text()
    assert all((output / name).stat().st_size for name in ("scores.png", "parameters.png", "thresholds.png"))
    assert pd.read_csv(output / "trials.csv")["macro_f1"].tolist() == pytest.approx(
        trials["macro_f1"].tolist(), nan_ok=True
    )
    # Of all trials only the best one's weights are kept.
    assert len(list(output.glob("trials/*/epoch-*"))) == 1


def test_asha_stops_what_does_not_learn(local_ray, config, tmp_path):
    space = {"optimizer.lr_head": {"kind": "choice", "values": [2e-2, 1e-2, 0.0, 1e-6, 1e-5, 1e-4]}}
    fixed = {"optimizer.lr_backbone": 0.0}

    tune(config(tmp_path / "search", space=space, fixed=fixed, searcher="grid", trials=6, scheduler="asha"))

    trials = table(tmp_path / "search")
    assert trials["epochs"].sum() < 7 * 3
    assert "stopped" in set(trials["status"])
    assert trials[trials["is_best"]].iloc[0]["status"] == "finished"


def test_optuna_goes_on_from_what_earlier_trials_brought(local_ray, config, tmp_path):
    fields = {
        "preset": {"model": {"family": "tfidf"}},
        "space": {
            "model.c": {"kind": "loguniform", "low": 0.01, "high": 100},
            "model.max_terms": {"kind": "choice", "values": [100_000, 200_000]},
        },
        "searcher": "optuna",
    }
    tune(config(tmp_path / "search", trials=3, **fields))
    first = records(tmp_path / "search")
    num_terms = len(checkpoint.load(str(tmp_path / "search/best"))[1].encoder.terms)

    manifest = tune(config(tmp_path / "search", trials=5, refit=True, **fields))

    both = records(tmp_path / "search")
    assert (len(first), len(both)) == (4, 6)
    assert all(both[name] == record for name, record in first.items())
    assert manifest.rows == 6
    # Fitted again on train and val: a model that read more, with the thresholds of the best trial.
    card, model = checkpoint.load(str(tmp_path / "search/best"))
    assert card.scores["mean_average_precision"] == pytest.approx(best_of(tmp_path / "search"))
    assert len(model.encoder.terms) > num_terms
    assert tune(config(tmp_path / "search", trials=5, refit=True, **fields)) == manifest


def best_of(output):
    trials = table(output)
    return trials[trials["is_best"]]["mean_average_precision"].iloc[0]


def test_a_trial_may_be_a_training_that_workers_share(local_ray, config, tmp_path):
    manifest = tune(
        config(tmp_path / "search", preset=TINY | {"workers": 2, "batch_size": 32}, trials=1, scheduler="median")
    )

    trials = table(tmp_path / "search")
    assert trials["epochs"].tolist() == [3, 3]
    card = checkpoint.load(str(tmp_path / "search/best"))[0]
    assert card.scores["mean_average_precision"] == pytest.approx(trials["mean_average_precision"][0], abs=1e-4)
    assert manifest.statuses == {"finished": 2}


def test_a_trial_whose_process_is_killed_goes_on_with_its_epochs(local_ray, config, tmp_path):
    output = tmp_path / "killed"
    killed = []
    killer = threading.Thread(target=lambda: killed.append(kill_a_trial_after_an_epoch(output)))
    killer.start()

    tune(config(output, trials=1, fixed={"epochs": 6}))
    killer.join()

    assert killed == [True]
    whole = records(output)
    # As if nothing had happened: each trial has all epochs, once.
    assert [record["status"] for record in whole.values()] == ["finished"] * 2
    for record in whole.values():
        assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3, 4, 5, 6]


def kill_a_trial_after_an_epoch(output, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if any(len(record["epochs"]) in (1, 2) for record in records(output).values()):
            here = psutil.Process().children(recursive=True)
            trials = [process for process in here if is_trial(process)]
            if trials:
                trials[0].send_signal(signal.SIGKILL)
                return True
        time.sleep(0.01)
    return False


def is_trial(process):
    # While it learns it bears the name of the class that Ray Tune wraps it in.
    command = " ".join(process.cmdline())
    return command.startswith(("ray::ResourceTrainable", "ray::Trial"))


@pytest.mark.process
def test_a_killed_search_loses_no_trial_and_repeats_none(config, generated_movies, tmp_path):
    config(tmp_path / "search")
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump({"preset": str(tmp_path / "preset.yaml"), "space": RATES}))
    job = [sys.executable, ROOT / "jobs/tune.py", tmp_path / "tune.yaml", f"dataset={generated_movies}"]
    job += [f"output={tmp_path / 'search'}", "trials=4", "scheduler=asha", "max_concurrent=1"]
    with subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        for line in first.stdout:
            if line.startswith("search: 2 of 5 trials done"):
                first.kill()
    before = {name: record for name, record in records(tmp_path / "search").items() if record["status"] != "running"}
    times = {name: (tmp_path / "search/trials" / name / "record.json").stat().st_mtime_ns for name in before}
    assert len(before) >= 2

    again = subprocess.run(job, capture_output=True, text=True, check=True)

    after = records(tmp_path / "search")
    assert len(after) == 5
    assert "running" not in {record["status"] for record in after.values()}
    assert {name: after[name] for name in before} == before
    assert times == {name: (tmp_path / "search/trials" / name / "record.json").stat().st_mtime_ns for name in before}
    assert "best macro_f1" in again.stdout


def test_a_distribution_is_narrowed_on_the_command_line():
    places = ["dataset=IN", "output=OUT"]

    config = TuneConfig.load(ROOT / "configs/tune/default.yaml", [*places, "space.model.c.low=0.5"])

    assert (config.space["model.c"].low, config.space["model.c"].high) == (0.5, 30)
    with pytest.raises(InputError, match=r"space\.epochs"):
        TuneConfig.load(ROOT / "configs/tune/default.yaml", [*places, "space.epochs=3"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"space": {"optimizer.lr_haed": {"kind": "uniform", "low": 0, "high": 1}}},
            "lr_haed: unknown field; did you mean",
        ),
        ({"space": {"epochs": {"kind": "int", "low": 0, "high": 1}}}, "epochs: .*greater than or equal to 1"),
        ({"fixed": {"optimizer.kind": "sgd"}}, "optimizer.kind"),
        ({"searcher": "grid"}, "a grid needs kind choice or int"),
        ({"searcher": "grid", "trials": 1, "space": {"epochs": {"kind": "int", "low": 1, "high": 2}}}, "has 2 points"),
        ({"scheduler": "pbt"}, "scheduler: .*found 'pbt'"),
        ({"cpus_per_trial": 500}, "needs 1 processes with 500 CPU"),
        ({"preset": TINY | {"workers": 99}}, "needs 99 processes with 1 CPU"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(local_ray, config, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        tune(config(tmp_path / "search", **changes))

    assert not list(tmp_path.glob("search/trials/*"))
