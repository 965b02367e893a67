"""The model families: one file each, and one union of their configs."""

from typing import Annotated

from pydantic import Field

from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.clip import ClipConfig
from mmgenre.models.efficientnet import EfficientNetConfig
from mmgenre.models.fusion import ConcatFusionConfig, FusionConfig, GatedFusionConfig, LateFusionConfig
from mmgenre.models.genre_graph import learn_edges
from mmgenre.models.genre_model import FamilyConfig, FittedAtOnce, GenreModel, TrainedByGradient
from mmgenre.models.movies import Batch, Encoded, Encoder, Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.transformer import TransformerConfig
from mmgenre.models.vgg import VggConfig

ModelConfig = Annotated[
    TfidfConfig
    | BilstmConfig
    | TransformerConfig
    | VggConfig
    | EfficientNetConfig
    | ClipConfig
    | ConcatFusionConfig
    | GatedFusionConfig
    | LateFusionConfig,
    Field(discriminator="family"),
]

__all__ = [
    "Batch",
    "Encoded",
    "Encoder",
    "FamilyConfig",
    "FittedAtOnce",
    "FusionConfig",
    "GenreModel",
    "ModelConfig",
    "Movies",
    "TrainedByGradient",
    "learn_edges",
]
