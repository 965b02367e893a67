"""The base of the poster families: stages of layers, frozen from the bottom, and their pretrained weights."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mmgenre.errors import InputError
from mmgenre.models.genre_model import GenreModel, GradientTrainedConfig
from mmgenre.models.hub import WeightSource
from mmgenre.models.image import AugmentConfig, ImageEncoder, Normalisation, Preprocessing
from mmgenre.models.movies import Batch, Movies


class PosterConfig(GradientTrainedConfig):
    """A family that reads posters, resized to one size."""

    height: int = Field(224, ge=32, description="poster height after resizing, in pixels")
    width: int = Field(224, ge=32, description="poster width after resizing, in pixels")
    augment: AugmentConfig | None = Field(
        AugmentConfig(), description="augmentation of posters during training; null: none"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of MOVIES that the model reads."""
        return ("image",)

    @property
    @abstractmethod
    def num_frozen(self) -> int:
        """Number of frozen stages, from the bottom."""

    @model_validator(mode="after")
    def _views_need_frozen_stages(self) -> Self:
        if self.augment is not None and self.augment.views is not None and self.num_frozen == 0:
            raise ValueError("augment.views: needs frozen stages to cache views of; remove it, or freeze some stages")
        return self

    def augmentation(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """A function that augments one image; None: no augmentation."""
        return None if self.augment is None else self.augment.build(self.height, self.width)


class ConvolutionalConfig(PosterConfig):
    """A torchvision network with ImageNet weights or random ones."""

    weights: WeightSource = Field(
        "torchvision", description="torchvision: download ImageNet weights; or a .safetensors file; none: random"
    )

    @property
    @abstractmethod
    def network(self) -> str:
        """The network's name in messages and model cards."""

    @property
    @abstractmethod
    def torchvision_name(self) -> str:
        """The network's name in torchvision."""

    @abstractmethod
    def restore(self, assets: Path) -> "ConvolutionalModel":
        """Build the model; the caller loads the weights."""

    def build(self, movies: Movies) -> "ConvolutionalModel":
        """An untrained model.

        Raises:
            InputError: the weights cannot be loaded, or belong to another network.
        """
        model = self.restore(Path())
        if self.weights is not None:
            _load_weights(model.torchvision_layers(), self._pretrained(self.weights), self.weights, self.network)
        return model

    def _pretrained(self, source: str) -> Mapping[str, torch.Tensor]:
        if source == "torchvision":
            return _download(self.torchvision_name)
        try:
            return load_file(source)
        except (OSError, SafetensorError) as error:
            raise InputError(f"model.weights: {source}: not a readable .safetensors file ({error})") from None


class PosterModel(GenreModel):
    """Stages in sequence, the lowest frozen, then pooling and a head.

    Args:
        config: the family's config.
        normalisation: the one that the weights were trained with.
        stages: each maps a tensor to a tensor.
    """

    encoder: ImageEncoder
    pooling: str

    def __init__(self, config: PosterConfig, normalisation: Normalisation, stages: Sequence[nn.Module]):
        super().__init__()
        self.encoder = ImageEncoder(config.height, config.width)
        self.preprocessing = Preprocessing(normalisation, config.augmentation())
        self.stages = nn.ModuleList(stages)
        self._config = config
        self._num_frozen = config.num_frozen
        self._frozen_stages.requires_grad_(False)

    @abstractmethod
    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """The head's input from the last stage's output, shape (B, feature_dim)."""

    @property
    def _frozen_stages(self) -> nn.ModuleList:
        return self.stages[: self._num_frozen]

    @property
    def _all_frozen(self) -> bool:
        return self._num_frozen == len(self.stages)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages stay in evaluation mode, so that batch norm and dropout do not change them."""
        super().train(mode)
        self._frozen_stages.eval()
        return self

    def freeze(self) -> None:
        """Exclude all parameters from training."""
        super().freeze()
        self._num_frozen = len(self.stages)

    @property
    def frozen_modules(self) -> dict[str, nn.Module]:
        """The frozen stages, unless each epoch augments posters anew."""
        augment = self._config.augment
        changes = augment is not None and augment.views is None and not self._is_frozen
        return {"stages": self._frozen_stages} if self._num_frozen and not changes else {}

    @property
    def num_views(self) -> int:
        """Augmented views of each poster to cache, in addition to the original."""
        return (self._config.augment.views or 0) if self._config.augment else 0

    @property
    def frozen_settings(self) -> dict[str, Any]:
        """How pixels are prepared for the frozen stages, and how the last one's output is pooled."""
        seen = self._config.to_settings(without=set(type(self._config).model_fields) - {"height", "width", "augment"})
        normalisation = [value.flatten().tolist() for value in (self.preprocessing.mean, self.preprocessing.std)]
        return seen | {"normalisation": normalisation, "pooling": self.pooling if self._all_frozen else None}

    def frozen(self, batch: Batch) -> torch.Tensor:
        """Output of the last frozen stage; if all stages are frozen, the head's input."""
        with torch.no_grad():
            values = self.preprocessing(batch["pixels"])
            for stage in self._frozen_stages:
                values = stage(values)
            return self.pool(values) if self._all_frozen else values

    def features(self, batch: Batch) -> torch.Tensor:
        """Input of the head, shape (B, feature_dim)."""
        values = batch["frozen"] if "frozen" in batch else self.frozen(batch)
        if self._all_frozen:
            return values
        for stage in self.stages[self._num_frozen :]:
            values = stage(values)
        return self.pool(values)

    def save_assets(self, directory: Path) -> None:
        """Nothing to write: the config describes the whole model."""

    def layers_above(self, parameter: str) -> int:
        """Number of stages above the one that holds the named parameter."""
        part, _, rest = parameter.partition(".")
        return len(self.stages) - 1 - int(rest.partition(".")[0]) if part == "stages" else 0


class ConvolutionalModel(PosterModel):
    """A torchvision network with a new head."""

    @abstractmethod
    def torchvision_layers(self) -> nn.Module:
        """The layers that pretrained weights are loaded into, under torchvision's names."""


def _download(name: str) -> Mapping[str, torch.Tensor]:
    from torchvision.models import get_model_weights  # noqa: PLC0415 - slow to import

    weights = get_model_weights(name).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise InputError(
            f"model.weights: torchvision's could not be downloaded ({error}); give a .safetensors file of them, "
            "or weights=none for random weights"
        ) from None


def _load_weights(layers: nn.Module, tensors: Mapping[str, torch.Tensor], source: str, network: str) -> None:
    """Load the layers' weights, in any floating-point type; other tensors are ignored."""
    state = layers.state_dict()
    for name, value in state.items():
        if name not in tensors:
            raise InputError(f"model.weights: {source}: no {name}; expected weights of {network}")
        if tensors[name].shape != value.shape:
            found, expected = tuple(tensors[name].shape), tuple(value.shape)
            raise InputError(f"model.weights: {source}: {name} has shape {found}, in {network} it has {expected}")
    layers.load_state_dict({name: tensors[name].to(value.dtype) for name, value in state.items()})
