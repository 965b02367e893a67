"""Plots as content words, and word vectors from a file in GloVe's format."""

import functools
import gzip
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplemma

from mmgenre.errors import InputError
from mmgenre.models.alignment import AlignedText, Span
from mmgenre.models.text import PlotEncoder, Tokens

_PADDING, _UNKNOWN = 0, 1
_NUM_SPECIAL = 2
_WORD = re.compile(r"[a-z0-9]+")
# Limits how much of a huge plot is read; the first max_length words are far shorter than this.
_CHARACTERS_PER_WORD = 64


def content_words(text: str) -> list[str]:
    """A text's words in lower case, without accents, punctuation and stop words.

    Source: the usual preprocessing for GloVe vectors; stop words from scikit-learn.
    """
    plain = unicodedata.normalize("NFKD", text.lower().replace("'s ", " ").replace("’s ", " "))  # noqa: RUF001
    letters = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return [word for word in _WORD.findall(letters) if word not in _stop_words()]


@functools.cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # noqa: PLC0415 - slow to import

    return ENGLISH_STOP_WORDS


def lemmatize(word: str) -> str:
    """The dictionary form of an English word."""
    return simplemma.lemmatize(word, lang="en").lower()


def content_lemmas(text: str) -> list[str]:
    """The lemmas of a text's content words."""
    return [lemmatize(word) for word in content_words(text)]


def content_word_spans(text: str) -> list[Span]:
    """Character span in the text of each word of `content_words(text)`, in order."""
    plain = AlignedText.lower_case(text).without("['’]s(?= )").decomposed()  # noqa: RUF001
    return [span for word, span in plain.words(_WORD.pattern) if word not in _stop_words()]


def build_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """The most frequent lemmas, by falling frequency and then alphabetically."""
    counts = Counter(word for text in texts for word in content_lemmas(text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:size]


class WordEncoder(PlotEncoder):
    """Encodes plots as word ids: 0 is padding, 1 an unknown word, 2 the first word of the vocabulary.

    Args:
        words: vocabulary.
        max_length: words read per plot.
        title: read the title before the plot.
    """

    def __init__(self, words: Sequence[str], max_length: int, *, title: bool):
        super().__init__(title=title)
        self.words = list(words)
        self._ids = {word: number for number, word in enumerate(words, start=_NUM_SPECIAL)}
        self._max_length = max_length

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide which part of a text is read."""
        return {"max_length": self._max_length, "title": self._title}

    def spans(self, text: str) -> list[Span]:
        """Character span in the text of each encoded word."""
        return content_word_spans(self._cut(text))[: self._max_length]

    def _cut(self, text: str) -> str:
        return text[: self._max_length * _CHARACTERS_PER_WORD]

    def _inputs(self, texts: list[str]) -> Tokens:
        words = (content_lemmas(self._cut(text))[: self._max_length] for text in texts)
        rows = [np.array([self._ids.get(word, _UNKNOWN) for word in row], np.int32) for row in words]
        return Tokens.of(rows, _PADDING)


def word_vectors(file: str, words: Sequence[str], seed: int = 0) -> np.ndarray:
    """Vectors for the ids of a WordEncoder, shape (2 + len(words), D), float32.

    Words that are not in the file get random vectors with the mean and deviation of the others.

    Args:
        file: one word and D numbers per line, plain or .gz.
        words: vocabulary.
        seed: seed of the random vectors.

    Raises:
        InputError: the file is unreadable, a line is malformed, or no word of the vocabulary is in it.
    """
    ids = {word: number for number, word in enumerate(words, start=_NUM_SPECIAL)}
    found = {ids[word]: vector for word, vector in _read_vectors(file) if word in ids}
    if not found:
        raise InputError(f"model.vectors: {file}: contains none of the {len(words):,} words of the plots")
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
                    continue  # word2vec's header: number of words, number of dimensions
                num_dimensions = num_dimensions or len(fields) - 1
                try:
                    yield " ".join(fields[:-num_dimensions]), _parse_vector(fields, num_dimensions)
                except ValueError:
                    raise InputError(
                        f"model.vectors: {file}, line {number}: found {line[:40].rstrip()!r}…; expected a word and "
                        f"{num_dimensions or 'some'} numbers"
                    ) from None
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"model.vectors: cannot read {file} ({error}); expected GloVe's text format") from None


def _parse_vector(fields: list[str], num_dimensions: int) -> np.ndarray:
    """The numbers at the end of a line; the word before them may contain spaces.

    Raises:
        ValueError: the line has too many or too few numbers, or one that is not finite.
    """
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
