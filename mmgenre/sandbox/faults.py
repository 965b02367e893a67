"""Things that go wrong between a client and a server: which title they hit is drawn, and drawn the same way again."""

import asyncio
import hashlib
import socket
import struct
from typing import Any, Literal, get_args

from aiohttp import web
from pydantic import Field

from mmgenre.config import Config

Fault = Literal["server_error", "timeout", "reset", "truncated", "html", "wrong_shape"]

_WRONG_SHAPES: tuple[Any, ...] = (
    [],
    "busy",
    {"movie_results": "none"},
    {"movie_results": [{"id": None}]},
    {"results": {}},
)


class FaultsConfig(Config):
    """How much goes wrong: a title's first attempts may fail, later ones succeed, except where it fails for good."""

    rate: float = Field(0, ge=0, le=1, description="chance of a fault in each of a title's first attempts")
    attempts: int = Field(2, ge=1, description="attempts that can fail; the next one succeeds")
    permanent: float = Field(0, ge=0, le=1, description="share of titles that fail every time")
    kinds: tuple[Fault, ...] = Field(get_args(Fault), min_length=1)
    hang_s: float = Field(30, ge=0, description="seconds a timeout keeps its client waiting")
    seed: int = 0

    def draw(self, name: str, attempt: int) -> Fault | None:
        """The fault that hits the attempt (from 1) to get a named thing, or None."""
        permanent = self._chance(name, "permanent") < self.permanent
        if permanent or (attempt <= self.attempts and self._chance(name, attempt) < self.rate):
            return self.kinds[int(self._chance(name, attempt, "kind") * len(self.kinds))]
        return None

    def _chance(self, *parts: object) -> float:
        """A number in [0, 1) that depends on the seed and the parts alone."""
        digest = hashlib.sha256(repr((self.seed, *parts)).encode()).digest()
        return int.from_bytes(digest[:4]) / 2**32


async def commit(fault: Fault, request: web.Request, answer: web.Response, hang_s: float) -> web.StreamResponse:
    """What the client gets instead of the answer."""
    match fault:
        case "server_error":
            body = {"success": False, "status_code": 11, "status_message": "Internal error: Something went wrong."}
            return web.json_response(body, status=500)
        case "timeout":
            await asyncio.sleep(hang_s)
            return web.Response(status=504, text="Gateway Time-out")
        case "html":
            return web.Response(text="<html><body><h1>Back in a minute</h1></body></html>", content_type="text/html")
        case "wrong_shape":
            return web.json_response(_WRONG_SHAPES[sum(request.path.encode()) % len(_WRONG_SHAPES)])
        case "reset":
            return _reset(request, answer)
        case "truncated":
            return await _truncate(request, answer)


def _reset(request: web.Request, answer: web.Response) -> web.Response:
    if request.transport is not None:
        # Without lingering the system sends RST, as a crashed server's does, instead of an orderly end.
        no_linger = struct.pack("ii", 1, 0)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        request.transport.abort()
    return answer


async def _truncate(request: web.Request, answer: web.Response) -> web.StreamResponse:
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
