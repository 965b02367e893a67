"""Response bodies: bounded, and unpacked within the same bound where a CDN compressed them unasked."""

import zlib
from dataclasses import dataclass

import aiohttp

from mmgenre.enrich.http import ResponseTooLarge, RetryableError

_GZIP_START = b"\x1f\x8b"
# Window sizes with which zlib reads a gzip header, a zlib header, or none.
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
# A file that is compressed itself, by a server and by a CDN.
_MAX_LAYERS = 3
_UNSUPPORTED_ENCODINGS = ("br", "zstd", "compress")


@dataclass(frozen=True)
class Body:
    """A response body as it was sent. Some CDNs compress it although `identity` was requested.

    Args:
        content: the bytes.
        encoding: the Content-Encoding header.
    """

    content: bytes
    encoding: str = ""

    def unpacked(self, max_bytes: int) -> bytes:
        """The bytes without gzip, which is recognised with and without its header, or deflate.

        Raises:
            ResponseTooLarge: they exceed max_bytes; no more than these are unpacked.
            RetryableError: they are damaged, or compressed in another way.
        """
        content, encoding = self.content, self.encoding.strip().lower()
        if encoding in _UNSUPPORTED_ENCODINGS:
            raise RetryableError(f"the response is compressed ({encoding}) although identity was requested")
        if encoding == "deflate" and content:
            # Some servers leave out the header of the zlib format.
            content = _inflate(content, _ZLIB if content.startswith(b"\x78") else _RAW, max_bytes)
        for _ in range(_MAX_LAYERS):
            if not content.startswith(_GZIP_START):
                break
            content = _inflate(content, _GZIP, max_bytes)
        return content


def _inflate(content: bytes, window: int, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(window)
    try:
        unpacked = inflater.decompress(content, max_bytes + 1)
    except zlib.error:
        raise RetryableError("the response is compressed and damaged") from None
    if len(unpacked) > max_bytes:
        raise ResponseTooLarge(f"response of more than {max_bytes:,} bytes")
    # Several gzip members in one body may be any number: to unpack them takes quadratic time.
    if not inflater.eof or inflater.unused_data.startswith(_GZIP_START):
        raise RetryableError("the response is compressed and incomplete")
    return unpacked


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read and unpack a response body.

    Raises:
        ResponseTooLarge: it exceeds max_bytes, packed or unpacked.
        RetryableError: it is damaged.
    """
    return (await receive_body(response, max_bytes)).unpacked(max_bytes)


async def receive_body(response: aiohttp.ClientResponse, max_bytes: int) -> Body:
    """Read a response body without unpacking it.

    Raises:
        ResponseTooLarge: it exceeds max_bytes, or its Content-Length does.
    """
    too_large = ResponseTooLarge(f"response of more than {max_bytes:,} bytes")
    if (response.content_length or 0) > max_bytes:
        raise too_large
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > max_bytes:
            raise too_large
    return Body(bytes(content), response.headers.get("Content-Encoding", ""))
