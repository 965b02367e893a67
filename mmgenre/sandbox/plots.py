"""Writes plots that reveal a movie's genres about as well as real ones: often, not always, sometimes misleadingly."""

import re
from collections.abc import Sequence
from functools import partial
from random import Random

from mmgenre.labels import GENRES
from mmgenre.sandbox.vocabulary import FIRST_NAMES, GENRE_PHRASES, LAST_NAMES, NEUTRAL_PHRASES

# Weight of a genre when a phrase of the plot is drawn, and the probability of that weight.
_WEIGHTS = {0: 0.04, 1: 0.12, 6: 0.84}
_NEUTRAL_WEIGHT = 1
_MISLEADING = 0.25
_SENTENCES = {1: 0.08, 2: 0.22, 3: 0.34, 4: 0.22, 5: 0.14}
_NEUTRAL_SENTENCE = 0.1

_LOGLINES = (
    "{place}, {character} must {deed} before {turn}.",
    "When {turn}, {character} is forced to {deed} {place}.",
    "{character} and {character} set out to {deed}, until {turn}.",
    "{name}, {character}, has only one chance to {deed} {place}.",
    "{character} finds {object} {place}, and {turn}.",
    "The story of {character} who tries to {deed}, of {object}, and of the day {turn}.",
    "All {name} wanted was to {deed}; then {turn} {place}.",
    "{name} has {days} days to {deed}, and only {character} and {object} to help.",
    "{object} brings {character} and {character} together {place}, where {turn}.",
    "After {years} years {character} comes back to {deed}, only to see that {turn}.",
    "{years} years after {turn}, {name} has to {deed} once more, with {character} at the door.",
    "Nobody expects {character} to {deed} {place}, least of all {character}.",
)
_OPENINGS = (
    "{name} is {character} with a single wish: to {deed}.",
    "{place}, {character} leads an ordinary life.",
    "It all begins {place}, with {object}.",
    "{name} and {name} meet {place}.",
    "{character} arrives {place} to {deed}.",
    "For {years} years {name} has tried to {deed}.",
    "{name}, {character}, comes across {object} {place}.",
    "In {year}, {character} disappears {place}.",
    "{character} is hired by {character} to {deed}.",
    "Everything {name} owns is {object}.",
    "{name} has always been {character}, and never wished to be anything else.",
    "Between {character} and {character} there is {object}.",
    "{name} thought it would be easy to {deed}.",
    "One morning {character} wakes up {place} beside {object}.",
)
_MIDDLES = (
    "Soon {turn}.",
    "But {turn}, and {name} has to {deed}.",
    "With the help of {character}, there may be a way to {deed}.",
    "{character} offers {object} in return.",
    "The trail leads to {object} hidden {place}.",
    "To {deed}, {name} needs {object}.",
    "While {character} tries to {deed}, {turn}.",
    "Then {character} turns up {place}, and {turn}.",
    "Neither {character} nor {character} is prepared for what follows: {turn}.",
    "What looks like {object} turns out to be {object}.",
    "{name} decides to {deed} all the same.",
    "As {turn}, {object} becomes more than anyone bargained for.",
    "The only way out is to {deed} {place}.",
    "It takes {character} to see what {object} means.",
    "Meanwhile {turn} {place}.",
    "Against all advice, {name} lets {character} keep {object}.",
)
_CLOSINGS = (
    "Together they must {deed} before {turn}.",
    "In the end, {character} has to {deed}.",
    "And then {turn}.",
    "But who will {deed} when {turn}?",
    "{name} learns that to {deed} has a price.",
    "There are only {days} days left to {deed}.",
    "It may be too late to {deed}.",
    "Only {object} can change that now.",
    "The last to know is {character}.",
    "What is left is {object}, and {character} who remembers.",
)
_NEUTRAL = (
    "Nothing will be the same again.",
    "{name} has to decide, and soon.",
    "Nobody told {name} the whole story.",
    "Based on the novel of the same name.",
    "A story told in three parts.",
    "The years go by, and {name} still waits.",
    "{name} is not the only one with something to lose.",
    "What happens next surprises everyone.",
    "Set in {year}, and told by {name}.",
    "There is no way back for {name} and {name}.",
    "But {name} has other plans.",
    "The second film about {name}.",
    "Some doors are better left closed, says {name}.",
    "It is only a matter of days.",
)


def write_plot(genres: Sequence[str], random: Random) -> str:
    """A plot of 1 to 5 sentences for a movie with these genres (of GENRES; an empty list gives a neutral plot).

    A genre may appear in most phrases, in a few or in none; a genre that the movie lacks may appear in some.
    """
    voices = _voices(genres, random)
    sentences = [_fill(pattern, voices, random) for pattern in _patterns(random)]
    return " ".join(sentences)


def _voices(genres: Sequence[str], random: Random) -> list[str | None]:
    """The genres to draw phrases from, each repeated by its weight; None stands for neutral phrases."""
    voices: list[str | None] = [None] * _NEUTRAL_WEIGHT
    for genre in genres:
        voices += [genre] * _draw(_WEIGHTS, random)
    if random.random() < _MISLEADING:
        voices.append(random.choice([genre for genre in GENRES if genre not in genres]))
    return voices


def _patterns(random: Random) -> list[str]:
    count = _draw(_SENTENCES, random)
    if count == 1:
        return [random.choice(_LOGLINES)]
    middles = [random.choice(_NEUTRAL if random.random() < _NEUTRAL_SENTENCE else _MIDDLES) for _ in range(count - 2)]
    return [random.choice(_OPENINGS + _LOGLINES), *middles, random.choice(_MIDDLES + _CLOSINGS)]


def _fill(pattern: str, voices: Sequence[str | None], random: Random) -> str:
    """The pattern with a random phrase in each gap, of a genre drawn from `voices`."""
    sentence = re.sub(r"{(\w+)}", partial(_phrase, voices, random), pattern)
    return sentence[0].upper() + sentence[1:]


def _phrase(voices: Sequence[str | None], random: Random, gap: re.Match[str]) -> str:
    match gap[1]:
        case "name":
            last = f" {random.choice(LAST_NAMES)}" if random.random() < 0.4 else ""
            return random.choice(FIRST_NAMES) + last
        case "days" | "years":
            return str(random.randint(2, 30))
        case "year":
            return str(random.randint(1890, 2020))
        case part:
            genre = random.choice(voices)
            phrases = NEUTRAL_PHRASES if genre is None else GENRE_PHRASES[genre]
            return random.choice(getattr(phrases, part))


def _draw(odds: dict[int, float], random: Random) -> int:
    return random.choices(list(odds), list(odds.values()))[0]
