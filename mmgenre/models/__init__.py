"""The model families, one file each. `ModelConfig` is the union of their configs."""

from typing import Annotated

from pydantic import Field

from mmgenre.models.families import PosterModelConfig, TextModelConfig
from mmgenre.models.fusion import AnyFusionConfig, FusionConfig
from mmgenre.models.genre_graph import set_graph_edges
from mmgenre.models.genre_model import DirectlyFittedConfig, FamilyConfig, GenreModel, GradientTrainedConfig
from mmgenre.models.movies import Batch, EncodedMovies, Encoder, Movies

ModelConfig = Annotated[TextModelConfig | PosterModelConfig | AnyFusionConfig, Field(discriminator="family")]

__all__ = [
    "Batch",
    "DirectlyFittedConfig",
    "EncodedMovies",
    "Encoder",
    "FamilyConfig",
    "FusionConfig",
    "GenreModel",
    "GradientTrainedConfig",
    "ModelConfig",
    "Movies",
    "set_graph_edges",
]
