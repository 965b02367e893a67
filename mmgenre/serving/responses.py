"""Response bodies of the service, and how predictions become them."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.serving.replicas import Prediction
from mmgenre.tables.schema import PredictStatus
from mmgenre.tagging.decisions import DecisionConfig, Decisions, calibrations

# Significant decimals of a float32; later ones come from its conversion to a Python float.
_DECIMALS = 7


class ErrorResponse(BaseModel):
    """Why a request failed."""

    error: str = Field(description="one line: what was found, what was expected, how to fix it")


class HealthResponse(BaseModel):
    """The service can answer."""

    status: str = Field("ok", examples=["ok"])


class GenreProbability(BaseModel):
    """The probability of one genre of a movie."""

    genre: str
    probability: float
    threshold: float = Field(description="the genre is predicted at or above this probability")
    given: bool = Field(description="whether the genre is predicted")


class TaggedMovie(BaseModel):
    """The prediction for one movie."""

    id: str | None = Field(description="the id in the request")
    status: PredictStatus = Field(description="what the prediction is based on, or why there is none")
    detail: str | None = Field(description="the error message, if status is error")
    genres: list[str] = Field(description="predicted genres, most probable first")
    probabilities: list[GenreProbability] = Field(
        description="one entry per genre, always in the same order; empty without a prediction"
    )


class TaggedMovies(BaseModel):
    """The predictions for a batch of movies."""

    movies: list[TaggedMovie] = Field(description="in the order of the request")


class WordScores(BaseModel):
    """A word that the model reads, and how it affects each explained genre."""

    start: int = Field(description="offset of its first character in text, in Unicode code points")
    end: int = Field(description="offset after its last character")
    scores: dict[str, float] = Field(
        description="by genre, in [-1, 1]: positive scores support the genre, negative ones oppose it"
    )


class ExplainedMovie(TaggedMovie):
    """The prediction for one movie and the evidence for it."""

    explained: list[str] = Field(description="the most probable genres, for which words and regions are scored")
    text: str | None = Field(description="the title and plot as the model reads them; null without text")
    words: list[WordScores]
    regions: dict[str, str] = Field(description="by genre: a data: URL of the poster with supporting regions lit up")


class ModelResponse(BaseModel):
    """The model behind the service."""

    family: str
    genres: list[str]
    reads: list[str] = Field(description="what the model reads of a movie: title, plot, image")
    thresholds: dict[str, float] = Field(description="by genre, for movies with all inputs")
    temperature: float
    scores: dict[str, float] = Field(description="scores on the validation movies")
    version: str = Field(description="mmgenre version that trained the model")
    training: dict[str, Any] = Field(description="training settings")
    fingerprint: str = Field(description="SHA-256 of the weights")
    limits: dict[str, int] = Field(description="size limits of a request")


class ResponseBuilder:
    """Turns predictions into responses.

    Args:
        card: of the model.
        directory: checkpoint folder, for error messages.
        config: how genres are decided.
    """

    def __init__(self, card: Card, directory: str, config: DecisionConfig):
        by_status = calibrations(card, directory)
        self._decide = Decisions(by_status, config)
        self._cutoffs = {status: self._decide.cutoffs(status).tolist() for status in by_status}

    @property
    def thresholds(self) -> dict[str, float]:
        """By genre, for movies with all inputs."""
        return dict(zip(GENRES, self._cutoffs[PredictStatus.TEXT_AND_POSTER], strict=True))

    def decide(self, predictions: Sequence[Prediction]) -> np.ndarray:
        """Which genres are predicted for each of N movies, shape (N, 9), bool."""
        probabilities = np.array([prediction.probabilities for prediction in predictions]).reshape(-1, len(GENRES))
        return self._decide(probabilities, [prediction.status for prediction in predictions])

    def build(self, ids: Sequence[str | None], predictions: Sequence[Prediction]) -> list[TaggedMovie]:
        """One response per movie."""
        decisions = self.decide(predictions).tolist()
        return [self._build(*movie) for movie in zip(ids, predictions, decisions, strict=True)]

    def _build(self, movie_id: str | None, prediction: Prediction, is_predicted: list[bool]) -> TaggedMovie:
        cutoffs = self._cutoffs.get(prediction.status)
        values = [] if cutoffs is None else [round(value, _DECIMALS) for value in prediction.probabilities.tolist()]
        probabilities = [
            GenreProbability(genre=genre, probability=value, threshold=cutoff, given=given)
            for genre, value, cutoff, given in zip(GENRES, values, cutoffs or (), is_predicted, strict=False)
        ]
        return TaggedMovie(
            id=movie_id,
            status=PredictStatus(prediction.status),
            detail=prediction.detail,
            genres=[genre for genre in ranked_genres(prediction) if is_predicted[GENRES.index(genre)]],
            probabilities=probabilities,
        )


def ranked_genres(prediction: Prediction) -> list[str]:
    """All genres, most probable first."""
    return [GENRES[column] for column in np.argsort(-prediction.probabilities, kind="stable").tolist()]


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what tells clients about the machine: of a path or an address, only the last part stays."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: clean(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [clean(inner) for inner in value]
        is_path = isinstance(value, str) and ("://" in value or "\\" in value or value.startswith(("/", "~", ".")))
        return PurePosixPath(value.replace("\\", "/")).name if is_path else value

    return {name: clean(value) for name, value in settings.items()}


def failed_prediction(detail: str) -> Prediction:
    """The prediction for a movie that could not be passed to the model."""
    return Prediction(PredictStatus.ERROR, np.full(len(GENRES), np.nan, np.float32), detail)
