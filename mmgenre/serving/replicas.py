"""Ray Serve deployments that run the model: one tags movies in batches, the other explains one movie at a time."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmgenre.explain.attribution import Explainer
from mmgenre.explain.heat_maps import overlay
from mmgenre.models.inference import Precision
from mmgenre.tables.schema import from_per_genre
from mmgenre.tagging.actors import Tagger
from mmgenre.tagging.input import DIGEST, ID


@dataclass(frozen=True)
class MovieToTag:
    """What a model reads of a movie; `image` is a JPEG as in a POSTERS table."""

    title: str | None
    plot: str | None
    image: bytes | None


@dataclass(frozen=True)
class Prediction:
    """A model's output for one movie.

    Args:
        status: a PredictStatus.
        probabilities: shape (9,), float32, in GENRES order; NaN without a prediction.
        detail: the error message, if the prediction failed.
    """

    status: str
    probabilities: np.ndarray
    detail: str | None


class TagReplica:
    """Tags batches of movies with its own copy of the model.

    Args:
        directory: checkpoint folder.
        precision: see Predictor.
        threads: torch threads.
        loopback_only: no other machine needs to reach this process.
    """

    def __init__(self, directory: str, precision: Precision, threads: int, loopback_only: bool):
        if loopback_only:
            _listen_on_loopback()
        torch.set_num_threads(threads)
        self._tagger = Tagger.load(directory, precision)
        # Tokenizers are not thread-safe.
        self._lock = threading.Lock()
        # Warm-up: the first forward pass is slower than all later ones.
        tag(self._tagger, [MovieToTag("A title", "A plot.", None)])

    def tag(self, movies: list[MovieToTag]) -> list[Prediction]:
        """One prediction per movie."""
        with self._lock:
            return tag(self._tagger, movies)


class ExplainReplica:
    """Explains predictions, one movie at a time. Arguments as in TagReplica."""

    def __init__(self, directory: str, threads: int, loopback_only: bool):
        if loopback_only:
            _listen_on_loopback()
        torch.set_num_threads(threads)
        self._explainer = Explainer.load(directory)
        self._lock = threading.Lock()

    def explain(self, movie: MovieToTag, genres: Sequence[str]) -> dict[str, Any]:
        """The text as the model reads it, its words with scores per genre, and a JPEG of the poster per genre."""
        with self._lock:
            attribution = self._explainer.explain(movie.title, movie.plot, movie.image, genres)
        words = [{"start": word.start, "end": word.end, "scores": word.scores} for word in attribution.words]
        image = movie.image
        regions = {} if image is None else {genre: overlay(image, heat) for genre, heat in attribution.heat.items()}
        return {"text": attribution.text, "words": words, "regions": regions}


def tag(tagger: Tagger, movies: Sequence[MovieToTag]) -> list[Prediction]:
    """One prediction per movie; a movie that makes the model fail does not affect the rest of its batch."""
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
        # The tagger raises only if every movie fails; a movie on its own becomes a row with the error.
        if len(movies) == 1:
            raise
        return [prediction for movie in movies for prediction in tag(tagger, [movie])]
    columns = tagged["status"].to_pylist(), from_per_genre(tagged["probabilities"]), tagged["detail"].to_pylist()
    return [Prediction(*row) for row in zip(*columns, strict=True)]


def _listen_on_loopback() -> None:
    """Bind Serve's unauthenticated gRPC port, through which other nodes reach a replica, to 127.0.0.1.

    Serve opens the port on all addresses after this constructor returns, and has no option for it.
    """
    from ray.serve._private import replica  # noqa: PLC0415 - only where Serve runs this

    original = replica.add_port_to_grpc_server
    if not isinstance(original, partial):
        replica.add_port_to_grpc_server = partial(_add_port, original)


def _add_port(original: Any, server: Any, _: str) -> int:
    return original(server, "127.0.0.1:0")
