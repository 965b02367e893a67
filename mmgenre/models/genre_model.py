"""What every model family is to the rest: an encoder of movies, and a module that gives each genre a logit."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from mmgenre.config import Config
from mmgenre.models.genre_graph import GenreGraph
from mmgenre.models.movies import Batch, Encoder, Movies


class GenreModel(nn.Module):
    """A module whose call takes a batch and returns logits, shape (B, 9), columns in GENRES order.

    Parameters below `head` are the head's: they have a learning rate of their own.
    """

    feature_dim: int
    encoder: Encoder
    head: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self._is_frozen = False

    @abstractmethod
    def features(self, batch: Batch) -> torch.Tensor:
        """What the head sees, shape (B, feature_dim)."""

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of features, shape (B, 9)."""
        return self.head(features)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        return self.classify(self.features(batch))

    def depth(self, parameter: str) -> int:
        """Layers above the one that a named parameter is in; 0 everywhere in models without a stack of layers."""
        return 0

    @property
    def parts(self) -> "dict[str, GenreModel]":
        """The models that this one is made of, each of which may have something frozen: itself, under no name."""
        return {"": self}

    def freeze(self) -> None:
        """Stay as it is from here on."""
        self.requires_grad_(False)
        self._is_frozen = True

    @property
    def frozen_modules(self) -> dict[str, nn.Module]:
        """What `frozen` computes with, by name; none: there is nothing that is worth to be kept."""
        below_head = {name: module for name, module in self.named_children() if name != "head"}
        return below_head if self._is_frozen else {}

    @property
    def num_views(self) -> int:
        """Changed views of each movie that `frozen` is computed of in training mode, beside the movie as it is."""
        return 0

    @property
    def frozen_settings(self) -> dict[str, Any]:
        """What else decides what `frozen` computes, as JSON values; the assets aside."""
        return {}

    def frozen(self, batch: Batch) -> torch.Tensor:
        """What no training changes, shape (B, ...); `features` takes it from a batch's `frozen` where there is one."""
        with torch.no_grad():
            return self.features(batch)

    @abstractmethod
    def save_assets(self, directory: Path) -> None:
        """Write what `restore(directory)` of its config needs beside the weights."""


class FamilyConfig(Config):
    """A family's settings."""

    genre_graph: bool = Field(
        False, description="the head's logits are refined over the graph of the genres that go together"
    )

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """What the model reads of a movie: columns of MOVIES."""

    def headed(self, head: nn.Module) -> nn.Module:
        """The head, with a graph behind it where there is to be one."""
        return nn.Sequential(head, GenreGraph()) if self.genre_graph else head

    @property
    def parts(self) -> "dict[str, FamilyConfig]":
        """Those of the model's parts, under the same names."""
        return {"": self}

    @abstractmethod
    def restore(self, assets: Path) -> GenreModel:
        """The model's structure from a checkpoint's assets; its weights are loaded afterwards."""


class ReadsText(FamilyConfig):
    """A family that reads plots."""

    title: bool = Field(False, description="the movie's title is read before its plot")

    @property
    def columns(self) -> tuple[str, ...]:
        """What the model reads of a movie: columns of MOVIES."""
        return ("title", "plot") if self.title else ("plot",)


class ReadsPosters(FamilyConfig):
    """A family that reads posters."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What the model reads of a movie: columns of MOVIES."""
        return ("image",)


class TrainedByGradient(FamilyConfig):
    """A family whose model is built first and then trained in epochs."""

    @abstractmethod
    def build(self, movies: Movies) -> GenreModel:
        """The untrained model; the movies are the training split's, for what is learned from them beforehand."""


class FittedAtOnce(FamilyConfig):
    """A family with a closed fit on all rows."""

    @abstractmethod
    def fit(self, movies: Movies, labels: np.ndarray) -> GenreModel:
        """The fitted model; labels has shape (N, 9)."""
