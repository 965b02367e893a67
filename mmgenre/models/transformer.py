"""Any Hugging Face text encoder with one linear head for the nine genres."""

from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import nn

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.dropout import draw_bytes
from mmgenre.models.genre_model import GenreModel, ReadsText, TrainedByGradient
from mmgenre.models.hub import BackboneConfig, fetching
from mmgenre.models.movies import Batch, Movies
from mmgenre.models.text import TextEncoder, learn_tokenizer, load_tokenizer, texts


class TransformerConfig(BackboneConfig, ReadsText, TrainedByGradient):
    """A pretrained encoder by hub name or local folder, or one of random weights by its architecture."""

    family: Literal["transformer"] = "transformer"
    pretrained: str | None = Field(
        "google/electra-small-discriminator", description="hub name or local folder; none: random weights"
    )
    tokenizer: str | None = Field(
        None, description="hub name or local folder; null: pretrained's, else one learned from the training plots"
    )
    vocab_size: int = Field(8000, gt=100, description="words and word pieces of a learned tokenizer")
    max_length: int = Field(256, ge=8, description="tokens; longer plots are cut off")
    pooling: Literal["mean", "first"] = Field("mean", description="of the token vectors; first: the [CLS] token's")
    dropout: float = Field(0.1, ge=0, lt=1, description="before the head")
    frozen_layers: int = Field(0, ge=0, description="layers from the bottom that stay as they are, with the embeddings")

    def build(self, movies: Movies) -> "Transformer":
        """A model ready to be trained; the movies are what a tokenizer is learned from, where none is given.

        Raises:
            InputError: weights or tokenizer cannot be had, or the architecture is not one of transformers'.
        """
        tokenizer = self._tokenizer(movies)
        if self.pretrained:
            return Transformer(self, _pretrained(self.pretrained), tokenizer)
        backbone = self.random_backbone(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
        return Transformer(self, backbone, tokenizer)

    def _tokenizer(self, movies: Movies) -> Any:
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        if self.pretrained is not None:
            return load_tokenizer(self.pretrained, "model.pretrained")
        return learn_tokenizer(texts(movies, title=self.title), self.vocab_size)

    def restore(self, assets: Path) -> "Transformer":
        """The model's structure from a checkpoint's assets; its weights are loaded afterwards."""
        from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - slow to import

        backbone = AutoModel.from_config(AutoConfig.from_pretrained(assets, trust_remote_code=False))
        return Transformer(self, backbone, load_tokenizer(str(assets)))


class Transformer(GenreModel):
    """Token vectors of a backbone, pooled, dropped out, and mapped to nine logits.

    Args:
        config: pooling, dropout, frozen layers.
        backbone: a transformers model whose output has `last_hidden_state` (B, T, D).
        tokenizer: its fast tokenizer.
    """

    encoder: TextEncoder

    def __init__(self, config: TransformerConfig, backbone: Any, tokenizer: Any):
        super().__init__()
        # A pooler nobody asks would have no gradient, which DDP takes for a mistake.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        longest = getattr(backbone.config, "max_position_embeddings", config.max_length)
        self.encoder = TextEncoder(tokenizer, min(config.max_length, longest), title=config.title)
        self.feature_dim = int(backbone.config.hidden_size)
        self.backbone = backbone
        self.dropout = nn.Dropout(config.dropout)
        self.head = config.headed(nn.Linear(self.feature_dim, len(GENRES)))
        self._pooling = config.pooling
        draw_bytes(self)
        _freeze(backbone, config.frozen_layers)
        self._backbone_is_frozen = not any(value.requires_grad for value in backbone.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a backbone that learns nothing drops nothing out."""
        super().train(mode)
        self.backbone.train(mode and not self._backbone_is_frozen)
        return self

    def freeze(self) -> None:
        """Stay as it is from here on."""
        super().freeze()
        self._backbone_is_frozen = True

    @property
    def frozen_modules(self) -> dict[str, nn.Module]:
        """The backbone, once all of its layers are frozen."""
        return {"backbone": self.backbone} if self._backbone_is_frozen else {}

    def features(self, batch: Batch) -> torch.Tensor:
        """Pooled token vectors, shape (B, D)."""
        if "frozen" in batch:
            return batch["frozen"]
        mask = batch["attention_mask"]
        hidden = self.backbone(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        if self._pooling == "first":
            return hidden[:, 0]
        mask = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)

    @property
    def frozen_settings(self) -> dict[str, Any]:
        """What is read of a plot, and what becomes of its token vectors."""
        return self.encoder.settings | {"pooling": self._pooling}

    def depth(self, parameter: str) -> int:
        """Layers of the backbone above a named parameter; all of them for the embeddings."""
        layers = layers_of(self.backbone)
        for number, layer in enumerate(layers):
            if any(self.get_parameter(parameter) is value for value in layer.parameters()):
                return len(layers) - 1 - number
        return len(layers) if "embed" in parameter else 0

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of features, shape (B, 9)."""
        return self.head(self.dropout(features))

    def save_assets(self, directory: Path) -> None:
        """The tokenizer's files and the backbone's config."""
        self.encoder.save(directory)
        self.backbone.config.save_pretrained(directory)


def _pretrained(source: str) -> Any:
    from transformers import AutoModel  # noqa: PLC0415 - slow to import

    with fetching("model.pretrained", source):
        return AutoModel.from_pretrained(source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)


def _freeze(backbone: nn.Module, num_layers: int) -> None:
    if num_layers == 0:
        return
    layers = layers_of(backbone)
    if num_layers > len(layers):
        raise InputError(f"model.frozen_layers: {num_layers}, but the backbone has {len(layers)} layers; at most that")
    embeddings = [module for name, module in backbone.named_children() if "embed" in name]
    for module in [*embeddings, *layers[:num_layers]]:
        module.requires_grad_(False)


def layers_of(backbone: nn.Module) -> nn.ModuleList:
    """The stack of layers: transformers gives it another name in each family, but always one length."""
    depth = backbone.config.num_hidden_layers  # type: ignore[union-attr]
    stacks = [module for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not stacks:
        raise InputError(f"model.frozen_layers: {type(backbone).__name__} has no stack of layers; use frozen_layers=0")
    return stacks[0]
