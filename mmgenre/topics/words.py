"""What topics are called, and how good their words are: pure functions of words and counts."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse

from mmgenre.models.words import lemma, words_of

# Between the words of a term of two.
PAIR = "_"
# What is left of don't and we'll when the apostrophe is gone.
_REMNANTS = frozenset(
    {"aren", "couldn", "didn", "doesn", "don", "hadn", "hasn", "haven", "isn", "ll", "mustn", "re"}
    | {"shan", "shouldn", "ve", "wasn", "weren", "won", "wouldn"}
)
_WORDS_OF_A_NAME = 3
# Share of a word's movies in which it stands in a pair, from which on the pair says it better.
_MOSTLY = 0.5

# Movies of a topic that have each of its words: those of few, above all people's names, say little of it.
_FEWEST_MOVIES, _FEWEST_SHARE = 3, 0.1

_lemma = lru_cache(200_000)(lemma)


@dataclass(frozen=True)
class Terms:
    """The lemmas of N plots, and those of two words that follow each other, each once for each plot.

    Args:
        names: the vocabulary, by the alphabet.
        counts: shape (N, len(names)), 1 where a plot has a term.
        spelled: each term as plots spell it most often.
    """

    names: list[str]
    counts: sparse.csr_matrix
    spelled: dict[str, str]

    @classmethod
    def of(cls, plots: Iterable[str], min_plots: int) -> "Terms":
        """Those that at least so many plots have."""
        found = [_terms(plot) for plot in plots]
        frequent = Counter(itertools.chain.from_iterable(found))
        names = sorted(term for term, number in frequent.items() if number >= min_plots)
        columns = {name: column for column, name in enumerate(names)}
        rows = [sorted(columns[term] for term in terms if term in columns) for terms in found]
        ends = np.cumsum([0, *map(len, rows)])
        flat = np.fromiter(itertools.chain.from_iterable(rows), np.int64, ends[-1])
        counts = sparse.csr_matrix((np.ones(len(flat)), flat, ends), (len(rows), len(names)))
        return cls(names, counts, _most_frequent_spellings(found, columns))

    def documents(self) -> list[str]:
        """Each plot as its terms, with blanks between them."""
        parts = np.split(self.counts.indices, self.counts.indptr[1:-1])
        return [" ".join(self.names[column] for column in part) for part in parts]


def _terms(plot: str) -> dict[str, str]:
    """Terms, and how the plot spells each."""
    words = [word for word in words_of(plot) if len(word) > 1 and word not in _REMNANTS]
    lemmas = [_lemma(word) for word in words]
    found = dict(zip(lemmas, words, strict=True))
    for number in range(1, len(words)):
        if lemmas[number - 1] != lemmas[number]:
            pair = slice(number - 1, number + 1)
            found[PAIR.join(lemmas[pair])] = " ".join(words[pair])
    return found


def _most_frequent_spellings(found: Sequence[dict[str, str]], known: dict[str, int]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = {term: Counter() for term in known}
    for term, spelled in itertools.chain.from_iterable(terms.items() for terms in found):
        if term in counts:
            counts[term][spelled] += 1
    # Of equally frequent spellings the first by the alphabet, whatever the order of the plots.
    return {term: min(spelled, key=lambda one: (-spelled[one], one)) for term, spelled in counts.items()}


def best_words(weights: np.ndarray, terms: Terms, is_of_topic: np.ndarray, most: int) -> list[str]:
    """A topic's words: of its terms those that enough of its movies have, the best first, each thing said once.

    Args:
        weights: shape (len(terms.names),), how much each term stands for the topic; 0 where it does not.
        terms: of N plots.
        is_of_topic: shape (N,), bool.
        most: how many are taken.
    """
    fewest = max(_FEWEST_MOVIES, _FEWEST_SHARE * np.count_nonzero(is_of_topic))
    in_topic = terms.counts[is_of_topic].sum(axis=0).A1
    found = np.flatnonzero((in_topic >= fewest) & (weights > 0))
    ranked = found[np.argsort(-weights[found], kind="stable")]
    counts = {terms.names[column]: int(in_topic[column]) for column in ranked}
    return distinct(list(counts), counts, most)


def distinct(ranked: Sequence[str], counts: dict[str, int], most: int) -> list[str]:
    """Terms that say different things, the best first.

    Args:
        ranked: a topic's terms, the best first.
        counts: movies of the topic with each term.
        most: how many are taken.

    Returns:
        Of terms with a word in common the first; or a pair, where most movies with the word have the pair.
    """
    chosen: list[str] = []
    for term in ranked:
        parts = set(term.split(PAIR))
        sharing = [number for number, other in enumerate(chosen) if parts & set(other.split(PAIR))]
        if not sharing:
            chosen.append(term)
        elif PAIR in term and all(
            PAIR not in chosen[number] and counts[term] >= _MOSTLY * counts[chosen[number]] for number in sharing
        ):
            chosen[sharing[0]] = term
            chosen = [one for number, one in enumerate(chosen) if number not in sharing[1:]]
    return chosen[:most]


def names_of(words: Sequence[Sequence[str]]) -> list[str]:
    """A name of each topic, of its first words; all names are different.

    Args:
        words: of each topic, the best first.
    """
    names: list[str] = []
    for own in words:
        short = ", ".join(own[:_WORDS_OF_A_NAME]) or "no words"
        taken = sum(name == short or name.startswith(f"{short} (") for name in names)
        names.append(f"{short} ({taken + 1})" if taken else short)
    return names


def coherence(words: Sequence[str], terms: Terms) -> float:
    """How much more often a topic's words stand in one plot than by chance, in [-1, 1]: the mean NPMI of their pairs.

    Args:
        words: of the vocabulary, at least two; a pair of words that no plot has counts -1.
        terms: of the plots.

    Source: Bouma 2009; Lau, Newman, Baldwin 2014 (as a measure of topics).
    """
    columns = [terms.names.index(word) for word in words]
    if len(columns) < 2:
        return 0.0
    chosen = terms.counts[:, columns]
    together = (chosen.T @ chosen).toarray() / terms.counts.shape[0]
    single = np.diag(together)
    values = []
    for one, other in itertools.combinations(range(len(columns)), 2):
        both = together[one, other]
        expected = single[one] * single[other]
        values.append(-1.0 if both == 0 else 1.0 if both == 1 else np.log(both / expected) / -np.log(both))
    return float(np.mean(values))


def diversity(words: Sequence[Sequence[str]]) -> float:
    """The share of all topics' words that are different ones: 1 where no two topics share a word.

    Source: Dieng, Ruiz, Blei 2020, arXiv:1907.04907.
    """
    every = [word for own in words for word in own]
    return len(set(every)) / len(every) if every else 0.0
