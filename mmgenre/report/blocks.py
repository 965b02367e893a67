"""The blocks a report page consists of: paragraphs, tables, charts and movies. HTML is left to the template."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.axes import Axes

# Inches. A panel is as wide as a phone screen, so that its text is not scaled down there.
PANEL, SMALL_PANEL = (3.6, 2.7), (3.0, 2.4)


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class MissingInput:
    """A placeholder for content whose input was not given.

    Args:
        content: what is missing from the page.
        remedy: the input to give.
    """

    content: str
    remedy: str
    kind: ClassVar[str] = "missing"


@dataclass(frozen=True)
class DataTable:
    """A table; the first cell of each row is the row's header.

    Args:
        caption: shown above the table.
        header: column names.
        rows: cells, formatted.
        text_columns: indices of the columns that hold words, which are left-aligned.
        collapsed: hide the rows behind a click, for figures that a chart shows already.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: tuple[int, ...] = ()
    collapsed: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Panel:
    """One pair of axes, saved as one SVG file.

    Args:
        name: suffix of the file name; empty in charts with a single panel.
        alt: alternative text: the main finding in one sentence.
        draw: draws into the axes.
        title: shown above the axes.
        size: width and height in inches.
    """

    name: str
    alt: str
    draw: Callable[[Axes], None]
    title: str = ""
    size: tuple[float, float] = PANEL


@dataclass(frozen=True)
class Chart:
    """Panels of equal size, laid out side by side as far as the screen is wide.

    Args:
        name: prefix of its file names.
        caption: what it shows and how to read it.
        panels: one or more.
        legend: shared by all panels, shown above them.
    """

    name: str
    caption: str
    panels: Sequence[Panel]
    legend: Panel | None = None
    kind: ClassVar[str] = "chart"

    @property
    def all_panels(self) -> list[Panel]:
        """The legend, if any, then the panels."""
        return [*([] if self.legend is None else [self.legend]), *self.panels]


@dataclass(frozen=True)
class GenreOutcome:
    """A model's decision on one genre of a movie.

    Args:
        genre: the genre.
        probability: predicted.
        outcome: true positive, false positive or false negative.
        is_highlighted: whether the movie is shown because of this decision.
    """

    genre: str
    probability: float
    outcome: str
    is_highlighted: bool


@dataclass(frozen=True)
class MovieCard:
    """One movie with plot and poster.

    Args:
        imdb_id: id of the movie.
        title: title of the movie.
        plot: first words of the plot; None: no plot, or plots are not shown.
        poster: a small JPEG; None: no poster, or posters are not shown.
        has_poster: whether the table has a poster.
        genres: the movie's labels.
        outcomes: a model's decisions, the most probable genre first; empty without a model.
    """

    imdb_id: str
    title: str
    plot: str | None
    poster: bytes | None
    has_poster: bool
    genres: tuple[str, ...]
    outcomes: tuple[GenreOutcome, ...] = ()


@dataclass(frozen=True)
class MovieList:
    """Movie cards side by side."""

    caption: str
    movies: Sequence[MovieCard]
    kind: ClassVar[str] = "movies"


Block = Paragraph | MissingInput | DataTable | Chart | MovieList


@dataclass(frozen=True)
class Subsection:
    """Blocks under a heading of their own; `anchor` is the target of links."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """A section of the page: its own blocks, then its subsections."""

    anchor: str
    title: str
    blocks: Sequence[Block] = ()
    subsections: Sequence[Subsection] = ()

    @property
    def charts(self) -> list[Chart]:
        """All charts, in page order."""
        blocks = [*self.blocks, *(block for part in self.subsections for block in part.blocks)]
        return [block for block in blocks if isinstance(block, Chart)]
