"""The bounded queue in front of the model, drained in batches."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mmgenre.serving.request_error import RequestError


class QueueFull(RequestError):  # noqa: N818 - reads as the condition, like asyncio.QueueFull
    """The queue has no room for the request; the client may retry."""


class BatchQueue:
    """Computes queued items in batches: each free worker takes everything that has arrived since the last batch.

    A lone item therefore never waits for others, and batches grow with the load. The queue sits in front of the
    replicas, unlike Serve's own batching: one remote call per movie costs more than a small model's forward pass.

    Args:
        compute: returns the results of a batch, in order.
        max_batch: maximum items per batch.
        max_waiting: queued items beyond which new ones are rejected at once.
        max_in_flight: batches computed concurrently.
        wait_s: how long a partial batch waits for more items.
    """

    def __init__(
        self,
        compute: Callable[[list[Any]], Awaitable[Sequence[Any]]],
        *,
        max_batch: int,
        max_waiting: int,
        max_in_flight: int,
        wait_s: float = 0.0,
    ):
        self._compute, self._max_batch, self._max_waiting = compute, max_batch, max_waiting
        self._free_workers, self._wait_s = max_in_flight, wait_s
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        # The event loop keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, items: Sequence[Any]) -> list[Any]:
        """Results, in the order of the items. Either all items are queued or none.

        Raises:
            QueueFull: the items do not fit.
        """
        if len(self._waiting) + len(items) > self._max_waiting:
            raise QueueFull(503, f"busy: {len(self._waiting):,} are waiting already; try again in a second")
        loop = asyncio.get_running_loop()
        results = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, results, strict=True))
        self._start_workers()
        try:
            return await asyncio.gather(*results)
        except asyncio.CancelledError:
            # A client that disconnected makes room for others.
            self._waiting = deque((item, future) for item, future in self._waiting if not future.done())
            raise

    def _start_workers(self) -> None:
        while self._free_workers and self._waiting:
            self._free_workers -= 1
            task = asyncio.get_running_loop().create_task(self._compute_batch())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _compute_batch(self) -> None:
        if self._wait_s and len(self._waiting) < self._max_batch:
            await asyncio.sleep(self._wait_s)
        batch = self._next_batch()
        try:
            results = await self._compute([item for item, _ in batch]) if batch else ()
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._free_workers += 1
            self._start_workers()

    def _next_batch(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        """The next batch, without items whose client has disconnected."""
        batch: list[tuple[Any, asyncio.Future[Any]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
