"""The baseline: TF-IDF of words and word pairs with one logistic regression per genre."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import nn

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.alignment import AlignedText, Span
from mmgenre.models.genre_graph import fit_graph, set_graph_edges
from mmgenre.models.genre_model import DirectlyFittedConfig, GenreModel, TextFamilyConfig
from mmgenre.models.movies import Batch, Movies
from mmgenre.models.text import PlotEncoder, input_texts

_VOCABULARY = "vocabulary.json"
_FOLDS = 5
_VECTORIZER: dict[str, Any] = {
    "sublinear_tf": True,
    "strip_accents": "unicode",
    "stop_words": "english",
    "dtype": np.float32,
}


class TfidfConfig(TextFamilyConfig, DirectlyFittedConfig):
    """Sublinear TF-IDF of word n-grams without stop words, and balanced logistic regressions with an L2 penalty."""

    family: Literal["tfidf"] = "tfidf"
    max_ngram: int = Field(2, ge=1, le=5, description="longest word sequence used as a term")
    min_df: int = Field(2, ge=1, description="minimum number of movies that contain a term")
    max_terms: int = Field(200_000, gt=0, description="vocabulary size: the most frequent terms")
    c: float = Field(1.0, gt=0, description="inverse strength of the L2 penalty")

    def fit(self, movies: Movies, labels: np.ndarray) -> "Tfidf":
        """The fitted model; labels have shape (N, 9). A genre that all movies or none have keeps its base rate.

        Raises:
            InputError: no term occurs in enough plots.
        """
        plots = input_texts(movies, title=self.title)
        vectorizer = _vectorizer(
            ngram_range=(1, self.max_ngram), min_df=min(self.min_df, len(plots)), max_features=self.max_terms
        )
        try:
            rows = vectorizer.fit_transform(plots)
        except ValueError as error:
            found = f"{len(plots):,} training plots leave no term ({error})"
            raise InputError(f"model.min_df: {self.min_df}: {found}; use more movies or a smaller min_df") from None
        model = Tfidf(self, vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.tolist())
        for column in range(len(GENRES)):
            _fit_genre(model.linear, column, rows, labels[:, column], self.c)
        if self.genre_graph:
            set_graph_edges(model, labels)
            fit_graph(model.head[1], _out_of_fold_logits(rows, labels, self.c), labels)
        return model

    def restore(self, assets: Path) -> "Tfidf":
        """Build the model from a checkpoint's assets; the caller loads the weights."""
        vocabulary = json.loads((assets / _VOCABULARY).read_text(encoding="utf-8"))
        return Tfidf(self, vocabulary["terms"], vocabulary["idf"])


@dataclass(frozen=True)
class TfidfRows:
    """N plots as rows of a sparse matrix, shape (N, V), L2-normalized."""

    matrix: sparse.csr_matrix

    @property
    def lengths(self) -> np.ndarray:
        """Terms per plot, shape (N,)."""
        return np.diff(self.matrix.indptr)

    def take(self, rows: np.ndarray) -> "TfidfRows":
        """The given rows, in that order."""
        return TfidfRows(self.matrix[rows])

    def batch(self, rows: np.ndarray) -> Batch:
        """`terms`: sparse, float32, shape (B, V)."""
        matrix = self.matrix[rows].tocoo()
        indices = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
        values = torch.from_numpy(matrix.data)
        return {"terms": torch.sparse_coo_tensor(indices, values, matrix.shape, check_invariants=False)}


class TermEncoder(PlotEncoder):
    """Encodes plots as TF-IDF rows.

    Args:
        terms: V words and word sequences, in column order.
        idf: V inverse document frequencies.
        max_ngram: longest sequence among the terms.
        title: read the title before the plot.
    """

    def __init__(self, terms: list[str], idf: list[float], max_ngram: int, *, title: bool):
        super().__init__(title=title)
        self.terms = terms
        self.idf = idf
        vocabulary = {term: column for column, term in enumerate(terms)}
        self._vectorizer = _vectorizer(vocabulary=vocabulary, ngram_range=(1, max_ngram))
        self._vectorizer.idf_ = np.asarray(idf)

    def spans(self, text: str) -> list[tuple[int, list[Span]]]:
        """Every occurrence of a term in a text: the term's column, and the spans of its words."""
        aligned = AlignedText.lower_case(text)
        # scikit-learn leaves ASCII texts as they are.
        plain = aligned if aligned.text.isascii() else aligned.decomposed()
        stop_words = self._vectorizer.get_stop_words() or ()
        words = [match for match in plain.words(self._vectorizer.token_pattern) if match[0] not in stop_words]
        occurrences = []
        for length in range(1, self._vectorizer.ngram_range[1] + 1):
            for start in range(len(words) - length + 1):
                ngram = words[start : start + length]
                column = self._vectorizer.vocabulary.get(" ".join(word for word, _ in ngram))
                if column is not None:
                    occurrences.append((column, [span for _, span in ngram]))
        return occurrences

    def _inputs(self, texts: list[str]) -> TfidfRows:
        if not texts:  # scikit-learn rejects an empty list
            return TfidfRows(sparse.csr_matrix((0, len(self.terms)), dtype=np.float32))
        return TfidfRows(self._vectorizer.transform(texts).tocsr())


class _SparseLinear(nn.Linear):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits of TF-IDF rows, shape (B, 9)."""
        # PyTorch has sparse products in fp32 only.
        with torch.autocast(self.weight.device.type, enabled=False):
            return rows @ self.weight.T + self.bias


class Tfidf(GenreModel):
    """Nine logistic regressions on TF-IDF rows; the V terms are its features."""

    encoder: TermEncoder
    head: Any

    def __init__(self, config: TfidfConfig, terms: list[str], idf: list[float]):
        super().__init__()
        self.feature_dim = len(terms)
        self.encoder = TermEncoder(terms, idf, config.max_ngram, title=config.title)
        self.head = config.headed(_SparseLinear(len(terms), len(GENRES)))

    @property
    def linear(self) -> nn.Linear:
        """The regressions, without the genre graph."""
        return self.head if isinstance(self.head, _SparseLinear) else self.head[0]

    def features(self, batch: Batch) -> torch.Tensor:
        """The TF-IDF rows, shape (B, V), sparse."""
        return batch["terms"]

    def save_assets(self, directory: Path) -> None:
        """Write the terms and their inverse document frequencies."""
        content = {"terms": self.encoder.terms, "idf": self.encoder.idf}
        (directory / _VOCABULARY).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _fit_genre(linear: nn.Linear, column: int, rows: sparse.csr_matrix, labels: np.ndarray, c: float) -> None:
    weight, bias = torch.zeros(rows.shape[1]), torch.tensor(_base_logit(labels))
    if 0 < labels.mean() < 1:
        fitted = _regression(c).fit(rows, labels)
        weight, bias = torch.from_numpy(fitted.coef_[0]).float(), torch.tensor(float(fitted.intercept_[0]))
    with torch.no_grad():
        linear.weight[column] = weight
        linear.bias[column] = bias


def _out_of_fold_logits(rows: sparse.csr_matrix, labels: np.ndarray, c: float) -> np.ndarray:
    """Logits of each row from regressions fitted on the other folds; the base rate if a class has too few rows."""
    from sklearn.model_selection import cross_val_predict  # noqa: PLC0415 - slow to import

    logits = np.tile(np.array([_base_logit(column) for column in labels.T], np.float32), (len(labels), 1))
    for genre, column in enumerate(labels.T):
        if min(column.sum(), len(column) - column.sum()) >= _FOLDS:
            logits[:, genre] = cross_val_predict(_regression(c), rows, column, cv=_FOLDS, method="decision_function")
    return logits


def _base_logit(labels: np.ndarray) -> float:
    return float(torch.logit(torch.tensor(float(labels.mean())), eps=1e-6))


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - slow to import

    return TfidfVectorizer(**options, **_VECTORIZER)


def _regression(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow to import

    return LogisticRegression(C=c, class_weight="balanced", solver="liblinear", random_state=0)
