"""A fit that is broken off anywhere goes on as if it had not been, alone or with another number of workers."""

import numpy as np
import pytest
import torch

from mmgenre.dataset.rows import Split
from mmgenre.labels import GENRES
from mmgenre.models.movies import Movies
from mmgenre.training.config import FitConfig
from mmgenre.training.trainer import ProcessGroup, Trainer

RANDOM = np.random.default_rng(0)
PLOTS = [
    " ".join(RANDOM.choice(["ghost", "kiss", "heist", "robot", "joke"], RANDOM.integers(2, 20))) for _ in range(70)
]
LABELS = RANDOM.integers(0, 2, (70, len(GENRES))).astype(np.float32)
CPU = torch.device("cpu")


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


def test_a_fit_broken_off_within_an_epoch_goes_on_from_its_last_checkpoint_to_the_same_weights(begin, tmp_path):
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
