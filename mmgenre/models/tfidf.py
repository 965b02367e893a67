"""The baseline: TF-IDF of words and word pairs, one logistic regression for each genre."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from torch import nn

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.alignment import Aligned, Span
from mmgenre.models.genre_graph import fit_graph, learn_edges
from mmgenre.models.genre_model import FittedAtOnce, GenreModel, ReadsText
from mmgenre.models.movies import Batch, Encoded, Movies
from mmgenre.models.text import encoded_texts, texts

_VOCABULARY = "vocabulary.json"
_FOLDS = 5


class TfidfConfig(ReadsText, FittedAtOnce):
    """Sublinear TF-IDF of word n-grams without stop words, and balanced L2-regularised logistic regressions."""

    family: Literal["tfidf"] = "tfidf"
    max_ngram: int = Field(2, ge=1, le=5, description="longest word sequence that is a term")
    min_df: int = Field(2, ge=1, description="movies a term must occur in")
    max_terms: int = Field(200_000, gt=0, description="most frequent terms kept")
    c: float = Field(1.0, gt=0, description="inverse strength of the L2 penalty")

    def fit(self, movies: Movies, labels: np.ndarray) -> "Tfidf":
        """The fitted model; labels has shape (N, 9). A genre without both kinds of rows keeps its base rate.

        Raises:
            InputError: too few plots have a term in common.
        """
        plots = texts(movies, title=self.title)
        vectorizer = TfidfVectorizer(
            ngram_range=(1, self.max_ngram),
            min_df=min(self.min_df, len(plots)),
            max_features=self.max_terms,
            **_FIXED,
        )
        try:
            rows = vectorizer.fit_transform(plots)
        except ValueError as error:
            found = f"{len(plots):,} training plots leave no term ({error})"
            raise InputError(f"model.min_df: {self.min_df}: {found}; take more movies, or lower it") from None
        terms = vectorizer.get_feature_names_out().tolist()
        model = Tfidf(self, terms, vectorizer.idf_.tolist())
        for column in range(len(GENRES)):
            _fit_genre(model.linear, column, rows, labels[:, column], self.c)
        if self.genre_graph:
            learn_edges(model, labels)
            fit_graph(model.head[1], _unseen_logits(rows, labels, self.c), labels)
        return model

    def restore(self, assets: Path) -> "Tfidf":
        """The model's structure from a checkpoint's assets; its weights are loaded afterwards."""
        vocabulary = json.loads((assets / _VOCABULARY).read_text(encoding="utf-8"))
        return Tfidf(self, vocabulary["terms"], vocabulary["idf"])


_FIXED: dict[str, Any] = {
    "sublinear_tf": True,
    "strip_accents": "unicode",
    "stop_words": "english",
    "dtype": np.float32,
}


@dataclass(frozen=True)
class Terms:
    """N plots as rows of a sparse matrix of shape (N, V), L2-normalised."""

    matrix: sparse.csr_matrix

    @property
    def lengths(self) -> np.ndarray:
        """Shape (N,): terms of each plot."""
        return np.diff(self.matrix.indptr)

    def take(self, rows: np.ndarray) -> "Terms":
        """Some of the plots, in the order of the rows."""
        return Terms(self.matrix[rows])

    def batch(self, rows: np.ndarray) -> Batch:
        """`terms`: sparse, float32, shape (B, V)."""
        part = self.take(rows).matrix.tocoo()
        where = torch.from_numpy(np.stack([part.row, part.col]).astype(np.int64))
        values = torch.from_numpy(part.data)
        return {"terms": torch.sparse_coo_tensor(where, values, part.shape, check_invariants=False)}


class TermEncoder:
    """Plots as TF-IDF rows.

    Args:
        terms: V words and word sequences, in column order.
        idf: V inverse document frequencies.
        max_ngram: longest sequence among the terms.
        title: whether the title is read before the plot.
    """

    def __init__(self, terms: list[str], idf: list[float], max_ngram: int, *, title: bool):
        self.terms = terms
        self.idf = idf
        self._title = title
        vocabulary = {term: column for column, term in enumerate(terms)}
        self._vectorizer = TfidfVectorizer(vocabulary=vocabulary, ngram_range=(1, max_ngram), **_FIXED)
        self._vectorizer.idf_ = np.asarray(idf)

    def encode(self, movies: Movies) -> Encoded:
        """TF-IDF rows; empty ones where there is no plot."""
        read = texts(movies, title=self._title)
        return encoded_texts(read, self._terms(read))

    def places(self, text: str) -> list[tuple[int, list[Span]]]:
        """The terms of a text, each as often as it stands there: its column, and where its words stand."""
        aligned = Aligned.lower_case(text)
        # As scikit-learn has it, texts in ASCII stay as they are.
        plain = aligned if aligned.text.isascii() else aligned.decomposed()
        stop_words = self._vectorizer.get_stop_words() or ()
        words = [one for one in plain.words(self._vectorizer.token_pattern) if one[0] not in stop_words]
        found = []
        for length in range(1, self._vectorizer.ngram_range[1] + 1):
            for start in range(len(words) - length + 1):
                taken = words[start : start + length]
                column = self._vectorizer.vocabulary.get(" ".join(word for word, _ in taken))
                if column is not None:
                    found.append((column, [span for _, span in taken]))
        return found

    def _terms(self, read: list[str]) -> Terms:
        if not read:
            # scikit-learn refuses them.
            return Terms(sparse.csr_matrix((0, len(self.terms)), dtype=np.float32))
        return Terms(self._vectorizer.transform(read).tocsr())


class _SparseLinear(nn.Linear):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits of TF-IDF rows, shape (B, 9)."""
        # Sparse products exist in fp32 only, and cost next to nothing.
        with torch.autocast(self.weight.device.type, enabled=False):
            return rows @ self.weight.T + self.bias


class Tfidf(GenreModel):
    """Nine logistic regressions on TF-IDF rows; V terms are its features."""

    encoder: TermEncoder
    head: Any

    def __init__(self, config: TfidfConfig, terms: list[str], idf: list[float]):
        super().__init__()
        self.feature_dim = len(terms)
        self.encoder = TermEncoder(terms, idf, config.max_ngram, title=config.title)
        self.head = config.headed(_SparseLinear(len(terms), len(GENRES)))

    @property
    def linear(self) -> nn.Linear:
        """The regressions alone, without a graph behind them."""
        return self.head if isinstance(self.head, _SparseLinear) else self.head[0]

    def features(self, batch: Batch) -> torch.Tensor:
        """The TF-IDF rows themselves, shape (B, V), sparse."""
        return batch["terms"]

    def save_assets(self, directory: Path) -> None:
        """The terms and their inverse document frequencies."""
        content = {"terms": self.encoder.terms, "idf": self.encoder.idf}
        (directory / _VOCABULARY).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _fit_genre(linear: nn.Linear, column: int, rows: sparse.csr_matrix, labels: np.ndarray, c: float) -> None:
    """Fit one genre's row."""
    weight, bias = torch.zeros(rows.shape[1]), torch.tensor(_base_logit(labels))
    if 0 < labels.mean() < 1:
        fitted = _regression(c).fit(rows, labels)
        weight, bias = torch.from_numpy(fitted.coef_[0]).float(), torch.tensor(float(fitted.intercept_[0]))
    with torch.no_grad():
        linear.weight[column] = weight
        linear.bias[column] = bias


def _unseen_logits(rows: sparse.csr_matrix, labels: np.ndarray, c: float) -> np.ndarray:
    """Of each row those of regressions fitted on other rows; the base rate where few rows have a genre, or lack it."""
    logits = np.tile(np.array([_base_logit(wanted) for wanted in labels.T], np.float32), (len(labels), 1))
    for column, wanted in enumerate(labels.T):
        if min(wanted.sum(), len(wanted) - wanted.sum()) >= _FOLDS:
            logits[:, column] = cross_val_predict(_regression(c), rows, wanted, cv=_FOLDS, method="decision_function")
    return logits


def _base_logit(labels: np.ndarray) -> float:
    return float(torch.logit(torch.tensor(float(labels.mean())), eps=1e-6))


def _regression(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, class_weight="balanced", solver="liblinear", random_state=0)
