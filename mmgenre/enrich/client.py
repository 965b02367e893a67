"""Fetches titles from web services: one ENRICHED row per title, whatever goes wrong."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp

from mmgenre.enrich.http import (
    CircuitBreaker,
    HttpClient,
    HttpConfig,
    Pacer,
    Request,
    RetryableError,
    ServiceUnavailable,
    T,
    read_body,
    with_retries,
)
from mmgenre.enrich.providers.source import Source
from mmgenre.enrich.rate_limit import ClusterPacer, get_rate_limiter
from mmgenre.errors import InputError
from mmgenre.tables.schema import EnrichStatus

# Columns that a fallback provider fills in when the first one leaves them empty.
_FILLABLE = ("plot", "language", "poster_url")
_MAX_RESPONSE_BYTES = 2_000_000


class TitleFetcher:
    """Fetches ENRICHED rows from one service, and from a second one where the first has gaps.

    Args:
        sources: the services, in order.
        requests_per_second: limit for each service, shared by all processes.
        http: timeouts, retries and concurrency.
    """

    def __init__(self, sources: list[Source], requests_per_second: float, http: HttpConfig):
        def pacer(source: Source) -> ClusterPacer:
            return ClusterPacer(get_rate_limiter(), source.base_url.split("/")[2], requests_per_second)

        self._clients = [SourceClient(source, pacer(source), http) for source in sources]

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""
        return sum(client.num_requests for client in self._clients)

    async def fetch(self, movie: dict[str, Any]) -> dict[str, Any]:
        """The ENRICHED row of a movie, given as a dict with `imdb_id`.

        Raises:
            ServiceUnavailable: a service does not serve any title for now.
        """
        first, *fallbacks = self._clients
        row = await first.fetch(movie["imdb_id"])
        for client in fallbacks:
            if row["status"] != EnrichStatus.UNREACHABLE and any(row.get(name) is None for name in _FILLABLE):
                row = fill_gaps(row, await client.fetch(movie["imdb_id"]))
        return movie | row | {"fetched_at": datetime.now(UTC).replace(microsecond=0)}


def fill_gaps(row: dict[str, Any], fallback: dict[str, Any]) -> dict[str, Any]:
    """The row, with its empty columns filled from the fallback provider's row of the same title.

    If the fallback provider was unreachable, the row keeps its values but becomes `unreachable`, so that the next run
    fetches it again.
    """
    if fallback["status"] == EnrichStatus.UNREACHABLE:
        detail = f"{fallback['provider']}: {fallback['detail']}"
        return row | {"status": EnrichStatus.UNREACHABLE, "detail": detail}
    if row["status"] == EnrichStatus.NOT_FOUND:
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
        self._source = source
        self._config = http
        self._http = HttpClient(pacer, http)
        self._breaker = CircuitBreaker(source.base_url)

    @property
    def num_requests(self) -> int:
        """Requests sent so far."""
        return self._http.num_requests

    async def fetch(self, imdb_id: str) -> dict[str, Any]:
        """Columns provider and status of a title, and those that the service knows; detail says why a request failed.

        Raises:
            ServiceUnavailable: the key is refused, the daily quota is used up, or the service is down.
        """
        provider = {"provider": self._source.kind}
        try:
            fields = await self._get(self._source.request(imdb_id), self._source.read)
        except RetryableError as failure:
            self._breaker.record_failure(str(failure))
            return provider | {"status": EnrichStatus.UNREACHABLE, "detail": str(failure)}
        self._breaker.record_success()
        if fields is None:
            return provider | {"status": EnrichStatus.NOT_FOUND}
        return provider | {"status": EnrichStatus.OK} | fields

    async def check(self) -> None:
        """Send one request to check that the service responds and accepts the key.

        Raises:
            InputError: it does not.
        """
        probe = self._source.probe()
        try:
            await self._get(probe, self._source.check)
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
