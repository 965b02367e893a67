"""Downloaded bytes, which are hostile, become small RGB JPEGs."""

import io
import re
import struct
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

# Pillow gives each image's memory back to the system, and has it zeroed again for the next one: a sixth of the time.
# A block has up to 16 MB.
Image.core.set_blocks_max(4)

_QUALITY = 90
_MAX_SCANS = 64
_MAX_PARTS = 20_000
_TRUNCATED = "image file is truncated"

_OTHER_KINDS = (
    (b"gif8", "a GIF"),
    (b"ii*\0", "a TIFF"),
    (b"mm\0*", "a TIFF"),
    (b"%pdf", "a PDF"),
    (b"\x1f\x8b", "gzip"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<svg", "an SVG"),
    (b"<?xml", "XML"),
    (b"{", "JSON"),
)

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_START_OF_SCAN = b"\xff\xda"
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}
_APP1 = 0xE1
# Frames and tables; the colour space, which JFIF and Adobe say.
_JPEG_SEGMENTS = {*range(0xC0, 0xD0), *range(0xDB, 0xE0), 0xE0, 0xEE}
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Picture:
    """An RGB JPEG without metadata; width and height in pixels."""

    jpeg: bytes
    width: int
    height: int


class NotAnImage(ValueError):  # noqa: N818 - the row's status says the same
    """The bytes are no JPEG, PNG or WebP, or a broken one; the message quotes none of them."""


class TooManyPixels(ValueError):  # noqa: N818
    """The header announces a picture that is too large to decode."""


def shrink(content: bytes, max_side: int, max_pixels: int) -> Picture:
    """The picture as an RGB JPEG without metadata, upright, on white where it is transparent.

    Several threads may call this at once.

    Args:
        content: a JPEG, PNG or WebP; of an animation the first frame counts.
        max_side: longest side of the result, in pixels; a smaller picture keeps its size.
        max_pixels: width times height that may be decoded. A WebP may have half as many:
            Pillow keeps twice as many copies of it in memory.

    Raises:
        NotAnImage: it is something else, or broken.
        TooManyPixels: it is larger than max_pixels.
    """
    kind = _kind(content)
    try:
        image, exif = _small(kind, content, max_side, max_pixels)
        return _picture(image, _orientation(exif))
    except (NotAnImage, TooManyPixels):
        raise
    except Image.DecompressionBombError:
        raise TooManyPixels("more pixels than Pillow's own limit") from None
    except Exception as error:  # a hostile file makes Pillow raise nearly everything
        truncated = isinstance(error, struct.error) or "truncated" in str(error).lower()
        raise NotAnImage(f"broken {kind}: {_TRUNCATED if truncated else 'cannot be decoded'}") from None


def _kind(content: bytes) -> str:
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WebP"
    if not content:
        raise NotAnImage("empty")
    start = content[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((name for prefix, name in _OTHER_KINDS if start.startswith(prefix)), "unknown content")
    raise NotAnImage(f"{found}; expected JPEG, PNG or WebP")


def _small(kind: str, content: bytes, max_side: int, max_pixels: int) -> tuple[Image.Image, bytes]:
    """The image, decoded, no side longer than max_side, and its EXIF block."""
    # Every later image takes the name of the one before, which is large and must not stay in memory.
    image: Image.Image
    image, exif = _open(kind, content, max_pixels)
    scale = min(1.0, max_side / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, down to 1.5 times the size wanted.
    drafted = image.draft(None, (width * 3 // 2, height * 3 // 2))
    image = _averageable(image)
    if image.size != (width, height):
        box = drafted and drafted[1]
        # 41 dB from LANCZOS at 3/4 of the size, where HAMMING is 46 dB and a third of shrinking.
        image = image.resize((width, height), Image.Resampling.BOX, box, reducing_gap=2.0)
    return image, exif


def _open(kind: str, content: bytes, max_pixels: int) -> tuple[ImageFile, bytes]:
    """The image, not decoded yet, and its EXIF block."""
    # Not by Image.open: its warning of large images goes through filters that all threads share.
    if kind == "WebP":
        if int.from_bytes(content[4:8], "little") + 8 > len(content):
            raise NotAnImage(f"broken WebP: {_TRUNCATED}")
        # Checked first, because Pillow makes room for the pixels when it opens the file.
        _require_few_pixels(_webp_size(content), max_pixels // 2)
        webp = WebPImageFile(io.BytesIO(content))
        _require_few_pixels(webp.size, max_pixels // 2)
        return webp, webp.info.get("exif", b"")
    essence, exif = (_jpeg_essence if kind == "JPEG" else _png_essence)(content)
    image = (JpegImageFile if kind == "JPEG" else PngImageFile)(io.BytesIO(essence))
    _require_few_pixels(image.size, max_pixels)
    return image, exif


def _require_few_pixels(size: tuple[int, int], most: int) -> None:
    width, height = size
    if width * height > most:
        raise TooManyPixels(f"{width}x{height} pixels; at most {most:,}")


def _webp_size(content: bytes) -> tuple[int, int]:
    if content[12:16] == b"VP8X":
        return int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1
    if content[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", content, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg_essence(content: bytes) -> tuple[bytes, bytes]:
    """The JPEG without what its pixels do not need, and its EXIF block.

    A megabyte of comments or EXIF blocks, a few bytes each, would cost Pillow a second.
    """
    kept, exif, at = [content[:2]], b"", 2
    for _ in range(_MAX_PARTS):
        marker = _MARKER.search(content, at)
        if marker is None:
            raise NotAnImage(f"broken JPEG: {_TRUNCATED}")
        if marker[0] == _START_OF_SCAN:
            if content.count(_START_OF_SCAN, marker.start()) > _MAX_SCANS:
                raise NotAnImage(f"broken JPEG: more than {_MAX_SCANS} scans")
            return b"".join([*kept, memoryview(content)[marker.start() :]]), exif
        code, at = marker[0][1], marker.end()
        if code in _WITHOUT_LENGTH:
            continue
        body, at = at + 2, at + int.from_bytes(content[at : at + 2], "big")
        if code in _JPEG_SEGMENTS:
            kept.append(content[marker.start() : at])
        elif code == _APP1 and content.startswith(b"Exif\0\0", body):
            exif = exif or content[body:at]
    raise NotAnImage("broken JPEG: too many segments")


def _png_essence(content: bytes) -> tuple[bytes, bytes]:
    """The PNG without what its first picture does not need, and its EXIF block.

    A megabyte of packed texts or profiles would unpack to a gigabyte.
    """
    view = memoryview(content)
    kept, exif, at = [view[:8]], b"", 8
    for _ in range(_MAX_PARTS):
        length, name = struct.unpack_from(">I4s", content, at)
        start, at = at, at + 12 + length
        if name in _PNG_CHUNKS:
            kept.append(view[start:at])
        elif name == b"eXIf":
            exif = exif or content[start + 8 : at - 4]
        if name == b"IEND":
            return b"".join(kept), exif
    raise NotAnImage("broken PNG: too many chunks")


def _orientation(exif: bytes) -> int:
    """How the picture is turned, 1 to 8 as EXIF counts; 1 where the block does not say, or is broken."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = ">" if exif.startswith(b"MM") else "<"
    # Pillow's reader copies what every entry points to, and all may point to the whole block.
    with suppress(struct.error):
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", exif, first)
        for at in range(first + 2, first + 2 + 12 * num_entries, 12):
            tag, value = struct.unpack_from(f"{order}H6xH", exif, at)
            if tag == _ORIENTATION:
                return value
    return 1


def _averageable(image: Image.Image) -> Image.Image:
    """The image in a mode whose values are colours of 8 bits, and whose transparency is a channel."""
    if image.mode.startswith("I"):
        values = np.array(image)
        values[values == image.info.get("transparency", 65535)] = 65535
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode != "RGBA" and image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("1", "P") else image


def _picture(image: Image.Image, orientation: int) -> Picture:
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    # Pillow would write the comment and the XMP of the source.
    image.info.clear()
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=_QUALITY)
    return Picture(jpeg.getvalue(), image.width, image.height)
