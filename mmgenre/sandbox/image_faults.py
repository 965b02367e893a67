"""Faults of the image host: posters as a broken, careless or hostile host sends them."""

import asyncio
import io
import struct
import zlib
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from aiohttp import web
from PIL import Image, ImageOps
from pydantic import Field

from mmgenre.sandbox.faults import FaultOdds, body_of, bomb, compressed, truncate

ImageFault = Literal[
    "server_error",
    "truncated",
    "cut_off",
    "no_end",
    "empty",
    "html",
    "gif",
    "cmyk",
    "palette_png",
    "alpha_png",
    "deep_png",
    "webp",
    "animated",
    "huge_png",
    "gzip",
    "gzip_unnamed",
    "gzip_bomb",
    "endless",
    "drip",
    "redirect_loopback",
    "redirect_elsewhere",
    "redirect_home",
    "placeholder",
]

HUGE_SIDE = 20_000
ENDLESS_BYTES = 200 * 2**20
_CHUNK_BYTES = 2**16
_ELSEWHERE = "https://example.org/poster.jpg"


class ImageFaultsConfig(FaultOdds[ImageFault]):
    """Faults of posters; the item of a poster is named `image <file name>`."""

    kinds: tuple[ImageFault, ...] = Field(get_args(ImageFault), min_length=1)


async def respond(fault: ImageFault, request: web.Request, intact: web.Response, secret_url: str) -> web.StreamResponse:
    """The response with a fault, made from the intact poster.

    Args:
        fault: the fault.
        request: the client's request.
        intact: the response with the poster, a JPEG.
        secret_url: target of redirect_loopback, which a careful client does not follow.
    """
    redirects = {
        "redirect_loopback": secret_url,
        "redirect_elsewhere": _ELSEWHERE,
        "redirect_home": f"{request.path}?again=1",
    }
    if fault == "server_error":
        return web.Response(status=500, text="Internal Server Error")
    if fault in redirects:
        return web.Response(status=302, headers={"Location": redirects[fault]})
    if fault in _STREAMS:
        return await _STREAMS[fault](request, intact)
    if fault in ("gzip", "gzip_unnamed"):
        return compressed(intact, named=fault == "gzip")
    content_type, transform = _TRANSFORMS[fault]
    try:
        body = await asyncio.to_thread(transform, body_of(intact))
    except OSError:
        return intact  # the served folder contains a file that is not an image
    return web.Response(body=body, content_type=content_type)


@cache
def placeholder() -> bytes:
    """A grey JPEG, the same for every title."""
    return _encode(Image.new("RGB", (342, 513), (128, 128, 128)), "JPEG")


@cache
def huge_png() -> bytes:
    """A black PNG of 20,000 x 20,000 pixels in 50 kB: 50 MB decompressed, 400 MB at one byte per pixel."""
    row = bytes(1 + HUGE_SIDE // 8)
    compressor = zlib.compressobj(9)
    pixels = b"".join([*(compressor.compress(row) for _ in range(HUGE_SIDE)), compressor.flush()])
    one_bit_grey = struct.pack(">IIBBBBB", HUGE_SIDE, HUGE_SIDE, 1, 0, 0, 0, 0)
    chunks = (b"IHDR", one_bit_grey), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, content) for kind, content in chunks)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


async def _pour(request: web.Request, intact: web.Response) -> web.StreamResponse:
    """The poster followed by zeros, without Content-Length, as fast as the client reads."""
    stream = web.StreamResponse()
    stream.content_type = "image/jpeg"
    await stream.prepare(request)
    await stream.write(body_of(intact)[:_CHUNK_BYTES].ljust(_CHUNK_BYTES, b"\0"))
    for _ in range(ENDLESS_BYTES // _CHUNK_BYTES - 1):
        await stream.write(bytes(_CHUNK_BYTES))
        # Let other requests run while a fast client keeps this loop busy.
        await asyncio.sleep(0)
    return stream


async def _drip(request: web.Request, intact: web.Response) -> web.StreamResponse:
    """The poster, one byte per second."""
    body = body_of(intact)
    stream = web.StreamResponse()
    stream.content_type, stream.content_length = "image/jpeg", len(body)
    await stream.prepare(request)
    for byte in body:
        await stream.write(bytes([byte]))
        await asyncio.sleep(1)
    return stream


def _cut_off(poster: bytes) -> bytes:
    return poster[: len(poster) // 2]


def _without_end(poster: bytes) -> bytes:
    return poster.removesuffix(b"\xff\xd9")


def _as_gif(poster: bytes) -> bytes:
    return _encode(_open(poster).quantize(), "GIF")


def _as_cmyk(poster: bytes) -> bytes:
    return _encode(_open(poster).convert("CMYK"), "JPEG")


def _as_palette(poster: bytes) -> bytes:
    return _encode(_open(poster).quantize(), "PNG")


def _with_alpha(poster: bytes) -> bytes:
    image = _open(poster)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return _encode(image, "PNG")


def _as_deep_grey(poster: bytes) -> bytes:
    """16-bit grey: white is 65535."""
    return _encode(Image.fromarray(np.asarray(_open(poster).convert("L")).astype(np.uint16) * 257), "PNG")


def _as_webp(poster: bytes) -> bytes:
    return _encode(_open(poster), "WEBP")


def _animated(poster: bytes) -> bytes:
    image = _open(poster)
    return _encode(image, "WEBP", save_all=True, append_images=[ImageOps.mirror(image)], duration=500)


def _open(poster: bytes) -> Image.Image:
    return Image.open(io.BytesIO(poster)).convert("RGB")


def _encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return content.getvalue()


_PAGE = b"<!doctype html><html><body><h1>Please log in</h1></body></html>"
_STREAMS: dict[str, Callable[[web.Request, web.Response], Awaitable[web.StreamResponse]]] = {
    "truncated": truncate,
    "endless": _pour,
    "drip": _drip,
}
# Content types, and functions that make the body from the poster; they run in a thread.
_TRANSFORMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "cut_off": ("image/jpeg", _cut_off),
    "no_end": ("image/jpeg", _without_end),
    "empty": ("image/jpeg", lambda _: b""),
    "html": ("image/jpeg", lambda _: _PAGE),
    "gif": ("image/gif", _as_gif),
    "cmyk": ("image/jpeg", _as_cmyk),
    "palette_png": ("image/png", _as_palette),
    "alpha_png": ("image/png", _with_alpha),
    "deep_png": ("image/png", _as_deep_grey),
    "webp": ("image/webp", _as_webp),
    "animated": ("image/webp", _animated),
    "huge_png": ("image/png", lambda _: huge_png()),
    "gzip_bomb": ("image/jpeg", lambda _: bomb()),
    "placeholder": ("image/jpeg", lambda _: placeholder()),
}
