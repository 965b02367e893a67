"""Facts about a model for its card: what it reads, its architecture, and what other libraries can load of it."""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmgenre.models import GenreModel, ModelConfig
from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.clip import ClipConfig
from mmgenre.models.efficientnet import EfficientNetConfig
from mmgenre.models.fusion import FusionConfig
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.transformer import Transformer, TransformerConfig
from mmgenre.models.vgg import VggConfig
from mmgenre.tables.schema import PredictStatus

_FUSION_HEADS = {
    "concat_fusion": "an MLP on the features of both towers corrects their weighted logits",
    "gated_fusion": "gated units (GMU) on the features of both towers correct their weighted logits",
    "late_fusion": "the logits of both towers are weighted per genre",
}


@dataclass(frozen=True)
class ModelFacts:
    """Properties of a model that its card mentions.

    Args:
        config: of the model.
        model: built from it.
    """

    config: ModelConfig
    model: GenreModel

    @property
    def is_fusion(self) -> bool:
        """Whether the model has a text and an image tower."""
        return isinstance(self.config, FusionConfig)

    @property
    def text(self) -> Any:
        """Config of the text encoder, or None."""
        return self._part_config("plot")

    @property
    def image(self) -> Any:
        """Config of the image encoder, or None."""
        return self._part_config("image")

    @property
    def text_family(self) -> str | None:
        """Family of the text encoder."""
        return self.text.family if self.text else None

    @property
    def reads(self) -> str:
        """The inputs in words."""
        return " and ".join(kind for kind, part in (("plots", self.text), ("posters", self.image)) if part)

    @property
    def status(self) -> PredictStatus:
        """Status of predictions for movies with all inputs."""
        if self.is_fusion:
            return PredictStatus.TEXT_AND_POSTER
        return PredictStatus.TEXT_ONLY if self.text else PredictStatus.POSTER_ONLY

    @property
    def architecture(self) -> str:
        """A sentence about the architecture."""
        parts = [_describe(part, self.model.parts[role]) for role, part in self.config.parts.items()]
        graph = ", refined over the graph of genres that occur together" if self.config.genre_graph else ""
        if self.is_fusion:
            return f"Two towers: {' and '.join(parts)}; {_FUSION_HEADS[self.config.family]}{graph}."
        return f"The model is {parts[0]}{graph}."

    @property
    def text_assets(self) -> str:
        """Folder of the text encoder's assets in the export."""
        return "assets/text" if self.is_fusion else "assets"

    @property
    def max_length(self) -> int | None:
        """Maximum number of tokens or words of a text; None: no limit."""
        encoder = self.model.parts["text" if self.is_fusion else ""].encoder
        return getattr(encoder, "settings", {}).get("max_length")

    @property
    def is_transformer(self) -> bool:
        """Whether transformers can load the encoder."""
        return isinstance(self.config, TransformerConfig)

    @property
    def drops_pooler(self) -> bool:
        """Whether the encoder's class in transformers would add a pooler, which the model does not use."""
        assert isinstance(self.model, Transformer), "is_transformer"  # noqa: S101 - a caller's duty
        return "add_pooling_layer" in inspect.signature(type(self.model.backbone).__init__).parameters

    @property
    def has_linear_head(self) -> bool:
        """Whether the head is one linear layer."""
        return isinstance(self.model.head, nn.Linear)

    def _part_config(self, column: str) -> Any:
        return next((part for part in self.config.parts.values() if column in part.columns), None)


def _describe(config: Any, model: Any) -> str:
    """A model that is not a fusion, in words."""
    match config:
        case TransformerConfig():
            layers = f"{type(model.backbone).__name__}, {model.backbone.config.num_hidden_layers} layers"
            pooling = "mean of all token vectors" if config.pooling == "mean" else "first token's vector"
            return f"a transformer encoder ({layers}) with a linear layer on the {pooling}"
        case BilstmConfig():
            return f"a bidirectional LSTM over word vectors ({config.hidden} units per direction, max pooling)"
        case TfidfConfig():
            return f"nine logistic regressions on TF-IDF of word sequences of length 1 to {config.max_ngram}"
        case VggConfig():
            return f"VGG-16 with a {config.head} head"
        case EfficientNetConfig():
            return f"{config.network} with a linear layer"
        case ClipConfig():
            return "a vision transformer with a linear layer"
    raise TypeError(type(config))
