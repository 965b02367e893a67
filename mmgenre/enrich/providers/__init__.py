"""Providers of plots and posters: one file each, and the unions of their configs."""

from typing import Annotated

from pydantic import Field

from mmgenre.enrich.providers.dump import DumpConfig
from mmgenre.enrich.providers.omdb import OmdbConfig
from mmgenre.enrich.providers.tmdb import TmdbConfig

WebServiceConfig = Annotated[TmdbConfig | OmdbConfig, Field(discriminator="kind")]
ProviderConfig = Annotated[TmdbConfig | OmdbConfig | DumpConfig, Field(discriminator="kind")]
