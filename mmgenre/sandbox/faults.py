"""Faults of the API server. Which titles they hit is pseudo-random but reproducible."""

import asyncio
import gzip
import hashlib
import json
import socket
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Generic, Literal, TypeVar

from aiohttp import web
from pydantic import Field

from mmgenre.config import Config

Kind = TypeVar("Kind", bound=str)
Fault = Literal[
    "server_error",
    "timeout",
    "reset",
    "truncated",
    "html",
    "wrong_shape",
    "deep",
    "redirect",
    "bad_text",
    "gzip",
    "gzip_unnamed",
    "gzip_bomb",
]

_WRONG_SHAPES: tuple[Any, ...] = (
    [],
    "busy",
    {"movie_results": "none"},
    {"movie_results": [{"id": None}]},
    {"results": {}},
)
_DEEP = "[" * 1_000_000
BOMB_BYTES = 20_000_000
_CLOSED_PORT = "http://127.0.0.1:1/"


class FaultOdds(Config, Generic[Kind]):
    """Probabilities of faults: the first attempts for an item may fail, later ones succeed unless it always fails."""

    rate: float = Field(0, ge=0, le=1, description="probability of a fault in each of an item's first attempts")
    attempts: int = Field(2, ge=1, description="number of attempts that can fail; the next one succeeds")
    permanent: float = Field(0, ge=0, le=1, description="share of items that always fail")
    kinds: tuple[Kind, ...] = Field(min_length=1)
    seed: int = 0

    def draw(self, name: str, attempt: int) -> Kind | None:
        """The fault of an attempt (counted from 1) to get an item, or None."""
        permanent = self._uniform(name, "permanent") < self.permanent
        if permanent or (attempt <= self.attempts and self._uniform(name, attempt) < self.rate):
            return self.kinds[int(self._uniform(name, attempt, "kind") * len(self.kinds))]
        return None

    def _uniform(self, *parts: object) -> float:
        """A number in [0, 1) determined by the seed and the parts."""
        digest = hashlib.sha256(repr((self.seed, *parts)).encode()).digest()
        return int.from_bytes(digest[:4]) / 2**32


class FaultsConfig(FaultOdds[Fault]):
    """Faults of API responses; the item of a title is named `<endpoint> <id>`, such as `find tt0111161`."""

    # Without bad_text and gzip, which are valid responses for a client that decodes them carefully.
    kinds: tuple[Fault, ...] = Field(
        ("server_error", "timeout", "reset", "truncated", "html", "wrong_shape", "deep", "redirect"), min_length=1
    )
    hang_s: float = Field(30, ge=0, description="seconds until a response with fault timeout is sent")


async def respond(fault: Fault, request: web.Request, intact: web.Response, hang_s: float) -> web.StreamResponse:
    """The response with a fault, made from the intact one."""
    if fault == "timeout":
        await asyncio.sleep(hang_s)
        return web.Response(status=504, text="Gateway Time-out")
    if fault == "truncated":
        return await truncate(request, intact)
    return _FAULTY[fault](request, intact)


async def truncate(request: web.Request, intact: web.Response) -> web.StreamResponse:
    """Half of the body, with the Content-Length of all of it."""
    body = body_of(intact)
    half = web.StreamResponse(status=intact.status)
    half.content_type = intact.content_type
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half


def compressed(intact: web.Response, named: bool = True) -> web.Response:
    """The response in gzip, although clients request `identity`; without the header that says so unless named."""
    headers = {"Content-Type": intact.headers["Content-Type"]}
    if named:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=gzip.compress(body_of(intact), mtime=0), status=intact.status, headers=headers)


@cache
def bomb() -> bytes:
    """20 MB of spaces in 20 kB of gzip."""
    return gzip.compress(b" " * BOMB_BYTES, mtime=0)


def body_of(response: web.Response) -> bytes:
    """The bytes of a response's body."""
    return bytes(response.body) if isinstance(response.body, bytes) else b""


def _server_error(_: web.Request, __: web.Response) -> web.Response:
    body = {"success": False, "status_code": 11, "status_message": "Internal error: Something went wrong."}
    return web.json_response(body, status=500)


def _page(_: web.Request, __: web.Response) -> web.Response:
    return web.Response(text="<html><body><h1>Back in a minute</h1></body></html>", content_type="text/html")


def _wrong_shape(request: web.Request, _: web.Response) -> web.Response:
    return web.json_response(_WRONG_SHAPES[sum(request.path.encode()) % len(_WRONG_SHAPES)])


def _deep(_: web.Request, __: web.Response) -> web.Response:
    """JSON that is nested too deeply for any parser."""
    return web.Response(text=_DEEP, content_type="application/json")


def _redirect(_: web.Request, __: web.Response) -> web.Response:
    return web.Response(status=302, headers={"Location": _CLOSED_PORT})


def _reset(request: web.Request, intact: web.Response) -> web.Response:
    if request.transport is not None:
        # With a linger time of 0 the system sends RST, as for a crashed server, instead of closing properly.
        no_linger = struct.pack("ii", 1, 0)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        request.transport.abort()
    return intact


def _bad_text(_: web.Request, intact: web.Response) -> web.Response:
    """Half a surrogate pair before the plot, which UTF-8 cannot encode, and a NUL after it."""
    content = json.loads(intact.text or "{}")
    for movie in content.get("movie_results", [content]):
        for field in movie.keys() & {"overview", "Plot"}:
            if movie[field] != "N/A":
                movie[field] = f"\ud800 {movie[field]}\0"
    return web.json_response(content, status=intact.status)


def _bomb(_: web.Request, __: web.Response) -> web.Response:
    return web.Response(body=bomb(), content_type="application/json", headers={"Content-Encoding": "gzip"})


_FAULTY: dict[Fault, Callable[[web.Request, web.Response], web.Response]] = {
    "server_error": _server_error,
    "html": _page,
    "wrong_shape": _wrong_shape,
    "deep": _deep,
    "redirect": _redirect,
    "bad_text": _bad_text,
    "reset": _reset,
    "gzip": lambda _, intact: compressed(intact),
    "gzip_unnamed": lambda _, intact: compressed(intact, named=False),
    "gzip_bomb": _bomb,
}
