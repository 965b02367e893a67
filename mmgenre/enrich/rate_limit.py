"""One rate limit for a whole cluster: an actor that tells every process of every job when its requests may go out.

No second holds more requests than the limit and a BURST of it.
"""

import asyncio
import random
import time
from importlib.metadata import version
from typing import Any

import ray

# A request may go out this much after its turn; one that would be later takes another turn. So processes that are
# held up for a moment do not fall behind the limit, and those held up longer do not catch up in a rush.
LATE_S = 0.15
# Of the limit: what may come on top of it in one second, late turns and what the network delays together.
BURST = 0.25
# What one call to the actor brings: fewer calls, or turns that are given back sooner after a pause.
_LEASE_S = 0.2
# After a 429 the rate is halved, and grows back by this share of the limit each second.
_RECOVERY_PER_S = 1 / 60
_LOWEST_SHARE = 1 / 20
_LONGEST_PAUSE_S = 60


class TokenBucket:
    """Spaces requests evenly, and slows down when the server has had too many.

    Source: the virtual scheduling form of the generic cell rate algorithm, ITU-T I.371; additive increase and
    multiplicative decrease, Chiu and Jain 1989.
    """

    def __init__(self) -> None:
        self._next = 0.0
        self._share, self._since = 1.0, 0.0
        self._refusals = 0
        self._quiet_until = 0.0

    def lease(self, num_requests: int, requests_per_second: float, now: float) -> tuple[float, float]:
        """Seconds to wait until the first of several requests, and from each to the next.

        The first number is negative where turns that nobody took in the last moments are made up for.
        """
        interval = 1 / (requests_per_second * self.share(now))
        start = max(self._next, now - LATE_S / 2)
        self._next = start + num_requests * interval
        return start - now, interval

    def refused(self, seconds: float | None, now: float, jitter: float) -> None:
        """The server answered 429: nothing goes out for so many seconds, or for a growing time where it gives none.

        Args:
            seconds: of the Retry-After header.
            now: seconds on any clock.
            jitter: from 0.5 to 1, by which a pause of our own choice is multiplied.
        """
        if now < self._quiet_until:
            # Requests that were under way when the pause began: one event, not many.
            self._hold_until(now + (seconds or 0))
            return
        self._refusals = self._refusals + 1 if now < self._quiet_until + _LONGEST_PAUSE_S else 1
        own = jitter * min(_LONGEST_PAUSE_S, 2.0**self._refusals)
        self._share = max(_LOWEST_SHARE, self.share(now) / 2)
        self._hold_until(now + (own if seconds is None else seconds))
        self._since = self._quiet_until

    def share(self, now: float) -> float:
        """What of the limit is used at present."""
        return min(1.0, self._share + max(0.0, now - self._since) * _RECOVERY_PER_S)

    def _hold_until(self, until: float) -> None:
        self._quiet_until = max(self._quiet_until, until)
        self._next = max(self._next, self._quiet_until)


class RateLimiter:
    """The buckets of all hosts as one actor, by the clock of the machine it runs on."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        # The one before may have given turns away that are still to come.
        self._follows_another = ray.get_runtime_context().was_current_actor_reconstructed

    def lease(self, host: str, num_requests: int, requests_per_second: float) -> tuple[float, float]:
        """Seconds until the first of several requests to a host, and from each to the next."""
        return self._bucket(host).lease(num_requests, requests_per_second, time.monotonic())

    def refused(self, host: str, seconds: float | None) -> None:
        """Hold back all requests to a host that have no leave yet."""
        jitter = random.uniform(0.5, 1)  # noqa: S311 - not a secret
        self._bucket(host).refused(seconds, time.monotonic(), jitter)

    def _bucket(self, host: str) -> TokenBucket:
        if host not in self._buckets:
            self._buckets[host] = TokenBucket()
            if self._follows_another:
                self._buckets[host].lease(1, 1.0, time.monotonic())
        return self._buckets[host]


def rate_limiter() -> Any:
    """The cluster's limiter, started if there is none yet; it outlives the job, for others use it too."""
    options = {
        "name": "limiter",
        # Jobs have namespaces of their own, this one is for all of them that run the same code.
        "namespace": f"mmgenre-{version('mmgenre')}-rates",
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    return ray.remote(RateLimiter).options(**options).remote()


class ClusterPace:
    """One process's view of the limiter: takes several turns at a time, as many as it can use before they are too late.

    Args:
        limiter: the actor.
        host: whose requests these are.
        requests_per_second: of all processes together.
    """

    def __init__(self, limiter: Any, host: str, requests_per_second: float):
        self._limiter = limiter
        self._host = host
        self._rate = requests_per_second
        self._most = max(1, round(requests_per_second * _LEASE_S))
        self._turns: list[float] = []
        self._leased_at, self._used = 0.0, 0
        self._waiting = 0
        self._pauses = 0
        self._in_order = asyncio.Lock()

    async def wait(self) -> None:
        """Return when it is this request's turn."""
        self._waiting += 1
        try:
            while not await self._take_turn():
                pass
        finally:
            self._waiting -= 1

    async def pause(self, seconds: float | None) -> None:
        """The server wants quiet: give up the turns in hand and hold back everybody's."""
        self._turns = []
        self._pauses += 1
        await self._limiter.refused.remote(self._host, seconds)

    async def _take_turn(self) -> bool:
        """Wait for the next turn; False where it came too late, or a pause between."""
        # One after the other, so that never more turns are in hand than one lease has.
        async with self._in_order:
            if not self._turns:
                self._turns = await self._lease()
            turn, pauses = self._turns.pop(0), self._pauses
            self._used += 1
            await asyncio.sleep(turn - time.monotonic())
            return pauses == self._pauses and time.monotonic() - turn < LATE_S

    async def _lease(self) -> list[float]:
        """Times of the next turns, by this machine's clock."""
        now = time.monotonic()
        # Where each request comes alone, a call for each would cost more than the request.
        soon = self._used / max(LATE_S, now - self._leased_at) * LATE_S
        self._leased_at, self._used = now, 0
        num_turns = min(max(self._waiting, round(soon)), self._most)
        delay, interval = await self._limiter.lease.remote(self._host, num_turns, self._rate)
        first = time.monotonic() + delay
        return [first + index * interval for index in range(num_turns)]
