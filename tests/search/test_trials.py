"""What a search is told of its trials, and how the best one is trained again."""

import pytest
import torch

from mmgenre.search import best
from mmgenre.search.optuna_searcher import optuna_searcher
from mmgenre.search.records import TrialEpoch, TrialRecord
from mmgenre.search.space import LogUniform
from mmgenre.training.config import TrainConfig


def record(*scores):
    epochs = tuple(
        TrialEpoch(epoch=number, scores={"macro_f1": score}, seconds=1) for number, score in enumerate(scores, 1)
    )
    return TrialRecord(name="trial", point={"optimizer.lr_head": 1e-3}, epochs=epochs)


def test_a_result_has_the_score_of_the_epoch_and_the_best_so_far():
    trial = record(0.3, 0.8, 0.5)

    results = [trial.result(count, "macro_f1") for count in range(4)]

    assert [result["score"] for result in results] == [0.0, 0.3, 0.8, 0.5]
    assert [result["best_score"] for result in results] == [0.0, 0.3, 0.8, 0.8]
    assert [result["epoch"] for result in results] == [0, 1, 2, 3]


def test_optuna_learns_from_the_best_epoch_of_a_trial():
    pytest.importorskip("optuna")
    trial = record(0.3, 0.8, 0.5)
    space = {"optimizer.lr_head": LogUniform(kind="loguniform", low=1e-4, high=1e-1)}
    searcher = optuna_searcher(space, 0, "macro_f1", [trial], [])
    searcher.suggest("now")

    searcher.on_trial_complete("now", trial.result(3, "macro_f1"))

    assert [found.value for found in searcher._ot_study.trials] == [0.8, 0.8]


def test_training_again_takes_the_steps_of_all_workers_in_batches_of_the_same_size(monkeypatch):
    seen = {}

    class Setup:
        config = TrainConfig.parse(
            {
                "dataset": "d",
                "output": "o",
                "model": {"family": "bilstm", "vectors": None},
                "batch_size": 8,
                "workers": 3,
            },
            "test",
        )
        model = torch.nn.Linear(1, 1)

        def splits(self, names):
            return {"train": names}

    class Recorded:
        def __init__(self, config, model, splits, group):
            seen.update(batch_size=config.batch_size, group=group, splits=splits)

        def run_epoch(self):
            seen["epochs"] = seen.get("epochs", 0) + 1

    monkeypatch.setattr(best, "Trainer", Recorded)

    best._refit(Setup(), 2)

    assert (seen["batch_size"], seen["group"].full_size, seen["group"].size, seen["epochs"]) == (8, 3, 1, 2)
    assert seen["splits"] == {"train": ("train", "val")}
