"""The processes that compute, as deployments of Ray Serve: one tags movies, the other explains what was said of one."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmgenre.explain.attribution import Explainer, overlay
from mmgenre.models.inference import Precision
from mmgenre.tables.schema import from_per_genre
from mmgenre.tagging.actors import Tagger
from mmgenre.tagging.input import DIGEST, ID


@dataclass(frozen=True)
class Movie:
    """What models read of a movie; the poster is a JPEG, as in a POSTERS table."""

    title: str | None
    plot: str | None
    image: bytes | None


@dataclass(frozen=True)
class Prediction:
    """What a model says of a movie.

    Args:
        status: of PredictStatus.
        probabilities: shape (9,), float32, in GENRES order; NaN where there are none.
        detail: why there are none, where something failed.
    """

    status: str
    probabilities: np.ndarray
    detail: str | None


class TagReplica:
    """Tags batches of movies with a model of its own.

    Args:
        directory: of the checkpoint.
        precision: see Predictor.
        threads: of computing.
        on_loopback: whether no other machine has to reach this process.
    """

    def __init__(self, directory: str, precision: Precision, threads: int, on_loopback: bool):
        if on_loopback:
            _stay_on_loopback()
        torch.set_num_threads(threads)
        self._tagger = Tagger.load(directory, precision)
        # Tokenizers may not be used by two threads at once.
        self._turn = threading.Lock()
        # What a model does on its first movie takes longer than on all others.
        tag(self._tagger, [Movie("A title", "A plot.", None)])

    def tag(self, movies: list[Movie]) -> list[Prediction]:
        """A prediction for each."""
        with self._turn:
            return tag(self._tagger, movies)


class ExplainReplica:
    """Explains predictions, one after the other; arguments as those of TagReplica."""

    def __init__(self, directory: str, threads: int, on_loopback: bool):
        if on_loopback:
            _stay_on_loopback()
        torch.set_num_threads(threads)
        self._explainer = Explainer.load(directory)
        self._turn = threading.Lock()

    def explain(self, movie: Movie, genres: Sequence[str]) -> dict[str, Any]:
        """The text that is read, its words with their scores by genre, and by genre a JPEG of the poster's regions."""
        with self._turn:
            found = self._explainer.explain(movie.title, movie.plot, movie.image, genres)
        words = [{"start": word.start, "end": word.end, "scores": word.scores} for word in found.words]
        image = movie.image
        regions = {} if image is None else {genre: overlay(image, heat) for genre, heat in found.heat.items()}
        return {"text": found.text, "words": words, "regions": regions}


def tag(tagger: Tagger, movies: Sequence[Movie]) -> list[Prediction]:
    """A prediction for each movie; one that the model fails on does not hurt those it is computed with."""
    rows = pa.table(
        {
            "imdb_id": pa.array([""] * len(movies), ID.type),
            DIGEST: pa.array([0] * len(movies), pa.int64()),
            "title": pa.array([movie.title for movie in movies], pa.string()),
            "plot": pa.array([movie.plot for movie in movies], pa.string()),
            "image": pa.array([movie.image for movie in movies], pa.binary()),
        }
    )
    try:
        tagged = tagger.tag(rows)
    except Exception:
        # It fails on all of them; alone, each becomes a row that says why.
        if len(movies) == 1:
            raise
        return [prediction for movie in movies for prediction in tag(tagger, [movie])]
    chances = from_per_genre(tagged["probabilities"])
    statuses, details = tagged["status"].to_pylist(), tagged["detail"].to_pylist()
    return [Prediction(*found) for found in zip(statuses, chances, details, strict=True)]


def _stay_on_loopback() -> None:
    """Have Serve's own port, on which other nodes would reach this process without any authentication, at 127.0.0.1.

    Serve opens it once this constructor has returned, at all addresses, and has no option for it.
    """
    from ray.serve._private import replica  # noqa: PLC0415 - only where Serve runs this

    original = replica.add_port_to_grpc_server
    if not isinstance(original, partial):
        replica.add_port_to_grpc_server = partial(_add_port, original)


def _add_port(original: Any, server: Any, _: str) -> int:
    return original(server, "127.0.0.1:0")
