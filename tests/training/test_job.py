"""Training on Ray Train: real workers, real kills."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from trainings import SETTINGS, config, history, scores, step_losses

from mmgenre.errors import InputError
from mmgenre.training.job import train

ROOT = Path(__file__).parents[2]


def test_two_workers_give_the_loss_curve_of_one_with_twice_the_batch(undisturbed, generated_movies, tmp_path):
    train(config(generated_movies, tmp_path / "one", workers=1, batch_size=24))

    two, one = step_losses(undisturbed), step_losses(tmp_path / "one")
    assert len(two) == len(one) == 5 * -(-num_train(undisturbed) // 48)
    assert np.abs(two - one).max() < 2e-3
    assert scores(undisturbed)["mean_average_precision"] == pytest.approx(
        scores(tmp_path / "one")["mean_average_precision"], abs=5e-3
    )


def num_train(output):
    return json.loads((output / "_run.json").read_text())["statuses"]["train"]


def test_a_training_learns_and_leaves_only_what_is_needed(undisturbed):
    epochs = history(undisturbed)

    assert epochs[-1]["loss"] < 0.8 * epochs[0]["loss"]
    assert scores(undisturbed)["mean_average_precision"] > 0.4
    assert sorted(path.name for path in undisturbed.iterdir()) == [
        "_run.json",
        "assets",
        "checkpoint.json",
        "history.json",
        "tensorboard",
        "weights.safetensors",
    ]


def test_a_training_that_no_longer_improves_stops_and_lists_all_its_epochs(local_ray, generated_movies, tmp_path):
    nothing_learned = {"lr_backbone": 0.0, "lr_head": 0.0}

    manifest = train(config(generated_movies, tmp_path / "stopped", workers=1, patience=2, optimizer=nothing_learned))

    assert [epoch["epoch"] for epoch in history(tmp_path / "stopped")] == [1, 2, 3]
    assert manifest.notes["epochs"] == 3


def test_the_same_command_again_does_nothing(undisturbed, generated_movies):
    before = (undisturbed / "_run.json").read_text()

    train(config(generated_movies, undisturbed))

    assert (undisturbed / "_run.json").read_text() == before


def test_another_configuration_is_refused(undisturbed, generated_movies):
    with pytest.raises(InputError, match="epochs: 2, not 5"):
        train(config(generated_movies, undisturbed, epochs=2))


def test_a_killed_worker_does_not_change_the_result(undisturbed, generated_movies, tmp_path):
    output = tmp_path / "killed"
    killed = []
    killer = threading.Thread(target=lambda: killed.append(kill_a_worker_after_an_epoch(output)))
    killer.start()

    train(config(generated_movies, output))

    killer.join()
    assert killed == [True]
    assert [epoch["epoch"] for epoch in history(output)] == [1, 2, 3, 4, 5]
    assert scores(output) == pytest.approx(scores(undisturbed), abs=1e-6)


def kill_a_worker_after_an_epoch(output, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if list(output.glob("epochs/checkpoint_*/progress.json")):
            workers = [process for process in psutil.process_iter() if is_training_worker(process)]
            workers[0].send_signal(signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False


def is_training_worker(process):
    try:
        # Only this test run's own: other sessions on the machine have workers too.
        return "RayTrainWorker" in process.cmdline()[0] and os.getpid() in {parent.pid for parent in process.parents()}
    except (psutil.Error, IndexError):
        return False


@pytest.mark.process
def test_the_same_command_resumes_after_the_driver_was_killed(undisturbed, generated_movies, tmp_path):
    (tmp_path / "train.yaml").write_text(json.dumps(SETTINGS))
    command = [sys.executable, ROOT / "jobs/train.py", tmp_path / "train.yaml", f"dataset={generated_movies}"]
    command.append(f"output={tmp_path / 'run'}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        for line in first.stdout:
            if line.startswith("epoch 2/"):
                first.kill()
    assert not (tmp_path / "run/_run.json").exists()

    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    assert second.returncode == 0, second.stderr
    epochs = [line for line in second.stdout.splitlines() if line.startswith("epoch ")]
    assert 1 <= len(epochs) < 5
    assert epochs[-1].startswith("epoch 5/5")
    assert scores(tmp_path / "run") == pytest.approx(scores(undisturbed), abs=1e-6)


def test_a_training_that_diverges_says_so(local_ray, generated_movies, tmp_path):
    rates = {"lr_backbone": 1e30, "lr_head": 1e30, "clip_norm": None, "warmup": 0}

    with pytest.raises(InputError, match=r"diverged at step \d+.*lower optimizer.lr"):
        train(config(generated_movies, tmp_path / "run", optimizer=rates, workers=1))


def test_more_workers_than_cpus_are_refused_instead_of_waited_for(local_ray, generated_movies, tmp_path):
    with pytest.raises(InputError, match="workers=64"):
        train(config(generated_movies, tmp_path / "run", workers=64))


@pytest.mark.process
def test_a_mistake_in_the_model_leaves_no_output_in_the_way(generated_movies, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    missing = {"family": "transformer", "pretrained": "nobody/no-such-model"}

    with pytest.raises(InputError, match=r"nobody/no-such-model.*local folder"):
        train(config(generated_movies, tmp_path / "run", model=missing))

    manifest = train(config(generated_movies, tmp_path / "run", model={"family": "tfidf"}))
    assert manifest.statuses["train"] > 0
