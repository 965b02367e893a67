"""How much the service takes in one request."""

from typing import Self

from pydantic import Field, model_validator

from mmgenre.config import Config

# Of a multipart body, beside the file that it is sent for.
_FORM_BYTES = 500_000


class Limits(Config):
    """What one request may hold; what is larger is refused before it is in memory."""

    text_characters: int = Field(20_000, gt=0, description="of a title or a plot; a table's are bounded together")
    poster_bytes: int = Field(5_000_000, gt=0, description="of a poster as it is uploaded")
    poster_pixels: int = Field(25_000_000, gt=0, description="width times height; larger ones are not decoded")
    batch_movies: int = Field(64, ge=1, description="of a request with several movies")
    table_rows: int = Field(1000, ge=1, description="of a CSV file")
    table_bytes: int = Field(5_000_000, gt=0, description="of a CSV file")
    body_bytes: int = Field(8_000_000, gt=0, description="of any request; in JSON, a poster is a third longer")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        least = max(self.poster_bytes * 4 // 3, self.table_bytes) + _FORM_BYTES
        if self.body_bytes < least:
            raise ValueError(
                f"body_bytes={self.body_bytes}: a poster or a table of the size allowed would not fit; "
                f"give at least {least}, or lower poster_bytes and table_bytes"
            )
        return self
