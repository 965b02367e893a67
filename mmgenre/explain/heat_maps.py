"""Which regions of a poster speak for a genre, as a coarse map over the whole poster.

Source: Selvaraju et al. 2017, arXiv:1610.02391 (Grad-CAM), of convolutions; Draelos and Carin 2020, arXiv:2011.08891
(gradient times activation, place by place), of transformers, whose patches are not interchangeable as the positions of
a convolution are. Both computed by captum.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import relu

from mmgenre.models.clip import Clip
from mmgenre.models.poster_model import PosterModel
from mmgenre.models.transformer import layers_of

# Logits of the whole model, shape (B, 9), given features of B posters.
Logits = Callable[[torch.Tensor], torch.Tensor]


def heat_maps(part: PosterModel, pixels: torch.Tensor, logits: Logits, columns: Sequence[int]) -> np.ndarray:
    """What of one poster speaks for each of G genres: shape (G, h, w), float32, the largest of each map 1.

    h and w are those of the last convolution's output or of the patches; a map is zero where nothing speaks for the
    genre.

    Args:
        part: what reads the poster, frozen and in evaluation mode: the model that gives the logits, or a tower of it.
        pixels: as its encoder makes them, shape (1, 3, H, W), on its device.
        logits: see Logits.
        columns: of the genres.
    """
    with torch.no_grad():
        values = part.preparation(pixels)
        # What lies below the last stage is the same for each genre, and needs no gradient.
        for stage in part.stages[:-1]:
            values = stage(values)

    def from_last_stage(below: torch.Tensor) -> torch.Tensor:
        return logits(part.pool(part.stages[-1](below)))

    below = values.expand(len(columns), *values.shape[1:])
    if isinstance(part, Clip):
        maps = _of_patches(part, from_last_stage, below, columns)
    else:
        maps = _of_convolutions(part.stages[-1], from_last_stage, below, columns)
    found = relu(maps.detach()).float().cpu().numpy()
    return found / np.maximum(found.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)


def without_changes_in_place(model: nn.Module) -> None:
    """Let no layer overwrite its input, which may be what a gradient is asked of."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def _of_convolutions(stage: nn.Module, logits: Logits, below: torch.Tensor, columns: Sequence[int]) -> torch.Tensor:
    from captum.attr import LayerGradCam  # noqa: PLC0415 - slow to import

    layer = _activation_of_last_convolution(stage)
    return LayerGradCam(logits, layer).attribute(below, target=list(columns)).squeeze(1)


def _activation_of_last_convolution(stage: nn.Module) -> nn.Module:
    """What follows the last convolution of a stage and is no pooling: as the paper has it, the rectified maps."""
    layers = [module for module in stage.modules() if not list(module.children())]
    last = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    following = [layer for layer in layers[last + 1 :] if not isinstance(layer, nn.MaxPool2d)]
    return following[-1] if following else layers[last]


def _of_patches(part: Clip, logits: Logits, below: torch.Tensor, columns: Sequence[int]) -> torch.Tensor:
    """Of what the last layer's attention reads: beyond it, what becomes of the patches is of no account.

    The output of the layer's first normalisation, because a gradient through a normalisation is at a right angle to
    its input, and their product nothing.
    """
    from captum.attr import LayerGradientXActivation  # noqa: PLC0415 - slow to import

    stage: Any = part.stages[0]
    last = layers_of(stage.backbone)[-1]
    layer = next(child for child in last.children() if "norm" in type(child).__name__.lower())
    tokens = LayerGradientXActivation(logits, layer).attribute(below, target=list(columns)).sum(2)
    patch = stage.backbone.config.patch_size
    height, width = (side // patch for side in below.shape[2:])
    # The image's own token, and registers where there are any, come first.
    return tokens[:, tokens.shape[1] - height * width :].view(-1, height, width)
