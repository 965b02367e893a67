"""Posters as clients send them, made what the posters stage would have stored."""

import base64
import binascii
import io
from functools import cache

from PIL import Image

from mmgenre.posters.images import NotAnImage, TooManyPixels, shrink
from mmgenre.serving.limits import Limits
from mmgenre.serving.request_error import Refusal

_START_OF_FRAME, _START_OF_SCAN, _END = b"\xff\xc0", b"\xff\xda", b"\xff\xd9"
# Of a JPEG's frame header: marker, length and depth stand before height and width, two bytes each.
_BEFORE_SIZE, _SIZE = 5, 4


def stored(upload: bytes | str, max_side: int, limits: Limits) -> bytes:
    """The JPEG that models read of an uploaded poster: shrunk like those of a POSTERS table, unless it is one.

    Several threads may call this at once.

    Args:
        upload: a JPEG, PNG or WebP, or one of them in base64.
        max_side: longest side of the result, in pixels.
        limits: of bytes and pixels.

    Raises:
        Refusal: no image, a broken one, or one that is too large.
    """
    content = _from_base64(upload) if isinstance(upload, str) else upload
    if len(content) > limits.poster_bytes:
        raise Refusal(413, f"poster: {len(content):,} bytes; expected at most {limits.poster_bytes:,}: make it smaller")
    if _is_stored(content, max_side):
        return content
    try:
        return shrink(content, max_side, limits.poster_pixels).jpeg
    except TooManyPixels as error:
        raise Refusal(413, f"poster: {error}: make it smaller") from None
    except NotAnImage as error:
        expected = "" if "expected" in str(error) else "; expected JPEG, PNG or WebP"
        raise Refusal(422, f"poster: {error}{expected}") from None


def _from_base64(text: str) -> bytes:
    """Bytes of base64, which may be wrapped, or an address that holds them."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, "poster: not base64; expected a JPEG, PNG or WebP in base64") from None


def _is_stored(content: bytes, max_side: int) -> bool:
    """Whether these are bytes that `shrink` has made: another round would change what a model sees of them."""
    before_size, after_size = _header()
    start = len(before_size) + _SIZE
    end = start + len(after_size)
    if not (content.startswith(before_size) and content[start:end] == after_size and content.endswith(_END)):
        return False
    height, width = (int.from_bytes(content[start - _SIZE + at : start - _SIZE + at + 2], "big") for at in (0, 2))
    if max(height, width) > max_side or content.count(_START_OF_SCAN) != 1:
        return False
    try:
        Image.open(io.BytesIO(content), formats=("JPEG",)).load()
    except Exception:  # a broken file makes Pillow raise nearly everything; shrink says how it is broken
        return False
    return True


@cache
def _header() -> tuple[bytes, bytes]:
    """What stands before and after the size of a picture in all JPEGs that `shrink` makes, up to their pixels."""
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    jpeg = shrink(picture.getvalue(), 1, 1).jpeg
    size = jpeg.index(_START_OF_FRAME) + _BEFORE_SIZE
    return jpeg[:size], jpeg[size + _SIZE : jpeg.index(_START_OF_SCAN) + len(_START_OF_SCAN)]
