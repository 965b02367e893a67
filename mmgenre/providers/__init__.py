"""The sources of plots and posters: one file each, and one union of their configs."""

from typing import Annotated

from pydantic import Field

from mmgenre.providers.dump import DumpConfig
from mmgenre.providers.tmdb import TmdbConfig

ProviderConfig = Annotated[TmdbConfig | DumpConfig, Field(discriminator="kind")]
