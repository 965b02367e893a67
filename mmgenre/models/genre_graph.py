"""Refines logits with a graph convolution over genres that co-occur in the training split.

Source: Chen, Wei, Wang, Guo 2019, arXiv:1904.03582 (ML-GCN); here applied to logits, as a correction that starts at 0.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, leaky_relu

from mmgenre.labels import GENRES

_DIM = 16
# Weight of a genre's neighbours in its new state: p in the paper.
_NEIGHBOURS = 0.2
_STEPS, _LR = 300, 1e-2


class GenreGraph(nn.Module):
    """Two graph convolutions; each node is a genre with a learned vector, scaled by the genre's logit.

    Edges are zero, and logits pass through unchanged, until `set_graph_edges` is called.
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


def cooccurrence_edges(labels: np.ndarray) -> torch.Tensor:
    """Row-normalized edge weights, shape (9, 9): a genre's own weight, and its neighbours' by co-occurrence.

    Args:
        labels: shape (N, 9), 0 or 1.
    """
    counts = torch.from_numpy(labels.T @ labels).float()
    others = counts * (1 - torch.eye(len(GENRES)))
    shares = others / others.sum(1, keepdim=True).clamp(min=1)
    own = 1 - _NEIGHBOURS * shares.sum(1)
    return _NEIGHBOURS * shares + torch.diag(own)


def set_graph_edges(model: nn.Module, labels: np.ndarray) -> None:
    """Set the edges of every graph in a model from training labels, shape (N, 9). Edges already set are kept."""
    for module in model.modules():
        if isinstance(module, GenreGraph) and not module.edges.any():
            module.edges.copy_(cooccurrence_edges(labels))


def fit_graph(graph: GenreGraph, logits: np.ndarray, labels: np.ndarray) -> None:
    """Fit only the graph, by gradient descent on all rows at once.

    Args:
        graph: a graph whose edges are set.
        logits: shape (N, 9), from a model that was not fitted on these rows.
        labels: shape (N, 9), 0 or 1.
    """
    inputs, targets = torch.from_numpy(logits).float(), torch.from_numpy(labels).float()
    optimizer = torch.optim.AdamW(graph.parameters(), lr=_LR)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(graph(inputs), targets).backward()
        optimizer.step()
