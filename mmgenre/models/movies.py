"""What models are given: movies with what is known of each, and the same movies as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, Self

import numpy as np
import pyarrow as pa
import torch

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Movies:
    """N movies; what is not known of one is None. Images are JPEGs."""

    titles: Sequence[str | None]
    plots: Sequence[str | None]
    images: Sequence[bytes | None]

    @classmethod
    def of(cls, rows: pa.Table) -> Self:
        """Those of a table, of which it may have any of the columns `title`, `plot` and `image`."""
        unknown = [None] * len(rows)
        columns = [
            rows[name].to_pylist() if name in rows.column_names else unknown for name in ("title", "plot", "image")
        ]
        return cls(*columns)

    @classmethod
    def of_plots(cls, plots: Sequence[str | None]) -> Self:
        """Movies of which only the plots are known."""
        unknown = [None] * len(plots)
        return cls(unknown, plots, unknown)

    def __len__(self) -> int:
        """How many they are."""
        return len(self.plots)


class Part(Protocol):
    """One kind of input of N movies as plain arrays, so that processes share them without copying."""

    @property
    def lengths(self) -> np.ndarray:
        """Shape (N,): the cost of each movie, in tokens of text."""

    def take(self, rows: np.ndarray) -> Any:
        """Some of the movies, in the order of the rows."""

    def batch(self, rows: np.ndarray) -> Batch:
        """Tensors of some movies, B = len(rows), padded to the longest of them."""


@dataclass(frozen=True)
class Encoded:
    """N movies as a model reads them.

    Args:
        has_text: shape (N,), whether there is a plot that the model reads.
        has_image: shape (N,), whether there is a poster that it reads, and that could be decoded.
        parts: the plots, the posters or both.
    """

    has_text: np.ndarray
    has_image: np.ndarray
    parts: tuple[Part, ...]

    @property
    def readable(self) -> np.ndarray:
        """Shape (N,): whether there is anything that the model reads."""
        return self.has_text | self.has_image

    @cached_property
    def lengths(self) -> np.ndarray:
        """Shape (N,): the cost of each movie, in tokens of text."""
        return np.stack([part.lengths for part in self.parts]).sum(axis=0)

    def take(self, rows: np.ndarray) -> "Encoded":
        """Some of the movies, in the order of the rows."""
        return Encoded(self.has_text[rows], self.has_image[rows], tuple(part.take(rows) for part in self.parts))

    def only(self, kind: Literal["text", "image"]) -> "Encoded":
        """The movies that have this kind of input, as if nothing else were known of them."""
        nothing = np.zeros(len(self.readable), bool)
        shown = replace(self, has_image=nothing) if kind == "text" else replace(self, has_text=nothing)
        return shown.take(np.flatnonzero(shown.readable))

    def batch(self, rows: np.ndarray) -> Batch:
        """The tensors of all parts, and `has_text` and `has_image`, bool, shape (B,)."""
        tensors = {
            "has_text": torch.from_numpy(self.has_text[rows]),
            "has_image": torch.from_numpy(self.has_image[rows]),
        }
        for part in self.parts:
            tensors |= part.batch(rows)
        return tensors


class Encoder(Protocol):
    """Turns movies into what a model reads; the same object in training, tagging and serving."""

    def encode(self, movies: Movies) -> Encoded:
        """All of the movies, those included that the model can read nothing of."""
