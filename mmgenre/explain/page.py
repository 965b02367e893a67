"""An explained movie as a page: what was decided, and for each genre the words and the regions that spoke for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmgenre import pages
from mmgenre.explain.attribution import Attribution, overlay
from mmgenre.labels import GENRES

# Words whose score is below the first are not marked; the others are the borders between thin, medium and thick.
_LEVELS = (0.15, 0.35, 0.65)
_STRENGTHS = ("", "a little", "clearly", "strongly")
_NUM_STRONGEST = 5
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
_SIGNS = {True: "for", False: "against"}
_HEADLINES = {"text_and_poster": "its plot and its poster", "text_only": "its plot", "poster_only": "its poster"}


@dataclass(frozen=True)
class Explained:
    """A movie, what a model decided of it, and why.

    Args:
        name: of the movie, as the headline has it.
        model: which one it was.
        status: what the decision rests on: see PredictStatus.
        probabilities: shape (9,), in GENRES order.
        cutoffs: shape (9,): at or above which a genre is given.
        given: the genres that are given.
        genres: those that are explained.
        attribution: what spoke for each of them.
        poster: a JPEG; None where none is read.
    """

    name: str
    model: str
    status: str
    probabilities: np.ndarray
    cutoffs: np.ndarray
    given: tuple[str, ...]
    genres: tuple[str, ...]
    attribution: Attribution
    poster: bytes | None

    def __str__(self) -> str:
        """A line for each genre that is explained."""
        return "\n".join(self._line(genre) for genre in self.genres)

    def _line(self, genre: str) -> str:
        row = GENRES.index(genre)
        verdict = f"{genre}: {self.probabilities[row]:.3f}, threshold {self.cutoffs[row]:.3f}"
        said = [f"{one['word']} {one['score']:+.2f}" for one in strongest(self.attribution, genre)]
        where = place_of(self.attribution.heat[genre]) if genre in self.attribution.heat else ""
        return "; ".join(part for part in (verdict, ", ".join(said), f"poster: {where}" if where else "") if part)


def page(explained: Explained) -> str:
    """The page, self-contained."""
    decisions = [
        {
            "name": genre,
            "probability": float(explained.probabilities[row]),
            "threshold": float(explained.cutoffs[row]),
            "given": genre in explained.given,
            "explained": genre in explained.genres,
        }
        for row, genre in enumerate(GENRES)
    ]
    genres = [_genre(explained, genre) for genre in explained.genres]
    return pages.render(
        "explain.html",
        title=explained.name,
        model=explained.model,
        seen=_HEADLINES[explained.status],
        poster=explained.poster,
        decisions=sorted(decisions, key=lambda one: -one["probability"]),
        genres=genres,
        has_words=bool(explained.attribution.words),
        has_heat=bool(explained.attribution.heat),
        is_cut_off=any(piece["level"] < 0 for genre in genres for piece in genre["pieces"]),
        gap=max(explained.attribution.gaps.values(), default=0.0),
    )


def strongest(found: Attribution, genre: str) -> list[dict[str, Any]]:
    """The words with the largest sums of scores, for and against, each with how often it stands in the text."""
    sums: dict[str, list[float]] = {}
    for one in found.words:
        word = (found.text or "")[one.start : one.end].casefold()
        sums.setdefault(word, []).append(one.scores[genre])
    ranked = sorted(((sum(scores), len(scores), word) for word, scores in sums.items()), key=lambda one: -abs(one[0]))
    return [
        {"word": word, "score": score, "times": times, "side": _SIGNS[score > 0]}
        for score, times, word in ranked[:_NUM_STRONGEST]
        if score
    ]


def place_of(heat: np.ndarray) -> str:
    """Where the hottest place of a map is, in words; empty where nothing is hot."""
    if not heat.any():
        return ""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    vertical = _ROWS[int((row + 0.5) / heat.shape[0] * 3)]
    horizontal = _COLUMNS[int((column + 0.5) / heat.shape[1] * 3)]
    return "centre" if (vertical, horizontal) == ("middle", "centre") else f"{vertical} {horizontal}"


def _genre(explained: Explained, genre: str) -> dict[str, Any]:
    found, row = explained.attribution, GENRES.index(genre)
    heat = found.heat.get(genre)
    where = "" if heat is None else place_of(heat)
    return {
        "name": genre,
        "probability": float(explained.probabilities[row]),
        "threshold": float(explained.cutoffs[row]),
        "given": genre in explained.given,
        "pieces": list(_pieces(found, genre)),
        "strongest": strongest(found, genre),
        "where": where,
        "picture": overlay(explained.poster, heat) if explained.poster is not None and heat is not None else None,
    }


def _pieces(found: Attribution, genre: str) -> Iterator[dict[str, Any]]:
    """The text cut up: marked words, and what stands between them; what was not read any more is said so."""
    text, at = found.text or "", 0
    for one in found.words:
        score = one.scores[genre]
        level = sum(abs(score) >= border for border in _LEVELS)
        if level:
            yield {"text": text[at : one.start], "level": 0}
            side, strength = _SIGNS[score > 0], _STRENGTHS[level]
            yield {"text": text[one.start : one.end], "level": level, "side": side, "said": f"{strength} {side}"}
            at = one.end
    end = found.words[-1].end if found.words else len(text)
    # Marks that end the last word are read with it.
    end = len(text) if not any(letter.isalnum() for letter in text[end:]) else end
    yield {"text": text[at:end], "level": 0}
    if end < len(text):
        yield {"text": text[end:], "level": -1}
