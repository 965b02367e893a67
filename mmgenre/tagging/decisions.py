"""Decides which genres a movie gets, given its probabilities: thresholds, minimum probability, top k."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field, field_validator

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.scoring.thresholds import Calibration, Cutoff, ThresholdKind, Thresholds, decide
from mmgenre.tables.schema import PredictStatus


class DecisionConfig(Config):
    """Which genres a movie gets, given its probabilities."""

    thresholds: ThresholdKind | Cutoff | dict[str, Cutoff] | None = Field(
        None,
        description="null: the checkpoint's; per_genre or global: the checkpoint's of that kind; a number for all "
        "genres; or numbers by genre, and the checkpoint's for the others",
    )
    min_probability: float = Field(0.0, ge=0, le=1, description="lower bound of every genre's threshold")
    top_k: int | None = Field(None, ge=1, description="keep the k most probable genres at most; null: all")

    @field_validator("thresholds")
    @classmethod
    def _known_genres(cls, value: object) -> object:
        unknown = sorted(set(value) - set(GENRES)) if isinstance(value, dict) else []
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown genre; expected some of {', '.join(GENRES)}")
        return value


def trained_thresholds(card: Card, directory: str) -> Thresholds:
    """The thresholds of a checkpoint.

    Raises:
        InputError: it has none, because its training has not finished.
    """
    if card.thresholds is None:
        raise InputError(f"{directory}: an untrained model; give the output of a finished jobs/train.py")
    return card.thresholds


def calibrations(card: Card, directory: str) -> dict[str, Calibration]:
    """Temperature and thresholds by the status of a prediction, which says what the model could read."""
    default = Calibration(thresholds=trained_thresholds(card, directory), temperature=card.temperature)
    kinds: list[str] = [PredictStatus.TEXT_AND_POSTER, PredictStatus.TEXT_ONLY, PredictStatus.POSTER_ONLY]
    return dict.fromkeys(kinds, default) | dict(card.alone)


class Decisions:
    """Decides on genres by status and probability.

    Args:
        by_status: see `calibrations`.
        config: overrides and limits.
    """

    def __init__(self, by_status: dict[str, Calibration], config: DecisionConfig):
        self._cutoffs = {
            status: np.maximum(_cutoffs(calibration.thresholds, config), config.min_probability)
            for status, calibration in by_status.items()
        }
        self._config = config

    def cutoffs(self, status: str) -> np.ndarray:
        """Each genre's cut-off for a status, shape (9,); infinite for a status without predictions."""
        return self._cutoffs.get(status, np.full(len(GENRES), np.inf))

    def to_settings(self) -> dict[str, list[float]]:
        """The cut-offs by status, in GENRES order, as JSON values."""
        return {status: cutoffs.tolist() for status, cutoffs in self._cutoffs.items()}

    def __call__(self, probabilities: np.ndarray, statuses: Sequence[str]) -> np.ndarray:
        """The genres of N movies, shape (N, 9), bool; none for a status without predictions.

        Args:
            probabilities: shape (N, 9), float32; NaN for movies without a prediction.
            statuses: of the N movies.
        """
        cutoffs = np.array([self.cutoffs(status) for status in statuses]).reshape(-1, len(GENRES))
        given = decide(probabilities, cutoffs)
        if self._config.top_k is not None:
            rank = np.argsort(np.argsort(-probabilities, axis=1, kind="stable"), axis=1, kind="stable")
            given &= rank < self._config.top_k
        return given


def _cutoffs(thresholds: Thresholds, config: DecisionConfig) -> np.ndarray:
    match config.thresholds:
        case None:
            return thresholds.cutoffs()
        case dict() as by_genre:
            defaults = dict(zip(GENRES, thresholds.cutoffs(), strict=True))
            return np.array([(defaults | by_genre)[genre] for genre in GENRES])
        case str() as kind:
            return thresholds.model_copy(update={"kind": kind}).cutoffs()
        case number:
            return np.full(len(GENRES), number)
