"""Heat maps: which regions of a poster speak for a genre, and how they are shown on the poster.

Source: Selvaraju et al. 2017, arXiv:1610.02391 (Grad-CAM) for convolutions; Draelos and Carin 2020, arXiv:2011.08891
(gradient times activation per position) for vision transformers, whose patches, unlike the positions of a convolution,
are not interchangeable. Both computed by captum.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import nn
from torch.nn.functional import relu

from mmgenre.models.backbone_layers import transformer_layers
from mmgenre.models.clip import Clip
from mmgenre.models.poster_model import PosterModel

# Maps the features of B posters to the logits of the whole model, shape (B, 9).
Logits = Callable[[torch.Tensor], torch.Tensor]
# Brightness of cold regions, exponent of brightness over heat, heat at the outline, and its colour, which stands out
# from skin, sky and night.
_DIMMED, _GAMMA, _OUTLINE_HEAT, _OUTLINE_COLOUR = 0.35, 0.7, 0.5, (255, 176, 0)


def heat_maps(part: PosterModel, pixels: torch.Tensor, logits: Logits, columns: Sequence[int]) -> np.ndarray:
    """Compute which regions of one poster speak for each of G genres.

    Args:
        part: the poster model or poster tower, frozen and in evaluation mode.
        pixels: encoded poster, shape (1, 3, H, W), on the model's device.
        logits: see Logits.
        columns: indices of the genres.

    Returns:
        Shape (G, h, w), float32, at the resolution of the last convolution or of the patches. The maximum of each map
        is 1; a map is all 0 if nothing supports the genre.
    """
    with torch.no_grad():
        values = part.preprocessing(pixels)
        # The stages below the last one are the same for all genres and need no gradient.
        for stage in part.stages[:-1]:
            values = stage(values)

    def from_last_stage(below: torch.Tensor) -> torch.Tensor:
        return logits(part.pool(part.stages[-1](below)))

    below = values.expand(len(columns), *values.shape[1:])
    if isinstance(part, Clip):
        maps = _patch_maps(part, from_last_stage, below, columns)
    else:
        maps = _convolution_maps(part.stages[-1], from_last_stage, below, columns)
    heat = relu(maps.detach()).float().cpu().numpy()
    return heat / np.maximum(heat.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)


def overlay(image: bytes, heat: np.ndarray, max_side: int = 480, kind: Literal["jpeg", "png"] = "jpeg") -> bytes:
    """Light up the hot regions of a poster and outline the hottest; the rest is dark and grey.

    Brightness alone carries the information, so that it does not depend on telling colours apart.

    Args:
        image: a JPEG.
        heat: shape (h, w), in [0, 1], over the whole poster.
        max_side: longest side of the result in pixels; smaller posters are not enlarged.
        kind: format of the result.

    Raises:
        OSError: the image cannot be decoded.
    """
    poster = Image.open(io.BytesIO(image), formats=("JPEG",)).convert("RGB")
    poster.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    enlarged = Image.fromarray(heat.astype(np.float32)).resize(poster.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(enlarged), 0, 1)
    colours = np.asarray(poster, np.float32)
    dimmed = _DIMMED * colours.mean(2, keepdims=True)
    pixels = dimmed + (colours - dimmed) * strength[..., None] ** _GAMMA
    core = Image.fromarray(np.uint8(255) * (strength >= _OUTLINE_HEAT))
    outline = np.asarray(core.filter(ImageFilter.MaxFilter(5))) ^ np.asarray(core)
    pixels[outline > 0] = _OUTLINE_COLOUR
    content = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(content, kind, quality=85)
    return content.getvalue()


def disable_inplace(model: nn.Module) -> None:
    """Make no layer overwrite its input, because gradients may be taken with respect to it."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def _convolution_maps(stage: nn.Module, logits: Logits, below: torch.Tensor, columns: Sequence[int]) -> torch.Tensor:
    """Grad-CAM at the activation of the last convolution."""
    from captum.attr import LayerGradCam  # noqa: PLC0415 - slow to import

    layer = _activation_of_last_convolution(stage)
    return LayerGradCam(logits, layer).attribute(below, target=list(columns)).squeeze(1)


def _activation_of_last_convolution(stage: nn.Module) -> nn.Module:
    """The last layer after the last convolution that is not pooling: the rectified feature maps of the paper."""
    layers = [module for module in stage.modules() if not list(module.children())]
    last = max(index for index, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    following = [layer for layer in layers[last + 1 :] if not isinstance(layer, nn.MaxPool2d)]
    return following[-1] if following else layers[last]


def _patch_maps(part: Clip, logits: Logits, below: torch.Tensor, columns: Sequence[int]) -> torch.Tensor:
    """Gradient times activation at the output of the last layer's first normalisation.

    Later patch outputs do not reach the logits. At the input of a normalisation the map would be 0, because the
    gradient there is orthogonal to the activation.
    """
    from captum.attr import LayerGradientXActivation  # noqa: PLC0415 - slow to import

    stage: Any = part.stages[0]
    last = transformer_layers(stage.backbone)[-1]
    layer = next(child for child in last.children() if "norm" in type(child).__name__.lower())
    tokens = LayerGradientXActivation(logits, layer).attribute(below, target=list(columns)).sum(2)
    patch = stage.backbone.config.patch_size
    height, width = (side // patch for side in below.shape[2:])
    # The class token, and register tokens if any, precede the patches.
    return tokens[:, tokens.shape[1] - height * width :].view(-1, height, width)
