"""The routes of the HTTP API and its OpenAPI document."""

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

import mmgenre
from mmgenre.labels import GENRES
from mmgenre.serving import csv_tables
from mmgenre.serving.forms import FORM, JSON, media_type, parse_table_form
from mmgenre.serving.middleware import App, RequestGuard
from mmgenre.serving.origins import OriginGuard
from mmgenre.serving.page import render_page
from mmgenre.serving.request_error import RequestError, error_body, quoted
from mmgenre.serving.request_models import MovieRequest, RequestModels
from mmgenre.serving.responses import (
    ErrorResponse,
    ExplainedMovie,
    HealthResponse,
    ModelResponse,
    TaggedMovie,
    TaggedMovies,
)
from mmgenre.serving.service import Service

_CSV = "text/csv; charset=utf-8"
_ERRORS: dict[int, str] = {
    400: "The body is malformed: not JSON, not a form, or not UTF-8.",
    404: "No such resource.",
    408: "The body arrives too slowly.",
    413: "A limit is exceeded; /model lists them.",
    415: "The media type is not supported.",
    422: "Wrong fields, or an image or table that cannot be read.",
    500: "Internal error.",
    503: "Busy, timed out, or still loading the model; `Retry-After` says when to retry.",
}
_TABLE_FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "table": {
            "type": "string",
            "format": "binary",
            "description": "a CSV file in UTF-8 with a header and a column plot, overview, synopsis or description; "
            "title and id are optional",
        }
    },
    "required": ["table"],
    "additionalProperties": False,
}
_TAGGED_COLUMNS = ",".join(["id", "plot", "genres", "status", *(f"p_{genre}" for genre in GENRES)])
_TAGGED_TABLE: dict[str, Any] = {
    "description": "The file with appended columns: genres (joined by |), status, and a probability per genre.",
    "content": {"text/csv": {"schema": {"type": "string"}, "example": f"{_TAGGED_COLUMNS}\r\n"}},
}


def build(service: Service) -> App:
    """The service as an ASGI app."""
    # It logs a warning for every malformed form; the client gets the error.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    api = FastAPI(
        title="mmgenre",
        version=mmgenre.__version__,
        description="Genres of movies from their plots and posters.",
        docs_url=None,
        redoc_url=None,
    )
    api.add_exception_handler(RequestError, _request_error)
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(Exception, _internal_error)
    requests = RequestModels(service.config.limits)
    _add_page_and_status(api, service)
    _add_predict(api, service, requests)
    _add_explain(api, service, requests)
    _add_tag(api, service)
    return RequestGuard(OriginGuard(api, service.config.allowed_hosts), service.config.limits.body_bytes)


def _add_page_and_status(api: FastAPI, service: Service) -> None:
    page = render_page(service.card, service.config)

    @api.get("/", response_class=Response, responses={200: {"content": {"text/html": {}}}}, summary="The demo page")
    async def index() -> Response:
        return Response(page.html, headers=page.headers, media_type="text/html")

    @api.get("/health", responses=_errors(503), summary="Whether the service can answer")
    async def health() -> HealthResponse:
        if not service.is_healthy:
            raise RequestError(503, "the model is still being loaded, or is restarting; try again in a second")
        return HealthResponse()

    @api.get("/model", summary="The model, and the limits of requests")
    async def model() -> ModelResponse:
        return service.model()


def _add_predict(api: FastAPI, service: Service, requests: RequestModels) -> None:
    movie_or_batch = {"anyOf": [requests.json_schema(), requests.batch_schema()]}

    @api.post(
        "/predict",
        responses=_errors(400, 408, 413, 415, 422, 500, 503),
        openapi_extra=_request_body({JSON: movie_or_batch, FORM: requests.form_schema()}),
        summary="Genres of one movie or of a batch",
    )
    async def predict(request: Request) -> TaggedMovie | TaggedMovies:
        movies, is_batch = await _read_movies(request, requests)
        tagged = await service.predict(movies, is_batch=is_batch)
        return TaggedMovies(movies=tagged) if is_batch else tagged[0]


def _add_explain(api: FastAPI, service: Service, requests: RequestModels) -> None:
    @api.post(
        "/explain",
        responses=_errors(400, 404, 408, 413, 415, 422, 500, 503),
        openapi_extra=_request_body({JSON: requests.json_schema(), FORM: requests.form_schema()}),
        summary="Genres of one movie, with the words and poster regions that support them",
    )
    async def explain(request: Request) -> ExplainedMovie:
        movies, is_batch = await _read_movies(request, requests)
        if is_batch:
            raise RequestError(422, "movies: a batch; expected one movie: send its title, plot and poster")
        return await service.explain(movies[0])


def _add_tag(api: FastAPI, service: Service) -> None:
    @api.post(
        "/tag",
        response_class=Response,
        responses={200: _TAGGED_TABLE, **_errors(400, 408, 413, 415, 422, 500, 503)},
        openapi_extra=_request_body({FORM: _TABLE_FORM}),
        summary="A CSV file of movies, with their genres appended",
    )
    async def tag(request: Request) -> Response:
        content_type = request.headers.get("content-type", "")
        if media_type(content_type) != FORM:
            raise RequestError(415, f"Content-Type: {JSON}; expected {FORM} with a CSV file in the field table")
        table = parse_table_form(await request.body(), content_type)
        content = await service.tag_table(table)
        name = quote(csv_tables.tagged_name(table.name))
        return Response(
            content,
            headers={"Content-Type": _CSV, "Content-Disposition": f"attachment; filename*=UTF-8''{name}"},
        )


async def _read_movies(request: Request, requests: RequestModels) -> tuple[list[MovieRequest], bool]:
    """The movies of a request, and whether it is a batch.

    FastAPI's body parameters accept JSON or a form, but not both on one route.
    """
    content_type = request.headers.get("content-type", "")
    kind = media_type(content_type)
    body = await request.body()
    return requests.parse_json(body) if kind == JSON else ([requests.parse_form(body, content_type)], False)


async def _request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101 - registered for this type
    return _error(error.status, error.message, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
    path = quoted(request.url.path)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return _error(405, f"{request.method} {path}: expected {allowed}", error.headers)
    if error.status_code == 404:
        return _error(
            404, f"{path}: no such path; expected /, /health, /model, /predict, /explain, /tag or /openapi.json"
        )
    return _error(error.status_code, str(error.detail), error.headers)


async def _internal_error(_: Request, error: Exception) -> Response:
    return _error(500, "internal error; see the log of the service")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(error_body(message), status, headers, JSON)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse, "description": _ERRORS[status]} for status in statuses}


def _request_body(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAPI's requestBody, from a schema per media type."""
    content = {name: {"schema": schema} for name, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}
