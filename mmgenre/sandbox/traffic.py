"""What the server remembers of its clients: the pace of each key, and counts that tests and benchmarks ask for."""

import time
from collections import Counter
from typing import Any


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


class Traffic:
    """Counts since the start; used by one thread."""

    def __init__(self) -> None:
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.keys_at_image_host = 0
        self._requests: Counter[str] = Counter()
        self._by_second: Counter[int] = Counter()

    def arrive(self, endpoint: str) -> None:
        """Count a request, whatever will become of it."""
        self._requests[endpoint] += 1
        self._by_second[int(time.monotonic())] += 1

    def attempt(self, endpoint: str, name: str) -> int:
        """Count an attempt to get a named thing that was not refused; returns how many there were."""
        self.attempts[endpoint, name] += 1
        return self.attempts[endpoint, name]

    def stats(self) -> dict[str, Any]:
        """All counts as JSON values; seconds of `requests_per_second` count from the first request."""
        first = min(self._by_second, default=0)
        finds = [count for (endpoint, _), count in self.attempts.items() if endpoint == "find"]
        return {
            "requests": dict(self._requests),
            "ids_asked": len(finds),
            "max_finds_per_id": max(finds, default=0),
            "rate_limited": self.refused["rate"],
            "unauthorized": self.refused["key"],
            "faults": dict(self.faults),
            "keys_at_image_host": self.keys_at_image_host,
            "requests_per_second": {str(second - first): count for second, count in sorted(self._by_second.items())},
        }
