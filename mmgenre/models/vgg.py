"""VGG-16 on posters, with the published genre head or a light one.

Source: Simonyan and Zisserman 2015, arXiv:1409.1556.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from mmgenre.labels import GENRES
from mmgenre.models.image import IMAGENET
from mmgenre.models.poster_model import ConvolutionalConfig, ConvolutionalModel

_CHANNELS = 512
# Each block ends with pooling that halves height and width.
_NUM_BLOCKS = 5


class VggConfig(ConvolutionalConfig):
    """VGG-16. A weights file needs the convolution layers only, under torchvision's names."""

    family: Literal["vgg"] = "vgg"
    height: int = Field(200, ge=32, description="poster height after resizing, in pixels")
    width: int = Field(150, ge=32, description="poster width after resizing, in pixels")
    frozen_blocks: int = Field(5, ge=0, le=_NUM_BLOCKS, description="frozen blocks of the five, from the bottom")
    head: Literal["published", "light"] = Field(
        "published",
        description="published: 2056 and 1024 units on all positions; light: hidden units on their mean and maximum",
    )
    hidden: int = Field(512, ge=1, description="units of the light head")
    dropout: float = Field(0.6, ge=0, lt=1, description="dropout before the last layer")

    @property
    def num_frozen(self) -> int:
        """Number of frozen blocks, from the bottom."""
        return self.frozen_blocks

    @property
    def network(self) -> str:
        """The network's name in messages and model cards."""
        return "VGG-16"

    @property
    def torchvision_name(self) -> str:
        """The network's name in torchvision."""
        return "vgg16"

    def restore(self, assets: Path) -> "Vgg":
        """Build the model; the caller loads the weights."""
        return Vgg(self)


class Vgg(ConvolutionalModel):
    """The five blocks of VGG-16 and a head."""

    def __init__(self, config: VggConfig):
        from torchvision.models.vgg import cfgs, make_layers  # noqa: PLC0415 - slow to import

        blocks: list[nn.Sequential] = [nn.Sequential()]
        for name, layer in make_layers(cfgs["D"]).named_children():
            blocks[-1].add_module(name, layer)
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(layer, nn.MaxPool2d):
                blocks.append(nn.Sequential())
        super().__init__(config, IMAGENET, blocks[:_NUM_BLOCKS])
        self.pooling = "mean and maximum" if config.head == "light" else "none"
        positions = (config.height // 2**_NUM_BLOCKS) * (config.width // 2**_NUM_BLOCKS)
        self.feature_dim = _CHANNELS * (2 if config.head == "light" else positions)
        head = _light_head if config.head == "light" else _published_head
        self.head = config.headed(head(self.feature_dim, config))

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """All positions flattened, or their mean and maximum: shape (B, feature_dim)."""
        if self.pooling != "none":
            return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)
        return maps.flatten(1)

    def torchvision_layers(self) -> nn.Module:
        """The convolutions under torchvision's names."""
        named = nn.Module()
        named.features = nn.ModuleDict({name: layer for block in self.stages for name, layer in block.named_children()})
        return named


def _published_head(feature_dim: int, config: VggConfig) -> nn.Module:
    return nn.Sequential(
        nn.Linear(feature_dim, 2056),
        nn.ReLU(),
        nn.Linear(2056, 1024),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        nn.Linear(1024, len(GENRES)),
    )


def _light_head(feature_dim: int, config: VggConfig) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(feature_dim),
        nn.Linear(feature_dim, config.hidden),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, len(GENRES)),
    )
