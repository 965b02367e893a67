"""What the families that read posters share: stages of layers, frozen from the bottom, and their weights."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError

import torch
from pydantic import Field, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mmgenre.errors import InputError
from mmgenre.models.genre_model import GenreModel, ReadsPosters, TrainedByGradient
from mmgenre.models.image import AugmentConfig, ImageEncoder, Normalisation, Preparation
from mmgenre.models.movies import Batch, Movies

Tensors = Mapping[str, torch.Tensor]


class PosterConfig(ReadsPosters, TrainedByGradient):
    """A family that reads posters of one size."""

    height: int = Field(224, ge=32, description="px, to which posters are resized")
    width: int = Field(224, ge=32, description="px, to which posters are resized")
    augment: AugmentConfig | None = Field(AugmentConfig(), description="of posters while learning; null: none")

    @property
    @abstractmethod
    def num_frozen(self) -> int:
        """Stages from the bottom that stay as they are."""

    @model_validator(mode="after")
    def _views_for_frozen_stages(self) -> Self:
        if self.augment is not None and self.augment.views is not None and self.num_frozen == 0:
            raise ValueError("augment.views: nothing is frozen, so no view can be kept; leave it out, or freeze some")
        return self

    def augmentation(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What changes posters at random while a model learns."""
        return None if self.augment is None else self.augment.build(self.height, self.width)


class ConvolutionalConfig(PosterConfig):
    """A convolutional network of torchvision's, with ImageNet's weights or random ones."""

    weights: str | None = Field(
        "torchvision", description="torchvision: ImageNet's, downloaded; or a .safetensors file; none: random"
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _none_is_null(cls, value: object) -> object:
        return None if value == "none" else value

    @property
    @abstractmethod
    def network(self) -> str:
        """Name of the network, as people write it."""

    @abstractmethod
    def download(self) -> Tensors:
        """Torchvision's weights, by torchvision's names."""

    @abstractmethod
    def restore(self, assets: Path) -> "ConvolutionalModel":
        """The model's structure; its weights are loaded afterwards."""

    def build(self, movies: Movies) -> "ConvolutionalModel":
        """A model ready to be trained.

        Raises:
            InputError: its weights cannot be had, or are another network's.
        """
        model = self.restore(Path())
        if self.weights is not None:
            _put_into(model.layers(), _tensors(self.weights, self.download), self.weights, self.network)
        return model


class PosterModel(GenreModel):
    """Stages one after the other, the first ones frozen, then a pooling and a head.

    Args:
        config: of the family.
        normalisation: that its weights were learned with.
        stages: each maps a tensor to a tensor.
    """

    encoder: ImageEncoder
    pooling: str

    def __init__(self, config: PosterConfig, normalisation: Normalisation, stages: Sequence[nn.Module]):
        super().__init__()
        self.encoder = ImageEncoder(config.height, config.width)
        self.preparation = Preparation(normalisation, config.augmentation())
        self.stages = nn.ModuleList(stages)
        self._config = config
        self._num_frozen = config.num_frozen
        self._frozen.requires_grad_(False)

    @abstractmethod
    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """What the head sees of the last stage's output, shape (B, feature_dim)."""

    @property
    def _frozen(self) -> nn.ModuleList:
        return self.stages[: self._num_frozen]

    @property
    def _all_frozen(self) -> bool:
        return self._num_frozen == len(self.stages)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but for frozen stages: their normalisation and dropout must stay as they are, too."""
        super().train(mode)
        self._frozen.eval()
        return self

    def freeze(self) -> None:
        """Stay as it is from here on."""
        super().freeze()
        self._num_frozen = len(self.stages)

    @property
    def frozen_modules(self) -> dict[str, nn.Module]:
        """The frozen stages, where they see the same images in each epoch."""
        augment = self._config.augment
        changes = augment is not None and augment.views is None and not self._is_frozen
        return {"stages": self._frozen} if self._num_frozen and not changes else {}

    @property
    def num_views(self) -> int:
        """Changed views of each poster."""
        return (self._config.augment.views or 0) if self._config.augment else 0

    @property
    def frozen_settings(self) -> dict[str, Any]:
        """The pixels that frozen stages see, and what becomes of the last one's output."""
        seen = self._config.to_settings(without=set(type(self._config).model_fields) - {"height", "width", "augment"})
        normalisation = [value.flatten().tolist() for value in (self.preparation.mean, self.preparation.std)]
        return seen | {"normalisation": normalisation, "pooling": self.pooling if self._all_frozen else None}

    def frozen(self, batch: Batch) -> torch.Tensor:
        """The last frozen stage's output, or if all are frozen what the head sees."""
        with torch.no_grad():
            values = self.preparation(batch["pixels"])
            for stage in self._frozen:
                values = stage(values)
            return self.pool(values) if self._all_frozen else values

    def features(self, batch: Batch) -> torch.Tensor:
        """What the head sees, shape (B, feature_dim)."""
        values = batch["frozen"] if "frozen" in batch else self.frozen(batch)
        if self._all_frozen:
            return values
        for stage in self.stages[self._num_frozen :]:
            values = stage(values)
        return self.pool(values)

    def save_assets(self, directory: Path) -> None:
        """Nothing: the config says it all."""

    def depth(self, parameter: str) -> int:
        """Stages above the one that a named parameter is in."""
        part, _, rest = parameter.partition(".")
        return len(self.stages) - 1 - int(rest.partition(".")[0]) if part == "stages" else 0


class ConvolutionalModel(PosterModel):
    """A network of torchvision's with a head of its own."""

    @abstractmethod
    def layers(self) -> nn.Module:
        """What its weights are for, under torchvision's names."""


def _tensors(source: str, download: Callable[[], Tensors]) -> Tensors:
    if source == "torchvision":
        try:
            return download()
        except (URLError, OSError) as error:
            raise InputError(
                f"model.weights: torchvision's could not be downloaded ({error}); give a .safetensors file with them, "
                "or weights=none for random ones"
            ) from None
    try:
        return load_file(source)
    except (OSError, SafetensorError) as error:
        raise InputError(f"model.weights: {source}: not a .safetensors file that can be read ({error})") from None


def _put_into(layers: nn.Module, tensors: Tensors, source: str, what: str) -> None:
    """Load weights, whatever their floating-point type and whatever else is among them."""
    wanted = layers.state_dict()
    for name, value in wanted.items():
        if name not in tensors:
            raise InputError(f"model.weights: {source}: no {name}; expected weights of {what}")
        if tensors[name].shape != value.shape:
            found, expected = tuple(tensors[name].shape), tuple(value.shape)
            raise InputError(f"model.weights: {source}: {name} has shape {found}, in {what} it has {expected}")
    layers.load_state_dict({name: tensors[name].to(value.dtype) for name, value in wanted.items()})
