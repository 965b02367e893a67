"""The section on one model: its cut-offs, whether its probabilities are true, and what it gets wrong."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes

from mmgenre.evaluation.job import Truth
from mmgenre.labels import GENRES, decode
from mmgenre.pages.drawing import MAIN, draw_cutoffs
from mmgenre.report import charts as axes
from mmgenre.report.blocks import Block, Chart, Guess, Movies, Panel, Part, Section, Shown, Table, Text
from mmgenre.report.confusion import FEWEST, Confusion, confusion
from mmgenre.report.mistakes import Mistake, most_confident
from mmgenre.report.movies import Details, excerpt
from mmgenre.report.scores_section import SMALL, Scored
from mmgenre.scoring.curves import Reliability, f1_by_cutoff, reliability

_CUTOFFS = np.linspace(0.01, 0.99, 99)
_BINS_OF_A_GENRE = 10


class Mistakes:
    """The most confident mistakes of one model.

    Args:
        truth: of the movies.
        model: whose they are.
        number: of each kind, at the most.
    """

    def __init__(self, truth: Truth, model: Scored, number: int):
        judged = model.judged
        chances = np.where(judged.is_predicted[:, None], judged.probabilities, np.nan)
        self._truth, self._chances, self._decided = truth, chances, judged.decided
        self._false, self._missed = most_confident(chances, judged.decided, truth.labels, number)

    @property
    def ids(self) -> list[str]:
        """Of all the movies."""
        return self._truth.ids.take(
            pa.array([one.movie for one in (*self._false, *self._missed)], pa.int64())
        ).to_pylist()

    def blocks(self, found: Mapping[str, Details], words: int, posters: Mapping[str, bytes]) -> list[Block]:
        """Movies beside each other, of each kind.

        Args:
            found: what is known of the movies, by id.
            words: of a plot, that are shown.
            posters: small ones, by id.
        """
        kinds = (
            ("Predicted with the highest probabilities, and not among the genres that IMDb lists.", self._false),
            ("Among the genres that IMDb lists, and given the lowest probabilities.", self._missed),
        )
        return [
            Movies(caption, [self._shown(one, found, words, posters) for one in mistakes])
            if mistakes
            else Text(f"{caption} There are none.")
            for caption, mistakes in kinds
        ]

    def _shown(self, mistake: Mistake, found: Mapping[str, Details], words: int, posters: Mapping[str, bytes]) -> Shown:
        imdb_id = self._truth.ids[mistake.movie].as_py()
        chances, labels = self._chances[mistake.movie], self._truth.labels[mistake.movie] != 0
        decided = self._decided[mistake.movie]
        genre, chance = GENRES[mistake.genre], chances[mistake.genre]
        is_false = bool(decided[mistake.genre])
        verdict = f"{genre} is predicted with {chance:.1%}." if is_false else f"{genre} is missed; it got {chance:.1%}."
        places = sorted(np.flatnonzero(labels | decided), key=lambda place: -chances[place])
        return Shown(
            imdb_id=imdb_id,
            title=found[imdb_id].title,
            plot=excerpt(found[imdb_id].plot, words),
            poster=posters.get(imdb_id),
            has_poster=found[imdb_id].image is not None,
            genres=tuple(decode(labels)),
            verdict=verdict,
            guesses=tuple(
                Guess(
                    GENRES[place], float(chances[place]), _says(labels[place], decided[place]), place == mistake.genre
                )
                for place in places
            ),
        )


def model_section(place: int, name: str, truth: Truth, model: Scored, mistakes: Sequence[Block]) -> Section:
    """A section of one model; place: among all models; mistakes: blocks that show them."""
    slug = f"{place}-{axes.slug(name)}"
    parts = [
        Part(f"cut-offs-{slug}", "Cut-offs", [_cutoffs(slug, name, truth, model)]),
        Part(f"reliability-{slug}", "Are the probabilities true?", _reliability(slug, name, truth, model)),
        Part(f"confusion-{slug}", "What is predicted instead", _confusion(slug, name, truth, model)),
        Part(f"mistakes-{slug}", "The most confident mistakes", mistakes),
    ]
    return Section(f"model-{slug}", f"Model {name}", parts=parts)


def _says(is_true: bool, is_predicted: bool) -> str:
    if is_true:
        return "true, predicted" if is_predicted else "true, missed"
    return "predicted, not listed"


def _cutoffs(slug: str, name: str, truth: Truth, model: Scored) -> Chart:
    f1 = f1_by_cutoff(model.judged.probabilities, truth.labels, _CUTOFFS)
    in_use = model.cutoffs.values
    panels = [
        _cutoff_panel(place, f1[:, place], None if in_use is None else float(in_use[place]))
        for place in range(len(GENRES))
    ]
    caption = f"{name}: F1 of each genre at every cut-off, on the movies that are scored. {model.cutoffs.says}"
    return Chart(f"cut-offs-{slug}", caption, panels)


def _cutoff_panel(place: int, f1: np.ndarray, in_use: float | None) -> Panel:
    genre, best = GENRES[place], int(f1.argmax())
    says = f"{genre}: F1 is highest, {f1[best]:.3f}, at the cut-off {_CUTOFFS[best]:.2f}"
    if in_use is not None:
        says += f"; in use is {in_use:.2f}, with {np.interp(in_use, _CUTOFFS, f1):.3f}"

    def draw(drawn: Axes) -> None:
        draw_cutoffs(drawn, _CUTOFFS, f1, in_use, color=MAIN)
        if in_use is not None:
            drawn.axvline(in_use, color="black", linestyle=":", linewidth=0.8)
        drawn.set(xlim=(0, 1), ylim=(0, 1), xlabel="cut-off", ylabel="F1")
        drawn.set_title(genre if in_use is None else f"{genre}: {in_use:.2f} in use", loc="left")
        drawn.grid(alpha=0.3)

    return Panel(axes.slug(genre), f"{says}.", draw, SMALL)


def _reliability(slug: str, name: str, truth: Truth, model: Scored) -> list[Block]:
    is_known = model.judged.is_predicted
    chances, labels = model.judged.probabilities[is_known], truth.labels[is_known]
    if not len(labels):
        return [Text(f"{name} predicts nothing of these movies.")]
    found = reliability(chances, labels)
    side = "more often" if float((found.came_true - found.promised) @ found.counts) > 0 else "less often"
    caption = (
        f"{name}: the {labels.size:,} probabilities of the {len(labels):,} movies with a prediction, in bins of equal "
        "width: what share of each bin's came true (lines: 95 % Wilson intervals), and, as a grey bar, the share of "
        "all that is in the bin. On the dashed line probabilities are true. "
        f"Expected calibration error: {found.error:.3f}."
    )
    says = (
        f"Over all genres the expected calibration error is {found.error:.3f}; genres come true {side} than promised."
    )
    panel = Panel("", says, lambda drawn: axes.draw_reliability(drawn, found), (3.6, 3.2))
    panels = [
        _reliability_panel(place, reliability(chances[:, place], labels[:, place], _BINS_OF_A_GENRE))
        for place in range(len(GENRES))
    ]
    by_genre = f"{name}: the same for each genre by itself, in {_BINS_OF_A_GENRE} bins."
    return [Chart(f"reliability-{slug}", caption, [panel]), Chart(f"reliability-by-genre-{slug}", by_genre, panels)]


def _reliability_panel(place: int, found: Reliability) -> Panel:
    genre = GENRES[place]
    worst = int(np.abs((found.came_true - found.promised) * found.counts).argmax())
    says = (
        f"{genre}: the expected calibration error is {found.error:.3f}; of probabilities about "
        f"{found.promised[worst]:.0%}, {found.came_true[worst]:.0%} came true."
    )

    def draw(drawn: Axes) -> None:
        axes.draw_reliability(drawn, found)
        drawn.set_title(f"{genre}: error {found.error:.3f}", loc="left")

    return Panel(axes.slug(genre), says, draw, SMALL)


def _confusion(slug: str, name: str, truth: Truth, model: Scored) -> list[Block]:
    is_known = model.judged.is_predicted
    found = confusion(model.judged.decided[is_known], truth.labels[is_known])
    if np.isnan(found.ratio).all():
        return [Text(f"{name} misses no genre in {FEWEST} movies or more, or predicts none wrongly: nothing to tell.")]
    caption = (
        f"{name}: of the movies whose genre (row) is missed, and that do not have the column's genre, how many times "
        "as often they are wrongly given that genre as all movies that do not have it (movies without a prediction are "
        "left out). 1 is no confusion; where it is more by more than chance (Fisher's exact test, 5 % for all cells "
        "together), the cell is orange, where it is less, purple. "
        f"Empty: fewer than {FEWEST} such movies, or nothing to compare with."
    )
    says = _says_of_confusion(found)
    panel = Panel("", says, lambda drawn: _draw_confusion(drawn, found), (3.9, 3.7))
    rows = [_confusion_row(found, place) for place in range(len(GENRES))]
    usual = ["all movies", "", *("-" if np.isnan(share) else f"{share:.1%}" for share in found.usual)]
    table_caption = (
        f"{name}: share that is wrongly given each genre, of the movies whose genre is missed, and of all movies, "
        "among those that do not have it."
    )
    header = ["missed", "movies", *GENRES]
    return [
        Chart(f"confusion-{slug}", f"{caption} {says}", [panel]),
        Table(table_caption, header, [*rows, usual], folded=True),
    ]


def _says_of_confusion(found: Confusion) -> str:
    if found.largest is None:
        return "When a genre is missed, no other one is predicted wrongly more often than usual, beyond chance."
    row, column = found.largest
    return (
        f"When {GENRES[row]} is missed, {GENRES[column]} is predicted wrongly {found.ratio[row, column]:.1f} times as "
        f"often as usual: for {found.instead[row, column]:.0%} of the movies."
    )


def _confusion_row(found: Confusion, row: int) -> list[str]:
    shares = ["" if np.isnan(share) else f"{share:.1%}" for share in found.instead[row]]
    return [GENRES[row], f"{found.missed[row]:,}", *shares]


def _draw_confusion(drawn: Axes, found: Confusion) -> None:
    # Equal factors are equal distances: half as often is as far from 1 as twice.
    shades = np.where(found.is_sure, np.log2(np.clip(found.ratio, 0.25, 4)), np.nan)
    texts = [["" if np.isnan(ratio) else f"{ratio:.1f}" for ratio in row] for row in found.ratio]
    axes.draw_shades(drawn, shades, texts, GENRES, (-2, 2, "PuOr_r"))
    drawn.set(xlabel="predicted wrongly", ylabel="missed")
