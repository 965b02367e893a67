"""The heads of fusions: three ways to combine the outputs of a text tower and an image tower into logits.

Source: Arevalo et al. 2017, arXiv:1702.01992 (gated multimodal unit).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmgenre.labels import GENRES


@dataclass(frozen=True)
class TowerOutputs:
    """Outputs of both towers for B movies. Where an input is missing, its tower's outputs are zero.

    Args:
        text: plot features, shape (B, D); None if only logits are fused.
        image: poster features, shape (B, E); None if only logits are fused.
        text_logits: shape (B, 9).
        image_logits: shape (B, 9).
        has_text: shape (B, 1), 0 or 1.
        has_image: shape (B, 1), 0 or 1.
    """

    text: Any
    image: Any
    text_logits: torch.Tensor
    image_logits: torch.Tensor
    has_text: torch.Tensor
    has_image: torch.Tensor

    @property
    def mean_logits(self) -> torch.Tensor:
        """The mean of the towers that have an input, shape (B, 9)."""
        return (self.text_logits + self.image_logits) / (self.has_text + self.has_image).clamp(min=1)


class _Scales(nn.Module):
    """Brings the features of both towers to one scale."""

    def __init__(self, text_dim: int, image_dim: int):
        super().__init__()
        self.text, self.image = nn.LayerNorm(text_dim), nn.LayerNorm(image_dim)

    def forward(self, towers: TowerOutputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalized features of plots and posters, zero where the input is missing."""
        return self.text(towers.text) * towers.has_text, self.image(towers.image) * towers.has_image


class WeightedLogits(nn.Module):
    """A weighted sum of the towers' logits per genre; a tower whose counterpart has no input is used as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((2, len(GENRES)), 0.5))
        self.bias = nn.Parameter(torch.zeros(len(GENRES)))

    def forward(self, towers: TowerOutputs) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        weighted = self.weights[0] * towers.text_logits + self.weights[1] * towers.image_logits + self.bias
        return torch.where(towers.has_text * towers.has_image == 1, weighted, towers.mean_logits)


class CorrectedLogits(nn.Module):
    """Weighted logits plus a correction computed from the features of both towers.

    Args:
        hidden: units.
        dropout: dropout on the units.
        text_dim: size of the text tower's features.
        image_dim: size of the image tower's features.
    """

    def __init__(self, hidden: int, dropout: float, text_dim: int, image_dim: int):
        super().__init__()
        self.scales = _Scales(text_dim, image_dim)
        self.weighted = WeightedLogits()
        self._add_layers(hidden, dropout, text_dim, image_dim)

    def forward(self, towers: TowerOutputs) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        text, image = self.scales(towers)
        return self.weighted(towers) + self.correction(text, image, towers)

    @abstractmethod
    def _add_layers(self, hidden: int, dropout: float, text_dim: int, image_dim: int) -> None:
        """Create the layers that `correction` uses."""

    @abstractmethod
    def correction(self, text: torch.Tensor, image: torch.Tensor, towers: TowerOutputs) -> torch.Tensor:
        """Logits to add, shape (B, 9), from normalized features."""


class ConcatCorrection(CorrectedLogits):
    """An MLP on the concatenated features; dropout applies to the features, too."""

    def _add_layers(self, hidden: int, dropout: float, text_dim: int, image_dim: int) -> None:
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(text_dim + image_dim + 2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            _zero_linear(hidden),
        )

    def correction(self, text: torch.Tensor, image: torch.Tensor, towers: TowerOutputs) -> torch.Tensor:
        """Output of the MLP."""
        return self.layers(torch.cat([text, image, towers.has_text, towers.has_image], 1))


class GatedCorrection(CorrectedLogits):
    """A gated multimodal unit: a gate per unit mixes plot and poster."""

    def _add_layers(self, hidden: int, dropout: float, text_dim: int, image_dim: int) -> None:
        self.text, self.image = nn.Linear(text_dim, hidden), nn.Linear(image_dim, hidden)
        self.gate = nn.Linear(text_dim + image_dim, hidden)
        self.out = nn.Sequential(nn.Dropout(dropout), _zero_linear(hidden))

    def correction(self, text: torch.Tensor, image: torch.Tensor, towers: TowerOutputs) -> torch.Tensor:
        """Output of the gated units."""
        gate = torch.sigmoid(self.gate(torch.cat([text, image], 1)))
        # With a single input there is nothing to mix.
        gate = torch.where(towers.has_image == 0, 1.0, torch.where(towers.has_text == 0, 0.0, gate))
        return self.out(gate * torch.tanh(self.text(text)) + (1 - gate) * torch.tanh(self.image(image)))


def _zero_linear(dim: int) -> nn.Linear:
    """A last layer that outputs 0 until it is trained."""
    layer = nn.Linear(dim, len(GENRES))
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
