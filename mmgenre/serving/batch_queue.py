"""The line in which movies wait for a model: bounded, and taken from its front in batches."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mmgenre.serving.request_error import Refusal


class Busy(Refusal):
    """Too many are waiting; what was asked may be asked again."""


class Line:
    """Hands things to be computed on in batches: whoever is free takes what has come together since.

    So a thing alone does not wait for others, and the more wait, the larger the batches are. It stands before the
    replicas, not in them as Serve's own batching does: a call of another process for each movie costs more than what a
    small model computes for it.

    Args:
        compute: answers for a batch, in its order.
        max_batch: things computed on together.
        max_waiting: things that may wait; who comes later is turned away at once.
        at_once: batches computed on at the same time.
        patience_s: how long a batch that is not full waits for more.
    """

    def __init__(
        self,
        compute: Callable[[list[Any]], Awaitable[Sequence[Any]]],
        *,
        max_batch: int,
        max_waiting: int,
        at_once: int,
        patience_s: float = 0.0,
    ):
        self._compute, self._max_batch, self._max_waiting = compute, max_batch, max_waiting
        self._free, self._patience_s = at_once, patience_s
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        # The event loop holds its tasks by weak references only.
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, things: Sequence[Any]) -> list[Any]:
        """The answers, in the order of the things; all are in the line, or none.

        Raises:
            Busy: the line is too long.
        """
        if len(self._waiting) + len(things) > self._max_waiting:
            raise Busy(503, f"busy: {len(self._waiting):,} are waiting already; try again in a second")
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in things]
        self._waiting.extend(zip(things, answers, strict=True))
        self._serve()
        try:
            return await asyncio.gather(*answers)
        except asyncio.CancelledError:
            # Who goes away makes room for others.
            self._waiting = deque((thing, future) for thing, future in self._waiting if not future.done())
            raise

    def _serve(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            task = asyncio.get_running_loop().create_task(self._serve_batch())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_batch(self) -> None:
        if self._patience_s and len(self._waiting) < self._max_batch:
            await asyncio.sleep(self._patience_s)
        batch = self._take()
        try:
            answers = await self._compute([thing for thing, _ in batch]) if batch else ()
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._free += 1
            self._serve()

    def _take(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        """The next batch, without those who have gone away meanwhile."""
        batch: list[tuple[Any, asyncio.Future[Any]]] = []
        while self._waiting and len(batch) < self._max_batch:
            thing, future = self._waiting.popleft()
            if not future.done():
                batch.append((thing, future))
        return batch
