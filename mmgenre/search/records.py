"""The trial records of a search: one folder per trial, whose record is always written last."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field

from mmgenre.config import Config
from mmgenre.scoring.metrics import Objective
from mmgenre.search.space import Point, name_of, training
from mmgenre.tables import storage
from mmgenre.training.config import TrainConfig
from mmgenre.training.state import EpochMetrics

TRIALS = "trials"
_RECORD = "record.json"
# Folder of a multi-worker training, in the folder of its trial.
DISTRIBUTED = "training"
# Name of the highest score so far in the results that Ray Tune gets.
BEST_SCORE = "best_score"
# Score of a trial without a finished epoch.
WORST_SCORE = 0.0
TrialStatus = Literal["running", "finished", "stopped", "diverged", "out_of_memory", "invalid", "crashed"]


class TrialEpoch(Config):
    """The scores of one epoch of a trial."""

    epoch: int = Field(description="epoch number, from 1")
    scores: dict[str, float] = Field(description="on the validation split, at held-out thresholds")
    seconds: float

    @classmethod
    def of(cls, metrics: EpochMetrics) -> "TrialEpoch":
        """The part of an epoch's metrics that a search needs."""
        scores = {name: getattr(metrics, name) for name in get_args(Objective)}
        return cls(epoch=metrics.epoch, scores=scores, seconds=metrics.seconds)


class TrialRecord(Config):
    """Everything known of a trial except its weights."""

    name: str
    point: dict[str, Any] = Field(description="values of the varied fields, by dotted path")
    began: float = Field(default_factory=time.time, description="start time, seconds since 1970")
    status: TrialStatus = "running"
    epochs: tuple[TrialEpoch, ...] = ()
    error: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the trial has ended for good."""
        return self.status != "running"

    def best(self, objective: Objective) -> TrialEpoch | None:
        """The epoch with the highest score, the first one in a tie; None before the first epoch."""
        return max(self.epochs, key=lambda epoch: epoch.scores[objective], default=None)

    def score(self, objective: Objective) -> float:
        """The highest score of any epoch."""
        best = self.best(objective)
        return WORST_SCORE if best is None else best.scores[objective]

    def result(self, num_epochs: int, objective: Objective) -> dict[str, Any]:
        """What Ray Tune is told after an epoch.

        `score` is the epoch's, by which a scheduler compares trials of the same age; `best_score` is the highest so
        far, from which a searcher learns.
        """
        scores = [epoch.scores[objective] for epoch in self.epochs[:num_epochs]] or [WORST_SCORE]
        return {"score": scores[-1], BEST_SCORE: max(scores), "epoch": num_epochs}

    def rank(self, objective: Objective) -> tuple[float, str]:
        """A sort key, higher for a better trial; the name breaks ties."""
        return self.score(objective), self.name

    @property
    def seconds(self) -> float:
        """Duration of all epochs together."""
        return sum(epoch.seconds for epoch in self.epochs)


@dataclass(frozen=True)
class Search:
    """What all trials of a search share, and the folder of their records.

    Args:
        preset: fields of the training that each trial varies.
        objective: score to maximise.
        output: folder of the search.
        data_cache: DataCache actor.
    """

    preset: Mapping[str, Any]
    objective: Objective
    output: str
    data_cache: Any

    def training(self, point: Mapping[str, Any]) -> TrainConfig:
        """The training of a point."""
        return training(self.preset, point, "trial")

    def folder(self, name: str, *below: str) -> str:
        """The folder of a trial, or a path in it."""
        return storage.join(self.output, TRIALS, name, *below)

    def record(self, name: str) -> TrialRecord | None:
        """The record of a trial; None if it has not started."""
        if _RECORD not in storage.names_in(self.folder(name)):
            return None
        return TrialRecord.model_validate_json(storage.read_bytes(self.folder(name, _RECORD)))

    def record_of(self, point: Point) -> TrialRecord:
        """The record of a point's trial; a new one if it has not started."""
        name = name_of(point)
        return self.record(name) or TrialRecord(name=name, point=point)

    def records(self) -> list[TrialRecord]:
        """The records of all trials that have started."""
        names = storage.names_in(storage.join(self.output, TRIALS))
        return [record for record in map(self.record, names) if record is not None]

    def write(self, record: TrialRecord) -> None:
        """Write or replace the record of a trial."""
        storage.write_bytes(self.folder(record.name, _RECORD), record.model_dump_json(indent=2).encode())

    def delete_weights(self, record: TrialRecord) -> None:
        """Delete everything of a trial but its record."""
        for name in (DISTRIBUTED, *(epoch_folder(epoch.epoch) for epoch in record.epochs)):
            storage.delete(self.folder(record.name, name))


def epoch_folder(epoch: int) -> str:
    """Name of the folder with the training state after an epoch, in the folder of its trial."""
    return f"epoch-{epoch}"
