"""Topics of plots by BERTopic on a checkpoint's embeddings, compared with NMF and LDA on the same plots.

python bench/topics.py CHECKPOINT MOVIES [--seeds 3] [--work DIR] [key=value ...]

Each seed runs the job on embeddings that are computed once. NMF (on TF-IDF) and LDA (on counts) are scikit-learn's with
default settings. They find as many topics as BERTopic with the same seed, from the same terms of the same plots; a
movie belongs to its strongest topic; the same code chooses and scores the words: NPMI and diversity of the best ten.
Genre information is the mutual information of topic and genre as a share of the genre's entropy; "no topic" counts as a
topic. Exits with 1 if a seed does not reproduce its bytes, or if BERTopic's words are less coherent than both others'.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.decomposition import NMF, LatentDirichletAllocation
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import mutual_info_score

from mmgenre.tables.chunks import sorted_by_id
from mmgenre.tables.schema import from_per_genre
from mmgenre.tables.table import Table
from mmgenre.topics.job import PAGE_FOLDER, TopicsConfig, topics
from mmgenre.topics.model import NO_TOPIC
from mmgenre.topics.rows import TOPICS
from mmgenre.topics.words import PlotTerms, best_words, coherence, diversity

FILES = ("topics.csv", "topics.md", "topics.html", "topics_by_genre.png", "topics_by_genre.svg")


@dataclass(frozen=True)
class Found:
    """Figures of one run of one method."""

    topics: int
    without: float
    npmi: float
    diversity: float
    genre_information: float
    seconds: float


def main() -> None:
    """Measure, print the figures, check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint folder of a transformer or a BiLSTM")
    parser.add_argument("movies", help="MOVIES folder")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="overrides of configs/topics/default.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "mmgenre-bench-topics"))
    options = parser.parse_intermixed_args()
    corpus = Corpus(options.movies, config_of(options, 0))
    found: dict[str, list[Found]] = {"BERTopic": [], "NMF": [], "LDA": []}
    for seed in range(options.seeds):
        found["BERTopic"].append(bertopic(corpus, config_of(options, seed)))
        num_topics = found["BERTopic"][-1].topics
        found["NMF"].append(corpus.factorised(nmf, num_topics, seed))
        found["LDA"].append(corpus.factorised(lda, num_topics, seed))
        report(seed, {name: runs[-1:] for name, runs in found.items()})
    report(f"median of {options.seeds}", found)
    again = config_of(options, 0, "again")
    topics(again)
    is_same = bytes_of(again.output) == bytes_of(config_of(options, 0).output)
    print(f"seed 0 twice: {'the same bytes' if is_same else 'OTHER BYTES'}")
    best, *others = (np.median([run.npmi for run in runs]) for runs in found.values())
    sys.exit(0 if is_same and best >= min(others) else 1)


def config_of(options: argparse.Namespace, seed: int, name: str = "seed") -> TopicsConfig:
    """The job's, with an output of its own, and embeddings that all seeds share."""
    settings = {
        "checkpoint": options.checkpoint,
        "movies": options.movies,
        "output": str(options.work / f"{name}{seed}"),
        "embeddings": str(options.work / "embeddings"),
        "overwrite": True,
        "seed": seed,
    }
    given = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in options.settings)}
    return TopicsConfig.parse(settings | given, "bench")


def bertopic(corpus: "Corpus", config: TopicsConfig) -> Found:
    """Figures from the job's manifest; the seconds exclude the embeddings."""
    notes = topics(config).notes
    rows = Table(config.output, TOPICS).read().sort_by("imdb_id")
    numbers = rows["topic"].fill_null(NO_TOPIC).to_numpy()
    return Found(
        notes["topics"],
        notes["share_without_topic"],
        notes["coherence"],
        notes["diversity"],
        corpus.genre_information(numbers),
        notes["seconds"]["fit"],
    )


class Corpus:
    """The terms of all plots, and the movies' genres."""

    def __init__(self, movies: str, config: TopicsConfig):
        rows = sorted_by_id(Table(movies).read(["imdb_id", "plot", "labels"]))
        self.labels = from_per_genre(rows["labels"])
        self.words = config.words
        self.terms = PlotTerms.of([plot or "" for plot in rows["plot"].to_pylist()], config.min_plots)

    def factorised(self, method: Callable[..., tuple[np.ndarray, np.ndarray]], num_topics: int, seed: int) -> Found:
        """Topics as factors of the plot-term matrix."""
        began = time.perf_counter()
        of_plots, of_terms = method(self.terms.counts, num_topics, seed)
        seconds = time.perf_counter() - began
        numbers = of_plots.argmax(axis=1)
        words = [best_words(own, self.terms, numbers == topic, self.words) for topic, own in enumerate(of_terms)]
        npmi = float(np.mean([coherence(own, self.terms) for own in words]))
        return Found(num_topics, 0.0, npmi, diversity(words), self.genre_information(numbers), seconds)

    def genre_information(self, numbers: np.ndarray) -> float:
        """The mutual information of topic and genre as a share of the genre's entropy, over all genres."""
        told = sum(mutual_info_score(genre, numbers) for genre in self.labels.T)
        return told / sum(mutual_info_score(genre, genre) for genre in self.labels.T)


def nmf(counts: Any, num_topics: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative matrix factorisation of TF-IDF."""
    model = NMF(num_topics, random_state=seed, max_iter=500)
    return model.fit_transform(TfidfTransformer().fit_transform(counts)), model.components_


def lda(counts: Any, num_topics: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Latent Dirichlet allocation."""
    model = LatentDirichletAllocation(num_topics, random_state=seed)
    return model.fit_transform(counts), model.components_


def report(head: object, found: dict[str, list[Found]]) -> None:
    """Print one line per method: the median of its runs."""
    print(f"seed: {head}")
    for name, runs in found.items():
        figures = np.median([list(vars(run).values()) for run in runs], axis=0)
        topics, without, npmi, different, information, seconds = figures
        print(
            f"  {name:8}  {topics:3.0f} topics, {without:.1%} without a topic, NPMI {npmi:.3f}, diversity "
            f"{different:.3f}, genre information {information:.1%}, {seconds:.0f} s",
            flush=True,
        )


def bytes_of(output: str) -> list[Any]:
    """The rows and files of a run."""
    files = [path.read_bytes() for path in (Path(output, PAGE_FOLDER, name) for name in FILES) if path.exists()]
    return [*files, Table(output, TOPICS).read().to_pylist()]


if __name__ == "__main__":
    main()
