"""EfficientNet on posters, with a new classifier.

Source: Tan and Le 2019, arXiv:1905.11946.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from mmgenre.labels import GENRES
from mmgenre.models.image import IMAGENET
from mmgenre.models.poster_model import ConvolutionalConfig, ConvolutionalModel

# The first convolution, seven stages of blocks, and the last convolution.
_NUM_STAGES = 9


class EfficientNetConfig(ConvolutionalConfig):
    """EfficientNet B0 or B2. A weights file uses torchvision's names."""

    family: Literal["efficientnet"] = "efficientnet"
    variant: Literal["b0", "b2"] = Field("b0", description="b2 is wider and deeper, designed for 260 px")
    frozen_stages: int = Field(0, ge=0, le=_NUM_STAGES, description="frozen stages of the nine, from the bottom")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the head")

    @property
    def num_frozen(self) -> int:
        """Number of frozen stages, from the bottom."""
        return self.frozen_stages

    @property
    def network(self) -> str:
        """The network's name in messages and model cards."""
        return f"EfficientNet-{self.variant.upper()}"

    @property
    def torchvision_name(self) -> str:
        """The network's name in torchvision."""
        return f"efficientnet_{self.variant}"

    def restore(self, assets: Path) -> "EfficientNet":
        """Build the model; the caller loads the weights."""
        return EfficientNet(self)


class EfficientNet(ConvolutionalModel):
    """The stages of an EfficientNet, mean pooling, and one linear layer."""

    pooling = "mean"

    def __init__(self, config: EfficientNetConfig):
        from torchvision.models import get_model  # noqa: PLC0415 - slow to import

        network = get_model(config.torchvision_name, weights=None)
        super().__init__(config, IMAGENET, list(network.features))
        self.feature_dim = network.classifier[1].in_features
        self.dropout = nn.Dropout(config.dropout)
        self.head = config.headed(nn.Linear(self.feature_dim, len(GENRES)))

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """The mean over all positions, shape (B, feature_dim)."""
        return maps.mean((2, 3))

    def torchvision_layers(self) -> nn.Module:
        """The stages under torchvision's names."""
        named = nn.Module()
        named.features = self.stages
        return named
