"""An HTTP client for stages that fetch: rate-limited, with bounded retries, and it never follows redirects."""

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
from tenacity import AsyncRetrying, retry_if_exception_type, retry_if_not_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential_jitter
from yarl import URL

from mmgenre.config import Config
from mmgenre.enrich.hosts import PrivateAddress
from mmgenre.enrich.proxies import proxy_for

T = TypeVar("T")

# Consecutive failures after which a service counts as down, and seconds until an item is then tried again.
_MAX_FAILURES, _OUTAGE_WAIT_S = 200, 10.0
# A request that is refused with 429 so often, although others are served meanwhile, is given up.
_MAX_REFUSALS = 20


class HttpConfig(Config):
    """Timeouts, retries and concurrency of requests to a web service."""

    timeout_s: float = Field(20, gt=0, description="seconds per request, response body included")
    attempts: int = Field(5, ge=1, description="attempts per item before it counts as unreachable")
    max_wait_s: float = Field(30, gt=0, description="longest wait between two attempts, in seconds")
    max_pause_s: float = Field(900, gt=0, description="stop the job when a service answers 429 for longer, in seconds")
    max_outage_s: float = Field(900, ge=0, description="stop the job when a service is down for longer, in seconds")
    in_flight: int = Field(100, ge=1, description="concurrent requests per actor and service")


class Pacer(Protocol):
    """Decides when the next request may be sent."""

    async def wait(self) -> None:
        """Wait for this request's turn."""

    async def pause(self, seconds: float | None) -> None:
        """Hold back all requests after a 429; `seconds` is the Retry-After, None if the server gave none."""


class Unpaced:
    """The pacer of a single request: no rate limit."""

    async def wait(self) -> None:
        """Return at once."""

    async def pause(self, seconds: float | None) -> None:
        """Sleep for the Retry-After, or for a second."""
        await asyncio.sleep(1 if seconds is None else seconds)


@dataclass(frozen=True)
class Request:
    """A GET request."""

    url: str | URL
    params: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class RetryableError(Exception):
    """An attempt failed that may succeed later; the text says why and contains neither URL nor key."""


class ResponseTooLarge(RetryableError):  # noqa: N818 - named like the row status it leads to
    """A response body is longer than the caller accepts."""


class Refused(RetryableError):  # noqa: N818 - see above
    """The server answers this one request with 429 again and again; it counts as its last attempt."""


class ServiceUnavailable(Exception):  # noqa: N818 - the job stops here and can resume later
    """No request to the service can succeed for now: key refused, quota used up, service down.

    The text tells the user what to do.
    """


class QuotaUsedUp(ServiceUnavailable):
    """The service serves no more titles today; another service can go on."""


class ServiceDown(ServiceUnavailable):
    """The service has not responded for a long time; another service can go on."""


class HttpClient:
    """Connections of one process to one service.

    Args:
        pacer: decides when to send each request.
        config: timeouts and concurrency.
        resolver: resolves host names; default: aiohttp's own.
    """

    def __init__(self, pacer: Pacer, config: HttpConfig, resolver: AbstractResolver | None = None):
        self.num_requests = 0
        self._pacer = pacer
        self._config = config
        self._resolver = resolver
        self._slots = asyncio.Semaphore(config.in_flight)
        self._throttled_since: float | None = None
        self._num_served = 0
        self._session: aiohttp.ClientSession | None = None

    async def get(self, request: Request, read: Callable[[aiohttp.ClientResponse], Awaitable[T]]) -> T:
        """Send a request once and return `read(response)`.

        `read` receives responses of every status but 429; after a 429 the client pauses and sends the request again.

        Raises:
            RetryableError: no response, an incomplete one, or 429 for this request alone.
            PrivateAddress: the resolver refused the host's addresses.
            ServiceUnavailable: the server has answered 429 for too long.
        """
        proxy, refusals = proxy_for(URL(request.url)), 0
        while True:
            async with self._slots:
                await self._pacer.wait()
                self.num_requests += 1
                num_served = self._num_served
                try:
                    async with self._open_session(proxy).get(
                        request.url, params=request.params, headers=request.headers, allow_redirects=False, proxy=proxy
                    ) as response:
                        if response.status != 429:
                            self._throttled_since = None
                            self._num_served += 1
                            return await read(response)
                        retry_after = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
                except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
                    if isinstance(cause := getattr(error, "os_error", None), PrivateAddress):
                        raise cause from None
                    # Only the error's type: its text may contain the URL, and the URL the key.
                    raise RetryableError(type(error).__name__) from error
            await self._pause(request, retry_after)
            # A limit that holds for all requests is waited for instead.
            refusals += self._num_served > num_served
            if refusals == _MAX_REFUSALS:
                raise Refused("HTTP 429")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self, proxy: URL | None) -> aiohttp.ClientSession:
        # Created by the first request, because a session belongs to the running event loop.
        if self._session is None:
            # Behind a proxy, only the proxy's own name is resolved here, and its address is private.
            resolver = self._resolver if proxy is None else None
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._config.in_flight, resolver=resolver),
                timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                # A compressed body can expand far beyond the bytes that were counted: see body.py.
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
            )
            # aiohttp resends a GET when a connection breaks: past the rate limiter, and uncounted.
            self._session._retry_connection = False
        return self._session

    async def _pause(self, request: Request, retry_after: float | None) -> None:
        now = time.monotonic()
        self._throttled_since = self._throttled_since or now
        pause = now - self._throttled_since + (retry_after or 0)
        if pause > self._config.max_pause_s:
            host = URL(request.url).host_port_subcomponent
            raise ServiceUnavailable(
                f"{host}: answers 429 and asks to wait {min(pause, 1e9):,.0f} s, longer than "
                f"http.max_pause_s={self._config.max_pause_s:g}; resume later"
            )
        await self._pacer.pause(retry_after)


class CircuitBreaker:
    """Waits while a service is down, and stops the job in the end, instead of failing every remaining item.

    Args:
        service: name for the error message.
        max_outage_s: seconds to wait for the service.
    """

    def __init__(self, service: str, max_outage_s: float):
        self._service, self._max_outage_s = service, max_outage_s
        self._failures, self._since = 0, 0.0

    def record_success(self) -> None:
        """The service responded."""
        self._failures = 0

    async def may_retry(self, reason: str) -> bool:
        """Count an item that failed on its last attempt; True, after a wait, if it was the service and not the item.

        Raises:
            ServiceDown: the service has been down for too long.
        """
        now = time.monotonic()
        self._since = self._since if self._failures else now
        self._failures += 1
        if self._failures < _MAX_FAILURES:
            return False
        if now - self._since >= self._max_outage_s:
            raise ServiceDown(
                f"{self._service}: {self._failures} consecutive requests failed in {now - self._since:,.0f} s "
                f"({reason}); resume later"
            )
        await asyncio.sleep(min(_OUTAGE_WAIT_S, self._max_outage_s))
        return True


async def with_retries(config: HttpConfig, attempt: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Call `attempt(*arguments)` until it does not raise RetryableError, with exponential backoff and jitter.

    Raises:
        RetryableError: the last of `config.attempts` failed too.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(RetryableError) & retry_if_not_exception_type(Refused),
        stop=stop_after_attempt(config.attempts),
        wait=wait_exponential_jitter(initial=0.2, max=config.max_wait_s),
        reraise=True,
    )
    return await retrying(attempt, *arguments)


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds to wait according to a Retry-After header (seconds or an HTTP date); None if it has neither form."""
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
