"""The section on the dataset: genre counts, co-occurrence, plot lengths, missing plots and posters, splits, samples."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow.compute as pc

from mmgenre.labels import GENRES
from mmgenre.pages.drawing import SHADES
from mmgenre.report import charts
from mmgenre.report.blocks import (
    Block,
    Chart,
    DataTable,
    MissingInput,
    MovieCard,
    MovieList,
    Panel,
    Section,
    Subsection,
)
from mmgenre.report.movies import MovieColumns, count_valid
from mmgenre.tables.schema import SPLITS
from mmgenre.tables.table import Table
from mmgenre.text_tables import percent

_SQUARE = (3.6, 3.5)


def movies_section(movies: MovieColumns, tables: Mapping[str, Table], samples: Sequence[MovieCard]) -> Section:
    """Build the section.

    Args:
        movies: of the MOVIES table.
        tables: those given of "catalog", "enriched" and "posters".
        samples: sample movies to show.
    """
    parts = [
        Subsection("genres", "Genres before and after balancing", _genre_counts(movies.labels, tables.get("catalog"))),
        Subsection("genres-per-movie", "Genres per movie", [_genres_per_movie(movies.labels)]),
        Subsection("co-occurrence", "Genre co-occurrence", _co_occurrence(movies.labels)),
        Subsection("plot-lengths", "Plot lengths", [_plot_lengths(movies.words)]),
        Subsection("missing", "Missing plots and posters", _missing(movies, tables)),
        Subsection("splits", "Splits", [_splits(movies), _splits_by_genre(movies)]),
    ]
    if samples:
        caption = f"{len(samples)} of the {len(movies.ids):,} movies, chosen at random."
        parts.append(Subsection("samples", "Sample movies", [MovieList(caption, samples)]))
    return Section("data", "Movies", subsections=parts)


def _genre_counts(labels: np.ndarray, catalog: Table | None) -> list[Block]:
    in_dataset = dict(zip(GENRES, (labels != 0).sum(axis=0).tolist(), strict=True))
    if catalog is None:
        remedy = "Give the CATALOG table that the movies come from: catalog=DIR."
        return [_counts_chart({"dataset": in_dataset}), MissingInput("Genres before balancing", remedy)]
    notes = catalog.manifest.notes
    blocks: list[Block] = []
    counts: dict[str, Mapping[str, int]] = {}
    if "genres_before_balancing" in notes:
        counts["dump, before balancing"] = notes["genres_before_balancing"]
    else:
        remedy = "The catalogue does not record them; make it again with jobs/catalog.py and overwrite=true."
        blocks.append(MissingInput("Genres before balancing", remedy))
    if "genres" in notes:
        counts["catalogue, after balancing"] = notes["genres"]
    counts["dataset"] = in_dataset
    rows = [[genre, *(f"{by_genre[genre]:,}" for by_genre in counts.values())] for genre in GENRES]
    blocks.append(DataTable("Movies per genre.", ["genre", *counts], rows, collapsed=True))
    if notes.get("curation"):
        steps = [[step["step"], f"{step['rows']:,}"] for step in notes["curation"]]
        blocks.append(DataTable("Rows of the dump left after each step of the catalogue.", ["step", "rows"], steps))
    return [_counts_chart(counts), *blocks]


def _counts_chart(counts: Mapping[str, Mapping[str, int]]) -> Chart:
    *_, last = counts.values()
    most, least = max(GENRES, key=lambda genre: last[genre]), min(GENRES, key=lambda genre: last[genre])
    alt = f"The most frequent genre of the dataset is {most} ({last[most]:,} movies), the rarest is {least} "
    alt += f"({last[least]:,})."
    series = {name: [by_genre[genre] for genre in GENRES] for name, by_genre in counts.items()}
    size = (3.6, 3.2 if len(counts) < 3 else 4.4)
    panel = Panel("", alt, lambda axes: charts.draw_bars(axes, GENRES, series), size=size)
    return Chart("genre-counts", "Movies per genre. A movie with several genres counts for each of them.", [panel])


def _genres_per_movie(labels: np.ndarray) -> Chart:
    per_movie = (labels != 0).sum(axis=1)
    counts = np.bincount(per_movie, minlength=2).tolist()
    mean = float(per_movie.mean()) if len(labels) else 0.0
    most = int(np.argmax(counts))
    alt = f"{percent(counts[most], len(labels))} of the movies have {most} of the nine genres; the mean is {mean:.2f}."
    names = [str(number) for number in range(len(counts))]
    panel = Panel("", alt, lambda axes: charts.draw_bars(axes, names, {"movies": counts}))
    return Chart("genres-per-movie", f"Number of genres per movie, out of nine; mean {mean:.2f}.", [panel])


def co_occurrence(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count movies that have two genres.

    Args:
        labels: shape (N, 9).

    Returns:
        Counts, shape (9, 9), with the number of movies per genre on the diagonal; and P(column | row), shape (9, 9),
        NaN in rows of genres without movies.
    """
    has = (labels != 0).astype(np.int64)
    counts = has.T @ has
    totals = np.diag(counts)[:, None].astype(np.float64)
    return counts, np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def _co_occurrence(labels: np.ndarray) -> list[Block]:
    counts, shares = co_occurrence(labels)
    pairs = np.where(np.eye(len(GENRES), dtype=bool), 0, counts)
    first, second = np.unravel_index(int(pairs.argmax()), pairs.shape)
    alt = "No movie has two genres."
    if pairs.any():
        alt = f"The most frequent pair is {GENRES[first]} and {GENRES[second]}: {pairs[first, second]:,} movies."
    share_texts = [["" if np.isnan(share) else f"{share * 100:.0f}" for share in row] for row in shares]
    count_texts = [[charts.short(count) for count in row] for row in counts]
    caption = (
        "Left or above: number of movies with both genres, and on the diagonal with the one. Right or below: "
        "P(column | row) in per cent, the share of the row's movies that also have the column's genre."
    )
    header = ["genre", *GENRES]
    count_rows = [[genre, *(f"{count:,}" for count in row)] for genre, row in zip(GENRES, counts, strict=True)]
    share_rows = [
        [genre, *("-" if np.isnan(share) else f"{share:.1%}" for share in row)]
        for genre, row in zip(GENRES, shares, strict=True)
    ]
    panels = [
        _square("counts", "movies with both", alt, counts.astype(float), count_texts),
        _square("shares", "P(column | row), %", "P(column | row) for each pair of genres.", shares, share_texts),
    ]
    return [
        Chart("co-occurrence", caption, panels),
        DataTable("Movies with both genres.", header, count_rows, collapsed=True),
        DataTable("P(column | row).", header, share_rows, collapsed=True),
    ]


def _square(name: str, title: str, alt: str, values: np.ndarray, texts: list[list[str]]) -> Panel:
    """A heat map of genre pairs that leaves the diagonal blank and shades up to the highest other value."""
    off_diagonal = np.where(np.eye(len(GENRES), dtype=bool), np.nan, values)
    scale = (SHADES, 0.0, max(float(np.nan_to_num(off_diagonal).max()), 1e-9))
    return Panel(name, alt, lambda axes: charts.draw_heat_map(axes, off_diagonal, texts, GENRES, scale), title, _SQUARE)


def _plot_lengths(words: np.ndarray) -> Block:
    lengths = words[words > 0]
    if not len(lengths):
        return MissingInput("Plot lengths", "No movie has a plot; run jobs/enrich.py, then jobs/dataset.py.")
    low, median, high = np.quantile(lengths, (0.05, 0.5, 0.95))
    summary = f"The median is {median:,.0f} words, 90 % lie between {low:,.0f} and {high:,.0f}, "
    summary += f"and the longest plot has {lengths.max():,}."
    panel = Panel("", summary, lambda axes: charts.draw_plot_lengths(axes, lengths))
    return Chart("plot-lengths", f"Plot lengths of {len(lengths):,} movies. {summary}", [panel])


def _missing(movies: MovieColumns, tables: Mapping[str, Table]) -> list[Block]:
    total = len(movies.ids)
    without = {"no plot": total - int(movies.has_plot.sum()), "no poster": total - movies.num_posters}
    rows = [[name, f"{count:,}", percent(count, total)] for name, count in without.items()]
    return [
        DataTable(f"Missing in the {total:,} movies of the dataset.", ["missing", "movies", "share"], rows),
        _fetch_results("plots", tables.get("enriched"), "plot", "Give the ENRICHED table: enriched=DIR."),
        _fetch_results("posters", tables.get("posters"), "image", "Give the POSTERS table: posters=DIR."),
    ]


def _fetch_results(items: str, table: Table | None, column: str, remedy: str) -> Block:
    """How many plots or posters were found for the catalogue, and why not."""
    if table is None:
        return MissingInput(f"Results of fetching {items}", remedy)
    total, present = table.manifest.rows, count_valid(table, column)
    counts = {status.replace("_", " "): count for status, count in sorted(table.manifest.statuses.items())}
    counts[f"have a {items.removesuffix('s')}"] = present
    rows = [[status, f"{count:,}", percent(count, total)] for status, count in counts.items()]
    caption = f"Results of fetching {items} for the {total:,} movies of the catalogue."
    return DataTable(caption, ["status", "movies", "share"], rows)


def _splits(movies: MovieColumns) -> DataTable:
    rows = []
    for split in SPLITS:
        is_in = pc.equal(movies.splits, split).to_numpy()
        count, plots = int(is_in.sum()), int(movies.has_plot[is_in].sum())
        rows.append([split, f"{count:,}", percent(count, len(movies.ids)), percent(plots, count)])
    caption = "Movies per split; movies with the same plot are in the same split."
    return DataTable(caption, ["split", "movies", "share", "with a plot"], rows)


def _splits_by_genre(movies: MovieColumns) -> DataTable:
    labels = {split: movies.labels[pc.equal(movies.splits, split).to_numpy()] != 0 for split in SPLITS}
    rows = [
        [genre, *(percent(int(has[:, column].sum()), len(has)) for has in labels.values())]
        for column, genre in enumerate(GENRES)
    ]
    return DataTable("Share of movies with each genre, per split.", ["genre", *SPLITS], rows, collapsed=True)
