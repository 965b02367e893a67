"""From probabilities to genres: the thresholds of a checkpoint, or others, and what else a person asks for."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field, field_validator

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.scoring.thresholds import Calibration, Cutoff, Kind, Thresholds, decide
from mmgenre.tables.schema import PredictStatus


class DecisionConfig(Config):
    """Which genres are given to a movie whose probabilities are known."""

    thresholds: Kind | Cutoff | dict[str, Cutoff] | None = Field(
        None,
        description="null: those of the checkpoint; per_genre or global: that kind of them; a number for all genres; "
        "or numbers by genre, the others being the checkpoint's",
    )
    min_probability: float = Field(0.0, ge=0, le=1, description="no genre below it is given, whatever its threshold")
    top_k: int | None = Field(None, ge=1, description="at most so many genres, the most probable ones; null: all")

    @field_validator("thresholds")
    @classmethod
    def _known_genres(cls, value: object) -> object:
        unknown = sorted(set(value) - set(GENRES)) if isinstance(value, dict) else []
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no genre; expected some of {', '.join(GENRES)}")
        return value


def trained_thresholds(card: Card, directory: str) -> Thresholds:
    """The thresholds of a checkpoint.

    Raises:
        InputError: it has none: its training is not finished.
    """
    if card.thresholds is None:
        raise InputError(f"{directory}: an untrained model; expected the output of a finished jobs/train.py")
    return card.thresholds


def calibrations(card: Card, directory: str) -> dict[str, Calibration]:
    """Temperature and thresholds by what is seen of a movie: by the status of its prediction."""
    usual = Calibration(thresholds=trained_thresholds(card, directory), temperature=card.temperature)
    kinds: list[str] = [PredictStatus.TEXT_AND_POSTER, PredictStatus.TEXT_ONLY, PredictStatus.POSTER_ONLY]
    return dict.fromkeys(kinds, usual) | dict(card.alone)


class Decisions:
    """Decides by status and probability.

    Args:
        found: see calibrations.
        config: what a person asks for.
    """

    def __init__(self, found: dict[str, Calibration], config: DecisionConfig):
        self._cutoffs = {
            status: np.maximum(_cutoffs(one.thresholds, config), config.min_probability)
            for status, one in found.items()
        }
        self._config = config

    def cutoffs(self, status: str) -> np.ndarray:
        """Shape (9,): at or above which a genre is given to a movie of that status; infinite where none is."""
        return self._cutoffs.get(status, np.full(len(GENRES), np.inf))

    def to_settings(self) -> dict[str, list[float]]:
        """The cut-offs by status, in GENRES order, as JSON values."""
        return {status: cutoffs.tolist() for status, cutoffs in self._cutoffs.items()}

    def __call__(self, probabilities: np.ndarray, statuses: Sequence[str]) -> np.ndarray:
        """Which genres N movies are given, shape (N, 9), bool; none where the status is that of no prediction.

        Args:
            probabilities: shape (N, 9), float32; NaN where there are none.
            statuses: of the N predictions.
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
            usual = dict(zip(GENRES, thresholds.cutoffs(), strict=True))
            return np.array([(usual | by_genre)[genre] for genre in GENRES])
        case str() as kind:
            return thresholds.model_copy(update={"kind": kind}).cutoffs()
        case number:
            return np.full(len(GENRES), number)
