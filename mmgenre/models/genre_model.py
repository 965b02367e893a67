"""What every model family is to the rest: an encoder of movies, and a module that gives each genre a logit."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import Field
from torch import nn

from mmgenre.config import Config

Batch = dict[str, torch.Tensor]


class Encoded(Protocol):
    """Movies as a model reads them: plain arrays, so that processes share them without copying."""

    @property
    def lengths(self) -> np.ndarray:
        """Shape (N,): the cost of each movie, in tokens."""

    def take(self, rows: np.ndarray) -> "Encoded":
        """Some of the movies, in the order of the rows."""

    def batch(self, rows: np.ndarray) -> Batch:
        """Tensors of some movies, B = len(rows), padded to the longest of them."""


class Encoder(Protocol):
    """Turns movies into what the model reads; the same object in training, tagging and serving."""

    def encode(self, plots: Sequence[str]) -> Encoded:
        """Encode N plots, or what else `texts` of the model's config makes of N movies."""


class GenreModel(nn.Module):
    """A module whose call takes a batch and returns logits, shape (B, 9), columns in GENRES order.

    Parameters below `head` are the head's: they have a learning rate of their own.
    """

    feature_dim: int
    encoder: Encoder

    @abstractmethod
    def features(self, batch: Batch) -> torch.Tensor:
        """What the head sees, shape (B, feature_dim)."""

    def depth(self, parameter: str) -> int:
        """Layers above the one that a named parameter is in; 0 everywhere in models without a stack of layers."""
        return 0

    @abstractmethod
    def save_assets(self, directory: Path) -> None:
        """Write what `restore(directory)` of its config needs beside the weights."""


class FamilyConfig(Config):
    """A family's settings."""

    title: bool = Field(False, description="the movie's title is read before its plot")

    def texts(self, titles: Sequence[str | None], plots: Sequence[str]) -> list[str]:
        """What the model reads of N movies."""
        if not self.title:
            return list(plots)
        return [f"{title}. {plot}" if title else plot for title, plot in zip(titles, plots, strict=True)]

    @abstractmethod
    def restore(self, assets: Path) -> GenreModel:
        """The model's structure from a checkpoint's assets; its weights are loaded afterwards."""


class TrainedByGradient(FamilyConfig):
    """A family whose model is built first and then trained in epochs."""

    @abstractmethod
    def build(self, plots: Sequence[str]) -> GenreModel:
        """The untrained model; the plots are the training split's, for what is learned from them beforehand."""


class FittedAtOnce(FamilyConfig):
    """A family with a closed fit on all rows."""

    @abstractmethod
    def fit(self, plots: Sequence[str], labels: np.ndarray) -> GenreModel:
        """The fitted model; labels has shape (N, 9)."""
