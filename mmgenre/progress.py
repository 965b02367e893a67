"""One line of progress now and then, for jobs that run for hours."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from ray.util.queue import Queue


class Progress:
    """Counts finished rows and says how it goes.

    Args:
        job: name at the head of each line.
        total: rows there will be.
        every_s: seconds between two lines.
    """

    def __init__(self, job: str, total: int, every_s: float = 10):
        self._job, self._total, self._every_s = job, total, every_s
        self._statuses: Counter[str] = Counter()
        self._began = self._said = time.monotonic()

    def add(self, statuses: Mapping[str, int]) -> None:
        """Rows that are written, by status; prints a line when it is time for one."""
        self._statuses.update(statuses)
        now = time.monotonic()
        if now - self._said >= self._every_s:
            self._said = now
            print(self._line(now), flush=True)  # noqa: T201 - this is what the class is for

    def _line(self, now: float) -> str:
        done = self._statuses.total()
        rate = done / (now - self._began)
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(self._statuses.items()))
        left = f", {(self._total - done) / rate:,.0f} s to go" if done else ""
        return f"{self._job}: {done:,}/{self._total:,} rows ({statuses}), {rate:,.1f} rows/s{left}"


@contextlib.contextmanager
def printed_lines() -> Iterator[Queue]:
    """A queue that other processes put lines into, printed here as they come; needs a Ray session."""
    lines = Queue(actor_options={"num_cpus": 0})
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
