"""Draws posters from a few shapes: colours and motifs hint at the genres, and no two are alike."""

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from random import Random

from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Pen = ImageDraw.ImageDraw
Size = tuple[int, int]

_PALETTES: dict[str, tuple[Colour, Colour]] = {
    "Action": ((240, 120, 20), (60, 20, 10)),
    "Adventure": ((110, 190, 220), (150, 110, 50)),
    "Comedy": ((255, 225, 70), (250, 250, 240)),
    "Crime": ((90, 90, 95), (20, 20, 25)),
    "Drama": ((200, 180, 150), (110, 90, 80)),
    "Horror": ((70, 5, 10), (5, 5, 8)),
    "Romance": ((250, 180, 190), (220, 90, 120)),
    "Sci-Fi": ((20, 40, 110), (5, 10, 30)),
    "Thriller": ((30, 80, 90), (10, 20, 30)),
}
_NEUTRAL_PALETTE = ((150, 150, 150), (90, 90, 90))
# Probability that a genre's motif is missing, that an unrelated one is added, and that the palette is random.
_MOTIF_MISSING = 0.4
_MOTIF_MISLEADING = 0.25
_PALETTE_MISSING = 0.3


def draw(imdb_id: str, genres: Sequence[str], size: Size = (342, 513)) -> bytes:
    """A poster as an RGB JPEG of `size` (width, height in pixels); equal arguments give equal bytes."""
    random = Random(hashlib.sha256(imdb_id.encode()).digest())  # noqa: S311 - repeatable, not secret
    poster = _background(_palette(genres, random), size, random)
    pen = ImageDraw.Draw(poster)
    for motif in _motifs(genres, random):
        motif(pen, size, random)
    _draw_title(pen, size, random)
    content = io.BytesIO()
    _with_grain(poster, random).save(content, "JPEG", quality=85)
    return content.getvalue()


def narrow(image: bytes, width: int | None) -> bytes:
    """The image, shrunk to `width` pixels if it is wider; bytes that are not an image are returned unchanged."""
    content = io.BytesIO()
    try:
        with Image.open(io.BytesIO(image)) as poster:
            if width is None or poster.width <= width:
                return image
            narrower = poster.convert("RGB").resize((width, max(1, round(poster.height * width / poster.width))))
    except OSError:
        return image
    narrower.save(content, "JPEG", quality=90)
    return content.getvalue()


def _palette(genres: Sequence[str], random: Random) -> tuple[Colour, Colour]:
    """Colours of top and bottom, each a variation of one genre's colour."""
    known = [_PALETTES[genre] for genre in genres if genre in _PALETTES]
    if not known or random.random() < _PALETTE_MISSING:
        known = [random.choice([*_PALETTES.values(), _NEUTRAL_PALETTE])]
    return _vary(random.choice(known)[0], random), _vary(random.choice(known)[1], random)


def _motifs(genres: Sequence[str], random: Random) -> list[Callable[[Pen, Size, Random], None]]:
    shown = [genre for genre in genres if genre in _MOTIFS and random.random() >= _MOTIF_MISSING]
    if random.random() < _MOTIF_MISLEADING:
        shown.append(random.choice(list(_MOTIFS)))
    random.shuffle(shown)
    return [_MOTIFS[genre] for genre in shown]


def _background(palette: tuple[Colour, Colour], size: Size, random: Random) -> Image.Image:
    """A tilted gradient."""
    top, bottom = palette
    shade = Image.linear_gradient("L").rotate(random.uniform(-25, 25), Image.Resampling.BILINEAR, fillcolor=128)
    return Image.composite(
        Image.new("RGB", size, bottom), Image.new("RGB", size, top), shade.crop((40, 40, 216, 216)).resize(size)
    )


def _explosion(pen: Pen, size: Size, random: Random) -> None:
    middle, reach = _anywhere(size, random, 0.3), 0.3 * size[0]
    rays = [reach * (1 if step % 2 else 0.45) * random.uniform(0.7, 1.3) for step in range(24)]
    pen.polygon(
        [_polar_point(middle, ray, step / 24) for step, ray in enumerate(rays)], fill=_vary((255, 200, 40), random)
    )


def _mountains(pen: Pen, size: Size, random: Random) -> None:
    width, height = size
    sun, radius = _anywhere(size, random, 0.2), 0.1 * width
    pen.ellipse(_box(sun, radius), fill=_vary((255, 220, 120), random))
    for colour in ((90, 120, 80), (70, 90, 60), (90, 70, 40)):
        peaks = [(width * step / 5, height * random.uniform(0.6, 0.95)) for step in range(6)]
        pen.polygon([(0, height), *peaks, (width, height)], fill=_vary(colour, random))


def _bubbles(pen: Pen, size: Size, random: Random) -> None:
    for _ in range(random.randint(6, 14)):
        colour = random.choice([(240, 60, 80), (60, 160, 240), (90, 200, 90), (255, 150, 30)])
        pen.ellipse(
            _box(_anywhere(size, random, 0.05), size[0] * random.uniform(0.04, 0.12)), fill=_vary(colour, random)
        )


def _blinds(pen: Pen, size: Size, random: Random) -> None:
    width, height = size
    step, slant = height // random.randint(12, 20), random.uniform(-0.1, 0.1) * height
    for top in range(0, height, step):
        stripe = [(0, top), (width, top + slant), (width, top + slant + step / 3), (0, top + step / 3)]
        pen.polygon(stripe, fill=_vary((25, 25, 28), random))


def _figure(pen: Pen, size: Size, random: Random) -> None:
    colour, (x, y) = _vary((60, 50, 45), random), _anywhere(size, random, 0.3)
    head = 0.1 * size[0] * random.uniform(0.8, 1.3)
    pen.ellipse(_box((x, y), head), fill=colour)
    pen.pieslice((x - 2.2 * head, y + head, x + 2.2 * head, y + 8 * head), 180, 360, fill=colour)


def _drips(pen: Pen, size: Size, random: Random) -> None:
    width, height = size
    for _ in range(random.randint(7, 14)):
        x, thickness, length = random.uniform(0, width), random.uniform(3, 9), random.uniform(0.1, 0.6) * height
        colour = _vary((150, 10, 15), random)
        pen.rectangle((x, 0, x + thickness, length), fill=colour)
        pen.ellipse(_box((x + thickness / 2, length), thickness), fill=colour)


def _hearts(pen: Pen, size: Size, random: Random) -> None:
    for _ in range(random.randint(2, 5)):
        (x, y), reach = _anywhere(size, random, 0.15), size[0] * random.uniform(0.05, 0.14)
        colour = _vary((215, 30, 70), random)
        pen.ellipse(_box((x - reach / 2, y), 0.6 * reach), fill=colour)
        pen.ellipse(_box((x + reach / 2, y), 0.6 * reach), fill=colour)
        pen.polygon([(x - reach, y + 0.3 * reach), (x + reach, y + 0.3 * reach), (x, y + 1.6 * reach)], fill=colour)


def _planet(pen: Pen, size: Size, random: Random) -> None:
    for _ in range(60):
        pen.point(_anywhere(size, random, 0), fill=(255, 255, 255))
    (x, y), reach = _anywhere(size, random, 0.2), size[0] * random.uniform(0.12, 0.28)
    pen.ellipse(_box((x, y), reach), fill=_vary((90, 160, 230), random))
    pen.arc((x - 1.7 * reach, y - 0.4 * reach, x + 1.7 * reach, y + 0.4 * reach), -20, 200, (200, 240, 255), 4)


def _crosshair(pen: Pen, size: Size, random: Random) -> None:
    (x, y), colour = _anywhere(size, random, 0.3), _vary((190, 210, 205), random)
    for ring in range(1, random.randint(3, 5)):
        pen.ellipse(_box((x, y), 0.09 * ring * size[0]), outline=colour, width=3)
    pen.line((x, 0, x, size[1]), colour, 2)
    pen.line((0, y, size[0], y), colour, 2)


_MOTIFS: dict[str, Callable[[Pen, Size, Random], None]] = {
    "Action": _explosion,
    "Adventure": _mountains,
    "Comedy": _bubbles,
    "Crime": _blinds,
    "Drama": _figure,
    "Horror": _drips,
    "Romance": _hearts,
    "Sci-Fi": _planet,
    "Thriller": _crosshair,
}


def _draw_title(pen: Pen, size: Size, random: Random) -> None:
    """Bars in place of the title, unrelated to the genres."""
    width, height = size
    top, colour = random.choice((0.06, 0.75, 0.85)) * height, _vary((200, 200, 200), random)
    for line in range(random.randint(1, 3)):
        half, y = random.uniform(0.1, 0.4) * width, top + line * 0.05 * height
        pen.rectangle((width / 2 - half, y, width / 2 + half, y + 0.03 * height), fill=colour)


def _with_grain(poster: Image.Image, random: Random) -> Image.Image:
    tile = Image.frombytes("L", (64, 64), random.randbytes(64 * 64)).point(lambda level: level // 10)
    grain = Image.new("L", poster.size)
    for x in range(0, poster.width, 64):
        for y in range(0, poster.height, 64):
            grain.paste(tile.rotate(random.choice((0, 90, 180, 270))), (x, y))
    return ImageChops.add(poster, Image.merge("RGB", (grain, grain, grain)), offset=-12)


def _anywhere(size: Size, random: Random, margin: float) -> tuple[float, float]:
    """A random point; `margin` is its minimum distance from the edges, as a share of the size."""
    return size[0] * random.uniform(margin, 1 - margin), size[1] * random.uniform(margin, 1 - margin)


def _polar_point(middle: tuple[float, float], distance: float, turn: float) -> tuple[float, float]:
    angle = 2 * math.pi * turn
    return middle[0] + distance * math.cos(angle), middle[1] + distance * math.sin(angle)


def _box(middle: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    return middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius


def _vary(colour: Colour, random: Random) -> Colour:
    red, green, blue = (min(255, max(0, level + random.randint(-35, 35))) for level in colour)
    return red, green, blue
