"""One line of progress now and then, for jobs that run for hours."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from ray.util.queue import Queue

from mmgenre import ray_session as cluster


class Progress:
    """Counts finished rows and says how it goes.

    Args:
        job: name at the head of each line.
        total: rows there will be.
        limit: requests per second that are allowed, for jobs that have a limit.
        every_s: seconds between two lines.
    """

    def __init__(self, job: str, total: int, limit: float | None = None, every_s: float = 10):
        self._job, self._total, self._limit, self._every_s = job, total, limit, every_s
        self._statuses: Counter[str] = Counter()
        self._num_requests = 0
        self._began = self._said = time.monotonic()

    def add(self, statuses: Mapping[str, int], num_requests: int = 0) -> None:
        """Rows that are written, by status, and the requests they took; prints a line when it is time for one."""
        self._statuses.update(statuses)
        self._num_requests += num_requests
        now = time.monotonic()
        if now - self._said >= self._every_s:
            print(self._line(now), flush=True)  # noqa: T201 - this is what the class is for
            self._said = now

    def _line(self, now: float) -> str:
        done, seconds = self._statuses.total(), now - self._began
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(self._statuses.items()))
        rate = f"{done / seconds:,.1f} rows/s"
        if self._limit is not None:
            rate = f"{self._num_requests / seconds:,.1f} of {self._limit:,g} requests/s"
        left = f", {duration((self._total - done) * seconds / done)} to go" if done else ""
        return f"{self._job}: {done:,}/{self._total:,} rows ({statuses}), {rate}{left}"


def duration(seconds: float) -> str:
    """A time for people, such as 42 s, 7 min or 4 h 51 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:,.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def printed_lines() -> Iterator[Queue]:
    """A queue that other processes put lines into, printed here as they come; needs a Ray session."""
    lines = cluster.queue()
    printer = threading.Thread(target=_print_until_none, args=(lines,), daemon=True)
    printer.start()
    try:
        yield lines
    finally:
        lines.put(None)
        printer.join(timeout=5)
        lines.shutdown(force=True)


def _print_until_none(lines: Queue) -> None:
    while (line := lines.get()) is not None:
        print(line, flush=True)  # noqa: T201 - this is what the function is for
