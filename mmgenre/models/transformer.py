"""Any Hugging Face text encoder with one linear head for the nine genres."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import nn

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.backbone_layers import freeze_lowest, layer_numbers, max_tokens, transformer_layers
from mmgenre.models.dropout import use_byte_dropout
from mmgenre.models.genre_model import GenreModel, GradientTrainedConfig, TextFamilyConfig
from mmgenre.models.hub import BackboneConfig, WeightSource, loading_from_hub, restored_backbone, without_pooler
from mmgenre.models.movies import Batch, Movies
from mmgenre.models.text import TextEncoder, input_texts, load_tokenizer, train_tokenizer


class TransformerConfig(BackboneConfig, TextFamilyConfig, GradientTrainedConfig):
    """A text encoder: pretrained (hub name or local folder), or with random weights from its architecture."""

    family: Literal["transformer"] = "transformer"
    pretrained: WeightSource = Field(
        "google/electra-small-discriminator", description="hub name or local folder; none: random weights"
    )
    tokenizer: str | None = Field(
        None,
        description="hub name or local folder; null: the pretrained model's, else one trained on the training plots",
    )
    vocab_size: int = Field(8000, gt=100, description="vocabulary size of a tokenizer trained here")
    max_length: int = Field(256, ge=8, description="tokens per plot; longer plots are truncated")
    pooling: Literal["mean", "first"] = Field(
        "mean", description="mean of all token vectors, or the first: the [CLS] token's"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the head")
    frozen_layers: int = Field(0, ge=0, description="lowest layers to freeze, together with the embeddings")

    def build(self, movies: Movies) -> "Transformer":
        """An untrained model; unless a tokenizer is given, one is trained on the movies' plots.

        Raises:
            InputError: weights or tokenizer cannot be loaded, or transformers cannot build the architecture.
        """
        tokenizer = self._tokenizer(movies)
        if self.pretrained:
            return Transformer(self, _load_pretrained(self.pretrained), tokenizer)
        backbone = self.random_backbone(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
        return Transformer(self, backbone, tokenizer)

    def _tokenizer(self, movies: Movies) -> Any:
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        if self.pretrained is not None:
            return load_tokenizer(self.pretrained, "model.pretrained")
        return train_tokenizer(input_texts(movies, title=self.title), self.vocab_size)

    def restore(self, assets: Path) -> "Transformer":
        """Build the model from a checkpoint's assets; the caller loads the weights."""
        return Transformer(self, restored_backbone(assets), load_tokenizer(str(assets)))


class Transformer(GenreModel):
    """A backbone's token vectors, pooled, with dropout and one linear layer.

    Args:
        config: pooling, dropout, frozen layers.
        backbone: a transformers model whose output has `last_hidden_state` (B, T, D).
        tokenizer: the backbone's fast tokenizer.
    """

    encoder: TextEncoder

    def __init__(self, config: TransformerConfig, backbone: Any, tokenizer: Any):
        super().__init__()
        if getattr(backbone.config, "is_encoder_decoder", False):
            raise InputError(
                f"model: {type(backbone).__name__} is an encoder with a decoder; choose an encoder, such as BERT"
            )
        max_length = min(config.max_length, max_tokens(backbone) or config.max_length)
        self.encoder = TextEncoder(tokenizer, max_length, title=config.title)
        self.feature_dim = int(backbone.config.hidden_size)
        self.backbone = without_pooler(backbone)
        self.dropout = nn.Dropout(config.dropout)
        self.head = config.headed(nn.Linear(self.feature_dim, len(GENRES)))
        self._pooling = config.pooling
        use_byte_dropout(self)
        freeze_lowest(backbone, config.frozen_layers)
        self._backbone_is_frozen = not any(value.requires_grad for value in backbone.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a fully frozen backbone stays in evaluation mode, without dropout."""
        super().train(mode)
        self.backbone.train(mode and not self._backbone_is_frozen)
        return self

    def freeze(self) -> None:
        """Exclude all parameters from training."""
        super().freeze()
        self._backbone_is_frozen = True

    @property
    def frozen_modules(self) -> dict[str, nn.Module]:
        """The backbone if all of its layers are frozen."""
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
        """Which part of a plot is read, and how token vectors are pooled."""
        return self.encoder.settings | {"pooling": self._pooling}

    def layers_above(self, parameter: str) -> int:
        """Number of backbone layers above the named parameter; all of them for what the lowest layer depends on."""
        part, _, name = parameter.partition(".")
        if part != "backbone":
            return 0
        return max(0, len(transformer_layers(self.backbone)) - 1 - self._layer_numbers[name])

    @cached_property
    def _layer_numbers(self) -> dict[str, int]:
        return layer_numbers(self.backbone)

    def save_assets(self, directory: Path) -> None:
        """Write the tokenizer's files and the backbone's config."""
        self.encoder.save(directory)
        self.backbone.config.save_pretrained(directory)


def _load_pretrained(source: str) -> Any:
    from transformers import AutoModel  # noqa: PLC0415 - slow to import

    with loading_from_hub("model.pretrained", source):
        return AutoModel.from_pretrained(source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32)
