"""The saved state of a training: weights, optimizer, schedule and progress, enough to resume it exactly."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from safetensors.torch import load_file, save_file

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.models.checkpoint import load_weights, save_weights
from mmgenre.scoring.metrics import Objective

_OPTIMIZER = "optimizer.safetensors"
_SCHEDULE = "schedule.json"
_PROGRESS = "progress.json"
_LOGITS = "validation.safetensors"


class EpochMetrics(Config):
    """Losses, validation scores and throughput of one epoch."""

    epoch: int = Field(description="epoch number, from 1")
    loss: float = Field(description="mean binary cross-entropy over the training rows, as they were trained on")
    val_loss: float
    macro_f1: float = Field(description="on the validation split, at thresholds fitted on its other folds")
    mean_average_precision: float
    f1_of_averages: float
    micro_f1: float
    rows_per_second: float = Field(description="training rows per second, all workers together")
    seconds: float


class PartialEpoch(Config):
    """The part of the current epoch that is already trained."""

    steps: int = Field(0, ge=0, description="optimizer steps taken")
    loss: float = Field(0.0, description="sum over their rows")
    seconds: float = 0.0


class TrainingProgress(Config):
    """Finished epochs, and the part of the current one."""

    model_config = ConfigDict(populate_by_name=True)

    history: tuple[EpochMetrics, ...] = ()
    status: Literal["learning", "diverged"] = Field("learning", description="diverged: in the epoch after these")
    detail: str | None = Field(None, description="how the training diverged")
    partial_epoch: PartialEpoch = Field(PartialEpoch(), alias="begun")

    @property
    def num_epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    def best(self, score: Objective) -> int:
        """Index of the epoch with the highest score; the first one in a tie."""
        return int(np.argmax([getattr(epoch, score) for epoch in self.history]))

    def exhausted(self, score: Objective, patience: int) -> bool:
        """Whether the last `patience` epochs brought no better score."""
        return bool(self.history) and self.num_epochs - 1 - self.best(score) >= patience

    def after_divergence(self, error: Exception) -> "TrainingProgress":
        """The finished epochs of a training that diverged in the next one."""
        return TrainingProgress(history=self.history, status="diverged", detail=str(error))

    def to_json(self) -> str:
        """The content of progress.json and history.json."""
        return self.model_dump_json(indent=2, by_alias=True)


def save(folder: Path, model: torch.nn.Module, optimizer: Any, schedule: Any, progress: TrainingProgress) -> None:
    """Write the state into a local folder."""
    save_weights(model, folder)
    names = _names_by_index(model, optimizer)
    tensors = {
        f"{field}.{names[index]}": value.contiguous()
        for index, parameter_state in optimizer.state_dict()["state"].items()
        for field, value in parameter_state.items()
    }
    save_file(tensors, folder / _OPTIMIZER)
    (folder / _SCHEDULE).write_text(json.dumps(schedule.state_dict()))
    (folder / _PROGRESS).write_text(progress.to_json())


def load(folder: Path, model: torch.nn.Module, optimizer: Any, schedule: Any) -> TrainingProgress:
    """Load weights, optimizer and schedule in place from a local folder; return the progress.

    The peak learning rates are the given optimizer's; only the position in the schedule comes from the folder.

    Raises:
        InputError: the optimizer's state is of other parameters.
    """
    load_weights(model, folder)
    indices = {name: index for index, name in _names_by_index(model, optimizer).items()}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / _OPTIMIZER).items():
        field, _, name = key.partition(".")
        if name not in indices:
            raise InputError(
                f"{folder / _OPTIMIZER}: holds the state of {name or key!r}, which this training does not learn; "
                "another version of mmgenre wrote it; train again with overwrite=true"
            )
        state.setdefault(indices[name], {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    peak_lrs = schedule.base_lrs
    schedule.load_state_dict(json.loads((folder / _SCHEDULE).read_text()) | {"base_lrs": peak_lrs})
    for group, peak_lr, factor in zip(optimizer.param_groups, peak_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = peak_lr * factor(schedule.last_epoch)
    return read_progress(folder)


def _names_by_index(model: torch.nn.Module, optimizer: Any) -> dict[int, str]:
    """Names of the parameters by their index in the optimizer's state, which depends on how they are grouped."""
    names = {id(value): name for name, value in model.named_parameters()}
    values = [value for group in optimizer.param_groups for value in group["params"]]
    return {index: names[id(value)] for index, value in enumerate(values)}


def read_progress(folder: Path) -> TrainingProgress:
    """The progress saved in a local folder."""
    return TrainingProgress.model_validate_json((folder / _PROGRESS).read_text())


def save_logits(folder: Path, logits: np.ndarray) -> None:
    """Write an epoch's validation logits, shape (N, 9), for thresholds and calibration."""
    save_file({"logits": torch.from_numpy(logits)}, folder / _LOGITS)


def load_logits(folder: Path) -> np.ndarray:
    """An epoch's validation logits, shape (N, 9)."""
    return load_file(folder / _LOGITS)["logits"].numpy()
