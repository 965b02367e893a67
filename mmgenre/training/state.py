"""What a training needs to go on after an epoch as if it had never stopped: weights, optimizer, schedule, progress."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from mmgenre.config import Config
from mmgenre.models.checkpoint import load_weights, save_weights
from mmgenre.scoring.metrics import Objective

_OPTIMIZER = "optimizer.safetensors"
_SCHEDULE = "schedule.json"
_PROGRESS = "progress.json"
_LOGITS = "validation.safetensors"


class Epoch(Config):
    """One epoch's figures."""

    epoch: int = Field(description="number of the epoch, from 1")
    loss: float = Field(description="mean binary cross-entropy of the training rows while they were learned")
    val_loss: float
    macro_f1: float = Field(description="of the validation split, at thresholds fitted on other folds of it")
    mean_average_precision: float
    f1_of_averages: float
    micro_f1: float
    rows_per_second: float = Field(description="training rows over all workers")
    seconds: float


class Begun(Config):
    """What is done of an epoch that is not finished."""

    steps: int = Field(0, ge=0, description="optimizer steps")
    loss: float = Field(0.0, description="sum over their rows")
    seconds: float = 0.0


class Progress(Config):
    """How far a training has come."""

    history: tuple[Epoch, ...] = ()
    begun: Begun = Begun()

    @property
    def num_epochs(self) -> int:
        """Epochs that are finished."""
        return len(self.history)

    def best(self, score: Objective) -> int:
        """Index of the epoch with the best score, the first of equals."""
        return int(np.argmax([getattr(epoch, score) for epoch in self.history]))

    def exhausted(self, score: Objective, patience: int) -> bool:
        """Whether the score has not risen for `patience` epochs."""
        return bool(self.history) and self.num_epochs - 1 - self.best(score) >= patience


def save(folder: Path, model: torch.nn.Module, optimizer: Any, schedule: Any, progress: Progress) -> None:
    """Write the state into a local folder."""
    save_weights(model, folder)
    tensors = {
        f"{number}.{name}": value.contiguous()
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    save_file(tensors, folder / _OPTIMIZER)
    (folder / _SCHEDULE).write_text(json.dumps(schedule.state_dict()))
    (folder / _PROGRESS).write_text(progress.model_dump_json())


def load(folder: Path, model: torch.nn.Module, optimizer: Any, schedule: Any) -> Progress:
    """Bring model, optimizer and schedule to the state in a local folder.

    Rates are those that the optimizer was built with, as far along the schedule as the folder is.
    """
    load_weights(model, folder)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / _OPTIMIZER).items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    rates = schedule.base_lrs
    schedule.load_state_dict(json.loads((folder / _SCHEDULE).read_text()) | {"base_lrs": rates})
    for group, rate, share in zip(optimizer.param_groups, rates, schedule.lr_lambdas, strict=True):
        group["lr"] = rate * share(schedule.last_epoch)
    return read_progress(folder)


def read_progress(folder: Path) -> Progress:
    """How far the training in a local folder has come."""
    return Progress.model_validate_json((folder / _PROGRESS).read_text())


def save_logits(folder: Path, logits: np.ndarray) -> None:
    """Keep the validation logits, shape (N, 9), for thresholds and calibration."""
    save_file({"logits": torch.from_numpy(logits)}, folder / _LOGITS)


def load_logits(folder: Path) -> np.ndarray:
    """The validation logits of an epoch, shape (N, 9)."""
    return load_file(folder / _LOGITS)["logits"].numpy()
