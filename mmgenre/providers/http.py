"""Asking a provider over HTTP: bounded retries, a pace that others set, and failures as answers."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import aiohttp
from pydantic import Field
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.providers.tmdb import Request, Tmdb
from mmgenre.schema import EnrichStatus

_MAX_BODY = 2_000_000
Fields = dict[str, Any] | None


class HttpConfig(Config):
    """Patience with a web service."""

    timeout_s: float = Field(20, gt=0, description="seconds for one request, answer included")
    attempts: int = Field(5, ge=1, description="requests for one title before it counts as unreachable")
    max_wait_s: float = Field(30, gt=0, description="longest pause between two attempts, in seconds")
    in_flight: int = Field(32, ge=1, description="requests of one actor under way at once")


class Pace(Protocol):
    """Says when the next request may go out."""

    async def wait(self) -> None:
        """Return when it is this request's turn."""

    async def pause(self, seconds: float) -> None:
        """The server wants quiet: hold back everybody's requests."""


@dataclass(frozen=True)
class _Refused(Exception):  # noqa: N818 - not an error yet: another attempt may do
    """An attempt that may succeed later."""

    reason: str


class Client:
    """Fetches titles from one provider.

    Args:
        provider: what to ask, and what the answer says.
        pace: when to ask.
        config: how often and how long.
    """

    def __init__(self, provider: Tmdb, pace: Pace, config: HttpConfig):
        self._provider = provider
        self._pace = pace
        self._config = config
        self._slots = asyncio.Semaphore(config.in_flight)
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, imdb_id: str) -> dict[str, Any]:
        """Columns of the title's row: what the provider knows, a status, a detail where something is wrong.

        Raises:
            InputError: the provider does not accept the key.
        """
        async with self._slots:
            try:
                found = await self._ask_patiently(self._provider.request(imdb_id))
            except _Refused as refusal:
                return {"status": EnrichStatus.UNREACHABLE, "detail": refusal.reason}
        return {"status": EnrichStatus.NOT_FOUND} if found is None else {"status": EnrichStatus.OK, **found}

    async def check(self) -> None:
        """Find out with one request whether the service answers and takes the key.

        Raises:
            InputError: it does not.
        """
        try:
            await self._ask_patiently(self._provider.probe())
        except _Refused as refusal:
            where = self._provider.probe().url
            raise InputError(
                f"{where}: no answer ({refusal.reason}); check provider.base_url and the network"
            ) from None

    async def close(self) -> None:
        """End the connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask_patiently(self, request: Request) -> Fields:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Refused),
            stop=stop_after_attempt(self._config.attempts),
            wait=wait_exponential_jitter(initial=0.2, max=self._config.max_wait_s),
            reraise=True,
        )
        return await retrying(self._ask, request)

    async def _ask(self, request: Request) -> Fields:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._config.timeout_s)
            self._session = aiohttp.ClientSession(timeout=timeout)
        await self._pace.wait()
        try:
            async with self._session.get(request.url, params=request.params, headers=request.headers) as response:
                if response.status == 429:
                    await self._pace.pause(retry_after(response.headers.get("Retry-After"), datetime.now(UTC)))
                return self._read(response.status, await _body(response))
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            # Only the kind of error: its text may hold the address, and the address the key.
            raise _Refused(type(error).__name__) from None

    def _read(self, status: int, body: bytes) -> Fields:
        if status in (401, 403):
            raise InputError(f"the provider refused the key (HTTP {status}); check TMDB_TOKEN or TMDB_API_KEY")
        if status == 404:
            return None
        if status != 200:
            raise _Refused(f"HTTP {status}")
        try:
            return self._provider.parse(json.loads(body))
        except ValueError as error:
            reason = "the answer is not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            raise _Refused(reason) from None


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_BODY:
            raise _Refused("the answer is too long")
    return bytes(body)


def retry_after(header: str | None, now: datetime) -> float:
    """Seconds that a Retry-After header asks for, whether it says seconds or a date; 1 when it says neither."""
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header or "") - now).total_seconds())
    except (ValueError, TypeError):
        return 1.0
