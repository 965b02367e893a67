"""A fit that is broken off anywhere goes on as if it had not been, alone or with another number of workers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmgenre.dataset.rows import Split
from mmgenre.labels import GENRES
from mmgenre.models.movies import Movies
from mmgenre.training import ray_worker, trainer
from mmgenre.training.config import FitConfig
from mmgenre.training.job import describe
from mmgenre.training.state import EpochMetrics, TrainingProgress
from mmgenre.training.trainer import DivergedError, ProcessGroup, Trainer

RANDOM = np.random.default_rng(0)
PLOTS = [
    " ".join(RANDOM.choice(["ghost", "kiss", "heist", "robot", "joke"], RANDOM.integers(2, 20))) for _ in range(70)
]
LABELS = RANDOM.integers(0, 2, (70, len(GENRES))).astype(np.float32)
CPU = torch.device("cpu")
SCORES = dict.fromkeys(("macro_f1", "mean_average_precision", "f1_of_averages", "micro_f1"), 0.5)


class BrokenOffError(Exception):
    pass


@pytest.fixture
def begin(tiny_model):
    """A fit from the same weights each time; with dropout, so that its random numbers count."""

    def begun(group=ProcessGroup(CPU), dropout=0.3, **settings):  # noqa: B008 - it is frozen
        torch.manual_seed(0)
        model = tiny_model.model_copy(update={"dropout": dropout}).build(Movies.of_plots(PLOTS))
        split = Split(model.encoder.encode(Movies.of_plots(PLOTS)), LABELS)
        config = FitConfig.model_validate({"epochs": 2, "batch_size": 8, "precision": "fp32"} | settings)
        return Trainer(config, model, {"train": split, "val": split}, group)

    return begun


def test_a_fit_interrupted_within_an_epoch_resumes_to_the_same_weights(begin, tmp_path):
    whole, broken, resumed = begin(), begin(checkpoint_every=3), begin(checkpoint_every=3)
    expected = [whole.run_epoch(), whole.run_epoch()]

    def keep():
        broken.save(tmp_path)
        if broken.progress.partial_epoch.steps == 6:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        broken.run_epoch(keep)
    resumed.restore(tmp_path)

    assert resumed.progress.partial_epoch.steps == 6
    for logits in expected:
        np.testing.assert_array_equal(resumed.run_epoch(), logits)
    losses = [[epoch.loss for epoch in fit.progress.history] for fit in (whole, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("every", "kept_at"), [(None, []), (4, [4, 8]), (9, []), (100, [])])
def test_checkpoints_come_every_so_many_steps_but_for_the_epochs_last(begin, every, kept_at):
    fit, seen = begin(checkpoint_every=every), []

    fit.run_epoch(lambda: seen.append(fit.progress.partial_epoch.steps))

    assert seen == kept_at


def test_fewer_workers_than_planned_learn_the_same_from_the_same_steps(begin):
    """Dropout aside, which draws other masks."""
    one, alone_of_three = (
        begin(batch_size=24, dropout=0.0),
        begin(ProcessGroup(CPU, full_size=3), batch_size=8, dropout=0.0),
    )

    one.run_epoch()
    alone_of_three.run_epoch()

    assert one.progress.history[0].loss == pytest.approx(alone_of_three.progress.history[0].loss, abs=1e-6)


class Follower(ProcessGroup):
    """A worker whose rank 0 computes other scores than it does itself."""

    def all_gather(self, value):
        if isinstance(value, EpochMetrics):
            return [value.model_copy(update={"macro_f1": 0.9 / value.epoch}), value]
        return super().all_gather(value)


def test_every_worker_stops_where_rank_0_does(begin):
    """Scores that are rounded otherwise on another machine must not let one worker stop alone."""
    fit = begin(Follower(CPU), epochs=5, patience=2, score="macro_f1")

    while not fit.is_finished:
        fit.run_epoch()

    assert [epoch.macro_f1 for epoch in fit.progress.history] == [0.9, 0.45, 0.3]


def test_predictions_that_are_not_finite_are_a_divergence(begin, monkeypatch):
    fit = begin()
    fit.run_epoch()
    monkeypatch.setattr(trainer, "predict_logits", lambda *_: np.full((70, 9), np.nan, np.float32))

    with pytest.raises(DivergedError, match="training diverged in epoch 2: predictions for validation movies are not"):
        fit.run_epoch()

    assert fit.progress.num_epochs == 1


def test_folds_of_the_validation_follow_the_seed_and_the_groups(begin, monkeypatch):
    seen = []
    monkeypatch.setattr(trainer, "held_out_scores", lambda *_, **options: seen.append(options) or SCORES)
    fit = begin(seed=7)
    fit._val = Split(fit._val.movies, fit._val.labels, np.arange(70) // 2)

    fit.run_epoch()

    assert seen == [{"groups": fit._val.groups, "seed": 7}]


class DivergingTrainer:
    """Finishes some epochs, then diverges."""

    def __init__(self, num_epochs, metrics):
        self.progress, self._num_epochs, self._metrics = TrainingProgress(), num_epochs, metrics
        self.is_finished = False

    def run_epoch(self, save_partial):
        number = self.progress.num_epochs
        if number == self._num_epochs:
            raise DivergedError("training diverged at step 9: the loss is nan; lower optimizer.lr_*")
        epoch = self._metrics.model_copy(update={"epoch": number + 1})
        self.progress = TrainingProgress(history=(*self.progress.history, epoch))


@pytest.mark.parametrize("num_epochs", [0, 2])
def test_a_training_that_diverges_keeps_the_epochs_before(begin, monkeypatch, num_epochs):
    fit = begin()
    fit.run_epoch()
    diverging = DivergingTrainer(num_epochs, fit.progress.history[0])
    context = SimpleNamespace(get_world_rank=lambda: 1)
    monkeypatch.setattr(ray_worker, "_resumed_trainer", lambda arguments: diverging)
    monkeypatch.setattr(ray_worker, "_report", lambda *_: None)
    monkeypatch.setattr(ray_worker.ray.train, "get_context", lambda: context)

    found = ray_worker.train_loop_per_worker({"arguments": None})

    if num_epochs == 0:
        assert isinstance(found, DivergedError)
    else:
        assert (found.num_epochs, found.status) == (2, "diverged")
        assert found.detail.startswith("training diverged at step 9")
        assert TrainingProgress.model_validate_json(found.to_json()) == found


def test_the_summary_names_the_divergence():
    notes = {"val": {"macro_f1": 0.5}, "epochs": 2, "status": "diverged", "detail": "training diverged at step 9"}
    manifest = SimpleNamespace(notes=notes)

    assert describe(manifest).startswith("training diverged at step 9; the best of the 2 epochs before is kept\nvalid")
