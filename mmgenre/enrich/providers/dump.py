"""An enriched file: CSV, TSV, JSON lines, Excel or Parquet with ids and plots, perhaps languages and poster URLs."""

from typing import Literal

from pydantic import Field

from mmgenre.config import Config
from mmgenre.tables.user_files import ENCODING, ON_BAD_ROWS, OnBadRows, UserFile

COLUMNS = ("imdb_id", "plot", "language", "poster_url", "provider_id")


class DumpConfig(Config):
    """An enriched file instead of a web service."""

    kind: Literal["dump"] = "dump"
    path: str = Field(description="CSV, TSV, JSON lines, Excel or Parquet, path or URI")
    on_bad_rows: OnBadRows = Field("error", description=ON_BAD_ROWS)
    encoding: str | None = Field(None, description=ENCODING)

    def open(self) -> UserFile:
        """The file, with those of COLUMNS that it contains."""
        return UserFile(self.path, COLUMNS[:2], COLUMNS[2:], on_bad_rows=self.on_bad_rows, encoding=self.encoding)
