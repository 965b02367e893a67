"""The image encoder of CLIP, or any other vision transformer of Hugging Face's, on posters.

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
from mmgenre.models.hub import BackboneConfig, fetching
from mmgenre.models.image import CLIP, Normalisation
from mmgenre.models.movies import Movies
from mmgenre.models.poster_model import PosterConfig, PosterModel

_NORMALISATION = "normalisation.json"


class ClipConfig(BackboneConfig, PosterConfig):
    """A vision transformer by hub name or local folder, or one of random weights by its architecture."""

    family: Literal["clip"] = "clip"
    pretrained: str | None = Field(
        "openai/clip-vit-base-patch32", description="hub name or local folder; none: random weights"
    )
    frozen: bool = Field(True, description="the encoder stays as it is, only the head learns")
    dropout: float = Field(0.1, ge=0, lt=1, description="before the head")

    @property
    def num_frozen(self) -> int:
        """The encoder is one stage."""
        return int(self.frozen)

    def build(self, movies: Movies) -> "Clip":
        """A model ready to be trained.

        Raises:
            InputError: weights cannot be had, the architecture is not one of transformers', or it wants images of
                another size.
        """
        if self.pretrained is not None:
            return Clip(self, *_pretrained(self.pretrained))
        return Clip(self, self.random_backbone(), CLIP)

    def restore(self, assets: Path) -> "Clip":
        """The model's structure from a checkpoint's assets; its weights are loaded afterwards."""
        from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - slow to import

        backbone = AutoModel.from_config(AutoConfig.from_pretrained(assets, trust_remote_code=False))
        return Clip(self, backbone, Normalisation(**json.loads((assets / _NORMALISATION).read_text())))


class Clip(PosterModel):
    """What a vision transformer says of the whole image, and one linear layer.

    Args:
        config: size, dropout, whether it is frozen.
        backbone: a transformers model whose output has `last_hidden_state` (B, T, D), the image's own token first.
        normalisation: of its images.
    """

    pooling = "first token"

    def __init__(self, config: ClipConfig, backbone: Any, normalisation: Normalisation):
        size = backbone.config.image_size
        if (config.height, config.width) != (size, size):
            raise InputError(
                f"model.height, model.width: {config.height}x{config.width}; this encoder reads {size}x{size}"
            )
        super().__init__(config, normalisation, [_FirstToken(backbone)])
        self.feature_dim = backbone.config.hidden_size
        self.dropout = nn.Dropout(config.dropout)
        self.head = config.headed(nn.Linear(self.feature_dim, len(GENRES)))

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """The encoder's output as it is, shape (B, feature_dim)."""
        return maps

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of features, shape (B, 9)."""
        return self.head(self.dropout(features))

    def save_assets(self, directory: Path) -> None:
        """The backbone's config, and the normalisation."""
        stage: Any = self.stages[0]
        stage.backbone.config.save_pretrained(directory)
        values = {name: getattr(self.preparation, name).flatten().tolist() for name in Normalisation._fields}
        (directory / _NORMALISATION).write_text(json.dumps(values))


class _FirstToken(nn.Module):
    def __init__(self, backbone: Any):
        super().__init__()
        # A pooler nobody asks would have no gradient, which DDP takes for a mistake.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        self.backbone = backbone

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Shape (B, D); CLIP normalises its first token, which others have done already."""
        found = self.backbone(pixel_values=pixels)
        pooled = getattr(found, "pooler_output", None)
        return found.last_hidden_state[:, 0] if pooled is None else pooled


def _pretrained(source: str) -> tuple[Any, Normalisation]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, CLIPVisionModel  # noqa: PLC0415 - slow to import

    with fetching("model.pretrained", source):
        # A whole CLIP has a text encoder, too, which is left where it is.
        model_type = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
        kind = CLIPVisionModel if model_type in ("clip", "clip_vision_model") else AutoModel
        backbone = kind.from_pretrained(source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    return backbone, Normalisation(tuple(processor.image_mean), tuple(processor.image_std))
