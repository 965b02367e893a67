"""One rate limit per host for a whole cluster: an actor assigns send times to the requests of all processes and jobs.

In any one second, a host receives at most 25 % more requests than the limit: late requests and network delays combined.
"""

import asyncio
import random
import time
from importlib.metadata import version
from typing import Any

import ray

# A request may be sent this long after its turn; a later one takes a new turn. Processes that stall for a moment thus
# keep up with the limit, and processes that stall for longer do not catch up in a burst.
MAX_DELAY_S = 0.15
# Seconds of turns per call to the actor. Longer leases mean fewer calls; shorter ones make a pause take effect sooner.
_LEASE_S = 0.2
# A 429 halves the rate, which then recovers by this share of the limit per second.
_RECOVERY_PER_S = 1 / 60
_MIN_SHARE = 1 / 20
_MAX_PAUSE_S = 60


class TokenBucket:
    """Spaces requests evenly, and slows down after a 429.

    Source: the virtual scheduling form of the generic cell rate algorithm, ITU-T I.371; additive increase and
    multiplicative decrease, Chiu and Jain 1989.
    """

    def __init__(self) -> None:
        self._next_turn = 0.0
        self._share, self._share_at = 1.0, 0.0
        self._throttled_in_a_row = 0
        self._paused_until = 0.0

    def lease(self, num_requests: int, requests_per_second: float, now: float) -> tuple[float, float]:
        """Reserve turns for requests; returns seconds until the first one and the interval between them.

        The first number is negative if turns were left unused in the last moments, so that they can be made up for.
        """
        interval = 1 / (requests_per_second * self.share(now))
        start = max(self._next_turn, now - MAX_DELAY_S / 2)
        self._next_turn = start + num_requests * interval
        return start - now, interval

    def back_off(self, retry_after: float | None, now: float, jitter: float) -> None:
        """Pause and slow down after a 429; without a Retry-After, consecutive pauses grow exponentially.

        Args:
            retry_after: seconds, from the header; None if there was none.
            now: seconds on any clock.
            jitter: 0.5 to 1, multiplies pauses that the server did not specify.
        """
        if now < self._paused_until:
            # These requests were in flight when the pause began: one event, not many.
            self._pause_until(now + (retry_after or 0))
            return
        self._throttled_in_a_row = self._throttled_in_a_row + 1 if now < self._paused_until + _MAX_PAUSE_S else 1
        backoff = jitter * min(_MAX_PAUSE_S, 2.0**self._throttled_in_a_row)
        self._share = max(_MIN_SHARE, self.share(now) / 2)
        self._pause_until(now + (backoff if retry_after is None else retry_after))
        self._share_at = self._paused_until

    def share(self, now: float) -> float:
        """Share of the limit in use, 0 to 1."""
        return min(1.0, self._share + max(0.0, now - self._share_at) * _RECOVERY_PER_S)

    def _pause_until(self, until: float) -> None:
        self._paused_until = max(self._paused_until, until)
        self._next_turn = max(self._next_turn, self._paused_until)


class RateLimiter:
    """An actor with one bucket per host, on the clock of the machine it runs on."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        # The previous instance may have leased turns that are still to come.
        self._is_restarted = ray.get_runtime_context().was_current_actor_reconstructed

    def lease(self, host: str, num_requests: int, requests_per_second: float) -> tuple[float, float]:
        """Seconds until the first of several requests to a host, and the interval between them."""
        return self._bucket(host).lease(num_requests, requests_per_second, time.monotonic())

    def back_off(self, host: str, retry_after: float | None) -> None:
        """Hold back all requests to a host that have no turn yet."""
        jitter = random.uniform(0.5, 1)  # noqa: S311 - not a secret
        self._bucket(host).back_off(retry_after, time.monotonic(), jitter)

    def _bucket(self, host: str) -> TokenBucket:
        if host not in self._buckets:
            self._buckets[host] = TokenBucket()
            if self._is_restarted:
                self._buckets[host].lease(1, 1.0, time.monotonic())
        return self._buckets[host]


def get_rate_limiter() -> Any:
    """The cluster's rate limiter actor, started if necessary; it is detached because other jobs use it too."""
    options = {
        "name": "limiter",
        # Jobs have separate namespaces; this one is shared by all jobs that run the same version.
        "namespace": f"mmgenre-{version('mmgenre')}-rate-limits",
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    return ray.remote(RateLimiter).options(**options).remote()


class ClusterPacer:
    """A process's share of the cluster-wide limit: leases as many turns as it can use in time.

    Args:
        limiter: the RateLimiter actor.
        host: receives the requests.
        requests_per_second: limit for all processes together.
    """

    def __init__(self, limiter: Any, host: str, requests_per_second: float):
        self._limiter = limiter
        self._host = host
        self._rate = requests_per_second
        self._max_turns = max(1, round(requests_per_second * _LEASE_S))
        self._turns: list[float] = []
        self._leased_at, self._used = 0.0, 0
        self._waiting = 0
        self._num_pauses = 0
        self._lock = asyncio.Lock()

    async def wait(self) -> None:
        """Wait for this request's turn."""
        self._waiting += 1
        try:
            while not await self._take_turn():
                pass
        finally:
            self._waiting -= 1

    async def pause(self, seconds: float | None) -> None:
        """Return the leased turns and hold back the requests of all processes."""
        self._turns = []
        self._num_pauses += 1
        await self._limiter.back_off.remote(self._host, seconds)

    async def _take_turn(self) -> bool:
        """Wait for the next turn; False if it was missed, or a pause began meanwhile."""
        # One request at a time, so that the process never holds more turns than one lease.
        async with self._lock:
            if not self._turns:
                self._turns = await self._lease()
            turn, num_pauses = self._turns.pop(0), self._num_pauses
            self._used += 1
            await asyncio.sleep(turn - time.monotonic())
            return num_pauses == self._num_pauses and time.monotonic() - turn < MAX_DELAY_S

    async def _lease(self) -> list[float]:
        """Times of the next turns, on this machine's clock."""
        now = time.monotonic()
        # Anticipate requests that arrive one by one: an actor call for each would cost more than the request.
        expected = self._used / max(MAX_DELAY_S, now - self._leased_at) * MAX_DELAY_S
        self._leased_at, self._used = now, 0
        num_turns = min(max(self._waiting, round(expected)), self._max_turns)
        delay, interval = await self._limiter.lease.remote(self._host, num_turns, self._rate)
        first = time.monotonic() + delay
        return [first + index * interval for index in range(num_turns)]
