"""The best model of a search, as trained by its trial or retrained on train and validation movies."""

from dataclasses import replace

import torch

from mmgenre import ray_session
from mmgenre.models import DirectlyFittedConfig, GenreModel, checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.models.inference import local_device, predict_logits
from mmgenre.search.records import DISTRIBUTED, Search, TrialRecord, epoch_folder
from mmgenre.tables import storage
from mmgenre.training import state
from mmgenre.training.fitted_model import FittedModel
from mmgenre.training.setup import TrainingSetup
from mmgenre.training.trainer import ProcessGroup, Trainer

_ALL_MOVIES = ("train", "val")


def best_model(search: Search, record: TrialRecord, *, refit: bool) -> tuple[FittedModel, Card]:
    """The model of a trial's best epoch, and its card.

    Args:
        search: the search.
        record: a trial with at least one epoch.
        refit: return a model retrained on train and validation movies for the same number of epochs, with the card
            (thresholds and scores) of the trial's own model.
    """
    setup = TrainingSetup(search.training(record.point))
    best = record.best(search.objective)
    assert best is not None, "a trial with epochs"  # noqa: S101 - the caller's duty
    torch.set_num_threads(ray_session.assigned_cpus())
    if isinstance(setup.config.model, DirectlyFittedConfig):
        fitted = FittedModel.in_closed_form(setup.config.model, setup.rows())
    elif setup.config.max_workers > 1:
        fitted = _from_distributed_training(setup, search.folder(record.name, DISTRIBUTED))
    else:
        fitted = _from_epoch(setup, search.folder(record.name, epoch_folder(best.epoch)))
    card = fitted.card(setup.config, setup.fingerprints["dataset"])
    if refit:
        fitted = replace(fitted, model=_refit(TrainingSetup(search.training(record.point)), best.epoch))
    return fitted, card


def _from_epoch(setup: TrainingSetup, folder: str) -> FittedModel:
    with storage.local_copy(folder) as local_folder:
        checkpoint.load_weights(setup.model, local_folder)
        logits = state.load_logits(local_folder)
    return FittedModel.from_epochs(setup.config, setup.model, logits, setup.splits())


def _from_distributed_training(setup: TrainingSetup, directory: str) -> FittedModel:
    model, splits = checkpoint.load(directory)[1], setup.splits()
    logits = predict_logits(model, splits["val"].movies, torch.device("cpu"), setup.config.precision)
    return FittedModel.from_epochs(setup.config, model, logits, splits)


def _refit(setup: TrainingSetup, num_epochs: int) -> GenreModel:
    """A model trained on train and validation movies; the schedule is that of the trial, cut after `num_epochs`."""
    if isinstance(setup.config.model, DirectlyFittedConfig):
        return FittedModel.in_closed_form(setup.config.model, setup.rows(_ALL_MOVIES)).model
    # This one process takes the optimizer steps of all workers, in as many micro-batches.
    group = ProcessGroup(local_device(), full_size=setup.config.max_workers)
    trainer = Trainer(setup.config.fit_config, setup.model, setup.splits(_ALL_MOVIES), group)
    for _ in range(num_epochs):
        trainer.run_epoch()
    return setup.model.cpu().eval()
