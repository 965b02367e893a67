"""Progress lines for jobs that run for hours."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ray.util.queue import Queue

from mmgenre import ray_session


class Progress:
    """Counts finished rows and prints a progress line every few seconds.

    Args:
        job: name at the start of each line.
        total: number of rows to process.
        limit: maximum requests per second, for rate-limited jobs.
        every_s: seconds between two lines.
    """

    def __init__(self, job: str, total: int, limit: float | None = None, every_s: float = 10):
        self._job, self._total, self._limit, self._every_s = job, total, limit, every_s
        self._statuses: Counter[str] = Counter()
        self._num_requests = 0
        self._printed = time.monotonic()
        # The first rows come after Ray has started its actors: the speed is that of the rows after them.
        self._first: tuple[float, int, int] | None = None

    def add(self, statuses: Mapping[str, int], num_requests: int = 0) -> None:
        """Add rows that were written, counted by status, and the requests they took; print a line if one is due."""
        self._statuses.update(statuses)
        self._num_requests += num_requests
        now = time.monotonic()
        self._first = self._first or (now, self._statuses.total(), self._num_requests)
        if now - self._printed >= self._every_s:
            print(self._line(now), flush=True)  # noqa: T201 - this is what the class is for
            self._printed = now

    def _line(self, now: float) -> str:
        done = self._statuses.total()
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(self._statuses.items()))
        return f"{self._job}: {done:,}/{self._total:,} rows ({statuses}){self._speed(now, done)}"

    def _speed(self, now: float, done: int) -> str:
        """Rows or requests per second and the remaining time; empty until rows have followed the first ones."""
        started, first_rows, first_requests = self._first or (now, done, 0)
        rows, seconds = done - first_rows, now - started
        if not rows or not seconds:
            return ""
        rate = f"{rows / seconds:,.1f} rows/s"
        if self._limit is not None:
            rate = f"{(self._num_requests - first_requests) / seconds:,.1f} of {self._limit:,g} requests/s"
        return f", {rate}, {duration((self._total - done) * seconds / rows)} left"


def duration(seconds: float) -> str:
    """A readable duration, such as 42 s, 7 min or 4 h 51 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:,.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def consumed_queue(handle: Callable[[Any], None]) -> Iterator[Queue]:
    """A queue for other processes, whose items are passed to `handle` on a thread of this one; needs a Ray session."""
    items = ray_session.queue()
    consumer = threading.Thread(target=_consume_until_none, args=(items, handle), daemon=True)
    consumer.start()
    try:
        yield items
    finally:
        items.put(None)
        consumer.join(timeout=30)
        items.shutdown(force=True)


def _consume_until_none(items: Queue, handle: Callable[[Any], None]) -> None:
    while (item := items.get()) is not None:
        handle(item)
