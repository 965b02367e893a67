"""An enriched file: CSV, TSV or Parquet with ids and plots, and optionally languages and poster URLs."""

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
from pydantic import Field

from mmgenre.config import Config
from mmgenre.tables.user_files import read_movies

COLUMNS = ("imdb_id", "plot", "language", "poster_url", "provider_id")


class DumpConfig(Config):
    """An enriched file instead of a web service."""

    kind: Literal["dump"] = "dump"
    path: str = Field(description="CSV, TSV or Parquet, path or URI")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The file's rows, with those of COLUMNS that it contains.

        Raises:
            InputError: see read_movies.
        """
        return read_movies(self.path, required=COLUMNS[:2], optional=COLUMNS[2:])
