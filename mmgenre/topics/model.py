"""BERTopic on plots whose embeddings are known: which topics there are, and which of them each movie is of.

Source: Grootendorst 2022, arXiv:2203.05794.
"""

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.topics.embeddings import Plots
from mmgenre.topics.words import Terms, best_words

NO_TOPIC = -1
_PACKAGES = ("bertopic", "hdbscan", "umap")
_MIN_PLOTS = 10


class TopicModelConfig(Config):
    """How topics are found."""

    topics: int | None = Field(
        None, ge=2, description="similar topics are joined until there are so many; null: as found"
    )
    min_topic_size: int = Field(20, ge=3, description="movies of the smallest topic that is looked for")
    max_topic_share: float = Field(
        0.5, gt=0, le=1, description="of the movies that topics are found in: what would hold more is taken apart"
    )
    min_samples: int = Field(
        3, ge=1, description="neighbours that make a place dense: more of them, more movies without a topic"
    )
    words: int = Field(10, ge=1, le=50, description="words of each topic")
    neighbours: int = Field(15, ge=2, description="of each movie that UMAP keeps near it: more of them, broader topics")
    dimensions: int = Field(5, ge=2, le=50, description="that UMAP leaves of the embeddings")
    reduce_outliers: bool = Field(
        False, description="movies without a topic are given the topic whose embeddings are most like theirs"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of UMAP, and of which movies are the sample")

    @property
    def min_plots(self) -> int:
        """That have each term of the vocabulary: ten, fewer where topics may be small."""
        return max(2, min(_MIN_PLOTS, self.min_topic_size // 2))


@dataclass(frozen=True)
class Assigned:
    """Of N movies the topic, NO_TOPIC where there is none, and how surely it is that, in [0, 1]."""

    topics: np.ndarray
    probabilities: np.ndarray


class TopicModel:
    """Topics found among some movies; numbered by their size, the largest 0.

    Args:
        plots: N movies with plots to find them among.
        config: how.

    Raises:
        InputError: they are too few, or no part of them is alike.
    """

    def __init__(self, plots: Plots, config: TopicModelConfig):
        require_enough(len(plots.ids), config)
        self._config = config
        self.terms = Terms.of([text or "" for text in plots.texts], config.min_plots)
        if not self.terms.names:
            raise InputError(f"movies: {len(plots.ids):,} plots without a word in common; topics need plots in English")
        documents = self.terms.documents()
        self._model = _bertopic(config, self.terms.names, len(plots.ids))
        self._model.fit(documents, plots.values)
        if not self._is_found:
            raise InputError(
                f"min_topic_size={config.min_topic_size}: no so many of {len(plots.ids):,} plots, and no more than "
                f"max_topic_share={config.max_topic_share:g} of them, are alike; lower the one or raise the other"
            )
        if config.topics is not None and config.topics < len(self._is_found):
            # BERTopic counts those without a topic as one more.
            self._model.reduce_topics(documents, nr_topics=config.topics + (NO_TOPIC in self._model.topic_sizes_))
        self.assigned = Assigned(np.array(self._model.topics_), np.asarray(self._model.probabilities_, np.float64))
        self.num_topics = len(self._is_found)
        self._centres = self._means(plots.values)

    @property
    def _is_found(self) -> list[int]:
        return [topic for topic in self._model.topic_sizes_ if topic != NO_TOPIC]

    def assign(self, values: np.ndarray) -> Assigned:
        """The topics of other movies, given their embeddings, shape (N, D): where they fall among the first ones."""
        topics, probabilities = self._model.transform([""] * len(values), values)
        return Assigned(np.array(topics), np.asarray(probabilities, np.float64))

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Shape (N,): the topic whose mean embedding has the largest cosine with each movie's."""
        return np.argmax(self.likeness(values), axis=1)

    def likeness(self, values: np.ndarray) -> np.ndarray:
        """Shape (N, K): the cosine of embeddings with each topic's mean one."""
        return _unit(values) @ self._centres.T

    def words(self) -> list[list[str]]:
        """Terms of each topic, by c-TF-IDF, the best first, of those that say the same only one."""
        return [self._words_of(topic) for topic in range(self.num_topics)]

    def _words_of(self, topic: int) -> list[str]:
        # All terms' weights: of BERTopic's own few best ones, it may be that hardly any movie has them.
        first = 1 if NO_TOPIC in self._model.topic_sizes_ else 0
        weights = self._model.c_tf_idf_[first + topic].toarray()[0]
        return best_words(weights, self.terms, self.assigned.topics == topic, self._config.words)

    def _means(self, values: np.ndarray) -> np.ndarray:
        unit = _unit(values)
        return _unit(np.stack([unit[self.assigned.topics == topic].mean(0) for topic in range(self.num_topics)]))


def _bertopic(config: TopicModelConfig, vocabulary: Sequence[str], num_plots: int) -> Any:
    """A model that computes the same from the same, and that looks for no model of embeddings."""
    with warnings.catch_warnings():  # which ones are shown is changed by these packages
        from bertopic import BERTopic  # noqa: PLC0415 - slow to import
        from bertopic.vectorizers import ClassTfidfTransformer  # noqa: PLC0415
        from hdbscan import HDBSCAN  # noqa: PLC0415
        from umap import UMAP  # noqa: PLC0415
    from sklearn.feature_extraction.text import CountVectorizer  # noqa: PLC0415

    # More threads would be faster, and other numbers each time.
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
        # Embeddings of a model that has learned genres pass into one another: without a limit, nearly all are one.
        max_cluster_size=max(1, int(config.max_topic_share * num_plots)),
        core_dist_n_jobs=1,
        prediction_data=True,
    )
    return BERTopic(
        # "english" would take the terms apart.
        language="multilingual",
        umap_model=umap,
        hdbscan_model=hdbscan,
        vectorizer_model=CountVectorizer(
            vocabulary=vocabulary, tokenizer=str.split, token_pattern=None, lowercase=False
        ),
        ctfidf_model=ClassTfidfTransformer(reduce_frequent_words=True),
    )


def require_packages() -> None:
    """Raise InputError where the extra is not installed."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"jobs/topics.py needs {', '.join(missing)}; pip install 'mmgenre[topics]'")


def require_enough(num_plots: int, config: TopicModelConfig) -> None:
    """Raise InputError where there cannot be two topics in so many plots."""
    fewest = max(2 * config.min_topic_size, config.neighbours + 1, config.dimensions + 2)
    if num_plots < fewest:
        raise InputError(
            f"movies: {num_plots:,} plots; expected at least {fewest:,} for topics of min_topic_size="
            f"{config.min_topic_size} with neighbours={config.neighbours}; give more movies, or lower these"
        )


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
