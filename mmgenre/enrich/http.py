"""GET over HTTP for stages that fetch: bounded retries, at a pace that others set, redirects never followed blindly."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import Field
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential_jitter
from yarl import URL

from mmgenre.config import Config

T = TypeVar("T")

# So many things in a row that cannot be had are no accident: the service is down.
_MOST_FAILURES = 200


class HttpConfig(Config):
    """Patience with a web service."""

    timeout_s: float = Field(20, gt=0, description="seconds for one request, answer included")
    attempts: int = Field(5, ge=1, description="requests for one thing before it counts as unreachable")
    max_wait_s: float = Field(30, gt=0, description="longest pause between two attempts, in seconds")
    max_pause_s: float = Field(900, gt=0, description="a service that answers 429 for longer than this stops the job")
    in_flight: int = Field(100, ge=1, description="requests of one actor under way at once, at each service")


class Pace(Protocol):
    """Says when the next request may go out."""

    async def wait(self) -> None:
        """Return when it is this request's turn."""

    async def pause(self, seconds: float | None) -> None:
        """The server wants quiet, for so many seconds or for it does not say how long: hold back everybody."""


class Unhurried:
    """The pace of a single request."""

    async def wait(self) -> None:
        """At once."""

    async def pause(self, seconds: float | None) -> None:
        """As long as asked."""
        await asyncio.sleep(1 if seconds is None else seconds)


@dataclass(frozen=True)
class Request:
    """One GET."""

    url: str
    params: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class TryAgain(Exception):  # noqa: N818 - not an error yet: another attempt may do
    """An attempt failed that may succeed later; the text says why, without address or key."""


class TooLong(Exception):  # noqa: N818 - the answer's fault, and for the caller to judge
    """An answer has more bytes than the caller takes."""


class Stopped(Exception):  # noqa: N818 - how a job ends that can go on another day
    """No request will succeed for now: a refused key, a used-up quota; the text tells a person what to do."""


class Web:
    """The connections of one process to one service.

    Args:
        pace: when to ask.
        config: how often and how long.
        resolver: turns names into addresses; aiohttp's own by default.
    """

    def __init__(self, pace: Pace, config: HttpConfig, resolver: AbstractResolver | None = None):
        self.num_requests = 0
        self._pace = pace
        self._config = config
        self._resolver = resolver
        self._slots = asyncio.Semaphore(config.in_flight)
        self._refused_since: float | None = None
        self._session: aiohttp.ClientSession | None = None

    async def get(self, request: Request, read: Callable[[aiohttp.ClientResponse], Awaitable[T]]) -> T:
        """Ask once, and read the answer, which may be of any status but 429: that one is waited out.

        Raises:
            TryAgain: there was no answer, or not all of it.
            Stopped: the server wants to be left alone for longer than one waits.
        """
        while True:
            async with self._slots:
                await self._pace.wait()
                self.num_requests += 1
                try:
                    async with self._open().get(
                        request.url, params=request.params, headers=request.headers, allow_redirects=False
                    ) as response:
                        if response.status != 429:
                            self._refused_since = None
                            return await read(response)
                        wanted = retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
                except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
                    # Only the kind of error: its text may hold the address, and the address the key.
                    raise TryAgain(type(error).__name__) from error
            await self._pause(request, wanted)

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        # Made by the first request, because it belongs to the event loop that is running then.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._config.in_flight, resolver=self._resolver),
                timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                # What is not asked for cannot unfold into more than was counted.
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
            )
            # aiohttp sends a GET again when the connection broke: past the rate limit, and without being counted.
            self._session._retry_connection = False
        return self._session

    async def _pause(self, request: Request, seconds: float | None) -> None:
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        quiet = now - self._refused_since + (seconds or 0)
        if quiet > self._config.max_pause_s:
            host = URL(request.url).host_port_subcomponent
            raise Stopped(
                f"{host}: answers 429 and wants no request for {min(quiet, 1e9):,.0f} s "
                f"(http.max_pause_s={self._config.max_pause_s:g}); go on later"
            )
        await self._pace.pause(seconds)


class Breaker:
    """Ends a job whose service is down, instead of failing everything it has left.

    Args:
        name: of the service.
    """

    def __init__(self, name: str):
        self._name = name
        self._failures = 0

    def succeeded(self) -> None:
        """The service gave an answer."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        """One more thing could not be had.

        Raises:
            Stopped: too many in a row.
        """
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            raise Stopped(f"{self._name}: {self._failures} requests in a row failed ({reason}); go on later")


async def patiently(config: HttpConfig, attempt: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """What an attempt with these arguments returns, made again with growing pauses while it raises TryAgain.

    Raises:
        TryAgain: the last of the allowed attempts failed too.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(TryAgain),
        stop=stop_after_attempt(config.attempts),
        wait=wait_exponential_jitter(initial=0.2, max=config.max_wait_s),
        reraise=True,
    )
    return await retrying(attempt, *arguments)


async def body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        TooLong: it has more bytes than that, or says so.
    """
    if (response.content_length or 0) > max_bytes:
        raise TooLong
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > max_bytes:
            raise TooLong
    return bytes(content)


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, whether it says seconds or a date; None when it says neither."""
    try:
        seconds = float(header or "")
    except ValueError:
        seconds = _seconds_until(header or "", now)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str, now: datetime) -> float:
    try:
        return (parsedate_to_datetime(date) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return math.nan
