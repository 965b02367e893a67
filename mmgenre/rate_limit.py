"""One rate limit for a whole cluster: an actor that tells everybody when the next requests may go out."""

import asyncio
import time

import ray


class TokenBucket:
    """Spaces requests evenly (the virtual scheduling form of the generic cell rate algorithm, ITU-T I.371).

    Args:
        requests_per_second: the rate that is not exceeded.
    """

    def __init__(self, requests_per_second: float):
        self.interval = 1 / requests_per_second
        self._next = 0.0

    def lease(self, num_requests: int, now: float) -> float:
        """Seconds to wait until the first of several requests; the others follow it an interval apart."""
        start = max(self._next, now)
        self._next = start + num_requests * self.interval
        return start - now

    def pause(self, seconds: float, now: float) -> None:
        """No requests for a while: the server asked for it."""
        self._next = max(self._next, now + seconds)


class RateLimiter:
    """The bucket as an actor, by the clock of the machine it runs on."""

    def __init__(self, requests_per_second: float):
        self._bucket = TokenBucket(requests_per_second)

    def lease(self, num_requests: int) -> tuple[float, float]:
        """Seconds until the first of several requests, and from each to the next."""
        return self._bucket.lease(num_requests, time.monotonic()), self._bucket.interval

    def pause(self, seconds: float) -> None:
        """Hold back all requests that have no leave yet."""
        self._bucket.pause(seconds, time.monotonic())


def rate_limiter(name: str, requests_per_second: float) -> ray.actor.ActorHandle:
    """The cluster's limiter of that name, started if there is none yet."""
    options = {"name": f"mmgenre-rate-{name}", "get_if_exists": True, "num_cpus": 0}
    return ray.remote(RateLimiter).options(**options).remote(requests_per_second)


class ClusterPace:
    """One process's view of the limiter: asks leave for several requests at a time.

    Args:
        limiter: the actor.
        lease_size: requests asked for at once.
    """

    def __init__(self, limiter: ray.actor.ActorHandle, lease_size: int):
        self._limiter = limiter
        self._lease_size = lease_size
        self._turns: list[float] = []
        self._asking = asyncio.Lock()

    async def wait(self) -> None:
        """Return when it is this request's turn."""
        async with self._asking:
            if not self._turns:
                delay, interval = await self._limiter.lease.remote(self._lease_size)
                first = time.monotonic() + delay
                self._turns = [first + index * interval for index in range(self._lease_size)]
            turn = self._turns.pop(0)
        await asyncio.sleep(turn - time.monotonic())

    async def pause(self, seconds: float) -> None:
        """The server wants quiet: give up the turns in hand and hold back everybody's."""
        self._turns = []
        await self._limiter.pause.remote(seconds)


class Unhurried:
    """The pace of a single request."""

    async def wait(self) -> None:
        """At once."""

    async def pause(self, seconds: float) -> None:
        """As long as asked."""
        await asyncio.sleep(seconds)
