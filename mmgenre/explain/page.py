"""The page about one explained movie: the model's decisions, and the words and poster regions behind each genre."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmgenre import pages
from mmgenre.explain.attribution import Attribution
from mmgenre.explain.heat_maps import overlay
from mmgenre.labels import GENRES

# Words scoring below the first bound are not marked; the bounds separate thin, medium and thick marks.
_LEVELS = (0.15, 0.35, 0.65)
_STRENGTHS = ("", "slightly", "clearly", "strongly")
_NUM_STRONGEST = 5
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
_SIDES = {True: "for", False: "against"}
_INPUTS = {"text_and_poster": "plot and poster", "text_only": "plot", "poster_only": "poster"}


@dataclass(frozen=True)
class Explanation:
    """A model's predictions for one movie, and what they rest on.

    Args:
        name: of the movie, the page's headline.
        model: family of the model.
        status: available input, a PredictStatus.
        probabilities: shape (9,), in GENRES order.
        thresholds: shape (9,).
        predicted: genres whose probability reaches the threshold.
        genres: genres that are explained, the most probable first.
        attribution: for each of these genres.
        poster: a JPEG; None: the model read no poster.
    """

    name: str
    model: str
    status: str
    probabilities: np.ndarray
    thresholds: np.ndarray
    predicted: tuple[str, ...]
    genres: tuple[str, ...]
    attribution: Attribution
    poster: bytes | None

    def __str__(self) -> str:
        """One line per explained genre."""
        return "\n".join(self._line(genre) for genre in self.genres)

    def _line(self, genre: str) -> str:
        column = GENRES.index(genre)
        words = [f"{word['word']} {word['score']:+.2f}" for word in strongest_words(self.attribution, genre)]
        heat = self.attribution.heat.get(genre)
        where = "" if heat is None else hottest_region(heat)
        decision = f"{genre}: {self.probabilities[column]:.3f}, threshold {self.thresholds[column]:.3f}"
        return "; ".join(part for part in (decision, ", ".join(words), f"poster: {where}" if where else "") if part)


def page(explanation: Explanation) -> str:
    """Render the page; it is self-contained."""
    attribution = explanation.attribution
    decisions = [_decision(explanation, genre) for genre in GENRES]
    sections = [_decision(explanation, genre) | _reasons(explanation, genre) for genre in explanation.genres]
    return pages.render(
        "explain.html",
        title=explanation.name,
        model=explanation.model,
        inputs=_INPUTS[explanation.status],
        poster=explanation.poster,
        decisions=sorted(decisions, key=lambda decision: -decision["probability"]),
        sections=sections,
        has_words=bool(attribution.words),
        has_heat=bool(attribution.heat),
        is_truncated=any(piece["level"] < 0 for section in sections for piece in section["pieces"]),
        relative_error=max(attribution.relative_errors.values(), default=0.0),
    )


def _decision(explanation: Explanation, genre: str) -> dict[str, Any]:
    column = GENRES.index(genre)
    return {
        "genre": genre,
        "probability": float(explanation.probabilities[column]),
        "threshold": float(explanation.thresholds[column]),
        "is_predicted": genre in explanation.predicted,
        "is_explained": genre in explanation.genres,
    }


def _reasons(explanation: Explanation, genre: str) -> dict[str, Any]:
    attribution, poster = explanation.attribution, explanation.poster
    heat = attribution.heat.get(genre)
    return {
        "pieces": list(_pieces(attribution, genre)),
        "strongest": strongest_words(attribution, genre),
        "hottest": "" if heat is None else hottest_region(heat),
        "overlay": None if poster is None or heat is None else overlay(poster, heat),
    }


def strongest_words(attribution: Attribution, genre: str) -> list[dict[str, Any]]:
    """Words with the largest absolute sum of scores, each with the number of its occurrences."""
    scores: dict[str, list[float]] = {}
    for word in attribution.words:
        text = (attribution.text or "")[word.start : word.end].casefold()
        scores.setdefault(text, []).append(word.scores[genre])
    ranked = sorted(scores, key=lambda word: -abs(sum(scores[word])))
    return [
        {"word": word, "score": total, "times": len(scores[word]), "side": _SIDES[total > 0]}
        for word in ranked[:_NUM_STRONGEST]
        if (total := sum(scores[word]))
    ]


def hottest_region(heat: np.ndarray) -> str:
    """Position of a map's maximum in words, such as "top left"; empty if the map is all 0."""
    if not heat.any():
        return ""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    vertical = _ROWS[int((row + 0.5) / heat.shape[0] * 3)]
    horizontal = _COLUMNS[int((column + 0.5) / heat.shape[1] * 3)]
    return "centre" if (vertical, horizontal) == ("middle", "centre") else f"{vertical} {horizontal}"


def _pieces(attribution: Attribution, genre: str) -> Iterator[dict[str, Any]]:
    """The text in pieces: marked words at level 1 to 3, text between them at 0, text after truncation at -1."""
    text, position = attribution.text or "", 0
    for word in attribution.words:
        score = word.scores[genre]
        level = sum(abs(score) >= bound for bound in _LEVELS)
        if level:
            yield {"text": text[position : word.start], "level": 0}
            side = _SIDES[score > 0]
            description = f"{_STRENGTHS[level]} {side}"
            yield {"text": text[word.start : word.end], "level": level, "side": side, "description": description}
            position = word.end
    end = attribution.words[-1].end if attribution.words else len(text)
    # Punctuation after the last word is not truncated text.
    end = end if any(character.isalnum() for character in text[end:]) else len(text)
    yield {"text": text[position:end], "level": 0}
    if end < len(text):
        yield {"text": text[end:], "level": -1}
