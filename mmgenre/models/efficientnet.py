"""EfficientNet on posters, its classifier replaced.

Source: Tan and Le 2019, arXiv:1905.11946.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from mmgenre.labels import GENRES
from mmgenre.models.image import IMAGENET
from mmgenre.models.poster_model import ConvolutionalConfig, ConvolutionalModel, Tensors

# The first convolution, seven stages of blocks, and the last convolution.
_NUM_STAGES = 9


class EfficientNetConfig(ConvolutionalConfig):
    """EfficientNet B0 or B2; a file of weights has torchvision's names."""

    family: Literal["efficientnet"] = "efficientnet"
    variant: Literal["b0", "b2"] = Field("b0", description="b2 is wider and deeper, and made for 260 px")
    frozen_stages: int = Field(
        0, ge=0, le=_NUM_STAGES, description="of the nine, from the bottom, that stay as they are"
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="before the head")

    @property
    def num_frozen(self) -> int:
        """Stages from the bottom that stay as they are."""
        return self.frozen_stages

    @property
    def network(self) -> str:
        """Name of the network."""
        return f"EfficientNet-{self.variant.upper()}"

    def restore(self, assets: Path) -> "EfficientNet":
        """The model's structure; its weights are loaded afterwards."""
        return EfficientNet(self)

    def download(self) -> Tensors:
        """Torchvision's weights."""
        from torchvision.models import get_model_weights  # noqa: PLC0415 - slow to import

        return get_model_weights(f"efficientnet_{self.variant}").IMAGENET1K_V1.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )


class EfficientNet(ConvolutionalModel):
    """The stages of an EfficientNet, their mean over all positions, and one linear layer."""

    pooling = "mean"

    def __init__(self, config: EfficientNetConfig):
        from torchvision.models import get_model  # noqa: PLC0415 - slow to import

        network = get_model(f"efficientnet_{config.variant}", weights=None)
        super().__init__(config, IMAGENET, list(network.features))
        self.feature_dim = network.classifier[1].in_features
        self.dropout = nn.Dropout(config.dropout)
        self.head = config.headed(nn.Linear(self.feature_dim, len(GENRES)))

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """The mean over all positions, shape (B, feature_dim)."""
        return maps.mean((2, 3))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of features, shape (B, 9)."""
        return self.head(self.dropout(features))

    def layers(self) -> nn.Module:
        """The stages under torchvision's names."""
        named = nn.Module()
        named.features = self.stages
        return named
