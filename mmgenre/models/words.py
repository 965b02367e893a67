"""Plots as the words that carry their meaning, and vectors of words from a file in GloVe's format."""

import gzip
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplemma
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from mmgenre.errors import InputError
from mmgenre.models.alignment import Aligned, Span
from mmgenre.models.movies import Encoded, Movies
from mmgenre.models.text import Tokens, encoded_texts, texts

_PADDING, _UNKNOWN = 0, 1
_NUM_SPECIAL = 2
_WORD = re.compile(r"[a-z0-9]+")
# Beyond so many characters a word no plot is read: more than max_length words stand before that.
_CHARACTERS_PER_WORD = 64


def words_of(text: str) -> list[str]:
    """A text's words, in lower case and without accents, punctuation and stop words.

    Source: the usual preparation of texts for GloVe; stop words by scikit-learn.
    """
    plain = unicodedata.normalize("NFKD", text.lower().replace("'s ", " ").replace("’s ", " "))  # noqa: RUF001
    letters = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return [word for word in _WORD.findall(letters) if word not in ENGLISH_STOP_WORDS]


def lemma(word: str) -> str:
    """What an English word stands under in a dictionary, by simplemma."""
    return simplemma.lemmatize(word, lang="en").lower()


def clean(text: str) -> list[str]:
    """The lemmas of a text's words."""
    return [lemma(word) for word in words_of(text)]


def places_of_words(text: str) -> list[Span]:
    """Where each word of `clean(text)` stands in the text, in their order."""
    read = Aligned.lower_case(text).without("['’]s(?= )").decomposed()  # noqa: RUF001
    return [span for word, span in read.words(_WORD.pattern) if word not in ENGLISH_STOP_WORDS]


def learn_vocabulary(read: Iterable[str], size: int) -> list[str]:
    """The most frequent words of some texts, the most frequent first, equally frequent ones by the alphabet."""
    counts = Counter(word for text in read for word in clean(text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:size]


class WordEncoder:
    """Plots as numbers of words; 0 fills up, 1 stands for a word that is not in the vocabulary.

    Args:
        words: the vocabulary; its first word is number 2.
        max_length: words; what follows is not read.
        title: whether the title is read before the plot.
    """

    def __init__(self, words: Sequence[str], max_length: int, *, title: bool):
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(words, start=_NUM_SPECIAL)}
        self._max_length = max_length
        self._title = title

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which part of a text is read."""
        return {"max_length": self._max_length, "title": self._title}

    def encode(self, movies: Movies) -> Encoded:
        """Word numbers; none where there is no plot."""
        read = texts(movies, title=self._title)
        return encoded_texts(read, Tokens.of([self._ids(text) for text in read], _PADDING))

    def places(self, text: str) -> list[Span]:
        """Where the words that are read of a text stand in it, in the order of their numbers."""
        return places_of_words(text[: self._max_length * _CHARACTERS_PER_WORD])[: self._max_length]

    def _ids(self, text: str) -> np.ndarray:
        words = clean(text[: self._max_length * _CHARACTERS_PER_WORD])[: self._max_length]
        return np.array([self._numbers.get(word, _UNKNOWN) for word in words], np.int32)


def word_vectors(file: str, words: Sequence[str], seed: int = 0) -> np.ndarray:
    """Vectors for the numbers of a WordEncoder, shape (2 + len(words), D), float32.

    Args:
        file: lines of a word and D numbers, plain or .gz.
        words: the vocabulary.
        seed: of the vectors of words that the file does not have, which are as large as the others.

    Raises:
        InputError: the file cannot be read, or a line of it is broken.
    """
    wanted = {word: number for number, word in enumerate(words, start=_NUM_SPECIAL)}
    found = {wanted[word]: vector for word, vector in _read_vectors(file) if word in wanted}
    if not found:
        raise InputError(f"model.vectors: {file}: has none of the {len(words):,} words of the plots")
    known = np.stack(list(found.values()))
    vectors = np.random.default_rng(seed).normal(known.mean(), known.std(), (_NUM_SPECIAL + len(words), known.shape[1]))
    vectors[list(found)] = known
    vectors[_PADDING] = 0
    return vectors.astype(np.float32)


def _read_vectors(file: str) -> Iterator[tuple[str, np.ndarray]]:
    num_dimensions = 0
    try:
        with (gzip.open if file.endswith(".gz") else open)(
            Path(file), "rt", encoding="utf-8", errors="replace"
        ) as lines:
            for number, line in enumerate(lines, start=1):
                fields = line.rstrip("\n").split(" ")
                if number == 1 and len(fields) == 2:
                    continue  # word2vec's header: how many words, how many dimensions
                num_dimensions = num_dimensions or len(fields) - 1
                try:
                    yield " ".join(fields[:-num_dimensions]), _vector(fields, num_dimensions)
                except ValueError:
                    raise InputError(
                        f"model.vectors: {file}, line {number}: found {line[:40].rstrip()!r}…; expected a word and "
                        f"{num_dimensions or 'some'} numbers"
                    ) from None
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"model.vectors: {file}: cannot be read ({error}); expected GloVe's text format") from None


def _vector(fields: list[str], num_dimensions: int) -> np.ndarray:
    """The numbers at the end of a line; ValueError unless a word, which may hold spaces, stands before them."""
    word, numbers = fields[:-num_dimensions], fields[-num_dimensions:]
    if not word or (len(word) > 1 and _is_number(word[-1])):
        raise ValueError
    vector = np.array(numbers, np.float32)
    if not np.isfinite(vector).all():
        raise ValueError
    return vector


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
