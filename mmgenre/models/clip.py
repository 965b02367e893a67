"""CLIP's image encoder, or any other Hugging Face vision transformer, on posters.

Source: Radford et al. 2021, arXiv:2103.00020; Dosovitskiy et al. 2021, arXiv:2010.11929.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.hub import BackboneConfig, WeightSource, loading_from_hub, restored_backbone, without_pooler
from mmgenre.models.image import CLIP, Normalisation
from mmgenre.models.movies import Movies
from mmgenre.models.poster_model import PosterConfig, PosterModel

_NORMALISATION = "normalisation.json"


class ClipConfig(BackboneConfig, PosterConfig):
    """A vision transformer: pretrained (hub name or local folder), or with random weights from its architecture."""

    family: Literal["clip"] = "clip"
    pretrained: WeightSource = Field(
        "openai/clip-vit-base-patch32", description="hub name or local folder; none: random weights"
    )
    frozen: bool = Field(True, description="freeze the encoder and train only the head")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the head")

    @property
    def num_frozen(self) -> int:
        """The encoder is a single stage."""
        return int(self.frozen)

    def build(self, movies: Movies) -> "Clip":
        """An untrained model.

        Raises:
            InputError: weights cannot be loaded, transformers cannot build the architecture, or it reads images of
                another size.
        """
        if self.pretrained is not None:
            return Clip(self, *_load_pretrained(self.pretrained))
        return Clip(self, self.random_backbone(), CLIP)

    def restore(self, assets: Path) -> "Clip":
        """Build the model from a checkpoint's assets; the caller loads the weights."""
        normalisation = Normalisation(**json.loads((assets / _NORMALISATION).read_text()))
        return Clip(self, restored_backbone(assets), normalisation)


class Clip(PosterModel):
    """A vision transformer's image vector with one linear layer.

    Args:
        config: image size, dropout, whether the encoder is frozen.
        backbone: a transformers model whose output has `last_hidden_state` (B, T, D), the class token first.
        normalisation: the backbone's pixel normalisation.
    """

    pooling = "first token"

    def __init__(self, config: ClipConfig, backbone: Any, normalisation: Normalisation):
        size = backbone.config.image_size
        if (config.height, config.width) != (size, size):
            raise InputError(
                f"model.height, model.width: {config.height}x{config.width}; this encoder reads {size}x{size}"
            )
        super().__init__(config, normalisation, [_ImageVector(backbone)])
        self.feature_dim = backbone.config.hidden_size
        self.dropout = nn.Dropout(config.dropout)
        self.head = config.headed(nn.Linear(self.feature_dim, len(GENRES)))

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """The encoder's output, already pooled, shape (B, feature_dim)."""
        return maps

    def save_assets(self, directory: Path) -> None:
        """Write the backbone's config and the pixel normalisation."""
        stage: Any = self.stages[0]
        stage.backbone.config.save_pretrained(directory)
        values = {name: getattr(self.preprocessing, name).flatten().tolist() for name in Normalisation._fields}
        (directory / _NORMALISATION).write_text(json.dumps(values))


class _ImageVector(nn.Module):
    def __init__(self, backbone: Any):
        super().__init__()
        self.backbone = without_pooler(backbone)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Shape (B, D): CLIP's normalized class token, or another encoder's class token, normalized already."""
        output = self.backbone(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if pooled is None else pooled


def _load_pretrained(source: str) -> tuple[Any, Normalisation]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, CLIPVisionModel  # noqa: PLC0415 - slow to import

    with loading_from_hub("model.pretrained", source):
        # Of a full CLIP checkpoint, load the image encoder only.
        model_type = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
        kind = CLIPVisionModel if model_type in ("clip", "clip_vision_model") else AutoModel
        backbone = kind.from_pretrained(source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    return backbone, Normalisation(tuple(processor.image_mean), tuple(processor.image_std))
