"""Words of topics: terms of plots, choice of a topic's words, and measures of their quality."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse

from mmgenre.models.words import content_words, lemmatize

# Joins the words of a two-word term.
PAIR = "_"
# Remains of "don't" and "we'll" without the apostrophe.
_CONTRACTIONS = frozenset(
    {"aren", "couldn", "didn", "doesn", "don", "hadn", "hasn", "haven", "isn", "ll", "mustn", "re"}
    | {"shan", "shouldn", "ve", "wasn", "weren", "won", "wouldn"}
)
_WORDS_PER_NAME = 3
# A pair replaces its word if at least this share of the word's movies have the pair.
_MIN_PAIR_SHARE = 0.5
# Movies of a topic that must contain each of its words: rarer ones, mostly names of people, say little about it.
_MIN_MOVIES, _MIN_MOVIE_SHARE = 3, 0.1

_lemmatize = lru_cache(200_000)(lemmatize)


@dataclass(frozen=True)
class PlotTerms:
    """Terms of N plots: lemmas, and pairs of adjacent lemmas.

    Args:
        names: the vocabulary, sorted.
        counts: shape (N, len(names)); 1 if the plot contains the term.
        spelling: the most frequent spelling of each term.
    """

    names: list[str]
    counts: sparse.csr_matrix
    spelling: dict[str, str]

    @classmethod
    def of(cls, plots: Iterable[str], min_plots: int) -> "PlotTerms":
        """The terms that occur in at least `min_plots` plots."""
        spelled_terms = [_spelled_terms(plot) for plot in plots]
        num_plots = Counter(itertools.chain.from_iterable(spelled_terms))
        names = sorted(term for term, number in num_plots.items() if number >= min_plots)
        columns = {name: column for column, name in enumerate(names)}
        rows = [sorted(columns[term] for term in terms if term in columns) for terms in spelled_terms]
        ends = np.cumsum([0, *map(len, rows)])
        indices = np.fromiter(itertools.chain.from_iterable(rows), np.int64, ends[-1])
        counts = sparse.csr_matrix((np.ones(len(indices)), indices, ends), (len(rows), len(names)))
        return cls(names, counts, _most_frequent_spelling(spelled_terms, names))

    def documents(self) -> list[str]:
        """The terms of each plot, separated by spaces."""
        parts = np.split(self.counts.indices, self.counts.indptr[1:-1])
        return [" ".join(self.names[column] for column in part) for part in parts]


def _spelled_terms(plot: str) -> dict[str, str]:
    """The terms of a plot, each with its spelling there."""
    words = [word for word in content_words(plot) if len(word) > 1 and word not in _CONTRACTIONS]
    lemmas = [_lemmatize(word) for word in words]
    terms = dict(zip(lemmas, words, strict=True))
    for (first, word), (second, next_word) in itertools.pairwise(zip(lemmas, words, strict=True)):
        if first != second:
            terms[f"{first}{PAIR}{second}"] = f"{word} {next_word}"
    return terms


def _most_frequent_spelling(spelled_terms: Sequence[dict[str, str]], names: Sequence[str]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for term, spelling in itertools.chain.from_iterable(terms.items() for terms in spelled_terms):
        if term in counts:
            counts[term][spelling] += 1
    # Ties go to the alphabetically first spelling, whatever the order of the plots.
    return {term: min(number, key=lambda spelling: (-number[spelling], spelling)) for term, number in counts.items()}


def best_words(weights: np.ndarray, terms: PlotTerms, in_topic: np.ndarray, num_words: int) -> list[str]:
    """The words of a topic: distinct terms that enough of its movies contain, best first.

    Args:
        weights: shape (len(terms.names),), weight of each term in the topic; terms with 0 are ignored.
        terms: of N plots.
        in_topic: bool, shape (N,).
        num_words: words at the most.
    """
    min_movies = max(_MIN_MOVIES, _MIN_MOVIE_SHARE * np.count_nonzero(in_topic))
    num_movies = terms.counts[in_topic].sum(axis=0).A1
    candidates = np.flatnonzero((num_movies >= min_movies) & (weights > 0))
    ranked = candidates[np.argsort(-weights[candidates], kind="stable")]
    counts = {terms.names[column]: int(num_movies[column]) for column in ranked}
    return distinct_terms(list(counts), counts, num_words)


def distinct_terms(ranked: Sequence[str], counts: dict[str, int], num_terms: int) -> list[str]:
    """The best terms of a topic without near-duplicates.

    Args:
        ranked: terms, best first.
        counts: number of the topic's movies with each term.
        num_terms: terms at the most.

    Returns:
        The first of the terms that share a word; or a pair, if most movies with the word contain the pair.
    """
    chosen: list[str] = []
    for term in ranked:
        words = set(term.split(PAIR))
        overlapping = [other for other in chosen if words & set(other.split(PAIR))]
        if not overlapping:
            chosen.append(term)
        elif PAIR in term and all(
            PAIR not in other and counts[term] >= _MIN_PAIR_SHARE * counts[other] for other in overlapping
        ):
            chosen[chosen.index(overlapping[0])] = term
            chosen = [other for other in chosen if other not in overlapping]
    return chosen[:num_terms]


def topic_names(words: Sequence[Sequence[str]]) -> list[str]:
    """A unique name for each topic: its first words.

    Args:
        words: of each topic, best first.
    """
    names: list[str] = []
    for topic_words in words:
        name = ", ".join(topic_words[:_WORDS_PER_NAME]) or "no words"
        num_equal = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({num_equal + 1})" if num_equal else name)
    return names


def coherence(words: Sequence[str], terms: PlotTerms) -> float:
    """Mean NPMI of all pairs of words, in [-1, 1]: how much more often two words share a plot than by chance.

    Args:
        words: of the vocabulary. A pair that shares no plot counts -1; fewer than two words give 0.
        terms: of the plots.

    Source: Bouma 2009; Lau, Newman, Baldwin 2014 (as a measure of topics).
    """
    columns = [terms.names.index(word) for word in words]
    if len(columns) < 2:
        return 0.0
    counts = terms.counts[:, columns]
    joint = (counts.T @ counts).toarray() / terms.counts.shape[0]
    single = np.diag(joint)
    values = []
    for first, second in itertools.combinations(range(len(columns)), 2):
        both = joint[first, second]
        expected = single[first] * single[second]
        values.append(-1.0 if both == 0 else 1.0 if both == 1 else np.log(both / expected) / -np.log(both))
    return float(np.mean(values))


def diversity(words: Sequence[Sequence[str]]) -> float:
    """The share of unique words among the words of all topics; 1 if no two topics share a word.

    Source: Dieng, Ruiz, Blei 2020, arXiv:1907.04907.
    """
    all_words = [word for topic_words in words for word in topic_words]
    return len(set(all_words)) / len(all_words) if all_words else 0.0
