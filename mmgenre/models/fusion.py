"""A text tower and an image tower, fused by features, gates or logits. Either input may be missing.

Source: Neverova et al. 2016, arXiv:1501.00102 (modality dropout).
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.families import PosterModelConfig, TextModelConfig
from mmgenre.models.fusion_heads import (
    ConcatCorrection,
    CorrectedLogits,
    GatedCorrection,
    TowerOutputs,
    WeightedLogits,
)
from mmgenre.models.genre_model import FamilyConfig, GenreModel, GradientTrainedConfig
from mmgenre.models.movies import Batch, EncodedMovies, Encoder, Movies
from mmgenre.models.tfidf import TfidfConfig

ROLES = ("text", "image")


class TowerConfig(Config):
    """One of the two fused models."""

    checkpoint: str | None = Field(None, description="folder of a trained model to start from")
    frozen: bool = Field(False, description="freeze this tower and train only the rest")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        model = getattr(self, "model", None)
        if (self.checkpoint is None) == (model is None):
            raise ValueError("give either checkpoint=DIR of a trained model, or model, but not both")
        return self


class TextTowerConfig(TowerConfig):
    """The model that reads the plot."""

    model: Annotated[TextModelConfig, Field(discriminator="family")] | None = None


class ImageTowerConfig(TowerConfig):
    """The model that reads the poster."""

    model: Annotated[PosterModelConfig, Field(discriminator="family")] | None = None


class FusionConfig(GradientTrainedConfig):
    """Two towers and the head that fuses them."""

    # Whether the head reads features as well as logits.
    fuses_features: ClassVar[bool] = True
    family: str
    text: TextTowerConfig
    image: ImageTowerConfig
    modality_dropout: float = Field(
        0.3, ge=0, le=1, description="share of training movies with both inputs of which one input is hidden"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of MOVIES that the two towers read."""
        return tuple(column for part in self.parts.values() for column in part.columns)

    @property
    def towers(self) -> dict[str, TextTowerConfig | ImageTowerConfig]:
        """Tower configs by role."""
        return {"text": self.text, "image": self.image}

    @property
    def parts(self) -> dict[str, FamilyConfig]:
        """Family configs of the towers by role."""
        return {role: _model_of(tower) for role, tower in self.towers.items()}

    @property
    def checkpoints(self) -> dict[str, str]:
        """Folders of the trained towers by role."""
        return {role: tower.checkpoint for role, tower in self.towers.items() if tower.checkpoint is not None}

    def resolved(self, models: Mapping[str, FamilyConfig]) -> Self:
        """This config with each tower's checkpoint folder replaced by the model config found in it.

        Args:
            models: model configs read from the checkpoints, by role.

        Raises:
            InputError: a checkpoint holds a model that cannot fill its role.
        """
        towers: dict[str, Any] = dict(self.towers)
        for role, model in models.items():
            tower = towers[role]
            settings = tower.to_settings(without=("checkpoint",)) | {"model": model.to_settings()}
            towers[role] = type(tower).parse(settings, where=f"model.{role}.checkpoint {tower.checkpoint}")
        return self.model_copy(update=towers)

    def build(self, movies: Movies) -> "Fusion":
        """An untrained model with two new towers."""
        return self.join({}, movies)

    def join(self, trained: Mapping[str, GenreModel], movies: Movies) -> "Fusion":
        """A model ready for training.

        Args:
            trained: trained towers by role; the others are built.
            movies: the training split, from which the other towers build their vocabularies.

        Raises:
            InputError: a tower cannot be built, or has no features to fuse.
        """
        if self.fuses_features and isinstance(self.text.model, TfidfConfig):
            raise InputError(f"model.text: tfidf has no features for {self.family} to fuse; use late_fusion")
        towers = {role: trained[role] if role in trained else self._build_tower(role, movies) for role in ROLES}
        return Fusion(self, towers["text"], towers["image"])

    def restore(self, assets: Path) -> "Fusion":
        """Build the model from a checkpoint's assets; the caller loads the weights."""
        towers = {role: part.restore(assets / role) for role, part in self.parts.items()}
        return Fusion(self, towers["text"], towers["image"])

    @abstractmethod
    def fusion_head(self, text_dim: int, image_dim: int) -> nn.Module:
        """A module that maps `TowerOutputs` to logits, for features of these sizes."""

    def _build_tower(self, role: str, movies: Movies) -> GenreModel:
        model = _model_of(self.towers[role])
        if not isinstance(model, GradientTrainedConfig):
            raise InputError(
                f"model.{role}.model: {model.family} cannot be trained inside a fusion; "
                f"train it by itself, then give model.{role}.checkpoint=DIR"
            )
        return model.build(movies)


def _model_of(tower: TowerConfig) -> Any:
    model = getattr(tower, "model", None)
    assert model is not None, "resolved() first"  # noqa: S101 - the caller's responsibility
    return model


class CorrectedFusionConfig(FusionConfig):
    """Weighted logits of both towers plus a correction from their features."""

    head_type: ClassVar[type[CorrectedLogits]]
    hidden: int = Field(256, ge=1, description="units of the fusion head")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout on these units; in concat_fusion on features, too")

    def fusion_head(self, text_dim: int, image_dim: int) -> nn.Module:
        """Weighted logits plus a correction."""
        return self.head_type(self.hidden, self.dropout, text_dim, image_dim)


class ConcatFusionConfig(CorrectedFusionConfig):
    """Corrects the towers' weighted logits with an MLP on their concatenated features."""

    head_type = ConcatCorrection
    family: Literal["concat_fusion"] = "concat_fusion"


class GatedFusionConfig(CorrectedFusionConfig):
    """Corrects the towers' weighted logits with units whose gates mix plot and poster."""

    head_type = GatedCorrection
    family: Literal["gated_fusion"] = "gated_fusion"


class LateFusionConfig(FusionConfig):
    """Weights the towers' logits per genre; a tower whose counterpart has no input is used as it is."""

    fuses_features = False
    family: Literal["late_fusion"] = "late_fusion"

    def fusion_head(self, text_dim: int, image_dim: int) -> nn.Module:
        """Two weights and a bias per genre."""
        return WeightedLogits()


AnyFusionConfig = ConcatFusionConfig | GatedFusionConfig | LateFusionConfig


class FusionEncoder:
    """Encodes plots and posters with the encoders of the two towers.

    Args:
        text: the text tower's encoder.
        image: the image tower's encoder.
    """

    def __init__(self, text: Encoder, image: Encoder):
        self._text, self._image = text, image

    def encode(self, movies: Movies) -> EncodedMovies:
        """Both inputs of all movies."""
        text, image = self._text.encode(movies), self._image.encode(movies)
        return EncodedMovies(text.has_text, image.has_image, text.inputs + image.inputs)


class Fusion(GenreModel):
    """Two towers and a head that fuses their outputs.

    Args:
        config: how to fuse, and which towers are frozen.
        text: reads plots.
        image: reads posters.
    """

    encoder: FusionEncoder

    def __init__(self, config: FusionConfig, text: GenreModel, image: GenreModel):
        super().__init__()
        self.encoder = FusionEncoder(text.encoder, image.encoder)
        self.text, self.image = text, image
        self.feature_dim = text.feature_dim + image.feature_dim if config.fuses_features else 2 * len(GENRES)
        self.head = config.headed(config.fusion_head(text.feature_dim, image.feature_dim))
        self._config = config
        self._frozen_towers = [self.parts[role] for role, tower in config.towers.items() if tower.frozen]
        for tower in self._frozen_towers:
            tower.freeze()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen towers stay in evaluation mode, without dropout."""
        super().train(mode)
        for tower in self._frozen_towers:
            tower.eval()
        return self

    @property
    def parts(self) -> dict[str, GenreModel]:
        """The two towers by role."""
        return {"text": self.text, "image": self.image}

    def features(self, batch: Batch) -> torch.Tensor:
        """Concatenated features or logits, zero where an input is missing, shape (B, feature_dim)."""
        towers = self._tower_outputs(batch)
        fused = (
            [towers.text, towers.image] if self._config.fuses_features else [towers.text_logits, towers.image_logits]
        )
        return torch.cat(fused, 1)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        return self.head(self._tower_outputs(batch))

    def layers_above(self, parameter: str) -> int:
        """The tower's own count for its parameters; 0 for the head's."""
        role, _, rest = parameter.partition(".")
        return self.parts[role].layers_above(rest) if role in ROLES else 0

    def save_assets(self, directory: Path) -> None:
        """Write each tower's assets into its own folder."""
        for role, tower in self.parts.items():
            (directory / role).mkdir()
            tower.save_assets(directory / role)

    def _tower_outputs(self, batch: Batch) -> TowerOutputs:
        has_text, has_image = self._visible(batch["has_text"], batch["has_image"])
        (text, text_logits), (image, image_logits) = (self._tower_output(role, batch) for role in self.parts)
        return TowerOutputs(
            text=text * has_text if self._config.fuses_features else None,
            image=image * has_image if self._config.fuses_features else None,
            text_logits=text_logits * has_text,
            image_logits=image_logits * has_image,
            has_text=has_text,
            has_image=has_image,
        )

    def _tower_output(self, role: str, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and logits of a tower for B movies.

        A tower in training mode sees only the movies that have its input: black images would move the statistics of its
        batch norm. The other movies' outputs are zero.
        """
        tower, has_input, inputs = self.parts[role], batch[f"has_{role}"], _tower_batch(role, batch)
        if not tower.training or bool(has_input.all()):
            features = tower.features(inputs)
            return features, tower.classify(features)
        rows = has_input.nonzero().squeeze(1)
        if not len(rows):
            # Every parameter needs a gradient, or DDP waits for it forever.
            nothing = torch.zeros((len(has_input), 1), device=has_input.device)
            for value in filter(lambda value: value.requires_grad, tower.parameters()):
                nothing = nothing + value.sum() * 0
            return nothing.expand(-1, tower.feature_dim), nothing.expand(-1, len(GENRES))
        # Batch norm cannot normalize a single value, so that a single movie is given twice.
        seen = rows if len(rows) > 1 else rows.repeat(2)
        features = tower.features({name: values.index_select(0, seen) for name, values in inputs.items()})
        return _spread(features, rows, len(has_input)), _spread(tower.classify(features), rows, len(has_input))

    def _visible(self, has_text: torch.Tensor, has_image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks of visible plots and posters, shape (B, 1), 0 or 1; modality dropout hides some in training mode."""
        has_text, has_image = has_text.float().unsqueeze(1), has_image.float().unsqueeze(1)
        if not self.training:
            return has_text, has_image
        draw = torch.rand_like(has_text)
        both = has_text * has_image
        hides_text = both * (draw < self._config.modality_dropout / 2)
        hides_image = both * (draw > 1 - self._config.modality_dropout / 2)
        return has_text * (1 - hides_text), has_image * (1 - hides_image)


def _spread(values: torch.Tensor, rows: torch.Tensor, size: int) -> torch.Tensor:
    """Shape (size, D): the first values at the given rows, zero elsewhere."""
    return values.new_zeros(size, values.shape[1]).index_copy(0, rows, values[: len(rows)])


def _tower_batch(role: str, batch: Batch) -> Batch:
    """The batch for one tower: its cached outputs, if any, are in the batch under `ROLE_frozen`."""
    cached = batch.get(f"{role}_frozen")
    return batch if cached is None else batch | {"frozen": cached}
