"""Topics for people: a picture of how they go with genres, a page that stands by itself, and Markdown."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmgenre import pages
from mmgenre.labels import GENRES
from mmgenre.pages.drawing import SHADES, picture
from mmgenre.text_tables import markdown
from mmgenre.topics.summary import GenreShares, Summary, Topic, strongest

PNG, SVG = "topics_by_genre.png", "topics_by_genre.svg"
PAGE, MARKDOWN = "topics.html", "topics.md"
# Rarer and more frequent than overall, told apart by the colour-blind; doublings at which colours end.
_LIFTS, _MOST_DOUBLINGS = "PuOr_r", 3.0
_LONGEST_NAME = 34
_ROW_INCHES, _WIDTH_INCHES = 0.27, 11.0


def pictures(summary: Summary, most: int) -> dict[str, bytes]:
    """The heat-map by file name; nothing where no genres are known.

    Args:
        summary: of all topics.
        most: topics that are drawn, the largest.
    """
    genres = summary.genres
    if genres is None:
        return {}
    rows = order_by_genre(summary, genres, most)
    size = (_WIDTH_INCHES, 1.6 + _ROW_INCHES * (len(rows) + 1))

    def draw(figure: Figure) -> None:
        _draw(figure, summary, genres, rows)

    return {PNG: picture(draw, size), SVG: picture(draw, size, "svg")}


def order_by_genre(summary: Summary, genres: GenreShares, most: int) -> list[int]:
    """Numbers of the largest topics: those of one genre together, each with the genre it has most above all movies."""
    largest = sorted(range(len(summary.topics)), key=lambda row: (-summary.topics[row].movies, row))[:most]
    lift = np.nan_to_num(genres.lift)
    return sorted(largest, key=lambda row: (int(lift[row].argmax()), -float(lift[row].max()), row))


def to_page(summary: Summary, drawn: Mapping[str, bytes], most: int) -> str:
    """The page; it fetches nothing."""
    return pages.render(
        "topics.html",
        title="What the plots are about",
        summary=summary,
        topics=[(topic, strongest(summary, row)) for row, topic in enumerate(summary.topics)],
        picture=drawn.get(PNG),
        alt=_alt(summary, most),
        num_drawn=min(most, len(summary.topics)),
        has_examples=any(topic.examples for topic in summary.topics),
    )


def to_markdown(summary: Summary, drawn: Mapping[str, bytes]) -> str:
    """The same without any title of a movie."""
    rows = [["topic", "words", "genres far above their share", "movies", "share", "coherence"]]
    for row, topic in enumerate(summary.topics):
        genres = ", ".join(f"{name} {share:.0%} (×{lift:.1f})" for name, share, lift in strongest(summary, row))  # noqa: RUF001
        figures = [f"{topic.movies:,}", f"{topic.share:.1%}", f"{topic.coherence:.2f}"]
        rows.append([f"{topic.number}", ", ".join(topic.words), genres or "-", *figures])
    rows.append(["", "no topic", "", f"{summary.without:,}", f"{summary.share_without:.1%}", ""])
    shown = (
        f"\n![Topics by genre: share of each topic's movies, and how often above all movies]({PNG})\n" if drawn else ""
    )
    return f"{account(summary)}\n{shown}\n{markdown(rows, left=3)}\n"


def account(summary: Summary) -> str:
    """All topics in two sentences."""
    found = f"{len(summary.topics)} topics of {summary.plots:,} movies with a plot"
    sample = "" if summary.fitted_on == summary.plots else f", found in {summary.fitted_on:,} of them"
    return (
        f"{found}{sample}; {summary.share_without:.0%} of the movies are of no topic. "
        f"Coherence of the words (NPMI) {summary.coherence:.3f}, diversity {summary.diversity:.3f}."
    )


def _alt(summary: Summary, most: int) -> str:
    said = []
    for row in range(min(most, len(summary.topics), 5)):
        said += [f"{summary.topics[row].name}: {name} {share:.0%}" for name, share, _ in strongest(summary, row, 1)]
    return f"Heat-map of topics and genres. {'; '.join(said)}. The table below has all figures."


def _draw(figure: Figure, summary: Summary, genres: GenreShares, rows: list[int]) -> None:
    """Shares on the left, with all movies as the last row; lift on the right."""
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    shares = np.vstack([genres.shares[rows], genres.overall])
    lift = genres.lift[rows]
    labels = [_label(summary.topics[row]) for row in rows]
    _cells(left, shares, SHADES, (0, 1), [[_percent(value) for value in line] for line in shares])
    left.set_yticks(range(len(rows) + 1), [*labels, f"all movies ({summary.plots:,})"])
    left.axhline(len(rows) - 0.5, color="black", linewidth=1)
    left.set_title("% of the topic's movies with the genre", fontsize=10)
    with np.errstate(divide="ignore"):
        doublings = np.log2(np.vstack([lift, np.ones(len(GENRES))]))
    # Paler: what a topic has little of is plain to see, what it has much of is what is looked for.
    doublings = np.where(doublings < 0, np.maximum(doublings, -_MOST_DOUBLINGS) / 2, doublings)
    texts = [[_times(value) for value in line] for line in lift]
    bounds = (-_MOST_DOUBLINGS, _MOST_DOUBLINGS)
    _cells(right, doublings, _LIFTS, bounds, [*texts, ["1"] * len(GENRES)])
    right.axhline(len(rows) - 0.5, color="black", linewidth=1)
    right.set_yticks([])
    right.set_title("times as often as in all movies", fontsize=10)


def _cells(axes: Axes, values: np.ndarray, colours: str, bounds: tuple[float, float], texts: Any) -> None:
    """One panel: coloured cells, with texts that stand out from them."""
    low, high = bounds
    shown = np.clip(np.nan_to_num(values, nan=low, neginf=low), low, high)
    image = axes.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            red, green, blue, _ = image.cmap(image.norm(shown[row, column]))
            is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if is_dark else "black")
    axes.set_xticks(range(len(GENRES)), GENRES, rotation=45, ha="left", rotation_mode="anchor", fontsize=9)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.tick_params(axis="y", labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _label(topic: Topic) -> str:
    name = topic.name if len(topic.name) <= _LONGEST_NAME else f"{topic.name[: _LONGEST_NAME - 1].rstrip(' ,')}…"
    return f"{name} ({topic.movies:,})"


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{100 * share:.0f}"


def _times(lift: float) -> str:
    if np.isnan(lift):
        return ""
    return f"{lift:.1f}" if lift < 9.95 else f"{lift:.0f}"
