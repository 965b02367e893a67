"""What a page is made of: sections of text, tables, charts and movies, without a word of HTML."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from matplotlib.axes import Axes

# Inches of one panel: as wide as a phone, with letters of their own size.
PANEL = (3.6, 2.7)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Missing:
    """What cannot be shown, and what to give for it to be."""

    what: str
    way: str
    kind: ClassVar[str] = "missing"


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Args:
        caption: says what it is.
        header: names of the columns.
        rows: cells as text.
        texts: places of columns that hold words and not figures.
        folded: whether it is opened by a click: the same figures as a chart's.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: tuple[int, ...] = ()
    folded: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        name: part of a file name; empty for a chart of one panel.
        says: what is to be seen, in a sentence, for people who do not see it.
        draw: into axes.
        size: inches.
    """

    name: str
    says: str
    draw: Callable[[Axes], None]
    size: tuple[float, float] = PANEL


@dataclass(frozen=True)
class Chart:
    """One or more panels that belong together; they stand beside each other as far as there is room.

    Args:
        name: of its files.
        caption: says what it is, and how to read it.
        panels: of equal size.
        key: of panels that share one: a panel that comes first.
    """

    name: str
    caption: str
    panels: Sequence[Panel]
    key: Panel | None = None
    kind: ClassVar[str] = "chart"

    @property
    def all_panels(self) -> list[Panel]:
        """The key's, too."""
        return [*([] if self.key is None else [self.key]), *self.panels]


@dataclass(frozen=True)
class Guess:
    """A genre of a movie.

    Args:
        genre: the genre.
        probability: that a model gave it.
        says: whether it is true, and predicted, in words.
        is_mistake: whether it is what the movie is shown for.
    """

    genre: str
    probability: float
    says: str
    is_mistake: bool


@dataclass(frozen=True)
class Shown:
    """A movie that people look at.

    Args:
        imdb_id: of the movie.
        title: of the movie.
        plot: the beginning of it; None: there is none.
        poster: a small JPEG; None: there is none, or it is not shown.
        has_poster: whether there is one.
        genres: that it has.
        verdict: what a model made of it, in a sentence; empty without one.
        guesses: that the model gave or should have given.
    """

    imdb_id: str
    title: str
    plot: str | None
    poster: bytes | None
    has_poster: bool
    genres: tuple[str, ...]
    verdict: str = ""
    guesses: tuple[Guess, ...] = ()


@dataclass(frozen=True)
class Movies:
    """Movies beside each other."""

    caption: str
    movies: Sequence[Shown]
    kind: ClassVar[str] = "movies"


Block = Text | Missing | Table | Chart | Movies


@dataclass(frozen=True)
class Part:
    """A part of a section, with a heading of its own."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """A section of the page, with parts."""

    anchor: str
    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence[Part] = field(default_factory=tuple)

    @property
    def charts(self) -> list[Chart]:
        """All of them, in order."""
        found = [*self.blocks, *(block for part in self.parts for block in part.blocks)]
        return [block for block in found if isinstance(block, Chart)]
