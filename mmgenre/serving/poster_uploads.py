"""Uploaded posters, converted to the JPEGs that the posters stage would have stored."""

import base64
import binascii
import io
from functools import cache

from PIL import Image

from mmgenre.posters.images import NotAnImage, TooManyPixels, shrink
from mmgenre.serving.config import Limits
from mmgenre.serving.request_error import RequestError

_START_OF_FRAME, _START_OF_SCAN, _END = b"\xff\xc0", b"\xff\xda", b"\xff\xd9"
# In a JPEG frame header, marker, length and depth come before height and width (two bytes each).
_BYTES_BEFORE_SIZE, _SIZE_BYTES = 5, 4


def normalized_poster(upload: bytes | str, max_side: int, limits: Limits) -> bytes:
    """The JPEG that the model reads: shrunk as in a POSTERS table, or unchanged if it comes from one. Thread-safe.

    Args:
        upload: a JPEG, PNG or WebP, as bytes or in base64.
        max_side: longest side of the result, in pixels.
        limits: on bytes and pixels.

    Raises:
        RequestError: not an image, a broken one, or one that is too large.
    """
    content = _decode_base64(upload) if isinstance(upload, str) else upload
    if len(content) > limits.poster_bytes:
        raise RequestError(
            413, f"poster: {len(content):,} bytes; expected at most {limits.poster_bytes:,}: make it smaller"
        )
    if _is_normalized(content, max_side):
        return content
    try:
        return shrink(content, max_side, limits.poster_pixels).jpeg
    except TooManyPixels as error:
        raise RequestError(413, f"poster: {error}: make it smaller") from None
    except NotAnImage as error:
        expected = "" if "expected" in str(error) else "; expected JPEG, PNG or WebP"
        raise RequestError(422, f"poster: {error}{expected}") from None


def _decode_base64(text: str) -> bytes:
    """Bytes of base64, which may contain line breaks, or of a data: URL."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(422, "poster: not base64; expected a JPEG, PNG or WebP in base64") from None


def _is_normalized(content: bytes, max_side: int) -> bool:
    """Whether `shrink` wrote these bytes; shrinking them again would change the pixels that the model sees."""
    before_size, after_size = _jpeg_header()
    start = len(before_size) + _SIZE_BYTES
    end = start + len(after_size)
    if not (content.startswith(before_size) and content[start:end] == after_size and content.endswith(_END)):
        return False
    size = content[start - _SIZE_BYTES : start]
    height, width = int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")
    if max(height, width) > max_side or content.count(_START_OF_SCAN) != 1:
        return False
    try:
        Image.open(io.BytesIO(content), formats=("JPEG",)).load()
    except Exception:  # Pillow raises nearly anything for a broken file; shrink reports it properly
        return False
    return True


@cache
def _jpeg_header() -> tuple[bytes, bytes]:
    """The constant bytes before and after the image size, up to the pixels, in every JPEG that `shrink` writes."""
    png = io.BytesIO()
    Image.new("RGB", (1, 1)).save(png, "PNG")
    jpeg = shrink(png.getvalue(), 1, 1).jpeg
    size = jpeg.index(_START_OF_FRAME) + _BYTES_BEFORE_SIZE
    return jpeg[:size], jpeg[size + _SIZE_BYTES : jpeg.index(_START_OF_SCAN) + len(_START_OF_SCAN)]
