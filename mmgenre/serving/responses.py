"""What the service says, as types that its OpenAPI document is made of, and how predictions become it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.serving.replicas import Prediction
from mmgenre.tables.schema import PredictStatus
from mmgenre.tagging.decisions import DecisionConfig, Decisions, calibrations

# Of a float32: what comes after is made up by the conversion to decimals.
_DIGITS = 7


class Failure(BaseModel):
    """Why a request was not answered as asked."""

    error: str = Field(description="one line: what was found, what was expected, how to mend it")


class Health(BaseModel):
    """Whether the service can answer."""

    status: str = Field(description="ok", examples=["ok"])


class Chance(BaseModel):
    """One genre of one movie."""

    genre: str
    probability: float
    threshold: float = Field(description="at or above it the genre is given")
    given: bool


class Tagged(BaseModel):
    """What the model says of one movie."""

    id: str | None = Field(description="as it was sent")
    status: PredictStatus = Field(description="what the prediction rests on")
    detail: str | None = Field(description="what is wrong, where the status is error")
    genres: list[str] = Field(description="those that are given, most probable first")
    probabilities: list[Chance] = Field(description="of all genres, in one order; empty where nothing could be read")


class TaggedBatch(BaseModel):
    """What the model says of several movies."""

    movies: list[Tagged] = Field(description="in the order of the request")


class Word(BaseModel):
    """A word that the model read."""

    start: int = Field(description="its first character in text, in Unicode code points")
    end: int = Field(description="the character after its last")
    scores: dict[str, float] = Field(description="by genre: above 0 it spoke for it, below 0 against; 1 at the most")


class Explained(Tagged):
    """What the model says of one movie, and what spoke for it."""

    explained: list[str] = Field(description="the most probable genres, which words and regions are given for")
    text: str | None = Field(description="what the model reads of title and plot; null: no text")
    words: list[Word]
    regions: dict[str, str] = Field(description="by genre: the poster as a data: address, what spoke for it marked")


class ModelCard(BaseModel):
    """The model that answers."""

    family: str
    genres: list[str]
    reads: list[str] = Field(description="of a movie: title, plot, image")
    thresholds: dict[str, float] = Field(description="by genre")
    temperature: float
    scores: dict[str, float] = Field(description="of the validation movies")
    version: str = Field(description="of mmgenre, when the model was trained")
    training: dict[str, Any] = Field(description="the settings of its training")
    fingerprint: str = Field(description="sha256 of its weights")
    limits: dict[str, int] = Field(description="of one request")


class Account:
    """Turns predictions into answers.

    Args:
        card: the model's.
        directory: of its checkpoint.
        config: which genres are given.
    """

    def __init__(self, card: Card, directory: str, config: DecisionConfig):
        found = calibrations(card, directory)
        self._decide = Decisions(found, config)
        self._cutoffs = {status: self._decide.cutoffs(status).tolist() for status in found}

    @property
    def usual_cutoffs(self) -> dict[str, float]:
        """By genre, of movies of which all is known."""
        return dict(zip(GENRES, self._cutoffs[PredictStatus.TEXT_AND_POSTER], strict=True))

    def given(self, predictions: Sequence[Prediction]) -> np.ndarray:
        """Which genres each of N movies is given, shape (N, 9), bool."""
        chances = np.array([one.probabilities for one in predictions]).reshape(-1, len(GENRES))
        return self._decide(chances, [one.status for one in predictions])

    def answers(self, ids: Sequence[str | None], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """What is said of each movie: the fields of Tagged."""
        decided = self.given(predictions).tolist()
        return [self._answer(*one) for one in zip(ids, predictions, decided, strict=True)]

    def _answer(self, movie_id: str | None, found: Prediction, given: list[bool]) -> dict[str, Any]:
        cutoffs = self._cutoffs.get(found.status)
        values = [] if cutoffs is None else [round(value, _DIGITS) for value in found.probabilities.tolist()]
        chances = [
            {"genre": genre, "probability": value, "threshold": cutoff, "given": is_given}
            for genre, value, cutoff, is_given in zip(GENRES, values, cutoffs or (), given, strict=False)
        ]
        return {
            "id": movie_id,
            "status": found.status,
            "detail": found.detail,
            "genres": [genre for genre in most_probable(found) if given[GENRES.index(genre)]],
            "probabilities": chances,
        }


def most_probable(found: Prediction) -> list[str]:
    """All genres, most probable first."""
    return [GENRES[column] for column in np.argsort(-found.probabilities, kind="stable").tolist()]


def failed(detail: str) -> Prediction:
    """Of a movie that could not even be given to the model."""
    return Prediction(PredictStatus.ERROR, np.full(len(GENRES), np.nan, np.float32), detail)
