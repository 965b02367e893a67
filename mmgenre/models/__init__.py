"""The model families: one file each, and one union of their configs."""

from typing import Annotated

from pydantic import Field

from mmgenre.models.genre_model import Batch, Encoded, FittedAtOnce, GenreModel, TrainedByGradient
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.transformer import TransformerConfig

ModelConfig = Annotated[TfidfConfig | TransformerConfig, Field(discriminator="family")]

__all__ = ["Batch", "Encoded", "FittedAtOnce", "GenreModel", "ModelConfig", "TrainedByGradient"]
