"""The input of every model: movies as text and JPEGs, and the same movies encoded as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, Self

import numpy as np
import pyarrow as pa
import torch

from mmgenre.tables.images import StoredImages

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Movies:
    """N movies. Unknown titles, plots and images are None; images are JPEGs."""

    titles: Sequence[str | None]
    plots: Sequence[str | None]
    images: Sequence[bytes | None]

    @classmethod
    def of(cls, rows: pa.Table) -> Self:
        """The movies in a table; its columns `title`, `plot` and `image` are all optional."""
        unknown = [None] * len(rows)
        columns = [
            rows[name].to_pylist() if name in rows.column_names else unknown for name in ("title", "plot", "image")
        ]
        return cls(*columns)

    @classmethod
    def of_plots(cls, plots: Sequence[str | None]) -> Self:
        """Movies with a plot and nothing else."""
        unknown = [None] * len(plots)
        return cls(unknown, plots, unknown)

    def __len__(self) -> int:
        """Number of movies."""
        return len(self.plots)

    def image_blocks(self) -> Iterator[tuple[np.ndarray, list[bytes]]]:
        """Row numbers and JPEGs of the movies with an image, in blocks; stored images are read a few MB at a time."""
        if isinstance(self.images, StoredImages):
            yield from self.images.blocks()
            return
        found = [(row, content) for row, content in enumerate(self.images) if content]
        yield np.array([row for row, _ in found], np.int64), [content for _, content in found]


class ModelInput(Protocol):
    """One kind of model input for N movies, as plain arrays that processes can share without copying."""

    @property
    def lengths(self) -> np.ndarray:
        """Compute cost of each movie in text tokens, shape (N,)."""

    def take(self, rows: np.ndarray) -> Any:
        """The given rows, in that order."""

    def batch(self, rows: np.ndarray) -> Batch:
        """Tensors of the given rows, B = len(rows), padded to the longest row."""


@dataclass(frozen=True)
class EncodedMovies:
    """N movies encoded for one model.

    Args:
        has_text: shape (N,), bool: the movie has a plot and the model reads plots.
        has_image: shape (N,), bool: the movie has a decodable poster and the model reads posters.
        inputs: plots, posters or both.
    """

    has_text: np.ndarray
    has_image: np.ndarray
    inputs: tuple[ModelInput, ...]

    @property
    def readable(self) -> np.ndarray:
        """Shape (N,), bool: the movie has at least one input that the model reads."""
        return self.has_text | self.has_image

    @cached_property
    def lengths(self) -> np.ndarray:
        """Compute cost of each movie in text tokens, shape (N,)."""
        return np.stack([kind.lengths for kind in self.inputs]).sum(axis=0)

    def take(self, rows: np.ndarray) -> "EncodedMovies":
        """The given rows, in that order."""
        return EncodedMovies(self.has_text[rows], self.has_image[rows], tuple(kind.take(rows) for kind in self.inputs))

    def only(self, kind: Literal["text", "image"]) -> "EncodedMovies":
        """The movies that have this kind of input, with the other kind hidden."""
        nothing = np.zeros(len(self.readable), bool)
        shown = replace(self, has_image=nothing) if kind == "text" else replace(self, has_text=nothing)
        return shown.take(np.flatnonzero(shown.readable))

    def batch(self, rows: np.ndarray) -> Batch:
        """Tensors of all inputs, plus `has_text` and `has_image`, bool, shape (B,)."""
        tensors = {
            "has_text": torch.from_numpy(self.has_text[rows]),
            "has_image": torch.from_numpy(self.has_image[rows]),
        }
        for kind in self.inputs:
            tensors |= kind.batch(rows)
        return tensors


class Encoder(Protocol):
    """Encodes movies for a model. Training, tagging and serving use the same object, so there is no skew."""

    def encode(self, movies: Movies) -> EncodedMovies:
        """All movies, including those without any input that the model reads."""
