"""The routes, and the OpenAPI document that describes them."""

import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

import mmgenre
from mmgenre.serving import csv_tables, documents
from mmgenre.serving.middleware import App, Guard
from mmgenre.serving.page import page
from mmgenre.serving.request_error import Refusal, error_body, quoted
from mmgenre.serving.request_models import FORM, JSON, Asked, media_type, movie_of_form, movies_of_json, table_of_form
from mmgenre.serving.responses import Explained, Failure, Health, ModelCard, Tagged, TaggedBatch
from mmgenre.serving.service import Service

_CSV = "text/csv; charset=utf-8"
_WRONG: dict[int, str] = {
    400: "The body is broken: no JSON, no form, no UTF-8.",
    404: "There is nothing of the kind here.",
    408: "The body comes too slowly.",
    413: "Larger than the limits allow, which /model tells.",
    415: "A kind of body that is not read here.",
    422: "Wrong fields, or an image or a table that cannot be read.",
    500: "An error of the service's own.",
    503: "Busy, too slow, or still loading the model; `Retry-After` says when to come again.",
}


def build(service: Service) -> App:
    """The service as an ASGI app."""
    # It warns of every broken form; who sent it is told.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    api = FastAPI(
        title="mmgenre",
        version=mmgenre.__version__,
        description="Genres of movies from their plots and posters.",
        docs_url=None,
        redoc_url=None,
    )
    api.add_exception_handler(Refusal, _refused)
    api.add_exception_handler(HTTPException, _not_here)
    api.add_exception_handler(Exception, _failed)
    _add_about(api, service)
    _add_predict(api, service)
    _add_explain(api, service)
    _add_tag(api, service)
    return Guard(api, service.config.limits.body_bytes)


def _add_about(api: FastAPI, service: Service) -> None:
    found = page(service.card, service.config)

    @api.get("/", response_class=Response, responses={200: {"content": {"text/html": {}}}}, summary="The page")
    async def index() -> Response:
        return Response(found.html, headers=found.headers, media_type="text/html")

    @api.get("/health", response_model=Health, responses=_failures(503), summary="Whether the service can answer")
    async def health() -> Response:
        if not service.is_healthy:
            raise Refusal(503, "the model is still being loaded, or started again; try again in a second")
        return _json({"status": "ok"})

    @api.get("/model", response_model=ModelCard, summary="The model that answers, and the limits of requests")
    async def model() -> Response:
        return _json(service.model())


def _add_predict(api: FastAPI, service: Service) -> None:
    limits = service.config.limits
    either = {"anyOf": [documents.movie(limits), documents.movies(limits)]}

    @api.post(
        "/predict",
        response_model=Tagged | TaggedBatch,
        responses=_failures(400, 408, 413, 415, 422, 500, 503),
        openapi_extra=_takes({JSON: either, FORM: documents.form_of_movie(limits)}),
        summary="Genres of one movie, or of several",
    )
    async def predict(request: Request) -> Response:
        movies, is_batch = await _movies(request, service)
        found = await service.predict(movies, is_batch=is_batch)
        return _json({"movies": found} if is_batch else found[0])


def _add_explain(api: FastAPI, service: Service) -> None:
    limits = service.config.limits

    @api.post(
        "/explain",
        response_model=Explained,
        responses=_failures(400, 404, 408, 413, 415, 422, 500, 503),
        openapi_extra=_takes({JSON: documents.movie(limits), FORM: documents.form_of_movie(limits)}),
        summary="Genres of one movie, and what in its plot and poster spoke for them",
    )
    async def explain(request: Request) -> Response:
        movies, is_batch = await _movies(request, service)
        if is_batch:
            raise Refusal(422, "movies: several; expected one movie: send its title, plot and poster")
        return _json(await service.explain(movies[0]))


def _add_tag(api: FastAPI, service: Service) -> None:
    @api.post(
        "/tag",
        response_class=Response,
        responses={200: documents.TAGGED_TABLE, **_failures(400, 408, 413, 415, 422, 500, 503)},
        openapi_extra=_takes({FORM: documents.FORM_OF_TABLE}),
        summary="A CSV file of movies, with genres beside them",
    )
    async def tag(request: Request) -> Response:
        content_type = request.headers.get("content-type", "")
        if media_type(content_type) != FORM:
            raise Refusal(415, f"Content-Type: {JSON}; expected {FORM} with a CSV file in the field table")
        table = table_of_form(await request.body(), content_type)
        content = await service.tag_table(table)
        name = quote(csv_tables.tagged_name(table.name))
        return Response(
            content,
            headers={"Content-Type": _CSV, "Content-Disposition": f"attachment; filename*=UTF-8''{name}"},
        )


async def _movies(request: Request, service: Service) -> tuple[list[Asked], bool]:
    """The movies of a body, and whether it is of the form that has several."""
    content_type = request.headers.get("content-type", "")
    kind = media_type(content_type)
    body = await request.body()
    if kind == JSON:
        return movies_of_json(body, service.config.limits)
    return [movie_of_form(body, content_type, service.config.limits)], False


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)  # noqa: S101 - by the way it is registered
    return _error(refusal.status, refusal.message, refusal.headers)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - by the way it is registered
    path = quoted(request.url.path)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return _error(405, f"{request.method} {path}: expected {allowed}", error.headers)
    if error.status_code == 404:
        routes = "/, /health, /model, /predict, /explain, /tag and /openapi.json"
        return _error(404, f"{path}: nothing is there; there are {routes}")
    return _error(error.status_code, str(error.detail), error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    return _error(500, "an error of the service's own; its log tells more")


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(content, ensure_ascii=False).encode(), status, headers, JSON)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(error_body(message), status, headers, JSON)


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure, "description": _WRONG[status]} for status in statuses}


def _takes(content: Mapping[str, Any]) -> dict[str, Any]:
    """A request's body, by media type."""
    found = {kind: {"schema": schema} for kind, schema in content.items()}
    return {"requestBody": {"required": True, "content": found}}
