"""Fetches titles from web services: one ENRICHED row per title, whatever goes wrong."""

import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import aiohttp

from mmgenre.enrich.body import read_body
from mmgenre.enrich.http import (
    CircuitBreaker,
    HttpClient,
    HttpConfig,
    Pacer,
    QuotaUsedUp,
    Request,
    RetryableError,
    ServiceDown,
    ServiceUnavailable,
    T,
    with_retries,
)
from mmgenre.enrich.providers.source import Source, Title, UnreadableResponse
from mmgenre.enrich.rate_limit import ClusterPacer, get_rate_limiter
from mmgenre.errors import InputError
from mmgenre.tables.schema import EnrichStatus

# Columns that a fallback provider fills in when the first one leaves them empty.
_FILLABLE = ("plot", "language", "poster_url")
_MAX_RESPONSE_BYTES = 2_000_000


class TitleFetcher:
    """Fetches ENRICHED rows from one service, and from a second one where the first has gaps.

    When the second one serves no more titles, the first goes on: rows with gaps become `unreachable`, so that a later
    run asks for them again.

    Args:
        clients: of the services, in order.
    """

    def __init__(self, clients: Sequence["SourceClient"]):
        self._first, *self._fallbacks = clients
        self._unavailable: dict[str, str] = {}

    @classmethod
    def in_cluster(cls, sources: Sequence[Source], requests_per_second: float, http: HttpConfig) -> Self:
        """A fetcher in a Ray worker.

        Args:
            sources: the services, in order.
            requests_per_second: limit for each service, shared by all processes.
            http: timeouts, retries and concurrency.
        """

        def pacer(source: Source) -> ClusterPacer:
            return ClusterPacer(get_rate_limiter(), source.base_url.split("/")[2], requests_per_second)

        return cls([SourceClient(source, pacer(source), http) for source in sources])

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""
        return sum(client.num_requests for client in (self._first, *self._fallbacks))

    @property
    def notices(self) -> tuple[str, ...]:
        """Why fallback services no longer serve titles."""
        return tuple(self._unavailable.values())

    async def fetch(self, movie: dict[str, Any]) -> dict[str, Any]:
        """The ENRICHED row of a movie, given as a dict with `imdb_id`, `title`, `title_type` and `year`.

        Raises:
            ServiceUnavailable: the first service does not serve any title for now, or a key is refused.
        """
        title = Title(**movie)
        row = await self._first.fetch(title)
        for client in self._fallbacks:
            if row["status"] != EnrichStatus.UNREACHABLE and any(row.get(name) is None for name in _FILLABLE):
                row = fill_gaps(row, await self._fetch_from_fallback(client, title))
        return {"imdb_id": title.imdb_id} | row | {"fetched_at": datetime.now(UTC).replace(microsecond=0)}

    async def _fetch_from_fallback(self, client: "SourceClient", title: Title) -> dict[str, Any]:
        if client.kind not in self._unavailable:
            try:
                return await client.fetch(title)
            except (QuotaUsedUp, ServiceDown) as error:
                self._unavailable[client.kind] = str(error)
        return {
            "provider": client.kind,
            "status": EnrichStatus.UNREACHABLE,
            "detail": self._unavailable[client.kind],
        }


def fill_gaps(row: dict[str, Any], fallback: dict[str, Any]) -> dict[str, Any]:
    """The row, with its empty columns filled from the fallback provider's row of the same title.

    If the fallback provider was unreachable, the row keeps its values but becomes `unreachable`, so that the next run
    fetches it again.
    """
    if fallback["status"] == EnrichStatus.UNREACHABLE:
        detail = f"{fallback['provider']}: {fallback['detail']}"
        return row | {"status": EnrichStatus.UNREACHABLE, "detail": detail}
    if row["status"] in (EnrichStatus.NOT_FOUND, EnrichStatus.UNREADABLE):
        return fallback if fallback["status"] == EnrichStatus.OK else row
    filled = {name: fallback[name] for name in _FILLABLE if row.get(name) is None and fallback.get(name) is not None}
    if not filled:
        return row
    provider = f"{row['provider']}+{fallback['provider']}"
    return row | filled | {"provider": provider, "detail": f"{', '.join(filled)} from {fallback['provider']}"}


class SourceClient:
    """Fetches titles from one service.

    Args:
        source: builds the requests and parses the responses.
        pacer: decides when to send each request.
        http: timeouts, retries and concurrency.
    """

    def __init__(self, source: Source, pacer: Pacer, http: HttpConfig):
        self.kind = source.kind
        self._source = source
        self._config = http
        self._http = HttpClient(pacer, http)
        self._breaker = CircuitBreaker(source.base_url, http.max_outage_s)

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""
        return self._http.num_requests

    async def fetch(self, title: Title) -> dict[str, Any]:
        """Columns provider and status of a title, and those that the service knows; detail says why a request failed.

        Raises:
            ServiceUnavailable: the key is refused, the daily quota is used up, or the service is down.
        """
        provider = {"provider": self.kind}
        read = functools.partial(self._source.read, title)
        try:
            fields = await self._get(self._source.request(title.imdb_id), read)
        except UnreadableResponse as error:
            return provider | {"status": EnrichStatus.UNREADABLE, "detail": str(error)}
        except RetryableError as failure:
            if await self._breaker.may_retry(str(failure)):
                return await self.fetch(title)
            return provider | {"status": EnrichStatus.UNREACHABLE, "detail": str(failure)}
        self._breaker.record_success()
        if fields is None:
            return provider | {"status": EnrichStatus.NOT_FOUND}
        return provider | {"status": EnrichStatus.OK} | fields

    async def check(self) -> None:
        """Send one request to check that the service responds and accepts the key.

        Raises:
            QuotaUsedUp: it serves no more titles today.
            InputError: it does not respond, or refuses the key.
        """
        probe = self._source.probe()
        try:
            await self._get(probe, self._source.check)
        except QuotaUsedUp:
            raise
        except ServiceUnavailable as error:
            raise InputError(str(error)) from None
        except RetryableError as failure:
            raise InputError(
                f"{probe.url}: no response ({failure}); check base_url and the network connection"
            ) from None
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def _get(self, request: Request, parse: Callable[[int, bytes], T]) -> T:
        """`parse(status, body)` of the response."""

        async def read(response: aiohttp.ClientResponse) -> T:
            return parse(response.status, await read_body(response, _MAX_RESPONSE_BYTES))

        return await with_retries(self._config, self._http.get, request, read)
