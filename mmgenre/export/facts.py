"""What there is to say of a model's shape: what it reads, how, and what of it other libraries can load."""

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

_JOINTS = {
    "concat_fusion": "an MLP on the features of both corrects their weighted logits",
    "gated_fusion": "gated units (GMU) on the features of both correct their weighted logits",
    "late_fusion": "their logits are weighted for each genre",
}


@dataclass(frozen=True)
class Facts:
    """Of a model and its config, for its card.

    Args:
        config: of the model.
        model: built of it.
    """

    config: ModelConfig
    model: GenreModel

    @property
    def is_fusion(self) -> bool:
        """Whether it is a text and an image tower, joined."""
        return isinstance(self.config, FusionConfig)

    @property
    def text(self) -> Any:
        """The config of what reads plots; None: nothing does."""
        return next((part for part in self.config.parts.values() if "plot" in part.columns), None)

    @property
    def image(self) -> Any:
        """The config of what reads posters; None: nothing does."""
        return next((part for part in self.config.parts.values() if "image" in part.columns), None)

    @property
    def text_family(self) -> str | None:
        """Of what reads plots."""
        return self.text.family if self.text else None

    @property
    def reads(self) -> str:
        """In words."""
        return " and ".join(kind for kind, part in (("plots", self.text), ("posters", self.image)) if part)

    @property
    def status(self) -> str:
        """Of predictions of movies that have all it reads."""
        if self.is_fusion:
            return PredictStatus.TEXT_AND_POSTER
        return PredictStatus.TEXT_ONLY if self.text else PredictStatus.POSTER_ONLY

    @property
    def architecture(self) -> str:
        """A sentence."""
        said = [_said_of(part, self._part(part)) for part in self.config.parts.values()]
        graph = ", refined over the graph of the genres that go together" if self.config.genre_graph else ""
        if self.is_fusion:
            return f"Two towers: {' and '.join(said)}; {_JOINTS[self.config.family]}{graph}."
        return f"It is {said[0]}{graph}."

    @property
    def text_assets(self) -> str:
        """Folder of the files that what reads plots is restored from, in the exported one."""
        return "assets/text" if self.is_fusion else "assets"

    @property
    def max_length(self) -> int | None:
        """Tokens or words of a text that are read; None: all."""
        encoder = self._part(self.text).encoder if self.text else None
        return getattr(encoder, "settings", {}).get("max_length")

    @property
    def takes_encoder(self) -> bool:
        """Whether transformers can load its encoder: it is a transformer by itself."""
        return isinstance(self.config, TransformerConfig)

    @property
    def drops_pooler(self) -> bool:
        """Whether transformers' class of its encoder would add a pooler, which is not used."""
        assert isinstance(self.model, Transformer), "takes_encoder"  # noqa: S101 - a caller's duty
        return "add_pooling_layer" in inspect.signature(type(self.model.backbone).__init__).parameters

    @property
    def has_plain_head(self) -> bool:
        """Whether its head is one linear layer."""
        return isinstance(self.model.head, nn.Linear)

    def _part(self, config: Any) -> Any:
        role = next(role for role, part in self.config.parts.items() if part is config)
        return self.model.parts[role]


def _said_of(config: Any, model: GenreModel) -> str:
    """What a model that is no fusion is, in words."""
    match config:
        case TransformerConfig():
            kind: Any = model
            layers = f"{type(kind.backbone).__name__}, {kind.backbone.config.num_hidden_layers} layers"
            pooled = "mean of all token vectors" if config.pooling == "mean" else "first token's vector"
            return f"a transformer encoder ({layers}) with one linear layer on the {pooled}"
        case BilstmConfig():
            return f"a bidirectional LSTM over word vectors ({config.hidden} units in each direction, their maximum)"
        case TfidfConfig():
            return f"nine logistic regressions on TF-IDF of words and sequences of up to {config.max_ngram}"
        case VggConfig():
            return f"VGG-16 with a {config.head} head"
        case EfficientNetConfig():
            return f"{config.network} with one linear layer"
        case ClipConfig():
            return "a vision transformer with one linear layer"
    raise TypeError(type(config))
