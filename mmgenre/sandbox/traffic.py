"""What the server remembers of its clients: what each key may ask for, and counts that tests and benchmarks want."""

import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class RateLimit:
    """A token bucket for each key, which holds one second's requests; None lets everything through."""

    def __init__(self, requests_per_second: float | None):
        self._rate = requests_per_second
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, key: str) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
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
    """How many requests of a key are answered, ever; None is without end."""

    def __init__(self, requests: int | None):
        self._requests = requests
        self._used: Counter[str] = Counter()

    def is_used_up(self, key: str) -> bool:
        """Whether the key was answered as often as it may be."""
        return self._requests is not None and self._used[key] >= self._requests

    def use(self, key: str) -> None:
        """Count an answer."""
        self._used[key] += 1


class Traffic:
    """Counts since the start; used by one thread."""

    def __init__(self) -> None:
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        self.image_faults: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.keys_at_image_host = 0
        self._arrivals: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._under_way: Counter[str] = Counter()
        self._under_way_peak: Counter[str] = Counter()

    @contextmanager
    def request(self, endpoint: str) -> Iterator[None]:
        """Count a request, whatever will become of it, and know how long it is under way."""
        self._arrivals[endpoint].append(time.monotonic())
        self._under_way[endpoint] += 1
        self._under_way_peak[endpoint] = max(self._under_way_peak[endpoint], self._under_way[endpoint])
        try:
            yield
        finally:
            self._under_way[endpoint] -= 1

    def attempt(self, endpoint: str, name: str) -> int:
        """Count an attempt to get a named thing that was not refused; returns how many there were."""
        self.attempts[endpoint, name] += 1
        return self.attempts[endpoint, name]

    def stats(self) -> dict[str, Any]:
        """All counts as JSON values, by endpoint where they are dicts of one.

        Moments are those of `time.monotonic`; seconds of `requests_per_second` count from that of the first request.
        """
        finds = self._asked("find")
        return {
            "requests": {endpoint: len(arrivals) for endpoint, arrivals in self._arrivals.items()},
            "first_arrival": {endpoint: arrivals[0] for endpoint, arrivals in self._arrivals.items()},
            "last_arrival": {endpoint: arrivals[-1] for endpoint, arrivals in self._arrivals.items()},
            "busiest_second": {endpoint: busiest_second(arrivals) for endpoint, arrivals in self._arrivals.items()},
            "open_connections_peak": dict(self._under_way_peak),
            "max_asked_per_id": {endpoint: max(self._asked(endpoint), default=0) for endpoint in self._arrivals},
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

    def _asked(self, endpoint: str) -> list[int]:
        """How often each thing of an endpoint was asked for, where things have names."""
        return [count for (asked, name), count in self.attempts.items() if asked == endpoint and name]

    def _by_second(self) -> dict[str, int]:
        seconds = Counter(int(arrival) for arrivals in self._arrivals.values() for arrival in arrivals)
        first = min(seconds, default=0)
        return {str(second - first): count for second, count in sorted(seconds.items())}


def busiest_second(arrivals: "array[float]") -> int:
    """The most of these ascending moments, in seconds, that lie less than a second from the first of them."""
    moments = np.array(arrivals)
    return int((np.searchsorted(moments, moments + 1) - np.arange(len(moments))).max(initial=0))
