"""What a search keeps of its trials: a folder for each, whose record is written last."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field

from mmgenre.config import Config
from mmgenre.scoring.metrics import Objective
from mmgenre.search.space import training
from mmgenre.tables import storage
from mmgenre.training.setup import TrainConfig
from mmgenre.training.state import Epoch

TRIALS = "trials"
# The folder of a training that several workers share, in a trial's.
TOGETHER = "training"
RECORD = "record.json"
# What Ray Tune's config of a trial holds: its name and its point.
TRIAL = "trial"
# A trial that failed has the lowest score there is.
WORST = 0.0
Status = Literal["running", "finished", "stopped", "diverged", "out_of_memory", "invalid", "crashed"]


class Measured(Config):
    """What one epoch of a trial brought."""

    epoch: int = Field(description="from 1")
    scores: dict[str, float] = Field(description="of the validation split at held-out thresholds")
    seconds: float

    @classmethod
    def of(cls, epoch: Epoch) -> "Measured":
        """What a fit tells of its last epoch."""
        scores = {name: getattr(epoch, name) for name in get_args(Objective)}
        return cls(epoch=epoch.epoch, scores=scores, seconds=epoch.seconds)


class TrialRecord(Config):
    """All there is to know of a trial, beside weights."""

    name: str
    point: dict[str, Any] = Field(description="what the trial changed, by dotted path")
    began: float = Field(default_factory=time.time, description="seconds since 1970")
    status: Status = "running"
    epochs: tuple[Measured, ...] = ()
    error: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing is left to do."""
        return self.status != "running"

    def best(self, objective: Objective) -> Measured | None:
        """The epoch with the highest score, the first of equals; none where there is no epoch."""
        return max(self.epochs, key=lambda epoch: epoch.scores[objective], default=None)

    def score(self, objective: Objective) -> float:
        """The highest."""
        best = self.best(objective)
        return WORST if best is None else best.scores[objective]

    def rank(self, objective: Objective) -> tuple[float, str]:
        """Higher for a better trial; no two have the same."""
        return self.score(objective), self.name

    @property
    def seconds(self) -> float:
        """That its epochs took."""
        return sum(epoch.seconds for epoch in self.epochs)


@dataclass(frozen=True)
class Search:
    """What all trials of a search share.

    Args:
        preset: fields of the training that each trial changes some of.
        objective: what is maximised.
        output: folder of the search.
        preparer: actor of `Preparer`.
    """

    preset: Mapping[str, Any]
    objective: Objective
    output: str
    preparer: Any

    def training(self, point: Mapping[str, Any]) -> TrainConfig:
        """The training of a point; see search_space."""
        return training(self.preset, point, "trial")

    def folder(self, name: str, *below: str) -> str:
        """That of a trial, or of something in it."""
        return storage.join(self.output, TRIALS, name, *below)

    def record(self, name: str) -> TrialRecord | None:
        """What is known of a trial; None: it has not begun."""
        if RECORD not in storage.names_in(self.folder(name)):
            return None
        return TrialRecord.model_validate_json(storage.read_bytes(self.folder(name, RECORD)))

    def records(self) -> list[TrialRecord]:
        """Of all trials that have begun."""
        names = storage.names_in(storage.join(self.output, TRIALS))
        return [record for record in map(self.record, names) if record is not None]

    def write(self, record: TrialRecord) -> None:
        """Replace what is known of a trial."""
        storage.write_bytes(self.folder(record.name, RECORD), record.model_dump_json(indent=2).encode())

    def forget(self, record: TrialRecord) -> None:
        """Delete what a trial's epochs left: its record says all that is still needed."""
        for name in (TOGETHER, *(epoch_folder(epoch.epoch) for epoch in record.epochs)):
            storage.delete(self.folder(record.name, name))


def epoch_folder(epoch: int) -> str:
    """Name of the folder in a trial's with the state after an epoch."""
    return f"epoch-{epoch}"


def said_of(point: Mapping[str, Any]) -> str:
    """A point for people."""
    said = {path: f"{value:.4g}" if isinstance(value, float) else str(value) for path, value in point.items()}
    return ", ".join(f"{path}={value}" for path, value in said.items()) or "the preset"
