"""The interface of every model family: a config, an encoder of movies, and a module that returns logits."""

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
    """Maps a batch to logits, shape (B, 9), columns in GENRES order.

    Parameters under `head` are trained at the head's learning rate, all others at the backbone's.
    """

    feature_dim: int
    encoder: Encoder
    head: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self._is_frozen = False
        self.dropout: nn.Module = nn.Identity()

    @abstractmethod
    def features(self, batch: Batch) -> torch.Tensor:
        """Input of the head, shape (B, feature_dim)."""

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits from features, shape (B, 9)."""
        return self.head(self.dropout(features))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        return self.classify(self.features(batch))

    def layers_above(self, parameter: str) -> int:
        """Number of layers above the one that holds the named parameter; 0 in a model without stacked layers."""
        return 0

    @property
    def parts(self) -> "dict[str, GenreModel]":
        """The towers by role; a model without towers is its own only part, under the role ""."""
        return {"": self}

    def freeze(self) -> None:
        """Exclude all parameters from training."""
        self.requires_grad_(False)
        self._is_frozen = True

    @property
    def frozen_modules(self) -> dict[str, nn.Module]:
        """The modules that `frozen` runs, by name; empty when caching their output would not pay."""
        if not self._is_frozen:
            return {}
        return {name: module for name, module in self.named_children() if name not in ("head", "dropout")}

    @property
    def num_views(self) -> int:
        """Augmented views of each movie to cache, in addition to the original."""
        return 0

    @property
    def frozen_settings(self) -> dict[str, Any]:
        """Settings that affect the output of `frozen`, as JSON values, besides the assets."""
        return {}

    def frozen(self, batch: Batch) -> torch.Tensor:
        """Output of the frozen modules, shape (B, ...). `features` reads it from `batch["frozen"]` if present."""
        with torch.no_grad():
            return self.features(batch)

    @abstractmethod
    def save_assets(self, directory: Path) -> None:
        """Write the files that the config's `restore` needs, besides the weights."""


class FamilyConfig(Config):
    """Settings of one model family."""

    genre_graph: bool = Field(False, description="refine the head's logits with a graph of genres that co-occur")

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns of MOVIES that the model reads."""

    def headed(self, head: nn.Module) -> nn.Module:
        """The head, followed by a genre graph if `genre_graph` is set."""
        return nn.Sequential(head, GenreGraph()) if self.genre_graph else head

    @property
    def parts(self) -> "dict[str, FamilyConfig]":
        """Configs of the model's parts, by the same roles as `GenreModel.parts`."""
        return {"": self}

    @abstractmethod
    def restore(self, assets: Path) -> GenreModel:
        """Build the model from a checkpoint's assets; the caller loads the weights."""


class TextFamilyConfig(FamilyConfig):
    """A family that reads plots."""

    title: bool = Field(False, description="read the title before the plot")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of MOVIES that the model reads."""
        return ("title", "plot") if self.title else ("plot",)


class GradientTrainedConfig(FamilyConfig):
    """A family whose model is built first, then trained in epochs."""

    @abstractmethod
    def build(self, movies: Movies) -> GenreModel:
        """The untrained model. `movies` is the training split, from which vocabularies are built."""


class DirectlyFittedConfig(FamilyConfig):
    """A family that is fitted on all rows in one call, without epochs."""

    @abstractmethod
    def fit(self, movies: Movies, labels: np.ndarray) -> GenreModel:
        """The fitted model; labels have shape (N, 9)."""
