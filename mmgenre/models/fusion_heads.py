"""What makes logits of what two towers see: three ways to join plots and posters.

Source: Arevalo et al. 2017, arXiv:1702.01992 (gated multimodal unit).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmgenre.labels import GENRES


@dataclass(frozen=True)
class Seen:
    """What the towers make of B movies.

    Args:
        text: features of the plots, shape (B, D), zero where there is none; None where logits alone are joined.
        image: features of the posters, shape (B, E), in the same way.
        text_logits: of the text tower, shape (B, 9), zero where there is no plot.
        image_logits: of the image tower, shape (B, 9), zero where there is no poster.
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
        """The mean of the logits that there are: where the joint learning begins."""
        return (self.text_logits + self.image_logits) / (self.has_text + self.has_image).clamp(min=1)


class _Scales(nn.Module):
    """Brings the features of both towers to one scale, whatever theirs are."""

    def __init__(self, text_dim: int, image_dim: int):
        super().__init__()
        self.text, self.image = nn.LayerNorm(text_dim), nn.LayerNorm(image_dim)

    def forward(self, seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of the plots and of the posters, zero where there is none."""
        return self.text(seen.text) * seen.has_text, self.image(seen.image) * seen.has_image


class Weighted(nn.Module):
    """The towers' logits, weighted for each genre where there are both; alone, each is left as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((2, len(GENRES)), 0.5))
        self.bias = nn.Parameter(torch.zeros(len(GENRES)))

    def forward(self, seen: Seen) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        weighted = self.weights[0] * seen.text_logits + self.weights[1] * seen.image_logits + self.bias
        return torch.where(seen.has_text * seen.has_image == 1, weighted, seen.mean_logits)


class Corrected(nn.Module):
    """The weighted logits, and a correction made of the features of both towers.

    Args:
        hidden: units.
        dropout: of the units.
        text_dim: size of the text tower's features.
        image_dim: size of the image tower's.
    """

    def __init__(self, hidden: int, dropout: float, text_dim: int, image_dim: int):
        super().__init__()
        self.scales = _Scales(text_dim, image_dim)
        self.weighted = Weighted()
        self._add_layers(hidden, dropout, text_dim, image_dim)

    def forward(self, seen: Seen) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        text, image = self.scales(seen)
        return self.weighted(seen) + self.correction(text, image, seen)

    @abstractmethod
    def _add_layers(self, hidden: int, dropout: float, text_dim: int, image_dim: int) -> None:
        """What `correction` computes with."""

    @abstractmethod
    def correction(self, text: torch.Tensor, image: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Logits to be added, shape (B, 9), given the features on one scale."""


class Concatenated(Corrected):
    """An MLP on both features side by side; these are dropped out, too."""

    def _add_layers(self, hidden: int, dropout: float, text_dim: int, image_dim: int) -> None:
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(text_dim + image_dim + 2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            _silent(hidden),
        )

    def correction(self, text: torch.Tensor, image: torch.Tensor, seen: Seen) -> torch.Tensor:
        """The MLP's output."""
        return self.layers(torch.cat([text, image, seen.has_text, seen.has_image], 1))


class Gated(Corrected):
    """A gated multimodal unit: each of its units has a gate between plot and poster."""

    def _add_layers(self, hidden: int, dropout: float, text_dim: int, image_dim: int) -> None:
        self.text, self.image = nn.Linear(text_dim, hidden), nn.Linear(image_dim, hidden)
        self.gate = nn.Linear(text_dim + image_dim, hidden)
        self.out = nn.Sequential(nn.Dropout(dropout), _silent(hidden))

    def correction(self, text: torch.Tensor, image: torch.Tensor, seen: Seen) -> torch.Tensor:
        """What the units say."""
        gate = torch.sigmoid(self.gate(torch.cat([text, image], 1)))
        # With one of the two alone there is nothing to choose.
        gate = torch.where(seen.has_image == 0, 1.0, torch.where(seen.has_text == 0, 0.0, gate))
        return self.out(gate * torch.tanh(self.text(text)) + (1 - gate) * torch.tanh(self.image(image)))


def _silent(dim: int) -> nn.Linear:
    """A last layer that says nothing until it has learned something."""
    layer = nn.Linear(dim, len(GENRES))
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
