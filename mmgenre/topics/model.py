"""BERTopic on plots with known embeddings: finds the topics, and predicts the topics of other movies.

Source: Grootendorst 2022, arXiv:2203.05794.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from mmgenre.config import Config, missing_packages
from mmgenre.errors import InputError
from mmgenre.topics.words import PlotTerms, best_words

NO_TOPIC = -1
PACKAGES = ("bertopic", "hdbscan", "umap")
_MIN_PLOTS = 10


class TopicModelConfig(Config):
    """How topics are found."""

    topics: int | None = Field(None, ge=2, description="merge similar topics until this many are left; null: no merge")
    min_topic_size: int = Field(20, ge=3, description="movies in the smallest topic")
    max_topic_share: float = Field(
        0.5, gt=0, le=1, description="largest share of the fitted movies in one topic; a larger cluster is split"
    )
    min_samples: int = Field(3, ge=1, description="neighbours of a dense point; more leave more movies without a topic")
    words: int = Field(10, ge=1, le=50, description="words per topic")
    neighbours: int = Field(15, ge=2, description="neighbours of a movie in UMAP; more give broader topics")
    dimensions: int = Field(5, ge=2, le=50, description="dimensions to which UMAP reduces the embeddings")
    reduce_outliers: bool = Field(
        False, description="give each movie without a topic the topic with the most similar embeddings"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="random seed of UMAP and of the sample")

    @property
    def min_plots(self) -> int:
        """Plots that contain a term of the vocabulary: at least ten, fewer if topics may be small."""
        return max(2, min(_MIN_PLOTS, self.min_topic_size // 2))


@dataclass(frozen=True)
class TopicAssignment:
    """Topics of N movies.

    Args:
        topics: shape (N,); NO_TOPIC for outliers.
        probabilities: shape (N,), in [0, 1], of these topics.
    """

    topics: np.ndarray
    probabilities: np.ndarray


class TopicModel:
    """Topics of some movies, numbered by size; 0 is the largest.

    Args:
        plots: N plots to fit the topics on.
        embeddings: of these plots, shape (N, D).
        config: settings.

    Raises:
        InputError: too few plots, no common words, or no clusters.
    """

    def __init__(self, plots: Sequence[str], embeddings: np.ndarray, config: TopicModelConfig):
        require_enough(len(plots), config)
        self._config = config
        self.terms = PlotTerms.of(plots, config.min_plots)
        if not self.terms.names:
            raise InputError(f"movies: {len(plots):,} plots without a common word; expected plots in English")
        documents = self.terms.documents()
        self._model = _bertopic(config, self.terms.names, len(plots))
        self._model.fit(documents, embeddings)
        if not self._topic_numbers:
            raise InputError(
                f"min_topic_size={config.min_topic_size}: {len(plots):,} plots have no cluster of at least this size "
                f"and of at most max_topic_share={config.max_topic_share:g} of them; lower the one or raise the other"
            )
        if config.topics is not None and config.topics < len(self._topic_numbers):
            # BERTopic counts the outliers as one more topic.
            self._model.reduce_topics(documents, nr_topics=config.topics + (NO_TOPIC in self._model.topic_sizes_))
        self.fitted = TopicAssignment(np.array(self._model.topics_), np.asarray(self._model.probabilities_, np.float64))
        self.num_topics = len(self._topic_numbers)
        self._centres = self._mean_embeddings(embeddings)

    @property
    def _topic_numbers(self) -> list[int]:
        return [topic for topic in self._model.topic_sizes_ if topic != NO_TOPIC]

    def predict(self, embeddings: np.ndarray) -> TopicAssignment:
        """Topics of other movies, given their embeddings, shape (N, D)."""
        topics, probabilities = self._model.transform([""] * len(embeddings), embeddings)
        return TopicAssignment(np.array(topics), np.asarray(probabilities, np.float64))

    def nearest(self, embeddings: np.ndarray) -> np.ndarray:
        """The most similar topic of each movie, shape (N,)."""
        return np.argmax(self.similarity(embeddings), axis=1)

    def similarity(self, embeddings: np.ndarray) -> np.ndarray:
        """Cosine similarity of embeddings and mean embeddings of the topics, shape (N, K)."""
        return _normalize(embeddings) @ self._centres.T

    def words(self) -> list[list[str]]:
        """Terms of each topic by c-TF-IDF, best first, without near-duplicates."""
        return [self._words_of(topic) for topic in range(self.num_topics)]

    def _words_of(self, topic: int) -> list[str]:
        # All terms and not BERTopic's own top words, which may occur in hardly any movie of the topic.
        first = 1 if NO_TOPIC in self._model.topic_sizes_ else 0
        weights = self._model.c_tf_idf_[first + topic].toarray()[0]
        return best_words(weights, self.terms, self.fitted.topics == topic, self._config.words)

    def _mean_embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        unit = _normalize(embeddings)
        return _normalize(np.stack([unit[self.fitted.topics == topic].mean(0) for topic in range(self.num_topics)]))


def _bertopic(config: TopicModelConfig, vocabulary: Sequence[str], num_plots: int) -> Any:
    """A deterministic model that loads no embedding model of its own."""
    with warnings.catch_warnings():  # these packages change the warning filters on import
        from bertopic import BERTopic  # noqa: PLC0415 - slow to import
        from bertopic.vectorizers import ClassTfidfTransformer  # noqa: PLC0415
        from hdbscan import HDBSCAN  # noqa: PLC0415
        from umap import UMAP  # noqa: PLC0415
    from sklearn.feature_extraction.text import CountVectorizer  # noqa: PLC0415

    # More threads are faster, but not deterministic.
    umap = UMAP(
        n_neighbors=config.neighbours,
        n_components=config.dimensions,
        min_dist=0.0,
        metric="cosine",
        random_state=config.seed,
        transform_seed=config.seed,
        n_jobs=1,
    )
    hdbscan = HDBSCAN(
        min_cluster_size=config.min_topic_size,
        min_samples=config.min_samples,
        cluster_selection_method="eom",
        # Embeddings of a model trained on genres blend into one another: without a limit, nearly all form one cluster.
        max_cluster_size=max(1, int(config.max_topic_share * num_plots)),
        core_dist_n_jobs=1,
        prediction_data=True,
    )
    return BERTopic(
        # "english" would split the terms.
        language="multilingual",
        umap_model=umap,
        hdbscan_model=hdbscan,
        vectorizer_model=CountVectorizer(
            vocabulary=vocabulary, tokenizer=str.split, token_pattern=None, lowercase=False
        ),
        ctfidf_model=ClassTfidfTransformer(reduce_frequent_words=True),
    )


def require_packages() -> None:
    """Raise InputError if the extra is not installed."""
    if missing := missing_packages(PACKAGES):
        raise InputError(f"jobs/topics.py needs {', '.join(missing)}; pip install 'mmgenre[topics]'")


def require_enough(num_plots: int, config: TopicModelConfig) -> None:
    """Raise InputError if this many plots cannot have two topics."""
    min_plots = max(2 * config.min_topic_size, config.neighbours + 1, config.dimensions + 2)
    if num_plots < min_plots:
        raise InputError(
            f"movies: {num_plots:,} plots; expected at least {min_plots:,} for min_topic_size={config.min_topic_size} "
            f"and neighbours={config.neighbours}; give more movies or lower these settings"
        )


def _normalize(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
