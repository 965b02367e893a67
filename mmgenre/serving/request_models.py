"""Pydantic models of the movies in a request: they validate bodies and describe them in the OpenAPI document."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from mmgenre.serving.config import Limits
from mmgenre.serving.examples import EXAMPLES
from mmgenre.serving.forms import UploadedFile, parse_form
from mmgenre.serving.request_error import RequestError, quoted

MOVIE_FIELDS = ("id", "title", "plot", "poster")
_STRICT = ConfigDict(extra="forbid", strict=True)
_JSON_TYPES = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
_MOVIE = "an object with title, plot or poster"
# What each of pydantic's error types expected.
_EXPECTED = {
    "string_type": "text",
    "list_type": "a list of movies, at least one",
    "too_short": "a list of movies, at least one",
}


class MovieRequest(BaseModel):
    """A movie in a request; None: unknown. `poster` is an image file, as uploaded or in base64."""

    model_config = _STRICT

    id: str | None = None
    title: str | None = None
    plot: str | None = None
    poster: str | bytes | None = None

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_fields(cls, value: Any) -> Any:
        # Pydantic alone reports every one of them, which takes 25 s and 1 GB for a body of 8 MB.
        unknown = next((name for name in value if name not in MOVIE_FIELDS), None) if isinstance(value, dict) else None
        if unknown is not None:
            raise PydanticCustomError("unknown_field", "unknown field", {"name": unknown})
        return value


class RequestModels:
    """Parses the movies of request bodies, within the limits of a service."""

    def __init__(self, limits: Limits):
        text: Any = Annotated[str, Field(max_length=limits.text_characters), AfterValidator(_require_no_nul)] | None
        poster = f"a JPEG, PNG or WebP of at most {limits.poster_bytes:,} bytes, in base64"
        fields: dict[str, Any] = {
            "id": (text, Field(None, description="returned unchanged with the answer for this movie")),
            "title": (text, Field(None, description="prepended to the plot by models that read titles")),
            "plot": (text, Field(None, description="what happens in the movie")),
            "poster": (str | None, Field(None, description=poster, json_schema_extra={"contentEncoding": "base64"})),
        }
        self._movie = create_model("Movie", __base__=MovieRequest, **fields)
        movies: Any = (list[self._movie], Field(min_length=1, max_length=limits.batch_movies))  # type: ignore[name-defined]
        self._batch = create_model("Movies", __config__=_STRICT, movies=movies)

    def parse_json(self, body: bytes) -> tuple[list[MovieRequest], bool]:
        """The movies of a JSON body, and whether the body is a batch: an object with `movies`.

        Raises:
            RequestError: not JSON, wrong fields, or a limit is exceeded.
        """
        try:
            content = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise RequestError(400, f"body: not JSON ({error}); expected an object such as {{'plot': '...'}}") from None
        if not isinstance(content, dict) or "movies" not in content:
            return [_validate(self._movie, content)], False
        if len(content) > 1:
            other = next(name for name in content if name != "movies")
            raise RequestError(422, f"{quoted(other)}: not allowed next to movies; set it on each of the movies")
        return list(_validate(self._batch, content).movies), True

    def parse_form(self, body: bytes, content_type: str) -> MovieRequest:
        """The movie of a form with the fields title, plot and poster.

        Raises:
            RequestError: not a complete form, wrong fields, or a limit is exceeded.
        """
        fields = parse_form(body, content_type)
        poster = fields.pop("poster", None)
        file = next((name for name, value in fields.items() if isinstance(value, UploadedFile)), None)
        if file is not None:
            raise RequestError(422, f"{quoted(file)}: a file; expected text, and a file only in the field poster")
        movie: MovieRequest = _validate(self._movie, fields)
        # A browser sends an empty file for a file input that the user left empty.
        if isinstance(poster, UploadedFile) and poster.content:
            return movie.model_copy(update={"poster": poster.content})
        return movie

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of a movie."""
        examples = [{"title": example.title, "plot": example.plot} for example in EXAMPLES[:2]]
        return self._movie.model_json_schema() | {"examples": examples}

    def batch_schema(self) -> dict[str, Any]:
        """JSON Schema of a batch."""
        schema = self._batch.model_json_schema()
        # A schema inside an OpenAPI document cannot refer to its own $defs.
        schema["properties"]["movies"]["items"] = schema.pop("$defs")["Movie"]
        movies = [{"id": str(number), "plot": example.plot} for number, example in enumerate(EXAMPLES[:2], start=1)]
        return schema | {"examples": [{"movies": movies}]}

    def form_schema(self) -> dict[str, Any]:
        """JSON Schema of a movie in a form."""
        schema = self._movie.model_json_schema()
        schema["properties"]["poster"] = {"type": "string", "format": "binary", "description": "a JPEG, PNG or WebP"}
        return schema


def _require_no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("contains a NUL character, as binary files do; remove it")
    return text


def _validate(model: type[Any], content: Any) -> Any:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _request_error(error.errors(include_url=False)[0]) from None


def _request_error(error: ErrorDetails) -> RequestError:
    """A validation error as one line."""
    path, value, context = ".".join(map(str, error["loc"])), error["input"], error.get("ctx", {})
    where, maximum = path or "body", context.get("max_length", 0)
    match error["type"]:
        case "unknown_field":
            name = f"{path}." if path else ""
            name += quoted(context["name"])
            return RequestError(422, f"{name}: unknown field; expected {', '.join(MOVIE_FIELDS)}")
        case "string_too_long":
            message = f"{len(value):,} characters; expected at most {maximum:,}: shorten it"
            return RequestError(413, f"{where}: {message}")
        case "too_long":
            message = f"{len(value):,}; expected at most {maximum:,}: send several requests, or a table"
            return RequestError(413, f"{where}: {message}")
        case "value_error":
            return RequestError(422, f"{where}: {context['error']}")
        case other:
            return RequestError(422, f"{where}: {_json_type(value)}; expected {_EXPECTED.get(other, _MOVIE)}")


def _json_type(value: object) -> str:
    return "an empty list" if value == [] else _JSON_TYPES.get(type(value), "a number")
