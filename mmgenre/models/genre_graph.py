"""Logits refined by the genres that go together: a graph convolution over their co-occurrence in the training set.

Source: Chen, Wei, Wang, Guo 2019, arXiv:1904.03582 (ML-GCN), here on logits, as a correction that begins silent.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, leaky_relu

from mmgenre.labels import GENRES

_DIM = 16
# How much of a genre's new state comes from its neighbours: the paper's p.
_NEIGHBOURS = 0.2
_STEPS, _LR = 300, 1e-2


class GenreGraph(nn.Module):
    """Two graph convolutions whose nodes are the genres, each with a learned vector that its logit scales.

    Its edges are zero, and it leaves logits as they are, until `learn_edges` has seen labels.
    """

    edges: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.zeros(len(GENRES), len(GENRES)))
        self.genres = nn.Parameter(torch.randn(len(GENRES), _DIM) / _DIM**0.5)
        self.first, self.last = nn.Linear(_DIM, _DIM), nn.Linear(_DIM, 1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Refined logits, shape (B, 9)."""
        nodes = logits.unsqueeze(-1) * self.genres
        nodes = leaky_relu(self.edges @ self.first(nodes), 0.2)
        return logits + (self.edges @ self.last(nodes)).squeeze(-1)


def edges_of(labels: np.ndarray) -> torch.Tensor:
    """Shape (9, 9), rows sum to 1: the share of a genre itself, and of the others by how often they come with it.

    Args:
        labels: shape (N, 9), 0 or 1.
    """
    together = torch.from_numpy(labels.T @ labels).float()
    others = together * (1 - torch.eye(len(GENRES)))
    shares = others / others.sum(1, keepdim=True).clamp(min=1)
    alone = 1 - _NEIGHBOURS * shares.sum(1)
    return _NEIGHBOURS * shares + torch.diag(alone)


def learn_edges(model: nn.Module, labels: np.ndarray) -> None:
    """Set the edges of a model's graphs from training labels, shape (N, 9), but for those that have theirs already."""
    for module in model.modules():
        if isinstance(module, GenreGraph) and not module.edges.any():
            module.edges.copy_(edges_of(labels))


def fit_graph(graph: GenreGraph, logits: np.ndarray, labels: np.ndarray) -> None:
    """Fit a graph by itself, by gradient on all rows at once.

    Args:
        graph: with its edges.
        logits: shape (N, 9), of rows that the model which gave them has not learned from.
        labels: shape (N, 9), 0 or 1.
    """
    seen, wanted = torch.from_numpy(logits).float(), torch.from_numpy(labels).float()
    optimizer = torch.optim.AdamW(graph.parameters(), lr=_LR)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(graph(seen), wanted).backward()
        optimizer.step()
