"""What the routes do: predictions, explanations and tagged tables, each with a bounded queue and a timeout."""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from mmgenre.labels import GENRES, decode
from mmgenre.models.checkpoint import Card
from mmgenre.pages import data_uri
from mmgenre.serving import csv_tables
from mmgenre.serving.batch_queue import BatchQueue, QueueFull
from mmgenre.serving.config import Limits, ServingConfig
from mmgenre.serving.forms import UploadedFile
from mmgenre.serving.poster_uploads import normalized_poster
from mmgenre.serving.replicas import MovieToTag, Prediction
from mmgenre.serving.request_error import RequestError
from mmgenre.serving.request_models import MovieRequest
from mmgenre.serving.responses import (
    ExplainedMovie,
    ModelResponse,
    ResponseBuilder,
    TaggedMovie,
    failed_prediction,
    ranked_genres,
    without_paths,
)

_NUM_EXPLAINED = 3
# Delay before a table retries a full queue.
_RETRY_S = 0.1
_MAX_DECODERS = 4

# Remote calls of the replicas.
Tag = Callable[[list[MovieToTag]], Awaitable[list[Prediction]]]
Explain = Callable[[MovieToTag, Sequence[str]], Awaitable[dict[str, Any]]]


class Service:
    """Answers requests for a model, once its replicas are attached.

    Args:
        card: of the model.
        config: how to answer.
    """

    def __init__(self, card: Card, config: ServingConfig):
        self.card, self.config = card, config
        self.is_healthy = False
        self._responses = ResponseBuilder(card, config.checkpoint, config)
        self._tag: Tag | None = None
        self._explain: Explain | None = None
        self._num_tables = 0
        num_decoders = min(_MAX_DECODERS, os.cpu_count() or 1)
        self._decoders = ThreadPoolExecutor(num_decoders, "posters")
        # An idle service accepts the largest allowed batch.
        max_waiting = max(config.max_waiting, config.limits.batch_movies)
        self._posters = BatchQueue(
            self._decode_poster, max_batch=1, max_waiting=max_waiting, max_in_flight=num_decoders
        )
        # Two batches per replica: one in transit while the other is computed.
        self._predictions = BatchQueue(
            self._predict_batch,
            max_batch=config.max_batch,
            max_waiting=max_waiting,
            max_in_flight=2 * config.replicas,
            wait_s=config.batch_wait_s,
        )
        self._explanations = BatchQueue(
            self._explain_one, max_batch=1, max_waiting=config.explain_waiting, max_in_flight=1
        )

    def attach(self, tag: Tag, explain: Explain | None) -> None:
        """Connect the replicas and start answering."""
        self._tag, self._explain = tag, explain
        self.is_healthy = True

    def close(self) -> None:
        """Stop the poster threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def model(self) -> ModelResponse:
        """The model and the limits of requests."""
        card = self.card
        return ModelResponse(
            family=card.model.family,
            genres=list(GENRES),
            reads=list(dict.fromkeys(card.model.columns)),
            thresholds=self._responses.thresholds,
            temperature=card.temperature,
            scores=card.scores,
            version=card.version,
            training=without_paths(card.training),
            fingerprint=card.weights_sha256,
            limits=self.config.limits.model_dump(),
        )

    async def predict(self, movies: Sequence[MovieRequest], *, is_batch: bool) -> list[TaggedMovie]:
        """One response per movie.

        Raises:
            RequestError: an unreadable poster (in a batch it only fails that movie), a full queue, or a timeout.
        """
        async with _timeout(self.config.timeout_s):
            posters = await self._decode_posters(movies)
            error = next((poster for poster in posters if isinstance(poster, RequestError)), None)
            if error is not None and not is_batch:
                raise error
            inputs = [
                self._model_input(movie.title, movie.plot, poster)
                for movie, poster in zip(movies, posters, strict=True)
                if not isinstance(poster, RequestError)
            ]
            results = iter(await self._predictions.submit(inputs))
        predictions = [
            failed_prediction(poster.message) if isinstance(poster, RequestError) else next(results)
            for poster in posters
        ]
        return self._responses.build([movie.id for movie in movies], predictions)

    async def explain(self, movie: MovieRequest) -> ExplainedMovie:
        """The prediction for a movie and its explanation.

        Raises:
            RequestError: as predict, or explanations are turned off.
        """
        if not self.config.explain:
            raise RequestError(404, "explanations are turned off; start the service with explain=true")
        async with _timeout(self.config.explain_timeout_s):
            (poster,) = await self._decode_posters([movie])
            if isinstance(poster, RequestError):
                raise poster
            model_input = self._model_input(movie.title, movie.plot, poster)
            (prediction,) = await self._predictions.submit([model_input])
            (tagged,) = self._responses.build([movie.id], [prediction])
            if not tagged.probabilities:
                return ExplainedMovie(**dict(tagged), explained=[], text=None, words=[], regions={})
            genres = ranked_genres(prediction)[:_NUM_EXPLAINED]
            (evidence,) = await self._explanations.submit([(model_input, genres)])
        regions = {genre: data_uri(image, "image/jpeg") for genre, image in evidence["regions"].items()}
        return ExplainedMovie(**dict(tagged), explained=genres, **(evidence | {"regions": regions}))

    async def tag_table(self, table: UploadedFile) -> bytes:
        """A CSV file with columns appended for genres, status and probabilities.

        Raises:
            RequestError: a file that cannot be read, too many tables at once, or a timeout.
        """
        if self._num_tables == self.config.tables_at_once:
            raise RequestError(503, f"busy: {self._num_tables} tables are being tagged; try again in a second")
        self._num_tables += 1
        try:
            async with _timeout(self.config.table_timeout_s):
                csv_table = await asyncio.to_thread(csv_tables.read, table.content, self.config.limits)
                predictions = await self._predict_table(csv_table.movies())
                genres = [decode(labels) for labels in self._responses.decide(predictions)]
                return await asyncio.to_thread(csv_table.tagged, predictions, genres, safe_cells=self.config.safe_cells)
        finally:
            self._num_tables -= 1

    async def _predict_table(self, movies: Sequence[MovieToTag]) -> list[Prediction]:
        """Predictions in batches, one at a time, so that other requests get their turn."""
        inputs = [self._model_input(movie.title, movie.plot, None) for movie in movies]
        predictions: list[Prediction] = []
        size = min(self.config.max_batch, self.config.limits.batch_movies)
        while len(predictions) < len(inputs):
            start = len(predictions)
            try:
                predictions += await self._predictions.submit(inputs[start : start + size])
            except QueueFull:
                await asyncio.sleep(_RETRY_S)
        return predictions

    def _model_input(self, title: str | None, plot: str | None, poster: bytes | None) -> MovieToTag:
        """The inputs without those that the model does not read."""
        columns = self.card.model.columns
        return MovieToTag(
            title if "title" in columns else None,
            plot if "plot" in columns else None,
            poster if "image" in columns else None,
        )

    async def _decode_posters(self, movies: Sequence[MovieRequest]) -> list[bytes | RequestError | None]:
        """Each movie's poster as the model reads it, the error that makes it unreadable, or None without a poster."""
        decoded = iter(await self._posters.submit([movie.poster for movie in movies if movie.poster]))
        return [next(decoded) if movie.poster else None for movie in movies]

    async def _decode_poster(self, uploads: list[bytes | str]) -> list[bytes | RequestError]:
        decode_upload = functools.partial(_poster_or_error, uploads[0], self.config.poster_side, self.config.limits)
        return [await asyncio.get_running_loop().run_in_executor(self._decoders, decode_upload)]

    async def _predict_batch(self, inputs: list[MovieToTag]) -> list[Prediction]:
        return await _call_replica(self._tag, inputs)

    async def _explain_one(self, requests: list[tuple[MovieToTag, Sequence[str]]]) -> list[dict[str, Any]]:
        return [await _call_replica(self._explain, *requests[0])]


@asynccontextmanager
async def _timeout(seconds: float) -> AsyncIterator[None]:
    """Cancel the block after some seconds and raise RequestError."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise RequestError(503, f"took longer than {seconds:g} s; try again later, or send less") from None


async def _call_replica(call: Callable[..., Awaitable[Any]] | None, *arguments: Any) -> Any:
    """A replica's result; after a replica dies, Serve starts another, which is tried once."""
    if call is None:
        raise RequestError(503, "the model is still being loaded; try again in a second")
    for is_retry in (False, True):
        try:
            return await call(*arguments)
        except RayActorError:
            if is_retry:
                raise RequestError(503, "the model's process died and is restarting; try again soon") from None
        except (BackPressureError, DeploymentUnavailableError):
            raise RequestError(503, "no replica of the model is available; try again in a second") from None
    raise AssertionError


def _poster_or_error(upload: bytes | str, max_side: int, limits: Limits) -> bytes | RequestError:
    try:
        return normalized_poster(upload, max_side, limits)
    except RequestError as error:
        return error
