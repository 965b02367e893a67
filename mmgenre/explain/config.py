"""Configs of jobs/explain.py: for one movie, or for a table of movies."""

from typing import Any, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from mmgenre.config import Config, Requirements
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models import checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.models.inference import Precision
from mmgenre.ray_session import Accelerator
from mmgenre.tables.schema import SplitName
from mmgenre.tables.table import PARTS
from mmgenre.tagging.decisions import trained_thresholds
from mmgenre.tagging.units import WORK

PAGE, PICTURES = "explanation.html", "heat-*.png"
# All files and folders of an output, which are deleted when it is replaced.
OWNED = (PAGE, PICTURES, PARTS, WORK)


class ExplainConfig(Config):
    """Fields of both configs."""

    checkpoint: str = Field(description="folder made by jobs/train.py")
    genres: tuple[str, ...] | None = Field(
        None, min_length=1, description="genres to explain; null: the top_k most probable genres of each movie"
    )
    top_k: int = Field(3, ge=1, le=len(GENRES), description="number of genres to explain per movie if genres is null")
    catalog: str | None = Field(None, description="folder of the CATALOG table, for models that read titles")
    enriched: str | None = Field(None, description="folder of the ENRICHED table, for movies without a plot")
    posters: str | None = Field(None, description="folder of the POSTERS table, for models that read posters")
    precision: Precision = Field(
        "fp32", description="precision of the probabilities, see jobs/tag.py; attributions are always fp32"
    )
    output: str = Field(description="folder for the explanations; run the same command again to resume")
    overwrite: bool = Field(False, description="replace an output made with another model, movie or configuration")

    @field_validator("genres")
    @classmethod
    def _known_genres(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        unknown = [genre for genre in value or () if genre not in GENRES]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown genre; expected some of {', '.join(GENRES)}")
        return None if value is None else tuple(dict.fromkeys(value))

    def select_genres(self, probabilities: np.ndarray) -> list[str]:
        """Genres to explain for a movie, the most probable first; `probabilities` has shape (9,)."""
        ranked = [GENRES[column] for column in np.argsort(-probabilities, kind="stable")]
        return ranked[: self.top_k] if self.genres is None else [genre for genre in ranked if genre in self.genres]


class ExplainTableConfig(ExplainConfig):
    """Explain all movies of a table or file."""

    movies: str = Field(
        description="MOVIES, CATALOG or ENRICHED folder, or a CSV, TSV or Parquet file with imdb_id and plot"
    )
    split: SplitName = Field("all", description="split of a MOVIES table to explain")
    limit: int | None = Field(None, ge=1, description="maximum number of movies, the first ones; null: all")
    overlays: bool = Field(False, description="store a JPEG of the poster with each heat map drawn on it")
    actors: int | None = Field(
        None, ge=1, description="number of actor processes, each with its own model; null: one per CPU or GPU"
    )
    cpus_per_actor: int = Field(
        1, ge=1, description="CPUs and threads per actor; use more if memory holds only a few models"
    )
    accelerator: Accelerator = Field("auto", description="auto: GPUs if a node has one now; gpu: wait for GPUs")

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        actors = self.actors or 1
        needs = Requirements(
            inputs=(self.checkpoint, self.movies, self.catalog, self.enriched, self.posters),
            outputs=(self.output,),
            cpus=actors * self.cpus_per_actor,
            gpus=actors * (self.accelerator == "gpu"),
            packages=("captum",),
            mistakes=checkpoint.mistakes(self.checkpoint, trained_thresholds),
        )
        return (needs,)


class ExplainMovieConfig(ExplainConfig):
    """Explain one movie, given directly or as a row of a table or file."""

    plot: str | None = Field(None, description="the plot, or @FILE to read it from a file")
    poster: str | None = Field(None, description="JPEG, PNG or WebP file")
    title: str | None = Field(None, description="the title, also the headline of the page")
    imdb_id: str | None = Field(None, description="id of a movie in the table or file `movies`")
    movies: str | None = Field(None, description="table or file with the movie imdb_id; see jobs/tag.py")

    @field_validator("plot", "title", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError("YAML does not parse this as text; add a second pair of quotes inside the first")
        # Bytes of the command line that are not UTF-8 arrive as surrogates.
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        is_direct = self.plot is not None or self.poster is not None
        if (self.imdb_id is None) != (self.movies is None):
            raise ValueError("imdb_id and movies belong together: give both, or plot=TEXT and poster=FILE")
        if is_direct == (self.imdb_id is not None):
            raise ValueError("give either plot=TEXT, poster=FILE or both, or imdb_id=ID with movies=TABLE_OR_FILE")
        unused = [name for name in ("catalog", "enriched", "posters") if getattr(self, name) is not None]
        if is_direct and unused:
            raise ValueError(f"{', '.join(unused)}: used only with imdb_id=ID and movies=TABLE_OR_FILE; leave it out")
        return self

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        inputs = (self.checkpoint, self.movies, self.catalog, self.enriched, self.posters)
        mistakes = checkpoint.mistakes(self.checkpoint, trained_thresholds)
        return (Requirements(inputs=inputs, outputs=(self.output,), packages=("captum",), mistakes=mistakes),)


def model_settings(card: Card) -> dict[str, Any]:
    """Everything that determines a checkpoint's predictions, as JSON values."""
    settings = card.to_settings(without=set(Card.model_fields) - {"thresholds", "temperature", "alone", "model"})
    return settings | {"weights": card.weights_sha256, "assets": card.assets}


def require_readable(card: Card, given: set[str]) -> None:
    """Raise InputError if the model reads none of the given MOVIES columns."""
    reads = set(card.model.columns) - {"title"}
    if not reads & given:
        names = " or ".join(sorted({"plot": "plot=TEXT", "image": "poster=FILE"}[name] for name in reads))
        raise InputError(f"no input of this model is given; give {names}")
