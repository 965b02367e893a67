"""Things that go wrong between a client and a server: which title they hit is drawn, and drawn the same way again."""

import asyncio
import hashlib
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

from aiohttp import web
from pydantic import Field

from mmgenre.config import Config

Kind = TypeVar("Kind", bound=str)
Fault = Literal["server_error", "timeout", "reset", "truncated", "html", "wrong_shape", "deep", "redirect", "bad_text"]

_WRONG_SHAPES: tuple[Any, ...] = (
    [],
    "busy",
    {"movie_results": "none"},
    {"movie_results": [{"id": None}]},
    {"results": {}},
)
_DEEP = "[" * 1_000_000
_CLOSED_PORT = "http://127.0.0.1:1/"


class Odds(Config, Generic[Kind]):
    """How much goes wrong: a thing's first attempts may fail, later ones succeed, except where it fails for good."""

    rate: float = Field(0, ge=0, le=1, description="chance of a fault in each of a thing's first attempts")
    attempts: int = Field(2, ge=1, description="attempts that can fail; the next one succeeds")
    permanent: float = Field(0, ge=0, le=1, description="share of things that fail every time")
    kinds: tuple[Kind, ...] = Field(min_length=1)
    seed: int = 0

    def draw(self, name: str, attempt: int) -> Kind | None:
        """The fault that hits the attempt (from 1) to get a named thing, or None."""
        permanent = self._chance(name, "permanent") < self.permanent
        if permanent or (attempt <= self.attempts and self._chance(name, attempt) < self.rate):
            return self.kinds[int(self._chance(name, attempt, "kind") * len(self.kinds))]
        return None

    def _chance(self, *parts: object) -> float:
        """A number in [0, 1) that depends on the seed and the parts alone."""
        digest = hashlib.sha256(repr((self.seed, *parts)).encode()).digest()
        return int.from_bytes(digest[:4]) / 2**32


class FaultsConfig(Odds[Fault]):
    """What goes wrong with the answers of the APIs; a title is drawn as `<endpoint> <id>`, such as `find tt0111161`."""

    # Without bad_text, which a client that reads text with care takes for an answer.
    kinds: tuple[Fault, ...] = Field(
        ("server_error", "timeout", "reset", "truncated", "html", "wrong_shape", "deep", "redirect"), min_length=1
    )
    hang_s: float = Field(30, ge=0, description="seconds a timeout keeps its client waiting")


async def commit(fault: Fault, request: web.Request, answer: web.Response, hang_s: float) -> web.StreamResponse:
    """What the client gets instead of the answer."""
    if fault == "timeout":
        await asyncio.sleep(hang_s)
        return web.Response(status=504, text="Gateway Time-out")
    if fault == "truncated":
        return await truncate(request, answer)
    return _SPOILED[fault](request, answer)


async def truncate(request: web.Request, answer: web.Response) -> web.StreamResponse:
    """Half of the body, under a header that promises all of it."""
    body = bytes(answer.body) if isinstance(answer.body, bytes) else b""
    half = web.StreamResponse(status=answer.status)
    half.content_type = answer.content_type
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half


def _server_error(_: web.Request, __: web.Response) -> web.Response:
    body = {"success": False, "status_code": 11, "status_message": "Internal error: Something went wrong."}
    return web.json_response(body, status=500)


def _page(_: web.Request, __: web.Response) -> web.Response:
    return web.Response(text="<html><body><h1>Back in a minute</h1></body></html>", content_type="text/html")


def _wrong_shape(request: web.Request, _: web.Response) -> web.Response:
    return web.json_response(_WRONG_SHAPES[sum(request.path.encode()) % len(_WRONG_SHAPES)])


def _deep(_: web.Request, __: web.Response) -> web.Response:
    """JSON that goes deeper than any parser follows."""
    return web.Response(text=_DEEP, content_type="application/json")


def _redirect(_: web.Request, __: web.Response) -> web.Response:
    return web.Response(status=302, headers={"Location": _CLOSED_PORT})


def _reset(request: web.Request, answer: web.Response) -> web.Response:
    if request.transport is not None:
        # Without lingering the system sends RST, as a crashed server's does, instead of an orderly end.
        no_linger = struct.pack("ii", 1, 0)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        request.transport.abort()
    return answer


def _bad_text(_: web.Request, answer: web.Response) -> web.Response:
    """The same answer, its plot between half a surrogate pair and a NUL: JSON can say both, UTF-8 not the first."""
    said = json.loads(answer.text or "{}")
    for movie in said.get("movie_results", [said]):
        for field in movie.keys() & {"overview", "Plot"}:
            if movie[field] != "N/A":
                movie[field] = f"\ud800 {movie[field]}\0"
    return web.json_response(said, status=answer.status)


_SPOILED: dict[Fault, Callable[[web.Request, web.Response], web.Response]] = {
    "server_error": _server_error,
    "html": _page,
    "wrong_shape": _wrong_shape,
    "deep": _deep,
    "redirect": _redirect,
    "bad_text": _bad_text,
    "reset": _reset,
}
