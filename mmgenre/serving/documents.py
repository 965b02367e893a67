"""What requests look like, for the OpenAPI document; `bodies` reads them."""

from typing import Any

from mmgenre.labels import GENRES
from mmgenre.serving.examples import EXAMPLES
from mmgenre.serving.limits import Limits

_OF_FIELD = {
    "id": "what the movie is called in the answer",
    "title": "read before the plot by models that read titles",
    "plot": "what happens in the movie",
}
_COLUMNS = ",".join(["id", "plot", "genres", "status", *(f"p_{genre}" for genre in GENRES)])

FORM_OF_TABLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "table": {
            "type": "string",
            "format": "binary",
            "description": "a CSV file in UTF-8 with a header, in which a column is called plot, overview, synopsis "
            "or description; title and id may be there, too",
        }
    },
    "required": ["table"],
    "additionalProperties": False,
}
TAGGED_TABLE: dict[str, Any] = {
    "description": "The file with columns behind its own: genres (joined by |), status, and a probability by genre.",
    "content": {"text/csv": {"schema": {"type": "string"}, "example": f"{_COLUMNS}\r\n"}},
}


def movie(limits: Limits) -> dict[str, Any]:
    """The schema of a movie in JSON."""
    text = {"type": ["string", "null"], "maxLength": limits.text_characters}
    poster = {
        "type": ["string", "null"],
        "contentEncoding": "base64",
        "description": f"a JPEG, PNG or WebP of at most {limits.poster_bytes:,} bytes, in base64",
    }
    return {
        "type": "object",
        "title": "Movie",
        "properties": {name: text | {"description": said} for name, said in _OF_FIELD.items()} | {"poster": poster},
        "additionalProperties": False,
        "examples": [{"title": one.title, "plot": one.plot} for one in EXAMPLES[:2]],
    }


def movies(limits: Limits) -> dict[str, Any]:
    """The schema of several movies in JSON."""
    some = [{"id": str(number), "plot": one.plot} for number, one in enumerate(EXAMPLES[:2], start=1)]
    listed = {"type": "array", "items": movie(limits), "minItems": 1, "maxItems": limits.batch_movies}
    return {
        "type": "object",
        "title": "Movies",
        "properties": {"movies": listed},
        "required": ["movies"],
        "additionalProperties": False,
        "examples": [{"movies": some}],
    }


def form_of_movie(limits: Limits) -> dict[str, Any]:
    """The schema of a movie in a form."""
    text = {"type": "string", "maxLength": limits.text_characters}
    poster = {"type": "string", "format": "binary", "description": "a JPEG, PNG or WebP"}
    return {
        "type": "object",
        "properties": {"id": text, "title": text, "plot": text, "poster": poster},
        "additionalProperties": False,
    }
