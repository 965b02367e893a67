"""Downloads and shrinks single posters; hosts, bytes and pixels are bounded, because responses may be hostile."""

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from mmgenre import ray_session
from mmgenre.enrich.body import Body, receive_body
from mmgenre.enrich.hosts import ForbiddenUrl, PrivateAddress
from mmgenre.enrich.http import CircuitBreaker, HttpClient, Request, ResponseTooLarge, RetryableError, with_retries
from mmgenre.enrich.rate_limit import ClusterPacer, get_rate_limiter
from mmgenre.posters.images import NotAnImage, Picture, TooManyPixels, reuse_memory, shrink
from mmgenre.tables.schema import PosterStatus

if TYPE_CHECKING:
    from mmgenre.posters.job import PostersConfig

_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)


class PosterRejected(Exception):  # noqa: N818 - a result rather than an error
    """The poster cannot be used, and another attempt would not change that."""

    def __init__(self, status: PosterStatus, detail: str):
        super().__init__(status, detail)
        self.status, self.detail = status, detail


class InvalidImage(RetryableError):  # noqa: N818 - named like the row status it leads to
    """The response is not an image; another attempt may return one."""


class PosterFetcher:
    """Fetches POSTERS rows.

    Args:
        config: the job's config.
    """

    def __init__(self, config: "PostersConfig"):
        self._config = config
        self._rules = config.host_rules()
        self._clients: dict[str, HttpClient] = {}
        self._breaker = CircuitBreaker("the image hosts", config.http.max_outage_s)
        self._budget = ByteBudget(config.bytes_in_flight)
        # Decoding would block the event loop.
        self._decoders = ThreadPoolExecutor(ray_session.assigned_cpus())
        reuse_memory()

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""
        return sum(client.num_requests for client in self._clients.values())

    @property
    def notices(self) -> tuple[str, ...]:
        """None: see RowFetcher."""
        return ()

    async def fetch(self, movie: dict[str, Any]) -> dict[str, Any]:
        """The row of a movie, given as a dict with `imdb_id` and `poster_url`.

        Raises:
            ServiceUnavailable: the host asks to wait for too long, or all hosts are down.
        """
        try:
            url = self._rules.check(movie["poster_url"])
            picture = await with_retries(self._config.http, self._attempt, url)
        except ForbiddenUrl as error:
            return movie | {"status": PosterStatus.FORBIDDEN, "detail": str(error)}
        except PosterRejected as rejected:
            return movie | {"status": rejected.status, "detail": rejected.detail}
        except InvalidImage as error:
            return movie | {"status": PosterStatus.NOT_AN_IMAGE, "detail": str(error)}
        except RetryableError as failure:
            if await self._breaker.may_retry(str(failure)):
                return await self.fetch(movie)
            return movie | {"status": PosterStatus.UNREACHABLE, "detail": str(failure)}
        self._breaker.record_success()
        return movie | {
            "status": PosterStatus.OK,
            "image": picture.jpeg,
            "width": picture.width,
            "height": picture.height,
            "sha256": hashlib.sha256(picture.jpeg).hexdigest(),
        }

    async def _attempt(self, url: URL) -> Picture:
        try:
            # The bytes count as in flight until the image is shrunk.
            async with AsyncExitStack() as held:
                body = await self._download(url, held)
                return await asyncio.get_running_loop().run_in_executor(self._decoders, self._shrink, body)
        except ResponseTooLarge:
            detail = f"more than {self._config.max_bytes:,} bytes"
            raise PosterRejected(PosterStatus.TOO_LARGE, detail) from None
        except TooManyPixels as error:
            raise PosterRejected(PosterStatus.TOO_LARGE, str(error)) from None
        except NotAnImage as error:
            raise InvalidImage(str(error)) from None

    def _shrink(self, body: Body) -> Picture:
        # Unpacked in the decoder threads, so that few unpacked bodies exist at once: the budget counts packed bytes.
        content = body.unpacked(self._config.max_bytes)
        return shrink(content, self._config.max_side, self._config.max_pixels)

    async def _download(self, url: URL, held: AsyncExitStack) -> Body:
        """The body at a URL, after redirects that the rules allow."""
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                result = await self._client(url).get(Request(url), functools.partial(self._read, held))
            except PrivateAddress as error:
                raise PosterRejected(PosterStatus.FORBIDDEN_TARGET, str(error.strerror)) from None
            if isinstance(result, Body):
                return result
            url = result
        raise RetryableError(f"more than {_MAX_REDIRECTS} redirects")

    async def _read(self, held: AsyncExitStack, response: aiohttp.ClientResponse) -> Body | URL:
        """The body, or the URL that a redirect leads to."""
        if response.status in _REDIRECTS:
            return self._redirect_target(response)
        if response.status in _GONE:
            raise PosterRejected(PosterStatus.NOT_FOUND, f"HTTP {response.status}")
        if response.status != 200:
            raise RetryableError(f"HTTP {response.status}")
        max_bytes = self._config.max_bytes
        await held.enter_async_context(self._budget.hold(min(response.content_length or max_bytes, max_bytes)))
        return await receive_body(response, max_bytes)

    def _redirect_target(self, response: aiohttp.ClientResponse) -> URL:
        try:
            target = response.url.join(URL(response.headers["Location"]))
        except (KeyError, ValueError):
            raise RetryableError("a redirect without a valid Location") from None
        try:
            return self._rules.check(str(target))
        except ForbiddenUrl as error:
            raise PosterRejected(PosterStatus.FORBIDDEN_TARGET, f"redirect: {error}") from None

    def _client(self, url: URL) -> HttpClient:
        """The connections to a URL's host."""
        host = str(url.host_port_subcomponent)
        if host not in self._clients:
            pacer = ClusterPacer(get_rate_limiter(), host, self._config.requests_per_second)
            self._clients[host] = HttpClient(pacer, self._config.http, self._rules.resolver())
        return self._clients[host]


class ByteBudget:
    """A limit on the bytes that a process holds at once; when it is used up, callers wait in line.

    Args:
        num_bytes: the limit.
    """

    def __init__(self, num_bytes: int):
        self._total = self._free = num_bytes
        self._line = asyncio.Lock()
        self._released = asyncio.Event()

    @asynccontextmanager
    async def hold(self, num_bytes: int) -> AsyncIterator[None]:
        """Hold bytes for the duration of the block, after waiting for them; never more than the whole budget."""
        num_bytes = min(num_bytes, self._total)
        # Only the first in line watches for released bytes, so that small callers do not overtake large ones.
        async with self._line:
            while self._free < num_bytes:
                self._released.clear()
                await self._released.wait()
            self._free -= num_bytes
        try:
            yield
        finally:
            self._free += num_bytes
            self._released.set()
