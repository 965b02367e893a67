"""What jobs/explain.py is given: one movie, or a whole table of them."""

from typing import Any, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.models.inference import Precision
from mmgenre.ray_session import Accelerator
from mmgenre.tables.schema import SplitName
from mmgenre.tables.table import PARTS
from mmgenre.tagging.units import WORK

PAGE, PICTURES = "explanation.html", "heat-*.png"
# All that explanations may consist of, of one movie or of a table.
OWNED = (PAGE, PICTURES, PARTS, WORK)


class ExplainConfig(Config):
    """What is explained, whatever the movies."""

    checkpoint: str = Field(description="folder made by jobs/train.py")
    genres: tuple[str, ...] | None = Field(
        None, min_length=1, description="genres that are explained; null: each movie's most probable ones"
    )
    top_k: int = Field(3, ge=1, le=len(GENRES), description="how many are explained where genres is null")
    catalog: str | None = Field(None, description="CATALOG folder: titles for models that read them")
    enriched: str | None = Field(None, description="ENRICHED folder with the plots, for movies that have none")
    posters: str | None = Field(None, description="POSTERS folder with the images, for models that read them")
    precision: Precision = Field(
        "fp32", description="of the probabilities; auto or bf16: as jobs/tag.py computes them; the reasons are fp32"
    )
    output: str = Field(description="folder for the explanations; the same command goes on where it was")
    overwrite: bool = Field(False, description="replace what another model, movie or configuration left in output")

    @field_validator("genres")
    @classmethod
    def _known_genres(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        unknown = [genre for genre in value or () if genre not in GENRES]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no genre; expected some of {', '.join(GENRES)}")
        return None if value is None else tuple(dict.fromkeys(value))

    def chosen(self, probabilities: np.ndarray) -> list[str]:
        """The genres that are explained to a movie, the most probable first; probabilities: shape (9,)."""
        ranked = [GENRES[column] for column in np.argsort(-probabilities, kind="stable")]
        return ranked[: self.top_k] if self.genres is None else [genre for genre in ranked if genre in self.genres]


class ExplainTableConfig(ExplainConfig):
    """Explain every movie of a table or a file."""

    movies: str = Field(
        description="MOVIES, CATALOG or ENRICHED folder, or a CSV, TSV or Parquet file with imdb_id and plot"
    )
    split: SplitName = Field("all", description="of a MOVIES table, the movies to explain")
    limit: int | None = Field(None, ge=1, description="at most so many movies, the first ones; null: all")
    overlays: bool = Field(False, description="beside each heat map a JPEG of the poster with what it shows")
    actors: int | None = Field(None, ge=1, description="processes with a model each; null: one for each CPU or GPU")
    cpus_per_actor: int = Field(1, ge=1, description="and threads; more where memory holds few models")
    accelerator: Accelerator = Field("auto", description="auto: GPUs where a node has one now; gpu: wait for them")


class ExplainMovieConfig(ExplainConfig):
    """Explain one movie, given by itself or as a row of a table or a file."""

    plot: str | None = Field(None, description="the text, or @FILE that holds it")
    poster: str | None = Field(None, description="a JPEG, PNG or WebP file")
    title: str | None = Field(None, description="also the headline of the page")
    imdb_id: str | None = Field(None, description="of a movie of the table or file in movies")
    movies: str | None = Field(None, description="where imdb_id stands; see jobs/tag.py")

    @field_validator("plot", "title", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError("YAML takes it for something else than text; put it into quotes within the quotes")
        # A command line's bytes that are no UTF-8.
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        has_own = self.plot is not None or self.poster is not None
        if (self.imdb_id is None) != (self.movies is None):
            raise ValueError("imdb_id and movies go together: give both, or plot=TEXT and poster=FILE")
        if has_own == (self.imdb_id is not None):
            raise ValueError("give either plot=TEXT, poster=FILE or both, or imdb_id=ID with movies=TABLE_OR_FILE")
        unused = [name for name in ("catalog", "enriched", "posters") if getattr(self, name) is not None]
        if has_own and unused:
            raise ValueError(f"{', '.join(unused)}: of a table's movies, and this one is given by itself; leave it out")
        return self


def model_settings(card: Card) -> dict[str, Any]:
    """All that decides what a checkpoint's model says of a movie, as JSON values."""
    settings = card.to_settings(without=set(Card.model_fields) - {"thresholds", "temperature", "alone", "model"})
    return settings | {"weights": card.weights_sha256, "assets": card.assets}


def require_readable(card: Card, given: set[str]) -> None:
    """Raise where a model reads nothing of what is given: columns of MOVIES."""
    reads = set(card.model.columns) - {"title"}
    if not reads & given:
        names = " or ".join(sorted({"plot": "plot=TEXT", "image": "poster=FILE"}[name] for name in reads))
        raise InputError(f"nothing is given that this model reads; give {names}")
