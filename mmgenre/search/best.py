"""The best model of a search: its weights and its card; or the same training of all movies there are labels for."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mmgenre import ray_session as cluster
from mmgenre.models import FittedAtOnce, GenreModel, checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.models.inference import own_device, predict_logits
from mmgenre.search.data_cache import Subject
from mmgenre.search.records import TOGETHER, Search, TrialRecord, epoch_folder
from mmgenre.tables import storage
from mmgenre.training import state as training_state
from mmgenre.training.setup import Fitted, card_of, fit_config, fitted_at_once, fitted_in_epochs
from mmgenre.training.trainer import Fit, Team


def best_model(search: Search, record: TrialRecord, *, refit: bool) -> tuple[Fitted, Card]:
    """The best epoch of a trial; or what its training makes of the validation movies, too, in as many epochs."""
    subject = Subject(search.training(record.point))
    best = record.best(search.objective)
    assert best is not None, "a trial with epochs"  # noqa: S101 - a caller's duty
    torch.set_num_threads(cluster.assigned_cpus())
    if isinstance(subject.config.model, FittedAtOnce):
        fitted = _fitted_at_once(subject)
    elif subject.config.most_workers > 1:
        fitted = _fitted_together(subject, search.folder(record.name, TOGETHER))
    else:
        fitted = _fitted_until(subject, search.folder(record.name, epoch_folder(best.epoch)))
    card = card_of(subject.config, subject.table, fitted)
    if refit:
        fitted = replace(fitted, model=_refitted(Subject(search.training(record.point)), best.epoch))
    return fitted, card


def _fitted_at_once(subject: Subject, learned: Sequence[str] = ("train",)) -> Fitted:
    family, rows = subject.config.model, subject.rows(learned)
    assert isinstance(family, FittedAtOnce)  # noqa: S101 - a caller's duty
    return fitted_at_once(family, rows["train"], rows["val"])


def _fitted_until(subject: Subject, epoch: str) -> Fitted:
    """With the weights in an epoch's folder."""
    with storage.local_copy(epoch) as folder:
        checkpoint.load_weights(subject.model, folder)
        logits = training_state.load_logits(folder)
    return fitted_in_epochs(subject.config, subject.model, logits, subject.splits())


def _fitted_together(subject: Subject, directory: str) -> Fitted:
    """By several workers, into a checkpoint."""
    model, encoded = checkpoint.load(directory)[1], subject.splits()
    logits = predict_logits(model, encoded["val"].movies, torch.device("cpu"), subject.config.precision)
    return fitted_in_epochs(subject.config, model, logits, encoded)


def _refitted(subject: Subject, num_epochs: int) -> GenreModel:
    """A model that learned from train and validation movies, for as many epochs of the schedule as were best."""
    learned = ("train", "val")
    if isinstance(subject.config.model, FittedAtOnce):
        return _fitted_at_once(subject, learned).model
    config = fit_config(subject.config)
    # One process takes the steps of all workers.
    config = config.model_copy(update={"batch_size": config.batch_size * subject.config.most_workers})
    fit = Fit(config, subject.model, subject.splits(learned), Team(own_device()))
    for _ in range(num_epochs):
        fit.run_epoch()
    return subject.model.cpu().eval()
