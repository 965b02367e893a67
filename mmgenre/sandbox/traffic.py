"""The server's limits per key, and the statistics that tests and benchmarks read."""

import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class RateLimit:
    """A token bucket per key with a capacity of one second of requests; None means no limit."""

    def __init__(self, requests_per_second: float | None):
        self._rate = requests_per_second
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, key: str) -> float:
        """Take a token and return 0, or return the seconds until one is available."""
        if self._rate is None:
            return 0
        capacity, now = max(1.0, self._rate), time.monotonic()
        tokens, since = self._buckets.get(key, (capacity, now))
        tokens = min(capacity, tokens + (now - since) * self._rate)
        if tokens < 1:
            self._buckets[key] = tokens, now
            return (1 - tokens) / self._rate
        self._buckets[key] = tokens - 1, now
        return 0


class Quota:
    """The number of requests per key that are answered in all; None means no limit."""

    def __init__(self, requests: int | None):
        self._requests = requests
        self._used: Counter[str] = Counter()

    def is_used_up(self, key: str) -> bool:
        """Whether the key has used its quota."""
        return self._requests is not None and self._used[key] >= self._requests

    def use(self, key: str) -> None:
        """Count an answered request."""
        self._used[key] += 1


class Traffic:
    """Request counts since the start of the server; not thread-safe."""

    def __init__(self) -> None:
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        self.image_faults: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.keys_at_image_host = 0
        self._arrivals: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._in_flight: Counter[str] = Counter()
        self._in_flight_peak: Counter[str] = Counter()

    @contextmanager
    def request(self, endpoint: str) -> Iterator[None]:
        """Count a request, whatever its outcome, and track it while it is in flight."""
        self._arrivals[endpoint].append(time.monotonic())
        self._in_flight[endpoint] += 1
        self._in_flight_peak[endpoint] = max(self._in_flight_peak[endpoint], self._in_flight[endpoint])
        try:
            yield
        finally:
            self._in_flight[endpoint] -= 1

    def attempt(self, endpoint: str, name: str) -> int:
        """Count an attempt to get an item, unless it was refused; returns the number of attempts so far."""
        self.attempts[endpoint, name] += 1
        return self.attempts[endpoint, name]

    def stats(self) -> dict[str, Any]:
        """All counts as JSON values; dicts have endpoints as keys.

        Times are those of `time.monotonic`; the keys of `requests_per_second` are seconds since the first request.
        """
        finds = self._attempts("find")
        return {
            "requests": {endpoint: len(arrivals) for endpoint, arrivals in self._arrivals.items()},
            "first_arrival": {endpoint: arrivals[0] for endpoint, arrivals in self._arrivals.items()},
            "last_arrival": {endpoint: arrivals[-1] for endpoint, arrivals in self._arrivals.items()},
            "busiest_second": {endpoint: busiest_second(arrivals) for endpoint, arrivals in self._arrivals.items()},
            "open_connections_peak": dict(self._in_flight_peak),
            "max_asked_per_id": {endpoint: max(self._attempts(endpoint), default=0) for endpoint in self._arrivals},
            "ids_asked": len(finds),
            "max_finds_per_id": max(finds, default=0),
            "repeat_asks": sum(finds) - len(finds),
            "rate_limited": self.refused["rate"],
            "unauthorized": self.refused["key"],
            "faults": dict(self.faults),
            "image_faults": dict(self.image_faults),
            "keys_at_image_host": self.keys_at_image_host,
            "requests_per_second": self._by_second(),
        }

    def _attempts(self, endpoint: str) -> list[int]:
        """Number of attempts for each named item of an endpoint."""
        return [count for (of_endpoint, name), count in self.attempts.items() if of_endpoint == endpoint and name]

    def _by_second(self) -> dict[str, int]:
        seconds = Counter(int(arrival) for arrivals in self._arrivals.values() for arrival in arrivals)
        first = min(seconds, default=0)
        return {str(second - first): count for second, count in sorted(seconds.items())}


def busiest_second(arrivals: "array[float]") -> int:
    """The highest number of arrivals within any period of one second; times ascend, in seconds."""
    times = np.array(arrivals)
    return int((np.searchsorted(times, times + 1) - np.arange(len(times))).max(initial=0))
