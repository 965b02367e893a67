"""A file that is enriched already: CSV, TSV or Parquet with an id, a plot and, if it has them, language and poster."""

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
from pydantic import Field

from mmgenre.config import Config
from mmgenre.tables.user_files import read_movies

COLUMNS = ("imdb_id", "plot", "language", "poster_url", "provider_id")


class DumpConfig(Config):
    """An enriched file in place of a web service."""

    kind: Literal["dump"] = "dump"
    path: str = Field(description="CSV, TSV or Parquet, path or URI")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The file's rows, with those of COLUMNS that it has.

        Raises:
            InputError: see read_movies.
        """
        return read_movies(self.path, required=COLUMNS[:2], optional=COLUMNS[2:])
