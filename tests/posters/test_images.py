"""Images of every kind, and hostile files, become small RGB JPEGs or are rejected."""

import io
import random
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from mmgenre.posters.images import NotAnImage, Picture, TooManyPixels, shrink

ENOUGH = 25_000_000
RED, WHITE = (200, 30, 30), (255, 255, 255)
FORMATS = ["JPEG", "PNG", "WEBP"]


def encoded(image, kind, **options):
    """The image encoded as a file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def plain(mode="RGB", size=(40, 60), color=RED):
    return Image.new("RGB", size, color).convert(mode)


def decoded(picture):
    """The decoded image, after checking what holds for every result of `shrink`."""
    image = Image.open(io.BytesIO(picture.jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (picture.width, picture.height))
    assert not {"exif", "icc_profile", "comment", "xmp", "photoshop", "dpi"} & set(image.info)
    image.load()
    return image


def colour(content, at=(0.5, 0.5), max_side=64):
    """The colour of the result at a relative position, by default the centre."""
    image = decoded(shrink(content, max_side, ENOUGH))
    return image.getpixel((int(image.width * at[0]), int(image.height * at[1])))


def near(color):
    return pytest.approx(color, abs=6)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def png(width, height, *, depth=(8, 2), extra=b"", data=b""):
    """A hand-made PNG with pixel rows `data`; `depth` is bit depth and colour type, by default 8-bit RGB."""
    header = chunk(b"IHDR", struct.pack(">II5B", width, height, *depth, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# Sizes


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((342, 513), 384, (256, 384)),
        ((513, 342), 384, (384, 256)),
        ((500, 500), 384, (384, 384)),
        ((800, 1201), 384, (256, 384)),
        ((40, 60), 384, (40, 60)),
        ((384, 10), 384, (384, 10)),
        ((1, 1), 384, (1, 1)),
        ((1, 2000), 100, (1, 100)),
        ((2000, 3), 1, (1, 1)),
    ],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_the_longest_side_is_shrunk_to_the_limit_and_never_enlarged(kind, size, max_side, expected):
    picture = shrink(encoded(plain(size=size), kind), max_side, ENOUGH)

    assert (picture.width, picture.height) == expected
    assert decoded(picture).getpixel((0, 0)) == near(RED)


@pytest.mark.parametrize("size", [(700, 1001), (1600, 2003)])
def test_a_large_jpeg_resembles_a_high_quality_resize(size):
    ramp = Image.merge("RGB", [Image.radial_gradient("L"), Image.linear_gradient("L"), Image.new("L", (256, 256))])
    content = encoded(ramp.resize(size), "JPEG", quality=95)

    result = decoded(shrink(content, 384, ENOUGH))

    expected = Image.open(io.BytesIO(content)).resize(result.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(result, int) - np.asarray(expected, int)).mean() < 2


def test_an_image_above_the_limit_is_not_decoded():
    with pytest.raises(TooManyPixels, match=r"^20000x20000 pixels; at most 25,000,000$"):
        shrink(png(20_000, 20_000), 384, ENOUGH)
    assert shrink(encoded(plain(size=(50, 40)), "PNG"), 384, 2000).width == 50
    with pytest.raises(TooManyPixels):
        shrink(encoded(plain(size=(50, 41)), "PNG"), 384, 2000)


def test_the_limit_of_a_webp_is_half_because_it_takes_twice_the_memory():
    content = encoded(plain(size=(50, 40)), "WEBP")

    assert shrink(content, 384, 4000).width == 50
    with pytest.raises(TooManyPixels, match="50x40 pixels; at most 1,999"):
        shrink(content, 384, 3999)


def huge_jpeg():
    content = encoded(plain(), "JPEG")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", 65_500, 65_500) + content[at + 4 :]


def huge_webp(**options):
    content = bytearray(encoded(Image.new("RGBA", (40, 60), (*RED, 90)), "WEBP", **options))
    if content[12:16] == b"VP8X":
        content[24:30] = b"\xff\xff\x00" * 2
    elif content[12:16] == b"VP8L":
        content[21:25] = struct.pack("<I", struct.unpack_from("<I", content, 21)[0] | 0xFFFFFFF)
    return bytes(content)


@pytest.mark.parametrize("content", [huge_jpeg(), png(2**31, 2**31), huge_webp(), huge_webp(lossless=True)])
def test_a_huge_size_in_the_header_is_rejected_without_a_warning(content):
    with warnings.catch_warnings(), pytest.raises(TooManyPixels):
        warnings.simplefilter("error")
        shrink(content, 384, ENOUGH)


def test_pillows_own_limit_holds_when_more_is_allowed():
    with pytest.raises((TooManyPixels, NotAnImage)):
        shrink(huge_webp(lossless=True), 384, 10**12)


def test_a_second_header_cannot_hide_the_size():
    content = png(10, 10, extra=chunk(b"IHDR", struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)))

    with pytest.raises(TooManyPixels, match="60000x60000"):
        shrink(content, 384, ENOUGH)


# Colours


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *[("RGB", kind) for kind in FORMATS],
        *[("RGBA", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG")],
    ],
)
def test_every_colour_mode_becomes_rgb(mode, kind):
    assert colour(encoded(plain(mode), kind)) == near(RED)


def test_a_palette_becomes_rgb():
    assert colour(encoded(plain().quantize(4), "PNG")) == near(RED)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_becomes_rgb(kind):
    assert colour(encoded(Image.new("L", (40, 60), 77), kind)) == near((77, 77, 77))


def test_a_progressive_cmyk_jpeg_with_inverted_values_keeps_its_colour():
    assert colour(encoded(plain("CMYK", (800, 900)), "JPEG", progressive=True)) == near(RED)


def test_a_ycck_jpeg_keeps_its_colour():
    # YCCK stores luma and chroma of the inverted colour. Pillow cannot write it, but writes CMYK inverted byte by byte.
    bands = ImageOps.invert(plain()).convert("YCbCr").split()
    cmyk = Image.merge("CMYK", [*map(ImageOps.invert, bands), Image.new("L", bands[0].size, 0)])
    content = encoded(cmyk, "JPEG", quality=100, subsampling=0)
    transform = content.index(b"Adobe") + 11
    assert content[transform] == 0

    assert colour(content[:transform] + b"\2" + content[transform + 1 :]) == near(RED)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("size", [(40, 60), (900, 600)])
def test_transparent_areas_become_white(kind, size):
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, size[0] // 2, size[1]))
    content = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))

    assert colour(content, at=(0.2, 0.5)) == near(RED)
    assert colour(content, at=(0.8, 0.5)) == near(WHITE)


def test_half_transparent_grey_becomes_lighter():
    assert colour(encoded(Image.new("LA", (40, 60), (100, 128)), "PNG")) == near((177, 177, 177))


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_palette_can_be_transparent(transparency):
    image = Image.new("P", (40, 60), 0)
    image.putpalette([0, 0, 0, *RED])
    image.paste(1, (0, 0, 20, 60))
    content = encoded(image, "PNG", transparency=transparency)

    assert colour(content, at=(0.2, 0.5)) == near(RED)
    assert colour(content, at=(0.8, 0.5)) == near(WHITE)


@pytest.mark.parametrize(
    ("mode", "key"), [("RGB", RED), ("L", 90), ("1", 0), ("I;16", 300)], ids=["RGB", "L", "1", "I;16"]
)
def test_a_single_colour_can_be_transparent(mode, key):
    assert colour(encoded(Image.new(mode, (40, 60), key), "PNG", transparency=key)) == near(WHITE)


def test_black_and_white_pixels_are_averaged():
    checks = Image.fromarray(np.indices((64, 64)).sum(axis=0) % 2 == 1)

    assert colour(encoded(checks, "PNG"), max_side=8) == near((128, 128, 128))


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (300, 1), (32_768, 128), (65_535, 255)])
def test_16_bit_grey_is_scaled_and_not_clipped(value, grey):
    assert colour(encoded(Image.new("I;16", (40, 60), value), "PNG")) == near((grey,) * 3)


def test_16_bit_colour_is_scaled():
    content = png(2, 2, depth=(16, 2), data=(b"\0" + struct.pack(">3H", *(257 * value for value in RED)) * 2) * 2)

    assert colour(content) == near(RED)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_used(kind):
    assert colour(encoded(plain(), kind, save_all=True, append_images=[plain(color=WHITE)] * 3)) == near(RED)


# Metadata


CORNERS = "top left, top right, bottom right, bottom left, top left, top right, bottom right, bottom left"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("orientation", "corner"), enumerate(CORNERS.split(", "), start=1))
def test_the_image_is_turned_upright(kind, orientation, corner):
    stored, exif = Image.new("RGB", (90, 60), WHITE), Image.Exif()
    stored.paste(RED, (0, 0, 45, 30))
    exif[0x0112] = orientation

    image = decoded(shrink(encoded(stored, kind, exif=exif), 45, ENOUGH))

    width, height = image.size
    x, y = 3 if "left" in corner else width - 4, 3 if "top" in corner else height - 4
    assert (width, height) == ((45, 30) if orientation < 5 else (30, 45))
    assert image.getpixel((x, y)) == near(RED)
    assert [image.getpixel(at) for at in [(width - 1 - x, y), (x, height - 1 - y)]] == [near(WHITE)] * 2


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\x09\0\0",
        b"II*\0\x08\0\0\0" + b"\xff" * 60_000,
    ],
)
def test_a_damaged_exif_block_is_ignored(exif):
    content = encoded(plain(), "JPEG")

    assert colour(content[:2] + segment(0xE1, b"Exif\0\0" + exif) + content[2:]) == near(RED)
    assert colour(png(1, 1, extra=chunk(b"eXIf", exif), data=bytes([0, *RED]))) == near(RED)


@pytest.mark.parametrize("kind", FORMATS)
def test_comments_profiles_and_texts_are_removed(kind):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", "secret")
    options = {
        "JPEG": {"comment": b"secret", "dpi": (300, 300), "icc_profile": b"secret" * 100_000, "xmp": b"secret"},
        "PNG": {"pnginfo": texts, "icc_profile": b"secret", "dpi": (300, 300)},
        "WEBP": {"icc_profile": b"secret", "xmp": b"secret"},
    }

    picture = shrink(encoded(plain(), kind, **options[kind]), 64, ENOUGH)

    assert decoded(picture).getpixel((5, 5)) == near(RED)
    assert b"secret" not in picture.jpeg


# Rejected content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (encoded(plain(), "GIF"), "a GIF; expected JPEG, PNG or WebP"),
        (encoded(plain(), "TIFF"), "a TIFF; expected JPEG, PNG or WebP"),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE html><p>Not found", "HTML; expected JPEG, PNG or WebP"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG; expected JPEG, PNG or WebP"),
        (b'{"status": 404}', "JSON; expected JPEG, PNG or WebP"),
        (encoded(plain(), "AVIF"), "an AVIF; expected JPEG, PNG or WebP"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "an AVIF; expected JPEG, PNG or WebP"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIF or video file; expected JPEG, PNG or WebP"),
        (b"\0" * 100, "unknown content; expected JPEG, PNG or WebP"),
        (encoded(plain(), "BMP"), "unknown content; expected JPEG, PNG or WebP"),
        (b"\xff\xd8\xff", "broken JPEG: truncated or damaged, cannot be decoded"),
        (b"\xff\xd8\xff\xd9" * 2, "broken JPEG: truncated or damaged, cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "broken PNG: truncated or damaged, cannot be decoded"),
        (b"RIFF\0\0\0\0WEBP", "broken WebP: truncated or damaged, cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "broken PNG: truncated or damaged, cannot be decoded"),
        (png(10, 10, depth=(8, 5)), "broken PNG: truncated or damaged, cannot be decoded"),
        (png(5000, 5000, data=b"\0" * 1000), "broken PNG: truncated or damaged, cannot be decoded"),
    ],
)
def test_other_content_is_rejected_with_its_kind(content, message):
    with pytest.raises(NotAnImage) as refused:
        shrink(content, 384, ENOUGH)

    assert str(refused.value) == message


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_rejected(kind, share):
    content = encoded(Image.effect_noise((80, 80), 60).convert("RGB"), kind)

    with pytest.raises(NotAnImage, match=r"^broken (JPEG|PNG|WebP): truncated or damaged, cannot be decoded$"):
        shrink(content[: int(len(content) * share)], 384, ENOUGH)


def gradient(size=(700, 1001)):
    ramp = Image.merge("RGB", [Image.radial_gradient("L"), Image.linear_gradient("L"), Image.new("L", (256, 256))])
    return ramp.resize(size)


JPEG_VARIANTS = [
    {},
    {"progressive": True},
    {"optimize": True, "subsampling": 0},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 1, "progressive": True},
]


@pytest.mark.parametrize("options", JPEG_VARIANTS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_marker_gives_the_picture_of_the_whole_file(mode, options):
    for size in ((41, 61), (700, 1001)):
        content = encoded(gradient(size).convert(mode), "JPEG", **options)
        assert content.endswith(b"\xff\xd9")
        whole = shrink(content, 384, ENOUGH)

        for end in (b"", b"\xff", b"\r\n", b"\0" * 1000, b"</html>"):
            assert shrink(content[:-2] + end, 384, ENOUGH) == whole


@pytest.mark.parametrize("options", JPEG_VARIANTS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_lacks_pixels_is_rejected_wherever_it_ends(mode, options):
    content = encoded(gradient((41, 61)).convert(mode), "JPEG", **options)
    whole = shrink(content, 384, ENOUGH)
    num_rejected = 0

    for length in range(content.index(b"\xff\xda"), len(content) - 2):
        try:
            # What is missing may be too little to be seen.
            assert shrink(content[:length], 384, ENOUGH) == whole
        except NotAnImage:
            num_rejected += 1

    assert num_rejected > 0.9 * (len(content) - 2 - content.index(b"\xff\xda"))


def test_a_progressive_jpeg_that_ends_between_two_scans_is_rejected():
    content = encoded(gradient((41, 61)), "JPEG", progressive=True)
    # The last scan, with the table before it.
    last = content.rindex(b"\xff\xc4")

    with pytest.raises(NotAnImage, match="truncated or damaged"):
        shrink(content[:last], 384, ENOUGH)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_a_png_without_its_last_chunk_gives_the_picture_of_the_whole_file(mode):
    content = encoded(gradient((41, 61)).convert(mode), "PNG")
    whole = shrink(content, 384, ENOUGH)

    for num_missing in (1, 4, 8, 11, 12):
        assert shrink(content[:-num_missing], 384, ENOUGH) == whole


def test_a_jpeg_may_have_64_scans_but_not_65():
    content = encoded(plain(), "JPEG", progressive=True)
    num_scans, last = content.count(b"\xff\xda"), content[content.rindex(b"\xff\xda") : -2]

    assert colour(content[:-2] + last * (64 - num_scans) + content[-2:]) == near(RED)
    with pytest.raises(NotAnImage, match="more than 64 scans"):
        shrink(content[:-2] + last * (65 - num_scans) + content[-2:], 384, ENOUGH)


def test_thumbnails_in_the_metadata_do_not_count_as_scans():
    content = encoded(plain(), "JPEG")

    assert colour(content[:2] + segment(0xE2, b"\xff\xda" * 100) + content[2:]) == near(RED)


JPEG, PNG = encoded(plain(), "JPEG"), encoded(plain(), "PNG")
PACKED = b"a\0\0" + zlib.compress(b"\0" * 1_000_000)


@pytest.mark.parametrize(
    "content",
    [
        JPEG[:2] + segment(0xFE, b"") * 15_000 + JPEG[2:],
        JPEG[:2] + segment(0xE1, b"Exif\0\0abcd") * 15_000 + JPEG[2:],
        JPEG[:2] + b"\xff" * 1_000_000 + JPEG[2:],
        PNG[:33] + chunk(b"zTXt", PACKED) * 1000 + PNG[33:],
        PNG[:33] + chunk(b"iCCP", PACKED) * 1000 + PNG[33:],
        PNG[:-12] + chunk(b"iCCP", PACKED) * 1000 + PNG[-12:],
    ],
    ids=["comments", "EXIF blocks", "padding", "texts", "profiles", "late profiles"],
)
@pytest.mark.timeout(5)
def test_data_that_decoding_does_not_need_costs_no_time(content):
    assert colour(content) == near(RED)


@pytest.mark.parametrize(
    "content", [JPEG[:2] + segment(0xFE, b"") * 100_000 + JPEG[2:], PNG[:33] + chunk(b"abCd", b"") * 100_000 + PNG[33:]]
)
@pytest.mark.timeout(5)
def test_too_many_segments_or_chunks_are_rejected(content):
    with pytest.raises(NotAnImage, match=r"too many (segments|chunks)"):
        shrink(content, 384, ENOUGH)


def test_bytes_after_the_last_row_are_not_decompressed():
    rows = (b"\0" + bytes(RED) * 10) * 10

    assert colour(png(10, 10, data=rows + b"\0" * 10_000_000)) == near(RED)


def valid_files():
    """Small files of many kinds."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 9, 4), np.uint8)).resize((36, 48))
    rgb, exif = noise.convert("RGB"), Image.Exif()
    exif[0x0112] = 6
    return [
        encoded(rgb, "JPEG", exif=exif),
        encoded(rgb, "JPEG", progressive=True),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(noise, "PNG"),
        encoded(rgb.quantize(16), "PNG", transparency=bytes(range(16)), exif=exif),
        encoded(Image.new("I;16", (20, 20), 999), "PNG"),
        encoded(rgb, "WEBP", exif=exif),
        encoded(noise, "WEBP", lossless=True),
        encoded(noise, "WEBP", save_all=True, append_images=[noise.rotate(90)]),
    ]


def corrupted(content, rng):
    """The content with a few bytes changed, often in its header, or truncated."""
    if rng.random() < 0.15:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(rng.choice((len(content), 80)))
        changed[at] = rng.choice((0, 255, rng.randrange(256), changed[at] ^ 1 << rng.randrange(8)))
    return bytes(changed)


@pytest.mark.filterwarnings("error")
def test_corrupted_files_are_decoded_or_rejected():
    rng, counts = random.Random(0), {Picture: 0, NotAnImage: 0, TooManyPixels: 0}

    for content in valid_files() * 400:
        try:
            picture = shrink(corrupted(content, rng), 32, 100_000)
        except (NotAnImage, TooManyPixels) as refusal:
            counts[type(refusal)] += 1
            assert len(str(refusal)) < 60
            assert str(refusal).isprintable()
        else:
            counts[Picture] += 1
            assert max(picture.width, picture.height) <= 32
            assert picture.jpeg.startswith(b"\xff\xd8")

    assert min(counts.values()) > 10


# Resources


def test_concurrent_threads_get_the_same_results():
    contents = [encoded(plain(size=(300 + 10 * i, 300)), kind) for i in range(10) for kind in FORMATS] * 3

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda content: shrink(content, 64, ENOUGH), contents))

    assert together == [shrink(content, 64, ENOUGH) for content in contents]


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "mode", "size", "options"),
    [
        ("JPEG", "CMYK", (5000, 5000), {"progressive": True, "subsampling": 0}),
        ("PNG", "RGBA", (5000, 5000), {"compress_level": 1}),
        ("WEBP", "RGBA", (5000, 2500), {"method": 0, "lossless": True, "quality": 0}),
    ],
    ids=["JPEG", "PNG", "WEBP"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="needs ru_maxrss in kilobytes")
def test_an_image_of_25_million_pixels_takes_less_than_250_megabytes(tmp_path, kind, mode, size, options):
    path = tmp_path / "large"
    path.write_bytes(encoded(plain(mode, size), kind, **options))
    # Measured in another process, because the peak of this one may already be higher.
    program = """
        import resource, sys
        from pathlib import Path
        from mmgenre.posters.images import shrink

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        content, before = Path(sys.argv[1]).read_bytes(), peak()
        shrink(content, 384, 25_000_000)
        print(peak() - before)
    """

    kilobytes = subprocess.check_output([sys.executable, "-c", textwrap.dedent(program), str(path)])

    assert int(kilobytes) < 250_000
