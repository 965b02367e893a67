"""What the routes ask for: predictions, explanations and tagged tables, each within its bounds of queue and time."""

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
from mmgenre.serving.batch_queue import Busy, Line
from mmgenre.serving.config import ServiceConfig
from mmgenre.serving.limits import Limits
from mmgenre.serving.poster_uploads import stored
from mmgenre.serving.replicas import Movie, Prediction
from mmgenre.serving.request_error import Refusal
from mmgenre.serving.request_models import Asked, File
from mmgenre.serving.responses import Account, failed, most_probable

_NUM_EXPLAINED = 3
# A table waits for its turn in the line, which may be full of others.
_PAUSE_S = 0.1
_MOST_DECODERS = 4

# Calls of the replicas.
Tag = Callable[[list[Movie]], Awaitable[list[Prediction]]]
Explain = Callable[[Movie, Sequence[str]], Awaitable[dict[str, Any]]]


class Service:
    """Answers for a model, once its replicas are there.

    Args:
        card: the model's.
        config: how requests are answered.
    """

    def __init__(self, card: Card, config: ServiceConfig):
        self.card, self.config = card, config
        self.account = Account(card, config.checkpoint, config)
        self.is_healthy = False
        self._tag: Tag | None = None
        self._explain: Explain | None = None
        self._tables = 0
        num_decoders = min(_MOST_DECODERS, os.cpu_count() or 1)
        self._decoders = ThreadPoolExecutor(num_decoders, "posters")
        # A request of the largest size finds room where nobody waits.
        max_waiting = max(config.max_waiting, config.limits.batch_movies)
        self._posters = Line(self._stored, max_batch=1, max_waiting=max_waiting, at_once=num_decoders)
        # Two batches for each replica: one is on its way while the other is computed.
        self._line = Line(
            self._tag_batch,
            max_batch=config.max_batch,
            max_waiting=max_waiting,
            at_once=2 * config.replicas,
            patience_s=config.batch_wait_s,
        )
        self._explanations = Line(self._explain_one, max_batch=1, max_waiting=config.explain_waiting, at_once=1)

    def attach(self, tag: Tag, explain: Explain | None) -> None:
        """Begin to answer."""
        self._tag, self._explain = tag, explain
        self.is_healthy = True

    def close(self) -> None:
        """Let go of the threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def model(self) -> dict[str, Any]:
        """The fields of ModelCard."""
        card = self.card
        return {
            "family": card.model.family,
            "genres": list(GENRES),
            "reads": list(dict.fromkeys(card.model.columns)),
            "thresholds": self.account.usual_cutoffs,
            "temperature": card.temperature,
            "scores": card.scores,
            "version": card.version,
            "training": card.training,
            "fingerprint": card.weights_sha256,
            "limits": self.config.limits.model_dump(),
        }

    async def predict(self, movies: Sequence[Asked], *, is_batch: bool) -> list[dict[str, Any]]:
        """The fields of Tagged for each movie.

        Raises:
            Refusal: a poster that cannot be read (of a batch, that movie's answer says so), a line that is full, or no
                answer in time.
        """
        async with _within(self.config.timeout_s):
            posters = await self._decoded(movies)
            broken = next((poster for poster in posters if isinstance(poster, Refusal)), None)
            if broken is not None and not is_batch:
                raise broken
            read = [
                self._as_read(movie, poster)
                for movie, poster in zip(movies, posters, strict=True)
                if not isinstance(poster, Refusal)
            ]
            found = iter(await self._line.ask(read))
        predictions = [failed(poster.message) if isinstance(poster, Refusal) else next(found) for poster in posters]
        return self.account.answers([movie.id for movie in movies], predictions)

    async def explain(self, movie: Asked) -> dict[str, Any]:
        """The fields of Explained.

        Raises:
            Refusal: as predict, or there are no explanations here.
        """
        if not self.config.explain:
            raise Refusal(404, "explanations are switched off here; start the service with explain=true")
        async with _within(self.config.explain_timeout_s):
            (poster,) = await self._decoded([movie])
            if isinstance(poster, Refusal):
                raise poster
            read = self._as_read(movie, poster)
            (prediction,) = await self._line.ask([read])
            (answer,) = self.account.answers([movie.id], [prediction])
            nothing: dict[str, Any] = {"text": None, "words": [], "regions": {}}
            if not answer["probabilities"]:
                return answer | {"explained": []} | nothing
            genres = most_probable(prediction)[:_NUM_EXPLAINED]
            (found,) = await self._explanations.ask([(read, genres)])
        regions = {genre: data_uri(image, "image/jpeg") for genre, image in found["regions"].items()}
        return answer | {"explained": genres} | found | {"regions": regions}

    async def tag_table(self, table: File) -> bytes:
        """A CSV file with columns for genres, status and probabilities.

        Raises:
            Refusal: no such file, too many of them at once, or no answer in time.
        """
        if self._tables == self.config.tables_at_once:
            raise Refusal(503, f"busy: {self._tables} tables are being tagged; try again in a second")
        self._tables += 1
        try:
            async with _within(self.config.table_timeout_s):
                found = await asyncio.to_thread(csv_tables.read, table.content, self.config.limits)
                predictions = await self._in_turns(found.movies())
                genres = [decode(given) for given in self.account.given(predictions)]
                return await asyncio.to_thread(found.tagged, predictions, genres)
        finally:
            self._tables -= 1

    async def _in_turns(self, movies: Sequence[Movie]) -> list[Prediction]:
        """Batch after batch, so that others come in between."""
        reads, found = self.card.model.columns, []
        read = [
            Movie(movie.title if "title" in reads else None, movie.plot if "plot" in reads else None, None)
            for movie in movies
        ]
        at, size = 0, min(self.config.max_batch, self.config.limits.batch_movies)
        while at < len(read):
            try:
                found += await self._line.ask(read[at : at + size])
                at += size
            except Busy:
                await asyncio.sleep(_PAUSE_S)
        return found

    def _as_read(self, movie: Asked, poster: bytes | None) -> Movie:
        """What the model reads of it."""
        reads = self.card.model.columns
        return Movie(
            movie.title if "title" in reads else None,
            movie.plot if "plot" in reads else None,
            poster if "image" in reads else None,
        )

    async def _decoded(self, movies: Sequence[Asked]) -> list[bytes | Refusal | None]:
        """Each movie's poster as models read it, why it cannot be, or None where there is none."""
        found = iter(await self._posters.ask([movie.poster for movie in movies if movie.poster]))
        return [next(found) if movie.poster else None for movie in movies]

    async def _stored(self, uploads: list[bytes | str]) -> list[bytes | Refusal]:
        read = functools.partial(_stored_or_refusal, uploads[0], self.config.poster_side, self.config.limits)
        return [await asyncio.get_running_loop().run_in_executor(self._decoders, read)]

    async def _tag_batch(self, movies: list[Movie]) -> list[Prediction]:
        if self._tag is None:
            raise Refusal(503, "the model is still being loaded; try again in a second")
        return await _patiently(self._tag, movies)

    async def _explain_one(self, asked: list[tuple[Movie, Sequence[str]]]) -> list[dict[str, Any]]:
        if self._explain is None:
            raise Refusal(503, "the model is still being loaded; try again in a second")
        return [await _patiently(self._explain, *asked[0])]


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """A block that is broken off after some seconds: Refusal."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Refusal(503, f"took longer than {seconds:g} s; try again later, or send less") from None


async def _patiently(call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """A replica's answer; one that dies meanwhile is started again by Serve, and asked a second time."""
    for is_last in (False, True):
        try:
            return await call(*arguments)
        except RayActorError:
            if is_last:
                raise Refusal(503, "the model's process ended, and is being started again; try again soon") from None
        except (BackPressureError, DeploymentUnavailableError):
            raise Refusal(503, "no process of the model can take this now; try again in a second") from None
    raise AssertionError


def _stored_or_refusal(upload: bytes | str, max_side: int, limits: Limits) -> bytes | Refusal:
    try:
        return stored(upload, max_side, limits)
    except Refusal as refusal:
        return refusal
