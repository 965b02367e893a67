"""The topics as a heat-map by genre, a self-contained HTML page, and Markdown."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmgenre import pages
from mmgenre.labels import GENRES
from mmgenre.pages.drawing import SHADES, draw_cells, render_chart
from mmgenre.text_tables import markdown
from mmgenre.topics.summary import GenreShares, Summary, Topic

PNG, SVG = "topics_by_genre.png", "topics_by_genre.svg"
PAGE, MARKDOWN = "topics.html", "topics.md"
# Diverging colours that the colour-blind can tell apart; log2 of the lift at which they end.
_LIFT_COLOURS, _MAX_LOG_LIFT = "PuOr_r", 3.0
_MAX_NAME_LENGTH = 34
_ROW_INCHES, _WIDTH_INCHES = 0.27, 11.0


def heat_maps(summary: Summary, num_topics: int) -> dict[str, bytes]:
    """The heat-map as PNG and SVG, by file name; empty if no genres are known.

    Args:
        summary: of all topics.
        num_topics: draws only the largest topics.
    """
    genres = summary.genres
    if genres is None:
        return {}
    rows = order_by_genre(summary, genres, num_topics)
    size = (_WIDTH_INCHES, 1.6 + _ROW_INCHES * (len(rows) + 1))

    def draw(figure: Figure) -> None:
        _draw(figure, summary, genres, rows)

    return {PNG: render_chart(draw, size), SVG: render_chart(draw, size, "svg")}


def order_by_genre(summary: Summary, genres: GenreShares, num_topics: int) -> list[int]:
    """The largest topics, grouped by their genre with the highest lift."""
    largest = sorted(range(len(summary.topics)), key=lambda row: (-summary.topics[row].movies, row))[:num_topics]
    lift = np.nan_to_num(genres.lift)
    return sorted(largest, key=lambda row: (int(lift[row].argmax()), -float(lift[row].max()), row))


def to_page(summary: Summary, images: Mapping[str, bytes], num_drawn: int) -> str:
    """The HTML page; it loads nothing from elsewhere.

    Args:
        summary: of all topics.
        images: from `heat_maps`.
        num_drawn: topics in the heat-map.
    """
    return pages.render(
        "topics.html",
        title="Topics of plots",
        summary=summary,
        topics=[(topic, summary.top_genres(row)) for row, topic in enumerate(summary.topics)],
        picture=images.get(PNG),
        alt=_alt_text(summary, num_drawn),
        num_drawn=min(num_drawn, len(summary.topics)),
        has_examples=any(topic.examples for topic in summary.topics),
    )


def to_markdown(summary: Summary, *, has_heat_map: bool) -> str:
    """The same figures as Markdown, without titles of movies."""
    rows = [["topic", "words", "over-represented genres", "movies", "share", "coherence"]]
    for row, topic in enumerate(summary.topics):
        genres = ", ".join(f"{name} {share:.0%} (×{lift:.1f})" for name, share, lift in summary.top_genres(row))  # noqa: RUF001
        figures = [f"{topic.movies:,}", f"{topic.share:.1%}", f"{topic.coherence:.2f}"]
        rows.append([f"{topic.number}", ", ".join(topic.words), genres or "-", *figures])
    rows.append(["", "no topic", "", f"{summary.num_outliers:,}", f"{summary.outlier_share:.1%}", ""])
    image = (
        f"\n![Topics by genre: share of each topic's movies, and lift over all movies]({PNG})\n" if has_heat_map else ""
    )
    return f"{_lead(summary)}\n{image}\n{markdown(rows, left=3)}\n"


def _lead(summary: Summary) -> str:
    topics = f"{len(summary.topics)} topics in {summary.num_plots:,} movies with a plot"
    sample = "" if summary.num_fitted == summary.num_plots else f", fitted on {summary.num_fitted:,} of them"
    return (
        f"{topics}{sample}; {summary.outlier_share:.0%} of the movies belong to no topic. "
        f"Coherence of the words (NPMI) {summary.coherence:.3f}, diversity {summary.diversity:.3f}."
    )


def _alt_text(summary: Summary, num_drawn: int) -> str:
    figures = []
    for row in range(min(num_drawn, len(summary.topics), 5)):
        figures += [
            f"{summary.topics[row].name}: {genre} {share:.0%}" for genre, share, _ in summary.top_genres(row, 1)
        ]
    return f"Heat-map of topics and genres. {'; '.join(figures)}. The table below has all figures."


def _draw(figure: Figure, summary: Summary, genres: GenreShares, rows: list[int]) -> None:
    """Shares on the left, lift on the right; the last row is all movies."""
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    shares, lift = np.vstack([genres.shares[rows], genres.overall]), genres.lift[rows]
    _draw_panel(left, shares, [[_format_share(value) for value in line] for line in shares], (SHADES, 0, 1))
    labels = [_label(summary.topics[row]) for row in rows]
    left.set_yticks(range(len(rows) + 1), [*labels, f"all movies ({summary.num_plots:,})"], fontsize=9)
    left.set_title("% of the topic's movies with the genre", fontsize=10)
    with np.errstate(divide="ignore"):
        log_lift = np.log2(np.vstack([lift, np.ones(len(GENRES))])).clip(-_MAX_LOG_LIFT, _MAX_LOG_LIFT)
    # Paler below 1: readers look for the genres that a topic has more of.
    log_lift = np.where(log_lift < 0, log_lift / 2, log_lift)
    texts = [*([_format_lift(value) for value in line] for line in lift), ["1"] * len(GENRES)]
    _draw_panel(right, log_lift, texts, (_LIFT_COLOURS, -_MAX_LOG_LIFT, _MAX_LOG_LIFT))
    right.set_yticks([])
    right.set_title("lift: times the share of all movies", fontsize=10)


def _draw_panel(axes: Axes, values: np.ndarray, texts: list[list[str]], scale: tuple[str, float, float]) -> None:
    """Draw one heat-map; a line separates the last row."""
    draw_cells(axes, values, texts, scale, aspect="auto", interpolation="nearest")
    axes.axhline(len(values) - 1.5, color="black", linewidth=1)
    axes.set_xticks(range(len(GENRES)), GENRES, rotation=45, ha="left", rotation_mode="anchor", fontsize=9)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)


def _label(topic: Topic) -> str:
    name = topic.name if len(topic.name) <= _MAX_NAME_LENGTH else f"{topic.name[: _MAX_NAME_LENGTH - 1].rstrip(' ,')}…"
    return f"{name} ({topic.movies:,})"


def _format_share(share: float) -> str:
    return "" if np.isnan(share) else f"{100 * share:.0f}"


def _format_lift(lift: float) -> str:
    if np.isnan(lift):
        return ""
    return f"{lift:.1f}" if lift < 9.95 else f"{lift:.0f}"
