"""A text tower and an image tower joined: by their features, by gates, or by their logits; either may be missing.

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
from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.clip import ClipConfig
from mmgenre.models.efficientnet import EfficientNetConfig
from mmgenre.models.fusion_heads import Concatenated, Corrected, Gated, Seen, Weighted
from mmgenre.models.genre_model import FamilyConfig, GenreModel, TrainedByGradient
from mmgenre.models.movies import Batch, Encoded, Encoder, Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.transformer import TransformerConfig
from mmgenre.models.vgg import VggConfig

ROLES = ("text", "image")


class Tower(Config):
    """One of the two models that are joined."""

    checkpoint: str | None = Field(None, description="folder of a trained model that is gone on from")
    frozen: bool = Field(False, description="stays as it is, but for what joins the towers")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        model = getattr(self, "model", None)
        if (self.checkpoint is None) == (model is None):
            raise ValueError("give checkpoint=DIR of a trained model, or model, and not both")
        return self


class TextTower(Tower):
    """The model that reads the plot."""

    model: Annotated[TfidfConfig | BilstmConfig | TransformerConfig, Field(discriminator="family")] | None = None


class ImageTower(Tower):
    """The model that reads the poster."""

    model: Annotated[VggConfig | EfficientNetConfig | ClipConfig, Field(discriminator="family")] | None = None


class FusionConfig(TrainedByGradient):
    """Two towers and what joins them."""

    # Whether features are joined, and not logits alone.
    joins_features: ClassVar[bool] = True
    family: str
    text: TextTower
    image: ImageTower
    modality_dropout: float = Field(
        0.3, ge=0, le=1, description="share of the movies with plot and poster of which one is hidden while learning"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """What the two towers read of a movie."""
        return tuple(column for part in self.parts.values() for column in part.columns)

    @property
    def towers(self) -> dict[str, TextTower | ImageTower]:
        """By role."""
        return {"text": self.text, "image": self.image}

    @property
    def parts(self) -> dict[str, FamilyConfig]:
        """The families of the two towers."""
        return {role: _model_of(tower) for role, tower in self.towers.items()}

    @property
    def checkpoints(self) -> dict[str, str]:
        """Folders of the towers that are trained already, by role."""
        return {role: tower.checkpoint for role, tower in self.towers.items() if tower.checkpoint is not None}

    def resolved(self, models: Mapping[str, FamilyConfig]) -> Self:
        """The same with the models that the checkpoints hold, by role, in place of the folders.

        Raises:
            InputError: a checkpoint is not of a model for that role.
        """
        found: dict[str, Any] = {}
        for role, tower in self.towers.items():
            if role not in models:
                found[role] = tower
                continue
            settings = tower.to_settings(without=("checkpoint",)) | {"model": models[role].to_settings()}
            found[role] = type(tower).parse(settings, where=f"model.{role}.checkpoint {tower.checkpoint}")
        return self.model_copy(update=found)

    def build(self, movies: Movies) -> "Fusion":
        """A model ready to be trained, both of its towers built anew."""
        return self.join({}, movies)

    def join(self, trained: Mapping[str, GenreModel], movies: Movies) -> "Fusion":
        """A model ready to be trained.

        Args:
            trained: towers by role.
            movies: of the training split, for what the other towers learn from them beforehand.

        Raises:
            InputError: a tower cannot be built, or its features cannot be joined.
        """
        if self.joins_features and isinstance(self.text.model, TfidfConfig):
            raise InputError(f"model.text: tfidf has no features that {self.family} could join; take late_fusion")
        towers = {role: trained[role] if role in trained else self._built(role, movies) for role in ROLES}
        return Fusion(self, towers["text"], towers["image"])

    def restore(self, assets: Path) -> "Fusion":
        """The model's structure from a checkpoint's assets; its weights are loaded afterwards."""
        towers = {role: part.restore(assets / role) for role, part in self.parts.items()}
        return Fusion(self, towers["text"], towers["image"])

    @abstractmethod
    def joint(self, text_dim: int, image_dim: int) -> nn.Module:
        """What makes logits of two `Seen`, given the sizes of their features."""

    def _built(self, role: str, movies: Movies) -> GenreModel:
        model = _model_of(self.towers[role])
        if not isinstance(model, TrainedByGradient):
            raise InputError(f"model.{role}.model: {model.family} is fitted at once; train it, and give its checkpoint")
        return model.build(movies)


def _model_of(tower: TextTower | ImageTower) -> Any:
    assert tower.model is not None, "resolved() first"  # noqa: S101 - a caller's duty
    return tower.model


class CorrectedFusionConfig(FusionConfig):
    """Features of both towers, which correct their weighted logits."""

    joint_type: ClassVar[type[Corrected]]
    hidden: int = Field(256, ge=1, description="units of what joins the towers")
    dropout: float = Field(0.3, ge=0, lt=1, description="of these units; of concat_fusion's features, too")

    def joint(self, text_dim: int, image_dim: int) -> nn.Module:
        """What corrects the weighted logits."""
        return self.joint_type(self.hidden, self.dropout, text_dim, image_dim)


class ConcatFusionConfig(CorrectedFusionConfig):
    """Features of both towers side by side, and an MLP that corrects their weighted logits."""

    joint_type = Concatenated
    family: Literal["concat_fusion"] = "concat_fusion"


class GatedFusionConfig(CorrectedFusionConfig):
    """Units that correct the weighted logits, each with a gate: how much of it comes from plot and from poster."""

    joint_type = Gated
    family: Literal["gated_fusion"] = "gated_fusion"


class LateFusionConfig(FusionConfig):
    """The logits of both towers, weighted for each genre; alone, each is left as it is."""

    joins_features = False
    family: Literal["late_fusion"] = "late_fusion"

    def joint(self, text_dim: int, image_dim: int) -> nn.Module:
        """Two weights and a bias for each genre."""
        return Weighted()


class FusionEncoder:
    """Encodes plots and posters, each by the encoder of its tower.

    Args:
        text: the text tower's.
        image: the image tower's.
    """

    def __init__(self, text: Encoder, image: Encoder):
        self._text, self._image = text, image

    def encode(self, movies: Movies) -> Encoded:
        """Both kinds of input of all movies."""
        text, image = self._text.encode(movies), self._image.encode(movies)
        return Encoded(text.has_text, image.has_image, text.parts + image.parts)


class Fusion(GenreModel):
    """Two towers, and what joins what they make of a movie.

    Args:
        config: which towers stay as they are, and how they are joined.
        text: reads plots.
        image: reads posters.
    """

    encoder: FusionEncoder

    def __init__(self, config: FusionConfig, text: GenreModel, image: GenreModel):
        super().__init__()
        self.encoder = FusionEncoder(text.encoder, image.encoder)
        self.text, self.image = text, image
        self.feature_dim = text.feature_dim + image.feature_dim if config.joins_features else 2 * len(GENRES)
        self.head = config.headed(config.joint(text.feature_dim, image.feature_dim))
        self._config = config
        self._frozen = [self.parts[role] for role, tower in config.towers.items() if tower.frozen]
        for tower in self._frozen:
            tower.freeze()

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but for frozen towers, whose dropout must not change what they see."""
        super().train(mode)
        for tower in self._frozen:
            tower.eval()
        return self

    @property
    def parts(self) -> dict[str, GenreModel]:
        """The two towers."""
        return {"text": self.text, "image": self.image}

    def features(self, batch: Batch) -> torch.Tensor:
        """What is joined, side by side, zero where there is nothing to see, shape (B, feature_dim)."""
        seen = self._see(batch)
        joined = [seen.text, seen.image] if self._config.joins_features else [seen.text_logits, seen.image_logits]
        return torch.cat(joined, 1)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        return self.head(self._see(batch))

    def depth(self, parameter: str) -> int:
        """As the parameter's tower counts."""
        role, _, rest = parameter.partition(".")
        return self.parts[role].depth(rest) if role in ROLES else 0

    def save_assets(self, directory: Path) -> None:
        """The towers' assets, each in a folder of its own."""
        for role, tower in self.parts.items():
            (directory / role).mkdir()
            tower.save_assets(directory / role)

    def _see(self, batch: Batch) -> Seen:
        has_text, has_image = self._kept(batch["has_text"], batch["has_image"])
        text, image = (tower.features(_batch_of(role, batch)) for role, tower in self.parts.items())
        return Seen(
            text=text * has_text if self._config.joins_features else None,
            image=image * has_image if self._config.joins_features else None,
            text_logits=self.text.classify(text) * has_text,
            image_logits=self.image.classify(image) * has_image,
            has_text=has_text,
            has_image=has_image,
        )

    def _kept(self, has_text: torch.Tensor, has_image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What may be seen, shape (B, 1), 0 or 1; in training the plot or the poster of some movies is hidden."""
        has_text, has_image = has_text.float().unsqueeze(1), has_image.float().unsqueeze(1)
        if not self.training:
            return has_text, has_image
        chance = torch.rand_like(has_text)
        both = has_text * has_image
        hides_text = both * (chance < self._config.modality_dropout / 2)
        hides_image = both * (chance > 1 - self._config.modality_dropout / 2)
        return has_text * (1 - hides_text), has_image * (1 - hides_image)


def _batch_of(role: str, batch: Batch) -> Batch:
    """The batch as a tower reads it: what is kept of its frozen layers has the role's name before it."""
    kept = batch.get(f"{role}_frozen")
    return batch if kept is None else batch | {"frozen": kept}
