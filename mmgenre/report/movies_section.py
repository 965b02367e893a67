"""The section on the movies: how many there are of each genre, what goes together, what is missing, some examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes

from mmgenre.labels import GENRES, decode
from mmgenre.report import charts as axes
from mmgenre.report.blocks import Block, Chart, Missing, Movies, Panel, Part, Section, Shown, Table
from mmgenre.report.movie_counts import co_occurrence, conditional, genres_per_movie, length_bins
from mmgenre.report.movies import Details, MovieRows, excerpt, num_valid
from mmgenre.tables.schema import SPLITS
from mmgenre.tables.table import Table as Stored
from mmgenre.text_tables import percent

_SQUARE = (3.6, 3.5)


@dataclass(frozen=True)
class DataTables:
    """What the section is made of; None where a table is not given.

    Args:
        movies: of the MOVIES table.
        catalog: the table before it.
        enriched: with the plots.
        posters: with the posters.
    """

    movies: MovieRows
    catalog: Stored | None
    enriched: Stored | None
    posters: Stored | None


def data_section(tables: DataTables, samples: Movies | None) -> Section:
    """The whole of it; samples: None: none are to be shown."""
    movies = tables.movies
    parts = [
        Part("genres", "Genres, before and after balancing", _genre_counts(tables)),
        Part("genres-per-movie", "Genres of a movie", [_genres_per_movie(movies.labels)]),
        Part("co-occurrence", "Genres that go together", _co_occurrence(movies.labels)),
        Part("plot-lengths", "Length of the plots", [_lengths(movies.words)]),
        Part("missing", "What is missing", _missing(tables)),
        Part("splits", "Splits", [_splits(movies), _splits_by_genre(movies)]),
    ]
    if samples is not None:
        parts.append(Part("samples", "Some of the movies", [samples]))
    return Section("data", "The movies", parts=parts)


def samples_of(
    movies: MovieRows, ids: Sequence[str], found: Mapping[str, Details], words: int, posters: Mapping[str, bytes]
) -> Movies:
    """A few movies; words: shown of a plot; posters: small ones, by id."""
    places = pc.index_in(pa.array(ids, pa.string()), value_set=movies.ids.combine_chunks()).to_pylist()
    shown = [
        Shown(
            imdb_id=imdb_id,
            title=found[imdb_id].title,
            plot=excerpt(found[imdb_id].plot, words),
            poster=posters.get(imdb_id),
            has_poster=found[imdb_id].image is not None,
            genres=tuple(decode(movies.labels[place])),
        )
        for imdb_id, place in zip(ids, places, strict=True)
    ]
    return Movies(f"{len(shown)} of the {len(movies.ids):,} movies, drawn by chance.", shown)


def _genre_counts(tables: DataTables) -> list[Block]:
    learned = dict(zip(GENRES, (tables.movies.labels != 0).sum(axis=0).tolist(), strict=True))
    if tables.catalog is None:
        way = "Give the CATALOG table that the movies come from: catalog=DIR."
        return [_counts_chart({"movies to learn from": learned}), Missing("Genres before balancing", way)]
    notes = tables.catalog.manifest.notes
    blocks: list[Block] = []
    steps = {"catalogue, after balancing": notes["genres"]} if "genres" in notes else {}
    if "genres_before_balancing" in notes:
        steps = {"dump, before balancing": notes["genres_before_balancing"]} | steps
    else:
        way = "The catalogue does not say; make it again with jobs/catalog.py and overwrite=true."
        blocks.append(Missing("Genres before balancing", way))
    counts = steps | {"movies to learn from": learned}
    rows = [[genre, *(f"{of_step[genre]:,}" for of_step in counts.values())] for genre in GENRES]
    tables_of_counts: list[Block] = [Table("Movies of each genre.", ["genre", *counts], rows, folded=True)]
    curation = notes.get("curation", [])
    if curation:
        left = [[step["step"], f"{step['rows']:,}"] for step in curation]
        tables_of_counts.append(Table("Rows of the dump that each step of the catalogue left.", ["step", "rows"], left))
    return [_counts_chart(counts), *blocks, *tables_of_counts]


def _counts_chart(counts: Mapping[str, Mapping[str, int]]) -> Chart:
    last = list(counts.values())[-1]
    most, least = max(GENRES, key=lambda genre: last[genre]), min(GENRES, key=lambda genre: last[genre])
    says = f"{most} is the most frequent genre of the movies to learn from ({last[most]:,}), {least} the rarest "
    says += f"({last[least]:,})."
    first = next(iter(counts.values()))
    if len(counts) > 1:
        spread = [max(of_step.values()) / max(1, min(of_step.values())) for of_step in (first, last)]
        says += (
            f" The most frequent one was {spread[0]:.1f} times the rarest at first, and is {spread[1]:.1f} times now."
        )
    series = {name: [of_step[genre] for genre in GENRES] for name, of_step in counts.items()}
    panel = Panel("", says, lambda drawn: axes.draw_bars(drawn, GENRES, series), (3.6, 3.2 if len(counts) < 3 else 4.4))
    return Chart("genre-counts", "Movies of each genre. A movie with several genres counts in each of them.", [panel])


def _genres_per_movie(labels: np.ndarray) -> Chart:
    counts = genres_per_movie(labels).tolist()
    names = [str(number) for number in range(len(counts))]
    mean = float((labels != 0).sum(axis=1).mean()) if len(labels) else 0.0
    most = int(np.argmax(counts))
    share = percent(counts[most], len(labels))
    says = f"Most often a movie has {most} of the nine genres ({share} of the movies); the mean is {mean:.2f}."
    panel = Panel("", says, lambda drawn: axes.draw_columns(drawn, names, counts))
    return Chart("genres-per-movie", f"How many of the nine genres a movie has; {mean:.2f} on average.", [panel])


def _co_occurrence(labels: np.ndarray) -> list[Block]:
    counts = co_occurrence(labels)
    shares = conditional(counts)
    most_often, most_likely = _together(counts, shares)
    count_texts = [[axes.short(count) for count in row] for row in counts]
    share_texts = [["" if np.isnan(share) else f"{share * 100:.0f}" for share in row] for row in shares]
    panels = [
        Panel(
            "counts",
            most_often,
            lambda drawn: _titled_square(drawn, counts.astype(float), count_texts, "movies with both"),
            _SQUARE,
        ),
        Panel(
            "shares",
            most_likely,
            lambda drawn: _titled_square(drawn, shares, share_texts, "% of the row's movies with the column's genre"),
            _SQUARE,
        ),
    ]
    caption = (
        "Left, or above: movies with both genres; on the diagonal, with the one. Right, or below: of the movies with "
    )
    caption += "the row's genre, the share that has the column's, too: P(column | row), in per cent."
    count_rows = [[genre, *(f"{count:,}" for count in row)] for genre, row in zip(GENRES, counts, strict=True)]
    share_rows = [
        [genre, *("-" if np.isnan(share) else f"{share:.1%}" for share in row)]
        for genre, row in zip(GENRES, shares, strict=True)
    ]
    return [
        Chart("co-occurrence", caption, panels),
        Table("Movies with both genres.", ["genre", *GENRES], count_rows, folded=True),
        Table("P(column | row).", ["genre", *GENRES], share_rows, folded=True),
    ]


def _together(counts: np.ndarray, shares: np.ndarray) -> tuple[str, str]:
    """The genres that go together in the most movies, and those of which one has the other the most likely."""
    is_same = np.eye(len(GENRES), dtype=bool)
    beside, strongest = np.where(is_same, -1, counts), np.where(is_same | np.isnan(shares), -1, shares)
    if beside.max() <= 0:
        return ("No movie has two of the genres.",) * 2
    first, second = np.unravel_index(int(beside.argmax()), beside.shape)
    given, also = np.unravel_index(int(strongest.argmax()), strongest.shape)
    return (
        f"{GENRES[first]} and {GENRES[second]} go together most often: in {counts[first, second]:,} movies.",
        f"{shares[given, also]:.0%} of the movies with the genre {GENRES[given]} have the genre {GENRES[also]}, "
        "too: the highest share.",
    )


def _titled_square(drawn: Axes, values: np.ndarray, texts: Sequence[Sequence[str]], title: str) -> None:
    axes.draw_square(drawn, values, texts, GENRES)
    drawn.set_title(title, fontsize=8, loc="left")


def _lengths(words: np.ndarray) -> Block:
    edges, counts = length_bins(words)
    if not len(counts):
        return Missing("Lengths", "No movie of the table has a plot; run jobs/enrich.py, and jobs/dataset.py after it.")
    known = words[words > 0]
    low, middle, high = np.quantile(known, (0.05, 0.5, 0.95))
    says = f"Half of the plots have {middle:,.0f} words or fewer; nine in ten have between {low:,.0f} and {high:,.0f}; "
    says += f"the longest has {known.max():,}."
    panel = Panel("", says, lambda drawn: axes.draw_lengths(drawn, edges, counts, float(middle)))
    return Chart("plot-lengths", f"Words in the plots of {len(known):,} movies. {says}", [panel])


def _missing(tables: DataTables) -> list[Block]:
    movies = tables.movies
    total, num_plots = len(movies.ids), int(movies.has_plot.sum())
    rows = [
        ["no plot", f"{total - num_plots:,}", percent(total - num_plots, total)],
        ["no poster", f"{total - movies.num_posters:,}", percent(total - movies.num_posters, total)],
    ]
    blocks: list[Block] = [Table(f"Of the {total:,} movies to learn from.", ["missing", "movies", "share"], rows)]
    for what, stored, column, job in (
        ("plots", tables.enriched, "plot", "enriched"),
        ("posters", tables.posters, "image", "posters"),
    ):
        if stored is None:
            table = "ENRICHED" if job == "enriched" else "POSTERS"
            blocks.append(Missing(f"What became of asking for {what}", f"Give the {table} table: {job}=DIR."))
        else:
            blocks.append(_asked(what, stored, column))
    return blocks


def _asked(what: str, stored: Stored, column: str) -> Table:
    statuses, total = stored.manifest.statuses, stored.manifest.rows
    rows = [
        [status.replace("_", " "), f"{count:,}", percent(count, total)] for status, count in sorted(statuses.items())
    ]
    found = num_valid(stored, column)
    rows.append([f"have a {what.removesuffix('s')}", f"{found:,}", percent(found, total)])
    return Table(
        f"What became of asking for the {what} of {total:,} catalogued movies.", ["status", "movies", "share"], rows
    )


def _splits(movies: MovieRows) -> Table:
    total, rows = len(movies.ids), []
    for split in SPLITS:
        is_in = pc.equal(movies.splits, split).to_numpy()
        count, plots = int(is_in.sum()), int(movies.has_plot[is_in].sum())
        rows.append([split, f"{count:,}", percent(count, total), percent(plots, count)])
    return Table(
        "Movies of each split; equal plots are in one split.", ["split", "movies", "share", "with a plot"], rows
    )


def _splits_by_genre(movies: MovieRows) -> Table:
    shares = {}
    for split in SPLITS:
        labels = movies.labels[pc.equal(movies.splits, split).to_numpy()] != 0
        shares[split] = [percent(int(count), len(labels)) for count in labels.sum(axis=0)]
    rows = [[genre, *(shares[split][place] for split in SPLITS)] for place, genre in enumerate(GENRES)]
    return Table("Share of each split's movies that has a genre.", ["genre", *SPLITS], rows, folded=True)
